//! Domain events: handlers added at run time, what breaks them, and faults while they work.

use std::collections::{BTreeMap, HashSet};
use std::process::Stdio;
use std::time::Duration;

use proofs::compare::Accounts;
use proofs::ingester::UNSET;
use proofs::rng::{Rng, seed};
use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload};

/// A new event type has to be read within this time.
const FOLLOWED: Duration = Duration::from_secs(10);

/// A topic of notes of its own, and the function that a DBA would write for it: the last writer wins.
struct Notes {
    topic: String,
    table: String,
}

impl Notes {
    async fn new(scene: &Scene, partitions: i32) -> Self {
        let table = unique("notes");
        let notes = Self {
            topic: table.replace('_', "."),
            table,
        };
        scene
            .kafka()
            .create_topic(&notes.topic, partitions, &[])
            .await;
        let table = &notes.table;
        let create = format!(
            "CREATE TABLE domain.{table} (id text PRIMARY KEY, body text NOT NULL, version bytea NOT NULL);
             GRANT SELECT, INSERT, UPDATE ON domain.{table} TO sluice_handler"
        );
        notes.execute(scene, &create).await;
        notes.write_handler(scene).await;
        notes
    }

    async fn execute(&self, scene: &Scene, statement: &str) {
        scene
            .database
            .client
            .batch_execute(statement)
            .await
            .expect(statement);
    }

    async fn write_handler(&self, scene: &Scene) {
        let table = &self.table;
        let create = format!(
            "CREATE OR REPLACE FUNCTION domain.on_{table}(events domain.event[]) RETURNS void LANGUAGE sql AS $$
                INSERT INTO domain.{table} AS n
                SELECT DISTINCT ON (1) e.data->>'id', e.data->>'body', e.version FROM unnest(events) e ORDER BY 1, 3 DESC
                ON CONFLICT (id) DO UPDATE SET body = excluded.body, version = excluded.version WHERE n.version < excluded.version
            $$"
        );
        self.execute(scene, &create).await;
    }

    async fn break_handler(&self, scene: &Scene) {
        let table = &self.table;
        let create = format!(
            "CREATE OR REPLACE FUNCTION domain.on_{table}(events domain.event[]) RETURNS void LANGUAGE sql AS
             'SELECT 1/0 FROM unnest(events)'"
        );
        self.execute(scene, &create).await;
    }

    async fn register(&self, scene: &Scene) {
        let register = format!(
            "SELECT sluice.register_handler('{}', 'domain.on_{}')",
            self.topic, self.table
        );
        self.execute(scene, &register).await;
    }

    fn message(&self, event_id: &str, id: &str, body: Option<&str>, second: u64) -> Message {
        let body = body.map_or("null".to_owned(), |body| format!("\"{body}\""));
        let (minute, second) = (second / 60, second % 60);
        Message::of(format!(
            r#"{{"eventId":"{event_id}","eventType":"{}","timestamp":"2026-11-21T{:02}:{:02}:{second:02}Z","data":{{"id":"{id}","body":{body}}}}}"#,
            self.topic,
            minute / 60,
            minute % 60,
        ))
    }

    async fn count(&self, scene: &Scene) -> i64 {
        scene
            .database
            .count(&format!("SELECT count(*) FROM domain.{}", self.table))
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_type_is_followed_under_load_and_its_faulty_handler_pauses_only_its_own_topic() {
    let scene = Scene::new(2).await;
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    let mut ingester = scene.ingester_with(&[("EVENT_TOPICS", UNSET)]);
    scene.committed_beyond(500).await;
    let (notes, others) = (Notes::new(&scene, 2).await, Notes::new(&scene, 1).await);
    let send = |notes: &Notes, from: usize, to: usize| {
        for partition in 0..scene.kafka().partitions(&notes.topic) {
            let messages = (from..to).map(|n| {
                let id = format!("{}-{partition}-{n}", notes.table);
                notes.message(&id, &id, Some("text"), 0)
            });
            scene
                .kafka()
                .produce(&notes.topic, partition, messages.collect::<Vec<_>>());
        }
    };
    send(&notes, 0, 500);
    notes.register(&scene).await;
    wait_until("the new type to be projected", FOLLOWED, async || {
        notes.count(&scene).await == 1_000
    })
    .await;
    others.register(&scene).await;

    notes.break_handler(&scene).await;
    send(&notes, 500, 1_000);
    let paused = format!(
        "SELECT count(*) FROM ledger.event_handlers WHERE event_type = '{}' AND paused_at IS NOT NULL",
        notes.topic
    );
    wait_until("the broken handler to pause", STALL, async || {
        scene.database.count(&paused).await == 1
    })
    .await;
    let committed = scene.committed().await;
    send(&others, 0, 300);
    wait_until("another handler to go on", STALL, async || {
        others.count(&scene).await == 300
    })
    .await;
    scene.committed_beyond(committed + 500).await;
    let letters = format!(
        "SELECT count(*) FROM ledger.dead_letters WHERE topic = '{}'",
        notes.topic
    );
    let buried = scene.database.count(&letters).await;
    assert!(
        buried <= 2 * 100,
        "{buried} dead letters of a handler that breaks on everything"
    );

    notes.write_handler(&scene).await;
    scene
        .database
        .caught_up(scene.kafka(), &notes.topic, 2, STALL)
        .await;
    assert_eq!(notes.count(&scene).await + buried, 2_000);
    assert_eq!(scene.database.count(&letters).await, buried);
    feed.stop().await;
    scene.verify(Accounts::OfOnePartition).await;
    ingester.stop().await;
    let log = ingester.log();
    assert!(
        log.contains("paused: ") && log.contains("division by zero"),
        "{}",
        ingester.log_tail()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_leave_the_newest_news_and_every_verdict() {
    const KILLS: usize = 20;
    const EVENTS: usize = 20_000;
    let mut rng = Rng::new(seed());
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 2).await;
    notes.register(&scene).await;
    let settings = [
        ("EVENT_TOPICS", notes.topic.as_str()),
        ("BATCH_SIZE", "100"),
        ("BATCHING_DELAY_MS", "2"),
    ];
    let mut instances = [
        scene.ingester_with(&settings),
        scene.ingester_with(&settings),
    ];

    // What must be there afterwards: of each id the body of the latest second, which is never told twice.
    let mut newest: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut told: HashSet<(String, u64)> = HashSet::new();
    let (mut applied, mut duplicates, mut dead) = (0, 0, 0);
    let mut earlier: Vec<Vec<Message>> = vec![Vec::new(); 2];
    let mut sent = 0;
    let mut kills = 0;
    while sent < EVENTS {
        let committed = scene.database.committed(&notes.topic).await;
        for (partition, earlier) in earlier.iter_mut().enumerate() {
            let mut messages = Vec::new();
            for _ in 0..250 {
                sent += 1;
                let (id, second) = (format!("{}", rng.below(400)), rng.below(80_000));
                if rng.chance(50) && !earlier.is_empty() {
                    duplicates += 1;
                    let again = rng.pick(earlier).clone();
                    messages.push(again);
                } else if rng.chance(20) {
                    dead += 1;
                    // Of its own id, or newer news in the same call would hide it from the handler.
                    messages.push(notes.message(
                        &format!("e{sent}"),
                        &format!("d{sent}"),
                        None,
                        second,
                    ));
                } else if told.insert((id.clone(), second)) {
                    applied += 1;
                    let body = format!("body {sent}");
                    let message = notes.message(&format!("e{sent}"), &id, Some(&body), second);
                    earlier.push(message.clone());
                    messages.push(message);
                    let news = newest.entry(id).or_insert_with(|| (second, body.clone()));
                    if news.0 < second {
                        *news = (second, body);
                    }
                }
            }
            let (kafka, topic) = (scene.kafka().clone(), notes.topic.clone());
            tokio::task::spawn_blocking(move || kafka.produce(&topic, partition as i32, messages))
                .await
                .expect("sent");
        }
        if kills < KILLS {
            kills += 1;
            wait_until("some progress", STALL, async || {
                scene.database.committed(&notes.topic).await > committed
            })
            .await;
            tokio::time::sleep(Duration::from_micros(rng.below(30_000))).await; // a random moment, not a wait
            let victim = &mut instances[kills % 2];
            victim.kill9();
            victim.start_again();
        }
    }
    scene
        .database
        .caught_up(scene.kafka(), &notes.topic, 2, STALL)
        .await;
    let select = format!("SELECT id, body FROM domain.{}", notes.table);
    let rows = scene
        .database
        .client
        .query(&select, &[])
        .await
        .expect("notes");
    let found: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected: BTreeMap<String, String> = newest
        .into_iter()
        .map(|(id, (_, body))| (id, body))
        .collect();
    assert_eq!(found, expected);
    for (verdict, expected) in [
        ("APPLIED", applied),
        ("DUPLICATE", duplicates),
        ("DEAD", dead),
    ] {
        let count = format!(
            "SELECT count(*) FROM ledger.event_verdicts WHERE topic = '{}' AND verdict = '{verdict}'",
            notes.topic
        );
        assert_eq!(scene.database.count(&count).await, expected, "{verdict}");
    }
    scene.verify_invariants().await;
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_ten_thousand_that_is_killed_goes_on_and_applies_each_once() {
    const LETTERS: usize = 10_000;
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 2).await;
    let register = format!(
        "SELECT sluice.register_handler('{}', 'domain.on_{}', max_failures => 1000000)",
        notes.topic, notes.table
    );
    notes.execute(&scene, &register).await;
    for partition in 0..2 {
        let messages = (0..LETTERS / 2).map(|n| {
            let id = format!("{partition}-{n}");
            notes.message(&id, &id, None, 0)
        });
        let messages: Vec<_> = messages.collect();
        scene.kafka().produce(&notes.topic, partition, messages);
    }
    // No tries of its own: all is left to the person.
    let settings = [
        ("EVENT_TOPICS", notes.topic.as_str()),
        ("MAX_RETRY_ATTEMPTS", "1"),
    ];
    let mut ingester = scene.ingester_with(&settings);
    scene
        .database
        .caught_up(scene.kafka(), &notes.topic, 2, STALL)
        .await;
    let letters = |status: &str| {
        format!(
            "SELECT count(*) FROM ledger.dead_letters WHERE topic = '{}' AND status = '{status}'",
            notes.topic
        )
    };
    assert_eq!(
        scene.database.count(&letters("PARKED")).await,
        LETTERS as i64
    );
    let mend = format!(
        "ALTER TABLE domain.{} ALTER body DROP NOT NULL",
        notes.table
    );
    notes.execute(&scene, &mend).await;

    let dlq = |arguments: &[&str]| {
        let mut all = vec!["dlq"];
        all.extend(arguments);
        sluice_command(&all, &[("ADMIN_DATABASE_URL", &scene.database.admin_url)])
    };
    let replay = [
        "replay",
        "--topic",
        &notes.topic,
        "--limit",
        "20000",
        "--output",
        "jsonl",
    ];
    let dry = dlq(&replay).output().expect("sluice dlq");
    assert!(
        dry.status.success(),
        "{}",
        String::from_utf8_lossy(&dry.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&dry.stdout)
            .matches(r#""verdict":"APPLIED""#)
            .count(),
        LETTERS
    );
    assert_eq!(notes.count(&scene).await, 0, "a dry run by default");

    let applied = [replay.as_slice(), &["--apply", "--why", "mended"]].concat();
    let mut killed = dlq(&applied)
        .stdout(Stdio::null())
        .spawn()
        .expect("sluice dlq");
    wait_until("the replay to be under way", STALL, async || {
        scene.database.count(&letters("REPLAYED")).await > 0
    })
    .await;
    killed.kill().expect("a child of ours");
    killed.wait().expect("a child of ours");
    let rest = dlq(&applied).output().expect("sluice dlq");
    assert!(
        rest.status.success(),
        "{}",
        String::from_utf8_lossy(&rest.stderr)
    );
    assert_eq!(
        scene.database.count(&letters("REPLAYED")).await,
        LETTERS as i64
    );
    assert_eq!(notes.count(&scene).await, LETTERS as i64);
    let actions = "SELECT count(*) FROM ledger.dead_letter_actions WHERE verdict = 'APPLIED' AND why = 'mended'";
    assert_eq!(scene.database.count(actions).await, LETTERS as i64);
    let again = dlq(&applied).output().expect("sluice dlq");
    assert!(String::from_utf8_lossy(&again.stderr).contains("0 of 0 letters"));
    scene.verify_invariants().await;
    ingester.stop().await;

    let shown = dlq(&["list", "--limit", "1", "--output", "json"])
        .output()
        .expect("sluice dlq");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("HANDLER_FAILED"));
    let unknown = dlq(&["show", "0"]).output().expect("sluice dlq");
    assert_eq!(unknown.status.code(), Some(1));
    let vague = dlq(&["discard", "--apply"]).output().expect("sluice dlq");
    assert!(String::from_utf8_lossy(&vague.stderr).contains("which dead letters?"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_tried_three_times_and_then_produced_to_its_topic() {
    let scene = Scene::new(1).await;
    let (notes, dlq) = (Notes::new(&scene, 1).await, unique("dlq"));
    scene.kafka().create_topic(&dlq, 1, &[]).await;
    notes.register(&scene).await;
    let settings = [
        ("EVENT_TOPICS", notes.topic.as_str()),
        ("DLQ_TOPIC", &dlq),
        ("RETRY_DELAY_MS", "300"),
    ];
    let mut ingester = scene.ingester_with(&settings);
    let keyed = |message: Message| Message {
        key: Some(b"some key".to_vec()),
        ..message
    };
    let sent = [
        keyed(notes.message("e0", "a", Some("good"), 0)),
        keyed(notes.message("e1", "b", None, 0)),
        Message::of("{"),
        Message::default(),
        keyed(notes.message("e4", "c", None, 0)),
    ];
    scene.kafka().produce(&notes.topic, 0, sent.clone());
    wait_until("the dead letters to be produced", STALL, async || {
        scene.kafka().ends(&dlq, 1) == [4]
    })
    .await;
    let found: Vec<_> = scene
        .kafka()
        .read(&dlq, 0)
        .into_iter()
        .map(|record| record.message)
        .collect();
    let header = |message: &Message, name: &str| {
        let found = message.headers.iter().find(|(header, _)| header == name);
        String::from_utf8(
            found
                .and_then(|(_, value)| value.clone())
                .unwrap_or_default(),
        )
        .expect("text")
    };
    for (message, (offset, code, attempts)) in found.iter().zip([
        (1, "HANDLER_FAILED", "3"),
        (2, "MALFORMED_JSON", "1"),
        (3, "EMPTY_PAYLOAD", "1"),
        (4, "HANDLER_FAILED", "3"),
    ]) {
        let original: &Message = &sent[offset];
        assert_eq!(
            (&message.key, &message.payload),
            (&original.key, &original.payload)
        );
        assert_eq!(header(message, "sluice-topic"), notes.topic);
        assert_eq!(header(message, "sluice-offset"), offset.to_string());
        assert_eq!(header(message, "sluice-error-code"), code);
        assert_eq!(header(message, "sluice-attempts"), attempts);
    }

    // A cause that passes: the next try applies it, and nothing is produced.
    let healed = keyed(notes.message("e5", "d", None, 0));
    scene.kafka().produce(&notes.topic, 0, [healed]);
    let letter = "SELECT count(*) FROM ledger.dead_letters WHERE kafka_offset = 5";
    wait_until("the first try to fail", STALL, async || {
        scene.database.count(letter).await == 1
    })
    .await;
    let mend = format!(
        "ALTER TABLE domain.{} ALTER body DROP NOT NULL",
        notes.table
    );
    notes.execute(&scene, &mend).await;
    let replayed = format!("{letter} AND status = 'REPLAYED' AND published_at IS NULL");
    wait_until("a later try to succeed", STALL, async || {
        scene.database.count(&replayed).await == 1
    })
    .await;
    assert_eq!(notes.count(&scene).await, 2);
    scene.verify_invariants().await;
    ingester.stop().await;
    assert_eq!(scene.kafka().ends(&dlq, 1), [4]);
}
