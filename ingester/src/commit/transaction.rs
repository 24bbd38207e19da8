//! One batch, one transaction: BEGIN, staging, apply, COMMIT.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::try_join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::batch::slice::{Content, Records, Slice, Staged};
use crate::commit::applier::{Applier, Refusal, SLOW};
use crate::commit::call::{Call, Fence, Parcel, in_one_transaction};
use crate::commit::statements::{Statements, timed};
use crate::observe::counts::Counts;
use crate::observe::snapshot::LastBatch;
use crate::postgres::pool::Connection;
use crate::postgres::session::Disposable;

/// A batch of so many records is work for a processor; smaller ones are round trips and waits for the disk.
const LARGE: i64 = 1_000;
/// A large batch that takes longer waits for something: its turn goes to the next.
const TURN: Duration = Duration::from_secs(1);
/// Bytes in one message of the COPY: what the backend takes in at once, and keeps room for.
const MESSAGE: usize = 64 << 10;

/// How long the parts of a transaction took; what it does without is `None`.
#[derive(Clone, Copy, Default)]
struct Took {
    copy: Option<Duration>,
    apply: Duration,
    commit: Option<Duration>,
}

impl Applier {
    /// One try.
    pub(super) async fn attempt(&self, slice: &Slice<'_>) -> Result<Counts, Refusal> {
        if let Some(parcel) = self.parcel(slice)
            && let Some(done) = self.group.commit(parcel).await
        {
            self.metrics.phase("turn", done.waited);
            let took = Took {
                copy: None,
                apply: done.apply,
                commit: Some(done.commit),
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

    fn fence(&self, slice: &Slice<'_>) -> Fence {
        Fence {
            topic: self.partition.topic.clone(),
            partition: self.partition.number,
            fencing_token: self.leadership.fencing_token,
            lease_id: self.leadership.lease_id,
            from_offset: slice.from_offset,
            next_offset: slice.next_offset,
            last_record: slice.last_record.map(Uuid::from_bytes),
        }
    }

    /// What of a slice is small enough to go with others.
    fn parcel(&self, slice: &Slice<'_>) -> Option<Parcel> {
        let Content::Balance(rows) = &slice.content else {
            return None;
        };
        let Staged::Piece(piece) = &rows.staged else {
            return None;
        };
        let call = Call {
            fence: self.fence(slice),
            rows: rows.count,
            checksum: rows.checksum,
        };
        (rows.count > 0).then(|| Parcel {
            call,
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

    fn committed(&self, slice: &Slice<'_>, row: &Row, took: Took) -> Counts {
        for (phase, took) in [
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

    async fn run(&self, client: &Connection, slice: &Slice<'_>) -> Result<(Row, Took), Error> {
        let statements = Statements::prepare(client).await?;
        if let Some(parcel) = self.parcel(slice) {
            return alone(client, &statements, &parcel).await;
        }
        let fence = self.fence(slice);
        let rows = match &slice.content {
            Content::Balance(rows) => rows,
            Content::Domain(records) => return events(client, &statements, &fence, records).await,
        };
        let call = Call {
            fence,
            rows: rows.count,
            checksum: rows.checksum,
        };
        match &rows.staged {
            Staged::Copy(copy) if rows.count > 0 => copied(client, &statements, &call, copy).await,
            // Nothing is staged: one statement, and so one transaction.
            _ => {
                let began = Instant::now();
                let row = call.apply(client, &statements).await?;
                Ok((row, Took::one(began)))
            }
        }
    }
}

impl Took {
    /// One statement, which began then, is all of it.
    fn one(began: Instant) -> Self {
        Self {
            apply: began.elapsed(),
            ..Self::default()
        }
    }
}

/// A small batch that nobody goes with.
async fn alone(
    client: &Connection,
    statements: &Statements,
    parcel: &Parcel,
) -> Result<(Row, Took), Error> {
    let began = Instant::now();
    let commit = async {
        fault_point!("alone.commit");
        fault_sent!("alone.sent", client.batch_execute("COMMIT")).await
    };
    let done = in_one_transaction(client, statements, "BEGIN", &[parcel], commit).await?;
    fault_point!("alone.answered");
    let applied = done.applied.into_iter().next();
    let (applied, row) = applied.expect("an answer for each parcel");
    let took = Took {
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
        &fence.topic,
        &fence.partition,
        &fence.fencing_token,
        &fence.lease_id,
        &fence.from_offset,
        &fence.next_offset,
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
    copy: &Bytes,
) -> Result<(Row, Took), Error> {
    let began = Instant::now();
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
        timed(call.apply(client, statements)),
        timed(commit),
    )?;
    fault_point!("copy.answered");
    let took = Took {
        copy: Some(copied - began),
        apply: applied - copied,
        commit: Some(committed - applied),
    };
    Ok((row, took))
}
