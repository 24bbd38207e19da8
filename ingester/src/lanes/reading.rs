//! One led partition: from which offset to read, the gate, and sending batches to the database.
//! While one batch is in the database the next is gathered and encoded.

use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::batch::sealed::Sealed;
use crate::commit::applier::Failure;
use crate::kafka::reader::{Arrival, PartitionReader};
use crate::lanes::flow::{Flight, Flow, Sight};
use crate::lanes::gate::Gate;
use crate::lanes::lane::{CONTRADICTION, End, LOOKS_PER_LINE, Lane, Pause, RECHECK, ending};
use crate::lanes::start::Start;
use crate::observe::snapshot::{State, now_ms};
use crate::redis_marks::Committed;

/// A paused handler may be replaced or resumed at any time.
const PAUSED_RECHECK: Duration = Duration::from_secs(2);
/// How long a batch in flight may take to finish when the process shuts down. A hand-over waits for it
/// as long as it takes.
const FINISH: Duration = Duration::from_secs(3);

/// A task must not panic; the log has the location.
const PANICKED: &str =
    "internal error: a task panicked; the log line `internal error: panicked` says where";

/// A batch that was in flight, and its outcome; an error is a task that panicked.
type Landed = Result<(Sealed, Result<(), Failure>), JoinError>;

/// Everything that can happen to a lane while it reads.
enum Happening {
    /// The lease has ended, or the lane is asked to stop.
    End(End),
    Landed(Box<Landed>),
    /// Something may have arrived, or the gate opens.
    Look,
    /// Kafka may have another topic of this name.
    Doubt,
    /// A pause or a halt began or ended.
    Barrier,
}

impl Lane {
    pub async fn run(mut self) -> End {
        let mut next_offset = self.leadership.commit_offset;
        let (mut looks, mut revalidated_at) = (0, None);
        // Kafka refuses an offset that it does not have, so a take-over need not query it first.
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
                    self.status.set_state(&self.partition, State::Running, None);
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
                    // Twice at the same offset: Kafka contradicts itself, which is temporary.
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
                    self.stops(State::Halted, &reason, looks % LOOKS_PER_LINE == 0);
                    looks += 1;
                    if let Some(end) = self.wait(RECHECK).await {
                        return end;
                    }
                }
                Pause::Paused(reason) => {
                    self.stops(State::Paused, &reason, looks % LOOKS_PER_LINE == 0);
                    looks += 1;
                    if let Some(end) = self.wait(PAUSED_RECHECK).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Reads, gathers and commits until something stops it. `next_offset` follows the commits.
    async fn read(&mut self, start: Start, next_offset: &mut i64) -> Pause {
        let opened = self.kafka.open(&self.partition, start.first_offset()).await;
        let reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                return Pause::Halt(format!(
                    "Kafka rejected the assignment of the partition: {error}"
                ));
            }
        };
        let mut flow = Flow {
            gathering: self.batch(start.next_offset),
            gate: Gate::new(&self.gate),
            in_flight: None,
            decoding: Duration::ZERO,
            staging: self.applier.metrics.staging(),
            spare: None,
            begun_at: start.next_offset,
            seen: match start.known {
                Some(known) => Sight::Awaited(known),
                None => Sight::Unasked,
            },
            is_recognised: false,
        };
        let pause = self.pump(&reader, &mut flow, next_offset).await;
        // The batch in flight may still be committed, and only then is the offset known.
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

    /// `None` if the process has to end sooner: the batch is abandoned and its session ended, and the release
    /// after it waits for that.
    async fn finish(&self, mut in_flight: Flight) -> Option<(Sealed, Result<(), Failure>)> {
        let too_late = async {
            self.quit.cancelled().await;
            sleep(FINISH).await;
        };
        tokio::select! {
            done = &mut in_flight => {
                // A task that panicked leaves only what its session does.
                return done.ok();
            }
            () = too_late => {}
        }
        warn!(partition = %self.partition, "the batch in flight did not finish in time and is rolled back; the next leader reads it again");
        in_flight.abort();
        // Its session is ended before the partition is released.
        let _ = in_flight.await;
        None
    }

    fn note(&mut self, batch: &Sealed, next_offset: &mut i64) {
        *next_offset = batch.span().next();
        if let Some(known) = batch.last_record() {
            self.position.last_record = Some(known.clone());
        }
        self.status
            .committed(&self.partition, *next_offset, batch.records());
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
                // Records that are already queued wake no task: gather them while the batch is in the database.
                continue;
            }
            match self.next(reader, flow).await {
                Happening::End(end) => return Pause::End(end),
                Happening::Landed(landed) => match *landed {
                    Ok((batch, Ok(()))) => {
                        self.note(&batch, next_offset);
                        flow.spare = Some(batch);
                    }
                    Ok((_, Err(failure))) => return self.pause(failure),
                    Err(_) => return Pause::Halt(PANICKED.to_owned()),
                },
                Happening::Look => {}
                Happening::Doubt => return Pause::Revalidate,
                Happening::Barrier => return Pause::Told,
            }
        }
    }

    /// Waits for the next event.
    async fn next(&mut self, reader: &PartitionReader, flow: &mut Flow) -> Happening {
        let full = flow.gate.is_full(&flow.gathering);
        let opens_at = flow.gate.opens_at().filter(|_| flow.in_flight.is_none());
        tokio::select! {
            biased;
            end = ending(&self.leadership, &self.stop) => Happening::End(end),
            landed = join(&mut flow.in_flight), if flow.in_flight.is_some() => {
                flow.in_flight = None;
                flow.staging.done();
                Happening::Landed(Box::new(landed))
            }
            () = reader.arrived(), if !full => Happening::Look,
            () = at(opens_at), if opens_at.is_some() => Happening::Look,
            () = self.look_again.notified() => Happening::Doubt,
            Ok(()) = self.barrier.changed() => Happening::Barrier,
        }
    }

    /// Adds arrived records to the batch, until it is full.
    fn gather(&self, reader: &PartitionReader, flow: &mut Flow) -> Option<Pause> {
        while !flow.gate.is_full(&flow.gathering) {
            let taken = reader.poll(|arrival| match arrival {
                Arrival::Record(record) => flow.take(record, &self.partition),
                Arrival::End(offset) => flow.end(offset, &self.partition),
                Arrival::OutOfRange | Arrival::Gone => Some(Pause::Revalidate),
                Arrival::Failed(text) => {
                    info!(partition = %self.partition, "reading from Kafka failed, trying again: {text}");
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
        let from_offset = flow.gathering.next_offset();
        let next = match flow.spare.take() {
            Some(spare) => spare.reopen(from_offset),
            None => self.batch(from_offset),
        };
        let mut batch = std::mem::replace(&mut flow.gathering, next).seal();
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
                        span: batch.span(),
                        keys: batch.take_told(),
                        all_processed: counts.rejected + counts.duplicates + counts.dead == 0,
                    });
                }
            }
            (batch, outcome.map(drop))
        }));
    }
}

async fn join(flight: &mut Option<Flight>) -> Landed {
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
