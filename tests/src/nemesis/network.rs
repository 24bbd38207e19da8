//! The way from an ingester to PostgreSQL: cut, slow, or a hole that swallows everything.

use super::arena::{Arena, INGESTERS};
use super::processes::{last, one};
use crate::rng::Rng;

pub async fn cut(arena: &Arena, rng: &mut Rng) {
    let (number, member) = one(arena, rng).await;
    arena.say(format!("  connections of ingester {number} cut"));
    for _ in 0..rng.between(1, 5) {
        member.proxy.cut_all();
        last(rng, 0, 700).await;
    }
}

pub async fn delay(arena: &Arena, rng: &mut Rng) {
    let (number, member) = one(arena, rng).await;
    let delay_ms = rng.between(2, 60);
    arena.say(format!(
        "  each message of ingester {number} takes {delay_ms} ms"
    ));
    member.proxy.delay(delay_ms);
    last(rng, 500, 6_000).await;
    member.proxy.delay(0);
}

pub async fn black_hole(arena: &Arena, rng: &mut Rng) {
    let (number, member) = one(arena, rng).await;
    arena.say(format!(
        "  the network of ingester {number} swallows everything"
    ));
    member.proxy.swallow();
    last(rng, 500, 9_000).await;
    member.proxy.pass_on();
}

/// Batches commit, and whoever sent them never hears of it.
pub async fn lost_answer(arena: &Arena, rng: &mut Rng) {
    let number = rng.below(INGESTERS as u64) as usize;
    let member = arena.members[number].lock().await;
    member.proxy.cut_commit_answers(rng.between(1, 5) as u32);
}
