//! Event types that were added during the run: each note counted once, each record with its verdict.

use std::collections::{BTreeMap, BTreeSet};

use super::super::arena::{Arena, Newcomer};
use super::super::newcomers::notes;
use crate::database::Database;

/// Answers how many records there are.
pub async fn compare(arena: &Arena, database: &Database) -> u64 {
    let mut records = 0;
    for newcomer in arena.newcomers() {
        records += compare_one(arena, database, &newcomer).await;
    }
    records
}

async fn compare_one(arena: &Arena, database: &Database, newcomer: &Newcomer) -> u64 {
    let Newcomer { topic, table, .. } = newcomer;
    let (mut sent, mut records) = (BTreeSet::new(), 0);
    for partition in 0..newcomer.partitions {
        let found = arena.stack.kafka.read(topic, partition);
        records += found.len();
        sent.extend(notes(found.into_iter().map(|record| record.message)));
    }
    let query = format!("SELECT note, times FROM domain.{table}");
    let counted = database.client.query(&query, &[]).await.expect("notes");
    let counted: BTreeMap<String, i64> =
        counted.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (note, times) in &counted {
        if *times != 1 || !sent.contains(note) {
            arena.finding(format!("{topic}: note {note} was applied {times} times"));
        }
    }
    for note in sent.iter().filter(|note| !counted.contains_key(*note)) {
        arena.finding(format!("{topic}: note {note} was never applied"));
    }
    let query = "SELECT verdict, count(*) FROM ledger.event_verdicts WHERE topic = $1 GROUP BY 1";
    let verdicts = database.client.query(query, &[topic]).await;
    let verdicts = verdicts.expect("verdicts");
    let verdicts: BTreeMap<String, i64> = verdicts
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let expected = [
        ("APPLIED", sent.len() as i64),
        ("DUPLICATE", (records - sent.len()) as i64),
    ];
    let expected = expected.into_iter().filter(|(_, count)| *count > 0);
    let expected = expected.map(|(verdict, count)| (verdict.to_owned(), count));
    let expected: BTreeMap<String, i64> = expected.collect();
    if verdicts != expected {
        arena.finding(format!("{topic}: {verdicts:?}, expected {expected:?}"));
    }
    records as u64
}
