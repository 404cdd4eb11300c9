//! Whatever cannot go well is refused in one clear sentence with the documented exit code, and
//! nothing is lost by it.

use std::fs;
use std::path::Path;

use landfall_tests::cluster::{Auth, Cluster};
use landfall_tests::fleet::{DB, Fleet, SOON};
use landfall_tests::wait::wait_until;
use serde_json::Value as Json;

use crate::support::{
    Edited, OPERATOR, UNMET, UNREACHABLE, USAGE, assert_quiet, config, fleet_file, launch, refused,
    stop, value, wait, wait_for_status,
};

const A: &str = "ship-a";
const B: &str = "ship-b";
const SCHEMA: &str = "CREATE TABLE bed (id int PRIMARY KEY, patient text)";

#[test]
fn files_are_checked_before_anything_starts() {
    let mut fleet =
        Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).later(A).unsynced().start();
    let (own, members) = (config(&fleet, A), fleet_file(&fleet, A));
    let key = own.with_file_name("member.key");
    let wrong = |path: &Path, from: &str, to: &str, parts: &[&str]| {
        let _edited = Edited::new(path, from, to);
        for words in [&["run"], &["init"], &["check"]] {
            refused(&fleet, A, words, USAGE, parts);
        }
    };
    wrong(&own, "keep_alive_s", "keep_alive_sec", &["config.toml", "keep_alive_sec", "link"]);
    wrong(&own, "data_dir", "data_dri", &["config.toml", "data_dri"]);
    wrong(&own, "keep_alive_s = 1", "keep_alive_s = -1", &["config.toml", "keep_alive_s"]);
    wrong(&own, "name = \"ship-a\"", "name = \"ship-z\"", &["ship-z", "fleet.toml"]);
    wrong(&own, "dial = [\"ship-b\"]", "dial = [\"ship-z\"]", &["link.dial", "ship-z"]);
    wrong(&own, "\"fleet.toml\"", "\"flete.toml\"", &["flete.toml"]);
    wrong(&own, "user=postgres", "", &["config.toml", "postgres", "user"]);
    wrong(&members, "tables", "tabels", &["fleet.toml", "tabels"]);
    wrong(&members, "public.bed", "bed", &["fleet.toml", "bed"]);
    wrong(&members, "id = 2", "id = 1", &["fleet.toml"]);
    wrong(&members, "role = \"site\"", "role = \"ship\"", &["fleet.toml", "role"]);
    wrong(&members, "version = 1", "version =", &["fleet.toml"]);

    let other_key = fleet_file(&fleet, B).with_file_name("member.key");
    let other_key = fs::read_to_string(other_key).expect("the other's key");
    let own_key = fs::read_to_string(&key).expect("key");
    {
        let _edited = Edited::new(&key, &own_key, &other_key);
        refused(&fleet, A, &["run"], USAGE, &["ship-a", "public key", "fleet.toml"]);
        refused(&fleet, A, &["init"], USAGE, &["ship-a", "public key", "fleet.toml"]);
    }
    {
        let _edited = Edited::new(&own, "member.key", "no.key");
        refused(&fleet, A, &["run"], USAGE, &["no.key", "keygen"]);
    }
    {
        let _edited = Edited::new(&key, "landfall-secret-key:", "");
        let told = refused(&fleet, A, &["run"], USAGE, &["member.key"]);
        assert!(!told.contains(own_key.trim().trim_start_matches("landfall-secret-key:")));
    }
    refused(&fleet, A, &["run"], USAGE, &["data", "init"]);
    refused(&fleet, A, &["status"], UNREACHABLE, &["no daemon is running"]);
    let words = ["wait", "--for", "delivered", "--timeout", "1"];
    refused(&fleet, A, &words, UNREACHABLE, &["no daemon is running"]);

    fleet.sql(A, "INSERT INTO bed VALUES (1, 'a')");
    fleet.sql(A, "DELETE FROM bed");
    fleet.join(A);
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'a')");
    fleet.sql(B, "INSERT INTO bed VALUES (2, 'b')");
    assert_eq!(fleet.converge(), 2);
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn a_database_that_cannot_be_used_is_refused_with_the_reason() {
    let fleet = Fleet::new(SCHEMA, &["public.bed"])
        .site(A)
        .site(B)
        .link(A, B)
        .all_later()
        .unsynced()
        .start();
    let own = config(&fleet, A);
    let a = fleet.member(A).cluster();
    let with = |from: &str, to: &str, code: i32, parts: &[&str]| {
        let _edited = Edited::new(&own, from, to);
        refused(&fleet, A, &["init"], code, parts);
        refused(&fleet, A, &["check"], code, parts);
    };
    with("user=postgres", "user=nobody_here", UNREACHABLE, &["nobody_here", "does not exist"]);
    with("dbname=ward", "dbname=other", UNREACHABLE, &["no database \"other\""]);
    with(&format!("port={}", a.port()), "port=1", UNREACHABLE, &["cannot reach PostgreSQL"]);

    let locked = Cluster::options("locked").auth(Auth::Scram).start().expect("start");
    locked.create_db(DB);
    let conninfo = a.socket_conninfo(DB);
    with(
        &conninfo,
        &locked.conninfo(DB).replace("landfall-tests", "wrong"),
        UNREACHABLE,
        &["password"],
    );
    with(
        &conninfo,
        locked.conninfo(DB).split(" password").next().expect("one"),
        UNREACHABLE,
        &["password"],
    );
    drop(locked);

    let init = |parts: &[&str]| refused(&fleet, A, &["init"], OPERATOR, parts);
    fleet.sql(A, "ALTER TABLE bed RENAME TO sofa");
    init(&["table public.bed of the fleet file is not in this database", "create it"]);
    fleet.sql(A, "ALTER TABLE sofa RENAME TO bed; ALTER TABLE bed DROP CONSTRAINT bed_pkey");
    init(&["table public.bed has no primary key", "run ALTER TABLE", "PRIMARY KEY"]);
    fleet.sql(A, "ALTER TABLE bed ADD PRIMARY KEY (id)");
    a.configure(&[("wal_level", "replica")]);
    a.restart();
    init(&["wal_level is replica", "restart PostgreSQL"]);
    a.configure(&[("wal_level", "logical")]);
    a.restart();
    assert_eq!(value(&fleet, A, "SELECT count(*) FROM pg_replication_slots"), "0");

    fleet.member(A).init().expect("init");
    // Somebody points the other member's file at this database.
    let theirs = fleet.member(B).cluster().socket_conninfo(DB);
    let _edited = Edited::new(&config(&fleet, B), &theirs, &conninfo);
    refused(
        &fleet,
        B,
        &["init"],
        OPERATOR,
        &["prepared for member \"ship-a\", not for \"ship-b\""],
    );
}

#[test]
fn a_store_only_runs_for_its_member_with_its_database() {
    let mut fleet =
        Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'a')");
    fleet.converge();
    let own = config(&fleet, A);
    refused(&fleet, A, &["run"], OPERATOR, &["in use by another process"]);
    wait(&fleet, A, "converged");
    stop(&fleet, A);
    fleet.sql(A, "INSERT INTO bed VALUES (2, 'written while the daemon is down')");

    // The other member's store, and none at all.
    stop(&fleet, B);
    {
        let theirs = fleet.member(B).data_dir();
        let other = format!("data_dir = {:?}", theirs.display().to_string());
        let _edited = Edited::new(&own, "data_dir = \"data\"", &other);
        refused(&fleet, A, &["run"], OPERATOR, &["made for member 2", "member 1", "data_dir"]);
    }
    launch(&mut fleet, B);
    {
        let _edited = Edited::new(&own, "data_dir = \"data\"", "data_dir = \"lost\"");
        refused(&fleet, A, &["run"], USAGE, &["does not exist", "run init", "data_dir"]);
        refused(
            &fleet,
            A,
            &["init"],
            OPERATOR,
            &["captured from this database before", "data_dir"],
        );
    }
    {
        let _edited = Edited::new(&own, "[link]", "slot = \"other\"\n[link]");
        refused(&fleet, A, &["run"], OPERATOR, &["slot \"landfall_ship_a\"", "slot \"other\""]);
    }
    // Another cluster, and another database of the same one. The daemon stays up to tell.
    let conninfo = fleet.member(A).cluster().socket_conninfo(DB);
    let other = fleet.member(B).cluster().socket_conninfo(DB);
    fleet.member(A).cluster().create_db("attic");
    for other in [other, conninfo.replace("dbname=ward", "dbname=attic")] {
        let _edited = Edited::new(&own, &conninfo, &other);
        launch(&mut fleet, A);
        let told = "this store was made for database";
        wait_for_status(&fleet, A, "/why", told);
        let words = ["wait", "--for", "delivered", "--timeout", "30"];
        refused(&fleet, A, &words, OPERATOR, &["stands still", told, "conninfo"]);
        stop(&fleet, A);
    }
    launch(&mut fleet, A);
    fleet.sql(B, "INSERT INTO bed VALUES (3, 'b')");
    assert_eq!(fleet.converge(), 3);
    assert_quiet(&fleet, &[A, B], &[]);
}

/// The link of `member` with the other of the two.
fn peer_of(fleet: &Fleet, member: &str) -> Result<Json, String> {
    let status = fleet.member(member).status().map_err(|error| format!("{error:#}"))?;
    let other = if member == A { B } else { A };
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    peers.into_iter().find(|peer| peer["name"] == other).ok_or(format!("no {other} in {status:#}"))
}

/// Waits until `member` calls the link refused and says so in its status, in both forms.
#[track_caller]
fn wait_for_refusal(fleet: &Fleet, member: &str, cause: &str) {
    wait_until(&format!("{member} to tell {cause:?}"), SOON, || {
        let peer = peer_of(fleet, member)?;
        let told = peer["cause"].as_str().unwrap_or_default();
        if peer["state"] == "refused" && told.contains(cause) {
            Ok(())
        } else {
            Err(peer.to_string())
        }
    });
    // It calls again meanwhile, and says so.
    wait_until(&format!("{member} to print {cause:?}"), SOON, || {
        let text = fleet.member(member).command(&["status"]).run(SOON).expect("run").success();
        let is_told = text.contains(": refused: ") && text.contains(cause);
        if is_told { Ok(()) } else { Err(text) }
    });
}

#[test]
fn members_that_do_not_fit_together_refuse_the_link_and_lose_nothing() {
    let mut fleet =
        Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    fleet.sql(A, "INSERT INTO bed VALUES (0, 'both')");
    fleet.converge();
    let key_of = |name: &str| -> String {
        let text = fs::read_to_string(fleet_file(&fleet, A)).expect("read");
        let entry =
            text.split("[[member]]").find(|entry| entry.contains(&format!("name = \"{name}\"")));
        let key = entry.expect("entry").lines().find(|line| line.starts_with("key")).expect("key");
        key.split('"').nth(1).expect("quoted").to_owned()
    };
    let (key_a, key_b) = (key_of(A), key_of(B));
    let stray = "427a1978aabd0469dec1b6abd1317edbf040f20b076cd350b5461648459f1281".to_owned();
    let entry_a = format!(
        "[[member]]\nid = 1\nname = \"ship-a\"\nkey = \"{key_a}\"\naddresses = []\nrole = \"site\"\n"
    );
    struct Misfit {
        /// Whose fleet file is wrong.
        at: &'static str,
        edit: (String, String),
        /// What each of the two says, if it can know.
        causes: &'static [(&'static str, &'static str)],
    }
    let misfits = [
        Misfit {
            at: A,
            edit: (key_b.clone(), stray.clone()),
            causes: &[(A, "presented a key that is not the one pinned for ship-b")],
        },
        Misfit {
            at: B,
            edit: (key_a.clone(), stray.clone()),
            causes: &[(A, "refused our key: it is not pinned there")],
        },
        Misfit {
            at: B,
            edit: (entry_a, String::new()),
            causes: &[(A, "refused our key: it is not pinned there")],
        },
        Misfit {
            at: B,
            edit: ("[[set]]\nid = 1".to_owned(), "[[set]]\nid = 2".to_owned()),
            causes: &[(A, "fleet files differ in sets"), (B, "fleet files differ in sets")],
        },
    ];
    for (turn, misfit) in (1..).zip(misfits) {
        stop(&fleet, misfit.at);
        let (from, to) = misfit.edit;
        let edited = Edited::new(&fleet_file(&fleet, misfit.at), &from, &to);
        launch(&mut fleet, misfit.at);
        for (member, cause) in misfit.causes {
            wait_for_refusal(&fleet, member, cause);
        }
        for (place, site) in [A, B].iter().enumerate() {
            fleet.sql(site, &format!("INSERT INTO bed VALUES ({turn} * 10 + {place}, '{site}')"));
        }
        if turn == 1 {
            let words = ["wait", "--for", "delivered", "--timeout", "1"];
            let cause = misfit.causes[0].1;
            refused(&fleet, A, &words, UNMET, &["not reached within 1 s", "ship-b", cause]);
        }
        drop(edited);
        stop(&fleet, misfit.at);
        launch(&mut fleet, misfit.at);
        assert_eq!(fleet.converge(), 1 + 2 * turn);
    }
    assert_quiet(&fleet, &[A, B], &["link refused", "refused a call"]);
}

#[test]
fn a_slot_or_publication_that_is_gone_stops_the_site_with_a_reason() {
    let mut fleet =
        Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'a')");
    fleet.converge();
    stop(&fleet, A);
    fleet.sql(A, "DROP PUBLICATION landfall");
    launch(&mut fleet, A);
    wait_for_status(&fleet, A, "/why", "publication \"landfall\" is missing");
    let words = ["wait", "--for", "delivered", "--timeout", "30"];
    refused(
        &fleet,
        A,
        &words,
        OPERATOR,
        &["publication \"landfall\" is missing", "landfall-node check"],
    );
    stop(&fleet, A);
    // What was written meanwhile could not be decoded: whether nothing was, only a person knows.
    refused(&fleet, A, &["init"], OPERATOR, &["publication \"landfall\" is missing, but slot"]);
    fleet.sql(
        A,
        "CREATE PUBLICATION landfall FOR TABLE bed WITH (publish = 'insert, update, delete', publish_via_partition_root = true)",
    );
    launch(&mut fleet, A);
    fleet.sql(A, "INSERT INTO bed VALUES (2, 'a')");
    assert_eq!(fleet.converge(), 2);

    stop(&fleet, A);
    fleet.sql(A, "INSERT INTO bed VALUES (3, 'never captured')");
    fleet.sql(A, "SELECT pg_drop_replication_slot('landfall_ship_a')");
    launch(&mut fleet, A);
    wait_for_status(&fleet, A, "/why", "replication slot \"landfall_ship_a\" is missing");
    refused(&fleet, A, &words, OPERATOR, &["slot \"landfall_ship_a\" is missing", "operations.md"]);
    refused(&fleet, A, &["init"], OPERATOR, &["was in use and is gone", "would skip every change"]);
    let check = fleet.member(A).command(&["check"]).run(SOON).expect("run");
    assert_eq!(check.status.code(), Some(UNMET));
    assert!(check.stdout.contains("slot \"landfall_ship_a\" is missing"), "{}", check.stdout);
    assert_eq!(value(&fleet, A, "SELECT count(*) FROM bed"), "3");
    assert_eq!(value(&fleet, B, "SELECT count(*) FROM bed"), "2");
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn changes_that_no_publication_covered_stop_capture_for_good() {
    let fleet = Fleet::new(SCHEMA, &["public.bed"]).site(A).site(B).link(A, B).unsynced().start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'a')");
    fleet.converge();
    fleet.sql(A, "DROP PUBLICATION landfall; INSERT INTO bed VALUES (2, 'cannot be decoded')");
    let told = "publication \"landfall\" was missing while replicated tables were written";
    wait_for_status(&fleet, A, "/why", told);
    // Local writers go on, and so do the changes of others as far as they can be decided.
    fleet.sql(A, "INSERT INTO bed VALUES (3, 'a')");
    let words = ["wait", "--for", "delivered", "--timeout", "30"];
    refused(&fleet, A, &words, OPERATOR, &["stands still", "publication \"landfall\""]);
    let status = fleet.member(B).status().expect("status");
    assert_eq!(status["state"], "running", "{status:#}");
    assert_quiet(&fleet, &[A, B], &[]);
}

#[test]
fn changes_for_a_table_that_is_gone_are_set_aside_and_the_rest_goes_on() {
    let schema = "CREATE TABLE bed (id int PRIMARY KEY, patient text); \
        CREATE TABLE other (id int PRIMARY KEY)";
    let fleet = Fleet::new(schema, &["public.bed", "public.other"])
        .site(A)
        .site(B)
        .link(A, B)
        .unsynced()
        .start();
    fleet.sql(A, "INSERT INTO bed VALUES (1, 'a')");
    fleet.converge();
    fleet.sql(A, "DROP TABLE other");
    fleet.sql(B, "INSERT INTO other VALUES (1)");
    fleet.sql(B, "INSERT INTO bed VALUES (2, 'b')");
    let beds = |site: &str| value(&fleet, site, "SELECT count(*) FROM bed");
    wait_until("the change of the other table", SOON, || match beds(A).as_str() {
        "2" => Ok(()),
        _ => Err(format!("{:#}", fleet.member(A).status().expect("status"))),
    });
    let parked = "SELECT table_name, advice <> '' FROM landfall.parked";
    let line = ["public.other", "t"].map(|text| Some(text.to_owned()));
    assert_eq!(fleet.rows(A, parked), [line]);
    fleet.sql(A, "CREATE TABLE other (id int PRIMARY KEY)");
    fleet.member(A).init().expect("init");
    fleet.sql(A, "INSERT INTO other VALUES (2)");
    fleet.sql(B, "INSERT INTO other VALUES (3)");
    for (site, rows) in [(A, "1,2,3"), (B, "1,2,3")] {
        wait_until("rows of the new table", SOON, || {
            let sql = "SELECT string_agg(id::text, ',' ORDER BY id) FROM other";
            let found = value(&fleet, site, sql);
            if found == rows { Ok(()) } else { Err(format!("{site} has {found}")) }
        });
    }
    fleet.converge();
    assert_quiet(&fleet, &[A, B], &["PostgreSQL refuses a transaction"]);
}
