//! What follows from no row of the balance log: verdicts, dead letters, and the offsets that
//! hold no record.

use pgrx::spi::SpiClient;

use crate::fence::{Fenced, Span};
use crate::leader::PartitionName;
use crate::pg::session;
use crate::pg::verdicts::{self, VerdictRow};
use crate::statements::run;

const DEAD_LETTERS: &str = "
    INSERT INTO ledger.dead_letters
        (topic, partition, kafka_offset, event_id, error_code, error_message, attempts, key, payload, headers, record_time_ms,
        is_domain, owns_identity)
    SELECT $1, $2, u.kafka_offset, u.event_id, u.error_code, u.error_message, u.attempts, u.key, u.payload, u.headers::jsonb,
        u.record_time_ms, $12, u.owns_identity
    FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::integer[], $8::bytea[], $9::bytea[], $10::text[], $11::bigint[],
            $13::boolean[])
        AS u (kafka_offset, event_id, error_code, error_message, attempts, key, payload, headers, record_time_ms, owns_identity)";

const HOLES: &str = "
    INSERT INTO ledger.offset_holes (partition_id, first_offset, next_offset)
    SELECT $1, u.* FROM unnest($2::bigint[], $3::bigint[]) AS u";

/// What an event calls itself, and when it says that it happened, as far as it could be read.
#[derive(Clone, Default)]
pub struct EventName {
    pub event_id: Option<String>,
    pub source: Option<String>,
    /// In microseconds since 1970.
    pub time_us: Option<i64>,
}

/// Rows of `ledger.verdicts` to be.
#[derive(Default)]
pub struct Verdicts(Vec<VerdictRow>);

impl Verdicts {
    pub fn push(
        &mut self,
        offset: i64,
        event: EventName,
        verdict: &'static str,
        reason: Option<String>,
    ) {
        self.0.push(VerdictRow {
            kafka_offset: offset,
            event_id: event.event_id,
            source: event.source,
            event_time: event.time_us.map(session::timestamp),
            verdict,
            reason,
        });
    }

    pub fn write(&self, fenced: &Fenced) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        verdicts::append(fenced.partition_id, &self.0)
    }
}

/// Columns of `ledger.dead_letters` to be.
#[derive(Default)]
pub struct DeadLetters {
    pub offsets: Vec<i64>,
    pub event_ids: Vec<Option<String>>,
    pub codes: Vec<String>,
    pub messages: Vec<String>,
    pub attempts: Vec<i32>,
    pub keys: Vec<Option<Vec<u8>>>,
    pub payloads: Vec<Option<Vec<u8>>>,
    pub headers: Vec<Option<String>>,
    pub record_times_ms: Vec<Option<i64>>,
    /// Whether the dead record owns its event's identity all the same.
    pub own_identity: Vec<bool>,
}

impl DeadLetters {
    /// All of one kind, as their partition is.
    pub fn write(
        self,
        client: &mut SpiClient<'_>,
        name: PartitionName<'_>,
        is_domain: bool,
    ) -> usize {
        if self.offsets.is_empty() {
            return 0;
        }
        let args = [
            name.topic.into(),
            name.partition.into(),
            self.offsets.into(),
            self.event_ids.into(),
            self.codes.into(),
            self.messages.into(),
            self.attempts.into(),
            self.keys.into(),
            self.payloads.into(),
            self.headers.into(),
            self.record_times_ms.into(),
            is_domain.into(),
            self.own_identity.into(),
        ];
        run(client, DEAD_LETTERS, &args)
    }
}

/// Half-open spans of offsets without a record.
#[derive(Default)]
pub struct Holes {
    first: Vec<i64>,
    next: Vec<i64>,
}

impl Holes {
    /// The gaps between `offsets`, which rise, from the beginning to the end of `span`.
    pub fn between(span: &Span<'_>, offsets: impl Iterator<Item = i64>) -> Self {
        let mut holes = Self::default();
        let mut next = span.from_offset;
        for offset in offsets {
            holes.push(next, offset);
            next = offset + 1;
        }
        holes.push(next, span.next_offset);
        holes
    }

    fn push(&mut self, first: i64, next: i64) {
        if first < next {
            self.first.push(first);
            self.next.push(next);
        }
    }

    pub fn write(self, client: &mut SpiClient<'_>, fenced: &Fenced) {
        if !self.first.is_empty() {
            run(
                client,
                HOLES,
                &[
                    fenced.partition_id.into(),
                    self.first.into(),
                    self.next.into(),
                ],
            );
        }
    }
}
