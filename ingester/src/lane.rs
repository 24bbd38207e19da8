//! The life of one led partition: where to begin, the gate, and the hand-over to the
//! database. While one batch is in the database the next is gathered and encoded.

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
use crate::hint::Hint;
use crate::lease::{Leadership, Position};
use crate::metrics::Staging;
use crate::partition::Partition;
use crate::source::{Arrival, Kafka, PartitionReader, Record, Watermarks};
use crate::staging::{Batch, Kind};
use crate::status::{State, Status, now_ms};
use ledger::contract::record_fingerprint;

/// A halted partition is looked at again after this time: someone may have mended it.
const RECHECK: Duration = Duration::from_secs(10);
/// How long Kafka gets to agree with itself about where a partition begins and ends.
const CONTRADICTION: Duration = Duration::from_millis(200);
/// A paused handler may be replaced or resumed at any time.
const PAUSED_RECHECK: Duration = Duration::from_secs(2);
/// And its reason is said again after this many looks.
const LOOKS_PER_LINE: u32 = 6;
/// How long a batch in flight may take to finish when we are asked to stop.
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
    pub doubt: Arc<Notify>,
    /// Why somebody has paused the partition, as long as it is.
    pub paused: watch::Receiver<Option<String>>,
    /// Asked to stop: finish what is in flight, then return.
    pub stop: CancellationToken,
}

/// Why a lane is over.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Asked to stop, and nothing is in flight: the lease can be released.
    Drained,
    /// Leadership is lost: nothing more may be written.
    Lost,
}

/// Why reading stopped.
enum Pause {
    End(End),
    /// Kafka says that offset or topic are not what we took them for.
    Revalidate,
    Halt(String),
    /// The database takes nothing for now: the topic's handler is paused, or the partition is.
    Paused(String),
    /// Somebody pauses the partition.
    Told,
}

/// Where to read from, and what must be found there.
struct Start {
    next_offset: i64,
    /// End of the partition, measured before reading: once the end is reached, no record below it is left.
    high: i64,
    /// The record below `next_offset`, read once more to recognise the topic.
    known: Option<[u8; 16]>,
}

impl Lane {
    pub async fn run(mut self) -> End {
        let mut next_offset = self.leadership.commit_offset;
        let (mut looks, mut revalidated_at) = (0, None);
        // Kafka itself refuses an offset that it does not have, so a take-over need not ask first.
        let mut start = self.position.started.then(|| self.resume(next_offset));
        loop {
            if let Some(end) = self.wait_while_paused().await {
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
                    debug!(partition = %self.partition, next_offset, high = start.high, "reading");
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

    /// Waits for somebody to resume the partition, unless the lane is to end.
    async fn wait_while_paused(&mut self) -> Option<End> {
        loop {
            let reason = self.paused.borrow_and_update().clone()?;
            info!(partition = %self.partition, "paused by hand: {reason}");
            let reason = format!("paused by hand: {reason}");
            self.status
                .is(&self.partition, State::Paused, Some(&reason));
            tokio::select! {
                biased;
                () = self.leadership.ended() => return Some(End::Lost),
                () = self.stop.cancelled() => return Some(End::Drained),
                _ = self.paused.changed() => {}
            }
        }
    }

    /// Waits, unless the lane is to end.
    async fn wait(&self, time: Duration) -> Option<End> {
        tokio::select! {
            biased;
            () = self.leadership.ended() => Some(End::Lost),
            () = self.stop.cancelled() => Some(End::Drained),
            () = sleep(time) => None,
        }
    }

    /// Where the database says, before Kafka was asked.
    fn resume(&self, next_offset: i64) -> Start {
        Start {
            next_offset,
            high: next_offset,
            known: self.position.last_record.filter(|_| next_offset > 0),
        }
    }

    /// Compares the database's offset with what Kafka has. Never skips a record.
    async fn validate(&mut self, next_offset: i64) -> Result<Start, Pause> {
        let Watermarks { low, high } = self.watermarks().await?;
        let partition = &self.partition;
        if !self.position.started {
            let begin = match self.start {
                StartOffset::Earliest => low,
                StartOffset::Latest => high,
            };
            let mut empty = self.batch(next_offset);
            empty.extend_to(begin);
            self.commit(&empty).await?;
            self.position.started = true;
            return Ok(Start {
                next_offset: begin.max(next_offset),
                high,
                known: None,
            });
        }
        if next_offset < low {
            return Err(Pause::Halt(format!(
                "offsets {next_offset} to {} of {partition} are no longer in Kafka (retention), which begins at {low}: \
                 restore them, or accept the loss as docs/operations.md says",
                low - 1
            )));
        }
        if next_offset > high {
            return Err(Pause::Halt(format!(
                "{partition} ends at offset {high}, before the committed offset {next_offset}: the topic was created anew \
                 or truncated; send to a new topic, or accept it as docs/operations.md says"
            )));
        }
        let known = self.position.last_record.filter(|_| next_offset > low);
        Ok(Start {
            next_offset,
            high,
            known,
        })
    }

    async fn watermarks(&self) -> Result<Watermarks, Pause> {
        let mut looks = 0;
        loop {
            let asked = tokio::select! {
                biased;
                () = self.leadership.ended() => return Err(Pause::End(End::Lost)),
                () = self.stop.cancelled() => return Err(Pause::End(End::Drained)),
                asked = self.kafka.watermarks(&self.partition) => asked,
            };
            let trouble = match asked {
                Ok(Some(watermarks)) => return Ok(watermarks),
                Ok(None) => format!("{} does not exist in Kafka (any more)", self.partition),
                Err(error) => format!("Kafka does not answer, trying again: {error}"),
            };
            if looks % 10 == 0 {
                warn!(partition = %self.partition, "{trouble}");
            }
            looks += 1;
            if let Some(end) = self.wait(Duration::from_secs(1)).await {
                return Err(Pause::End(end));
            }
        }
    }

    fn batch(&self, from_offset: i64) -> Batch {
        Batch::new(self.kind, from_offset).limited_to(self.gate.max_event_bytes)
    }

    async fn commit(&self, batch: &Batch) -> Result<(), Pause> {
        self.applier
            .commit(batch)
            .await
            .map_err(|failure| self.pause(failure))
    }

    fn pause(&self, failure: Failure) -> Pause {
        match failure {
            Failure::Lost(reason) => {
                warn!(partition = %self.partition, "leadership lost: {reason}");
                Pause::End(End::Lost)
            }
            Failure::Halt(reason) => Pause::Halt(reason),
            Failure::Paused(reason) => Pause::Paused(reason),
        }
    }

    /// Reads, gathers and commits until something stops it. `next_offset` follows the commits.
    async fn read(&mut self, start: Start, next_offset: &mut i64) -> Pause {
        let first = start.next_offset - i64::from(start.known.is_some());
        let reader = match self.kafka.open(&self.partition, first).await {
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
            known: start.known,
            high: start.high,
            end: Reached::No,
        };
        let pause = self.pump(&reader, &mut flow, next_offset).await;
        // Whatever stopped us, what was sent may still be committed, and only then is the offset known.
        if let Some(in_flight) = flow.in_flight.take() {
            match &pause {
                Pause::End(End::Lost) => in_flight.abort(),
                _ => match self.finish(in_flight).await {
                    Some((batch, Ok(()))) => self.note(&batch, next_offset),
                    Some((_, Err(failure))) => return self.pause(failure),
                    None => return Pause::End(End::Lost),
                },
            }
        }
        pause
    }

    async fn finish(&self, in_flight: Flight) -> Option<(Batch, Result<(), Failure>)> {
        let abort = in_flight.abort_handle();
        match tokio::time::timeout(FINISH, in_flight).await {
            Ok(Ok(done)) => Some(done),
            _ => {
                warn!(partition = %self.partition, "batch in flight abandoned; it is read again by whoever leads next");
                abort.abort();
                None
            }
        }
    }

    fn note(&mut self, batch: &Batch, next_offset: &mut i64) {
        *next_offset = batch.next_offset;
        if let Some(fingerprint) = batch.last_fingerprint() {
            self.position.last_record = Some(fingerprint);
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
            if flow.in_flight.is_none() && flow.gate.is_open(&flow.gathering, Instant::now()) {
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
                () = self.leadership.ended() => {
                    warn!(partition = %self.partition, "leadership lost: no renewal in time");
                    return Pause::End(End::Lost);
                }
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
                () = sleep(self.gate.batch_timeout), if flow.end == Reached::Yes && flow.in_flight.is_none() => {
                    // Markers that came since are never delivered: to pass them, begin anew.
                    match self.watermarks().await {
                        Ok(found) if found.high > flow.gathering.next_offset => return Pause::Revalidate,
                        Ok(_) => flow.end = Reached::Confirmed,
                        Err(pause) => return pause,
                    }
                }
                () = self.doubt.notified() => return Pause::Revalidate,
                Ok(()) = self.paused.changed() => return Pause::Told,
            }
        }
    }

    /// Takes in what has arrived, up to a full batch.
    fn gather(&self, reader: &PartitionReader, flow: &mut Flow) -> Option<Pause> {
        while !flow.gate.is_full(&flow.gathering) {
            let taken = reader.poll(|arrival| match arrival {
                Arrival::Record(record) => flow.take(&record, &self.partition),
                Arrival::End => {
                    flow.end = Reached::Yes;
                    // Transaction markers and aborted records below it are no records.
                    flow.gathering.extend_to(flow.high);
                    None
                }
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
            if outcome.is_ok() {
                let topic = &applier.partition.topic;
                applier
                    .metrics
                    .delayed(topic, batch.bytes(), batch.ages_ms(now_ms()));
                if let Some(hint) = hint {
                    hint.processed(batch.hint_keys(topic));
                }
            }
            (batch, outcome)
        }));
    }
}

type Flight = JoinHandle<(Batch, Result<(), Failure>)>;

/// What is on its way through a lane.
struct Flow {
    gathering: Batch,
    gate: Gate,
    in_flight: Option<Flight>,
    /// What reading and encoding the batch that is gathered has taken so far.
    decoding: Duration,
    staging: Staging,
    spare: Option<Batch>,
    known: Option<[u8; 16]>,
    high: i64,
    end: Reached,
}

/// Whether everything that was there has been read.
#[derive(PartialEq, Eq)]
enum Reached {
    No,
    Yes,
    /// And Kafka says that nothing lies behind it either.
    Confirmed,
}

impl Flow {
    fn take(&mut self, record: &Record<'_>, partition: &Partition) -> Option<Pause> {
        self.end = Reached::No;
        let next = self.gathering.next_offset;
        if record.offset < next {
            // Read again on purpose: the record that was committed last.
            let known = self.known.take()?;
            let found = record_fingerprint(
                record.offset,
                record.timestamp_ms,
                record.key,
                record.payload,
            );
            return (record.offset + 1 == next && found != known).then(|| {
                Pause::Halt(format!(
                    "the record at offset {} of {partition} is not the one that was committed: the topic was created anew; \
                     send to a new topic, or accept it as docs/operations.md says",
                    record.offset
                ))
            });
        }
        self.known = None;
        if self.gathering.records() == 0 {
            debug!(%partition, offset = record.offset, "first record of a batch");
            self.gate.first_arrived(Instant::now());
        }
        self.gathering.push(record);
        None
    }
}

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
