//! The life of one led partition: where to begin, the gate, and the hand-over to the
//! database. While one batch is in the database the next is gathered and encoded.

mod flow;
mod start;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::apply::{Applier, Failure};
use crate::config::{GateSettings, StartOffset};
use crate::gate::Gate;
use crate::hint::{Committed, Hint};
use crate::lease::{Leadership, Position};
use crate::partition::Partition;
use crate::share::Barrier;
use crate::source::{Arrival, Kafka, PartitionReader};
use crate::staging::{Batch, Kind};
use crate::status::{State, Status, now_ms};
use flow::{Flow, Sight};
use ledger::contract::BREAKER;
use start::Start;

/// A halted partition is looked at again after this time: someone may have mended it.
const RECHECK: Duration = Duration::from_secs(10);
/// How long Kafka gets to agree with itself about where a partition begins and ends.
const CONTRADICTION: Duration = Duration::from_millis(250);
/// What to do about a topic that is not recognised.
const ADVICE: &str =
    "nothing is read until someone decides: see \"When a partition halts\" in docs/operations.md";
/// A paused handler may be replaced or resumed at any time.
const PAUSED_RECHECK: Duration = Duration::from_secs(2);
/// And its reason is said again after this many looks.
const LOOKS_PER_LINE: u32 = 6;
/// How long a batch in flight may take to finish once the process is to end. Handed over, a partition
/// waits for it as long as it takes.
const FINISH: Duration = Duration::from_secs(3);

/// Everything that a lane needs.
pub struct Lane {
    pub partition: Partition,
    pub kind: Kind,
    pub leadership: Arc<Leadership>,
    pub position: Position,
    pub kafka: Arc<Kafka>,
    pub applier: Applier,
    pub gate: GateSettings,
    pub start: StartOffset,
    pub status: Arc<Status>,
    /// Told of what was committed, for others to know.
    pub hint: Option<Hint>,
    /// Kafka may not have the topic any more: look again.
    pub look_again: Arc<Notify>,
    /// What keeps the partition from being read, as long as it does: a pause, or a halt that waits for a decision.
    pub barrier: watch::Receiver<Option<Barrier>>,
    /// Looks in a row that found another topic than the one that was read.
    pub doubts: u32,
    /// Asked to stop: finish what is in flight, then return.
    pub stop: CancellationToken,
    /// The process is to end.
    pub quit: CancellationToken,
}

/// Why a lane is over.
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
enum Pause {
    End(End),
    /// Kafka says that offset or topic are not what we took them for.
    Revalidate,
    Halt(String),
    /// Nothing shows that this is the topic that was read: for an operator to decide, once a few looks agree.
    Unrecognised(String),
    /// The database takes nothing for now: the topic's handler is paused, or the partition is.
    Paused(String),
    /// Somebody pauses the partition.
    Told,
}

impl Lane {
    pub async fn run(mut self) -> End {
        let mut next_offset = self.leadership.commit_offset;
        let (mut looks, mut revalidated_at) = (0, None);
        // Kafka itself refuses an offset that it does not have, so a take-over need not ask first.
        let mut start = self.resume(next_offset);
        loop {
            if let Some(end) = self.wait_at_barrier().await {
                return end;
            }
            let valid = match start.take() {
                Some(start) => Ok(start),
                None => self.validate(next_offset).await,
            };
            let pause = match valid {
                Ok(start) => {
                    next_offset = start.next_offset;
                    self.status.is(&self.partition, State::Running, None);
                    debug!(partition = %self.partition, next_offset, "reading");
                    self.read(start, &mut next_offset).await
                }
                Err(pause) => pause,
            };
            match pause {
                Pause::End(end) => return end,
                Pause::Told => {}
                Pause::Revalidate => {
                    looks = 0;
                    // Twice at the same offset: Kafka contradicts itself, which passes.
                    if revalidated_at.replace(next_offset) == Some(next_offset)
                        && let Some(end) = self.wait(CONTRADICTION).await
                    {
                        return end;
                    }
                }
                Pause::Unrecognised(reason) => {
                    if let Some(end) = self.doubt(&reason).await {
                        return end;
                    }
                }
                Pause::Halt(reason) => {
                    self.status
                        .is(&self.partition, State::Halted, Some(&reason));
                    if looks % LOOKS_PER_LINE == 0 {
                        error!(partition = %self.partition, "halted: {reason}");
                    }
                    looks += 1;
                    if let Some(end) = self.wait(RECHECK).await {
                        return end;
                    }
                }
                Pause::Paused(reason) => {
                    self.status
                        .is(&self.partition, State::Paused, Some(&reason));
                    if looks % LOOKS_PER_LINE == 0 {
                        error!(partition = %self.partition, "paused: {reason}");
                    }
                    looks += 1;
                    if let Some(end) = self.wait(PAUSED_RECHECK).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Waits for somebody to resume the partition, unless the lane is to end. A halt ends the lane with
    /// it: what was decided stands in the database, and is read there by whoever leads next.
    async fn wait_at_barrier(&mut self) -> Option<End> {
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
            was_halted |= state == State::Halted;
            if state == State::Halted {
                error!(partition = %self.partition, "halted: {reason}");
            } else {
                info!(partition = %self.partition, "{reason}");
            }
            self.status.is(&self.partition, state, Some(&reason));
            tokio::select! {
                biased;
                () = self.leadership.ended() => return Some(End::not_renewed()),
                () = self.stop.cancelled() => return Some(End::Drained),
                _ = self.barrier.changed() => {}
                () = sleep(RECHECK * LOOKS_PER_LINE) => {}
            }
        }
    }

    /// Waits, unless the lane is to end.
    async fn wait(&self, time: Duration) -> Option<End> {
        tokio::select! {
            biased;
            () = self.leadership.ended() => Some(End::not_renewed()),
            () = self.stop.cancelled() => Some(End::Drained),
            () = sleep(time) => None,
        }
    }

    fn batch(&self, from_offset: i64) -> Batch {
        Batch::new(self.kind, from_offset).limited_to(self.gate.max_event_bytes)
    }

    async fn commit(&self, batch: &Batch) -> Result<(), Pause> {
        let committed = self.applier.commit(batch).await;
        committed.map(drop).map_err(|failure| self.pause(failure))
    }

    fn pause(&self, failure: Failure) -> Pause {
        match failure {
            Failure::Lost(reason) => Pause::End(End::Lost(reason)),
            Failure::Halt(reason) => Pause::Halt(reason),
            Failure::Paused(reason) => Pause::Paused(reason),
        }
    }

    /// Reads, gathers and commits until something stops it. `next_offset` follows the commits.
    async fn read(&mut self, start: Start, next_offset: &mut i64) -> Pause {
        let opened = self.kafka.open(&self.partition, start.first_offset()).await;
        let reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                return Pause::Halt(format!("Kafka refuses to assign the partition: {error}"));
            }
        };
        let mut flow = Flow {
            gathering: self.batch(start.next_offset),
            gate: Gate::new(&self.gate),
            in_flight: None,
            decoding: Duration::ZERO,
            staging: self.applier.metrics.staging(),
            spare: Some(self.batch(0)),
            begun_at: start.next_offset,
            seen: match start.known {
                Some(known) => Sight::Awaited(known),
                None => Sight::Unasked,
            },
            is_recognised: false,
        };
        let pause = self.pump(&reader, &mut flow, next_offset).await;
        // Whatever stopped us, what was sent may still be committed, and only then is the offset known.
        if let Some(in_flight) = flow.in_flight.take() {
            match &pause {
                Pause::End(End::Lost(_)) => in_flight.abort(),
                _ => match self.finish(in_flight).await {
                    Some((batch, Ok(()))) => self.note(&batch, next_offset),
                    Some((_, Err(failure))) => return self.pause(failure),
                    None => return Pause::End(End::Drained),
                },
            }
        }
        pause
    }

    /// `None` where the process is to end sooner: the batch is abandoned and its session ended, and the
    /// release that follows waits for that.
    async fn finish(&self, mut in_flight: Flight) -> Option<(Batch, Result<(), Failure>)> {
        let too_late = async {
            self.quit.cancelled().await;
            sleep(FINISH).await;
        };
        tokio::select! {
            done = &mut in_flight => {
                // A task of our own that failed has left nothing behind but what its session does.
                return done.ok();
            }
            () = too_late => {}
        }
        warn!(partition = %self.partition, "batch in flight abandoned; it is read again by whoever leads next");
        in_flight.abort();
        // Its session is told to end before the partition is released.
        let _ = in_flight.await;
        None
    }

    fn note(&mut self, batch: &Batch, next_offset: &mut i64) {
        *next_offset = batch.next_offset;
        if let Some(known) = batch.last_record() {
            self.position.last_record = Some(known);
        }
        self.status
            .committed(&self.partition, batch.next_offset, batch.records());
    }

    async fn pump(
        &mut self,
        reader: &PartitionReader,
        flow: &mut Flow,
        next_offset: &mut i64,
    ) -> Pause {
        loop {
            let began = Instant::now();
            if let Some(pause) = self.gather(reader, flow) {
                return pause;
            }
            flow.decoding += began.elapsed();
            flow.staging.gathered(flow.gathering.bytes());
            if let Some(seen) = flow.unrecognised() {
                if let Err(pause) = self.recognise(seen, *next_offset).await {
                    return pause;
                }
                flow.is_recognised = true;
            }
            if flow.is_recognised
                && flow.in_flight.is_none()
                && flow.gate.is_open(&flow.gathering, Instant::now())
            {
                if !reader.is_same_topic() {
                    return Pause::Revalidate;
                }
                self.send(flow);
                // What is queued already wakes nobody: gather it while the batch is in the database.
                continue;
            }
            let full = flow.gate.is_full(&flow.gathering);
            let opens_at = flow.gate.opens_at().filter(|_| flow.in_flight.is_none());
            tokio::select! {
                biased;
                () = self.leadership.ended() => return Pause::End(End::not_renewed()),
                () = self.stop.cancelled() => return Pause::End(End::Drained),
                done = join(&mut flow.in_flight), if flow.in_flight.is_some() => {
                    flow.in_flight = None;
                    flow.staging.done();
                    match done {
                        Ok((batch, Ok(()))) => {
                            self.note(&batch, next_offset);
                            flow.spare = Some(batch);
                        }
                        Ok((_, Err(failure))) => return self.pause(failure),
                        Err(error) => return Pause::Halt(format!("a task of our own failed: {error}")),
                    }
                }
                () = reader.arrived(), if !full => {}
                () = at(opens_at), if opens_at.is_some() => {}
                () = self.look_again.notified() => return Pause::Revalidate,
                Ok(()) = self.barrier.changed() => return Pause::Told,
            }
        }
    }

    /// Takes in what has arrived, up to a full batch.
    fn gather(&self, reader: &PartitionReader, flow: &mut Flow) -> Option<Pause> {
        while !flow.gate.is_full(&flow.gathering) {
            let taken = reader.poll(|arrival| match arrival {
                Arrival::Record(record) => flow.take(&record, &self.partition),
                Arrival::End(offset) => flow.end(offset, &self.partition),
                Arrival::OutOfRange | Arrival::Gone => Some(Pause::Revalidate),
                Arrival::Trouble(text) => {
                    info!(partition = %self.partition, "kafka: {text}");
                    None
                }
            });
            match taken {
                None => return None,
                Some(Some(pause)) => return Some(pause),
                Some(None) => {}
            }
        }
        None
    }

    fn send(&self, flow: &mut Flow) {
        let mut next = flow.spare.take().unwrap_or_else(|| self.batch(0));
        next.restart(flow.gathering.next_offset);
        let batch = std::mem::replace(&mut flow.gathering, next);
        let metrics = &self.applier.metrics;
        if let Some(waited) = flow.gate.waited() {
            metrics.phase("wait", waited);
            metrics.phase("decode", flow.decoding);
        }
        flow.decoding = Duration::ZERO;
        flow.gate.close();
        flow.staging.sent(batch.bytes());
        if let Some(oldest_ms) = batch.oldest_ms() {
            self.status.waits(&self.partition, oldest_ms);
        }
        let (applier, hint) = (self.applier.clone(), self.hint.clone());
        flow.in_flight = Some(tokio::spawn(async move {
            let outcome = applier.commit(&batch).await;
            if let Ok(counts) = &outcome {
                let topic = &applier.partition.topic;
                let (now_ms, metrics) = (now_ms(), &applier.metrics);
                let own_ages = batch.own_ages_us(now_ms);
                metrics.delayed(topic, batch.bytes(), batch.ages_ms(now_ms), own_ages);
                if let Some(hint) = hint {
                    hint.committed(Committed {
                        partition: applier.partition.clone(),
                        span: batch.from_offset..batch.next_offset,
                        keys: batch.hint_keys(topic),
                        all_processed: counts.rejected + counts.duplicates + counts.dead == 0,
                    });
                }
            }
            (batch, outcome.map(drop))
        }));
    }
}

type Flight = JoinHandle<(Batch, Result<(), Failure>)>;

async fn join(
    flight: &mut Option<Flight>,
) -> Result<(Batch, Result<(), Failure>), tokio::task::JoinError> {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
