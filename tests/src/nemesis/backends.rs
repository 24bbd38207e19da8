//! Backends of the ingesters: killed, which makes PostgreSQL recover, frozen, cancelled and terminated.

use rustix::process::{Pid, Signal, kill_process};

use super::arena::Arena;
use super::processes::last;
use super::servers;
use crate::rng::Rng;

/// Backends that serve an ingester, in the order of their pids.
async fn backends(arena: &Arena) -> Vec<i32> {
    let Some(session) = arena.session().await else {
        return Vec::new();
    };
    let query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = $1 ORDER BY pid";
    let rows = session.query(query, &[&arena.stack.ingester.user]).await;
    rows.unwrap_or_default()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

async fn one(arena: &Arena, rng: &mut Rng) -> Option<Pid> {
    let backends = backends(arena).await;
    if backends.is_empty() {
        return None;
    }
    Pid::from_raw(*rng.pick(&backends))
}

pub async fn sigkill(arena: &Arena, rng: &mut Rng) {
    let _services = arena.services.lock().await;
    if let Some(pid) = one(arena, rng).await {
        arena.say(format!("  SIGKILL to backend {}", pid.as_raw_nonzero()));
        let _ = kill_process(pid, Signal::KILL);
        servers::answers_again(arena).await;
    }
}

pub async fn freeze(arena: &Arena, rng: &mut Rng) {
    // A stopped backend would keep PostgreSQL from stopping.
    let _services = arena.services.lock().await;
    if let Some(pid) = one(arena, rng).await {
        arena.say(format!("  backend {} frozen", pid.as_raw_nonzero()));
        let _ = kill_process(pid, Signal::STOP);
        last(rng, 100, 5_000).await;
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Some at once, again and again.
async fn signal_some(arena: &Arena, rng: &mut Rng, function: &str) {
    let Some(session) = arena.session().await else {
        return;
    };
    for _ in 0..rng.between(1, 20) {
        let statement = format!(
            "SELECT count({function}(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND usename = '{}' AND pid % 3 = {}",
            arena.stack.ingester.user,
            rng.below(3)
        );
        if session.batch_execute(&statement).await.is_err() {
            return;
        }
        last(rng, 1, 150).await;
    }
}

pub async fn cancel(arena: &Arena, rng: &mut Rng) {
    signal_some(arena, rng, "pg_cancel_backend").await;
}

pub async fn terminate(arena: &Arena, rng: &mut Rng) {
    signal_some(arena, rng, "pg_terminate_backend").await;
}
