//! Texts that several people write at once.
//!
//! Every character has an [`Id`] and remembers after which one it was put. The text is what one gets
//! by putting them down in the order of their ids, each right behind the one that it follows, and
//! leaving out those that somebody deleted. Ids grow with time, so whoever writes in knowledge of
//! others finds what it wrote where it wrote it; of two who wrote at the same place at once, the
//! later comes first, each whole. (That is a replicated growable array, Roh et al. 2011, defined by
//! replay.)
//!
//! What is kept is the set of all that was put and of all that was deleted. Sets join in any order
//! and as often as one likes.

use std::collections::BTreeMap;
use std::ops::Range;

use super::COUNT_MAX;
use super::diff::splices;
use super::id::{Id, Stamps, Stretches};
use super::sequence::Sequence;
use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, Writer};

/// Longest text that is put in one place.
const PUT_BYTES_MAX: usize = 1 << 20;

/// What one transaction did to a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextEdit {
    /// Stretches with the character that each follows; none begins the text. Their characters are
    /// numbered through.
    puts: Vec<(Option<Id>, Box<str>)>,
    /// What it deleted: first ids and lengths.
    gone: Vec<(Id, u32)>,
}

/// What was done to a text since its birth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// By the id of the first character.
    puts: BTreeMap<Id, Put>,
    gone: Stretches,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Put {
    after: Option<Id>,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Here(Box<str>),
    /// All of these many characters were deleted: they only hold the place for what follows them.
    Gone(u32),
}

impl TextEdit {
    /// What made `after` of the text that was born as `base` and shows `before`; `None` when the
    /// two do not belong together.
    pub fn between(text: &Text, base: &str, before: &str, after: &str) -> Option<Self> {
        let standing = text.standing(base);
        let old: Vec<char> = standing.iter().flat_map(|(_, chars)| chars).copied().collect();
        if !old.iter().copied().eq(before.chars()) {
            return None;
        }
        let new: Vec<char> = after.chars().collect();
        let mut edit = Self::default();
        let mut gone = Stretches::default();
        for splice in splices(&old, &new) {
            if !splice.after.is_empty() {
                let last = splice.before.start.checked_sub(1);
                let after = last.and_then(|at| pieces(&standing, at..at + 1).next());
                let after = after.map(|(id, _)| id);
                edit.puts.push((after, new[splice.after].iter().collect()));
            }
            for (first, count) in pieces(&standing, splice.before) {
                gone.add(first, count);
            }
        }
        edit.gone = gone.iter().collect();
        Some(edit)
    }

    /// What it put, for humans.
    pub fn told(&self) -> String {
        let put: Vec<&str> = self.puts.iter().map(|(_, text)| &**text).collect();
        put.join(" … ")
    }

    fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        let gone = self.gone.iter().map(|(first, _)| *first);
        self.puts.iter().filter_map(|(after, _)| *after).chain(gone)
    }

    fn stretches(&self) -> Stretches {
        let mut stretches = Stretches::default();
        self.gone.iter().for_each(|(first, count)| stretches.add(*first, *count));
        stretches
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        let stamps = Stamps::of(self.ids());
        stamps.encode(out);
        out.varint(self.puts.len() as u64);
        for (after, text) in &self.puts {
            stamps.put_option(*after, out);
            out.text(text);
        }
        self.stretches().encode(&stamps, out);
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stamps = Stamps::decode(from)?;
        let mut edit = Self::default();
        for _ in 0..from.count(COUNT_MAX)? {
            let after = stamps.get_option(from)?;
            let text = from.text(PUT_BYTES_MAX)?;
            if text.is_empty() {
                return Err(DecodeError::NotCanonical("stretch of a text"));
            }
            edit.puts.push((after, text.into()));
        }
        edit.gone = Stretches::decode(&stamps, from)?.iter().collect();
        stamps.all_named(edit.ids())?;
        Ok(edit)
    }
}

/// The ids of a range of the characters that stand.
fn pieces(
    standing: &[(Id, Vec<char>)],
    range: Range<usize>,
) -> impl Iterator<Item = (Id, u32)> + '_ {
    let mut begin = 0;
    standing.iter().filter_map(move |(first, chars)| {
        let (from, end) = (range.start.max(begin), range.end.min(begin + chars.len()));
        let first = first.further(from.saturating_sub(begin) as u32);
        begin += chars.len();
        (from < end).then(|| (first, (end - from) as u32))
    })
}

impl Text {
    /// Takes what the transaction of this stamp did.
    pub fn join(&mut self, stamp: Stamp, edit: &TextEdit) {
        let mut id = Id { by: Some(stamp), number: 0 };
        for (after, text) in &edit.puts {
            let put = || Put { after: *after, content: Content::Here(text.clone()) };
            self.puts.entry(id).or_insert_with(put);
            id = id.further(text.chars().count() as u32);
        }
        self.gone.join(&edit.stretches());
        self.forget();
    }

    /// Forgets the content of what is deleted as a whole.
    fn forget(&mut self) {
        for (first, put) in &mut self.puts {
            if let Content::Here(text) = &put.content {
                let rest = self.gone.rest(*first);
                if rest > 0 && rest as usize >= text.chars().count() {
                    put.content = Content::Gone(text.chars().count() as u32);
                }
            }
        }
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.gone.is_empty()
    }

    /// The text that was born as `base`.
    pub fn shown(&self, base: &str) -> String {
        self.standing(base).into_iter().flat_map(|(_, chars)| chars).collect()
    }

    /// What is not deleted, in order, with the ids of the first characters.
    fn standing(&self, base: &str) -> Vec<(Id, Vec<char>)> {
        let mut contents: BTreeMap<Id, Vec<char>> = BTreeMap::new();
        contents.insert(Id::FIRST, base.chars().collect());
        let mut sequence = Sequence::default();
        sequence.put(Id::FIRST, contents[&Id::FIRST].len() as u32, None);
        for (first, put) in &self.puts {
            let count = match &put.content {
                Content::Here(text) => {
                    contents.insert(*first, text.chars().collect());
                    contents[first].len() as u32
                }
                Content::Gone(count) => *count,
            };
            // Of what follows something unknown nothing shows until that is known.
            sequence.put(*first, count, put.after);
        }
        let mut standing = Vec::new();
        for (first, count) in sequence.iter() {
            let source = contents.range(Id { number: 0, ..first }..=first).next_back();
            let chars = source.and_then(|(begin, chars)| {
                let from = (first.number - begin.number) as usize;
                chars.get(from..from + count as usize)
            });
            self.standing_of(first, chars.unwrap_or_default(), &mut standing);
        }
        standing
    }

    /// What of these characters is not deleted.
    fn standing_of(&self, mut at: Id, mut chars: &[char], standing: &mut Vec<(Id, Vec<char>)>) {
        while !chars.is_empty() {
            let kept = self.gone.gap(at, chars.len() as u32);
            let (stays, rest) = chars.split_at(kept as usize);
            if !stays.is_empty() {
                standing.push((at, stays.to_vec()));
            }
            at = at.further(kept);
            let gone = self.gone.rest(at).min(rest.len() as u32);
            (at, chars) = (at.further(gone), &rest[gone as usize..]);
        }
    }

    /// Every id that is named.
    fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        let puts = self.puts.iter().flat_map(|(first, put)| [Some(*first), put.after]);
        puts.flatten().chain(self.gone.iter().map(|(first, _)| first))
    }

    /// The stamps of the transactions that put something.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.ids().filter_map(|id| id.by)
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        let stamps = Stamps::of(self.ids());
        stamps.encode(out);
        out.varint(self.puts.len() as u64);
        for (first, put) in &self.puts {
            stamps.put(*first, out);
            stamps.put_option(put.after, out);
            match &put.content {
                Content::Here(text) => {
                    out.u8(1);
                    out.text(text);
                }
                Content::Gone(count) => {
                    out.u8(0);
                    out.varint(u64::from(*count));
                }
            }
        }
        self.gone.encode(&stamps, out);
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or in another form.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stamps = Stamps::decode(from)?;
        let mut text = Self::default();
        for _ in 0..from.count(COUNT_MAX)? {
            let first = stamps.get(from)?;
            let after = stamps.get_option(from)?;
            let content = match from.u8()? {
                0 => Content::Gone(
                    u32::try_from(from.varint()?).map_err(|_| DecodeError::BadNumber)?,
                ),
                1 => Content::Here(from.text(PUT_BYTES_MAX)?.into()),
                tag => return Err(DecodeError::UnknownTag { what: "stretch of a text", tag }),
            };
            if text.puts.last_key_value().is_some_and(|(last, _)| *last >= first) {
                return Err(DecodeError::NotCanonical("stretches of a text"));
            }
            text.puts.insert(first, Put { after, content });
        }
        text.gone = Stretches::decode(&stamps, from)?;
        stamps.all_named(text.ids())?;
        let mut forgetful = text.clone();
        forgetful.forget();
        match forgetful == text {
            true => Ok(text),
            false => Err(DecodeError::NotCanonical("deleted stretch of a text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merged::tests::{deliveries, stamp};

    fn edit(text: &mut Text, base: &str, after: &str, by: Stamp) -> TextEdit {
        let before = text.shown(base);
        let edit = TextEdit::between(text, base, &before, after).unwrap();
        text.join(by, &edit);
        assert_eq!(text.shown(base), after, "what is written is what shows");
        edit
    }

    fn merged(base: &str, one: &str, two: &str) -> String {
        let (mut text, mut other) = (Text::default(), Text::default());
        let (first, second) = (stamp(1, 1), stamp(2, 2));
        let by_one = edit(&mut text, base, one, first);
        let by_two = edit(&mut other, base, two, second);
        text.join(second, &by_two);
        other.join(first, &by_one);
        assert_eq!(text, other);
        text.shown(base)
    }

    #[test]
    fn what_two_people_write_is_all_there() {
        assert_eq!(merged("one\ntwo\n", "one!\ntwo\n", "one\ntwo?\n"), "one!\ntwo?\n");
        assert_eq!(merged("a b c", "a c", "a b d c"), "a d c");
        assert_eq!(merged("the colour", "the color", "the colours"), "the colors");
        assert_eq!(merged("", "first", "second"), "secondfirst");
        assert_eq!(merged("x", "", "x and y"), " and y");
    }

    #[test]
    fn what_is_deleted_takes_no_room() {
        let (base, mut text) = ("", Text::default());
        edit(&mut text, base, &"long ".repeat(100), stamp(1, 1));
        edit(&mut text, base, "", stamp(1, 2));
        let mut out = Writer::new();
        text.encode(&mut out);
        assert!(out.len() < 60, "{}", out.len());
    }

    proptest! {
        /// Three people write and hear of each other in any order: all who know the same show the
        /// same, and nothing is lost that nobody deleted.
        #[test]
        fn texts_agree_and_lose_nothing(
            steps in proptest::collection::vec((0usize..3, 0usize..40, 0usize..4, 0usize..3), 1..24),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 24),
        ) {
            let base = "the quick brown fox";
            let mut sites = [Text::default(), Text::default(), Text::default()];
            let mut edits: Vec<(Stamp, TextEdit)> = Vec::new();
            let (mut heard, mut deleted) = ([0; 3], Vec::new());
            for (time, (site, at, delete, hear)) in steps.into_iter().enumerate() {
                // Whoever writes has heard of some of what was written before.
                let news = edits.iter().skip(heard[site]).take(hear * 3);
                heard[site] += news.map(|(by, edit)| sites[site].join(*by, edit)).count();
                let mut chars: Vec<char> = sites[site].shown(base).chars().collect();
                let at = at.min(chars.len());
                let end = (at + delete).min(chars.len());
                // A letter of its own for every write.
                let letter = char::from_u32(0x4e00 + time as u32).unwrap();
                deleted.extend(chars.splice(at..end, [letter, ' ']));
                let written: String = chars.into_iter().collect();
                let by = stamp(site as u16, time as u64 + 1);
                let made = edit(&mut sites[site], base, &written, by);
                edits.push((by, made));
            }
            let join = |text: &mut Text, by, edit: &TextEdit| text.join(by, edit);
            let [one, two] = deliveries(&edits, &order, join);
            prop_assert_eq!(&one, &two);
            let shown = one.shown(base);
            for time in 0..edits.len() {
                let letter = char::from_u32(0x4e00 + time as u32).unwrap();
                prop_assert_eq!(shown.contains(letter), !deleted.contains(&letter), "{}", shown);
            }
            let mut out = Writer::new();
            one.encode(&mut out);
            let bytes = out.into_bytes();
            prop_assert_eq!(Text::decode(&mut Reader::new(&bytes)), Ok(one));
            for (_, edit) in edits {
                let mut out = Writer::new();
                edit.encode(&mut out);
                let bytes = out.into_bytes();
                prop_assert_eq!(TextEdit::decode(&mut Reader::new(&bytes)), Ok(edit));
            }
        }
    }
}
