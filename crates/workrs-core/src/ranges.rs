//! Sets of bytes of a file, such as those that changed.

use std::ops::Range;

/// A set of byte positions: ranges in ascending order that neither overlap nor touch, none of them empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByteRanges(Vec<Range<u64>>);

impl ByteRanges {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// Whether it has nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of bytes in it.
    pub fn len_bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether a byte of `range` is in it.
    pub fn intersects(&self, range: Range<u64>) -> bool {
        let next = self.0.partition_point(|own| own.end <= range.start);
        range.start < range.end && self.0.get(next).is_some_and(|own| own.start < range.end)
    }

    /// All that is in it or in `other`.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }
}

impl FromIterator<Range<u64>> for ByteRanges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| range.start < range.end).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((0u64..60, 0u64..12).prop_map(|(start, len)| start..start + len), 0..12)
    }

    fn has(ranges: &[Range<u64>], at: u64) -> bool {
        ranges.iter().any(|range| range.contains(&at))
    }

    proptest! {
        #[test]
        fn a_set_holds_exactly_what_was_put_in(ours in ranges(), theirs in ranges(), start in 0u64..70, len in 0u64..9) {
            let (a, b): (ByteRanges, ByteRanges) = (ours.iter().cloned().collect(), theirs.iter().cloned().collect());
            let both = a.union(&b);
            let expected = (0..80).filter(|at| has(&ours, *at) || has(&theirs, *at)).count() as u64;
            prop_assert_eq!(both.len_bytes(), expected);
            prop_assert!(both.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(a.intersects(start..start + len), (start..start + len).any(|at| has(&ours, at)));
        }
    }
}
