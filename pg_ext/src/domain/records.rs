//! Raw records of domain events, and their decoded part.

use std::ops::Range;

use ledger::identity::{Identity, PayloadHash};
use ledger::span::Span;
use pgrx::PgSqlErrorCode as Code;

use crate::error::raise;

/// Raw Kafka records, column by column, borrowed from the arguments or letters that they came in.
pub struct Records<'r> {
    pub offsets: Vec<i64>,
    pub times_ms: Vec<i64>,
    pub keys: Vec<Option<&'r [u8]>>,
    pub payloads: Vec<Option<&'r [u8]>>,
    pub headers: Vec<Option<&'r str>>,
}

impl Records<'_> {
    /// Refuses columns of different lengths, and offsets that do not rise within the span.
    pub fn check(&self, span: Span) {
        let count = self.offsets.len();
        let columns = [
            self.times_ms.len(),
            self.keys.len(),
            self.payloads.len(),
            self.headers.len(),
        ];
        let rising = self.offsets.windows(2).all(|pair| pair[0] < pair[1]);
        let mut ends = self.offsets.first().into_iter().chain(self.offsets.last());
        let inside = ends.all(|at| span.contains(*at));
        if columns != [count; 4] || !rising || !inside {
            raise(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                "the arrays must be of one length, and kafka_offsets must rise within [from_offset, next_offset)",
            );
        }
    }
}

/// An event, decoded as far as its envelope.
pub struct DomainEvent {
    pub event_id: String,
    pub source: Option<String>,
    pub identity: Identity,
    pub payload_hash: PayloadHash,
    /// Its own time or, if it has none, that of its record.
    pub time_us: i64,
    pub own_time_us: Option<i64>,
    /// The position of `data` in the payload.
    pub data: Range<usize>,
}

impl DomainEvent {
    /// Ordered by event time, then by the offset of its record, then by identity: the greater value is more recent.
    pub fn version(&self, offset: i64) -> Vec<u8> {
        let time = (self.time_us as u64) ^ (1 << 63);
        let (time, offset) = (time.to_be_bytes(), offset.to_be_bytes());
        [&time[..], &offset[..], self.identity.as_bytes()].concat()
    }
}
