use std::fs;

use super::*;
use crate::time::calendar::Window;

const FLEET: &str = include_str!("../../../packaging/config/fleet.toml");
const NODE: &str = include_str!("../../../packaging/config/node.toml");
const HUB: &str = include_str!("../../../packaging/config/hub.toml");

/// The files of examples/two-ships.
mod example {
    pub(super) const FLEET: &str = include_str!("../../../examples/two-ships/fleet.toml");
    pub(super) const SHIPS: [&str; 2] = [
        include_str!("../../../examples/two-ships/ship-a.toml"),
        include_str!("../../../examples/two-ships/ship-b.toml"),
    ];
    pub(super) const HUB: &str = include_str!("../../../examples/two-ships/shore.toml");
    pub(super) const HUB_MEMBER: &str =
        include_str!("../../../examples/two-ships/shore-member.toml");
}

fn write_and_load(
    program: Program,
    daemon: &str,
    fleet: &str,
) -> Result<(DaemonConfig, Fleet), ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("fleet.toml"), fleet).unwrap();
    let file = dir.path().join("daemon.toml");
    fs::write(&file, daemon).unwrap();
    let loaded = load(&file, program);
    // Paths differ from run to run; what is compared must not.
    loaded.map(|(mut config, fleet)| {
        for path in [&mut config.file, &mut config.fleet_file, &mut config.key_file] {
            *path = path.file_name().unwrap().into();
        }
        (config, fleet)
    })
}

/// A file in which every left-out setting is written out.
fn written_out(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
            setting.to_owned()
        }
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn reference_files_show_the_defaults() {
    for (program, text) in [(Program::Node, NODE), (Program::Hub, HUB)] {
        let (config, fleet) = write_and_load(program, text, FLEET).unwrap();
        let (mut full, full_fleet) =
            write_and_load(program, &written_out(text), &written_out(FLEET)).unwrap();
        assert_eq!(fleet, full_fleet);
        // These have no default to show.
        let postgres = full.postgres.as_mut().unwrap();
        assert!(postgres.ssl_root_cert.take().unwrap().ends_with("postgres-ca.pem"));
        assert!(full.limits.store_bytes_max.take().is_some());
        assert!(full.metrics_listen.take().is_some());
        assert_eq!(full.link.rate.take(), Some(64_000));
        assert!(full.link.round_trip.take().is_some());
        let (_, policy) = full.link.peers.pop_first().unwrap();
        let call_every = Duration::from_secs(3_600);
        let hang_up = Some(HangUp { call_every, news: News::Calls });
        let windows = vec![Window::parse("22:00-06:00").unwrap()];
        let price = Price { millionths_per_mb: 4_500_000, currency: "USD".into() };
        assert_eq!(
            policy,
            PeerPolicy { budget: Some(50_000_000), price: Some(price), windows, hang_up }
        );
        assert_eq!(config, full);
    }
}

#[test]
fn the_example_is_a_fleet_before_and_after_the_hub_joins() {
    let joined = format!("{}{}", example::FLEET, example::HUB_MEMBER);
    for (fleet, others) in [(example::FLEET, 1), (joined.as_str(), 2)] {
        for ship in example::SHIPS {
            let (config, _) = write_and_load(Program::Node, ship, fleet).unwrap();
            assert_eq!(config.link.dial.len(), others);
        }
    }
    let (hub, _) = write_and_load(Program::Hub, example::HUB, &joined).unwrap();
    assert_eq!(hub.postgres, None);
}

#[test]
fn a_hub_needs_no_postgres() {
    let (before, rest) = HUB.split_once("[postgres]").unwrap();
    let (_, after) = rest.split_once("[link]").unwrap();
    let (config, _) =
        write_and_load(Program::Hub, &format!("{before}[link]{after}"), FLEET).unwrap();
    assert_eq!(config.postgres, None);
}

#[test]
fn defaults_follow_from_the_member() {
    let (config, fleet) = write_and_load(Program::Node, NODE, FLEET).unwrap();
    assert_eq!(config.name, "ship-a");
    assert_eq!(config.site.number(), 2);
    assert_eq!(config.link.dial, [fleet.member_named("shore").unwrap().site]);
    assert_eq!(config.link.keep_alive, None);
    assert_eq!((config.link.rate, config.link.round_trip), (None, None));
    assert_eq!(config.admin_socket(), Path::new("/var/lib/landfall/node/admin.sock"));
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.slot, "landfall_ship_a");
    assert!(!format!("{postgres:?}").contains("host="));
}

/// What `load` says when `from` is replaced by `to` in the node's file.
fn node_error(from: &str, to: &str) -> String {
    assert!(NODE.contains(from), "{from:?} is not in the reference file");
    write_and_load(Program::Node, &NODE.replace(from, to), FLEET).expect_err(to).to_string()
}

#[test]
fn mistakes_in_a_node_file_are_named() {
    let line = |part: &str| 1 + NODE.lines().position(|line| line.contains(part)).unwrap();
    let cases = [
        // Read, but not understood: with the line.
        ("data_dir", "data_dri", format!(":{}: data_dri: unknown field", line("data_dir ="))),
        ("#dial", "dail", format!(":{}: link.dail: unknown field", line("#dial"))),
        ("#keep_alive_s = 0", "keep_alive_s = \"1\"", ": link.keep_alive_s: invalid type".into()),
        ("#keep_alive_s = 0", "keep_alive_s = -1", ": link.keep_alive_s: invalid value".into()),
        ("[link]", "[link", format!(":{}: ", line("[link]"))),
        ("name = \"ship-a\"\n", "", ": missing field `name`".into()),
        ("conninfo =", "slot =", ": postgres: missing field `conninfo`".into()),
        ("[log]", "[log]\nlevel = \"info\"\nlevel = \"warn\"", ": duplicate key".into()),
        // Understood, but wrong.
        ("\"ship-a\"", "\"ship-x\"", ": name: \"ship-x\" is not a member in ".into()),
        ("\"ship-a\"", "\"shore\"", ": name: \"shore\" has role \"hub\" in ".into()),
        ("\"/var/lib/landfall/node\"", "\" \"", ": data_dir: must not be empty".into()),
        ("landfall/node\"", &format!("{}\"", "x".repeat(99)), ": data_dir: /var/lib/".into()),
        ("0.0.0.0:7400", "localhost", ": listen: must be an IP address and port".into()),
        ("#slot = \"landfall_ship_a\"", "slot = \"A\"", ": postgres.slot: must have".into()),
        ("#publication = \"landfall\"", "publication = \"\"", ": postgres.publication: ".into()),
        ("#rate_kbit = 512", "rate_kbit = 0", ": link.rate_kbit: ".into()),
        ("#round_trip_ms = 600", "round_trip_ms = 70000", ": link.round_trip_ms: ".into()),
        ("#reconnect_min_ms = 500", "reconnect_min_ms = 1", ": link.reconnect_min_ms: ".into()),
        ("#reconnect_max_ms = 60000", "reconnect_max_ms = 99", ": link.reconnect_max_ms: ".into()),
        ("#dial = [\"shore\"]", "dial = [\"x\"]", ": link.dial[0]: \"x\" is not a member".into()),
        ("#dial = [\"shore\"]", "dial = [\"ship-b\"]", ": link.dial[0]: \"ship-b\" has no".into()),
        ("#dial = [\"shore\"]", "dial = [\"ship-a\"]", ": link.dial[0]: \"ship-a\" is this".into()),
        ("#dial = [\"shore\"]", "dial = [\"shore\", \"shore\"]", ": link.dial[1]: ".into()),
        ("#unit_bytes_max = 1048576", "unit_bytes_max = 1", ": limits.unit_bytes_max: ".into()),
        ("#group_changes_max = 1000", "group_changes_max = 0", ": limits.group_changes".into()),
        ("#transaction_bytes_max = 2097152", "transaction_bytes_max = 1", ": limits.trans".into()),
        ("#drift_ms_max = 300000", "drift_ms_max = 0", ": limits.drift_ms_max: must be".into()),
        ("#store_bytes_max = 10737418240", "store_bytes_max = 1", ": limits.store_bytes".into()),
        ("#level = \"info\"", "level = \"loud\"", ": log.level: must be".into()),
        ("#format = \"text\"", "format = \"xml\"", ": log.format: must be".into()),
    ];
    for (from, to, expected) in cases {
        let error = node_error(from, to);
        assert!(error.contains(&expected), "{error}");
        assert!(error.contains("daemon.toml"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let without_postgres = NODE.split("[postgres]").next().unwrap();
    let error = write_and_load(Program::Node, without_postgres, FLEET).unwrap_err().to_string();
    assert!(error.ends_with("daemon.toml: postgres: section is missing"), "{error}");
}

#[test]
fn mistakes_about_peers_are_named() {
    for (section, expected) in [
        ("name = \"x\"", ": peer[0].name: \"x\" is not a member in "),
        ("name = \"ship-a\"", ": peer[0].name: \"ship-a\" is this member itself"),
        ("name = \"shore\"\n[[peer]]\nname = \"shore\"", ": peer[1].name: \"shore\" has a section"),
        ("budget_bytes_per_month = 1", ": peer[0]: missing field `name`"),
        ("name = \"shore\"\nbudget = 1", ": peer[0].budget: unknown field"),
        (
            "name = \"shore\"\nbudget_bytes_per_month = 0",
            ": peer[0].budget_bytes_per_month: must be from 1 to ",
        ),
        ("name = \"shore\"\nprice_per_mb = -1", ": peer[0].price_per_mb: must be from 0 to "),
        ("name = \"shore\"\nprice_per_mb = nan", ": peer[0].price_per_mb: must be from 0 to "),
        ("name = \"shore\"\ncall_every_s = 60", ": peer[0].call_every_s: means nothing without"),
        ("name = \"shore\"\ncall_for_news = false", ": peer[0].call_for_news: means nothing"),
        (
            "name = \"shore\"\nhang_up_when_drained = true\ncall_every_s = 59",
            ": peer[0].call_every_s: must be from 60 to ",
        ),
        ("name = \"shore\"\nwindows_utc = []", ": peer[0].windows_utc: must have from 1 to 24"),
        (
            "name = \"shore\"\nwindows_utc = [\"22:00-06:00\", \"6-7\"]",
            ": peer[0].windows_utc[1]: must be a time of day such as \"22:00-06:00\", found \"6-7\"",
        ),
        ("name = \"shore\"\ncurrency = \"EUR\"", ": peer[0].currency: means nothing without"),
    ] {
        let error = node_error("[limits]", &format!("[[peer]]\n{section}\n[limits]"));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn mistakes_in_a_fleet_file_are_named() {
    let key = FLEET.lines().find(|line| line.starts_with("key = ")).unwrap();
    let second = FLEET.lines().filter(|line| line.starts_with("key = ")).nth(1).unwrap();
    let cases = [
        ("version = 1", "version = 0", ": version: version must be 1 or more"),
        ("version = 1", "", ": missing field `version`"),
        ("#role = \"site\"", "rolle = \"site\"", ": member[1].rolle: unknown field"),
        ("#role = \"site\"", "role = \"boss\"", ": member[1].role: must be \"site\" or \"hub\""),
        ("id = 3", "id = 2", ": member[2].id: id 2 is already that of \"ship-a\""),
        ("id = 3", "id = 0", ": member[2].id: a member's id must be from 1 to 65535"),
        ("id = 3", "id = 70000", ": member[2].id: invalid value"),
        ("\"ship-b\"", "\"ship-a\"", ": member[2].name: name \"ship-a\" is already"),
        (second, key, ": member[1].key: key 4cb5"),
        (second, &format!("key = \"{}\"", "0".repeat(64)), ": member[1].key: "),
        (second, "key = \"12\"", ": member[1].key: public key must be 64 hexadecimal digits"),
        ("shore.example:7400", "shore.example", ": member[0].addresses[0]: address"),
        ("public.item", "item", ": set[1].tables[0]: table \"item\" must be written as"),
        ("public.item", "public.bed", ": set[1].tables[0]: table public.bed is already in"),
        ("\"public.item\"", "", ": set[1].tables: set \"stock\" names no table"),
    ];
    for (from, to, expected) in cases {
        assert!(FLEET.contains(from), "{from:?} is not in the reference file");
        let fleet = FLEET.replacen(from, to, 1);
        let error = write_and_load(Program::Node, NODE, &fleet).expect_err(to).to_string();
        assert!(error.contains(expected) && error.contains("fleet.toml"), "{error}");
    }
}

#[test]
fn unreadable_files_are_named() {
    let error = load(Path::new("nowhere/node.toml"), Program::Node).unwrap_err();
    assert!(error.to_string().starts_with("read nowhere/node.toml: "), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, b"name = \"a\"\ndata_dir = \"\xff\"").unwrap();
    let error = load(&file, Program::Node).unwrap_err().to_string();
    assert!(error.ends_with("node.toml:2: text is not UTF-8"), "{error}");
}
