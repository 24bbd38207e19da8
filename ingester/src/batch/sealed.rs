//! A batch whose gathering has ended: it is sent in one piece or in parts, and remembered for what follows the COMMIT.

use std::ops::Range;

use bytes::Bytes;
use ledger::decode::decode_balance_event;
use ledger::span::Span;
use ledger::staging::{self, Dead};
use ledger::verdict::DeadReason;

use super::Batch;
use crate::batch::record::{Kind, Known};
use crate::batch::slice::{Content, Records, Slice, Staged};

/// Records of one partition over a span of offsets, ready to be sent. It keeps what splitting needs: the end of each
/// record, and the raw record, in case it becomes a dead letter.
#[derive(Debug)]
pub struct Sealed {
    /// Without its staged bytes.
    batch: Batch,
    staged: Bytes,
    last_record: Option<Known>,
}

impl Batch {
    /// Ends the gathering.
    pub fn seal(mut self) -> Sealed {
        let staged = Bytes::from(std::mem::take(&mut self.staged));
        let last_record = self.marks.last().map(|mark| self.known(mark));
        Sealed {
            batch: self,
            staged,
            last_record,
        }
    }
}

impl Sealed {
    /// Turns it into an empty batch for the next records; the memory is reused.
    pub fn reopen(self, from_offset: i64) -> Batch {
        let mut batch = self.batch;
        // The bytes are no longer shared, so they are not copied.
        batch.staged = self.staged.into();
        batch.staged.clear();
        batch.from_offset = from_offset;
        batch.next_offset = from_offset;
        batch.rows = 0;
        batch.marks.clear();
        batch.arena.clear();
        batch.told.clear();
        batch.loose_bytes = 0;
        batch
    }

    pub fn kind(&self) -> Kind {
        self.batch.kind
    }

    pub fn records(&self) -> usize {
        self.batch.records()
    }

    /// Bytes of the records, raw with their headers, and staged.
    pub fn bytes(&self) -> usize {
        self.batch.bytes() + self.staged.len()
    }

    pub fn span(&self) -> Span {
        span(self.batch.from_offset, self.batch.next_offset)
    }

    pub fn offset_of(&self, index: usize) -> i64 {
        self.batch.marks[index].offset
    }

    /// The records `range` (by their index in the batch) as a batch of their own. The spans of neighbouring slices meet:
    /// the offsets between two records belong to the earlier one.
    pub fn slice(&self, range: Range<usize>) -> Slice<'_> {
        Slice {
            span: self.span_of(&range),
            last_record: self.fingerprint_at(range.end),
            content: match self.batch.kind {
                Kind::Balance => Content::Balance(self.staged_of(range)),
                Kind::Domain => Content::Domain(self.records_of(range)),
            },
        }
    }

    /// That of the record before `end`.
    fn fingerprint_at(&self, end: usize) -> Option<[u8; 16]> {
        if end == self.records() {
            return self.last_record.as_ref().map(|known| known.fingerprint);
        }
        let mark = &self.batch.marks[end.checked_sub(1)?];
        Some(self.batch.known(mark).fingerprint)
    }

    fn records_of(&self, range: Range<usize>) -> Records<'_> {
        let mut records = Records::default();
        for mark in &self.batch.marks[range] {
            records.offsets.push(mark.offset);
            records.times_ms.push(mark.timestamp_ms);
            records.keys.push(self.batch.bytes_of(&mark.key));
            records.payloads.push(self.batch.bytes_of(&mark.payload));
            records.headers.push(mark.headers.as_deref());
        }
        records
    }

    fn staged_of(&self, range: Range<usize>) -> Staged {
        let end_of = |count: usize| {
            let last = count.checked_sub(1).map(|last| &self.batch.marks[last]);
            last.map_or((0, 0), |mark| (mark.rows_end, mark.staged_end))
        };
        let (first_row, first_byte) = end_of(range.start);
        let (rows_end, staged_end) = end_of(range.end);
        Staged::of(
            self.staged.slice(first_byte..staged_end),
            rows_end - first_row,
        )
    }

    fn span_of(&self, range: &Range<usize>) -> Span {
        let (batch, marks) = (&self.batch, &self.batch.marks);
        let from = match range.start {
            0 => batch.from_offset,
            start => marks[start].offset,
        };
        let next = marks
            .get(range.end)
            .map_or(batch.next_offset, |mark| mark.offset);
        span(from, next)
    }

    /// One balance event as a dead letter, because the database refused it every time, or an operator buried it.
    pub fn dead_slice(
        &self,
        index: usize,
        reason: DeadReason,
        message: &str,
        attempts: i32,
    ) -> Slice<'_> {
        let mark = &self.batch.marks[index];
        let payload = self.batch.bytes_of(&mark.payload);
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
            key: self.batch.bytes_of(&mark.key),
            payload,
            headers: mark.headers.as_deref(),
        };
        let mut staged = Vec::new();
        staging::put_dead(&mut staged, mark.offset, &dead);
        Slice {
            span: self.span_of(&(index..index + 1)),
            content: Content::Balance(Staged::of(staged.into(), 1)),
            last_record: self.fingerprint_at(index + 1),
        }
    }

    /// The mark of each event, with its record's offset; asked once.
    pub fn take_told(&mut self) -> Vec<(i64, String)> {
        std::mem::take(&mut self.batch.told)
    }

    /// Kafka's timestamp of its first record.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.batch.marks.first().map(|mark| mark.timestamp_ms)
    }

    /// The age of each record, by Kafka's timestamps.
    pub fn ages_ms(&self, now_ms: i64) -> impl ExactSizeIterator<Item = i64> + Clone {
        let marks = self.batch.marks.iter();
        marks.map(move |mark| now_ms - mark.timestamp_ms)
    }

    /// The age of each event by its own timestamp, in microseconds; events without one are left out.
    pub fn own_ages_us(&self, now_ms: i64) -> impl Iterator<Item = i64> {
        let times_us = self
            .batch
            .marks
            .iter()
            .filter_map(|mark| mark.event_time_us);
        times_us.map(move |time_us| now_ms * 1_000 - time_us)
    }

    /// Headers as JSON, of the records that have any, with their offsets.
    pub fn headers(&self) -> (Vec<i64>, Vec<&str>) {
        let marks = self.batch.marks.iter();
        marks
            .filter_map(|mark| Some((mark.offset, mark.headers.as_deref()?)))
            .unzip()
    }

    pub fn last_record(&self) -> Option<&Known> {
        self.last_record.as_ref()
    }
}

fn span(from: i64, next: i64) -> Span {
    Span::new(from, next).expect("a batch goes forward, from an offset that was committed")
}
