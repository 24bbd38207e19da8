//! Ingesters: killed, frozen, and stopped as an operator stops them.

use std::time::Duration;

use tokio::sync::MutexGuard;

use super::arena::{Arena, INGESTERS, Member};
use crate::rng::Rng;

/// One of the ingesters, once nobody else does something to it.
pub(super) async fn one<'a>(arena: &'a Arena, rng: &mut Rng) -> (usize, MutexGuard<'a, Member>) {
    let number = rng.below(INGESTERS as u64) as usize;
    (number, arena.members[number].lock().await)
}

pub(super) async fn last(rng: &mut Rng, low_ms: u64, high_ms: u64) {
    tokio::time::sleep(Duration::from_millis(rng.between(low_ms, high_ms))).await;
}

pub async fn kill(arena: &Arena, rng: &mut Rng) {
    let (number, mut member) = one(arena, rng).await;
    arena.say(format!("  ingester {number} killed"));
    member.ingester.kill9();
    last(rng, 0, 3_000).await;
    member.ingester.start_again();
}

/// For less than a lease or for more than two.
pub async fn freeze(arena: &Arena, rng: &mut Rng) {
    let (number, member) = one(arena, rng).await;
    arena.say(format!("  ingester {number} frozen"));
    member.ingester.freeze();
    last(rng, 100, 8_000).await;
    member.ingester.unfreeze();
}

pub async fn stop(arena: &Arena, rng: &mut Rng) {
    let (number, mut member) = one(arena, rng).await;
    arena.say(format!("  ingester {number} asked to stop"));
    // A process that has not got so far as to ask for signals ends by one.
    let listens = member.ingester.catches_sigterm();
    member.ingester.terminate();
    let status = member.ingester.ended(Duration::from_secs(15)).await;
    if listens && !status.success() {
        let tail = member.ingester.log_tail();
        arena.finding(format!(
            "ingester {number}, asked to stop, ended with {status}:\n{tail}"
        ));
    }
    last(rng, 0, 2_000).await;
    member.ingester.start_again();
}
