//! Parts read back as they were written, by whom they are for, and nothing else passes for one.

use std::sync::Arc;

use landfall_protocol::bundle::{BundleId, Manifest};
use landfall_protocol::fleet::{Fleet, Member, Role, Set, parse_table_name};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::schema::SetId;
use landfall_protocol::version::VersionVector;
use proptest::prelude::*;

use super::*;
use crate::identity::MemberKey;

struct World {
    keys: Vec<Arc<MemberKey>>,
    fleet: Arc<Fleet>,
}

fn member(number: u16, key: &MemberKey) -> Member {
    Member {
        site: SiteId::new(number).unwrap(),
        name: format!("site-{number}"),
        key: key.public(),
        addresses: Vec::new(),
        role: Role::Site,
    }
}

/// Members 1, 2 and 3 with their keys.
fn world() -> World {
    let keys: Vec<Arc<MemberKey>> =
        (0..3).map(|_| Arc::new(MemberKey::generate().unwrap())).collect();
    let members = keys.iter().zip(1..).map(|(key, number)| member(number, key)).collect();
    let tables = vec![parse_table_name("public.bed").unwrap()];
    let sets = vec![Set { id: SetId(1), name: "all".into(), tables }];
    World { keys, fleet: Arc::new(Fleet::new(1, sets, members).unwrap()) }
}

fn manifest() -> Manifest {
    let origin =
        Origin { site: SiteId::new(1).unwrap(), incarnation: Incarnation::new(5).unwrap() };
    Manifest {
        writer: origin,
        fleet_version: 1,
        sets_digest: [0; 32],
        made_ms: 9,
        recipients: vec![SiteId::new(2).unwrap(), SiteId::new(3).unwrap()],
        user: "mate".into(),
        software: "landfall".into(),
        held: Vec::new(),
        applied: VersionVector::new(),
        needs: [(origin, Seq(4))].into_iter().collect(),
    }
}

impl World {
    /// A part by member 1 for these others; `signer` has the key that signs it.
    fn part(&self, recipients: &[u16], signer: &Arc<MemberKey>, units: &[Vec<u8>]) -> Vec<u8> {
        let sites = recipients.iter().map(|number| SiteId::new(*number).unwrap());
        let members: Vec<&Member> = sites.map(|site| self.fleet.member(site).unwrap()).collect();
        let opening = Opening {
            bundle: BundleId::new(7, [1; 16]),
            part: 1,
            recipients: &members,
            manifest: &manifest(),
        };
        let (mut part, mut bytes) = PartEncoder::begin(&opening, signer).unwrap();
        for unit in units {
            let longest = part.bytes_with(unit.len(), 1);
            bytes.extend(part.unit(unit));
            assert!(bytes.len() as u64 <= longest);
        }
        let (count, most) = (part.count(), part.bytes_with(0, 1));
        assert_eq!(count, units.len() as u64);
        let reaches = [(manifest().writer, Seq(8))].into_iter().collect();
        bytes.extend(part.end(Ending { is_last: true, reaches }));
        assert!(bytes.len() as u64 <= most, "{} bytes, told were {most}", bytes.len());
        bytes
    }

    /// What member `reader` finds in these bytes, which come in pieces of this length.
    fn read(&self, reader: usize, bytes: &[u8], step: usize) -> Result<Vec<Piece>, PartError> {
        let key = Arc::clone(&self.keys[reader - 1]);
        let mut part = PartDecoder::new(key, Arc::clone(&self.fleet));
        let mut found = Vec::new();
        for piece in bytes.chunks(step) {
            part.push(piece);
            while let Some(piece) = part.take()? {
                found.push(piece);
            }
        }
        part.push_end();
        while let Some(piece) = part.take()? {
            found.push(piece);
        }
        Ok(found)
    }
}

fn units() -> Vec<Vec<u8>> {
    [10, 70_000, 1, 64 << 10, 200_000].map(|length: usize| vec![length as u8; length]).to_vec()
}

#[test]
fn a_part_reads_back_for_each_of_its_recipients() {
    let world = world();
    for units in [Vec::new(), units()] {
        let bytes = world.part(&[2, 3], &world.keys[0], &units);
        for (reader, step) in [(2, 1000), (3, 1 << 20), (2, 65_553)] {
            let found = world.read(reader, &bytes, step).unwrap();
            assert_eq!(found.len(), units.len() + 2);
            assert_eq!(found[0], Piece::Manifest(Box::new(manifest())));
            let read: Vec<&Vec<u8>> = found
                .iter()
                .filter_map(|piece| if let Piece::Unit(unit) = piece { Some(unit) } else { None })
                .collect();
            assert!(read.into_iter().eq(&units));
            let Some(Piece::Trailer(trailer)) = found.last() else { panic!("{found:?}") };
            assert!(trailer.is_last && trailer.units == units.len() as u64);
        }
        let error = world.read(1, &bytes, 1000).unwrap_err();
        assert_eq!(error, PartError::NotForUs { recipients: 2 });
    }
}

#[test]
fn nobody_can_write_in_the_name_of_another() {
    let world = world();
    let bytes = world.part(&[2], &world.keys[2], &units());
    let error = world.read(2, &bytes, 4096).unwrap_err();
    assert_eq!(error, PartError::Forged(SiteId::new(1).unwrap()));
    let stranger = MemberKey::generate().unwrap();
    let alone = vec![member(2, &world.keys[1]), member(9, &stranger)];
    let tables = vec![parse_table_name("public.bed").unwrap()];
    let sets = vec![Set { id: SetId(1), name: "all".into(), tables }];
    let elsewhere =
        World { keys: world.keys.clone(), fleet: Arc::new(Fleet::new(1, sets, alone).unwrap()) };
    let bytes = world.part(&[2], &world.keys[0], &units());
    let error = elsewhere.read(2, &bytes, 4096).unwrap_err();
    assert_eq!(error, PartError::Stranger(SiteId::new(1).unwrap()));
}

#[test]
fn a_cut_is_noticed_wherever_it_falls() {
    let world = world();
    let bytes = world.part(&[2], &world.keys[0], &units());
    let body = bytes.len() % (65_536 + 16);
    let edges = (0..bytes.len()).filter(|at| at % (65_536 + 16) == body % 97 || at % 4099 == 0);
    let chunk_ends = (1..6).map(|chunk| 123 - 4 + chunk * (65_536 + 16));
    for cut in edges.chain(chunk_ends).chain([bytes.len() - 1]).filter(|cut| *cut < bytes.len()) {
        let error = world.read(2, &bytes[..cut], 30_000).unwrap_err();
        assert!(matches!(error, PartError::Truncated { .. }), "cut at {cut}: {error}");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    world.read(2, &longer, 30_000).unwrap_err();
}

#[test]
fn a_cut_between_chunks_is_noticed() {
    let world = world();
    let bytes = world.part(&[2], &world.keys[0], &units());
    let header = bytes.len() - encrypted_bytes(&bytes);
    for chunks in 1..5 {
        let cut = header + chunks * (65_536 + 16);
        let error = world.read(2, &bytes[..cut], 1 << 20).unwrap_err();
        assert_eq!(error, PartError::Truncated { bytes: cut as u64 });
    }
}

/// What follows the header.
fn encrypted_bytes(bytes: &[u8]) -> usize {
    let (_, length) = landfall_protocol::bundle::Header::decode(bytes).unwrap().unwrap();
    bytes.len() - length
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_changed_byte_passes(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let world = world();
        let mut bytes = world.part(&[2, 3], &world.keys[0], &units());
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // But for a slot that is another's, and that one too: it is bound to all that follows.
        world.read(2, &bytes, 8192).unwrap_err();
    }

    #[test]
    fn any_bytes_are_read_to_an_error(mut tail in prop::collection::vec(any::<u8>(), 0..5000), whole: bool) {
        let world = world();
        if whole {
            let mut bytes = world.part(&[2], &world.keys[0], &units());
            bytes.truncate(50_000);
            bytes.append(&mut tail);
            world.read(2, &bytes, 777).unwrap_err();
        } else {
            prop_assert!(world.read(2, &tail, 100).is_err());
        }
    }
}
