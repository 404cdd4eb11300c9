//! Rewrites one large replication message while it is received.

use blake3::Hasher;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use landfall_protocol::value::LongValue;

use super::{LONG_COLUMN, LongText, LongTexts, is_long};
use crate::capture::pgoutput::Texts;
use crate::capture::scratch::ScratchError;

/// `w`, two positions, a time; then kind and relation of a row message.
const HEAD_BYTES: usize = 1 + 8 + 8 + 8;
const ROW_HEAD_BYTES: usize = HEAD_BYTES + 1 + 4;
/// Tuple kind and column count.
const TUPLE_HEAD_BYTES: usize = 3;
/// Column kind and length.
const COLUMN_HEAD_BYTES: usize = 5;

/// Where in the message we are.
#[derive(Debug)]
enum At {
    Head,
    Tuple,
    /// So many columns of the tuple are left.
    Column(u16),
    /// Inside a long text.
    Text {
        columns_after: u16,
        left: usize,
        bytes: u64,
        offset: Option<u64>,
        hasher: Box<Hasher>,
    },
    /// Not a row, or not as we know rows: passed on as it is.
    Raw,
}

/// One message on its way. It has whatever was received so far, so its user may stop at any time.
#[derive(Debug)]
pub(crate) struct Condenser {
    /// Bytes of the message not taken yet.
    left: usize,
    at: At,
    out: BytesMut,
    /// Whether notes stand in place of texts. Of what is passed on as it is, none can be told from
    /// what the server made up.
    texts: Texts,
}

/// A message on its way on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Condensed {
    /// What is left of it.
    pub(crate) body: Bytes,
    /// Whether something was put aside.
    pub(crate) texts: Texts,
}

impl Condenser {
    /// Begins a message of which `bytes` follow.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: bytes, at: At::Head, out: BytesMut::new(), texts: Texts::PutAside }
    }

    /// The same message with texts put aside, of which all was received: what stands before its
    /// content on the way says nothing about that.
    ///
    /// # Errors
    /// The scratch file cannot be written.
    #[cfg(feature = "simulation")]
    pub(crate) fn condense(data: &[u8], texts: &LongTexts) -> Result<Condensed, ScratchError> {
        let mut incoming = BytesMut::from(&[b'w'; 1][..]);
        incoming.put_bytes(0, HEAD_BYTES - 1);
        incoming.put_slice(data);
        let whole = incoming.clone().freeze();
        let mut condenser = Self::new(whole.len());
        let condensed = condenser.feed(&mut incoming, texts)?;
        let condensed = condensed.unwrap_or(Condensed { body: whole, texts: Texts::Whole });
        Ok(Condensed { body: condensed.body.slice(HEAD_BYTES..), ..condensed })
    }

    /// Takes what has been received; the message once it is complete.
    ///
    /// # Errors
    /// The scratch file cannot be written.
    pub(crate) fn feed(
        &mut self,
        incoming: &mut BytesMut,
        texts: &LongTexts,
    ) -> Result<Option<Condensed>, ScratchError> {
        while self.left > 0 {
            let have = incoming.len().min(self.left);
            let taken = self.step(&incoming[..have], texts)?;
            if taken == 0 && have == self.left {
                // It ends in the middle of something: whoever decodes it will say of what.
                self.at = At::Raw;
                continue;
            }
            if taken == 0 {
                return Ok(None);
            }
            incoming.advance(taken);
            self.left -= taken;
        }
        Ok(Some(Condensed { body: self.out.split().freeze(), texts: self.texts }))
    }

    /// Takes some of `bytes`; how many. 0 when there are too few to go on.
    fn step(&mut self, bytes: &[u8], texts: &LongTexts) -> Result<usize, ScratchError> {
        let taken = match &mut self.at {
            At::Raw => self.raw(bytes),
            At::Head => self.head(bytes),
            At::Tuple => self.tuple(bytes),
            At::Column(0) => {
                self.at = At::Tuple;
                return self.step(bytes, texts);
            }
            At::Column(left) => {
                let left = *left;
                self.column(bytes, left)
            }
            At::Text { columns_after, left, bytes: length, offset, hasher } => {
                let some = &bytes[..bytes.len().min(*left)];
                hasher.update(some);
                let at = texts.append(some)?;
                let offset = *offset.get_or_insert(at);
                *left -= some.len();
                if *left == 0 {
                    let hash = *hasher.finalize().as_bytes();
                    let value = LongValue { hash, bytes: *length };
                    self.out.put_u8(LONG_COLUMN);
                    self.out.put_slice(&LongText { value, offset }.encode());
                    self.at = At::Column(*columns_after);
                }
                some.len()
            }
        };
        Ok(taken)
    }

    fn head(&mut self, bytes: &[u8]) -> usize {
        let Some(head) = bytes.first_chunk::<ROW_HEAD_BYTES>() else { return 0 };
        let is_row = head[0] == b'w' && matches!(head[HEAD_BYTES], b'I' | b'U' | b'D');
        self.at = if is_row { At::Tuple } else { At::Raw };
        self.out.put_slice(head);
        ROW_HEAD_BYTES
    }

    fn tuple(&mut self, bytes: &[u8]) -> usize {
        let Some(head) = bytes.first_chunk::<TUPLE_HEAD_BYTES>() else { return 0 };
        self.at = At::Column(u16::from_be_bytes([head[1], head[2]]));
        self.out.put_slice(head);
        TUPLE_HEAD_BYTES
    }

    fn column(&mut self, bytes: &[u8], left: u16) -> usize {
        match bytes.first() {
            None => return 0,
            Some(b'n' | b'u') => {
                self.out.put_u8(bytes[0]);
                self.at = At::Column(left - 1);
                return 1;
            }
            Some(b't') => {}
            Some(_) => {
                self.at = At::Raw;
                return self.raw(bytes);
            }
        }
        let Some(head) = bytes.first_chunk::<COLUMN_HEAD_BYTES>() else { return 0 };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if is_long(length) {
            if length > self.left - COLUMN_HEAD_BYTES {
                self.at = At::Raw;
                return self.raw(bytes);
            }
            let (hasher, bytes) = (Box::default(), length as u64);
            self.at =
                At::Text { columns_after: left - 1, left: length, bytes, offset: None, hasher };
            return COLUMN_HEAD_BYTES;
        }
        let whole = COLUMN_HEAD_BYTES + length;
        if bytes.len() < whole {
            return 0;
        }
        self.out.put_slice(&bytes[..whole]);
        self.at = At::Column(left - 1);
        whole
    }

    fn raw(&mut self, bytes: &[u8]) -> usize {
        self.texts = Texts::Whole;
        self.out.put_slice(bytes);
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::pgoutput::{Column, Message, OldRow, decode, decode_with};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn texts() -> (tempfile::TempDir, LongTexts) {
        let dir = tempfile::tempdir().unwrap();
        let texts = LongTexts::new(dir.path().to_owned());
        (dir, texts)
    }

    fn tuple(out: &mut Vec<u8>, kind: u8, lengths: &[Option<usize>]) {
        out.push(kind);
        out.extend((lengths.len() as u16).to_be_bytes());
        for length in lengths {
            match length {
                None => out.push(b'n'),
                Some(length) => {
                    out.push(b't');
                    out.extend((*length as u32).to_be_bytes());
                    out.extend((0..*length).map(|n| b'a' + (n % 23) as u8));
                }
            }
        }
    }

    fn update(old: &[Option<usize>], new: &[Option<usize>]) -> Vec<u8> {
        let mut out = vec![b'w'];
        out.extend([0; 24]);
        out.push(b'U');
        out.extend(7u32.to_be_bytes());
        tuple(&mut out, b'O', old);
        tuple(&mut out, b'N', new);
        out
    }

    /// Feeds in chunks of this size.
    fn condense(message: &[u8], chunk: usize, texts: &LongTexts) -> Condensed {
        let mut condenser = Condenser::new(message.len());
        let mut incoming = BytesMut::new();
        for (number, bytes) in message.chunks(chunk).enumerate() {
            incoming.extend_from_slice(bytes);
            if let Some(done) = condenser.feed(&mut incoming, texts).unwrap() {
                assert_eq!(number, (message.len() - 1) / chunk, "done too early");
                assert!(incoming.is_empty());
                return done;
            }
        }
        panic!("never done");
    }

    fn check_column(column: Column<'_>, length: Option<usize>, texts: &LongTexts) {
        match (column, length) {
            (Column::Null, None) => {}
            (Column::Text(text), Some(length)) => {
                assert!(text.len() == length && !is_long(length));
            }
            (Column::Long(long), Some(length)) => {
                assert!(is_long(length) && long.value.bytes == length as u64);
                let (mut hasher, mut read) = (Hasher::new(), 0);
                while read < long.value.bytes {
                    let piece = texts.piece(&long, read).unwrap();
                    hasher.update(piece.as_bytes());
                    read += piece.len() as u64;
                }
                assert_eq!(*hasher.finalize().as_bytes(), long.value.hash);
            }
            (column, length) => panic!("{column:?} for {length:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn long_texts_are_put_aside_and_the_rest_stays(
            columns in vec(proptest::option::of(prop_oneof![0..50usize, 262_140..262_150usize, Just(1_500_000)]), 1..5),
            chunk in prop_oneof![Just(777usize), Just(65_536), Just(10_000_000)],
        ) {
            let (_dir, texts) = texts();
            let message = update(&columns, &columns);
            let condensed = condense(&message, chunk, &texts);
            let decoded = decode_with(&condensed.body[HEAD_BYTES..], condensed.texts).unwrap();
            let Message::Update(update) = decoded else { panic!("{decoded:?}") };
            let Some(OldRow::Full(old)) = update.old else { panic!("no old row") };
            for tuple in [old, update.new] {
                prop_assert_eq!(usize::from(tuple.column_count()), columns.len());
                for (column, length) in tuple.columns().zip(&columns) {
                    check_column(column, *length, &texts);
                }
            }
        }
    }

    /// Nothing is lost of what is no row, and of what is cut short.
    #[test]
    fn other_messages_pass_as_they_are() {
        let (_dir, texts) = texts();
        let mut logical = vec![b'w'];
        logical.extend([0; 24]);
        logical.push(b'M');
        logical.extend(vec![7; 400_000]);
        let whole = |body| Condensed { body, texts: Texts::Whole };
        assert_eq!(condense(&logical, 1000, &texts), whole(logical.into()));
        let row = update(&[Some(10)], &[Some(300_000)]);
        let cut = &row[..row.len() - 1];
        let passed = condense(cut, 1000, &texts);
        assert!(decode(&passed.body[HEAD_BYTES..]).is_err());
        assert_eq!(condense(&row[..3], 1, &texts), whole(Bytes::copy_from_slice(&row[..3])));
        assert_eq!(passed.texts, Texts::Whole);
    }
}
