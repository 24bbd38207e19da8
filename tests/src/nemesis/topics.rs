//! Topics that grow.

use super::arena::Arena;
use crate::rng::Rng;

/// More would only make the load of each one thinner.
const MOST: i32 = 6;

pub async fn add_partition(arena: &Arena, rng: &mut Rng) {
    // A broker that is away answers nobody.
    let _services = arena.services.lock().await;
    let topic = rng.pick(&arena.balances);
    let count = topic.count();
    if count < MOST {
        arena.say(format!("  {} has {} partitions", topic.name, count + 1));
        arena
            .stack
            .kafka
            .grow_topic(&topic.name, count as usize + 1)
            .await;
        topic.grow(count + 1);
    }
}
