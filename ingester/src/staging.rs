//! A batch on its way to the database. A balance event becomes rows of the binary COPY as it
//! arrives, so that nothing is left to do when the gate opens; a domain event travels raw.
//!
//! A batch keeps what splitting needs: where each record's rows end, the digest of each
//! row, and the raw record, in case it has to become a dead letter after all.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use ledger::amount::Amount;
use ledger::contract::{Checksum, STAGING_COLUMNS, StagedRow, record_fingerprint, row_digest};
use ledger::event::{Change, EventHead, decode_balance_event, decode_domain_event};
use ledger::identity::PayloadHash;
use ledger::verdict::DeadReason;

use crate::source::Record;

const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const NULL: i32 = -1;
/// Base-10000 digits of an amount in units of 10^-20.
const MAX_DIGITS: usize = 10;
const FRACTION_DIGITS: i16 = 5;

/// What the records of a topic are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Balance events, staged as rows.
    Balance,
    /// Domain events, handed over raw.
    Domain,
}

/// Where one record lies in its batch.
#[derive(Debug)]
struct Mark {
    offset: i64,
    timestamp_ms: i64,
    rows_end: usize,
    bytes_end: usize,
    fingerprint: [u8; 16],
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Option<String>,
}

/// Records of one partition, encoded, from `from_offset` up to `next_offset`.
#[derive(Debug)]
pub struct Batch {
    kind: Kind,
    pub from_offset: i64,
    pub next_offset: i64,
    rows: BytesMut,
    digests: Vec<u64>,
    marks: Vec<Mark>,
    arena: Vec<u8>,
    changes: Vec<Change>,
}

/// A contiguous part of a batch, ready to be sent.
#[derive(Debug)]
pub struct Slice<'b> {
    pub from_offset: i64,
    pub next_offset: i64,
    pub content: Content<'b>,
    pub last_record: Option<[u8; 16]>,
}

#[derive(Debug)]
pub enum Content<'b> {
    Balance(Rows),
    Domain(Records<'b>),
}

/// Rows for the COPY, and what is promised of them.
#[derive(Debug)]
pub struct Rows {
    pub copy: Bytes,
    pub count: i64,
    pub checksum: i64,
}

/// Raw records, column by column.
#[derive(Debug, Default)]
pub struct Records<'b> {
    pub offsets: Vec<i64>,
    pub times_ms: Vec<i64>,
    pub keys: Vec<Option<&'b [u8]>>,
    pub payloads: Vec<Option<&'b [u8]>>,
    pub headers: Vec<Option<&'b str>>,
}

impl Slice<'_> {
    /// How much is sent, for people.
    pub fn rows(&self) -> i64 {
        match &self.content {
            Content::Balance(rows) => rows.count,
            Content::Domain(records) => records.offsets.len() as i64,
        }
    }
}

impl Batch {
    pub fn new(kind: Kind, from_offset: i64) -> Self {
        Self {
            kind,
            from_offset,
            next_offset: from_offset,
            rows: BytesMut::new(),
            digests: Vec::new(),
            marks: Vec::new(),
            arena: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Makes room for the next records; the memory stays.
    pub fn restart(&mut self, from_offset: i64) {
        self.from_offset = from_offset;
        self.next_offset = from_offset;
        self.rows.clear();
        self.digests.clear();
        self.marks.clear();
        self.arena.clear();
    }

    pub fn records(&self) -> usize {
        self.marks.len()
    }

    pub fn rows(&self) -> usize {
        self.digests.len()
    }

    /// Bytes of the records and of their rows.
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.rows.len()
    }

    /// Decodes and encodes one record.
    pub fn push(&mut self, record: &Record<'_>) {
        let fingerprint = record_fingerprint(
            record.offset,
            record.timestamp_ms,
            record.key,
            record.payload,
        );
        if self.kind == Kind::Balance {
            self.push_rows(record);
        }
        let key = keep(&mut self.arena, record.key);
        let payload = keep(&mut self.arena, record.payload);
        self.marks.push(Mark {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            rows_end: self.digests.len(),
            bytes_end: self.rows.len(),
            fingerprint,
            key,
            payload,
            headers: record.headers.clone(),
        });
        self.next_offset = record.offset + 1;
    }

    fn push_rows(&mut self, record: &Record<'_>) {
        let mut changes = std::mem::take(&mut self.changes);
        match decode_balance_event(record.payload, &mut changes) {
            Ok(head) => self.push_event(record, &head, &changes),
            Err(defect) => push_dead(
                &mut self.rows,
                &mut self.digests,
                &DeadRow {
                    offset: record.offset,
                    event_id: defect.event_id.as_deref(),
                    source: defect.source.as_deref(),
                    reason: defect.reason,
                    message: &defect.detail,
                    attempts: 1,
                    key: record.key,
                    payload: record.payload,
                    headers: record.headers.as_deref(),
                },
            ),
        }
        self.changes = changes;
    }

    /// Takes in that there is no record below `position`.
    pub fn extend_to(&mut self, position: i64) {
        self.next_offset = self.next_offset.max(position);
    }

    fn push_event(&mut self, record: &Record<'_>, head: &EventHead<'_>, changes: &[Change]) {
        let identity = head.identity();
        let payload_hash = PayloadHash::of(record.payload.unwrap_or_default());
        let source = head.source.as_deref().map(str::as_bytes);
        let rows = &mut self.rows;
        for (change_no, change) in changes.iter().enumerate() {
            rows.put_i16(STAGING_COLUMNS.len() as i16);
            put_i64(rows, record.offset);
            put_i16(rows, change_no as i16);
            put_bytes(rows, Some(head.event_id.as_bytes()));
            put_bytes(rows, Some(identity.as_bytes()));
            put_bytes(rows, Some(payload_hash.as_bytes()));
            put_i64(rows, change.key.account_id);
            put_i32(rows, change.key.shard_id);
            put_bytes(rows, Some(change.key.currency.as_str().as_bytes()));
            put_amount(rows, change.available_delta);
            put_amount(rows, change.frozen_delta);
            for _ in 10..16 {
                rows.put_i32(NULL);
            }
            put_bytes(rows, source);
            self.digests.push(row_digest(&StagedRow {
                kafka_offset: record.offset,
                change_no: change_no as i16,
                event_id: Some(head.event_id.as_bytes()),
                source,
                identity: Some(identity),
                payload_hash: Some(payload_hash),
                change: Some(*change),
                error_code: None,
                payload: None,
            }));
        }
    }

    /// The records `range` (by their place in the batch) as a batch of their own. The spans
    /// of neighbouring slices meet: what lies between two records belongs to the earlier.
    pub fn slice(&self, range: Range<usize>) -> Slice<'_> {
        let (from_offset, next_offset) = self.span(&range);
        let last_record = range
            .end
            .checked_sub(1)
            .and_then(|last| self.marks.get(last))
            .map(|mark| mark.fingerprint);
        let content = match self.kind {
            Kind::Balance => Content::Balance(self.rows_of(range)),
            Kind::Domain => Content::Domain(self.records_of(range)),
        };
        Slice {
            from_offset,
            next_offset,
            content,
            last_record,
        }
    }

    fn records_of(&self, range: Range<usize>) -> Records<'_> {
        let mut records = Records::default();
        for mark in &self.marks[range] {
            records.offsets.push(mark.offset);
            records.times_ms.push(mark.timestamp_ms);
            records.keys.push(self.bytes_of(&mark.key));
            records.payloads.push(self.bytes_of(&mark.payload));
            records.headers.push(mark.headers.as_deref());
        }
        records
    }

    fn bytes_of(&self, range: &Option<Range<usize>>) -> Option<&[u8]> {
        range.clone().map(|range| &self.arena[range])
    }

    fn rows_of(&self, range: Range<usize>) -> Rows {
        let (first_row, first_byte) = match range.start {
            0 => (0, 0),
            start => (
                self.marks[start - 1].rows_end,
                self.marks[start - 1].bytes_end,
            ),
        };
        let last = range
            .end
            .checked_sub(1)
            .and_then(|last| self.marks.get(last));
        let (rows_end, bytes_end) = last.map_or((first_row, first_byte), |mark| {
            (mark.rows_end, mark.bytes_end)
        });
        finish(
            &self.rows[first_byte..bytes_end],
            &self.digests[first_row..rows_end],
        )
    }

    fn span(&self, range: &Range<usize>) -> (i64, i64) {
        let from = if range.start == 0 {
            self.from_offset
        } else {
            self.marks[range.start].offset
        };
        let next = self
            .marks
            .get(range.end)
            .map_or(self.next_offset, |mark| mark.offset);
        (from, next)
    }

    /// One balance event as a dead letter, because the database refused it again and again.
    pub fn dead_slice(&self, index: usize, message: &str, attempts: i32) -> Slice<'_> {
        let mark = &self.marks[index];
        let payload = self.bytes_of(&mark.payload);
        let mut changes = Vec::new();
        let head = decode_balance_event(payload, &mut changes).ok();
        let head = head.as_ref();
        let (mut rows, mut digests) = (BytesMut::new(), Vec::new());
        push_dead(
            &mut rows,
            &mut digests,
            &DeadRow {
                offset: mark.offset,
                event_id: head.map(|head| &*head.event_id),
                source: head.and_then(|head| head.source.as_deref()),
                reason: DeadReason::ApplyFailed,
                message,
                attempts,
                key: self.bytes_of(&mark.key),
                payload,
                headers: mark.headers.as_deref(),
            },
        );
        let (from_offset, next_offset) = self.span(&(index..index + 1));
        Slice {
            from_offset,
            next_offset,
            content: Content::Balance(finish(&rows, &digests)),
            last_record: Some(mark.fingerprint),
        }
    }

    /// What other services may know of the records, by the event type of their topic.
    pub fn hint_keys(&self, topic: &str) -> Vec<String> {
        let mut changes = Vec::new();
        let heads = self.marks.iter().filter_map(|mark| {
            let payload = self.bytes_of(&mark.payload);
            match self.kind {
                Kind::Balance => decode_balance_event(payload, &mut changes).ok(),
                Kind::Domain => decode_domain_event(payload, topic).ok(),
            }
        });
        heads
            .map(|head| crate::hint::key(head.source.as_deref(), &head.event_id))
            .collect()
    }

    /// How long ago each record was made, by Kafka's timestamps.
    pub fn ages_ms(&self, now_ms: i64) -> impl ExactSizeIterator<Item = i64> {
        self.marks
            .iter()
            .map(move |mark| now_ms - mark.timestamp_ms)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn last_fingerprint(&self) -> Option<[u8; 16]> {
        self.marks.last().map(|mark| mark.fingerprint)
    }

    /// Whether there is anything to commit: records, or offsets known to hold none.
    pub fn is_empty(&self) -> bool {
        self.next_offset == self.from_offset
    }

    pub fn offset_of(&self, index: usize) -> i64 {
        self.marks[index].offset
    }
}

fn finish(rows: &[u8], digests: &[u64]) -> Rows {
    let mut checksum = Checksum::default();
    digests
        .iter()
        .for_each(|digest| checksum.add_digest(*digest));
    let mut copy = BytesMut::with_capacity(COPY_HEADER.len() + rows.len() + 2);
    copy.extend_from_slice(COPY_HEADER);
    copy.extend_from_slice(rows);
    copy.put_i16(-1);
    Rows {
        copy: copy.freeze(),
        count: digests.len() as i64,
        checksum: checksum.as_i64(),
    }
}

struct DeadRow<'a> {
    offset: i64,
    event_id: Option<&'a str>,
    source: Option<&'a str>,
    reason: DeadReason,
    message: &'a str,
    attempts: i32,
    key: Option<&'a [u8]>,
    payload: Option<&'a [u8]>,
    headers: Option<&'a str>,
}

fn push_dead(rows: &mut BytesMut, digests: &mut Vec<u64>, dead: &DeadRow<'_>) {
    rows.put_i16(STAGING_COLUMNS.len() as i16);
    put_i64(rows, dead.offset);
    put_i16(rows, 0);
    put_bytes(rows, dead.event_id.map(str::as_bytes));
    for _ in 3..10 {
        rows.put_i32(NULL);
    }
    put_bytes(rows, Some(dead.reason.as_str().as_bytes()));
    put_bytes(rows, Some(dead.message.as_bytes()));
    put_i32(rows, dead.attempts);
    put_bytes(rows, dead.key);
    put_bytes(rows, dead.payload);
    put_bytes(rows, dead.headers.map(str::as_bytes));
    put_bytes(rows, dead.source.map(str::as_bytes));
    digests.push(row_digest(&StagedRow {
        kafka_offset: dead.offset,
        change_no: 0,
        event_id: dead.event_id.map(str::as_bytes),
        source: dead.source.map(str::as_bytes),
        identity: None,
        payload_hash: None,
        change: None,
        error_code: Some(dead.reason.as_str().as_bytes()),
        payload: dead.payload,
    }));
}

fn keep(arena: &mut Vec<u8>, bytes: Option<&[u8]>) -> Option<Range<usize>> {
    let bytes = bytes?;
    let start = arena.len();
    arena.extend_from_slice(bytes);
    Some(start..arena.len())
}

fn put_i64(rows: &mut BytesMut, value: i64) {
    rows.put_i32(8);
    rows.put_i64(value);
}

fn put_i32(rows: &mut BytesMut, value: i32) {
    rows.put_i32(4);
    rows.put_i32(value);
}

fn put_i16(rows: &mut BytesMut, value: i16) {
    rows.put_i32(2);
    rows.put_i16(value);
}

fn put_bytes(rows: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            rows.put_i32(bytes.len() as i32);
            rows.extend_from_slice(bytes);
        }
        None => rows.put_i32(NULL),
    }
}

/// `numeric` on the wire: digit count, weight, sign and scale, then base-10000 digits.
fn put_amount(rows: &mut BytesMut, amount: Amount) {
    // 18 decimals are no multiple of 4; 20 are, and still fit 128 bits.
    let mut rest = amount.units().unsigned_abs() * 100;
    let mut digits = [0i16; MAX_DIGITS];
    for digit in &mut digits {
        *digit = (rest % 10_000) as i16;
        rest /= 10_000;
    }
    let highest = digits.iter().rposition(|digit| *digit != 0);
    let lowest = digits.iter().position(|digit| *digit != 0).unwrap_or(0);
    let used = highest.map_or(&[][..], |highest| &digits[lowest..=highest]);
    rows.put_i32(8 + 2 * used.len() as i32);
    rows.put_i16(used.len() as i16);
    rows.put_i16(highest.map_or(0, |highest| highest as i16 - FRACTION_DIGITS));
    rows.put_u16(if amount.units() < 0 { 0x4000 } else { 0 });
    rows.put_i16(Amount::SCALE as i16);
    used.iter().rev().for_each(|digit| rows.put_i16(*digit));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Records from offset 10 on, `kinds` deciding for each: a hole, a dead one, or its number of changes.
    fn batch(kinds: &[usize]) -> Batch {
        let mut batch = Batch::new(Kind::Balance, 8);
        for (offset, kind) in (10..).zip(kinds) {
            let change = r#"{"currencyCode":"USD","availableDelta":"-12.5"}"#;
            let changes = vec![change; kind.saturating_sub(1)].join(",");
            let payload = format!(
                r#"{{"eventId":"e{offset}","eventType":"balance.changed","data":{{"accountId":{offset},"changes":[{changes}]}}}}"#
            );
            if *kind > 0 {
                batch.push(&Record {
                    offset,
                    timestamp_ms: offset,
                    key: Some(b"key"),
                    payload: Some(payload.as_bytes()),
                    headers: None,
                });
            }
        }
        batch.extend_to(10 + kinds.len() as i64 + 2);
        batch
    }

    fn content<'s>(slice: &'s Slice<'_>) -> &'s Rows {
        match &slice.content {
            Content::Balance(rows) => rows,
            Content::Domain(_) => panic!("a batch of balance events"),
        }
    }

    fn rows<'s>(slice: &'s Slice<'_>) -> &'s [u8] {
        let copy = &content(slice).copy;
        &copy[COPY_HEADER.len()..copy.len() - 2]
    }

    proptest! {
        /// Wherever a batch is cut, its parts say together what the whole says.
        #[test]
        fn slices_follow_each_other_without_a_gap(kinds in prop::collection::vec(0usize..5, 0..30), cut in 0usize..31) {
            let batch = batch(&kinds);
            let whole = batch.slice(0..batch.records());
            prop_assert_eq!((whole.from_offset, whole.next_offset), (8, 12 + kinds.len() as i64));
            prop_assert_eq!(whole.rows() as usize, kinds.iter().map(|kind| if *kind == 1 { 1 } else { kind.saturating_sub(1) }).sum::<usize>());
            let cut = cut.min(batch.records());
            if cut == 0 || cut == batch.records() {
                return Ok(());
            }
            let (left, right) = (batch.slice(0..cut), batch.slice(cut..batch.records()));
            prop_assert_eq!(left.from_offset, whole.from_offset);
            prop_assert_eq!(left.next_offset, right.from_offset);
            prop_assert_eq!(right.next_offset, whole.next_offset);
            prop_assert_eq!(left.rows() + right.rows(), whole.rows());
            prop_assert_eq!([rows(&left), rows(&right)].concat(), rows(&whole));
            prop_assert_eq!(right.last_record, whole.last_record);
            let mut checksum = Checksum::default();
            batch.digests.iter().for_each(|digest| checksum.add_digest(*digest));
            prop_assert_eq!(checksum.as_i64(), content(&whole).checksum);
        }
    }

    #[test]
    fn a_buried_record_is_one_dead_row_over_the_same_offsets() {
        let batch = batch(&[3, 0, 4, 2]);
        let dead = batch.dead_slice(1, "no", 3);
        assert_eq!(
            (dead.from_offset, dead.next_offset, dead.rows()),
            (12, 13, 1)
        );
        assert_eq!(dead.last_record, batch.slice(1..2).last_record);
        let has = |part: &[u8]| {
            content(&dead)
                .copy
                .windows(part.len())
                .any(|window| window == part)
        };
        assert!(has(b"APPLY_FAILED") && has(br#""eventId":"e12""#));
    }

    #[test]
    fn what_is_used_again_holds_nothing_of_before() {
        let mut used = batch(&[2, 3, 1]);
        used.restart(8);
        assert!(used.is_empty() && used.records() == 0 && used.rows() == 0 && used.bytes() == 0);
    }
}
