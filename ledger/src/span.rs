//! Offsets of one partition, as half-open spans: the progress of a partition is the end of its last span.

/// The offsets from `from` up to, and without, `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    from: i64,
    next: i64,
}

impl Span {
    /// A span of these offsets; `None` unless `0 <= from <= next`.
    pub fn new(from: i64, next: i64) -> Option<Self> {
        (0 <= from && from <= next).then_some(Self { from, next })
    }

    /// The first offset.
    pub const fn from(self) -> i64 {
        self.from
    }

    /// The offset behind the last one: where the next span begins.
    pub const fn next(self) -> i64 {
        self.next
    }

    /// Whether it has no offset.
    pub const fn is_empty(self) -> bool {
        self.from == self.next
    }

    /// Whether the offset lies in it.
    pub const fn contains(self, offset: i64) -> bool {
        self.from <= offset && offset < self.next
    }

    /// The parts of it that hold none of the `offsets`, which lie in it and rise.
    pub fn holes(self, offsets: impl IntoIterator<Item = i64>) -> Vec<Self> {
        let mut holes = Vec::new();
        let mut from = self.from;
        for next in offsets.into_iter().chain([self.next]) {
            holes.extend(Self::new(from, next).filter(|hole| !hole.is_empty()));
            from = next + 1;
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from: i64, next: i64) -> Span {
        Span::new(from, next).expect("from <= next")
    }

    #[test]
    fn a_span_is_half_open_and_never_runs_backwards() {
        assert_eq!((Span::new(-1, 3), Span::new(4, 3)), (None, None));
        let span = span(3, 5);
        assert_eq!(
            [2, 3, 4, 5].map(|at| span.contains(at)),
            [false, true, true, false]
        );
        assert!(!span.is_empty() && self::span(3, 3).is_empty());
    }

    #[test]
    fn holes_are_what_is_between_the_records() {
        assert_eq!(span(3, 9).holes([4, 5, 8]), [span(3, 4), span(6, 8)]);
        assert_eq!(span(3, 9).holes([3, 4, 5, 6, 7]), [span(8, 9)]);
        assert_eq!(span(3, 9).holes([]), [span(3, 9)]);
        assert_eq!(span(3, 3).holes([]), []);
    }
}
