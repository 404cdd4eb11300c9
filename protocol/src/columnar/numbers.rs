//! Sequences of numbers: first how many bytes each of them has, then all lowest bytes, all second
//! ones, and so on. Bytes that mean the same so stand beside each other, and a number takes as many
//! as it needs.

use crate::codec::{DecodeError, Reader};
use crate::columnar::{BAD, CUT_BYTES};

/// Bytes of the longest number.
const PLANES: usize = 8;

/// What is written behind the directory, with the places where bytes of another kind begin.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) cuts: Vec<usize>,
}

impl Body {
    /// Marks the beginning of `length` bytes of another kind, if there are enough on both sides.
    pub(super) fn cut(&mut self, length: usize) {
        let since = self.bytes.len() - self.cuts.last().copied().unwrap_or(0);
        if since >= CUT_BYTES && length >= CUT_BYTES {
            self.cuts.push(self.bytes.len());
        }
    }

    /// Writes sequences that are read together: all lengths, then all bytes.
    pub(super) fn put(&mut self, sequences: &[&[u64]]) {
        for sequence in sequences {
            self.cut(sequence.len());
            self.bytes.extend(sequence.iter().map(|number| bytes_of(*number) as u8));
        }
        for sequence in sequences {
            let most = sequence.iter().map(|number| bytes_of(*number)).max().unwrap_or(0);
            for plane in 0..most {
                self.put_plane(sequence, plane);
            }
        }
    }

    fn put_plane(&mut self, sequence: &[u64], plane: usize) {
        self.cut(sequence.len());
        let shift = 8 * plane;
        let reaching = sequence.iter().map(|number| number >> shift).filter(|rest| *rest != 0);
        self.bytes.extend(reaching.map(|rest| rest as u8));
    }
}

/// How many bytes a number has; 0 has none.
fn bytes_of(number: u64) -> usize {
    PLANES - number.leading_zeros() as usize / 8
}

/// A sequence that is being read.
#[derive(Clone, Debug)]
pub(super) struct Numbers<'a> {
    lengths: &'a [u8],
    planes: [&'a [u8]; PLANES],
}

impl<'a> Numbers<'a> {
    /// Takes sequences of so many numbers each.
    pub(super) fn take(
        from: &mut Reader<'a>,
        counts: impl Iterator<Item = usize>,
    ) -> Result<Vec<Self>, DecodeError> {
        let mut all = Vec::new();
        for count in counts {
            all.push(Self { lengths: from.raw(count)?, planes: [&[]; PLANES] });
        }
        for one in &mut all {
            let mut having = [0usize; PLANES + 1];
            for length in one.lengths {
                *having.get_mut(usize::from(*length)).ok_or(BAD)? += 1;
            }
            let mut reaching = one.lengths.len();
            for (place, plane) in one.planes.iter_mut().enumerate() {
                reaching -= having[place];
                *plane = from.raw(reaching)?;
            }
        }
        Ok(all)
    }

    /// The next number.
    pub(super) fn next(&mut self) -> Result<u64, DecodeError> {
        let (length, rest) = self.lengths.split_first().ok_or(BAD)?;
        self.lengths = rest;
        let mut number = 0;
        for (place, plane) in self.planes.iter_mut().take(usize::from(*length)).enumerate() {
            let (byte, rest) = plane.split_first().ok_or(BAD)?;
            *plane = rest;
            number |= u64::from(*byte) << (8 * place);
        }
        Ok(number)
    }

    /// The next number, of something that is in memory.
    pub(super) fn next_length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.next()?).map_err(|_| BAD)
    }

    /// The sum of all that are left, if it is not over a limit.
    pub(super) fn sum(&self, limit: usize) -> Result<usize, DecodeError> {
        let mut rest = self.clone();
        let mut sum = 0usize;
        while !rest.lengths.is_empty() {
            sum = sum.checked_add(rest.next_length()?).filter(|sum| *sum <= limit).ok_or(BAD)?;
        }
        Ok(sum)
    }
}
