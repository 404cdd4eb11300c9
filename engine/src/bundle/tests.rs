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
    let sets = vec![Set { id: SetId(1), name: "all".into(), tables, full_history: false }];
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
    let sets = vec![Set { id: SetId(1), name: "all".into(), tables, full_history: false }];
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

/// A store of member 1 that has units of members 2 and 3.
mod with_stores {
    use landfall_protocol::change::{Fragment, Transaction};
    use landfall_protocol::clock::Hlc;
    use landfall_protocol::unit::{SealContext, Unit, UnitHash};
    use landfall_protocol::wire::Held;

    use super::*;
    use crate::store::{Identity, Settings, Signer, Store};

    fn origin(number: u16) -> Origin {
        let site = SiteId::new(number).unwrap();
        Origin { site, incarnation: Incarnation::new(0xa1).unwrap() }
    }

    fn store(world: &World, member: u16) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { origin: origin(member), database: None };
        Store::create(dir.path(), &identity, 0).unwrap();
        let key = Arc::clone(&world.keys[usize::from(member) - 1]);
        let signer: Signer = Arc::new(move |message| key.sign(message));
        let settings = Settings { ballast_bytes: 0, ..Settings::default() };
        let store = Store::open(dir.path(), &settings, signer, 1).unwrap().0;
        (dir, store)
    }

    /// Units of a member with these clock readings, one transaction each.
    fn units(world: &World, member: u16, readings: &[u64]) -> Vec<Unit> {
        let mut previous = UnitHash::GENESIS;
        let key = &world.keys[usize::from(member) - 1];
        let unit = |(reading, seq): (&u64, u64)| {
            let transaction = Transaction {
                seq: Seq(seq),
                hlc: Hlc(*reading),
                actor: None,
                describes: Vec::new(),
                changes: Vec::new(),
                piece: None,
            };
            let context = SealContext {
                origin: origin(member),
                fleet_version: 1,
                fragment: Fragment::Whole,
                previous,
                vector: &VersionVector::new(),
                level: 1,
            };
            let sign = |message: &[u8]| key.sign(message);
            let unit = Unit::seal(context, &[transaction], |_| SetId(1), sign);
            previous = unit.hash();
            unit
        };
        readings.iter().zip(1..).map(unit).collect()
    }

    async fn course(store: &Store, after: &VersionVector) -> Vec<(u16, u64)> {
        let until = store.watch().borrow().received.clone();
        let mut course = Course::begin(store.clone(), after, until).await.unwrap();
        let mut found = Vec::new();
        while let Some(unit) = course.next().await.unwrap() {
            found.push((unit.header().origin.site.number(), unit.header().first.0));
        }
        assert!(course.damaged().is_empty());
        found
    }

    #[tokio::test]
    async fn units_come_in_the_order_of_their_clock_readings() {
        let world = world();
        let (_dir, store) = store(&world, 1);
        let mut all = units(&world, 2, &[10, 20, 21, 22, 50]);
        all.extend(units(&world, 3, &[15, 30, 60]));
        store.append_units(all, 1).await.unwrap();
        let everything = course(&store, &VersionVector::new()).await;
        let expected = [(2, 1), (3, 1), (2, 2), (2, 3), (2, 4), (3, 2), (2, 5), (3, 3)];
        assert_eq!(everything, expected);
        let after = [(origin(2), Seq(3)), (origin(3), Seq(1))].into_iter().collect();
        assert_eq!(course(&store, &after).await, expected[4..]);
        let all = store.watch().borrow().received.clone();
        assert_eq!(course(&store, &all).await, []);
        store.close().await;
    }

    #[tokio::test]
    async fn what_a_bundle_brings_is_judged_as_what_a_link_brings() {
        let world = world();
        let (_dir, store) = store(&world, 1);
        let (good, forged) = (units(&world, 2, &[10, 20, 30]), units(&world, 3, &[5]));
        let mut intake = Intake::new(store.clone(), Arc::clone(&world.fleet), origin(1));
        intake.unit(good[0].bytes().to_vec()).await.unwrap();
        // One is missing in between.
        intake.unit(good[2].bytes().to_vec()).await.unwrap();
        let mut bytes = forged[0].bytes().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        intake.unit(bytes).await.unwrap();
        intake.unit(b"nothing".to_vec()).await.unwrap();
        intake.flush().await.unwrap();
        let taken = intake.taken();
        assert_eq!((taken.stored, taken.known), (1, 0));
        assert_eq!(taken.gaps, [(origin(2), Seq(1))].into_iter().collect());
        assert!(taken.refused[&origin(3)].contains("not what the origin signed"), "{taken:?}");
        // Carried damage speaks against nobody.
        assert!(store.watch().borrow().quarantined.is_empty());
        // Two histories do.
        let other = units(&world, 2, &[11]);
        let mut intake = Intake::new(store.clone(), Arc::clone(&world.fleet), origin(1));
        intake.unit(other[0].bytes().to_vec()).await.unwrap();
        intake.flush().await.unwrap();
        assert!(intake.taken().refused[&origin(2)].contains("two histories"));
        assert!(store.watch().borrow().quarantined.contains_key(&origin(2)));
        store.close().await;
    }

    #[tokio::test]
    async fn a_writer_that_holds_more_of_our_log_than_we_do_fences_us() {
        let world = world();
        let (_dir, store) = store(&world, 1);
        let intake = Intake::new(store.clone(), Arc::clone(&world.fleet), origin(1));
        let mut told = Manifest {
            writer: origin(2),
            sets_digest: world.fleet.sets_digest(),
            recipients: vec![origin(1).site],
            ..manifest()
        };
        let receipt = intake.greet(&told).await.unwrap();
        assert_eq!(receipt.writer, origin(2));
        let held = |number| Held { origin: origin(number), seq: Seq(9), hash: UnitHash([1; 32]) };
        told.held = vec![held(3)];
        let receipt = intake.greet(&told).await.unwrap();
        assert_eq!(receipt.received.get(origin(3)), Seq(9));
        told.sets_digest = [0; 32];
        assert!(matches!(intake.greet(&told).await, Err(PartError::Refused(_))));
        assert_eq!(store.watch().borrow().fenced, None);
        told.sets_digest = world.fleet.sets_digest();
        told.held = vec![held(1)];
        assert!(matches!(intake.greet(&told).await, Err(PartError::Refused(_))));
        assert!(store.watch().borrow().fenced.is_some());
        store.close().await;
    }
}
