//! Event types that are added during a run: a topic, a table and a handler that nobody knew of before.

use std::collections::BTreeSet;

use super::arena::{Arena, Newcomer};
use super::processes::last;
use crate::deeds::Answer;
use crate::rng::Rng;
use crate::stack::unique;
use crate::workload::Message;

/// Each is one more topic to lead and to drain.
const MOST: usize = 4;
const PARTITIONS: i32 = 2;

impl Newcomer {
    /// Table, handler and registration in one transaction; nothing where they are there already.
    fn registration(&self) -> String {
        let Self { topic, table, .. } = self;
        format!(
            "CREATE TABLE IF NOT EXISTS domain.{table} (note text PRIMARY KEY, times bigint NOT NULL);
             GRANT SELECT, INSERT, UPDATE ON domain.{table} TO sluice_handler;
             CREATE OR REPLACE FUNCTION domain.on_{table}(events domain.event[]) RETURNS void LANGUAGE sql AS $$
                 INSERT INTO domain.{table} AS t SELECT e.data->>'note', count(*) FROM unnest(events) e GROUP BY 1 ORDER BY 1
                 ON CONFLICT (note) DO UPDATE SET times = t.times + excluded.times
             $$;
             SELECT sluice.register_handler('{topic}', 'domain.on_{table}') WHERE NOT EXISTS (
                 SELECT FROM ledger.event_handlers h WHERE h.event_type = '{topic}')"
        )
    }

    /// Whatever became of it when it was added: it is there once this has been done.
    pub async fn register(&self, arena: &Arena) -> Answer {
        arena.operate(&self.registration()).await
    }

    /// Notes have names of their own, for an identity is one in all topics.
    fn message(&self, note: &str) -> Message {
        Message::of(format!(
            r#"{{"eventId":"{note}","eventType":"{}","timestamp":"2026-11-21T05:00:00Z","data":{{"note":"{note}"}}}}"#,
            self.topic
        ))
    }

    /// Some notes, one in ten of them twice.
    fn send(&self, arena: &Arena, rng: &mut Rng, round: u64) {
        for partition in 0..self.partitions {
            let mut messages = Vec::new();
            for number in 0..rng.between(5, 100) {
                let message = self.message(&format!("{}-{partition}-{round}-{number}", self.table));
                if rng.chance(100) {
                    messages.push(message.clone());
                }
                messages.push(message);
            }
            arena.stack.kafka.produce(&self.topic, partition, messages);
        }
    }
}

/// The handler comes before its topic or after, and before its first record or after.
pub async fn add_type(arena: &Arena, rng: &mut Rng) {
    if arena.newcomers().len() >= MOST {
        return;
    }
    let table = unique("noted");
    let newcomer = Newcomer {
        topic: table.replace('_', "."),
        table,
        partitions: PARTITIONS,
    };
    arena.say(format!("  {} is new", newcomer.topic));
    let is_registered_first = rng.chance(500);
    if is_registered_first {
        newcomer.register(arena).await;
        last(rng, 0, 2_000).await;
    }
    {
        // A broker that is away answers nobody.
        let _services = arena.services.lock().await;
        arena
            .stack
            .kafka
            .create_topic(&newcomer.topic, PARTITIONS, &[])
            .await;
        newcomer.send(arena, rng, 0);
    }
    arena.welcome(newcomer.clone());
    if !is_registered_first {
        last(rng, 0, 2_000).await;
        newcomer.register(arena).await;
    }
    for round in 1..rng.between(2, 6) {
        last(rng, 100, 3_000).await;
        let _services = arena.services.lock().await;
        newcomer.send(arena, rng, round);
    }
}

/// The notes of a topic, as it was read.
pub fn notes(messages: impl Iterator<Item = Message>) -> BTreeSet<String> {
    let note = |message: Message| {
        let event: serde_json::Value =
            serde_json::from_slice(&message.payload.expect("it has one")).expect("JSON");
        event["eventId"].as_str().expect("an id").to_owned()
    };
    messages.map(note).collect()
}
