//! What people write: configuration, fleet and key files, and the texts in them.

use landfall_protocol::fleet::{Address, parse_table_name};
use landfall_protocol::id::{Origin, PublicKey};

use crate::identity::{self, MemberKey};
use crate::postgres::connect::PgSettings;
use crate::postgres::lsn::Lsn;
use crate::store::Token;

/// A file: the first byte says which.
pub(super) fn check_config(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    match which % 3 {
        0 => crate::config::fuzz::check_fleet(text),
        1 => crate::config::fuzz::check_daemon(text),
        _ => {
            if let Some(key) = MemberKey::parse(text) {
                identity::check(&key.public()).expect("what is drawn from a seed is usable");
            }
        }
    }
}

/// A text of one of many kinds: the first byte says which.
pub(super) fn check_texts(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    if let Some(key) = identity::from_spki_der(text) {
        assert_eq!(identity::spki_der(&key), text, "a public key has two forms");
    }
    let text = String::from_utf8_lossy(text);
    match which % 7 {
        0 => {
            if let Ok(key) = text.parse::<PublicKey>() {
                assert_eq!(key.to_string(), text);
                let _ = identity::check(&key);
            }
        }
        1 => {
            if let Ok(address) = text.parse::<Address>() {
                assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
        2 => {
            if let Ok(name) = parse_table_name(&text) {
                let quoted = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
                let written = format!("{}.{}", quoted(&name.schema), quoted(&name.name));
                assert_eq!(parse_table_name(&written), Ok(name));
            }
        }
        3 => {
            if let Ok(origin) = text.parse::<Origin>() {
                assert_eq!(origin.to_string().parse(), Ok(origin));
            }
        }
        4 => {
            if let Ok(lsn) = text.parse::<Lsn>() {
                assert_eq!(lsn.to_string().parse(), Ok(lsn));
            }
        }
        5 => {
            if let Ok(token) = text.parse::<Token>() {
                assert_eq!(token.to_string().parse(), Ok(token));
            }
        }
        _ => {
            if let Ok(settings) = PgSettings::parse(&text, None) {
                let _ = (settings.address().to_string(), settings.password());
            }
        }
    }
}
