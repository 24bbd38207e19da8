//! What the ingester and the extension must agree on to the bit: names, limits, and the
//! digests by which each proves to the other what it means.

use xxhash_rust::xxh3::xxh3_64;

use crate::account::Currency;
use crate::event::Change;
use crate::identity::{self, Identity, PayloadHash};

/// Most changes in one event.
pub const MAX_CHANGES: usize = 64;
/// Most levels of nesting in a payload.
pub const MAX_DEPTH: usize = 128;
/// Most bytes of an event id or a source.
pub const MAX_ID_BYTES: usize = 255;
/// Most rows that one transaction may stage.
pub const MAX_BATCH_ROWS: usize = 262_144;
/// Most bytes of text and payload that one transaction may stage.
pub const MAX_BATCH_BYTES: usize = 256 << 20;

/// The table that batches are copied into.
pub const STAGING_TABLE: &str = "ledger.staging_balance_changes";
/// Its columns, in the order of the COPY.
pub const STAGING_COLUMNS: [&str; 17] = [
    "kafka_offset",
    "change_no",
    "event_id",
    "identity",
    "payload_hash",
    "account_id",
    "shard_id",
    "currency_code",
    "available_delta",
    "frozen_delta",
    "error_code",
    "error_message",
    "attempts",
    "key",
    "payload",
    "headers",
    "source",
];
/// The NOTIFY channel on which a released partition is announced, as `topic/partition`.
pub const RELEASED_CHANNEL: &str = "sluice_partition_released";

/// SQLSTATEs that the extension raises on purpose.
pub mod sqlstate {
    /// Fencing token, lease or offset are stale: acquire anew.
    pub const STALE: &str = "55000";
    /// Staged rows differ from what was promised: send the batch again.
    pub const STAGING_MISMATCH: &str = "XX001";
    /// Another partition opened the same account at the same time: send the batch again at once.
    pub const SERIALIZATION_FAILURE: &str = "40001";
    /// Somebody else holds the row for now.
    pub const LOCK_NOT_AVAILABLE: &str = "55P03";
    /// A handler of domain events breaks on too much, or is paused.
    pub const HANDLER_BROKEN: &str = "38000";
    /// A setting or an argument that cannot be worked with.
    pub const INVALID_PARAMETER: &str = "22023";
    /// The balance table has something that the apply cannot honour.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
}

/// A staged row as both ends of the COPY digest it.
///
/// A decodable event has one per change, with identity, payload hash and change; a dead
/// record has one with `error_code` and, unless it was a tombstone, its payload.
#[derive(Clone, Copy, Debug)]
pub struct StagedRow<'a> {
    /// The record's offset.
    pub kafka_offset: i64,
    /// The change within the event, from 0.
    pub change_no: i16,
    /// The event id, if it could be read.
    pub event_id: Option<&'a [u8]>,
    /// Who sent the event, if it could be read and says so.
    pub source: Option<&'a [u8]>,
    /// The event's identity.
    pub identity: Option<Identity>,
    /// The hash of the record's payload.
    pub payload_hash: Option<PayloadHash>,
    /// The change itself.
    pub change: Option<Change>,
    /// Why the record is dead.
    pub error_code: Option<&'a [u8]>,
    /// The payload of a dead record.
    pub payload: Option<&'a [u8]>,
}

/// Bytes that [`row_digest`] hashes: all fixed columns, and 8 for each variable one.
const DIGESTED_BYTES: usize = 8 + 2 + 1 + 16 + 16 + 8 + 4 + Currency::MAX_BYTES + 16 + 16 + 4 * 8;

/// A digest of everything in a staged row: the same on every machine and in every build.
pub fn row_digest(row: &StagedRow<'_>) -> u64 {
    let mut bytes = Bytes {
        bytes: [0; DIGESTED_BYTES],
        length: 0,
    };
    bytes.put(&row.kafka_offset.to_le_bytes());
    bytes.put(&row.change_no.to_le_bytes());
    // Tells an absent column from one of zeros.
    bytes.put(&[u8::from(row.event_id.is_some())
        | u8::from(row.identity.is_some()) << 1
        | u8::from(row.payload_hash.is_some()) << 2
        | u8::from(row.change.is_some()) << 3
        | u8::from(row.error_code.is_some()) << 4
        | u8::from(row.payload.is_some()) << 5
        | u8::from(row.source.is_some()) << 6]);
    if let Some(identity) = &row.identity {
        bytes.put(identity.as_bytes());
    }
    if let Some(hash) = &row.payload_hash {
        bytes.put(hash.as_bytes());
    }
    if let Some(change) = &row.change {
        bytes.put(&change.key.account_id.to_le_bytes());
        bytes.put(&change.key.shard_id.to_le_bytes());
        bytes.put(change.key.currency.padded());
        bytes.put(&change.available_delta.units().to_le_bytes());
        bytes.put(&change.frozen_delta.units().to_le_bytes());
    }
    for variable in [row.event_id, row.source, row.error_code, row.payload]
        .into_iter()
        .flatten()
    {
        bytes.put(&xxh3_64(variable).to_le_bytes());
    }
    xxh3_64(&bytes.bytes[..bytes.length])
}

/// A buffer on the stack: a digest is taken per row, so it must not allocate.
struct Bytes {
    bytes: [u8; DIGESTED_BYTES],
    length: usize,
}

impl Bytes {
    fn put(&mut self, part: &[u8]) {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }
}

/// The checksum of staged rows in their order; that of no rows is 0.
///
/// It is a polynomial of the row digests modulo 2^64, so that the checksum of a batch can
/// be put together from those of its parts: see [`Checksum::append`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(u64);

/// Odd, so that multiplying by it loses no bit.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

impl Checksum {
    /// Adds the next row.
    pub fn add(&mut self, row: &StagedRow<'_>) {
        self.add_digest(row_digest(row));
    }

    /// Adds the next row by its [`row_digest`].
    pub fn add_digest(&mut self, digest: u64) {
        self.0 = self.0.wrapping_mul(FACTOR).wrapping_add(digest);
    }

    /// Adds `rows` further rows by their own checksum.
    pub fn append(&mut self, other: Self, rows: u32) {
        self.0 = self
            .0
            .wrapping_mul(FACTOR.wrapping_pow(rows))
            .wrapping_add(other.0);
    }

    /// The form in which SQL carries it.
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }
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
