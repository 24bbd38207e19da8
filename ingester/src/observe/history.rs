//! Verdicts and delays of the last minutes, of what this instance committed: for the page.
//! Whoever wants them for longer, and of all instances, asks Prometheus.

use std::collections::VecDeque;
use std::sync::Mutex;

use hdrhistogram::Histogram;
use ledger::verdict::Verdict;
use serde_json::{Value, json};

use crate::observe::snapshot::now_ms;

const INTERVAL_MS: i64 = 2_000;
/// Ten minutes.
const INTERVALS: usize = 300;
/// Whatever is older counts as this old: an hour.
const OLDEST_MS: u64 = 3_600_000;

/// What was committed within one interval.
#[derive(Clone, Copy, Default)]
struct Interval {
    counts: [i64; Verdict::ALL.len()],
    delays: Option<Delays>,
}

#[derive(Clone, Copy)]
struct Delays {
    half_ms: u64,
    most_ms: u64,
    longest_ms: u64,
}

struct Inner {
    /// The number of the interval that goes on, counted from 1970.
    number: i64,
    past: VecDeque<Interval>,
    counts: [i64; Verdict::ALL.len()],
    delays_ms: Histogram<u64>,
}

pub struct History(Mutex<Inner>);

impl Default for History {
    fn default() -> Self {
        Self::new(now_ms())
    }
}

impl History {
    fn new(now_ms: i64) -> Self {
        Self(Mutex::new(Inner {
            number: now_ms / INTERVAL_MS,
            past: VecDeque::new(),
            counts: Default::default(),
            delays_ms: Histogram::new_with_bounds(1, OLDEST_MS, 2).expect("bounds that fit"),
        }))
    }

    /// How many records of each verdict.
    pub fn committed(&self, counts: [i64; Verdict::ALL.len()]) {
        let mut inner = self.at(now_ms());
        for (sum, count) in inner.counts.iter_mut().zip(counts) {
            *sum += count;
        }
    }

    /// How old records were at their commit.
    pub fn delayed(&self, delays_ms: impl Iterator<Item = i64>) {
        let mut inner = self.at(now_ms());
        delays_ms.for_each(|ms| inner.delays_ms.saturating_record(ms.max(0) as u64));
    }

    /// Column by column, the oldest interval first, without the one that goes on.
    pub fn tell(&self) -> Value {
        self.tell_at(now_ms())
    }

    fn tell_at(&self, now_ms: i64) -> Value {
        let inner = self.at(now_ms);
        let column = |of: &dyn Fn(&Interval) -> Value| inner.past.iter().map(of).collect();
        let delay = |of: fn(Delays) -> u64| column(&|past: &Interval| json!(past.delays.map(of)));
        let mut told = json!({"interval_ms": INTERVAL_MS, "ends_ms": inner.number * INTERVAL_MS});
        for (verdict, name) in Verdict::ALL.iter().enumerate() {
            told[name.as_str().to_lowercase()] =
                column(&|past: &Interval| json!(past.counts[verdict]));
        }
        told["delay_p50_ms"] = delay(|delays| delays.half_ms);
        told["delay_p99_ms"] = delay(|delays| delays.most_ms);
        told["delay_max_ms"] = delay(|delays| delays.longest_ms);
        told
    }

    /// With all intervals that have ended by then put aside.
    fn at(&self, now_ms: i64) -> std::sync::MutexGuard<'_, Inner> {
        let mut inner = self.0.lock().expect("no panic while held");
        let number = now_ms / INTERVAL_MS;
        // A clock that is set back prolongs the interval that goes on.
        while inner.number < number {
            inner.end();
            let idle = number - inner.number - 1 - INTERVALS as i64;
            inner.number += 1 + idle.max(0);
        }
        inner
    }
}

impl Inner {
    fn end(&mut self) {
        let delays = &self.delays_ms;
        let ended = Interval {
            counts: std::mem::take(&mut self.counts),
            delays: (!delays.is_empty()).then(|| Delays {
                half_ms: delays.value_at_quantile(0.5),
                most_ms: delays.value_at_quantile(0.99),
                longest_ms: delays.max(),
            }),
        };
        self.delays_ms.reset();
        self.past.push_back(ended);
        if self.past.len() > INTERVALS {
            self.past.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_end_with_the_clock_and_are_forgotten() {
        let history = History::new(10_000);
        {
            let mut inner = history.at(10_500);
            inner.counts = [7, 1, 0, 2];
            (1..=100).for_each(|ms| inner.delays_ms.saturating_record(ms));
        }
        assert_eq!(
            history.tell_at(11_999)["applied"],
            json!([]),
            "it goes on yet"
        );
        let told = history.tell_at(14_000);
        assert_eq!(told["ends_ms"], 14_000);
        assert_eq!(told["applied"], json!([7, 0]));
        assert_eq!(told["rejected"], json!([1, 0]));
        assert_eq!(told["duplicate"], json!([0, 0]));
        assert_eq!(told["dead"], json!([2, 0]));
        assert_eq!(told["delay_p50_ms"], json!([50, null]));
        assert_eq!(told["delay_p99_ms"], json!([99, null]));
        assert_eq!(told["delay_max_ms"], json!([100, null]));
        assert_eq!(history.tell_at(9_000)["applied"], told["applied"]);
        let much_later = 14_000 + 10 * INTERVALS as i64 * INTERVAL_MS;
        let told = history.tell_at(much_later);
        assert_eq!(told["ends_ms"], much_later);
        assert_eq!(told["applied"], json!(vec![0; INTERVALS]));
    }
}
