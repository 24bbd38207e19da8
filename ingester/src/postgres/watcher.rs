//! Watches, from a connection of its own, the backends that work for us. A connection may lose answers
//! while it stays open and its other end acknowledges every packet: no time-out of TCP notices that,
//! and no time-out of ours could tell it from a batch that takes long. PostgreSQL can: a backend that
//! is idle, or waits for our next message, will not answer our request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};
use tracing::{debug, warn};

use crate::back_off::back_off_up_to;
use crate::postgres::database::Database;
use crate::postgres::error::describe;
use crate::postgres::life::{Backend, Life, now_us};
use crate::postgres::precedence::{ControlSession, Precedence};
use crate::throttle::Throttle;

/// A backend that has worked for us for longer than this is checked, this often.
const LOOK: Duration = Duration::from_millis(500);
/// How long a backend may be idle, or wait for our next message, while we wait for its answer.
const IDLE: Duration = Duration::from_millis(1_500);
/// How long its state may be unknown, because PostgreSQL does not answer the watcher either.
const UNSEEN: Duration = Duration::from_secs(6);
/// How long a check may take, connecting included.
const ANSWER: Duration = Duration::from_millis(1_500);
/// At most this long between tries to connect.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(10);

// The same role, so all columns of its sessions are visible. If `track_activities` is off, wait events still are.
const LOOK_AT: &str = "
    SELECT a.pid IS NOT NULL,
        coalesce(a.state, '') NOT LIKE 'idle%' AND a.wait_event_type IS DISTINCT FROM 'Client',
        CASE WHEN a.wait_event_type = 'Lock' THEN sluice.lock_holder(a.pid) END
    FROM unnest($1::int[], $2::bigint[]) WITH ORDINALITY AS w (pid, began_us, n)
    LEFT JOIN LATERAL pg_stat_get_activity(w.pid) a
        ON (extract(epoch FROM a.backend_start) * 1000000)::bigint = w.began_us
    ORDER BY w.n";

// A backend that waits for a standby to confirm its commit would show that before.
const END: &str = "
    SELECT pg_terminate_backend(a.pid)
    FROM unnest($1::int[], $2::bigint[]) AS w (pid, began_us)
    JOIN LATERAL pg_stat_get_activity(w.pid) a
        ON (extract(epoch FROM a.backend_start) * 1000000)::bigint = w.began_us
    WHERE a.wait_event IS DISTINCT FROM 'SyncRep'";

const SERVER: &str = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// The watcher's own session.
struct Eye {
    client: Client,
    server_began_us: i64,
}

pub struct Watcher {
    database: Database,
    /// Sessions that are opened before those that it watches.
    pub precedence: Precedence,
    /// Notified of each session that is given up.
    on_silence: Box<dyn Fn() + Send + Sync>,
    lives: Mutex<Vec<Weak<Life>>>,
    to_end: Mutex<Vec<Backend>>,
    something_to_end: Notify,
    last_silence_us: AtomicU64,
}

impl Watcher {
    pub fn new(database: Database, on_silence: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            database,
            precedence: Precedence::default(),
            on_silence: Box::new(on_silence),
            lives: Mutex::default(),
            to_end: Mutex::default(),
            something_to_end: Notify::new(),
            last_silence_us: AtomicU64::new(0),
        }
    }

    pub fn watch(&self, life: &Arc<Life>) {
        self.lives().push(Arc::downgrade(life));
    }

    /// Ends, as soon as possible, a backend whose answer nobody waits for any more.
    pub fn end(&self, backend: Backend) {
        self.to_end
            .lock()
            .expect("no panic while held")
            .push(backend);
        self.something_to_end.notify_one();
    }

    /// Whether a session was given up after `at_us`.
    pub fn fell_silent_after(&self, at_us: u64) -> bool {
        self.last_silence_us.load(Ordering::Relaxed) > at_us
    }

    /// Runs for as long as the process.
    pub async fn keep_watching(&self) {
        let mut eye: Option<Eye> = None;
        let mut said = Throttle::every(SAY_AGAIN);
        let mut waits = back_off_up_to(LONGEST_WAIT);
        loop {
            if eye.as_ref().is_some_and(|eye| eye.client.is_closed()) {
                eye = None;
                self.precedence.set_open(ControlSession::Watcher, false);
            }
            let looked = tokio::time::timeout(ANSWER, self.open_and_look(&mut eye)).await;
            let wait = match looked {
                Ok(Ok(())) => {
                    said.over();
                    waits = back_off_up_to(LONGEST_WAIT);
                    LOOK
                }
                failed => {
                    if said.is_due() {
                        let reason = match failed {
                            Ok(Err(error)) => describe(&error),
                            _ => "no answer in time".to_owned(),
                        };
                        warn!(
                            "cannot watch whether PostgreSQL still works on statements, trying again: {reason}"
                        );
                    }
                    eye = None;
                    self.precedence.set_open(ControlSession::Watcher, false);
                    self.give_up_unseen();
                    waits.next().unwrap_or(LONGEST_WAIT)
                }
            };
            tokio::select! {
                () = self.something_to_end.notified(), if eye.is_some() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn open_and_look(&self, eye: &mut Option<Eye>) -> Result<(), Error> {
        let open = match eye.take() {
            Some(open) => open,
            None => {
                let (client, _) = self.database.open(|_| ()).await?;
                let server_began_us = client.query_typed_one(SERVER, &[]).await?.get(0);
                self.precedence.set_open(ControlSession::Watcher, true);
                Eye {
                    client,
                    server_began_us,
                }
            }
        };
        let left = std::mem::take(&mut *self.to_end.lock().expect("no panic while held"));
        open.end(&left).await?;
        if self.look(&open).await? {
            *eye = Some(open);
        }
        self.give_up_unseen();
        Ok(())
    }

    /// Checks the backends that work for long; false if some of them belong to another server than the
    /// watcher's own session, which cannot see them.
    async fn look(&self, eye: &Eye) -> Result<bool, Error> {
        let mut lives = self.unseen_for(LOOK);
        let all = lives.len();
        lives.retain(|life| life.backend.server_began_us == eye.server_began_us);
        let knows_all = lives.len() == all;
        if lives.is_empty() {
            return Ok(knows_all);
        }
        let asked_us = now_us();
        let backends: Vec<Backend> = lives.iter().map(|life| life.backend).collect();
        let rows = eye.ask(LOOK_AT, &backends).await?;
        let mut silent = Vec::new();
        for (row, life) in rows.iter().zip(lives) {
            let (exists, works): (bool, bool) = (row.get(0), row.get(1));
            if exists && works {
                life.seen(asked_us, row.get(2));
            } else if !exists {
                silent.push((life, "its backend is gone"));
            } else if life.unseen().is_some_and(|unseen| unseen > IDLE) {
                silent.push((life, "its backend waits for us"));
            }
        }
        self.give_up(eye, silent).await;
        Ok(knows_all)
    }

    /// Ended first, so that a repeated request does not wait for its locks.
    async fn give_up(&self, eye: &Eye, silent: Vec<(Arc<Life>, &str)>) {
        if silent.is_empty() {
            return;
        }
        let backends: Vec<Backend> = silent.iter().map(|(life, _)| life.backend).collect();
        let ended = tokio::time::timeout(ANSWER / 3, eye.end(&backends)).await;
        if !matches!(ended, Ok(Ok(()))) {
            debug!("silent sessions not ended");
        }
        for (life, why) in silent {
            self.say_goodbye(&life, why);
        }
    }

    fn give_up_unseen(&self) {
        for life in self.unseen_for(UNSEEN) {
            self.say_goodbye(&life, "PostgreSQL does not answer the watcher either");
            self.end(life.backend);
        }
    }

    fn say_goodbye(&self, life: &Life, why: &str) {
        let Some(unseen) = life.unseen() else { return };
        warn!(
            pid = life.backend.pid,
            "PostgreSQL did not answer, {why}: the connection is closed after {:.1} s, and the statement repeated on another",
            unseen.as_secs_f64()
        );
        self.last_silence_us.store(now_us(), Ordering::Relaxed);
        (self.on_silence)();
        life.give_up(why);
    }

    fn unseen_for(&self, time: Duration) -> Vec<Arc<Life>> {
        let mut lives = self.lives();
        lives.retain(|life| life.strong_count() > 0);
        let unseen = |life: &Arc<Life>| life.unseen().is_some_and(|unseen| unseen > time);
        lives
            .iter()
            .filter_map(Weak::upgrade)
            .filter(unseen)
            .collect()
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Life>>> {
        self.lives.lock().expect("no panic while held")
    }
}

impl Eye {
    async fn ask(
        &self,
        statement: &str,
        backends: &[Backend],
    ) -> Result<Vec<tokio_postgres::Row>, Error> {
        let pids: Vec<i32> = backends.iter().map(|backend| backend.pid).collect();
        let began_us: Vec<i64> = backends.iter().map(|backend| backend.began_us).collect();
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&pids, Type::INT4_ARRAY), (&began_us, Type::INT8_ARRAY)];
        self.client.query_typed(statement, &parameters).await
    }

    async fn end(&self, backends: &[Backend]) -> Result<(), Error> {
        let ours = |backend: &&Backend| backend.server_began_us == self.server_began_us;
        let backends: Vec<Backend> = backends.iter().filter(ours).copied().collect();
        if backends.is_empty() {
            return Ok(());
        }
        self.ask(END, &backends).await.map(drop)
    }
}
