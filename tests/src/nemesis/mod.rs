//! Nemesis: a seeded mix of everything that can go wrong, while records come in; then all is healed,
//! must drain in time, and is compared with the reference.
//!
//! The seed decides the load, which faults come in which order, and what each does; the machine decides the
//! moments. `make nemesis` runs it, `SEED=n` repeats a run.

mod arena;
mod backends;
mod ddl;
mod handlers;
mod judge;
mod letters;
mod locks;
mod network;
mod newcomers;
mod operators;
mod processes;
mod servers;
mod sessions;
mod topics;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::stack::Stack;
use arena::Arena;

pub struct Plan {
    pub seed: u64,
    pub time: Duration,
    /// Leaves out faults by their names.
    pub without: Vec<String>,
}

/// What a run came to, for people.
pub struct Outcome {
    pub faults: u64,
    pub records: u64,
    pub drained: Duration,
    /// None where all is well.
    pub findings: Vec<String>,
    pub summary: String,
}

/// How many faults may be under way at once.
const AT_ONCE: usize = 3;
/// Longest pause between the begin of two faults.
const PAUSE_MS: u64 = 1_500;
/// A fault that takes longer than this waits for something that it caused itself, and is given up.
const FAULT_LIMIT: Duration = Duration::from_secs(120);

type Strike<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Kinds of faults: name, weight, and what it does.
macro_rules! kinds {
    ($($name:literal $weight:literal $strike:path,)*) => {
        const KINDS: &[(&str, u64)] = &[$(($name, $weight)),*];

        fn strike<'a>(arena: &'a Arena, name: &str, rng: &'a mut Rng) -> Strike<'a> {
            match name {
                $($name => Box::pin($strike(arena, rng)),)*
                _ => unreachable!("not a kind of fault: {name}"),
            }
        }
    };
}

kinds! {
    "kill" 4 processes::kill,
    "freeze" 4 processes::freeze,
    "stop" 2 processes::stop,
    "backend-sigkill" 1 backends::sigkill,
    "backend-freeze" 2 backends::freeze,
    "cancel" 4 backends::cancel,
    "terminate" 4 backends::terminate,
    "postgres-immediate" 1 servers::postgres_immediate,
    "postgres-fast" 1 servers::postgres_fast,
    "kafka-restart" 1 servers::kafka_restart,
    "kafka-kill" 1 servers::kafka_kill,
    "kafka-freeze" 1 servers::kafka_freeze,
    "redis-restart" 1 servers::redis_restart,
    "redis-freeze" 1 servers::redis_freeze,
    "redis-lies" 2 servers::redis_lies,
    "cut" 3 network::cut,
    "delay" 3 network::delay,
    "black-hole" 2 network::black_hole,
    "lost-answer" 4 network::lost_answer,
    "table-lock" 3 locks::table,
    "row-lock" 3 locks::row,
    "reindex" 2 ddl::reindex,
    "vacuum-full" 1 ddl::vacuum_full,
    "add-column" 1 ddl::add_column,
    "add-index" 1 ddl::add_index,
    "long-snapshot" 2 sessions::long_snapshot,
    "isolation" 1 sessions::isolation,
    "timeouts" 1 sessions::timeouts,
    "pause" 2 operators::pause,
    "step-down" 3 operators::step_down,
    "prune" 2 operators::prune,
    "correct" 3 operators::correct,
    "replay" 2 letters::replay,
    "replay-corrected" 4 letters::replay_corrected,
    "discard" 2 letters::discard,
    "break-handler" 2 handlers::break_one,
    "replace-handler" 1 handlers::replace,
    "unregister-handler" 1 handlers::unregister,
    "add-partition" 1 topics::add_partition,
    "add-type" 1 newcomers::add_type,
}

fn choose(rng: &mut Rng, without: &[String]) -> &'static str {
    let allowed = || {
        KINDS
            .iter()
            .filter(|(name, _)| !without.iter().any(|left_out| left_out == name))
    };
    let total: u64 = allowed().map(|(_, weight)| weight).sum();
    let mut at = rng.below(total);
    for (name, weight) in allowed() {
        if at < *weight {
            return name;
        }
        at -= weight;
    }
    unreachable!("below the sum of all weights")
}

/// Runs the plan on a stack; `say` gets a line for each fault.
pub async fn run(
    stack: &Stack,
    plan: &Plan,
    say: impl Fn(String) + Send + Sync + 'static,
) -> Outcome {
    for name in &plan.without {
        assert!(
            KINDS.iter().any(|(kind, _)| kind == name),
            "no kind of fault is called {name}"
        );
    }
    let arena = Arc::new(Arena::build(stack, plan.seed, Box::new(say)).await);
    // On one thread: a fault waits and asks, it does not compute.
    let struck = strike_all(arena.clone(), plan);
    let faults = tokio::task::LocalSet::new().run_until(struck).await;
    judge::judge(&arena, faults).await
}

/// Answers how many faults there were.
async fn strike_all(arena: Arc<Arena>, plan: &Plan) -> u64 {
    let mut rng = Rng::stream(plan.seed, 77);
    let start = Instant::now();
    let mut faults = 0;
    let mut under_way = tokio::task::JoinSet::new();
    while start.elapsed() < plan.time {
        while under_way.len() >= AT_ONCE {
            ended(&arena, under_way.join_next().await);
        }
        let name = choose(&mut rng, &plan.without);
        // Of its own, so that what one fault draws does not change the next.
        let mut own = Rng::stream(plan.seed, 1_000 + faults);
        faults += 1;
        let struck = arena.clone();
        under_way.spawn_local(async move {
            struck.say(format!("#{faults} {name}"));
            let strike = strike(&struck, name, &mut own);
            if tokio::time::timeout(FAULT_LIMIT, strike).await.is_err() {
                struck.say(format!("#{faults} {name}: given up after {FAULT_LIMIT:?}"));
            }
        });
        arena.supervise().await;
        tokio::time::sleep(Duration::from_millis(rng.below(PAUSE_MS))).await;
    }
    while !under_way.is_empty() {
        ended(&arena, under_way.join_next().await);
    }
    faults
}

/// A fault that panics is a defect of the nemesis: it must not pass for a quiet run.
fn ended(arena: &Arena, ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = ended {
        arena.finding(format!("a fault of the nemesis failed: {error}"));
    }
}
