//! How long each step of this session's last batch took.

use std::cell::RefCell;
use std::time::{Duration, Instant};

thread_local! {
    static LAST: RefCell<Vec<(&'static str, Duration)>> = const { RefCell::new(Vec::new()) };
}

/// The steps of the current batch.
pub struct Steps {
    since: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    pub fn begin() -> Self {
        Self {
            since: Instant::now(),
            done: Vec::with_capacity(8),
        }
    }

    /// Ends a step; the next one begins.
    pub fn done(&mut self, step: &'static str) {
        let now = Instant::now();
        self.done.push((step, now - self.since));
        self.since = now;
    }

    /// Stores them as those of the last batch.
    pub fn keep(self) {
        LAST.set(self.done);
    }
}

pub fn last() -> Vec<(&'static str, Duration)> {
    LAST.with_borrow(Vec::clone)
}
