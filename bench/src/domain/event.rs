//! Events of all types of the platform: the samples of `sluice events sample`, each with an
//! identity, an entity and references of its own.

use std::process::Command;

use serde_json::Value;
use uuid::Uuid;

use crate::measure::random::Random;
use crate::stack::{Result, Stack};

/// Entities of each kind that events refer to.
const POOL: usize = 10_000;
const SEED: u64 = 20_261_121;

/// A type of events.
pub struct EventType {
    pub name: &'static str,
    /// What it is about, and the fields of `data` that say which one.
    pub entity: &'static str,
    pub key: &'static [&'static str],
}

const fn of(name: &'static str, entity: &'static str, key: &'static [&'static str]) -> EventType {
    EventType { name, entity, key }
}

/// What is created comes before what changes it, and that before what ends it.
pub const TYPES: [EventType; 30] = [
    of("user.created", "user", &["userId"]),
    of("user.updated", "user", &["userId"]),
    of("user.deleted", "user", &["userId"]),
    of("user.followed", "follow", &["followerId", "followeeId"]),
    of("user.unfollowed", "follow", &["followerId", "followeeId"]),
    of("user.blocked", "block", &["blockerId", "blockedId"]),
    of("user.unblocked", "block", &["blockerId", "blockedId"]),
    of("content.post.created", "post", &["postId"]),
    of("content.post.updated", "post", &["postId"]),
    of("content.post.deleted", "post", &["postId"]),
    of("content.post.liked", "like", &["postId", "userId"]),
    of("content.comment.created", "comment", &["commentId"]),
    of("content.story.created", "story", &["storyId"]),
    of("content.video.created", "video", &["videoId"]),
    of("payment.completed", "payment", &["transactionId"]),
    of("payment.tip.created", "tip", &["tipId"]),
    of("payment.refunded", "refund", &["refundId"]),
    of("wallet.updated", "wallet", &["userId", "currency"]),
    of("withdrawal.requested", "withdrawal", &["withdrawalId"]),
    of("subscription.created", "subscription", &["subscriptionId"]),
    of("subscription.renewed", "subscription", &["subscriptionId"]),
    of("subscription.canceled", "subscription", &["subscriptionId"]),
    of("subscription.expired", "subscription", &["subscriptionId"]),
    of("skill.created", "skill", &["skillId"]),
    of("skill.updated", "skill", &["skillId"]),
    of("skill.user.added", "user skill", &["userId", "skillId"]),
    of("skill.user.removed", "user skill", &["userId", "skillId"]),
    of("notification.created", "notification", &["notificationId"]),
    of("message.created", "message", &["messageId"]),
    of("message.read", "read", &["messageId", "userId"]),
];

impl EventType {
    /// The topic's type.
    pub fn named(name: &str) -> Result<&'static Self> {
        let found = TYPES.iter().find(|event_type| event_type.name == name);
        found.ok_or_else(|| format!("{name} is no type that is measured").into())
    }

    /// Which entity an event is about, such as `follow:usr_17:usr_4711`.
    pub fn entity_id(&self, data: &Value) -> String {
        let mut id = self.entity.to_owned();
        for field in self.key {
            id.push(':');
            id.push_str(data[*field].as_str().unwrap_or_default());
        }
        id
    }
}

/// A record to be sent.
pub struct Event {
    pub key: String,
    pub payload: Vec<u8>,
}

/// What is wrong with some of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// Decodes, and has an amount that the handler refuses.
    BreaksHandler,
    /// Is cut off in the middle.
    Malformed,
}

/// Every tenth event is a poison one.
pub const POISON_EVERY: u64 = 10;

/// All events of one type, in their order.
pub struct Stream {
    pub event_type: &'static EventType,
    /// Among the types, so that no two events share their time.
    place: u64,
    sample: Value,
    next: u64,
}

impl Stream {
    pub fn all(stack: &Stack) -> Result<Vec<Self>> {
        (0..)
            .zip(&TYPES)
            .map(|(place, event_type)| {
                Ok(Self {
                    event_type,
                    place,
                    sample: sample(stack, event_type.name)?,
                    next: 0,
                })
            })
            .collect()
    }

    pub fn take(&mut self, count: usize, poison: Option<Poison>) -> Vec<Event> {
        (0..count).map(|_| self.next_event(poison)).collect()
    }

    fn next_event(&mut self, poison: Option<Poison>) -> Event {
        let no = self.next;
        self.next += 1;
        // By number, not by type: what ends a follow names whom its beginning named.
        let mut random = Random(SEED + no);
        let (first, step) = (random.below(POOL), 1 + random.below(POOL - 1));
        let mut event = self.sample.clone();
        event["eventId"] = Uuid::from_u64_pair(random.next(), self.place)
            .to_string()
            .into();
        event["timestamp"] = time(no, self.place).into();
        let mut references = 0;
        for (name, value) in event["data"].as_object_mut().into_iter().flatten() {
            // Ids are written as usr_01J9ZK6T: what precedes the line says of what.
            let Some((kind, _)) = value.as_str().and_then(|id| id.split_once('_')) else {
                continue;
            };
            if !name.ends_with("Id") {
                continue;
            }
            *value = if self.event_type.key == [name.as_str()] {
                format!("{kind}_new{no}").into()
            } else {
                references += 1;
                // One step after another, so that two of one kind are two.
                format!("{kind}_{}", (first + references * step) % POOL).into()
            };
        }
        let is_poison = poison.is_some() && no % POISON_EVERY == POISON_EVERY - 1;
        if is_poison && poison == Some(Poison::BreaksHandler) {
            event["data"]["amount"] = "twelve".into();
        }
        let mut payload = event.to_string().into_bytes();
        if is_poison && poison == Some(Poison::Malformed) {
            payload.truncate(payload.len() / 2);
        }
        Event {
            key: self.event_type.entity_id(&event["data"]),
            payload,
        }
    }
}

/// What `sluice events sample` has for a type.
pub fn sample(stack: &Stack, event_type: &str) -> Result<Value> {
    let sample = Command::new(stack.sluice()?)
        .args(["events", "sample", event_type])
        .output()?;
    Ok(serde_json::from_slice(&sample.stdout)?)
}

/// A millisecond after the other, and of one number by their place.
pub fn time(no: u64, place: u64) -> String {
    let (seconds, ms) = (no / 1_000, no % 1_000);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!(
        "2026-11-21T{hours:02}:{minutes:02}:{:02}.{ms:03}{place:03}Z",
        seconds % 60,
    )
}
