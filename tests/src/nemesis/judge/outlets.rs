//! What was produced: the topic of dead letters and that of results, each record at least once.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::super::arena::Arena;
use crate::database::Database;
use crate::deeds::Deeds;
use crate::workload::Message;

type Place = (String, i32, i64);

/// Answers in words what there was.
pub async fn compare(arena: &Arena, database: &Database, deeds: &Deeds) -> String {
    let results = compare_results(arena, database).await;
    let letters = compare_letters(arena, database, deeds).await;
    format!("{results} results, {letters} published letters")
}

async fn compare_results(arena: &Arena, database: &Database) -> usize {
    // The last that was told of each record.
    let mut told: BTreeMap<Place, (Value, Option<String>)> = BTreeMap::new();
    for record in (0..2).flat_map(|partition| arena.stack.kafka.read(&arena.results, partition)) {
        let payload = record.message.payload.expect("a result");
        let result: Value = serde_json::from_slice(&payload).expect("JSON");
        let topic = result["topic"].as_str().expect("a topic").to_owned();
        let partition = result["partition"].as_i64().expect("a number") as i32;
        let offset = result["offset"].as_i64().expect("a number");
        let reason = result["reason"].as_str().map(str::to_owned);
        told.insert(
            (topic, partition, offset),
            (result["verdict"].clone(), reason),
        );
    }
    let query = "SELECT topic, partition, kafka_offset, verdict, reason FROM ledger.event_verdicts WHERE topic <> 'manual corrections'";
    let mut expected: HashMap<Place, (String, Option<String>)> = HashMap::new();
    for row in database.client.query(query, &[]).await.expect("verdicts") {
        expected.insert(
            (row.get(0), row.get(1), row.get(2)),
            (row.get(3), row.get(4)),
        );
    }
    for (place, (verdict, reason)) in &expected {
        match told.get(place) {
            None => arena.finding(format!("{place:?}: {verdict}, but no result tells so")),
            Some((last, why)) if last != verdict.as_str() || why != reason => {
                arena.finding(format!(
                    "{place:?}: {verdict} {reason:?}, but the last result tells {last} {why:?}"
                ));
            }
            Some(_) => {}
        }
    }
    // What was pruned was told before.
    for (topic, partitions) in arena.topics() {
        for (partition, end) in (0..partitions).zip(arena.stack.kafka.ends(&topic, partitions)) {
            let is_told = |offset: &i64| told.contains_key(&(topic.clone(), partition, *offset));
            let missing: Vec<i64> = (0..end).filter(|offset| !is_told(offset)).collect();
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                arena.finding(format!(
                    "{topic}/{partition}: {} of {end} records have no result, from {first} to {last}",
                    missing.len()
                ));
            }
        }
    }
    told.len()
}

async fn compare_letters(arena: &Arena, database: &Database, deeds: &Deeds) -> usize {
    let mut published: HashMap<Place, Message> = HashMap::new();
    for record in arena.stack.kafka.read(&arena.dlq, 0) {
        let header = |name: &str| {
            let mut headers = record.message.headers.iter();
            let value = headers
                .find(|(header, _)| header == name)
                .and_then(|(_, value)| value.clone());
            String::from_utf8(value.expect("each letter names its record")).expect("text")
        };
        let place = (
            header("sluice-topic"),
            header("sluice-partition").parse().expect("a number"),
            header("sluice-offset").parse().expect("a number"),
        );
        published.insert(place, record.message);
    }
    let query = "SELECT topic, partition, kafka_offset, key, payload FROM ledger.dead_letters WHERE status IN ('PARKED', 'DISCARDED')";
    for row in database
        .client
        .query(query, &[])
        .await
        .expect("dead letters")
    {
        let place: Place = (row.get(0), row.get(1), row.get(2));
        let Some(message) = published.get(&place) else {
            arena.finding(format!("{place:?}: a dead letter that was never published"));
            continue;
        };
        let bytes = (
            row.get::<_, Option<Vec<u8>>>(3),
            row.get::<_, Option<Vec<u8>>>(4),
        );
        let is_treated = deeds.letter(&place.0, place.1, place.2).is_some();
        if !is_treated && bytes != (message.key.clone(), message.payload.clone()) {
            arena.finding(format!("{place:?}: published with other bytes"));
        }
    }
    // Also what was pruned since.
    let discarded = deeds.letters.iter();
    let discarded = discarded.filter(|(_, letter)| letter.settled == Some("DISCARDED"));
    for (place, _) in discarded.filter(|(place, _)| !published.contains_key(*place)) {
        arena.finding(format!("{place:?}: discarded, but never published"));
    }
    published.len()
}
