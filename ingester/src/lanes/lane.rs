//! The parts of a lane, and why it stops or waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::batch::Batch;
use crate::batch::record::Kind;
use crate::batch::sealed::Sealed;
use crate::commit::applier::{Applier, Failure};
use crate::commit::transaction::Writer;
use crate::config::run::{GateSettings, StartOffset};
use crate::kafka::client::Kafka;
use crate::leases::lease::{Leadership, Position};
use crate::leases::shares::Barrier;
use crate::observe::snapshot::State;
use crate::observe::status::{News, Status};
use crate::partition::Partition;
use crate::redis_marks::Hint;
use ledger::contract::BREAKER;

/// A halted partition is checked again after this time: its cause may have been repaired.
pub(super) const RECHECK: Duration = Duration::from_secs(10);
/// Its reason is logged again after this many checks.
pub(super) const LOOKS_PER_LINE: u32 = 6;
/// How long Kafka may contradict itself about the beginning and end of a partition.
pub(super) const CONTRADICTION: Duration = Duration::from_millis(250);
/// What to do about a topic that is not recognised.
pub(super) const ADVICE: &str =
    "nothing is read until someone decides: see \"When a partition halts\" in docs/operations.md";

/// Everything that a lane needs.
pub struct Lane {
    pub partition: Partition,
    pub kind: Kind,
    pub leadership: Arc<Leadership>,
    pub position: Position,
    pub kafka: Arc<Kafka>,
    pub applier: Applier<Writer>,
    pub gate: GateSettings,
    pub start: StartOffset,
    pub status: Arc<Status>,
    /// Receives committed batches, to mark them in Redis.
    pub hint: Option<Hint>,
    /// Kafka may not have the topic any more: check again.
    pub look_again: Arc<Notify>,
    /// Why the partition is not read at the moment: a pause, or a halt that only an operator ends.
    pub barrier: watch::Receiver<Option<Barrier>>,
    /// Checks in a row that found another topic than the one that was read.
    pub doubts: u32,
    /// Asked to stop: finish the batch in flight, then return.
    pub stop: CancellationToken,
    /// The process is to end.
    pub quit: CancellationToken,
}

/// Why a lane ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Asked to stop, and nothing is in flight: the lease can be released.
    Drained,
    /// Leadership is lost, and why: nothing more may be written.
    Lost(String),
}

impl End {
    pub(super) fn not_renewed() -> Self {
        Self::Lost("no renewal in time".to_owned())
    }
}

/// Why reading stopped.
pub(super) enum Pause {
    End(End),
    /// According to Kafka, offset or topic are not the expected ones.
    Revalidate,
    Halt(String),
    /// Nothing shows that this is the topic that was read: an operator has to decide, once several checks agree.
    Unrecognised(String),
    /// The database accepts nothing for now: the topic's handler is paused, or the partition is.
    Paused(String),
    /// Somebody pauses the partition.
    Told,
}

/// The events that end a lane in any state.
pub(super) async fn ending(leadership: &Leadership, stop: &CancellationToken) -> End {
    tokio::select! {
        biased;
        () = leadership.ended() => End::not_renewed(),
        () = stop.cancelled() => End::Drained,
    }
}

impl Lane {
    /// Keeps the state for `/health`, and logs it: as an error once, the same fault of another partition and what still goes
    /// on as warnings.
    pub(super) fn stops(&self, state: State, reason: &str, is_reminder: bool) {
        let (partition, what) = (&self.partition, state.as_str());
        match self.status.set_state(partition, state, Some(reason)) {
            News::New => error!(%partition, "{what}: {reason}"),
            News::KnownElsewhere => warn!(%partition, "{what}, as another partition is: {reason}"),
            News::Known if is_reminder => warn!(%partition, "still {what}: {reason}"),
            News::Known => {}
        }
    }

    /// Waits until the partition is resumed, unless the lane is to end. The end of a halt also ends the lane:
    /// the operator's decision is in the database, and the next leader reads it there.
    pub(super) async fn wait_at_barrier(&mut self) -> Option<End> {
        let mut was_halted = false;
        loop {
            let Some(barrier) = self.barrier.borrow_and_update().clone() else {
                return was_halted.then_some(End::Drained);
            };
            let (state, reason) = match &barrier {
                Barrier::Pause(reason) if reason.starts_with(BREAKER) => {
                    (State::Paused, reason.clone())
                }
                Barrier::Pause(reason) => (State::Paused, format!("paused by hand: {reason}")),
                Barrier::Halt(reason) => (State::Halted, reason.clone()),
            };
            if state == State::Halted {
                self.stops(state, &reason, was_halted);
                was_halted = true;
            } else {
                info!(partition = %self.partition, "{reason}");
                self.status.set_state(&self.partition, state, Some(&reason));
            }
            tokio::select! {
                biased;
                end = ending(&self.leadership, &self.stop) => return Some(end),
                _ = self.barrier.changed() => {}
                () = sleep(RECHECK * LOOKS_PER_LINE) => {}
            }
        }
    }

    /// Waits, unless the lane is to end.
    pub(super) async fn wait(&self, time: Duration) -> Option<End> {
        tokio::select! {
            biased;
            end = ending(&self.leadership, &self.stop) => Some(end),
            () = sleep(time) => None,
        }
    }

    pub(super) fn batch(&self, from_offset: i64) -> Batch {
        let batch = Batch::new(self.kind, from_offset).limited_to(self.gate.max_event_bytes);
        match self.hint {
            Some(_) => batch.telling(&self.partition.topic),
            None => batch,
        }
    }

    pub(super) async fn commit(&self, batch: &Sealed) -> Result<(), Pause> {
        let committed = self.applier.commit(batch).await;
        committed.map(drop).map_err(|failure| self.pause(failure))
    }

    pub(super) fn pause(&self, failure: Failure) -> Pause {
        match failure {
            Failure::Lost(reason) => Pause::End(End::Lost(reason)),
            Failure::Halt(reason) => Pause::Halt(reason),
            Failure::Paused(reason) => Pause::Paused(reason),
        }
    }
}
