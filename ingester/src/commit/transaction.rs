//! One batch, one transaction: BEGIN, staging, apply, COMMIT.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use futures_util::future::try_join;
use tokio::sync::{Notify, Semaphore};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::batch::record::Kind;
use crate::batch::slice::{Content, Records, Slice, Staged};
use crate::commit::applier::SLOW;
use crate::commit::call::{Call, Fence, in_one_transaction};
use crate::commit::edge::{Edge, Refusal};
use crate::commit::group::Group;
use crate::commit::statements::{Statements, timed};
use crate::leases::lease::Leadership;
use crate::observe::counts::BatchCounts;
use crate::observe::metrics::Metrics;
use crate::observe::snapshot::LastBatch;
use crate::observe::status::Status;
use crate::partition::Partition;
use crate::postgres::pool::{AskError, Connection, Pool};
use crate::postgres::session::Disposable;

/// A batch of so many records keeps a processor busy; a smaller one mostly waits for round trips and the disk.
const LARGE: i64 = 1_000;
/// A large batch that takes longer waits for something: the next one gets its turn.
const TURN: Duration = Duration::from_secs(1);

const KEEP_HEADERS: &str = "SELECT sluice.keep_result_headers($1, $2, $3, $4, $5, $6)";
const PAUSE_HANDLER: &str = "SELECT sluice.pause_handler($1, $2)";
const TRIP_BREAKER: &str = "SELECT sluice.trip_breaker($1, $2)";

/// How long the parts of a transaction took; `None` for a part that it does not have.
#[derive(Clone, Copy, Default)]
struct Took {
    /// Waiting for this batch's turn.
    turn: Option<Duration>,
    copy: Option<Duration>,
    apply: Duration,
    commit: Option<Duration>,
}

/// Commits batches of one partition for one leadership, each try in a transaction.
#[derive(Clone)]
pub struct Writer {
    pub pool: Pool,
    pub partition: Partition,
    pub leadership: Arc<Leadership>,
    /// How many large batches may be in the database at once. More would only block each other: they wait for the same
    /// balances, and each one's snapshot keeps PostgreSQL from reusing the space of all rows replaced meanwhile.
    pub turns: Arc<Semaphore>,
    /// Where small batches are sent first.
    pub group: Arc<Group>,
    /// Notified of dead letters.
    pub wake_dead_letters: Arc<Notify>,
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
}

impl Edge for Writer {
    async fn ended(&self) {
        self.leadership.ended().await;
    }

    async fn attempt(&self, slice: &Slice<'_>) -> Result<BatchCounts, Refusal> {
        if let Content::Balance(staged) = &slice.content
            && staged.is_small()
            && let Some(done) = self.group.commit(self.call(slice, staged)).await
        {
            let took = Took {
                turn: Some(done.waited),
                copy: None,
                apply: done.apply,
                commit: Some(done.commit),
            };
            return Ok(self.committed(slice, &done.row, took));
        }
        let asked = Instant::now();
        let turn = match slice.rows() >= LARGE {
            true => self.turns.acquire().await.ok(),
            false => None,
        };
        let waited = turn.is_some().then(|| asked.elapsed());
        let transaction = self.transaction(slice, waited);
        tokio::pin!(transaction);
        tokio::select! {
            done = &mut transaction => return done,
            () = tokio::time::sleep(TURN), if turn.is_some() => drop(turn),
        }
        transaction.await
    }

    async fn keep_headers(&self, offsets: &[i64], headers: &[&str]) -> Result<(), String> {
        let Partition { topic, number } = &self.partition;
        let (token, lease_id) = (&self.leadership.fencing_token, &self.leadership.lease_id);
        let kept = async {
            let client = self.pool.get().await.map_err(AskError::of_pool)?;
            let arguments: [&(dyn ToSql + Sync); 6] =
                [topic, number, token, lease_id, &offsets, &headers];
            let kept = client.execute(KEEP_HEADERS, &arguments);
            client.answer(kept).await
        };
        kept.await.map(drop).map_err(|failed| failed.describe())
    }

    async fn pause_topic(&self, kind: Kind, reason: &str) -> Result<(), String> {
        let statement = match kind {
            Kind::Balance => TRIP_BREAKER,
            Kind::Domain => PAUSE_HANDLER,
        };
        let paused = async {
            let mut connection = Disposable::of(&self.pool).await?;
            let arguments: [&(dyn ToSql + Sync); 2] = [&self.partition.topic, &reason];
            let client = connection.client();
            client.answer(client.execute(statement, &arguments)).await?;
            connection.keep();
            Ok::<_, AskError>(())
        };
        paused.await.map_err(|failed| failed.describe())
    }
}

impl Writer {
    fn fence(&self, slice: &Slice<'_>) -> Fence {
        Fence {
            partition: self.partition.clone(),
            fencing_token: self.leadership.fencing_token,
            lease_id: self.leadership.lease_id,
            span: slice.span,
            last_record: slice.last_record.map(Uuid::from_bytes),
        }
    }

    fn call(&self, slice: &Slice<'_>, staged: &Staged) -> Call {
        Call {
            fence: self.fence(slice),
            staged: staged.clone(),
        }
    }

    async fn transaction(
        &self,
        slice: &Slice<'_>,
        waited: Option<Duration>,
    ) -> Result<BatchCounts, Refusal> {
        let mut connection = Disposable::of(&self.pool).await?;
        let client = connection.client();
        let (row, took) = {
            let mut answer = pin!(client.answer_over(slice.bytes(), self.apply(client, slice)));
            loop {
                tokio::select! {
                    answer = &mut answer => break answer?,
                    () = tokio::time::sleep(SLOW) => self.say_slow(slice, client.behind()),
                }
            }
        };
        connection.keep();
        let took = Took {
            turn: waited,
            ..took
        };
        Ok(self.committed(slice, &row, took))
    }

    fn say_slow(&self, slice: &Slice<'_>, behind: Option<String>) {
        self.status.waits_behind(&self.partition, behind.clone());
        let behind = behind.map_or("something holds it up there".to_owned(), |holder| {
            format!("it waits for a lock of {holder}")
        });
        warn!(
            partition = %self.partition, from_offset = slice.span.from(), rows = slice.rows(),
            "batch is still in the database; {behind}"
        );
    }

    fn committed(&self, slice: &Slice<'_>, row: &Row, took: Took) -> BatchCounts {
        for (phase, took) in [
            ("turn", took.turn),
            ("copy", took.copy),
            ("apply", Some(took.apply)),
            ("commit", took.commit),
        ] {
            if let Some(took) = took {
                self.metrics.phase(phase, took);
            }
        }
        let took = LastBatch {
            rows: slice.rows(),
            copy: took.copy.unwrap_or_default(),
            apply: took.apply,
            commit: took.commit.unwrap_or_default(),
        };
        self.status.batch_took(&self.partition, took);
        let rejections: Vec<i64> = row.get("rejections");
        let counts = BatchCounts {
            applied: row.get("applied"),
            rejected: row.get("rejected"),
            duplicates: row.get("duplicates"),
            dead: row.get("dead"),
            rejections: rejections.try_into().unwrap_or_default(),
        };
        self.metrics.committed(&self.partition.topic, &counts);
        if counts.dead > 0 {
            self.wake_dead_letters.notify_one();
        }
        let outcome: &str = row.get("outcome");
        debug!(partition = %self.partition, from_offset = slice.span.from(), next_offset = slice.span.next(),
            rows = slice.rows(), outcome, "batch committed");
        counts
    }

    async fn apply(&self, client: &Connection, slice: &Slice<'_>) -> Result<(Row, Took), Error> {
        let statements = Statements::prepare(client).await?;
        let call = match &slice.content {
            Content::Balance(staged) => self.call(slice, staged),
            Content::Domain(records) => {
                return events(client, &statements, &self.fence(slice), records).await;
            }
        };
        if call.staged.is_small() {
            alone(client, &statements, &call).await
        } else if call.staged.promise.rows > 0 {
            copied(client, &statements, &call).await
        } else {
            // Nothing is staged: one statement, which is one transaction.
            let began = Instant::now();
            let row = call.apply(client, &statements).await?;
            Ok((row, Took::one(began)))
        }
    }
}

impl Took {
    /// The times of a transaction of one statement, which began at that moment.
    fn one(began: Instant) -> Self {
        Self {
            apply: began.elapsed(),
            ..Self::default()
        }
    }
}

/// A small batch in its own transaction.
async fn alone(
    client: &Connection,
    statements: &Statements,
    call: &Call,
) -> Result<(Row, Took), Error> {
    let began = Instant::now();
    let commit = async {
        fault_point!("alone.commit");
        fault_sent!("alone.sent", client.batch_execute("COMMIT")).await
    };
    let done = in_one_transaction(client, statements, "BEGIN", &[call], commit).await?;
    fault_point!("alone.answered");
    let applied = done.applied.into_iter().next();
    let (applied, row) = applied.expect("an answer for each call");
    let took = Took {
        turn: None,
        copy: None,
        apply: applied - began,
        commit: Some(done.committed - applied),
    };
    Ok((row, took))
}

/// Domain events: one statement, and so one transaction.
async fn events(
    client: &Connection,
    statements: &Statements,
    fence: &Fence,
    records: &Records<'_>,
) -> Result<(Row, Took), Error> {
    fault_point!("events.send");
    let began = Instant::now();
    let arguments: [&(dyn ToSql + Sync); 12] = [
        &fence.partition.topic,
        &fence.partition.number,
        &fence.fencing_token,
        &fence.lease_id,
        &fence.span.from(),
        &fence.span.next(),
        &fence.last_record,
        &records.offsets,
        &records.times_ms,
        &records.keys,
        &records.payloads,
        &records.headers,
    ];
    let apply = client.query_one(&statements.apply_events, &arguments);
    let row = fault_sent!("events.sent", apply).await?;
    fault_point!("events.answered");
    Ok((row, Took::one(began)))
}

/// A batch that is staged by a COPY.
async fn copied(
    client: &Connection,
    statements: &Statements,
    call: &Call,
) -> Result<(Row, Took), Error> {
    let began = Instant::now();
    let (begin, copying) = (
        client.batch_execute("BEGIN"),
        client.copy_in(&statements.copy),
    );
    let ((), sink) = try_join(begin, copying).await?;
    fault_point!("copy.begun");
    let mut sink = pin!(sink);
    for message in call.staged.copy() {
        sink.feed(message).await?;
        fault_point!("copy.mid");
    }
    // Everything is sent before the first answer: after an error PostgreSQL refuses the call and rolls back at COMMIT.
    let commit = async {
        fault_point!("copy.commit");
        fault_sent!("copy.sent", client.batch_execute("COMMIT")).await
    };
    let ((copied, _), (applied, row), (committed, ())) = tokio::try_join!(
        timed(sink.finish()),
        timed(call.apply(client, statements)),
        timed(commit),
    )?;
    fault_point!("copy.answered");
    let took = Took {
        turn: None,
        copy: Some(copied - began),
        apply: applied - copied,
        commit: Some(committed - applied),
    };
    Ok((row, took))
}
