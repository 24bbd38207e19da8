//! Dead letters: how records become dead letters, ordered burials, and the circuit breaker.
//!
//! Retry and replay are in `replay/`.

pub mod breaker;
pub mod burials;

use pgrx::spi::SpiClient;

use crate::partition::PartitionName;
use crate::spi::run_planned;

const DEAD_LETTERS: &str = "
    INSERT INTO ledger.dead_letters
        (topic, partition, kafka_offset, event_id, error_code, error_message, attempts, key, payload, headers, record_time_ms,
        is_domain, owns_identity)
    SELECT $1, $2, u.kafka_offset, u.event_id, u.error_code, u.error_message, u.attempts, u.key, u.payload, u.headers::jsonb,
        u.record_time_ms, $12, u.owns_identity
    FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::integer[], $8::bytea[], $9::bytea[], $10::text[], $11::bigint[],
            $13::boolean[])
        AS u (kafka_offset, event_id, error_code, error_message, attempts, key, payload, headers, record_time_ms, owns_identity)";

/// Rows for `ledger.dead_letters`, column by column.
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
    /// Whether the dead record owns its event's identity.
    pub own_identity: Vec<bool>,
}

impl DeadLetters {
    /// Writes all of them, which are of one kind as their partition is; returns how many.
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
        run_planned(client, DEAD_LETTERS, &args)
    }
}
