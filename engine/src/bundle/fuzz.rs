//! Parts as fuzzers see them: files from anywhere, and what a member might write into one.

use std::sync::{Arc, OnceLock};

use landfall_protocol::bundle::{
    BundleId, Header, Manifest, SLOT_BYTES, Trailer, unit_record_head,
};
use landfall_protocol::fleet::{Fleet, Member, Role, Set, parse_table_name};
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::schema::SetId;
use landfall_protocol::unit::UnitHash;
use landfall_protocol::wire::Held;

use super::cipher::{CHUNK_BYTES, Chunks, Place};
use super::{PartDecoder, PartError, Piece};
use crate::identity::MemberKey;

/// Of the part that is written here.
const FILE_KEY: [u8; 32] = [7; 32];

struct World {
    key: Arc<MemberKey>,
    fleet: Arc<Fleet>,
    header: Header,
}

fn site(number: u16) -> SiteId {
    SiteId::new(number).expect("sites here have numbers")
}

fn origin() -> Origin {
    Origin { site: site(1), incarnation: Incarnation::new(0xa1).expect("not zero") }
}

/// The same in every run.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let text = format!("landfall-secret-key:{}\n", "5a".repeat(32));
        let key = MemberKey::parse(text.as_bytes()).expect("a key");
        let tables = vec![parse_table_name("public.bed").expect("a table")];
        let member = Member {
            site: site(1),
            name: "ship".into(),
            key: key.public(),
            addresses: Vec::new(),
            role: Role::Site,
        };
        let sets = vec![Set { id: SetId(1), name: "all".into(), tables, full_history: false }];
        let fleet = Fleet::new(1, sets, vec![member]).expect("a fleet");
        let bundle = BundleId::new(9, [3; 16]);
        let header = Header { bundle, part: 1, slots: vec![[5; SLOT_BYTES]] };
        World { key: Arc::new(key), fleet: Arc::new(fleet), header }
    })
}

/// A file from anywhere: whatever it is, the answer is the same however it comes.
pub(crate) fn check_part(bytes: &[u8]) {
    let world = world();
    let read = |step: usize| {
        let part = PartDecoder::new(Arc::clone(&world.key), Arc::clone(&world.fleet));
        read_in_steps(part, bytes, step)
    };
    assert_eq!(read(1_000), read(7), "it depends on how it comes");
}

/// What a member writes into a part that is for us; encrypted as it must be.
pub(crate) fn check_body(plain: &[u8]) {
    let world = world();
    let header = hash(&world.header);
    let mut chunks = Chunks::new(&FILE_KEY, header);
    let mut bytes = Vec::new();
    let (last, before) = match plain.len().saturating_sub(1) / CHUNK_BYTES {
        0 => (plain, &[][..]),
        full => (&plain[full * CHUNK_BYTES..], &plain[..full * CHUNK_BYTES]),
    };
    for chunk in before.chunks(CHUNK_BYTES) {
        bytes.extend(chunks.seal(chunk.to_vec(), Place::Inside));
    }
    bytes.extend(chunks.seal(last.to_vec(), Place::End));
    let part = || {
        let mut part = PartDecoder::new(Arc::clone(&world.key), Arc::clone(&world.fleet));
        part.open_body(world.header.clone(), &FILE_KEY, header);
        part
    };
    let (pieces, error) = read_in_steps(part(), &bytes, 30_000);
    assert_eq!((pieces.clone(), error.clone()), read_in_steps(part(), &bytes, 1_001));
    if error.is_none() {
        assert!(matches!(pieces.first(), Some(Piece::Manifest(_))), "nobody wrote it");
        assert!(matches!(pieces.last(), Some(Piece::Trailer(_))), "it has no end");
    }
}

fn read_in_steps(
    mut part: PartDecoder,
    bytes: &[u8],
    step: usize,
) -> (Vec<Piece>, Option<PartError>) {
    let mut pieces = Vec::new();
    let mut take = |part: &mut PartDecoder| loop {
        match part.take() {
            Ok(Some(piece)) => pieces.push(piece),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    };
    for chunk in bytes.chunks(step) {
        part.push(chunk);
        if let Some(error) = take(&mut part) {
            return (pieces, Some(error));
        }
    }
    part.push_end();
    let error = take(&mut part);
    (pieces, error)
}

fn hash(header: &Header) -> [u8; 32] {
    *blake3::hash(&header.encode()).as_bytes()
}

/// Beginnings of files.
pub(crate) fn part_seeds() -> Vec<Vec<u8>> {
    let header = world().header.encode();
    vec![[header.as_slice(), &[9; 300]].concat(), header]
}

/// What an honest member writes.
pub(crate) fn body_seeds() -> Vec<Vec<u8>> {
    let world = world();
    let header = hash(&world.header);
    let vector = [(origin(), Seq(40))].into_iter().collect();
    let manifest = Manifest {
        writer: origin(),
        fleet_version: 1,
        sets_digest: world.fleet.sets_digest(),
        made_ms: 1_700_000_000_000,
        recipients: vec![site(1), site(2)],
        user: "mate (uid 1000)".into(),
        software: "landfall".into(),
        held: vec![Held { origin: origin(), seq: Seq(40), hash: UnitHash([4; 32]) }],
        applied: vector,
        needs: [(origin(), Seq(12))].into_iter().collect(),
    };
    let body = |units: &[&[u8]]| {
        let mut bytes = manifest.to_record(&header, |message| world.key.sign(message));
        let mut hasher = blake3::Hasher::new();
        for unit in units {
            bytes.extend(unit_record_head(unit.len()));
            bytes.extend(*unit);
            hasher.update(unit);
        }
        let reaches = [(origin(), Seq(40))].into_iter().collect();
        let trailer = Trailer { is_last: true, units: units.len() as u64, reaches };
        let units = *hasher.finalize().as_bytes();
        bytes.extend(trailer.to_record(&header, &units, |message| world.key.sign(message)));
        bytes
    };
    vec![body(&[]), body(&[b"a unit".as_slice(), &[1; 200]])]
}
