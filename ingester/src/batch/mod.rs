//! A batch on its way to the database. A balance event is decoded and staged as it arrives,
//! so that nothing is left to do when the gate opens; a domain event travels raw.
//!
//! A batch keeps what splitting needs: where each record ends, and the raw record, in case it
//! has to become a dead letter after all.

use std::ops::Range;

use ledger::contract::record_fingerprint;
use ledger::decode::{decode_balance_event, decode_domain_event};
use ledger::event::{Change, check_size};
use ledger::identity::PayloadHash;
use ledger::staging::{self, Dead, Event};
use ledger::timestamp;
use ledger::verdict::DeadReason;

pub mod record;
pub mod slice;

use crate::batch::record::{Kind, Known, Record};
use crate::batch::slice::{Content, Records, Rows, Slice};
use crate::redis_marks;

/// Where one record lies in its batch.
#[derive(Debug)]
struct Mark {
    offset: i64,
    timestamp_ms: i64,
    /// The event's own time in microseconds, where it gives one.
    event_time_us: Option<i64>,
    rows_end: usize,
    staged_end: usize,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Option<String>,
}

/// Records of one partition, encoded, from `from_offset` up to `next_offset`.
#[derive(Debug)]
pub struct Batch {
    kind: Kind,
    /// A larger payload is dead.
    max_event_bytes: usize,
    pub from_offset: i64,
    pub next_offset: i64,
    /// Balance events as they are staged.
    staged: Vec<u8>,
    rows: usize,
    marks: Vec<Mark>,
    arena: Vec<u8>,
    header_bytes: usize,
    changes: Vec<Change>,
}

impl Batch {
    pub fn new(kind: Kind, from_offset: i64) -> Self {
        Self {
            kind,
            max_event_bytes: usize::MAX,
            from_offset,
            next_offset: from_offset,
            staged: Vec::new(),
            rows: 0,
            marks: Vec::new(),
            arena: Vec::new(),
            header_bytes: 0,
            changes: Vec::new(),
        }
    }

    pub fn limited_to(mut self, max_event_bytes: usize) -> Self {
        self.max_event_bytes = max_event_bytes;
        self
    }

    /// Makes room for the next records; the memory stays.
    pub fn restart(&mut self, from_offset: i64) {
        self.from_offset = from_offset;
        self.next_offset = from_offset;
        self.staged.clear();
        self.rows = 0;
        self.marks.clear();
        self.arena.clear();
        self.header_bytes = 0;
    }

    pub fn records(&self) -> usize {
        self.marks.len()
    }

    /// Changes and dead records.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the records, raw with their headers, and staged.
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.header_bytes + self.staged.len()
    }

    /// Decodes and encodes one record.
    pub fn push(&mut self, record: &Record<'_>) {
        let event_time_us = match self.kind {
            Kind::Balance => self.stage(record),
            Kind::Domain => timestamp::of_envelope(record.payload.unwrap_or_default()),
        };
        let key = keep(&mut self.arena, record.key);
        let payload = keep(&mut self.arena, record.payload);
        self.header_bytes += record.headers.as_ref().map_or(0, String::len);
        self.marks.push(Mark {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            event_time_us,
            rows_end: self.rows,
            staged_end: self.staged.len(),
            key,
            payload,
            headers: record.headers.clone(),
        });
        self.next_offset = record.offset + 1;
    }

    /// Answers the event's own time.
    fn stage(&mut self, record: &Record<'_>) -> Option<i64> {
        let fits = check_size(record.payload, self.max_event_bytes);
        match fits.and_then(|()| decode_balance_event(record.payload, &mut self.changes)) {
            Ok(head) => {
                let event = Event {
                    event_id: &head.event_id,
                    source: head.source.as_deref(),
                    identity: head.identity(),
                    payload_hash: PayloadHash::of(record.payload.unwrap_or_default()),
                    time_us: head.timestamp_us,
                };
                staging::put_event(&mut self.staged, record.offset, &event, &self.changes);
                self.rows += self.changes.len();
                head.timestamp_us
            }
            Err(defect) => {
                let dead = Dead {
                    reason: defect.reason.as_str(),
                    message: &defect.detail,
                    time_ms: Some(record.timestamp_ms),
                    event_time_us: defect.timestamp_us,
                    attempts: 1,
                    event_id: defect.event_id.as_deref(),
                    source: defect.source.as_deref(),
                    key: record.key,
                    payload: record.payload,
                    headers: record.headers.as_deref(),
                };
                staging::put_dead(&mut self.staged, record.offset, &dead);
                self.rows += 1;
                defect.timestamp_us
            }
        }
    }

    /// Takes in that there is no record below `position`.
    pub fn extend_to(&mut self, position: i64) {
        self.next_offset = self.next_offset.max(position);
    }

    /// The records `range` (by their place in the batch) as a batch of their own. The spans
    /// of neighbouring slices meet: what lies between two records belongs to the earlier.
    pub fn slice(&self, range: Range<usize>) -> Slice<'_> {
        let (from_offset, next_offset) = self.span(&range);
        let last_record = range
            .end
            .checked_sub(1)
            .and_then(|last| self.marks.get(last))
            .map(|mark| self.fingerprint(mark));
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

    /// Taken only of records that end a batch.
    fn fingerprint(&self, mark: &Mark) -> [u8; 16] {
        let (key, payload) = (self.bytes_of(&mark.key), self.bytes_of(&mark.payload));
        record_fingerprint(mark.offset, mark.timestamp_ms, key, payload)
    }

    fn bytes_of(&self, range: &Option<Range<usize>>) -> Option<&[u8]> {
        range.clone().map(|range| &self.arena[range])
    }

    fn rows_of(&self, range: Range<usize>) -> Rows {
        let end_of = |count: usize| {
            let last = count.checked_sub(1).map(|last| &self.marks[last]);
            last.map_or((0, 0), |mark| (mark.rows_end, mark.staged_end))
        };
        let (first_row, first_byte) = end_of(range.start);
        let (rows_end, staged_end) = end_of(range.end);
        Rows::new(&self.staged[first_byte..staged_end], rows_end - first_row)
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

    /// One balance event as a dead letter, because the database refused it again and again, or an operator gave it up.
    pub fn dead_slice(
        &self,
        index: usize,
        reason: DeadReason,
        message: &str,
        attempts: i32,
    ) -> Slice<'_> {
        let mark = &self.marks[index];
        let payload = self.bytes_of(&mark.payload);
        let mut changes = Vec::new();
        let head = decode_balance_event(payload, &mut changes).ok();
        let head = head.as_ref();
        let dead = Dead {
            reason: reason.as_str(),
            message,
            time_ms: Some(mark.timestamp_ms),
            event_time_us: head.and_then(|head| head.timestamp_us),
            attempts,
            event_id: head.map(|head| &*head.event_id),
            source: head.and_then(|head| head.source.as_deref()),
            key: self.bytes_of(&mark.key),
            payload,
            headers: mark.headers.as_deref(),
        };
        let mut staged = Vec::new();
        staging::put_dead(&mut staged, mark.offset, &dead);
        let (from_offset, next_offset) = self.span(&(index..index + 1));
        Slice {
            from_offset,
            next_offset,
            content: Content::Balance(Rows::new(&staged, 1)),
            last_record: Some(self.fingerprint(mark)),
        }
    }

    /// The mark of each event, with its record's offset, by the event type of their topic.
    pub fn hint_keys(&self, topic: &str) -> Vec<(i64, String)> {
        let mut changes = Vec::new();
        let keys = self.marks.iter().filter_map(|mark| {
            let payload = self.bytes_of(&mark.payload);
            check_size(payload, self.max_event_bytes).ok()?;
            let head = match self.kind {
                Kind::Balance => decode_balance_event(payload, &mut changes).ok()?,
                Kind::Domain => decode_domain_event(payload, topic).ok()?,
            };
            let key = redis_marks::key(head.source.as_deref(), &head.event_id);
            Some((mark.offset, key))
        });
        keys.collect()
    }

    /// When its first record was made, by Kafka's timestamp.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.marks.first().map(|mark| mark.timestamp_ms)
    }

    /// How long ago each record was made, by Kafka's timestamps.
    pub fn ages_ms(&self, now_ms: i64) -> impl ExactSizeIterator<Item = i64> + Clone {
        self.marks
            .iter()
            .map(move |mark| now_ms - mark.timestamp_ms)
    }

    /// How long ago each event happened, by its own clock, in microseconds; those that do not say it are left out.
    pub fn own_ages_us(&self, now_ms: i64) -> impl Iterator<Item = i64> {
        let times_us = self.marks.iter().filter_map(|mark| mark.event_time_us);
        times_us.map(move |time_us| now_ms * 1_000 - time_us)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Headers as JSON, of the records that have any, with their offsets.
    pub fn headers(&self) -> (Vec<i64>, Vec<&str>) {
        let marks = self.marks.iter();
        marks
            .filter_map(|mark| Some((mark.offset, mark.headers.as_deref()?)))
            .unzip()
    }

    pub fn last_record(&self) -> Option<Known> {
        self.marks.last().map(|mark| Known {
            offset: mark.offset,
            fingerprint: self.fingerprint(mark),
        })
    }

    /// Whether there is anything to commit: records, or offsets known to hold none.
    pub fn is_empty(&self) -> bool {
        self.next_offset == self.from_offset
    }

    pub fn offset_of(&self, index: usize) -> i64 {
        self.marks[index].offset
    }
}

fn keep(arena: &mut Vec<u8>, bytes: Option<&[u8]>) -> Option<Range<usize>> {
    let bytes = bytes?;
    let start = arena.len();
    arena.extend_from_slice(bytes);
    Some(start..arena.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::slice::Staged;

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

    fn staged<'s>(slice: &'s Slice<'_>) -> &'s [u8] {
        match &content(slice).staged {
            Staged::Piece(staged) => staged,
            Staged::Copy(_) => panic!("a small batch"),
        }
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
            prop_assert_eq!([staged(&left), staged(&right)].concat(), staged(&whole));
            prop_assert_eq!(right.last_record, whole.last_record);
            for slice in [&whole, &left, &right] {
                let staged = staged(slice);
                prop_assert_eq!(staging::checksum(staged), content(slice).checksum);
                prop_assert!(staging::read(staged, slice.rows() as usize).is_ok());
            }
        }
    }

    #[test]
    fn a_buried_record_is_one_dead_row_over_the_same_offsets() {
        let batch = batch(&[3, 0, 4, 2]);
        let dead = batch.dead_slice(1, DeadReason::ApplyFailed, "no", 3);
        assert_eq!(
            (dead.from_offset, dead.next_offset, dead.rows()),
            (12, 13, 1)
        );
        assert_eq!(dead.last_record, batch.slice(1..2).last_record);
        let staged = staged(&dead);
        let has = |part: &[u8]| staged.windows(part.len()).any(|window| window == part);
        assert!(has(b"APPLY_FAILED") && has(br#""eventId":"e12""#));
    }

    #[test]
    fn headers_count_as_bytes_of_a_batch_and_of_what_is_sent() {
        let payload = br#"{"eventId":"e","eventType":"balance.changed","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"1"}]}}"#;
        let of = |kind: Kind, headers: Option<String>| {
            let mut batch = Batch::new(kind, 0);
            batch.push(&Record {
                offset: 0,
                timestamp_ms: 0,
                key: Some(b"key"),
                payload: Some(payload),
                headers,
            });
            batch
        };
        for kind in [Kind::Balance, Kind::Domain] {
            let (without, mut with) = (of(kind, None), of(kind, Some("h".repeat(1_000))));
            assert_eq!(with.bytes(), without.bytes() + 1_000, "{kind:?}");
            if kind == Kind::Domain {
                let sent = without.slice(0..1).bytes();
                assert_eq!(sent, payload.len() + "key".len());
                assert_eq!(with.slice(0..1).bytes(), sent + 1_000);
            }
            with.restart(1);
            assert_eq!(with.bytes(), 0, "{kind:?}");
        }
    }

    #[test]
    fn what_is_used_again_holds_nothing_of_before() {
        let mut used = batch(&[2, 3, 1]);
        used.restart(8);
        assert!(used.is_empty() && used.records() == 0 && used.rows() == 0 && used.bytes() == 0);
    }
}
