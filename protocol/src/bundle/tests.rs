//! Everything reads back as it was written, and nothing else is taken.

use proptest::prelude::*;

use super::*;
use crate::id::Incarnation;
use crate::id::Seq;
use crate::unit::UnitHash;

fn origin(site: u16) -> Origin {
    let site = SiteId::new(site).unwrap();
    Origin { site, incarnation: Incarnation::new(u64::from(site.number()) + 7).unwrap() }
}

fn header() -> Header {
    Header { bundle: BundleId::new(5, [9; 16]), part: 3, slots: vec![[1; SLOT_BYTES]; 2] }
}

fn manifest() -> Manifest {
    let held = |site| Held { origin: origin(site), seq: Seq(40), hash: UnitHash([site as u8; 32]) };
    Manifest {
        writer: origin(1),
        fleet_version: 4,
        sets_digest: [5; 32],
        made_ms: 1_700_000_000_000,
        recipients: vec![origin(2).site, origin(9).site],
        user: "mate (uid 1000)".to_owned(),
        software: "landfall 0.1.0".to_owned(),
        held: vec![held(1), held(2)],
        applied: [(origin(1), Seq(40))].into_iter().collect(),
        needs: [(origin(1), Seq(12))].into_iter().collect(),
    }
}

fn body() -> Vec<u8> {
    let trailer =
        Trailer { is_last: true, units: 2, reaches: [(origin(1), Seq(40))].into_iter().collect() };
    let units = *blake3::Hasher::new().update(b"one").update(b"other").finalize().as_bytes();
    let mut bytes = manifest().to_record(&[7; 32], |_| [3; 64]);
    for unit in [b"one".as_slice(), b"other"] {
        bytes.extend(unit_record_head(unit.len()));
        bytes.extend(unit);
    }
    bytes.extend(trailer.to_record(&[7; 32], &units, |_| [4; 64]));
    assert!(bytes.len() < 1000 + Trailer::record_bytes_max(1));
    bytes
}

/// Names of the records in a body; the error that ends them.
fn read(bytes: &[u8]) -> (Vec<&'static str>, Option<BundleError>) {
    let (mut records, mut rest, mut found) = (Records::new([7; 32]), bytes, Vec::new());
    loop {
        match records.next(rest) {
            Ok(Some((record, taken))) => {
                found.push(match record {
                    Record::Manifest { manifest: read, message, signature } => {
                        assert_eq!((read, signature), (manifest(), [3; 64]));
                        assert!(message.starts_with(MANIFEST_DOMAIN));
                        "manifest"
                    }
                    Record::Unit(_) => "unit",
                    Record::Trailer { .. } => "trailer",
                });
                rest = &rest[taken..];
            }
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error)),
        }
    }
}

#[test]
fn a_header_reads_back_once_it_is_all_there() {
    let bytes = header().encode();
    for cut in 0..bytes.len() {
        assert_eq!(Header::decode(&bytes[..cut]), Ok(None), "{cut}");
    }
    assert_eq!(Header::decode(&bytes), Ok(Some((header(), bytes.len()))));
    assert_eq!(Header::decode(b"GIF89a"), Err(BundleError::NoBundle));
    let mut newer = bytes;
    newer[16] = 2;
    assert_eq!(Header::decode(&newer), Err(BundleError::UnknownFormat(2)));
}

#[test]
fn ids_sort_by_age_and_read_back() {
    let (old, new) = (BundleId::new(5, [0xff; 16]), BundleId::new(6, [0; 16]));
    assert!(old < new);
    assert_eq!(old.to_string().parse(), Ok(old));
    assert_eq!(old.short().len(), 12);
    assert!("5".parse::<BundleId>().is_err());
}

#[test]
fn records_read_back_in_their_order_and_in_no_other() {
    let all = body();
    assert_eq!(read(&all), (vec!["manifest", "unit", "unit", "trailer"], None));
    let behind = [all.as_slice(), &[UNIT]].concat();
    assert!(matches!(read(&behind).1, Some(BundleError::Misplaced(_))));
    let manifest = manifest().to_record(&[7; 32], |_| [3; 64]);
    assert!(matches!(read(&all[manifest.len()..]).1, Some(BundleError::Misplaced(_))));
    let twice = [manifest.as_slice(), &all].concat();
    assert!(matches!(read(&twice).1, Some(BundleError::Misplaced(_))));
    // One unit fewer than the trailer counts.
    let one = [manifest.as_slice(), &all[manifest.len() + 5..]].concat();
    assert!(matches!(read(&one).1, Some(BundleError::Malformed { what: "trailer", .. })));
}

#[test]
fn a_manifest_says_what_a_hello_would() {
    let hello = manifest().to_hello(origin(2).site);
    assert_eq!(hello.holds_of_you.len(), 1);
    assert_eq!(hello.received.get(origin(1)), Seq(40));
    assert_eq!(hello.marks.len(), 2);
}

proptest! {
    #[test]
    fn no_bytes_upset_the_reader(flips in prop::collection::vec((0..2000_usize, any::<u8>()), 0..8), cut in 0..2000_usize) {
        let mut bytes = body();
        for (at, byte) in flips {
            let at = at % bytes.len();
            // The check of what a manifest says is for those that were not touched.
            if at > manifest().to_record(&[7; 32], |_| [3; 64]).len() {
                bytes[at] = byte;
            }
        }
        bytes.truncate(cut);
        read(&bytes);
        let mut head = header().encode();
        head.truncate(cut);
        let _ = Header::decode(&head);
    }
}
