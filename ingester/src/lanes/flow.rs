//! The state of a lane's batches, and how each arrival changes it.

use std::time::Duration;

use ledger::contract::record_fingerprint;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use crate::batch::Batch;
use crate::batch::record::{Known, Record};
use crate::batch::sealed::Sealed;
use crate::commit::applier::Failure;
use crate::lanes::gate::Gate;
use crate::lanes::lane::{ADVICE, Pause};
use crate::lanes::recognise::Seen;
use crate::observe::counts::Staging;
use crate::partition::Partition;

/// A batch that is being committed.
pub(super) type Flight = JoinHandle<(Sealed, Result<(), Failure>)>;

/// The batches of a lane: one being gathered, one in flight.
pub(super) struct Flow {
    pub(super) gathering: Batch,
    pub(super) gate: Gate,
    pub(super) in_flight: Option<Flight>,
    /// The time spent on reading and encoding the current batch so far.
    pub(super) decoding: Duration,
    pub(super) staging: Staging,
    pub(super) spare: Option<Sealed>,
    /// The committed offset when reading began; no record lies between the known one and this offset.
    pub(super) begun_at: i64,
    pub(super) seen: Sight,
    /// Nothing is sent before.
    pub(super) is_recognised: bool,
}

/// What the reader has seen of the last committed record.
#[derive(Debug)]
pub(super) enum Sight {
    /// Nothing has arrived, and no known record is expected.
    Unasked,
    /// The known record must be the first to arrive.
    Awaited(Known),
    /// Something has arrived.
    Done(Seen),
}

impl Flow {
    /// The evidence, once something has arrived.
    pub(super) fn unrecognised(&self) -> Option<Seen> {
        match &self.seen {
            Sight::Done(seen) if !self.is_recognised => Some(*seen),
            _ => None,
        }
    }

    /// The first arrival, from `offset` on, shows whether the known record still exists.
    fn first_arrival(&mut self, offset: i64) {
        let seen = match &self.seen {
            Sight::Unasked => Seen::Nothing,
            Sight::Awaited(known) if offset == known.offset => Seen::Known,
            Sight::Awaited(known) => Seen::Missing(known.offset),
            Sight::Done(_) => return,
        };
        self.seen = Sight::Done(seen);
    }

    /// The end of the partition: there is no further record below the reader's position. Transaction markers and
    /// aborted records do not count.
    pub(super) fn end(&mut self, position: i64, partition: &Partition) -> Option<Pause> {
        self.first_arrival(position);
        if position < self.gathering.next_offset() {
            let reason = ends_before(partition, position, self.gathering.next_offset());
            return Some(Pause::Unrecognised(reason));
        }
        if position > self.gathering.next_offset() && self.gathering.is_empty() {
            self.gate.first_arrived(Instant::now());
        }
        self.gathering.extend_to(position);
        None
    }

    pub(super) fn take(&mut self, record: Record<'_>, partition: &Partition) -> Option<Pause> {
        let next = self.gathering.next_offset();
        if record.offset < next {
            return self.take_again(&record, partition);
        }
        self.first_arrival(record.offset);
        if self.gathering.records() == 0 {
            debug!(%partition, offset = record.offset, "first record of a batch");
            self.gate.first_arrived(Instant::now());
        }
        self.gathering.push(record);
        None
    }

    /// A record below the position: the last committed one, read again on purpose, or else an impossible one.
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
            // It was read before, and must not arrive again.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::record::Kind;
    use crate::config::run::GateSettings;
    use crate::observe::metrics::Metrics;

    const BEGUN_AT: i64 = 8;

    fn record(offset: i64, payload: &'static str) -> Record<'static> {
        Record {
            offset,
            timestamp_ms: 1,
            key: None,
            payload: Some(payload.as_bytes()),
            headers: None,
        }
    }

    fn partition() -> Partition {
        Partition {
            topic: "t".to_owned(),
            number: 0,
        }
    }

    /// A lane that begins at offset 8; the record at `known` was committed last, as `"as committed"`.
    fn flow(known: Option<i64>) -> Flow {
        let settings = GateSettings {
            batch_size: 100,
            batch_bytes: 1 << 20,
            max_event_bytes: usize::MAX,
            batching_delay: Duration::from_millis(30),
        };
        let known = known.map(|offset| Known {
            offset,
            fingerprint: record_fingerprint(offset, 1, None, Some(b"as committed")),
        });
        Flow {
            gathering: Batch::new(Kind::Domain, BEGUN_AT),
            gate: Gate::new(&settings),
            in_flight: None,
            decoding: Duration::ZERO,
            staging: Metrics::default().staging(),
            spare: None,
            begun_at: BEGUN_AT,
            seen: known.map_or(Sight::Unasked, Sight::Awaited),
            is_recognised: false,
        }
    }

    #[test]
    fn the_record_that_was_committed_last_is_recognised_and_not_gathered_again() {
        let mut flow = flow(Some(6));
        assert!(flow.take(record(6, "as committed"), &partition()).is_none());
        assert_eq!(flow.unrecognised(), Some(Seen::Known));
        assert!(flow.gathering.is_empty());
        assert!(flow.take(record(8, "next"), &partition()).is_none());
        assert_eq!(flow.gathering.records(), 1);
    }

    #[test]
    fn another_record_in_its_place_is_another_topic() {
        let mut flow = flow(Some(6));
        let pause = flow.take(record(6, "another"), &partition());
        assert!(matches!(pause, Some(Pause::Unrecognised(_))));
    }

    #[test]
    fn where_it_does_not_come_first_it_is_missing() {
        for first in [8, 11] {
            let mut flow = flow(Some(6));
            assert!(flow.take(record(first, "next"), &partition()).is_none());
            assert_eq!(flow.unrecognised(), Some(Seen::Missing(6)));
        }
        let mut at_end = flow(Some(6));
        assert!(at_end.end(BEGUN_AT, &partition()).is_none());
        assert_eq!(at_end.unrecognised(), Some(Seen::Missing(6)));
        let mut without = flow(None);
        assert!(without.end(BEGUN_AT, &partition()).is_none());
        assert_eq!(without.unrecognised(), Some(Seen::Nothing));
    }

    #[test]
    fn a_record_below_the_position_is_never_gathered() {
        let mut flow = flow(None);
        let pause = flow.take(record(7, "held none before"), &partition());
        assert!(matches!(pause, Some(Pause::Unrecognised(_))));
        assert!(flow.take(record(9, "next"), &partition()).is_none());
        let pause = flow.take(record(9, "again"), &partition());
        assert!(matches!(pause, Some(Pause::Revalidate)));
        assert_eq!(flow.gathering.records(), 1);
    }

    #[test]
    fn a_topic_that_ends_before_what_was_committed_was_cut_off() {
        let mut flow = flow(None);
        let pause = flow.end(BEGUN_AT - 1, &partition());
        assert!(matches!(pause, Some(Pause::Unrecognised(_))));
    }

    #[test]
    fn offsets_at_the_end_that_hold_no_record_are_committed_too() {
        let mut flow = flow(None);
        assert!(flow.end(BEGUN_AT + 3, &partition()).is_none());
        assert_eq!(
            (flow.gathering.next_offset(), flow.gathering.records()),
            (11, 0)
        );
        assert!(!flow.gathering.is_empty() && flow.gate.opens_at().is_some());
    }
}
