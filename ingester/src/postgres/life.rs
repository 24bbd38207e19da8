//! A session of the pool as its watcher sees it: its backend, and when that was last seen working.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;

/// Times are microseconds since this moment, so that they fit into atomics; 0 means never.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

pub fn now_us() -> u64 {
    BEGINNING.elapsed().as_micros() as u64 + 1
}

fn since(at_us: u64) -> Duration {
    Duration::from_micros(now_us().saturating_sub(at_us))
}

/// A process of PostgreSQL that serves one session. Process ids are reused, so the start time of the process
/// and of its server are part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub pid: i32,
    pub began_us: i64,
    pub server_began_us: i64,
}

const BACKEND: &str = "
    SELECT a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint,
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
    FROM pg_stat_get_activity(pg_backend_pid()) a";

impl Backend {
    pub async fn of(client: &Client) -> Result<Self, Error> {
        let row = client.query_typed_one(BACKEND, &[]).await?;
        Ok(Self {
            pid: row.get(0),
            began_us: row.get(1),
            server_began_us: row.get(2),
        })
    }
}

/// What the watcher knows of a session, and how the session learns that it was given up.
pub struct Life {
    pub backend: Backend,
    /// When it was last known to work for us; 0 while it has no request.
    seen_us: AtomicU64,
    /// When its last answer arrived.
    answered_us: AtomicU64,
    given_up: CancellationToken,
    why: Mutex<String>,
    /// Which session's lock it waits for.
    behind: Mutex<Option<String>>,
}

impl Life {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            seen_us: AtomicU64::new(0),
            answered_us: AtomicU64::new(now_us()),
            given_up: CancellationToken::new(),
            why: Mutex::default(),
            behind: Mutex::default(),
        }
    }

    /// How long it was not seen working, if it has a request.
    pub fn unseen(&self) -> Option<Duration> {
        let seen_us = self.seen_us.load(Ordering::Relaxed);
        (seen_us > 0 && !self.given_up.is_cancelled()).then(|| since(seen_us))
    }

    /// Records that it was seen working at `at_us`, unless it has answered since.
    pub fn seen(&self, at_us: u64, behind: Option<String>) {
        let seen = |seen_us| (0 < seen_us && seen_us < at_us).then_some(at_us);
        let _ = self
            .seen_us
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, seen);
        *self.behind.lock().expect("no panic while held") = behind;
    }

    pub fn give_up(&self, why: &str) {
        why.clone_into(&mut self.why.lock().expect("no panic while held"));
        self.given_up.cancel();
    }

    /// Completes once it is given up, with the reason.
    pub(super) async fn given_up(&self) -> String {
        self.given_up.cancelled().await;
        self.why.lock().expect("no panic while held").clone()
    }

    /// Which session's lock its backend waits for, as far as the watcher has seen.
    pub(super) fn behind(&self) -> Option<String> {
        self.behind.lock().expect("no panic while held").clone()
    }

    pub(super) fn answered_us(&self) -> u64 {
        self.answered_us.load(Ordering::Relaxed)
    }

    pub(super) fn begins(&self, allowance: Duration) {
        let seen_us = now_us() + allowance.as_micros() as u64;
        self.seen_us.store(seen_us, Ordering::Relaxed);
    }

    pub(super) fn rests(&self) {
        self.seen_us.store(0, Ordering::Relaxed);
        self.answered_us.store(now_us(), Ordering::Relaxed);
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.seen_us.load(Ordering::Relaxed) > 0
    }
}
