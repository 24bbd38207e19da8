//! PostgreSQL, Kafka and Redis: stopped, killed, frozen, and a Redis that lies.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::arena::Arena;
use super::processes::last;
use crate::rng::Rng;

/// Until PostgreSQL lets somebody in.
pub(super) async fn answers_again(arena: &Arena) {
    let began = Instant::now();
    while arena.session().await.is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            return arena.finding("PostgreSQL does not answer a minute after a fault".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn restart(arena: &Arena, rng: &mut Rng, stop: &[&str], start: &str, longest_ms: u64) {
    let _services = arena.services.lock().await;
    arena.stack.control(stop).await;
    last(rng, 0, longest_ms).await;
    arena.stack.control(&[start]).await;
}

pub async fn postgres_immediate(arena: &Arena, rng: &mut Rng) {
    restart(
        arena,
        rng,
        &["postgres-stop", "immediate"],
        "postgres-start",
        3_000,
    )
    .await;
}

pub async fn postgres_fast(arena: &Arena, rng: &mut Rng) {
    restart(
        arena,
        rng,
        &["postgres-stop", "fast"],
        "postgres-start",
        3_000,
    )
    .await;
}

pub async fn kafka_restart(arena: &Arena, rng: &mut Rng) {
    restart(arena, rng, &["kafka-stop"], "kafka-start", 2_000).await;
}

pub async fn kafka_kill(arena: &Arena, rng: &mut Rng) {
    restart(arena, rng, &["kafka-kill"], "kafka-start", 2_000).await;
}

pub async fn redis_restart(arena: &Arena, rng: &mut Rng) {
    restart(arena, rng, &["redis-stop"], "redis-start", 2_000).await;
}

/// The process of a service of the stack.
pub(super) fn process(arena: &Arena, service: &str) -> Option<Pid> {
    let text = std::fs::read_to_string(arena.stack.dir.join(format!("{service}.pid"))).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}

async fn freeze(arena: &Arena, rng: &mut Rng, service: &str, longest_ms: u64) {
    let _services = arena.services.lock().await;
    if let Some(pid) = process(arena, service) {
        arena.say(format!("  {service} frozen"));
        let _ = kill_process(pid, Signal::STOP);
        last(rng, 500, longest_ms).await;
        let _ = kill_process(pid, Signal::CONT);
    }
}

pub async fn kafka_freeze(arena: &Arena, rng: &mut Rng) {
    freeze(arena, rng, "kafka", 8_000).await;
}

pub async fn redis_freeze(arena: &Arena, rng: &mut Rng) {
    freeze(arena, rng, "redis", 6_000).await;
}

/// Forgets everything, or claims that ids which nobody has sent yet were processed long ago.
pub async fn redis_lies(arena: &Arena, rng: &mut Rng) {
    let script = if rng.chance(500) {
        "redis.call('FLUSHALL')".to_owned()
    } else {
        // Every mark that there is gets another's value.
        "local k = redis.call('KEYS', '*') local v = 'APPLIED'
         for i = 1, #k do if redis.call('TYPE', k[i]).ok == 'string' then redis.call('SET', k[i], v) end end"
            .to_owned()
    };
    let _services = arena.services.lock().await;
    let stack = arena.stack.clone();
    let lied = tokio::task::spawn_blocking(move || stack.redis(&["EVAL", &script, "0"]));
    let _ = lied.await;
}
