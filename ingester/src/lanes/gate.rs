//! The sluice gate: how long records are gathered before they are sent to the database.
//!
//! All gates open at the ticks of one clock, so that small batches of several partitions can
//! share a transaction. The clock ticks every half of the batching delay, so a record that
//! also waits for the previous batch is still sent within the delay. The first batch after a
//! take-over does not wait, because its records have waited already. A full batch opens the
//! gate at once, so under backlog it never waits.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::Batch;
use crate::config::run::GateSettings;

/// Rows of one batch at most, however many changes its records have: a quarter of what the extension takes.
const MAX_ROWS: usize = ledger::contract::MAX_BATCH_ROWS / 4;

/// The first tick of all gates.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

pub struct Gate {
    settings: GateSettings,
    first: Option<Instant>,
    /// Records from before the take-over have waited already.
    is_first: bool,
}

impl Gate {
    pub fn new(settings: &GateSettings) -> Self {
        Self {
            settings: settings.clone(),
            first: None,
            is_first: true,
        }
    }

    pub fn first_arrived(&mut self, now: Instant) {
        self.first = Some(now);
    }

    /// The batch was sent.
    pub fn close(&mut self) {
        self.first = None;
        self.is_first = false;
    }

    /// How long the first record has waited.
    pub fn waited(&self) -> Option<Duration> {
        self.first.map(|first| first.elapsed())
    }

    /// When the gate opens for a batch that is not full.
    pub fn opens_at(&self) -> Option<Instant> {
        let tick = self.settings.batching_delay / 2;
        self.first.map(|first| match self.is_first {
            true => first,
            false => next_tick(first, tick),
        })
    }

    pub fn is_full(&self, batch: &Batch) -> bool {
        batch.records() >= self.settings.batch_size
            || batch.bytes() >= self.settings.batch_bytes
            || batch.rows() >= MAX_ROWS
    }

    pub fn is_open(&self, batch: &Batch, now: Instant) -> bool {
        !batch.is_empty() && (self.is_full(batch) || self.opens_at().is_none_or(|time| now >= time))
    }
}

/// The first tick at or after a time.
fn next_tick(time: Instant, tick: Duration) -> Instant {
    if tick.is_zero() {
        return time;
    }
    let since = time.saturating_duration_since(*CLOCK).as_nanos();
    let ticks = since.div_ceil(tick.as_nanos());
    *CLOCK + Duration::from_nanos((ticks * tick.as_nanos()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::record::{Kind, Record};

    const DELAY: Duration = Duration::from_millis(30);

    fn settings(batch_size: usize, batch_bytes: usize) -> GateSettings {
        GateSettings {
            batch_size,
            batch_bytes,
            max_event_bytes: usize::MAX,
            batching_delay: DELAY,
        }
    }

    fn push(batch: &mut Batch, offset: i64) {
        batch.push(Record {
            offset,
            timestamp_ms: 0,
            key: None,
            payload: Some(b"{}"),
            headers: None,
        });
    }

    #[test]
    fn an_empty_gate_stays_shut() {
        let gate = Gate::new(&settings(2, 1 << 20));
        assert!(!gate.is_open(&Batch::new(Kind::Balance, 7), Instant::now()));
        assert_eq!(gate.opens_at(), None);
    }

    #[test]
    fn gates_open_together_and_no_record_waits_for_longer_than_half_the_delay() {
        let start = *CLOCK + DELAY / 3;
        let mut gates = [0, 7, 19].map(|ms| {
            let mut gate = Gate::new(&settings(100, 1 << 20));
            gate.close();
            gate.first_arrived(start + Duration::from_millis(ms));
            gate
        });
        let mut batch = Batch::new(Kind::Balance, 0);
        push(&mut batch, 0);
        for (gate, ms) in gates.iter().zip([0, 7, 19]) {
            let first = start + Duration::from_millis(ms);
            let opens = gate.opens_at().expect("a record waits");
            assert!(opens >= first && opens < first + DELAY / 2);
            assert_eq!((opens - *CLOCK).as_nanos() % (DELAY / 2).as_nanos(), 0);
        }
        let gate = &mut gates[0];
        let tick = gate.opens_at().expect("a record waits");
        assert!(!gate.is_open(&batch, tick - Duration::from_nanos(1)));
        assert!(gate.is_open(&batch, tick));
    }

    #[test]
    fn the_first_batch_goes_as_soon_as_it_is_there() {
        let mut gate = Gate::new(&settings(100, 1 << 20));
        let mut batch = Batch::new(Kind::Balance, 0);
        let now = *CLOCK + DELAY / 3;
        gate.first_arrived(now);
        push(&mut batch, 0);
        assert!(gate.is_open(&batch, now));
        gate.close();
        gate.first_arrived(now);
        assert!(!gate.is_open(&batch, now));
    }

    #[test]
    fn a_full_batch_opens_the_gate_at_once() {
        let now = Instant::now();
        for limits in [settings(2, 1 << 20), settings(100, 100)] {
            let mut gate = Gate::new(&limits);
            let mut batch = Batch::new(Kind::Balance, 0);
            gate.first_arrived(now);
            push(&mut batch, 0);
            push(&mut batch, 1);
            assert!(gate.is_full(&batch) && gate.is_open(&batch, now));
        }
    }

    #[test]
    fn offsets_without_records_go_through_without_a_wait() {
        let gate = Gate::new(&settings(2, 1 << 20));
        let mut batch = Batch::new(Kind::Balance, 7);
        batch.extend_to(9);
        assert!(gate.is_open(&batch, Instant::now()));
    }
}
