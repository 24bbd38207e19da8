//! Work on all dead letters that a filter finds: chunk by chunk, each a transaction. It goes on whoever looks, can be
//! stopped between two chunks, and says how far it is. A job lives in the instance that was asked: where that ends,
//! what is done stays done, and the same job asked for again goes on with the rest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::operator::dead_letters::{Deed, Filter, Work, is_left_out};
use crate::operator::session::{ANSWER_LIMIT, OperatorError, within};
use crate::postgres::error::{Consequence, consequence};
use crate::postgres::pool::Pool;

/// Letters of one transaction. Batches of their partitions wait for it, so it is a short one.
const CHUNK: usize = 100;
/// Jobs at one time.
const AT_ONCE: usize = 2;
/// Jobs that are remembered after their end.
const REMEMBERED: usize = 20;
/// How often a chunk is tried while PostgreSQL is away or late, and how long it is waited for after the first try.
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// What is to be done with each letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Replay,
    Discard,
    Restore,
}

impl Action {
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "replay" => Some(Self::Replay),
            "discard" => Some(Self::Discard),
            "restore" => Some(Self::Restore),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
            Self::Restore => "restore",
        }
    }

    fn deed(self) -> Deed<'static> {
        match self {
            Self::Replay => Deed::Replay(None),
            Self::Discard => Deed::Discard,
            Self::Restore => Deed::Restore,
        }
    }
}

/// What a job is to do, and who wants it.
pub struct Order {
    pub action: Action,
    pub filter: Filter,
    /// The filter in words, for those who see the job.
    pub which: String,
    pub dry_run: bool,
    /// As it is recorded: the reason, and the name.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Stopping,
    Stopped,
    Done,
    Failed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    fn has_ended(self) -> bool {
        matches!(self, Self::Stopped | Self::Done | Self::Failed)
    }
}

struct Progress {
    state: State,
    /// Not known before the letters are chosen.
    total: Option<usize>,
    /// Tried, whatever came of it, those left out included.
    seen: usize,
    verdicts: BTreeMap<String, usize>,
    left_out: BTreeMap<String, usize>,
    /// Failed too often to be meant by a filter.
    worn_out: usize,
    /// Waits for PostgreSQL, or why it failed.
    trouble: Option<String>,
    /// For whoever wants to undo it.
    done: Vec<i64>,
    ended_ms: Option<i64>,
}

pub struct Job {
    id: i64,
    order: Order,
    began_ms: i64,
    stop: CancellationToken,
    progress: Mutex<Progress>,
}

impl Job {
    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().expect("no panic while held"));
    }

    pub fn tell(&self) -> Value {
        let progress = self.progress.lock().expect("no panic while held");
        let can_be_undone = progress.state.has_ended()
            && self.order.action == Action::Discard
            && !self.order.dry_run
            && !progress.done.is_empty();
        json!({
            "id": self.id,
            "action": self.order.action.as_str(),
            "which": self.order.which,
            "dry_run": self.order.dry_run,
            "why": self.order.why,
            "state": progress.state.as_str(),
            "total": progress.total,
            "seen": progress.seen,
            "done": progress.done.len(),
            "verdicts": progress.verdicts,
            "left_out": progress.left_out,
            "worn_out": progress.worn_out,
            "trouble": progress.trouble,
            "began_ms": self.began_ms,
            "ended_ms": progress.ended_ms,
            "can_be_undone": can_be_undone,
        })
    }

    async fn run(&self, pool: &Pool) {
        let ended = self.work(pool).await;
        let stopped = self.stop.is_cancelled();
        self.change(|progress| {
            progress.ended_ms = Some(now_ms());
            progress.state = match &ended {
                Err(_) => State::Failed,
                Ok(()) if stopped && progress.total != Some(progress.seen) => State::Stopped,
                Ok(()) => State::Done,
            };
            progress.trouble = ended.err();
        });
        let told = self.tell();
        let (state, seen) = (told["state"].as_str(), told["seen"].as_u64());
        let (total, trouble) = (told["total"].as_u64(), told["trouble"].as_str());
        info!(
            job = self.id,
            state, seen, total, trouble, "an operator's job has ended"
        );
    }

    async fn work(&self, pool: &Pool) -> Result<(), String> {
        let chosen = self.patiently(|| {
            within(pool, ANSWER_LIMIT, async |client| {
                let work = Work {
                    filter: &self.order.filter,
                    limit: i64::MAX,
                    deed: self.order.action.deed(),
                };
                work.choose(client).await
            })
        });
        let Some(chosen) = chosen.await.map_err(|trouble| trouble.describe())? else {
            return Ok(());
        };
        self.change(|progress| {
            progress.total = Some(chosen.ids.len());
            progress.worn_out = chosen.worn_out;
        });
        let (mut ids, mut size) = (&chosen.ids[..], CHUNK);
        let why = (!self.order.dry_run).then_some(self.order.why.as_str());
        while !ids.is_empty() && !self.stop.is_cancelled() {
            let (chunk, rest) = ids.split_at(size.min(ids.len()));
            let tried = self.patiently(|| {
                within(pool, ANSWER_LIMIT, async |client| {
                    let deed = self.order.action.deed();
                    deed.act(client, chunk, why, self.order.dry_run).await
                })
            });
            match tried.await {
                Ok(Some(outcomes)) => self.count(&outcomes),
                Ok(None) => return Ok(()),
                // Too much for one transaction: half of it, down to the one letter that takes so long.
                Err(trouble) if is_too_slow(&trouble) && size > 1 => {
                    size /= 2;
                    continue;
                }
                Err(trouble) => return Err(trouble.describe()),
            }
            ids = rest;
        }
        Ok(())
    }

    /// Tries again while PostgreSQL is away or late. A chunk that was done although no answer came is answered then
    /// as left out, for its letters are parked no more. `None` where the job is stopped meanwhile.
    async fn patiently<T, Fut>(&self, work: impl Fn() -> Fut) -> Result<Option<T>, OperatorError>
    where
        Fut: Future<Output = Result<T, OperatorError>>,
    {
        let mut wait = FIRST_WAIT;
        for tries in 1.. {
            let trouble = match work().await {
                Ok(done) => {
                    self.change(|progress| progress.trouble = None);
                    return Ok(Some(done));
                }
                Err(trouble) => trouble,
            };
            if tries == TRIES || !passes(&trouble) {
                return Err(trouble);
            }
            let text = trouble.describe();
            warn!(job = self.id, "an operator's job waits: {text}");
            self.change(|progress| progress.trouble = Some(text));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
            wait *= 2;
        }
        Ok(None)
    }

    fn count(&self, outcomes: &[Value]) {
        self.change(|progress| {
            for outcome in outcomes {
                let (counts, name) = match is_left_out(outcome) {
                    true => (&mut progress.left_out, &outcome["reason"]),
                    false => (&mut progress.verdicts, &outcome["verdict"]),
                };
                *counts
                    .entry(name.as_str().unwrap_or_default().to_owned())
                    .or_default() += 1;
                progress.seen += 1;
                if !is_left_out(outcome) {
                    progress.done.extend(outcome["id"].as_i64());
                }
            }
        });
    }
}

fn is_too_slow(trouble: &OperatorError) -> bool {
    let OperatorError::Refused(error) = trouble else {
        return false;
    };
    error.code().is_some_and(|code| code.code() == "57014")
}

/// Whether it may be gone the next time.
fn passes(trouble: &OperatorError) -> bool {
    match trouble {
        OperatorError::Away(_) | OperatorError::Late => true,
        OperatorError::Refused(_) if is_too_slow(trouble) => false,
        OperatorError::Refused(error) => matches!(
            consequence(error),
            Consequence::Retry | Consequence::RetryAtOnce
        ),
    }
}

fn now_ms() -> i64 {
    crate::observe::snapshot::now_ms()
}

pub struct Jobs {
    pool: Pool,
    all: Mutex<Vec<Arc<Job>>>,
}

/// Why a job is not begun, or not undone.
pub enum Refused {
    TooMany,
    NoSuch,
    NotThatOne(&'static str),
}

impl Jobs {
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            all: Mutex::default(),
        }
    }

    /// The latest first.
    pub fn tell(&self) -> Vec<Value> {
        let all = self.all.lock().expect("no panic while held");
        all.iter().rev().map(|job| job.tell()).collect()
    }

    pub fn find(&self, id: i64) -> Option<Arc<Job>> {
        let all = self.all.lock().expect("no panic while held");
        all.iter().find(|job| job.id == id).cloned()
    }

    pub fn begin(&self, order: Order) -> Result<Arc<Job>, Refused> {
        let mut all = self.all.lock().expect("no panic while held");
        let runs = |job: &&Arc<Job>| {
            let progress = job.progress.lock().expect("no panic while held");
            !progress.state.has_ended()
        };
        if all.iter().filter(runs).count() >= AT_ONCE {
            return Err(Refused::TooMany);
        }
        // The time of its beginning, so that a job of before a restart is never taken for another one.
        let latest = all.last().map_or(0, |job| job.id);
        let began_ms = now_ms();
        let job = Arc::new(Job {
            id: began_ms.max(latest + 1),
            order,
            began_ms,
            stop: CancellationToken::new(),
            progress: Mutex::new(Progress {
                state: State::Running,
                total: None,
                seen: 0,
                verdicts: BTreeMap::new(),
                left_out: BTreeMap::new(),
                worn_out: 0,
                trouble: None,
                done: Vec::new(),
                ended_ms: None,
            }),
        });
        if all.len() >= REMEMBERED
            && let Some(oldest) = all.iter().position(|job| !runs(&job))
        {
            all.remove(oldest);
        }
        all.push(job.clone());
        let (running, pool) = (job.clone(), self.pool.clone());
        tokio::spawn(async move { running.run(&pool).await });
        Ok(job)
    }

    /// Ends it after the chunk in flight.
    pub fn stop(&self, id: i64) -> Result<Arc<Job>, Refused> {
        let job = self.find(id).ok_or(Refused::NoSuch)?;
        job.stop.cancel();
        job.change(|progress| {
            if progress.state == State::Running {
                progress.state = State::Stopping;
            }
        });
        Ok(job)
    }

    /// Parks again what a job has discarded.
    pub fn undo(&self, id: i64, why: String) -> Result<Arc<Job>, Refused> {
        let job = self.find(id).ok_or(Refused::NoSuch)?;
        if job.tell()["can_be_undone"] != true {
            return Err(Refused::NotThatOne(
                "only a discard that has ended can be undone",
            ));
        }
        let progress = job.progress.lock().expect("no panic while held");
        let ids = progress.done.clone();
        drop(progress);
        self.begin(Order {
            action: Action::Restore,
            which: format!("the {} letters that were discarded", ids.len()),
            filter: Filter {
                id: Some(ids),
                ..Filter::default()
            },
            dry_run: false,
            why,
        })
    }
}
