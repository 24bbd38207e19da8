//! What a batch of balance events is staged as: its records one behind the other, in bytes.
//! The COPY carries them in pieces of any length; only the whole means something.
//!
//! A record is its offset (i64), a kind (u8), and
//! - an event: where it says when it happened, that time (i64, in microseconds since 1970), by a
//!   kind of its own; identity, payload hash, event id, source, number of changes (u8), and for each
//!   account id (i64), shard id (i32), currency, and both deltas in units of 10^-18 (i128);
//! - a dead record: the time that Kafka gave it (i64, in milliseconds), the event's own (i64, in
//!   microseconds), each `i64::MIN` for none, attempts (i32), and with their lengths reason, message,
//!   event id, source, key, payload and headers. Those of 0.6.0 are of another kind, without times.
//!
//! Numbers are little-endian. Short texts follow their length (u8), 0 for none; long ones
//! theirs (u32), `u32::MAX` for none.

use std::collections::TryReserveError;
use std::fmt;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::account::{AccountKey, Currency};
use crate::amount::Amount;
use crate::contract::{MAX_CHANGES, MAX_ID_BYTES};
use crate::event::{Change, EventHead};
use crate::identity::{Identity, PayloadHash};
use crate::timestamp;

const EVENT: u8 = 0;
const DEAD_WITHOUT_TIMES: u8 = 1;
const DEAD: u8 = 2;
const EVENT_WITH_TIME: u8 = 3;
const NONE: u32 = u32::MAX;
const NO_TIME: i64 = i64::MIN;

/// An event that could be decoded, without its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedEvent<'a> {
    /// 1 to 255 bytes.
    pub event_id: &'a str,
    /// 1 to 255 bytes.
    pub source: Option<&'a str>,
    /// Who the event is.
    pub identity: Identity,
    /// What its record said.
    pub payload_hash: PayloadHash,
    /// When it happened, in microseconds since 1970, where it says so.
    pub time_us: Option<i64>,
}

impl<'a> StagedEvent<'a> {
    /// The event that was decoded of `payload`.
    pub fn of(head: &'a EventHead<'_>, payload: &[u8]) -> Self {
        Self {
            event_id: &head.event_id,
            source: head.source.as_deref(),
            identity: head.identity(),
            payload_hash: PayloadHash::of(payload),
            time_us: head.timestamp_us,
        }
    }
}

/// A record that could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead<'a> {
    /// Its verdict's reason.
    pub reason: &'a str,
    /// What is wrong, for people.
    pub message: &'a str,
    /// Kafka's timestamp of the record in milliseconds, where it is known.
    pub time_ms: Option<i64>,
    /// The event's own time in microseconds since 1970, as far as it could be read.
    pub event_time_us: Option<i64>,
    /// How often it was tried.
    pub attempts: i32,
    /// As far as it could be read.
    pub event_id: Option<&'a str>,
    /// As far as it could be read.
    pub source: Option<&'a str>,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's payload; a tombstone has none.
    pub payload: Option<&'a [u8]>,
    /// The record's headers, as JSON.
    pub headers: Option<&'a str>,
}

/// What a record came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// An event, and where its changes are in [`Staged::changes`].
    Event(StagedEvent<'a>, Range<usize>),
    /// A dead record.
    Dead(Box<Dead<'a>>),
}

/// A staged record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedRecord<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// What it came to.
    pub content: Content<'a>,
}

/// All that was staged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Staged<'a> {
    /// The records, as they came.
    pub records: Vec<StagedRecord<'a>>,
    /// The changes of all events.
    pub changes: Vec<Change>,
}

/// Appends an event; `changes` has 1 to 64.
pub fn put_event(out: &mut Vec<u8>, offset: i64, event: &StagedEvent<'_>, changes: &[Change]) {
    out.extend_from_slice(&offset.to_le_bytes());
    match event.time_us {
        Some(time_us) => {
            out.push(EVENT_WITH_TIME);
            out.extend_from_slice(&time_us.to_le_bytes());
        }
        None => out.push(EVENT),
    }
    out.extend_from_slice(event.identity.as_bytes());
    out.extend_from_slice(event.payload_hash.as_bytes());
    put_short(out, event.event_id.as_bytes());
    put_short(out, event.source.unwrap_or_default().as_bytes());
    out.push(changes.len() as u8);
    for change in changes {
        out.extend_from_slice(&change.key.account_id.to_le_bytes());
        out.extend_from_slice(&change.key.shard_id.to_le_bytes());
        put_short(out, change.key.currency.as_bytes());
        out.extend_from_slice(&change.available_delta.units().to_le_bytes());
        out.extend_from_slice(&change.frozen_delta.units().to_le_bytes());
    }
}

/// Appends a dead record.
pub fn put_dead(out: &mut Vec<u8>, offset: i64, dead: &Dead<'_>) {
    out.extend_from_slice(&offset.to_le_bytes());
    match [dead.time_ms, dead.event_time_us] {
        [None, None] => out.push(DEAD_WITHOUT_TIMES),
        times => {
            out.push(DEAD);
            for time in times {
                out.extend_from_slice(&time.unwrap_or(NO_TIME).to_le_bytes());
            }
        }
    }
    out.extend_from_slice(&dead.attempts.to_le_bytes());
    for part in [
        Some(dead.reason.as_bytes()),
        Some(dead.message.as_bytes()),
        dead.event_id.map(str::as_bytes),
        dead.source.map(str::as_bytes),
        dead.key,
        dead.payload,
        dead.headers.map(str::as_bytes),
    ] {
        let length = part.map_or(NONE, |part| part.len() as u32);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(part.unwrap_or_default());
    }
}

fn put_short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// What both ends of the COPY must find alike; that of nothing is 0.
pub fn checksum(bytes: &[u8]) -> i64 {
    if bytes.is_empty() {
        0
    } else {
        xxh3_64(bytes) as i64
    }
}

/// What a sender promises of the bytes that it stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Changes and dead records.
    pub rows: i64,
    /// What [`checksum`] answers of them.
    pub checksum: i64,
}

impl Promise {
    /// The promise of these bytes, which hold so many changes and dead records.
    pub fn of(bytes: &[u8], rows: usize) -> Self {
        Self {
            rows: rows as i64,
            checksum: checksum(bytes),
        }
    }
}

/// Staged bytes that are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where, counted from the first byte.
    pub at: usize,
    /// What was expected there.
    pub expected: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} at byte {}", self.expected, self.at)
    }
}

impl std::error::Error for Malformed {}

impl Staged<'_> {
    /// Nothing yet, with room for as many changes and dead records.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn with_room(rows: usize) -> Result<Self, TryReserveError> {
        let mut staged = Self::default();
        staged.records.try_reserve_exact(rows)?;
        staged.changes.try_reserve_exact(rows)?;
        Ok(staged)
    }
}

/// Takes apart what [`put_event`] and [`put_dead`] appended, which is `rows` changes and dead records.
///
/// # Errors
/// If there are more or fewer, the bytes end within a record, or a value is outside its bounds.
pub fn read(bytes: &[u8], rows: usize) -> Result<Staged<'_>, Malformed> {
    read_into(Staged::default(), bytes, rows)
}

/// As [`read`], into what has room for it.
///
/// # Errors
/// As [`read`].
pub fn read_into<'a>(
    mut staged: Staged<'a>,
    bytes: &'a [u8],
    rows: usize,
) -> Result<Staged<'a>, Malformed> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut dead = 0;
    while cursor.at < bytes.len() {
        if staged.changes.len() + dead >= rows {
            return Err(cursor.malformed("end of the promised rows"));
        }
        let offset = i64::from_le_bytes(cursor.array("offset")?);
        let content = match cursor.array("kind")? {
            [EVENT] => cursor.event(None, &mut staged.changes)?,
            [EVENT_WITH_TIME] => {
                let time_us = cursor.event_time()?;
                cursor.event(time_us, &mut staged.changes)?
            }
            [kind @ (DEAD | DEAD_WITHOUT_TIMES)] => {
                dead += 1;
                let (time_ms, event_time_us) = match kind {
                    DEAD => (cursor.time()?, cursor.event_time()?),
                    _ => (None, None),
                };
                Content::Dead(Box::new(cursor.dead(time_ms, event_time_us)?))
            }
            _ => return Err(cursor.malformed("kind")),
        };
        staged.records.push(StagedRecord { offset, content });
    }
    if staged.changes.len() + dead != rows {
        return Err(cursor.malformed("further row, as promised,"));
    }
    Ok(staged)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn malformed(&self, expected: &'static str) -> Malformed {
        Malformed {
            at: self.at,
            expected,
        }
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or_else(|| self.malformed(what))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let rest = &self.bytes[self.at..];
        let taken = rest.first_chunk().ok_or_else(|| self.malformed(what))?;
        self.at += N;
        Ok(*taken)
    }

    fn time(&mut self) -> Result<Option<i64>, Malformed> {
        let time = i64::from_le_bytes(self.array("time")?);
        Ok((time != NO_TIME).then_some(time))
    }

    /// One that an envelope can give.
    fn event_time(&mut self) -> Result<Option<i64>, Malformed> {
        let time_us = self.time()?;
        match time_us.is_none_or(|time_us| timestamp::RANGE_US.contains(&time_us)) {
            true => Ok(time_us),
            false => Err(self.malformed("event time")),
        }
    }

    fn event(
        &mut self,
        time_us: Option<i64>,
        changes: &mut Vec<Change>,
    ) -> Result<Content<'a>, Malformed> {
        let identity = Identity::from_bytes(self.array("identity")?);
        let payload_hash = PayloadHash::from_bytes(self.array("payload hash")?);
        let event_id = self.short("event id")?;
        let source = self.short("source")?;
        let [count] = self.array("number of changes")?;
        if event_id.is_empty() || !(1..=MAX_CHANGES).contains(&usize::from(count)) {
            return Err(self.malformed("event"));
        }
        let first = changes.len();
        for _ in 0..count {
            changes.push(self.change()?);
        }
        let event = StagedEvent {
            event_id,
            source: (!source.is_empty()).then_some(source),
            identity,
            payload_hash,
            time_us,
        };
        Ok(Content::Event(event, first..changes.len()))
    }

    fn change(&mut self) -> Result<Change, Malformed> {
        let account_id = i64::from_le_bytes(self.array("account id")?);
        let shard_id = i32::from_le_bytes(self.array("shard id")?);
        let currency = Currency::new(self.short("currency")?);
        Ok(Change {
            key: AccountKey {
                account_id,
                shard_id,
                currency: currency.ok_or_else(|| self.malformed("currency"))?,
            },
            available_delta: self.amount()?,
            frozen_delta: self.amount()?,
        })
    }

    fn amount(&mut self) -> Result<Amount, Malformed> {
        let units = i128::from_le_bytes(self.array("amount")?);
        if units.unsigned_abs() <= Amount::MAX.units() as u128 {
            Ok(Amount::from_units(units))
        } else {
            Err(self.malformed("amount"))
        }
    }

    fn dead(
        &mut self,
        time_ms: Option<i64>,
        event_time_us: Option<i64>,
    ) -> Result<Dead<'a>, Malformed> {
        let attempts = i32::from_le_bytes(self.array("attempts")?);
        let reason = self.long_text("reason")?;
        let message = self.long_text("message")?;
        Ok(Dead {
            reason: reason.ok_or_else(|| self.malformed("reason"))?,
            message: message.ok_or_else(|| self.malformed("message"))?,
            time_ms,
            event_time_us,
            attempts,
            event_id: self.long_text("event id")?,
            source: self.long_text("source")?,
            key: self.long("key")?,
            payload: self.long("payload")?,
            headers: self.long_text("headers")?,
        })
    }

    fn short(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        const { assert!(MAX_ID_BYTES <= u8::MAX as usize) };
        let [length] = self.array(what)?;
        let bytes = self.take(length.into(), what)?;
        self.text(bytes, what)
    }

    fn long(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, Malformed> {
        match u32::from_le_bytes(self.array(what)?) {
            NONE => Ok(None),
            length => self.take(length as usize, what).map(Some),
        }
    }

    fn long_text(&mut self, what: &'static str) -> Result<Option<&'a str>, Malformed> {
        let bytes = self.long(what)?;
        bytes.map(|bytes| self.text(bytes, what)).transpose()
    }

    /// As a `text` column takes it: UTF-8 without U+0000.
    fn text(&self, bytes: &'a [u8], what: &'static str) -> Result<&'a str, Malformed> {
        match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.contains(&0) => Ok(text),
            _ => Err(self.malformed(what)),
        }
    }
}
