//! The second act: domain events of all types with poison among them, a Redis flush and a restart
//! of PostgreSQL in the middle, and a dead letter that is corrected and replayed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use proofs::campaign::Audience;
use proofs::database::Database;
use proofs::families::domain::{Domain, differences};
use proofs::families::model::rows_after;
use proofs::families::schema::EventType;
use proofs::families::{Event, random};
use proofs::ingester::{Ingester, UNSET};
use proofs::replay::{self, Fate, Place};
use proofs::rng::{Rng, seed};
use proofs::scene::STALL;
use proofs::stack::{Stack, sluice_command};
use proofs::wait::wait_until;
use proofs::workload::Message;
use serde_json::Value;

use crate::thousands;

const VERDICTS: [&str; 3] = ["APPLIED", "DUPLICATE", "DEAD"];

/// Answers whether all came out as the model says.
pub async fn run(stack: &Stack, events: usize, audience: &mut impl Audience) -> bool {
    let mut database = Database::open(stack, "sluice").await;
    let types = EventType::all();
    audience.step(&format!(
        "creating {} topics of domain events, starting two ingesters",
        types.len()
    ));
    for name in types.iter().map(|found| found.name.as_str()) {
        stack.kafka.create_topic(name, 1, &[]).await;
    }
    let settings = [
        ("EVENT_TOPICS", UNSET), // those of the registered handlers
        ("REDIS_URL", stack.redis_url.as_str()),
        ("RETRY_DELAY_MS", "200"),
    ];
    let start = || Ingester::start(stack, &database.url, "balance.changed", &settings);
    let mut instances = [start(), start()];

    audience.step(&format!(
        "sending {} events of all types, with repeats, garbage, and events that break their handler",
        thousands(events as u64)
    ));
    let begin = Instant::now();
    let stream = random::stream(&mut Rng::new(seed()), &types, events);
    for (part, messages) in stream.chunks(events.div_ceil(3)).enumerate() {
        let producer = stack.kafka.producer();
        for (topic, message) in messages {
            producer.send(topic, 0, message);
        }
        producer.flush();
        let target = (messages.len() * part + messages.len() / 2) as i64;
        wait_until("half of what was sent", STALL, async || {
            committed(&database, &types).await > target
        })
        .await;
        match part {
            0 => {
                let marks = stack.redis(&["DBSIZE"]);
                stack.redis(&["FLUSHALL"]);
                audience.note(&format!("flushed Redis, which had {marks} marks"));
            }
            1 => {
                stack.control(&["postgres-stop", "immediate"]).await;
                stack.control(&["postgres-start"]).await;
                database.reconnect().await;
                audience.note("stopped PostgreSQL in immediate mode, started it again");
            }
            _ => {}
        }
    }
    for event_type in &types {
        database
            .caught_up(&stack.kafka, &event_type.name, 1, STALL)
            .await;
    }
    let took = begin.elapsed().as_secs_f64();
    let unpublished = "SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NULL AND topic <> 'balance.changed'";
    wait_until("the last tries of the dead letters", STALL, async || {
        database.count(unpublished).await == 0
    })
    .await;

    audience.step("reading the topics again with an independent model and comparing every verdict and every row");
    let mut applied = Vec::new();
    let mut fates = BTreeMap::new();
    for event_type in &types {
        fates.extend(replay::events(&stack.kafka, event_type, &mut applied));
    }
    let mut faults = wrong_verdicts(&database, &fates).await;
    let domain = Domain::of(&database).await;
    faults.extend(differences(&domain.rows().await, &rows_after(&applied)));
    print_verdicts(&types, &fates);
    println!(
        "{} events in {took:.1} s, restart included; {} rows in schema domain",
        thousands(fates.len() as u64),
        thousands(domain.rows().await.len() as u64)
    );

    audience.step("working with the dead letters");
    let corrected = correct_one(stack, &database, &types, &fates).await;
    applied.push(corrected);
    faults.extend(differences(&domain.rows().await, &rows_after(&applied)));
    for (check, found) in database.run_checks().await {
        faults.extend(found.map(|found| format!("sql/{check}.sql: {found}")));
    }
    for instance in &mut instances {
        instance.stop().await;
    }
    print_faults(&faults);
    faults.is_empty()
}

async fn committed(database: &Database, types: &[EventType]) -> i64 {
    let mut sum = 0;
    for event_type in types {
        sum += database.committed(&event_type.name).await;
    }
    sum
}

async fn wrong_verdicts(database: &Database, fates: &BTreeMap<Place, Fate>) -> Vec<String> {
    let verdicts = "SELECT topic, partition, kafka_offset, verdict, reason FROM ledger.event_verdicts WHERE topic <> 'balance.changed'";
    let rows = database.client.query(verdicts, &[]).await;
    let found: BTreeMap<Place, (String, Option<String>)> = rows
        .expect("verdicts")
        .iter()
        .map(|row| {
            let place = (row.get(0), row.get(1), row.get(2));
            (place, (row.get(3), row.get(4)))
        })
        .collect();
    let wrong = fates.iter().filter_map(|(place, fate)| {
        let right = found.get(place).is_some_and(|(verdict, reason)| {
            verdict == fate.verdict
                && reason.as_deref().map_or(fate.reasons.is_empty(), |reason| {
                    fate.reasons.contains(&reason)
                })
        });
        (!right).then(|| format!("{place:?}: {:?}, expected {fate:?}", found.get(place)))
    });
    wrong.collect()
}

fn print_verdicts(types: &[EventType], fates: &BTreeMap<Place, Fate>) {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_header([&["event type"], &VERDICTS[..]].concat());
    for event_type in types {
        let count = |verdict: &&str| {
            let of_type = fates.iter().filter(|(place, _)| place.0 == event_type.name);
            let count = of_type.filter(|(_, fate)| fate.verdict == *verdict).count();
            Cell::new(count).set_alignment(CellAlignment::Right)
        };
        let mut row = vec![Cell::new(&event_type.name)];
        row.extend(VERDICTS.iter().map(count));
        table.add_row(row);
    }
    println!("{table}");
}

/// What an operator does with an event that lacks a field: look, correct, try, replay.
async fn correct_one(
    stack: &Stack,
    database: &Database,
    types: &[EventType],
    fates: &BTreeMap<Place, Fate>,
) -> Event {
    dlq(
        database,
        &["list", "--code", "HANDLER_FAILED", "--limit", "5"],
    );
    let broken = |(_, fate): &(&Place, &Fate)| fate.reasons == ["HANDLER_FAILED"];
    let (place, fate) = fates.iter().find(broken).expect("one in fifty is broken");
    let (event, payload) = mend(types, &place.0, &fate.message);
    let file: PathBuf = stack.dir.join("corrected.json");
    std::fs::write(&file, payload).expect("the stack's folder is writable");
    let id = "SELECT id FROM ledger.dead_letters WHERE topic = $1 AND partition = $2 AND kafka_offset = $3";
    let row = database
        .client
        .query_one(id, &[&place.0, &place.1, &place.2])
        .await
        .expect("the letter");
    let (id, file) = (row.get::<_, i64>(0).to_string(), file.display().to_string());
    dlq(database, &["show", &id]);
    let replay = ["replay", "--id", &id, "--payload", &file];
    dlq(database, &replay);
    dlq(
        database,
        &[
            &replay[..],
            &["--why", "the missing field was asked for", "--apply"],
        ]
        .concat(),
    );
    event
}

/// The same event with all that its type requires.
fn mend(types: &[EventType], event_type: &str, message: &Message) -> (Event, Vec<u8>) {
    let payload = message.payload.as_deref().unwrap_or_default();
    let found: Value = serde_json::from_slice(payload).expect("JSON");
    let text = |field: &str| found[field].as_str().expect(field).to_owned();
    let event_type = types.iter().find(|found| found.name == event_type);
    let event_type = event_type.expect("a type");
    let time_us = proofs::families::micros(&text("timestamp"));
    let whole = random::event(
        &mut Rng::new(seed()),
        event_type,
        &text("eventId"),
        40,
        time_us,
    );
    let mut event = Event::new(
        &event_type.name,
        &text("eventId"),
        time_us,
        found["data"].clone(),
    );
    let data = event.data.as_object_mut().expect("an object");
    for field in event_type.fields.iter().filter(|field| field.required) {
        data.entry(field.name.clone())
            .or_insert_with(|| whole.data[&field.name].clone());
    }
    let payload = event.payload();
    (event, payload)
}

/// Runs `sluice dlq` and shows what it says.
fn dlq(database: &Database, arguments: &[&str]) {
    println!("\n$ sluice dlq {}", arguments.join(" "));
    let all = [&["dlq"], arguments].concat();
    let status = sluice_command(&all, &[("ADMIN_DATABASE_URL", &database.admin_url)]).status();
    assert!(status.expect("sluice dlq").success());
}

fn print_faults(faults: &[String]) {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_header(["check", "result"]);
    let result = if faults.is_empty() {
        Cell::new("ok").fg(Color::Green)
    } else {
        Cell::new(format!("{} differences", faults.len())).fg(Color::Red)
    };
    table.add_row([
        Cell::new("every verdict and every row of schema domain against the model, all of sql/check_*.sql"),
        result,
    ]);
    println!("{table}");
    faults
        .iter()
        .take(20)
        .for_each(|fault| println!("  {fault}"));
}
