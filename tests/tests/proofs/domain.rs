//! Domain events: handlers added at run time, events on which they fail, and faults while they run.

use std::collections::{BTreeMap, HashSet};
use std::process::Stdio;
use std::time::Duration;

use proofs::compare::Accounts;
use proofs::dead_letters::from_base64;
use proofs::ingester::UNSET;
use proofs::rng::{Rng, seed};
use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload};
use rustix::process::{Pid, Signal, kill_process};

/// A new event type has to be read within this time.
const FOLLOWED: Duration = Duration::from_secs(10);

/// A topic of notes of its own, and the function that a DBA would write for it: the last writer wins.
pub(super) struct Notes {
    pub topic: String,
    pub table: String,
}

impl Notes {
    pub async fn new(scene: &Scene, partitions: i32) -> Self {
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

    pub async fn write_handler(&self, scene: &Scene) {
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

    pub async fn break_handler(&self, scene: &Scene) {
        let table = &self.table;
        let create = format!(
            "CREATE OR REPLACE FUNCTION domain.on_{table}(events domain.event[]) RETURNS void LANGUAGE sql AS
             'SELECT 1/0 FROM unnest(events)'"
        );
        self.execute(scene, &create).await;
    }

    pub async fn register(&self, scene: &Scene) {
        let register = format!(
            "SELECT sluice.register_handler('{}', 'domain.on_{}')",
            self.topic, self.table
        );
        self.execute(scene, &register).await;
    }

    pub fn message(&self, event_id: &str, id: &str, body: Option<&str>, second: u64) -> Message {
        let body = body.map_or("null".to_owned(), |body| format!("\"{body}\""));
        let (minute, second) = (second / 60, second % 60);
        Message::of(format!(
            r#"{{"eventId":"{event_id}","eventType":"{}","timestamp":"2026-11-21T{:02}:{:02}:{second:02}Z","data":{{"id":"{id}","body":{body}}}}}"#,
            self.topic,
            minute / 60,
            minute % 60,
        ))
    }

    pub async fn count(&self, scene: &Scene) -> i64 {
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
async fn a_replay_of_ten_thousand_that_is_stopped_and_killed_goes_on_and_applies_each_once() {
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
    // Asked to stop it ends after a transaction, and tells of all that is done.
    let stopped = dlq(&applied)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sluice dlq");
    wait_until("the replay to be under way", STALL, async || {
        scene.database.count(&letters("REPLAYED")).await > 0
    })
    .await;
    let pid = Pid::from_raw(stopped.id() as i32).expect("a process id");
    kill_process(pid, Signal::INT).expect("a child that was not waited for");
    let stopped = stopped.wait_with_output().expect("a child of ours");
    let told = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(stopped.status.success(), "{told}");
    assert!(told.contains("stopped, the same command goes on"), "{told}");
    let done = scene.database.count(&letters("REPLAYED")).await;
    assert_eq!(
        String::from_utf8_lossy(&stopped.stdout).lines().count() as i64,
        done
    );

    let mut killed = dlq(&applied)
        .stdout(Stdio::null())
        .spawn()
        .expect("sluice dlq");
    wait_until("the replay to be under way", STALL, async || {
        scene.database.count(&letters("REPLAYED")).await > done
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
    assert!(String::from_utf8_lossy(&again.stderr).contains("no parked letter matches"));
    scene.verify_invariants().await;
    ingester.stop().await;

    let unknown = dlq(&["show", "0"]).output().expect("sluice dlq");
    assert_eq!(unknown.status.code(), Some(1));
    let vague = dlq(&["discard", "--apply", "--why", "noise"])
        .output()
        .expect("sluice dlq");
    assert!(String::from_utf8_lossy(&vague.stderr).contains("which dead letters?"));
    // Nothing is changed without a reason.
    for command in ["replay", "discard", "restore"] {
        for (reason, told) in [
            (&[][..], "--why <WHY>"),
            (&["--why", " "], "WHY: \" \" is no reason"),
        ] {
            let arguments = [&[command, "--id", "1", "--apply"][..], reason].concat();
            let refused = dlq(&arguments).output().expect("sluice dlq");
            let words = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(2), "{words}");
            assert!(words.contains(told), "{words}");
        }
    }
    // A misspelt topic or code is answered by what there is.
    let answer = |arguments: &[&str]| {
        let output = dlq(arguments).output().expect("sluice dlq");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for arguments in [
        &["list", "--topic", "nots"][..],
        &["list", "--code", "HANDLER_FALED"],
        &["stats", "--topic", "nots"],
    ] {
        let told = answer(arguments);
        assert!(
            told.contains("no dead letter matches; there are: "),
            "{told}"
        );
        assert!(told.contains(&notes.topic), "{told}");
    }
    let told = answer(&["list", "--id", "0"]);
    assert!(
        told.contains("there is no dead letter 0; there are: "),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_by_every_filter_and_shown_in_every_form() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let keyed = |message: Message, key: &[u8]| Message {
        key: Some(key.to_vec()),
        ..message
    };
    let bytes = b"{\"eventId\":\"\xff\"".as_slice();
    scene.kafka().produce(
        &scene.topic,
        0,
        [
            keyed(Message::of("{"), "ключ".as_bytes()),
            keyed(Message::of(bytes), b"\x00\xff"),
        ],
    );
    let broken = (0..3).map(|n| keyed(notes.message(&format!("e{n}"), "a", None, 0), b"a key"));
    scene.kafka().produce(&notes.topic, 0, broken);
    let settings = [
        ("EVENT_TOPICS", notes.topic.as_str()),
        ("MAX_RETRY_ATTEMPTS", "1"),
    ];
    let mut ingester = scene.ingester_with(&settings);
    scene.caught_up().await;
    scene
        .database
        .caught_up(scene.kafka(), &notes.topic, 1, STALL)
        .await;
    ingester.stop().await;

    let dlq = |arguments: &[&str]| {
        let all = [&["dlq"], arguments].concat();
        let output = sluice_command(&all, &[("ADMIN_DATABASE_URL", &scene.database.admin_url)])
            .output()
            .expect("sluice dlq");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), output.stdout, errors)
    };
    let listed = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let all = [arguments, &["--output", "jsonl"]].concat();
        let (status, stdout, errors) = dlq(&all);
        assert_eq!(status, Some(0), "{arguments:?}: {errors}");
        let lines = String::from_utf8(stdout).expect("text");
        let objects = lines.lines().map(serde_json::from_str);
        objects.collect::<Result<_, _>>().expect("JSON")
    };
    let binary = r"\x00ff";
    for (filter, expected) in [
        (&[][..], 5),
        (&["--topic", &scene.topic], 2),
        (&["--type", "balance.changed"], 2),
        (&["--type", &notes.topic], 3),
        (&["--code", "handler_failed"], 3),
        (&["--key", "a key"], 3),
        (&["--key", "ключ"], 1),
        (&["--key", binary], 1),
        (&["--status", "parked"], 5),
        (&["--status", "DISCARDED"], 0),
        (&["--since", "yesterday"], 5),
        (&["--until", "yesterday"], 0),
        (&["--limit", "4"], 4),
        (&["--type", "balance.changed", "--key", "a key"], 0),
    ] {
        let found = listed(&[&["list"], filter].concat());
        assert_eq!(found.len(), expected, "{filter:?}");
    }
    assert!(
        dlq(&["list", "--limit", "4"])
            .2
            .contains("the latest 4 of 5")
    );
    let letter = &listed(&["list", "--key", binary])[0];
    assert_eq!(letter["key"], binary);
    let id = letter["id"].to_string();
    assert_eq!(dlq(&["show", &id, "--payload"]).1, bytes);
    let shown = &listed(&["show", &id])[0];
    let payload = shown["payload"].as_str().expect("base64");
    assert_eq!(from_base64(payload), bytes);
    let stats = listed(&["stats", "--type", &notes.topic]);
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0]["letters"], 3);
    let (_, exported, _) = dlq(&["export", "--status", "parked"]);
    assert_eq!(String::from_utf8_lossy(&exported).lines().count(), 5);
    let (_, table, _) = dlq(&["list", "--key", "a key"]);
    let table = String::from_utf8(table).expect("text");
    let columns: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(columns[..4], ["id", "topic", "partition", "offset"]);
    assert_eq!(table.lines().count(), 4, "{table}");

    let (_, _, told) = dlq(&["replay", "--type", &notes.topic, "--limit", "2"]);
    assert!(
        told.starts_with("2 of 2 letters: 2 DEAD; 1 more match beyond --limit 2; dry run"),
        "{told}"
    );
    let (_, _, told) = dlq(&["discard", "--id", &id, "--why", "noise", "--apply"]);
    assert!(told.starts_with("1 of 1 letters discarded"), "{told}");
    let (_, _, told) = dlq(&["discard", "--id", &id, "--apply", "--why", "noise"]);
    assert!(
        told.starts_with("no parked letter matches; left out: 1 NOT_PARKED"),
        "{told}"
    );
    assert_eq!(listed(&["show", &id])[0]["actions"][0]["why"], "noise");
    let both = format!("{id},4711");
    let (_, _, told) = dlq(&["restore", "--id", &both, "--why", "no noise", "--apply"]);
    assert!(
        told.starts_with("1 of 1 letters restored; left out: 1 NO_SUCH_LETTER"),
        "{told}"
    );
    assert_eq!(listed(&["show", &id])[0]["status"], "PARKED");
    let (_, _, told) = dlq(&["discard", "--id", &id, "--why", "noise", "--apply"]);
    assert!(told.starts_with("1 of 1 letters discarded"), "{told}");
    let (status, _, told) = dlq(&["list", "--status", "lost"]);
    assert_eq!(status, Some(2));
    assert!(told.contains("PARKED, REPLAYED, DISCARDED"), "{told}");
    let stranger = sluice_command(&["dlq", "stats"], &[("DATABASE_URL", &scene.database.url)])
        .output()
        .expect("sluice dlq");
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("sluice_reader"));
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

/// The bodies of a key in the order in which the handler got them, and what is not a number breaks it.
async fn append_in_order(notes: &Notes, scene: &Scene) {
    let table = &notes.table;
    let create = format!(
        "CREATE OR REPLACE FUNCTION domain.on_{table}(events domain.event[]) RETURNS void LANGUAGE sql AS $$
            INSERT INTO domain.{table} AS n
            SELECT e.data->>'id', string_agg((e.data->>'body')::int::text, ' ' ORDER BY e.kafka_offset), ''
            FROM unnest(events) e GROUP BY 1
            ON CONFLICT (id) DO UPDATE SET body = n.body || ' ' || excluded.body
        $$;
        SELECT sluice.register_handler('{}', 'domain.on_{table}', parks_key => true)",
        notes.topic
    );
    notes.execute(scene, &create).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_behind_a_key_follows_in_order_once_its_head_is_replayed_or_discarded() {
    const KEYS: [&str; 4] = ["mended", "given up", "free", "as well"];
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    append_in_order(&notes, &scene).await;
    // No tries of its own: the heads wait for a person.
    let settings = [
        ("EVENT_TOPICS", notes.topic.as_str()),
        ("MAX_RETRY_ATTEMPTS", "1"),
        ("BATCH_SIZE", "50"),
    ];
    let mut ingester = scene.ingester_with(&settings);
    // Each round is a record of each key; the one of "mended" breaks the handler in round 3, of "given up" in round 5.
    let record = |key: &str, round: usize, body: &str| Message {
        key: Some(key.as_bytes().to_vec()),
        ..notes.message(&format!("{key} {round}"), key, Some(body), 0)
    };
    let send = |rounds: std::ops::Range<usize>| {
        let messages = rounds.flat_map(|round| {
            KEYS.map(|key| match (key, round) {
                ("mended", 3) | ("given up", 5) => record(key, round, "poison"),
                _ => record(key, round, &round.to_string()),
            })
        });
        let messages: Vec<_> = messages.collect();
        scene.kafka().produce(&notes.topic, 0, messages);
    };
    let caught_up = async || {
        scene
            .database
            .caught_up(scene.kafka(), &notes.topic, 1, STALL)
            .await;
    };
    let body = async |key: &str| -> String {
        let select = format!("SELECT body FROM domain.{} WHERE id = $1", notes.table);
        let row = scene.database.client.query_one(&select, &[&key]).await;
        row.expect("a row").get(0)
    };
    let numbers = |rounds: std::ops::Range<usize>, without: Option<usize>| {
        let kept = rounds.filter(|round| Some(*round) != without);
        let texts: Vec<String> = kept.map(|round| round.to_string()).collect();
        texts.join(" ")
    };
    // What stands in dead_letters of a key: how many parked as heads, and how many behind them.
    let parked = async |key: &str| -> (i64, i64) {
        let select = "SELECT count(*) FILTER (WHERE error_code = 'HANDLER_FAILED'),
                count(*) FILTER (WHERE error_code = 'PARKED_BEHIND')
            FROM ledger.dead_letters WHERE status = 'PARKED' AND key = convert_to($1, 'UTF8')";
        let row = scene.database.client.query_one(select, &[&key]).await;
        let row = row.expect("counts");
        (row.get(0), row.get(1))
    };
    send(0..20);
    caught_up().await;
    send(20..30);
    caught_up().await;
    assert_eq!(body("mended").await, numbers(0..3, None));
    assert_eq!(body("given up").await, numbers(0..5, None));
    for free in ["free", "as well"] {
        assert_eq!(body(free).await, numbers(0..30, None), "{free} never waits");
    }
    assert_eq!(parked("mended").await, (1, 26));
    assert_eq!(parked("given up").await, (1, 24));

    let head = async |key: &str| {
        let select = format!(
            "SELECT id FROM ledger.dead_letters WHERE error_code = 'HANDLER_FAILED' AND key = convert_to('{key}', 'UTF8')"
        );
        scene.database.count(&select).await.to_string()
    };
    let dlq = |arguments: &[&str]| {
        let all = [&["dlq"], arguments].concat();
        let output = sluice_command(&all, &[("ADMIN_DATABASE_URL", &scene.database.admin_url)])
            .output()
            .expect("sluice dlq");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        errors
    };
    let file = scene.stack.dir.join(format!("{}.json", notes.table));
    let corrected = record("mended", 3, "3").payload.expect("a payload");
    std::fs::write(&file, corrected).expect("the stack's folder is writable");
    let (id, file) = (head("mended").await, file.display().to_string());
    let replay = ["replay", "--id", &id, "--payload", &file, "--why", "a typo"];
    assert!(dlq(&replay).contains("1 of 1 letters: 1 APPLIED; dry run"));
    assert_eq!(body("mended").await, numbers(0..3, None), "a dry run");
    dlq(&[&replay[..], &["--apply"]].concat());
    let id = head("given up").await;
    dlq(&["discard", "--id", &id, "--why", "hopeless", "--apply"]);
    // News on all keys before those that wait have followed: they go behind them.
    send(30..40);
    wait_until("those that waited to follow", STALL, async || {
        parked("mended").await == (0, 0) && parked("given up").await == (0, 0)
    })
    .await;
    caught_up().await;
    send(40..45);
    caught_up().await;
    wait_until("nothing to wait any more", STALL, async || {
        parked("mended").await == (0, 0) && parked("given up").await == (0, 0)
    })
    .await;

    // As if all had come in order: only what was given up is missing.
    for (key, missing) in KEYS.map(|key| (key, (key == "given up").then_some(5))) {
        assert_eq!(body(key).await, numbers(0..45, missing), "{key}");
    }
    for (verdict, expected) in [
        ("verdict = 'APPLIED'", 4 * 45 - 1),
        (
            "verdict = 'DEAD' AND reason = 'HANDLER_FAILED' AND event_id = 'given up 5'",
            1,
        ),
        ("true", 4 * 45),
    ] {
        let count = format!(
            "SELECT count(*) FROM ledger.event_verdicts WHERE topic = '{}' AND {verdict}",
            notes.topic
        );
        assert_eq!(scene.database.count(&count).await, expected, "{verdict}");
    }
    let actions = "SELECT count(*) FROM ledger.dead_letter_actions
        WHERE (action, why, verdict, payload IS NULL) IN (('REPLAY', 'a typo', 'APPLIED', false), ('DISCARD', 'hopeless', 'DEAD', true))";
    assert_eq!(scene.database.count(actions).await, 2);
    let others = "SELECT count(*) FROM ledger.dead_letters WHERE key = ANY (ARRAY['free', 'as well']::bytea[])";
    assert_eq!(scene.database.count(others).await, 0);
    scene.verify_invariants().await;
    ingester.stop().await;
}
