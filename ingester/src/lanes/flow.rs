//! What is on its way through a lane, and what each arrival does to it.

use std::time::Duration;

use ledger::contract::record_fingerprint;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use crate::batch::Batch;
use crate::batch::record::{Known, Record};
use crate::commit::applier::Failure;
use crate::lanes::gate::Gate;
use crate::lanes::lane::{ADVICE, Pause};
use crate::lanes::recognise::Seen;
use crate::observe::counts::Staging;
use crate::partition::Partition;

/// A batch that is being committed.
pub(super) type Flight = JoinHandle<(Batch, Result<(), Failure>)>;

/// What is on its way through a lane.
pub(super) struct Flow {
    pub(super) gathering: Batch,
    pub(super) gate: Gate,
    pub(super) in_flight: Option<Flight>,
    /// What reading and encoding the batch that is gathered has taken so far.
    pub(super) decoding: Duration,
    pub(super) staging: Staging,
    pub(super) spare: Option<Batch>,
    /// What was committed when reading began; no record lies between the known one and this offset.
    pub(super) begun_at: i64,
    pub(super) seen: Sight,
    /// Nothing is sent before.
    pub(super) is_recognised: bool,
}

/// What the reader has seen of the record that was committed last.
#[derive(Debug)]
pub(super) enum Sight {
    /// Nothing has arrived, and there is no record to be seen.
    Unasked,
    /// It must be the first to arrive.
    Awaited(Known),
    /// Something has arrived.
    Done(Seen),
}

impl Flow {
    /// What there is to judge by, once something has arrived.
    pub(super) fn unrecognised(&self) -> Option<Seen> {
        match &self.seen {
            Sight::Done(seen) if !self.is_recognised => Some(*seen),
            _ => None,
        }
    }

    /// The first arrival, from `offset` on, says whether the known record is still there.
    fn first_arrival(&mut self, offset: i64) {
        let seen = match &self.seen {
            Sight::Unasked => Seen::Nothing,
            Sight::Awaited(known) if offset == known.offset => Seen::Known,
            Sight::Awaited(known) => Seen::Missing(known.offset),
            Sight::Done(_) => return,
        };
        self.seen = Sight::Done(seen);
    }

    /// The end of the partition: below the reader's own position there is no record left. Transaction markers and
    /// aborted records are none.
    pub(super) fn end(&mut self, position: i64, partition: &Partition) -> Option<Pause> {
        self.first_arrival(position);
        if position < self.gathering.next_offset {
            let reason = ends_before(partition, position, self.gathering.next_offset);
            return Some(Pause::Unrecognised(reason));
        }
        if position > self.gathering.next_offset && self.gathering.is_empty() {
            self.gate.first_arrived(Instant::now());
        }
        self.gathering.extend_to(position);
        None
    }

    pub(super) fn take(&mut self, record: &Record<'_>, partition: &Partition) -> Option<Pause> {
        let next = self.gathering.next_offset;
        if record.offset < next {
            return self.take_again(record, partition);
        }
        self.first_arrival(record.offset);
        if self.gathering.records() == 0 {
            debug!(%partition, offset = record.offset, "first record of a batch");
            self.gate.first_arrived(Instant::now());
        }
        self.gathering.push(record);
        None
    }

    /// A record below the position: the one that was committed last, read again on purpose, or else one that cannot be.
    fn take_again(&mut self, record: &Record<'_>, partition: &Partition) -> Option<Pause> {
        let offset = record.offset;
        if let Sight::Awaited(known) = &self.seen {
            let (timestamp_ms, key, payload) = (record.timestamp_ms, record.key, record.payload);
            let found = record_fingerprint(offset, timestamp_ms, key, payload);
            if offset == known.offset && found != known.fingerprint {
                return Some(Pause::Unrecognised(format!(
                    "the record at offset {offset} of {partition} is not the one that was committed: the topic was created \
                     anew, or its log was cut off and written again; {ADVICE}"
                )));
            }
            let is_known = offset == known.offset;
            self.first_arrival(offset);
            if is_known {
                return None;
            }
        }
        if offset >= self.begun_at {
            // Read already, and not to be seen again by itself.
            return Some(Pause::Revalidate);
        }
        Some(Pause::Unrecognised(format!(
            "offset {offset} of {partition} holds a record, and held none when the offsets up to {} were committed: the \
             topic was created anew, or its log was cut off and written again; {ADVICE}",
            self.begun_at
        )))
    }
}

pub(super) fn ends_before(partition: &Partition, end: i64, next_offset: i64) -> String {
    format!(
        "{partition} ends at offset {end}, before the committed offset {next_offset}: the topic was created anew \
         or cut off; {ADVICE}"
    )
}
