//! Against a stream recorded from PostgreSQL 15 (see `record_golden_stream` in
//! `tests/e2e/walsender`), cut and mutated in every way.

use super::*;

const RECORDED: &str = include_str!("../../../testdata/pgoutput15.hex");
const EXPECTED: &str = include_str!("../../../testdata/pgoutput15.txt");

fn recorded() -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| {
        let digits = str::from_utf8(pair).expect("ascii");
        u8::from_str_radix(digits, 16).expect("hexadecimal")
    };
    RECORDED.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

/// A message with all its values on one line. Long values are shortened.
fn render(message: &Message<'_>) -> String {
    match message {
        Message::Relation(relation) => {
            let columns: Vec<_> = relation.columns().collect();
            assert_eq!(columns.len(), usize::from(relation.column_count()));
            let columns = columns.iter().map(|c| {
                let key = if c.identity { "*" } else { "" };
                format!(" {key}{}:{}({})", c.name, c.type_id.0, c.type_modifier)
            });
            let head = format!("Relation {} {:?}", relation.id.0, relation.identity);
            format!("{head} {}.{}:{}", relation.schema, relation.name, columns.collect::<String>())
        }
        Message::Insert(m) => format!("Insert {}: {}", m.relation.0, render_tuple(m.new)),
        Message::Update(m) => {
            let old = m.old.map_or("-".to_owned(), render_old);
            format!("Update {}: {old} -> {}", m.relation.0, render_tuple(m.new))
        }
        Message::Delete(m) => format!("Delete {}: {}", m.relation.0, render_old(m.old)),
        Message::Truncate(m) => {
            let ids: Vec<_> = m.relations().map(|id| id.0).collect();
            format!("Truncate {ids:?} cascade={} restart={}", m.cascade, m.restart_identity)
        }
        Message::Logical(m) => format!("{m:?} {:?}", m.content.escape_ascii().to_string()),
        plain => format!("{plain:?}"),
    }
}

fn render_old(old: OldRow<'_>) -> String {
    match old {
        OldRow::Key(tuple) => format!("key {}", render_tuple(tuple)),
        OldRow::Full(tuple) => format!("full {}", render_tuple(tuple)),
    }
}

fn render_tuple(tuple: Tuple<'_>) -> String {
    let columns: Vec<_> = tuple.columns().collect();
    assert_eq!(columns.len(), usize::from(tuple.column_count()));
    let columns = columns.into_iter().map(|column| match column {
        Column::Text(text) if text.len() > 100 => format!("{} bytes", text.len()),
        Column::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        Column::Binary(_) => "binary".to_owned(),
        Column::Long(_) => "long".to_owned(),
        Column::Null => "null".to_owned(),
        Column::Unchanged => "unchanged".to_owned(),
    });
    format!("({})", columns.collect::<Vec<_>>().join(", "))
}

#[test]
fn recorded_stream_reads_as_it_was_written() {
    let mut read = String::new();
    for data in recorded() {
        let message = decode(&data).unwrap_or_else(|e| panic!("{e}: {data:02x?}"));
        read += &render(&message);
        read.push('\n');
    }
    assert!(read == EXPECTED, "decoded differently:\n{read}");
}

#[test]
fn recorded_stream_has_every_kind_of_message() {
    let mut kinds: Vec<_> = recorded().iter().map(|data| char::from(data[0])).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.iter().collect::<String>(), "BCDIMORTUY");
}

#[test]
fn message_cut_anywhere_or_too_long_is_an_error() {
    for data in recorded() {
        for length in 0..data.len() {
            let error = decode(&data[..length]).expect_err("cut short");
            assert!(error.offset <= length, "{error}");
        }
        let longer = [&data[..], &[0]].concat();
        let error = decode(&longer).expect_err("too long");
        assert_eq!((error.offset, error.fault), (data.len(), Fault::Trailing { count: 1 }));
    }
}

#[test]
fn mutated_messages_decode_or_fail_but_nothing_else() {
    // xorshift64: the same mutations in every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut decoded, mut refused) = (0, 0);
    for original in recorded() {
        for _ in 0..5_000 {
            let mut data = original.clone();
            for _ in 0..=random(3) {
                // Mostly near the head, where the structure is.
                let reach = if random(2) == 0 { data.len().min(40) } else { data.len() };
                let at = random(reach);
                match random(4) {
                    0 => data[at] = random(256) as u8,
                    1 => data[at] ^= 1 << random(8),
                    2 => data.insert(at, random(256) as u8),
                    _ if data.len() > 1 => drop(data.remove(at)),
                    _ => {}
                }
            }
            match decode(&data) {
                Ok(message) => {
                    render(&message);
                    decoded += 1;
                }
                Err(error) => {
                    assert!(error.offset <= data.len(), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(decoded > 1_000 && refused > 1_000, "{decoded} decoded, {refused} refused");
}

#[test]
fn errors_name_message_field_and_place() {
    for (data, expected) in [
        (&b""[..], "pgoutput unknown message, byte 0: message kind needs 1 bytes, 0 are left"),
        (b"S\0\0\0\x01\x01", "byte 0: kind 'S' is not part of pgoutput protocol version 1"),
        (b"b", "byte 0: kind 'b' is not part of pgoutput protocol version 1"),
        (b"C\x01", "pgoutput commit message, byte 1: flags is 0x01, which has no meaning"),
        (b"O\0\0\0\0\0\0\0\0abc", "pgoutput origin message, byte 9: origin name has no end"),
        (b"Y\0\0\0\0\xff\0a\0", "pgoutput type message, byte 5: schema name is not UTF-8"),
        (
            b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xffxy",
            "pgoutput insert message, byte 13: value needs 4294967295 bytes, 2 are left",
        ),
        (b"I\0\0\0\x01N\xff\xffnn", "byte 10: column kind needs 1 bytes, 0 are left"),
        (
            b"T\xff\xff\xff\xff\0abcd",
            "pgoutput truncate message, byte 6: relation ids needs 17179869180 bytes, 4 are left",
        ),
        (b"U\0\0\0\x01K\0\0Q", "byte 8: new tuple kind is 0x51, which has no meaning"),
    ] {
        let error = decode(data).expect_err("malformed").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn values_stay_out_of_debug_output() {
    for data in recorded() {
        let message = decode(&data).expect("recorded");
        let text = format!("{message:?}");
        assert!(!text.contains("Möwe") && !text.contains("told at once"), "{text}");
        if let Message::Insert(insert) = message {
            let columns = format!("{:?}", insert.new.columns().collect::<Vec<_>>());
            assert!(!columns.contains("we") && !columns.contains("12.5"), "{columns}");
        }
    }
}

#[test]
fn times_convert_between_the_epochs() {
    assert_eq!(PgTime::from(UNIX_EPOCH), PgTime(-PG_EPOCH_UNIX_MICROS));
    let later = UNIX_EPOCH + Duration::from_micros(PG_EPOCH_UNIX_MICROS as u64 + 5);
    assert_eq!(PgTime::from(later), PgTime(5));
    assert_eq!(PgTime(5).unix_micros(), PG_EPOCH_UNIX_MICROS + 5);
    assert_eq!(PgTime(i64::MAX).unix_micros(), i64::MAX);
    assert_eq!(PgTime::from(UNIX_EPOCH - Duration::from_micros(1)).unix_micros(), -1);
}
