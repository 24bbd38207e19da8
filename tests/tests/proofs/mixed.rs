//! Everything at once: balances and all families of domain events, their dead letters and results, under kills.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proofs::compare::Accounts;
use proofs::event;
use proofs::families::domain::{Domain, assert_same};
use proofs::families::micros;
use proofs::families::model::rows_after;
use proofs::families::random;
use proofs::families::schema::EventType;
use proofs::ingester::UNSET;
use proofs::kafka::{Kafka, Record};
use proofs::replay::{self, Fate, Place};
use proofs::rng::{Rng, seed};
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::unique;
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload};
use serde_json::Value;

const KILLS: usize = 20;
const DOMAIN_EVENTS: usize = 6_000;

/// The results as they were told: each record's, repeats removed, and in order within a partition.
fn results(kafka: &Kafka, topic: &str, partitions: i32) -> BTreeMap<Place, Value> {
    let mut results: BTreeMap<Place, Value> = BTreeMap::new();
    let mut last: HashMap<(String, i32), i64> = HashMap::new();
    for record in (0..partitions).flat_map(|partition| kafka.read(topic, partition)) {
        let payload = record.message.payload.expect("a result");
        let result: Value = serde_json::from_slice(&payload).expect("JSON");
        let from = result["topic"].as_str().expect("a topic").to_owned();
        let partition = result["partition"].as_i64().expect("a number") as i32;
        let offset = result["offset"].as_i64().expect("a number");
        match results.get(&(from.clone(), partition, offset)) {
            Some(told) => assert_eq!(*told, result, "told twice, differently"),
            None => {
                let last = last.insert((from.clone(), partition), offset);
                assert!(
                    last < Some(offset),
                    "{from}/{partition}: {offset} after {last:?}"
                );
                results.insert((from, partition, offset), result);
            }
        }
    }
    results
}

/// The dead letter topic, repeats removed, in order within a partition.
fn dead_letters(kafka: &Kafka, topic: &str) -> BTreeMap<Place, (String, Message)> {
    let mut letters: BTreeMap<Place, (String, Message)> = BTreeMap::new();
    let mut last: HashMap<(String, i32), i64> = HashMap::new();
    for Record { message, .. } in kafka.read(topic, 0) {
        let header = |name: &str| {
            let found = message.headers.iter().find(|(header, _)| header == name);
            let value = found.and_then(|(_, value)| value.clone()).expect(name);
            String::from_utf8(value).expect("text")
        };
        let from = header("sluice-topic");
        let partition: i32 = header("sluice-partition").parse().expect("a number");
        let offset: i64 = header("sluice-offset").parse().expect("a number");
        let code = header("sluice-error-code");
        let letter = (code, message.clone());
        if let Some(told) = letters.insert((from.clone(), partition, offset), letter.clone()) {
            assert_eq!(told, letter, "produced twice, differently");
        } else {
            let last = last.insert((from.clone(), partition), offset);
            assert!(
                last < Some(offset),
                "{from}/{partition}: {offset} after {last:?}"
            );
        }
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_in_a_mixed_run_leave_what_a_replay_of_the_topics_gives() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let scene = Scene::new(2).await;
    let (kafka, types) = (scene.kafka(), EventType::all());
    for event_type in &types {
        if kafka.partitions(&event_type.name) > 0 {
            kafka.delete_topic(&event_type.name).await;
        }
        kafka.create_topic(&event_type.name, 1, &[]).await;
    }
    let (dlq, told) = (unique("dlq"), unique("results"));
    kafka.create_topic(&dlq, 1, &[]).await;
    kafka.create_topic(&told, 3, &[]).await;
    let settings = [
        ("EVENT_TOPICS", UNSET), // those of the registered handlers
        ("DLQ_TOPIC", dlq.as_str()),
        ("RESULTS_TOPIC", told.as_str()),
        ("BATCH_SIZE", "100"),
        ("BATCHING_DELAY_MS", "2"),
        ("RETRY_DELAY_MS", "100"),
    ];
    let mut instances = [
        scene.ingester_with(&settings),
        scene.ingester_with(&settings),
    ];
    let feed = scene.feed(&Workload::new(seed), 1_000);
    let events = random::stream(&mut rng, &types, DOMAIN_EVENTS);
    let producer = kafka.producer();
    for (kill, part) in events.chunks(DOMAIN_EVENTS / KILLS).enumerate() {
        for (topic, message) in part {
            producer.send(topic, 0, message);
        }
        producer.flush();
        let committed = scene.committed().await;
        scene
            .committed_beyond(committed + rng.between(50, 500) as i64)
            .await;
        tokio::time::sleep(Duration::from_micros(rng.below(30_000))).await; // a random moment, not a wait
        let victim = &mut instances[kill % 2];
        victim.kill9();
        victim.start_again();
    }
    feed.stop().await;
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_mixed(&report);
    for event_type in &types {
        scene
            .database
            .caught_up(kafka, &event_type.name, 1, STALL)
            .await;
    }
    let pending = "SELECT (SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NULL)
        + (SELECT count(*) FROM sluice.partitions_with_results())";
    wait_until(
        "all dead letters and results to be produced",
        STALL,
        async || scene.database.count(pending).await == 0,
    )
    .await;

    let mut applied = Vec::new();
    let balances = (0..2).flat_map(|partition| replay::balances(kafka, &scene.topic, partition));
    let mut fates: BTreeMap<Place, Fate> = balances.collect();
    for event_type in &types {
        fates.extend(replay::events(kafka, event_type, &mut applied));
    }
    let domain = Domain::of(&scene.database).await;
    assert_same(
        &domain.rows().await,
        &rows_after(&applied),
        "after 20 kills",
    );

    let results = results(kafka, &told, 3);
    assert_eq!(
        results.keys().collect::<Vec<_>>(),
        fates.keys().collect::<Vec<_>>()
    );
    let letters = dead_letters(kafka, &dlq);
    let dead = fates.iter().filter(|(_, fate)| fate.verdict == "DEAD");
    assert_eq!(
        letters.keys().collect::<Vec<_>>(),
        dead.map(|(place, _)| place).collect::<Vec<_>>()
    );
    for (place, fate) in &fates {
        let result = &results[place];
        let reason = result["reason"].as_str();
        assert_eq!(result["verdict"], fate.verdict, "{place:?} {result}");
        assert!(
            reason.map_or(fate.reasons.is_empty(), |reason| fate
                .reasons
                .contains(&reason)),
            "{place:?} {result} {:?}",
            fate.reasons
        );
        if let Some(event_id) = &fate.event_id {
            assert_eq!(result["eventId"], **event_id, "{place:?}");
        }
        if let Ok(event) = event::decode(fate.message.payload.as_deref()) {
            assert_eq!(
                result["source"].as_str().unwrap_or_default(),
                event.source,
                "{place:?}"
            );
            assert_eq!(
                result["eventTime"].as_str().map(micros),
                event.time_us,
                "{place:?}"
            );
        }
        assert_eq!(
            result["balances"],
            Value::from(fate.balances.clone()),
            "{place:?}"
        );
        if let Some((code, letter)) = letters.get(place) {
            assert!(fate.reasons.contains(&code.as_str()), "{place:?} {code}");
            assert_eq!(
                (&letter.key, &letter.payload),
                (&fate.message.key, &fate.message.payload)
            );
        }
    }
    for verdict in ["APPLIED", "DUPLICATE", "HANDLER_FAILED", "MALFORMED_JSON"] {
        let is_met = |(place, fate): (&Place, &Fate)| {
            place.0 != scene.topic && (fate.verdict == verdict || fate.reasons.contains(&verdict))
        };
        assert!(fates.iter().any(is_met), "no domain event was {verdict}");
    }
    println!(
        "{KILLS} kills, {} records, {} dead, 0 differences",
        fates.len(),
        letters.len()
    );
    scene.verify_invariants().await;
    for instance in &mut instances {
        instance.stop().await;
    }
    let names: Vec<String> = types.into_iter().map(|found| found.name).collect();
    kafka.delete_topics(&names).await;
}
