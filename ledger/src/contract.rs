//! What the ingester and the extension must agree on to the bit: names, limits, and how a
//! record is recognised.

use crate::identity;
pub use crate::identity::MAX_ID_BYTES;

/// Most changes in one event.
pub const MAX_CHANGES: usize = 64;
/// Most levels of nesting in a payload.
pub const MAX_DEPTH: usize = 128;
/// Most rows that one transaction may stage.
pub const MAX_BATCH_ROWS: usize = 262_144;
/// Most bytes that one transaction may stage.
pub const MAX_BATCH_BYTES: usize = 256 << 20;

/// The session's setting that bounds the payloads of domain events, in bytes; balance events are judged before they are sent.
pub const MAX_EVENT_BYTES_SETTING: &str = "sluice.max_event_bytes";

/// The table that batches are copied into, in pieces of one `bytea`.
pub const STAGING_TABLE: &str = "ledger.staging_balance_changes";
/// The NOTIFY channel on which a released partition is announced, as `topic/partition`.
pub const RELEASED_CHANNEL: &str = "sluice_partition_released";

/// What an error that the extension raises itself carries as its routine. SQL cannot set that field, so that no trigger,
/// handler or other part of PostgreSQL is taken for the extension by raising the same SQLSTATE and text.
pub mod routine {
    /// Any error of the extension.
    pub const SLUICE: &str = "sluice";
    /// A refusal of the fence.
    pub const FENCE: &str = "sluice fence";
}

/// Begins the reason of a pause that the circuit breaker of a balance topic made.
pub const BREAKER: &str = "circuit breaker: ";

/// SQLSTATEs that the extension raises on purpose.
pub mod sqlstate {
    /// Fencing token, lease or offset are stale: acquire anew.
    pub const STALE: &str = "55000";
    /// Staged rows differ from what was promised: send the batch again.
    pub const STAGING_MISMATCH: &str = "XX001";
    /// A record of the batch is to be buried by hand; DETAIL is its offset: send it apart, as a dead record.
    pub const BURIAL_ORDERED: &str = "39000";
    /// A handler of domain events, or the apply of balances, breaks on too much, or is paused.
    pub const HANDLER_BROKEN: &str = "38000";
    /// Somebody has paused the partition.
    pub const PARTITION_PAUSED: &str = "55006";
    /// A setting or an argument that cannot be worked with.
    pub const INVALID_PARAMETER: &str = "22023";
}

/// Recognises a record: if the record at an offset has another fingerprint than the one
/// that was committed there, the topic was created anew.
///
/// `timestamp_ms` is Kafka's own, -1 where it has none.
pub fn record_fingerprint(
    offset: i64,
    timestamp_ms: i64,
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
) -> [u8; identity::BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&offset.to_le_bytes())
        .update(&timestamp_ms.to_le_bytes());
    for part in [key, payload] {
        // Kafka tells null from empty, and so must this; -1 is no length.
        let length = part.map_or(-1, |bytes| bytes.len() as i64);
        hasher
            .update(&length.to_le_bytes())
            .update(part.unwrap_or_default());
    }
    identity::first_half(&hasher.finalize())
}
