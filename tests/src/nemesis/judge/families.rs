//! Domain events: each family's topic read again, record by record, and the rows that must be there.

use std::collections::HashMap;

use serde_json::Value;

use super::super::arena::Arena;
use crate::database::Database;
use crate::deeds::Deeds;
use crate::families::domain::{Domain, differences};
use crate::families::model::rows_after;
use crate::families::schema::EventType;
use crate::families::{Event, micros};

/// Whose identity an id is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A record that came before.
    Taken,
    /// One that was corrected into another event since, at a moment that nobody noted: its id is free again.
    Freed,
}

/// What the database says of a record.
struct Found {
    verdict: String,
    reason: Option<String>,
    status: Option<String>,
}

/// Letters whose handler has been mended apply now; whatever is really broken stays parked. False where that is to be
/// tried again.
pub async fn replay(arena: &Arena, database: &Database) -> bool {
    for family in &arena.families {
        let statement = format!(
            "SELECT count(*) FROM sluice.replay_dead_letters(topic => '{}', why => 'nemesis heals', max_rows => 10000, dry_run => false)",
            family.name
        );
        // A leader's own try may hold a letter; the next look comes soon.
        if let Err(error) = database.client.query(&statement, &[]).await {
            arena.say(format!("  not replayed yet: {error:?}"));
            return false;
        }
    }
    true
}

/// Answers how many records there are.
pub async fn compare(arena: &Arena, database: &Database, deeds: &Deeds) -> u64 {
    let (mut applied, mut records) = (Vec::new(), 0);
    for family in &arena.families {
        records += compare_family(arena, database, deeds, family, &mut applied).await;
    }
    let mut rows = Domain::of(database).await.rows().await;
    // Types that were added during the run have tables of their own, and a comparison.
    let added = arena.newcomers();
    rows.retain(|(table, _)| added.iter().all(|added| added.table != *table));
    for difference in differences(&rows, &rows_after(&applied))
        .into_iter()
        .take(20)
    {
        arena.finding(format!("domain: {difference}"));
    }
    records
}

async fn found(database: &Database, topic: &str) -> HashMap<i64, Found> {
    let query = "SELECT kafka_offset, v.verdict, v.reason, d.status
        FROM ledger.event_verdicts v LEFT JOIN ledger.dead_letters d USING (topic, partition, kafka_offset)
        WHERE v.topic = $1";
    let rows = database
        .client
        .query(query, &[&topic])
        .await
        .expect("verdicts");
    let found = |row: &tokio_postgres::Row| Found {
        verdict: row.get(1),
        reason: row.get(2),
        status: row.get(3),
    };
    rows.iter().map(|row| (row.get(0), found(row))).collect()
}

async fn compare_family(
    arena: &Arena,
    database: &Database,
    deeds: &Deeds,
    family: &EventType,
    applied: &mut Vec<Event>,
) -> u64 {
    let found = found(database, &family.name).await;
    let validator = family.validator();
    let mut owners: HashMap<String, Owner> = HashMap::new();
    let records = arena.stack.kafka.read(&family.name, 0);
    for record in &records {
        let at = format!("{}/0@{}", family.name, record.offset);
        let Some(found) = found.get(&record.offset) else {
            arena.finding(format!("{at}: no verdict"));
            continue;
        };
        let mut payload = record.message.payload.clone().unwrap_or_default();
        let correction = deeds
            .letter(&family.name, 0, record.offset)
            .and_then(|letter| letter.payload.clone());
        if let Some(correction) = correction
            && found.status.as_deref() == Some("REPLAYED")
            && !is_mended(database, family, record.offset, &correction).await
        {
            if let Some(id) = event_id(&payload) {
                owners.insert(id, Owner::Freed);
            }
            payload = correction;
        }
        let event = serde_json::from_slice::<Value>(&payload).ok();
        let owner = event_id(&payload).and_then(|id| owners.get(&id).copied());
        let expected = match &event {
            None => vec![("DEAD", Some("MALFORMED_JSON"))],
            Some(event) => {
                let as_new = match validator.refusal(event) {
                    Some(_) => ("DEAD", Some("HANDLER_FAILED")),
                    None => ("APPLIED", None),
                };
                match owner {
                    None => vec![as_new],
                    Some(Owner::Taken) => vec![("DUPLICATE", None)],
                    Some(Owner::Freed) => vec![("DUPLICATE", None), as_new],
                }
            }
        };
        let is_told = (found.verdict.as_str(), found.reason.as_deref());
        if !expected.contains(&is_told) {
            arena.finding(format!("{at}: {is_told:?}, expected {expected:?}"));
        }
        let Some(event) = event else { continue };
        let id = event["eventId"].as_str().expect("an id").to_owned();
        if found.verdict != "DUPLICATE" {
            owners.insert(id.clone(), Owner::Taken);
        }
        if found.verdict == "APPLIED" {
            let time_us = micros(event["timestamp"].as_str().expect("a time"));
            applied.push(Event::new(
                &family.name,
                &id,
                time_us,
                event["data"].clone(),
            ));
        }
    }
    if found.len() != records.len() {
        arena.finding(format!(
            "{}: {} verdicts of {} records",
            family.name,
            found.len(),
            records.len()
        ));
    }
    records.len() as u64
}

fn event_id(payload: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(payload).ok()?;
    event["eventId"].as_str().map(str::to_owned)
}

/// Whether the letter was applied as it was, before or without its correction.
async fn is_mended(
    database: &Database,
    family: &EventType,
    offset: i64,
    correction: &[u8],
) -> bool {
    let query = "SELECT v.event_id FROM ledger.event_verdicts v WHERE v.topic = $1 AND v.partition = 0 AND v.kafka_offset = $2";
    let row = database
        .client
        .query_one(query, &[&family.name, &offset])
        .await
        .expect("a verdict");
    row.get::<_, Option<String>>(0) != event_id(correction)
}
