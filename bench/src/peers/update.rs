//! The same updates of users in two forms: `user.updated` events, and the rows that a plain sink takes.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::event::time;
use crate::measure::random::Random;

/// Of each topic.
pub const PARTITIONS: u64 = 8;
/// Users of one partition, none of whom is in another.
pub const USERS_EACH: u64 = 10_000;
/// One of so many updates of a partition is of its first user, whose name then tells how far it is.
const MARK_EVERY: u64 = 500;
const SEED: u64 = 20_261_121;

/// What changes one user.
pub struct Update {
    pub partition: u64,
    user: u64,
    /// How many updates of the partition there were, this one included.
    no: u64,
}

/// All updates, in their order.
pub struct Updates {
    random: Random,
    /// How many there were of each partition.
    before: u64,
}

impl Updates {
    pub fn new() -> Self {
        Self {
            random: Random(SEED),
            before: 0,
        }
    }

    /// As many for each partition.
    pub fn take(&mut self, each: u64) -> Vec<Update> {
        let numbers = self.before + 1..=self.before + each;
        self.before += each;
        let mut updates = Vec::new();
        for no in numbers {
            for partition in 0..PARTITIONS {
                let user = match no % MARK_EVERY {
                    0 => 0,
                    _ => 1 + self.random.below(USERS_EACH as usize - 1) as u64,
                };
                updates.push(Update {
                    partition,
                    user,
                    no,
                });
            }
        }
        updates
    }
}

impl Update {
    /// The first user of a partition.
    pub fn mark(partition: u64) -> String {
        format!("usr_{partition}")
    }

    pub fn user_id(&self) -> String {
        format!("usr_{}", self.user * PARTITIONS + self.partition)
    }

    fn display_name(&self) -> String {
        format!("Ada Lovelace {}", self.no)
    }

    /// As `user.updated`, made of its sample.
    pub fn event(&self, sample: &Value) -> Vec<u8> {
        let number = self.no * PARTITIONS + self.partition;
        let mut event = sample.clone();
        event["eventId"] = Uuid::from_u64_pair(Random(SEED + number).next(), number)
            .to_string()
            .into();
        event["timestamp"] = time(self.no, self.partition).into();
        event["data"]["userId"] = self.user_id().into();
        event["data"]["updates"]["displayName"] = self.display_name().into();
        event.to_string().into_bytes()
    }

    /// As a row of what the event changes.
    pub fn row(&self) -> Value {
        json!({ "user_id": self.user_id(), "display_name": self.display_name(), "bio": null })
    }
}
