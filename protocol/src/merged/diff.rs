//! What two versions of a sequence have in common, and what of a text was replaced.
//!
//! The way is Myers', "An O(ND) Difference Algorithm and Its Variations" (1986), given up beyond a
//! number of differences: then all between the common beginning and the common end counts as
//! replaced. So the time that it takes is bounded by the lengths, and no clock decides what is found.

use std::ops::Range;

/// Differences beyond which nobody looks for the shortest way. Memory for the search grows with the
/// square of it, to 8 MiB.
const DIFFERENCES_MAX: usize = 1000;

/// A stretch that two sequences have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Common {
    /// Where it begins in the earlier one.
    pub(super) before: usize,
    /// Where it begins in the later one.
    pub(super) after: usize,
    /// How long it is.
    pub(super) count: usize,
}

/// What stood between two common stretches, and what stands there now. One of them may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    /// In the earlier sequence.
    pub(super) before: Range<usize>,
    /// In the later one.
    pub(super) after: Range<usize>,
}

/// The common stretches of two sequences, in order, none of them empty and no two adjacent in both.
pub(super) fn common<T: Eq>(before: &[T], after: &[T]) -> Vec<Common> {
    let pairs = before.iter().zip(after);
    let head = pairs.take_while(|(one, two)| one == two).count();
    let (rest_before, rest_after) = (&before[head..], &after[head..]);
    let pairs = rest_before.iter().rev().zip(rest_after.iter().rev());
    let tail = pairs.take_while(|(one, two)| one == two).count();
    let middle_before = &rest_before[..rest_before.len() - tail];
    let middle_after = &rest_after[..rest_after.len() - tail];
    let mut found = Vec::new();
    push(&mut found, Common { before: 0, after: 0, count: head });
    for (one, two) in matches(middle_before, middle_after) {
        push(&mut found, Common { before: head + one, after: head + two, count: 1 });
    }
    let (before, after) = (before.len() - tail, after.len() - tail);
    push(&mut found, Common { before, after, count: tail });
    found
}

fn push(found: &mut Vec<Common>, next: Common) {
    match found.last_mut() {
        Some(last)
            if last.before + last.count == next.before && last.after + last.count == next.after =>
        {
            last.count += next.count;
        }
        _ if next.count > 0 => found.push(next),
        _ => {}
    }
}

/// What lies between the common stretches of sequences of these lengths.
pub(super) fn between(common: &[Common], before: usize, after: usize) -> Vec<Replaced> {
    let end = Common { before, after, count: 0 };
    let (mut at_before, mut at_after) = (0, 0);
    let mut replaced = Vec::new();
    for next in common.iter().chain([&end]) {
        let gap = Replaced { before: at_before..next.before, after: at_after..next.after };
        if !gap.before.is_empty() || !gap.after.is_empty() {
            replaced.push(gap);
        }
        (at_before, at_after) = (next.before + next.count, next.after + next.count);
    }
    replaced
}

/// Pairs of places that are the same, in order; none when there are too many differences.
fn matches<T: Eq>(before: &[T], after: &[T]) -> Vec<(usize, usize)> {
    if before.is_empty() || after.is_empty() {
        return Vec::new();
    }
    let most = DIFFERENCES_MAX.min(before.len() + after.len());
    let mut reached = vec![0; 2 * most + 1];
    let mut rounds = Vec::new();
    for differences in 0..=most {
        // What was reached before this round, for finding the way back.
        rounds.push(reached[most - differences..=most + differences].to_vec());
        for step in 0..=differences {
            let diagonal = most + 2 * step - differences;
            let (from, down) = previous(&reached, most, differences, diagonal);
            let mut x = if differences == 0 { 0 } else { reached[from] + usize::from(!down) };
            let mut y = x + most - diagonal;
            while x < before.len() && y < after.len() && before[x] == after[y] {
                (x, y) = (x + 1, y + 1);
            }
            reached[diagonal] = x;
            if x >= before.len() && y >= after.len() {
                return way_back(&rounds, before.len(), after.len());
            }
        }
    }
    Vec::new()
}

/// The diagonal from which the furthest place on this one is reached, and whether by going down: by
/// what only the later sequence has. `zero` is the place of the main diagonal.
fn previous(reached: &[usize], zero: usize, round: usize, diagonal: usize) -> (usize, bool) {
    let is_lowest = diagonal + round == zero;
    let is_highest = diagonal == zero + round;
    let down = is_lowest || !is_highest && reached[diagonal - 1] < reached[diagonal + 1];
    match (round, down) {
        (0, _) => (diagonal, true),
        (_, true) => (diagonal + 1, true),
        (_, false) => (diagonal - 1, false),
    }
}

fn way_back(rounds: &[Vec<usize>], mut x: usize, mut y: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (round, reached) in rounds.iter().enumerate().rev() {
        let (from, down) = previous(reached, round, round, round + x - y);
        let came_from = (round > 0).then(|| (reached[from], reached[from] + round - from));
        let began = came_from.map_or(0, |(x, _)| x + usize::from(!down));
        while x > began {
            (x, y) = (x - 1, y - 1);
            found.push((x, y));
        }
        (x, y) = came_from.unwrap_or_default();
    }
    found.reverse();
    found
}

/// A stretch of a text that was replaced: `before` and `after` count characters.
pub(super) type Splice = Replaced;

/// How one text became another, in order. Words are kept or replaced as wholes where they have
/// nothing in common, so that two people's sentences do not mix by the letter; of a word that was
/// changed, what did not change stays.
pub(super) fn splices(before: &[char], after: &[char]) -> Vec<Splice> {
    let (old, new) = (words(before), words(after));
    let (old_words, new_words) = (texts(before, &old), texts(after, &new));
    let mut kept = common(&old_words, &new_words);
    drop_islands(&mut kept, &old_words, &new_words);
    let replaced = between(&kept, old.len(), new.len());
    let chars = |words: &[Range<usize>], range: Range<usize>, length: usize| {
        let begin = words.get(range.start).map_or(length, |word| word.start);
        let end = words.get(range.end).map_or(length, |word| word.start);
        begin..end
    };
    let trimmed = replaced.into_iter().map(|gap| {
        let one = chars(&old, gap.before, before.len());
        let two = chars(&new, gap.after, after.len());
        trim(before, after, one, two)
    });
    trimmed.filter(|splice| !splice.before.is_empty() || !splice.after.is_empty()).collect()
}

/// Stretches of letters and digits, and everything else by itself.
fn words(text: &[char]) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for (at, c) in text.iter().enumerate() {
        match words.last_mut() {
            Some(last) if c.is_alphanumeric() && text[at - 1].is_alphanumeric() => {
                last.end = at + 1
            }
            _ => words.push(at..at + 1),
        }
    }
    words
}

fn texts<'t>(text: &'t [char], words: &[Range<usize>]) -> Vec<&'t [char]> {
    words.iter().map(|word| &text[word.clone()]).collect()
}

/// Leaves out what is common by chance: blanks and stops between words that were all replaced.
fn drop_islands(kept: &mut Vec<Common>, before: &[&[char]], after: &[&[char]]) {
    let says_nothing = |common: &Common| {
        let words = &before[common.before..common.before + common.count];
        words.iter().all(|word| !word[0].is_alphanumeric())
    };
    let mut place = 0;
    while place < kept.len() {
        let (at_before, at_after) = match place.checked_sub(1).map(|last| kept[last]) {
            Some(last) => (last.before + last.count, last.after + last.count),
            None => (0, 0),
        };
        let common = kept[place];
        let next = kept.get(place + 1).map_or((before.len(), after.len()), |n| (n.before, n.after));
        let is_replaced = |one: Range<usize>, two: Range<usize>| !one.is_empty() && !two.is_empty();
        let (end_before, end_after) = (common.before + common.count, common.after + common.count);
        let is_island = is_replaced(at_before..common.before, at_after..common.after)
            && is_replaced(end_before..next.0, end_after..next.1);
        if is_island && says_nothing(&common) {
            kept.remove(place);
        } else {
            place += 1;
        }
    }
}

fn trim(before: &[char], after: &[char], one: Range<usize>, two: Range<usize>) -> Splice {
    let (old, new) = (&before[one.clone()], &after[two.clone()]);
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    Replaced { before: one.start + head..one.end - tail, after: two.start + head..two.end - tail }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spliced(before: &str, after: &str) -> Vec<(String, String)> {
        let (before, after): (Vec<char>, Vec<char>) =
            (before.chars().collect(), after.chars().collect());
        let text = |chars: &[char]| chars.iter().collect();
        let splices = splices(&before, &after).into_iter();
        splices.map(|s| (text(&before[s.before]), text(&after[s.after]))).collect()
    }

    fn check(before: &str, after: &str, due: &[(&str, &str)]) {
        let found = spliced(before, after);
        let found: Vec<_> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(found, due, "{before:?} to {after:?}");
    }

    #[test]
    fn words_are_kept_or_replaced() {
        check("the colour is red", "the color is red", &[("u", "")]);
        check("a b", "a new b", &[("", "new ")]);
        check(
            "one two. three four",
            "uno due. tre quattro",
            &[("one two. three four", "uno due. tre quattro")],
        );
        check("same", "same", &[]);
        check("", "x", &[("", "x")]);
    }

    /// The length of the longest common subsequence.
    fn longest(before: &[u8], after: &[u8]) -> usize {
        let mut table = vec![vec![0; after.len() + 1]; before.len() + 1];
        for (i, one) in before.iter().enumerate() {
            for (j, two) in after.iter().enumerate() {
                let skip = table[i][j + 1].max(table[i + 1][j]);
                table[i + 1][j + 1] = if one == two { table[i][j] + 1 } else { skip };
            }
        }
        table[before.len()][after.len()]
    }

    #[test]
    fn too_many_differences_end_the_search() {
        let before: Vec<u32> = (0..3000).collect();
        let after: Vec<u32> = (0..3000).map(|n| if n % 2 == 1 { n } else { n + 9000 }).collect();
        let kept = common(&before, &after);
        assert_eq!(kept, [Common { before: 2999, after: 2999, count: 1 }]);
    }

    proptest! {
        #[test]
        fn what_is_common_is_as_long_as_can_be(
            before in proptest::collection::vec(0u8..4, 0..30),
            after in proptest::collection::vec(0u8..4, 0..30),
        ) {
            let kept = common(&before, &after);
            for stretch in &kept {
                let one = &before[stretch.before..stretch.before + stretch.count];
                prop_assert_eq!(one, &after[stretch.after..stretch.after + stretch.count]);
            }
            let length: usize = kept.iter().map(|stretch| stretch.count).sum();
            // What begins and ends alike is kept first, which is never shorter.
            prop_assert_eq!(length, longest(&before, &after));
            let mut made = before.clone();
            for gap in between(&kept, before.len(), after.len()).into_iter().rev() {
                made.splice(gap.before, after[gap.after].iter().copied());
            }
            prop_assert_eq!(made, after);
        }

        #[test]
        fn splices_make_the_later_text(before in "[ab ,.é]{0,40}", after in "[ab ,.é]{0,40}") {
            let (before, after): (Vec<char>, Vec<char>) = (before.chars().collect(), after.chars().collect());
            let mut made = before.clone();
            for splice in splices(&before, &after).into_iter().rev() {
                made.splice(splice.before, after[splice.after].iter().copied());
            }
            prop_assert_eq!(made, after);
        }
    }
}
