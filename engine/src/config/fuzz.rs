//! Any text as a fleet file or a daemon's file; see `crate::fuzz`.

use std::path::Path;

use landfall_protocol::fleet::Fleet;

use super::{Program, check, fleet, raw};

/// Names a member of each role and nobody else.
const FLEET: &str = r#"
version = 1
[[set]]
id = 1
name = "all"
tables = ["public.a"]
[[member]]
id = 1
name = "ship"
key = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
[[member]]
id = 2
name = "shore"
key = "197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61"
addresses = ["shore:7400"]
role = "hub"
"#;

/// Reads a fleet file.
pub(crate) fn check_fleet(content: &[u8]) {
    if let Some(fleet) = read_fleet(content) {
        let _ = fleet.sets_digest();
        for member in fleet.members() {
            assert_eq!(fleet.member_named(&member.name), Some(member));
            assert_eq!(fleet.member_with_key(&member.key), Some(member));
        }
        assert!(fleet.tables().all(|(table, set)| fleet.set_of(table) == Some(set)));
    }
}

fn read_fleet(content: &[u8]) -> Option<Fleet> {
    let raw = raw::decode(Path::new("fleet.toml"), content.to_vec()).ok()?;
    fleet::check(raw).ok()
}

/// Reads a daemon's file, for both daemons.
pub(crate) fn check_daemon(content: &[u8]) {
    let file = Path::new("daemon.toml");
    let fleet = read_fleet(FLEET.as_bytes()).expect("the fleet above is right");
    for program in [Program::Node, Program::Hub] {
        let Ok(raw) = raw::decode::<raw::Daemon>(file, content.to_vec()) else { return };
        let fleet_file = Path::new("fleet.toml");
        let rules = check::Check { file, program, fleet: &fleet, fleet_file };
        if let Ok(config) = rules.daemon(raw) {
            assert!(config.link.reconnect_min <= config.link.reconnect_max);
            assert!(config.limits.transaction_bytes_max >= 65_536);
        }
    }
}
