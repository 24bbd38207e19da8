//! A batch before it is sent. A balance event is decoded and staged as it arrives, so that nothing remains to be done
//! when the gate opens; a domain event stays raw.
//!
//! Each record is decoded once, hashed once, and copied once out of the reader's memory. A [`Batch`] is gathered; sealed
//! it is a [`sealed::Sealed`], whose bytes are shared with what sends them.

use std::ops::Range;

use ledger::contract::record_fingerprint;
use ledger::decode::{decode_balance_event, decode_domain_event};
use ledger::event::{Change, EventHead, check_size};
use ledger::staging::{self, Dead, StagedEvent};
use ledger::timestamp;

pub mod record;
pub mod sealed;
pub mod slice;

use crate::batch::record::{Kind, Known, Record};
use crate::redis_marks;

/// The position of one record in its batch.
#[derive(Debug)]
struct Mark {
    offset: i64,
    timestamp_ms: i64,
    /// The event's own time in microseconds, if it has one.
    event_time_us: Option<i64>,
    rows_end: usize,
    staged_end: usize,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Option<String>,
}

/// Records of one partition that are gathered, encoded, from `from_offset` up to `next_offset`.
#[derive(Debug)]
pub struct Batch {
    kind: Kind,
    /// A larger payload is dead.
    max_event_bytes: usize,
    from_offset: i64,
    next_offset: i64,
    /// Balance events in their staged form.
    staged: Vec<u8>,
    rows: usize,
    marks: Vec<Mark>,
    /// Keys and payloads of all records.
    arena: Vec<u8>,
    /// The topic, if its events are to be marked.
    tells: Option<String>,
    /// The marks of the events, with the offsets of their records.
    told: Vec<(i64, String)>,
    /// Bytes of headers, and of `told`.
    loose_bytes: usize,
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
            tells: None,
            told: Vec::new(),
            loose_bytes: 0,
            changes: Vec::new(),
        }
    }

    pub fn limited_to(mut self, max_event_bytes: usize) -> Self {
        self.max_event_bytes = max_event_bytes;
        self
    }

    /// Collects the marks of its events for this topic.
    pub fn telling(mut self, topic: &str) -> Self {
        self.tells = Some(topic.to_owned());
        self
    }

    pub fn next_offset(&self) -> i64 {
        self.next_offset
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
        self.arena.len() + self.loose_bytes + self.staged.len()
    }

    /// Whether there is nothing to commit: neither records nor offsets known to hold none.
    pub fn is_empty(&self) -> bool {
        self.next_offset == self.from_offset
    }

    /// Decodes and encodes one record.
    pub fn push(&mut self, record: Record<'_>) {
        let event_time_us = match self.kind {
            Kind::Balance => self.stage(&record),
            Kind::Domain => self.read(&record),
        };
        let key = keep(&mut self.arena, record.key);
        let payload = keep(&mut self.arena, record.payload);
        self.loose_bytes += record.headers.as_ref().map_or(0, String::len);
        self.marks.push(Mark {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            event_time_us,
            rows_end: self.rows,
            staged_end: self.staged.len(),
            key,
            payload,
            headers: record.headers,
        });
        self.next_offset = record.offset + 1;
    }

    /// Stages a balance event; returns its own time.
    fn stage(&mut self, record: &Record<'_>) -> Option<i64> {
        let fits = check_size(record.payload, self.max_event_bytes);
        match fits.and_then(|()| decode_balance_event(record.payload, &mut self.changes)) {
            Ok(head) => {
                let event = StagedEvent::of(&head, record.payload.unwrap_or_default());
                staging::put_event(&mut self.staged, record.offset, &event, &self.changes);
                self.rows += self.changes.len();
                if self.tells.is_some() {
                    self.tell(record.offset, &head);
                }
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

    /// Reads the parts of a domain event that are needed here: its own time, and its identity if it is to be marked.
    fn read(&mut self, record: &Record<'_>) -> Option<i64> {
        let payload = record.payload.unwrap_or_default();
        if let Some(topic) = &self.tells
            && check_size(record.payload, self.max_event_bytes).is_ok()
            && let Ok(head) = decode_domain_event(record.payload, topic)
        {
            self.tell(record.offset, &head);
            return head.timestamp_us;
        }
        timestamp::of_envelope(payload)
    }

    fn tell(&mut self, offset: i64, head: &EventHead<'_>) {
        let mark = redis_marks::key(head.source.as_deref(), &head.event_id);
        self.loose_bytes += mark.len();
        self.told.push((offset, mark));
    }

    /// Extends the batch: there is no further record below `position`.
    pub fn extend_to(&mut self, position: i64) {
        self.next_offset = self.next_offset.max(position);
    }

    fn known(&self, mark: &Mark) -> Known {
        let (key, payload) = (self.bytes_of(&mark.key), self.bytes_of(&mark.payload));
        Known {
            offset: mark.offset,
            fingerprint: record_fingerprint(mark.offset, mark.timestamp_ms, key, payload),
        }
    }

    fn bytes_of(&self, range: &Option<Range<usize>>) -> Option<&[u8]> {
        range.clone().map(|range| &self.arena[range])
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
    use crate::batch::slice::{Content, Slice, Staged};
    use ledger::verdict::DeadReason;

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
                batch.push(Record {
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

    fn staged<'s>(slice: &'s Slice<'_>) -> &'s Staged {
        match &slice.content {
            Content::Balance(staged) => staged,
            Content::Domain(_) => panic!("a batch of balance events"),
        }
    }

    fn bounds(slice: &Slice<'_>) -> (i64, i64) {
        (slice.span.from(), slice.span.next())
    }

    proptest! {
        /// However a batch is divided, its parts together equal the whole.
        #[test]
        fn slices_follow_each_other_without_a_gap(kinds in prop::collection::vec(0usize..5, 0..30), cut in 0usize..31) {
            let batch = batch(&kinds).seal();
            let whole = batch.slice(0..batch.records());
            prop_assert_eq!(bounds(&whole), (8, 12 + kinds.len() as i64));
            prop_assert_eq!(whole.rows() as usize, kinds.iter().map(|kind| if *kind == 1 { 1 } else { kind.saturating_sub(1) }).sum::<usize>());
            let cut = cut.min(batch.records());
            if cut == 0 || cut == batch.records() {
                return Ok(());
            }
            let (left, right) = (batch.slice(0..cut), batch.slice(cut..batch.records()));
            prop_assert_eq!(left.span.from(), whole.span.from());
            prop_assert_eq!(left.span.next(), right.span.from());
            prop_assert_eq!(right.span.next(), whole.span.next());
            prop_assert_eq!(left.rows() + right.rows(), whole.rows());
            let both = [&left, &right].map(|part| staged(part).bytes.to_vec()).concat();
            prop_assert_eq!(&both[..], &staged(&whole).bytes[..]);
            prop_assert_eq!(right.last_record, whole.last_record);
            for slice in [&whole, &left, &right] {
                let staged = staged(slice);
                prop_assert_eq!(staging::checksum(&staged.bytes), staged.promise.checksum);
                prop_assert!(staging::read(&staged.bytes, slice.rows() as usize).is_ok());
            }
        }
    }

    #[test]
    fn a_buried_record_is_one_dead_row_over_the_same_offsets() {
        let batch = batch(&[3, 0, 4, 2]).seal();
        let dead = batch.dead_slice(1, DeadReason::ApplyFailed, "no", 3);
        assert_eq!((bounds(&dead), dead.rows()), ((12, 13), 1));
        assert_eq!(dead.last_record, batch.slice(1..2).last_record);
        let staged = &staged(&dead).bytes;
        let has = |part: &[u8]| staged.windows(part.len()).any(|window| window == part);
        assert!(has(b"APPLY_FAILED") && has(br#""eventId":"e12""#));
    }

    #[test]
    fn headers_count_as_bytes_of_a_batch_and_of_what_is_sent() {
        let payload = br#"{"eventId":"e","eventType":"balance.changed","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"1"}]}}"#;
        let of = |kind: Kind, headers: Option<String>| {
            let mut batch = Batch::new(kind, 0);
            batch.push(Record {
                offset: 0,
                timestamp_ms: 0,
                key: Some(b"key"),
                payload: Some(payload),
                headers,
            });
            batch
        };
        for kind in [Kind::Balance, Kind::Domain] {
            let (without, with) = (of(kind, None), of(kind, Some("h".repeat(1_000))));
            assert_eq!(with.bytes(), without.bytes() + 1_000, "{kind:?}");
            let (without, with) = (without.seal(), with.seal());
            assert_eq!(with.bytes(), without.bytes() + 1_000, "{kind:?}");
            if kind == Kind::Domain {
                let sent = without.slice(0..1).bytes();
                assert_eq!(sent, payload.len() + "key".len());
                assert_eq!(with.slice(0..1).bytes(), sent + 1_000);
            }
            assert_eq!(with.reopen(1).bytes(), 0, "{kind:?}");
        }
    }

    #[test]
    fn what_is_used_again_holds_nothing_of_before_and_keeps_its_memory() {
        let sealed = batch(&[2, 3, 1]).telling("t").seal();
        let slice = sealed.slice(0..sealed.records());
        let at = staged(&slice).bytes.as_ptr();
        drop(slice);
        let used = sealed.reopen(8);
        assert!(used.is_empty() && used.records() == 0 && used.rows() == 0 && used.bytes() == 0);
        assert_eq!(used.staged.as_ptr(), at);
    }

    #[test]
    fn an_event_is_told_of_by_its_name_and_what_is_none_is_not() {
        let payload = br#"{"eventId":"e","source":"s","eventType":"t","timestamp":"1970-01-01T00:00:01Z","data":{}}"#;
        let mut batch = Batch::new(Kind::Domain, 0).telling("t");
        for (offset, payload) in (0..).zip([&payload[..], b"{", &payload[..]]) {
            batch.push(Record {
                offset,
                timestamp_ms: 0,
                key: None,
                payload: Some(payload),
                headers: None,
            });
        }
        let mut sealed = batch.seal();
        let mark = || "processed:s:e".to_owned();
        assert_eq!(sealed.take_told(), [(0, mark()), (2, mark())]);
        assert_eq!(
            sealed.own_ages_us(1_001).collect::<Vec<_>>(),
            [1_000, 1_000]
        );
    }
}
