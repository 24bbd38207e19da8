//! Small batches of several partitions in one transaction, as a database commits the
//! transactions of several sessions with one write ("group commit"): batches that arrive
//! while a transaction is in the database wait for it, and are then sent together.
//!
//! A failure undoes all of them, and they are then committed one by one. No batch waits for
//! another partition's lock for longer than 50 ms.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio_postgres::{Error, Row};
use tracing::debug;

use crate::commit::call::{Call, Together, in_one_transaction};
use crate::commit::statements::Statements;
use crate::postgres::pool::{AskError, Pool};
use crate::postgres::session::Disposable;

/// How long a shared transaction waits for a lock.
const PATIENCE_MS: u32 = 50;
/// The time limit of a statement: a batch that takes longer is committed in its own transaction, so that
/// it delays no other. PostgreSQL never ends a COMMIT because of it.
const STATEMENT_MS: u32 = 1_000;
/// How long a batch waits for the previous transaction before it is sent in its own.
const TURN: Duration = Duration::from_secs(1);
/// Staged bytes in one transaction; the rest is sent with the next.
const BYTES: usize = 256 << 10;
/// Batches in one transaction: `try_join_all` keeps the order of up to this many.
const MEMBERS: usize = 30;

static BEGIN: LazyLock<String> = LazyLock::new(|| {
    format!(
        "BEGIN; SET LOCAL lock_timeout = {PATIENCE_MS}; SET LOCAL statement_timeout = {STATEMENT_MS}"
    )
});

/// A committed batch: the function's answer, and how long it took.
pub struct Done {
    pub row: Row,
    pub waited: Duration,
    pub apply: Duration,
    pub commit: Duration,
}

struct Member {
    call: Call,
    since: Instant,
    done: oneshot::Sender<Done>,
}

pub struct Group {
    pool: Pool,
    waiting: Mutex<Vec<Member>>,
    turn: tokio::sync::Mutex<()>,
}

impl Group {
    pub fn new(pool: Pool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Commits together with the other waiting batches; `None` if that failed, for any reason and because of
    /// any batch, or takes too long to begin.
    pub async fn commit(&self, call: Call) -> Option<Done> {
        let (done, mut mine) = oneshot::channel();
        let since = Instant::now();
        self.waiting().push(Member { call, since, done });
        let _turn = tokio::select! {
            biased;
            done = &mut mine => return done.ok(),
            turn = self.turn.lock() => turn,
            // A batch without an answer delays no other. If another transaction has included it, the fence answers.
            () = tokio::time::sleep(TURN) => return None,
        };
        loop {
            match mine.try_recv() {
                // Another transaction has just included it.
                Ok(done) => return Some(done),
                Err(TryRecvError::Closed) => return None,
                Err(TryRecvError::Empty) => {
                    // Gates open together: batches that are about to arrive get a moment.
                    tokio::task::yield_now().await;
                    self.commit_waiting().await;
                }
            }
        }
    }

    /// Commits the waiting batches, as many as fit together, and reports to each.
    async fn commit_waiting(&self) {
        let members = self.take_waiting();
        let began = Instant::now();
        let calls: Vec<&Call> = members.iter().map(|member| &member.call).collect();
        match self.commit_together(&calls).await {
            Ok(Together {
                applied: rows,
                committed,
            }) => {
                debug!(batches = members.len(), "committed together");
                let applied = rows.last().map_or(began, |(applied, _)| *applied);
                for (member, (_, row)) in members.into_iter().zip(rows) {
                    // A batch that no longer waits learns the offset from the database.
                    let _ = member.done.send(Done {
                        row,
                        waited: began - member.since,
                        apply: applied - began,
                        commit: committed - applied,
                    });
                }
            }
            Err(failed) => {
                debug!(
                    batches = members.len(),
                    "not committed together: {}",
                    failed.describe()
                );
            }
        }
    }

    fn take_waiting(&self) -> Vec<Member> {
        let mut waiting = self.waiting();
        waiting.retain(|member| !member.done.is_closed());
        let mut bytes = 0;
        let fits = |member: &&Member| {
            bytes += member.call.staged.bytes.len();
            bytes <= BYTES
        };
        // The first is sent in any case.
        let count = waiting.iter().take(MEMBERS).take_while(fits).count();
        let count = count.max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    async fn commit_together(&self, calls: &[&Call]) -> Result<Together, AskError> {
        let mut connection = Disposable::of(&self.pool).await?;
        let client = connection.client();
        let work = async {
            let statements = Statements::prepare(client).await?;
            let commit = async {
                fault_point!("group.commit");
                fault_sent!("group.sent", client.batch_execute("COMMIT")).await
            };
            let done = in_one_transaction(client, &statements, &BEGIN, calls, commit).await?;
            fault_point!("group.answered");
            Ok::<_, Error>(done)
        };
        let done = client.answer(work).await?;
        connection.keep();
        Ok(done)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Member>> {
        self.waiting.lock().expect("no panic while held")
    }
}
