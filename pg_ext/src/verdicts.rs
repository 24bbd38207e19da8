//! Verdicts with a row of their own: those that cannot be derived from the log of balances.

use ledger::verdict::Verdict;

use crate::partition::fence::Fenced;
use crate::pg::session;
use crate::pg::verdicts::{self, VerdictRow};

/// The id, source and time of an event, as far as they could be read.
#[derive(Clone, Default)]
pub struct EventName {
    pub event_id: Option<String>,
    pub source: Option<String>,
    /// In microseconds since 1970.
    pub time_us: Option<i64>,
}

/// Rows for `ledger.verdicts`.
#[derive(Default)]
pub struct Verdicts(Vec<VerdictRow>);

impl Verdicts {
    pub fn push(
        &mut self,
        offset: i64,
        event: EventName,
        verdict: Verdict,
        reason: Option<String>,
    ) {
        self.0.push(VerdictRow {
            kafka_offset: offset,
            event_id: event.event_id,
            source: event.source,
            event_time: event.time_us.map(session::timestamp),
            verdict: verdict.as_str(),
            reason,
        });
    }

    pub fn write(&self, fenced: &Fenced) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        verdicts::append(fenced.partition_id(), &self.0)
    }
}
