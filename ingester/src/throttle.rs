//! A lasting problem is logged at once, and again after an interval.

use std::time::{Duration, Instant};

/// The throttle of one subject.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    last: Option<Instant>,
}

impl Throttle {
    pub fn every(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
        }
    }

    /// Whether a line is due; if so, the next one is due an interval later.
    pub fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() > self.interval);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }

    /// The problem is over: the next one is logged at once. Returns whether there was one.
    pub fn over(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_at_once_and_then_only_after_a_while() {
        let mut rare = Throttle::every(Duration::from_secs(3600));
        assert!(!rare.over(), "nothing was said");
        assert_eq!([rare.is_due(), rare.is_due()], [true, false]);
        assert!(rare.over());
        assert_eq!([rare.is_due(), rare.is_due()], [true, false]);
        let mut always = Throttle::every(Duration::ZERO);
        assert!(always.is_due());
        std::thread::sleep(Duration::from_millis(1));
        assert!(always.is_due());
    }
}
