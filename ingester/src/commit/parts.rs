//! How a batch that the database refuses is divided: in halves, or around the one record to bury.

use std::ops::Range;

/// Parts of a batch that are not committed yet, by the indexes of their records; the earliest last.
pub struct Parts(Vec<Range<usize>>);

impl Parts {
    pub fn whole(records: usize) -> Self {
        Self(std::iter::once(0..records).collect())
    }

    /// Takes it out.
    pub fn earliest(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// Replaces a part of two or more records by its halves.
    pub fn halve(&mut self, part: &Range<usize>) {
        let middle = part.start + part.len() / 2;
        self.0.push(middle..part.end);
        self.0.push(part.start..middle);
    }

    /// Divides a part so that the record at this index is a part of its own.
    pub fn set_apart(&mut self, part: &Range<usize>, at: usize) {
        let around = [at + 1..part.end, at..at + 1, part.start..at];
        self.0
            .extend(around.into_iter().filter(|part| !part.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is refused, each record is done once, in order, and what is refused is done alone.
        #[test]
        fn a_refused_batch_loses_no_record_and_keeps_their_order(
            records in 1usize..60,
            refused in prop::collection::btree_set(0usize..60, 0..5),
            ordered in prop::option::of(0usize..60),
        ) {
            let mut parts = Parts::whole(records);
            let mut done = Vec::new();
            let mut alone = BTreeSet::new();
            while let Some(part) = parts.earliest() {
                prop_assert!(!part.is_empty());
                match ordered.filter(|at| part.contains(at)) {
                    _ if part.len() == 1 => {
                        alone.insert(part.start);
                        done.extend(part);
                    }
                    Some(at) => parts.set_apart(&part, at),
                    None if part.clone().any(|at| refused.contains(&at)) => parts.halve(&part),
                    None => done.extend(part),
                }
            }
            prop_assert_eq!(done, (0..records).collect::<Vec<_>>());
            let must = refused.into_iter().chain(ordered).filter(|at| *at < records);
            prop_assert!(must.into_iter().all(|at| alone.contains(&at)));
        }
    }

    #[test]
    fn offsets_without_a_record_are_one_part() {
        let mut parts = Parts::whole(0);
        assert_eq!((parts.earliest(), parts.earliest()), (Some(0..0), None));
    }
}
