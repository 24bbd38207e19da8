//! One batch, one transaction: BEGIN, staging, apply, COMMIT. And what follows when one of
//! them fails: again, in smaller parts, or not at all.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use futures_util::future::try_join;
use ledger::verdict::DeadReason;
use tokio::sync::{Notify, Semaphore};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::back_off::back_off;
use crate::batch::Batch;
use crate::batch::record::Kind;
use crate::batch::slice::{Content, Rows, Slice, Staged};
use crate::commit::call::Call;
use crate::commit::group::Group;
use crate::commit::statements::{Statements, timed};
use crate::config::RetrySettings;
use crate::leases::lease::Leadership;
use crate::observe::metrics::{Counts, Metrics};
use crate::observe::status::{LastBatch, State, Status};
use crate::partition::Partition;
use crate::postgres::error::{Consequence, is_ours, ordered_offset};
use crate::postgres::pool::{AskError, Connection, Pool};
use crate::postgres::session::Disposable;

/// A batch that takes longer than this in the database is worth a line.
const SLOW: Duration = Duration::from_secs(5);
/// A batch of so many records is work for a processor; smaller ones are round trips and waits for the disk.
const LARGE: i64 = 1_000;
/// A large batch that takes longer waits for something: its turn goes to the next.
const TURN: Duration = Duration::from_secs(1);
/// Bytes in one message of the COPY: what the backend takes in at once, and keeps room for.
const MESSAGE: usize = 64 << 10;
/// Races that may be lost in a row before the tries are spaced out and said.
const RACES: u32 = 5;
/// Repeated troubles are said again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How often it is tried to keep headers for results; the records come first.
const HEADER_TRIES: usize = 3;

const KEEP_HEADERS: &str = "SELECT sluice.keep_result_headers($1, $2, $3, $4, $5, $6)";

const PAUSE_HANDLER: &str = "SELECT sluice.pause_handler($1, $2)";
const TRIP_BREAKER: &str = "SELECT sluice.trip_breaker($1, $2)";
/// How long a topic may take to be paused; the next try of a batch does it again.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// Tries that may end in an error that nobody has classified, before its record is searched.
const UNCLASSIFIED: u32 = 2;

/// Why a batch is not committed.
#[derive(Debug)]
pub enum Failure {
    /// Leadership is lost, or its time is over.
    Lost(String),
    /// Someone has to change something first.
    Halt(String),
    /// The topic's handler breaks on too much, or somebody has paused it or the partition.
    Paused(String),
}

#[cfg(feature = "fault-points")]
impl From<crate::fault::Raised> for Failure {
    fn from(raised: crate::fault::Raised) -> Self {
        Self::Lost(raised.into())
    }
}

/// Applies batches of one partition for one leadership.
#[derive(Clone)]
pub struct Applier {
    pub pool: Pool,
    pub partition: Partition,
    pub leadership: Arc<Leadership>,
    /// As many as large batches may be in the database at once. More of them only get into each other's way: they wait
    /// for the same balances, and each one's snapshot keeps PostgreSQL from reusing the room of all rows replaced meanwhile.
    pub turns: Arc<Semaphore>,
    /// Where small batches go first.
    pub group: Arc<Group>,
    pub retry: RetrySettings,
    /// Told of dead letters.
    pub aftercare: Arc<Notify>,
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
    /// Results are told, and headers travel along.
    pub keeps_headers: bool,
}

/// A try that did not commit.
struct Refusal {
    consequence: Consequence,
    text: String,
    /// One of the records may be what the database stumbles over, whatever it calls it.
    may_be_one: bool,
    /// The record that is to be buried.
    ordered: Option<i64>,
}

impl From<AskError> for Refusal {
    fn from(failed: AskError) -> Self {
        let answer = failed.answer();
        Self {
            consequence: failed.consequence(),
            text: failed.describe(),
            may_be_one: answer.is_some_and(|error| !is_ours(error)),
            ordered: answer.and_then(ordered_offset),
        }
    }
}

impl Applier {
    /// Commits the whole batch, in as few transactions as its records allow; answers what it came to.
    pub async fn commit(&self, batch: &Batch) -> Result<Counts, Failure> {
        fault_point!("batch.taken");
        if self.keeps_headers {
            self.keep_headers(batch).await?;
        }
        let mut counts = Counts::default();
        // Halves still to do, the earliest last.
        let mut parts = Vec::new();
        parts.push(0..batch.records());
        while let Some(part) = parts.pop() {
            let (slice, place) = (batch.slice(part.clone()), Place::of(batch, &part));
            match self.persist(&slice, place).await? {
                Persisted::Committed(more) => counts += more,
                Persisted::Refused(_) if part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                }
                Persisted::Ordered(offset, _) if part.len() > 1 => {
                    let at = part.clone().find(|index| batch.offset_of(*index) == offset);
                    let Some(at) = at else {
                        return Err(Failure::Halt(format!(
                            "no record at offset {offset} to be buried"
                        )));
                    };
                    let around = [at + 1..part.end, at..at + 1, part.start..at];
                    parts.extend(around.into_iter().filter(|part| !part.is_empty()));
                }
                Persisted::Ordered(_, text) if part.len() == 1 => {
                    counts += self.bury_by_order(batch, part.start, &text).await?;
                }
                Persisted::Refused(text) if part.len() == 1 && batch.kind() == Kind::Balance => {
                    counts += self.bury(batch, part.start, &slice, text).await?;
                }
                // Not even as a dead letter: an owner's trigger there, or a constraint that is checked at COMMIT.
                Persisted::Refused(text) | Persisted::Ordered(_, text) => {
                    return Err(Failure::Halt(self.stands(place, &text)));
                }
            }
        }
        fault_point!("batch.committed");
        Ok(counts)
    }

    /// Keeps the headers of a batch for its results, before it is committed. A batch does not wait for ever for that.
    async fn keep_headers(&self, batch: &Batch) -> Result<(), Failure> {
        let (offsets, headers) = batch.headers();
        if offsets.is_empty() {
            return Ok(());
        }
        let Partition { topic, number } = &self.partition;
        let (token, lease_id) = (&self.leadership.fencing_token, &self.leadership.lease_id);
        for wait in back_off().take(HEADER_TRIES) {
            let kept = async {
                let client = self.pool.get().await.map_err(AskError::of_pool)?;
                let arguments: [&(dyn ToSql + Sync); 6] =
                    [topic, number, token, lease_id, &offsets, &headers];
                client
                    .answer(client.execute(KEEP_HEADERS, &arguments))
                    .await
            };
            let kept = self.while_leading(tokio::time::timeout(SLOW, kept)).await?;
            match kept.unwrap_or_else(|_| Err(AskError::Silent("none in time".to_owned()))) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let error = error.describe();
                    warn!(partition = %self.partition, "headers for results not kept: {error}");
                    self.while_leading(tokio::time::sleep(wait)).await?;
                }
            }
        }
        Ok(())
    }

    /// The one record that an operator gives up: a dead letter, untried. `text` is what the database said of it before.
    async fn bury_by_order(
        &self,
        batch: &Batch,
        index: usize,
        text: &str,
    ) -> Result<Counts, Failure> {
        let offset = batch.offset_of(index);
        warn!(partition = %self.partition, offset, "record becomes a dead letter, as ordered by hand");
        let dead = batch.dead_slice(index, DeadReason::Buried, text, 1);
        match self.persist(&dead, Place::One(offset)).await? {
            Persisted::Committed(counts) => Ok(counts),
            Persisted::Refused(text) | Persisted::Ordered(_, text) => Err(Failure::Halt(format!(
                "stands at offset {offset}, which is to be a dead letter by order, and the database refuses that: {text}; mend that"
            ))),
        }
    }

    /// The one record that the database refuses: tried again some times, then a dead letter.
    async fn bury(
        &self,
        batch: &Batch,
        index: usize,
        slice: &Slice<'_>,
        mut text: String,
    ) -> Result<Counts, Failure> {
        let offset = batch.offset_of(index);
        let mut attempts = 1;
        for wait in self.retry.waits() {
            warn!(partition = %self.partition, offset, attempts, "record refused by the database: {text}");
            self.while_leading(tokio::time::sleep(wait)).await?;
            match self.persist(slice, Place::One(offset)).await? {
                Persisted::Committed(counts) => return Ok(counts),
                Persisted::Refused(again) => text = again,
                Persisted::Ordered(..) => return self.bury_by_order(batch, index, &text).await,
            }
            attempts += 1;
        }
        warn!(partition = %self.partition, offset, attempts, "record becomes a dead letter: {text}");
        let dead = batch.dead_slice(index, DeadReason::ApplyFailed, &text, attempts);
        match self.persist(&dead, Place::One(offset)).await? {
            Persisted::Committed(counts) => Ok(counts),
            Persisted::Refused(text) => Err(Failure::Halt(self.stands(Place::One(offset), &text))),
            Persisted::Ordered(..) => self.bury_by_order(batch, index, &text).await,
        }
    }

    /// Tries until the slice is committed or refused for what it holds.
    async fn persist(&self, slice: &Slice<'_>, place: Place) -> Result<Persisted, Failure> {
        let mut waits = back_off();
        let mut said: Option<Instant> = None;
        let mut before = String::new();
        let (mut at_once, mut unclassified) = (0, 0);
        loop {
            let refusal = match self.while_leading(self.watched(slice)).await? {
                Ok(counts) => return Ok(Persisted::Committed(counts)),
                Err(refusal) => refusal,
            };
            let topic = &self.partition.topic;
            self.metrics.failed(topic, refusal.consequence);
            match refusal.consequence {
                Consequence::Reject => return Ok(Persisted::Refused(refusal.text)),
                Consequence::Bury => {
                    let offset = refusal.ordered.unwrap_or(slice.from_offset);
                    return Ok(Persisted::Ordered(offset, before));
                }
                Consequence::Reacquire => {
                    self.metrics.fenced();
                    return Err(Failure::Lost(refusal.text));
                }
                Consequence::Halt if refusal.may_be_one && matches!(place, Place::Several) => {
                    return Ok(Persisted::Refused(refusal.text));
                }
                Consequence::Halt if refusal.may_be_one => {
                    return Err(Failure::Halt(self.stands(place, &refusal.text)));
                }
                Consequence::Halt => return Err(Failure::Halt(refusal.text)),
                Consequence::Wait => return Err(Failure::Paused(refusal.text)),
                Consequence::Pause => {
                    self.while_leading(self.pause_topic(slice, &refusal.text))
                        .await?;
                    return Err(Failure::Paused(refusal.text));
                }
                Consequence::RetryAtOnce if at_once < RACES => {
                    at_once += 1;
                    self.metrics.retried(topic);
                    debug!(partition = %self.partition, "again: {}", refusal.text);
                }
                Consequence::Unclassified
                    if unclassified >= UNCLASSIFIED && matches!(place, Place::Several) =>
                {
                    return Ok(Persisted::Refused(refusal.text));
                }
                Consequence::RetryAtOnce | Consequence::Retry | Consequence::Unclassified => {
                    self.metrics.retried(topic);
                    let stands = refusal.consequence == Consequence::Unclassified;
                    unclassified += u32::from(stands);
                    let text = match stands {
                        true => self.stands(place, &refusal.text),
                        false => refusal.text.clone(),
                    };
                    self.status
                        .is(&self.partition, State::Retrying, Some(&text));
                    // While its record is searched, the parts of one batch need no line each.
                    let is_search = stands && matches!(place, Place::Several);
                    if !is_search && said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
                        said = Some(Instant::now());
                        warn!(partition = %self.partition, "batch not committed yet, trying again: {text}");
                    }
                    before = refusal.text;
                    self.while_leading(tokio::time::sleep(waits.next().unwrap_or(SLOW)))
                        .await?;
                }
            }
        }
    }

    /// What an operator can do where one record is what the database stumbles over.
    fn stands(&self, place: Place, text: &str) -> String {
        let Place::One(offset) = place else {
            return text.to_owned();
        };
        format!(
            "stands at offset {offset}: {text}; mend that, or where this record alone meets it, give it up: sluice bury {} {offset} --why …",
            self.partition
        )
    }

    /// Whatever takes longer than the lease is dropped, and with it the connection.
    async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.leadership.ended() => Err(Failure::Lost("the lease ran out".into())),
            done = work => Ok(done),
        }
    }

    async fn watched(&self, slice: &Slice<'_>) -> Result<Counts, Refusal> {
        if let Some(call) = self.call(slice)
            && let Some(done) = self.group.commit(call).await
        {
            self.metrics.phase("turn", done.waited);
            self.metrics.phase("apply", done.apply);
            self.metrics.phase("commit", done.commit);
            let took = LastBatch {
                rows: slice.rows(),
                apply: done.apply,
                commit: done.commit,
                ..LastBatch::default()
            };
            return Ok(self.committed(slice, &done.row, took));
        }
        let mut turn = None;
        if slice.rows() >= LARGE {
            let asked = Instant::now();
            turn = self.turns.acquire().await.ok();
            self.metrics.phase("turn", asked.elapsed());
        }
        let transaction = self.transaction(slice);
        tokio::pin!(transaction);
        tokio::select! {
            done = &mut transaction => return done,
            () = tokio::time::sleep(TURN), if turn.is_some() => drop(turn),
        }
        transaction.await
    }

    /// What of a slice is small enough to go with others.
    fn call(&self, slice: &Slice<'_>) -> Option<Call> {
        let Content::Balance(Rows {
            staged: Staged::Piece(piece),
            count: rows @ 1..,
            checksum,
        }) = &slice.content
        else {
            return None;
        };
        Some(Call {
            topic: self.partition.topic.clone(),
            partition: self.partition.number,
            fencing_token: self.leadership.fencing_token,
            lease_id: self.leadership.lease_id,
            from_offset: slice.from_offset,
            next_offset: slice.next_offset,
            rows: *rows,
            checksum: *checksum,
            last_record: slice.last_record.map(Uuid::from_bytes),
            piece: piece.clone(),
        })
    }

    async fn transaction(&self, slice: &Slice<'_>) -> Result<Counts, Refusal> {
        let mut connection = Disposable::of(&self.pool).await?;
        let client = connection.client();
        let (row, took) = {
            let mut answer = pin!(client.answer_over(slice.bytes(), self.run(client, slice)));
            loop {
                tokio::select! {
                    answer = &mut answer => break answer?,
                    () = tokio::time::sleep(SLOW) => self.say_slow(slice, client.behind()),
                }
            }
        };
        connection.keep();
        Ok(self.committed(slice, &row, took))
    }

    fn say_slow(&self, slice: &Slice<'_>, behind: Option<String>) {
        self.status.waits_behind(&self.partition, behind.clone());
        let behind = behind.map_or("something holds it up there".to_owned(), |holder| {
            format!("it waits for a lock of {holder}")
        });
        warn!(
            partition = %self.partition, from_offset = slice.from_offset, rows = slice.rows(),
            "batch is still in the database; {behind}"
        );
    }

    fn committed(&self, slice: &Slice<'_>, row: &Row, took: LastBatch) -> Counts {
        self.status.batch_took(&self.partition, took);
        let rejections: Vec<i64> = row.get("rejections");
        let counts = Counts {
            applied: row.get("applied"),
            rejected: row.get("rejected"),
            duplicates: row.get("duplicates"),
            dead: row.get("dead"),
            rejections: rejections.try_into().unwrap_or_default(),
        };
        self.metrics.committed(&self.partition.topic, &counts);
        if counts.dead > 0 {
            self.aftercare.notify_one();
        }
        let outcome: &str = row.get("outcome");
        debug!(partition = %self.partition, from_offset = slice.from_offset, next_offset = slice.next_offset,
            rows = slice.rows(), outcome, "batch committed");
        counts
    }

    async fn run(
        &self,
        client: &Connection,
        slice: &Slice<'_>,
    ) -> Result<(Row, LastBatch), tokio_postgres::Error> {
        let mut took = LastBatch {
            rows: slice.rows(),
            ..LastBatch::default()
        };
        let statements = Statements::prepare(client).await?;
        let Partition { topic, number } = &self.partition;
        let (token, lease_id) = (self.leadership.fencing_token, self.leadership.lease_id);
        let last_record = slice.last_record.map(Uuid::from_bytes);
        let began = Instant::now();
        if let Some(call) = self.call(slice) {
            let commit = async {
                fault_point!("alone.commit");
                fault_sent!("alone.sent", client.batch_execute("COMMIT")).await
            };
            let ((), (applied, row), (committed, ())) = tokio::try_join!(
                client.batch_execute("BEGIN"),
                timed(call.apply(client, &statements)),
                timed(commit),
            )?;
            fault_point!("alone.answered");
            took.apply = applied - began;
            took.commit = committed - applied;
            self.metrics.phase("apply", took.apply);
            self.metrics.phase("commit", took.commit);
            return Ok((row, took));
        }
        let rows = match &slice.content {
            Content::Balance(rows) => rows,
            Content::Domain(records) => {
                fault_point!("events.send");
                let args: [&(dyn ToSql + Sync); 12] = [
                    topic,
                    number,
                    &token,
                    &lease_id,
                    &slice.from_offset,
                    &slice.next_offset,
                    &last_record,
                    &records.offsets,
                    &records.times_ms,
                    &records.keys,
                    &records.payloads,
                    &records.headers,
                ];
                // One statement, and so one transaction.
                let apply = client.query_one(&statements.apply_events, &args);
                let row = fault_sent!("events.sent", apply).await?;
                fault_point!("events.answered");
                took.apply = began.elapsed();
                self.metrics.phase("apply", took.apply);
                return Ok((row, took));
            }
        };
        let args: [&(dyn ToSql + Sync); 9] = [
            topic,
            number,
            &token,
            &lease_id,
            &slice.from_offset,
            &slice.next_offset,
            &rows.count,
            &rows.checksum,
            &last_record,
        ];
        let copy = match &rows.staged {
            Staged::Copy(copy) if rows.count > 0 => copy,
            _ => {
                // One statement, and so one transaction.
                let row = client.query_one(&statements.apply_balances, &args).await?;
                took.apply = began.elapsed();
                self.metrics.phase("apply", took.apply);
                return Ok((row, took));
            }
        };
        let (begin, copying) = (
            client.batch_execute("BEGIN"),
            client.copy_in(&statements.copy),
        );
        let ((), sink) = try_join(begin, copying).await?;
        fault_point!("copy.begun");
        let mut sink = pin!(sink);
        for start in (0..copy.len()).step_by(MESSAGE) {
            let end = copy.len().min(start + MESSAGE);
            sink.feed(copy.slice(start..end)).await?;
            fault_point!("copy.mid");
        }
        // All is sent before the first answer: behind an error, PostgreSQL refuses the call and rolls back at COMMIT.
        let commit = async {
            fault_point!("copy.commit");
            fault_sent!("copy.sent", client.batch_execute("COMMIT")).await
        };
        let ((copied, _), (applied, row), (committed, ())) = tokio::try_join!(
            timed(sink.finish()),
            timed(client.query_one(&statements.apply_balances, &args)),
            timed(commit),
        )?;
        fault_point!("copy.answered");
        took.copy = copied - began;
        took.apply = applied - copied;
        took.commit = committed - applied;
        self.metrics.phase("copy", took.copy);
        self.metrics.phase("apply", took.apply);
        self.metrics.phase("commit", took.commit);
        Ok((row, took))
    }

    /// Stops the topic on all instances; what is paused already stays as it is.
    async fn pause_topic(&self, slice: &Slice<'_>, reason: &str) {
        let statement = match slice.content {
            Content::Balance(_) => TRIP_BREAKER,
            Content::Domain(_) => PAUSE_HANDLER,
        };
        let paused = async {
            let mut connection = Disposable::of(&self.pool).await?;
            let arguments: [&(dyn ToSql + Sync); 2] = [&self.partition.topic, &reason];
            let client = connection.client();
            client.answer(client.execute(statement, &arguments)).await?;
            connection.keep();
            Ok::<_, AskError>(())
        };
        let paused = tokio::time::timeout(PAUSE_LIMIT, paused).await;
        let paused = paused.unwrap_or_else(|_| Err(AskError::Silent("none in time".to_owned())));
        if let Err(failed) = paused {
            let error = failed.describe();
            warn!(partition = %self.partition, "topic not paused yet, trying again: {error}");
        }
    }
}

enum Persisted {
    Committed(Counts),
    /// The database does not take these records, with its words.
    Refused(String),
    /// An operator gives up the record at this offset; with what the database said of it before.
    Ordered(i64, String),
}

/// How much there is to be persisted.
#[derive(Clone, Copy)]
enum Place {
    /// No record: offsets that hold none.
    Nothing,
    /// The record at this offset.
    One(i64),
    Several,
}

impl Place {
    fn of(batch: &Batch, part: &Range<usize>) -> Self {
        match part.len() {
            0 => Self::Nothing,
            1 => Self::One(batch.offset_of(part.start)),
            _ => Self::Several,
        }
    }
}
