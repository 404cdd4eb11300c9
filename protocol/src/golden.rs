//! Golden bytes: recorded encodings under `testdata/` that every later version must still read.
//!
//! A difference fails the test. To record anew on purpose, run the test with
//! `LANDFALL_WRITE_GOLDEN=1` and say in the commit why the bytes may change.

use std::fmt::Write as _;
use std::path::PathBuf;

const BYTES_PER_LINE: usize = 32;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.hex"))
}

/// The recorded bytes of `name`; `current` is recorded first when the environment asks for it.
pub(crate) fn recorded(name: &str, current: &[u8]) -> Vec<u8> {
    if std::env::var_os("LANDFALL_WRITE_GOLDEN").is_some() {
        std::fs::write(path(name), print_hex(current)).expect("write golden bytes");
    }
    let text = std::fs::read_to_string(path(name))
        .unwrap_or_else(|error| panic!("read golden bytes {name}: {error}"));
    parse_hex(&text)
}

/// Fails unless `current` is what was recorded.
pub(crate) fn check(name: &str, current: &[u8]) {
    let recorded = recorded(name, current);
    assert!(
        recorded == current,
        "{name} was recorded as\n{}and is now\n{}",
        print_hex(&recorded),
        print_hex(current)
    );
}

fn print_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(BYTES_PER_LINE) {
        for byte in line {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        text.push('\n');
    }
    text
}

fn parse_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("golden bytes are hexadecimal") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
