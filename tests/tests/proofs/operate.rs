//! An operator's actions on partitions: pause, resume, step down, and queries.

use std::time::Duration;

use proofs::compare::Accounts;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene};
use proofs::stack::{repository, sluice_command};
use proofs::wait::wait_until;
use proofs::watch::{led_knowingly, settled};
use proofs::workload::{Message, Workload, credit};
use serde_json::{Value, json};

/// What `sluice` says on stdout, and its exit status.
fn sluice(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String, String) {
    let environment = [
        ("ADMIN_DATABASE_URL", scene.database.admin_url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
    ];
    let output = sluice_command(arguments, &environment).output();
    let output = output.expect("sluice runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

pub(super) fn done(scene: &Scene, arguments: &[&str]) -> String {
    let (status, stdout, stderr) = sluice(scene, arguments);
    assert_eq!(status, Some(0), "{arguments:?}: {stderr}");
    stdout
}

fn status(scene: &Scene) -> Vec<Value> {
    let text = done(scene, &["status", "--output", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_partition_commits_nothing_until_it_is_resumed() {
    let scene = Scene::new(2).await;
    let mut ingester = scene.ingester();
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    scene.committed_beyond(1_000).await;

    let paused = format!("{}/0", scene.topic);
    let pause = ["pause", &paused, "--why", "a look at its accounts"];
    assert_eq!(done(&scene, &pause), format!("{paused} is paused\n"));
    let before = scene.database.progress(&scene.topic).await;
    assert!(done(&scene, &pause).contains("paused already"));
    wait_until("the pause to be told", STALL, async || {
        let body: Value = ingester.get("/health").await.1.parse().expect("JSON");
        let partition = &body["partitions"][0];
        partition["state"] == "paused"
            && partition["reason"] == "paused by hand: a look at its accounts"
            && body["status"] == "degraded"
    })
    .await;
    scene
        .committed_beyond(scene.committed().await + 2_000)
        .await;
    let after = scene.database.progress(&scene.topic).await;
    assert_eq!(after[&0].commit_offset, before[&0].commit_offset);
    assert_eq!(after[&0].leader, before[&0].leader, "its leader stays");
    assert!(after[&1].commit_offset > before[&1].commit_offset);
    wait_until("what waits to be seen in the database", STALL, async || {
        let partitions = status(&scene);
        partitions[0]["state"] == "paused"
            && partitions[0]["lag"].as_i64() > Some(0)
            && partitions[1]["state"] == "running"
            && partitions[1]["records_per_second"].as_f64() > Some(0.0)
            && partitions[1]["last_apply_us"].as_i64() > Some(0)
    })
    .await;

    // Whoever leads it next stays out of it, too.
    ingester.kill9();
    ingester.ended(Duration::from_secs(10)).await;
    ingester.start_again();
    scene
        .committed_beyond(scene.committed().await + 1_000)
        .await;
    let after = scene.database.progress(&scene.topic).await;
    assert_eq!(after[&0].commit_offset, before[&0].commit_offset);

    assert_eq!(
        done(&scene, &["resume", &paused]),
        format!("{paused} goes on\n")
    );
    assert!(done(&scene, &["resume", &paused]).contains("was not paused"));
    feed.stop().await;
    scene.verify(Accounts::OfOnePartition).await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_takes_what_a_leader_steps_down_from() {
    let scene = Scene::new(4).await;
    let mut instances = [scene.ingester(), scene.ingester()];
    let names = instances.each_ref().map(|one| one.service_id.clone());
    let names = names.each_ref().map(String::as_str);
    let feed = scene.feed(&Workload::new(seed()), 2_000);
    settled(&scene.database, &scene.topic, 4, &names, STALL).await;
    let before = scene.database.progress(&scene.topic).await;
    let former = before[&1].leader.clone().expect("settled");

    let partition = format!("{}/1", scene.topic);
    let said = done(&scene, &["step-down", &partition]);
    assert_eq!(said, format!("{former} leads {partition} no more\n"));
    wait_until("the other one to lead it and commit", STALL, async || {
        let now = &scene.database.progress(&scene.topic).await[&1];
        now.leader.as_ref().is_some_and(|leader| *leader != former)
            && now.fencing_token > before[&1].fencing_token
            && now.commit_offset > before[&1].commit_offset
    })
    .await;
    settled(&scene.database, &scene.topic, 4, &names, STALL).await;
    let led = scene.database.progress(&scene.topic).await;
    assert_ne!(led[&1].leader.as_ref(), Some(&former), "it stays there");
    feed.stop().await;
    scene.verify(Accounts::OfOnePartition).await;

    // Alone, an instance leads it again.
    instances[1].stop().await;
    settled(&scene.database, &scene.topic, 4, &names[..1], STALL).await;
    assert!(done(&scene, &["step-down", &partition]).contains(names[0]));
    wait_until("the only one to lead it again", STALL, async || {
        let now = &scene.database.progress(&scene.topic).await[&1];
        now.leader.as_deref() == Some(names[0]) && now.fencing_token > led[&1].fencing_token
    })
    .await;
    // Who is asked to stop before it knows what it has acquired leaves a leader's name behind.
    led_knowingly(&scene.database, &scene.topic, &instances[0]).await;
    instances[0].stop().await;
    assert_eq!(
        done(&scene, &["step-down", &partition]),
        format!("nobody leads {partition}\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_in_one_line() {
    let scene = Scene::new(1).await;
    for (arguments, status, told) in [
        (
            &["resume", "nowhere/0"][..],
            1,
            "nobody has read nowhere/0 yet",
        ),
        (
            &["step-down", "nowhere"],
            2,
            "for example balance.changed/0",
        ),
        (&["pause", "nowhere/0"], 2, "--why"),
        (
            &["pause", "nowhere/0", "--why", ""],
            1,
            "a pause needs a reason",
        ),
    ] {
        let (found, stdout, stderr) = sluice(&scene, arguments);
        assert_eq!(found, Some(status), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.contains(told), "{stderr}");
    }
    let (found, stdout, stderr) = sluice(&scene, &["status"]);
    assert_eq!((found, stdout.as_str()), (Some(0), ""));
    assert_eq!(stderr, "no partition has been read yet\n");
    let writer = scene.database.writer().await;
    for call in [
        "sluice.pause_partition('t', 0, 'why')",
        "sluice.resume_partition('t', 0)",
        "sluice.step_down('t', 0)",
        "sluice.accept_partition('t', 0, 'why')",
    ] {
        let refused = writer.batch_execute(&format!("SELECT {call}")).await;
        let code = refused
            .expect_err(call)
            .code()
            .map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{call}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offsets_of_kafka_and_database_stand_side_by_side() {
    let scene = Scene::new(2).await;
    let send = |events: std::ops::Range<i64>| {
        let credits = events.map(|event| credit(&format!("e{event}"), 1, "1"));
        scene.kafka().produce(&scene.topic, 0, credits);
    };
    send(0..10);
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    ingester.stop().await;
    send(10..13);
    scene.kafka().delete_records(&scene.topic, 0, 4).await;
    let asked = ["partitions", "--topic", &scene.topic, "--output", "json"];
    let told: Value = done(&scene, &asked).parse().expect("JSON");
    let progress = scene.database.progress(&scene.topic).await;
    let partition = |number: i32, offsets: [i64; 4]| {
        let [start, committed, end, waiting] = offsets;
        json!({
            "partition": format!("{}/{number}", scene.topic),
            "log_start_offset": start,
            "pruned_below": null,
            "commit_offset": committed,
            "log_end_offset": end,
            "last_stable_offset": end,
            "waiting": waiting,
            "fencing_token": progress[&number].fencing_token,
        })
    };
    let expected = json!([partition(0, [4, 10, 13, 3]), partition(1, [0, 0, 0, 0])]);
    assert_eq!(told, expected);
    for command in ["partitions", "status"] {
        let (status, stdout, told) = sluice(&scene, &[command, "--topic", "nowhere"]);
        let named = format!(
            "no partition of \"nowhere\" has been read; topics that were: {}",
            scene.topic
        );
        assert_eq!((status, stdout.as_str()), (Some(1), ""));
        assert!(told.contains(&named), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sluice_events_find_says_what_became_of_an_event() {
    let scene = Scene::new(1).await;
    let event = |event_id: &str, delta: &str| {
        Message::of(format!(
            r#"{{"eventId":"{event_id}","eventType":"balance.changed","source":"bank","timestamp":"2026-11-21T05:00:00Z","data":{{"accountId":42,"changes":[{{"currencyCode":"USD","availableDelta":"{delta}"}}]}}}}"#
        ))
    };
    let sent = ["100", "-30", "100", "-31", "12,5"];
    let ids = ["deposit", "order", "deposit", "order", "typo"];
    let sent = ids.iter().zip(sent).map(|(id, delta)| event(id, delta));
    scene.kafka().produce(&scene.topic, 0, sent);
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    ingester.stop().await;

    let find = |event_id| ["events", "find", event_id, "--source", "bank"];
    let json = [&find("order")[..], &["--output", "json"]].concat();
    let found: Value = serde_json::from_str(&done(&scene, &json)).expect("JSON");
    let told = |row: &Value| {
        json!([
            row["kafka_offset"],
            row["is_first"],
            row["verdict"],
            row["reason"],
            row["event_time"],
            row["changes"][0]["available_before"],
            row["changes"][0]["available_after"]
        ])
    };
    let at = "2026-11-21T05:00:00+00:00";
    assert_eq!(
        found
            .as_array()
            .expect("rows")
            .iter()
            .map(told)
            .collect::<Value>(),
        json!([
            [1, true, "APPLIED", null, at, "100", "70"],
            [3, false, "REJECTED", "EVENT_ID_CONFLICT", at, "70", "70"]
        ])
    );
    let letter = [&find("typo")[..], &["--output", "json"]].concat();
    let letter: Value = serde_json::from_str(&done(&scene, &letter)).expect("JSON");
    let message = &letter[0]["dead_letter"]["error_message"];
    // A table cuts long ones.
    let message: String = message
        .as_str()
        .expect("it says why")
        .chars()
        .take(30)
        .collect();
    for (event_id, words) in [
        (
            "deposit",
            &[
                "APPLIED",
                "DUPLICATE",
                "2026-11-21 05:00:00",
                "available_before",
            ][..],
        ),
        (
            "typo",
            &[
                "DEAD",
                "INVALID_AMOUNT",
                "1 PARKED",
                "attempts",
                "error_message",
                message.as_str(),
            ],
        ),
    ] {
        let table = done(&scene, &find(event_id));
        assert!(words.iter().all(|word| table.contains(word)), "{table}");
    }
    let (status, stdout, stderr) = sluice(&scene, &["events", "find", "order"]);
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("name one with --source"), "{stderr}");
    // The ingester's login may not look.
    let refused = [("ADMIN_DATABASE_URL", scene.database.url.as_str())];
    let refused = sluice_command(&find("order"), &refused).output();
    let stderr = String::from_utf8(refused.expect("sluice runs").stderr).expect("text");
    let advice = "let ADMIN_DATABASE_URL name a member of sluice_reader";
    assert!(stderr.contains(advice), "{stderr}");
    scene.verify_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sluice_plan_computes_from_what_this_installation_has_stored() {
    let scene = Scene::new(1).await;
    let (status, _, stderr) = sluice(&scene, &["plan", "--events-per-day", "1", "--watch", "0"]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("nothing is committed here"), "{stderr}");
    // A refused change has a row in the log, too.
    let events = (0..1_990).map(|n| credit(&format!("e{n}"), n % 7, "1"));
    let refused = (0..10).map(|n| credit(&format!("r{n}"), n, "-5000"));
    let events = events.chain(refused);
    scene.kafka().produce(&scene.topic, 0, events);
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    ingester.stop().await;
    let stored = scene
        .database
        .count(
            "SELECT sum(pg_total_relation_size(t::regclass))::bigint
             FROM unnest('{ledger.balance_log,ledger.event_identities,ledger.dead_letters,ledger.event_conflicts,ledger.offset_holes}'::text[]) t",
        )
        .await;
    let each = stored as f64 / 2_000.0;
    let plan = |more: &[&str]| -> Vec<Value> {
        let all = [
            &[
                "plan",
                "--events-per-day",
                "1000000",
                "--watch",
                "0",
                "--output",
                "json",
            ],
            more,
        ]
        .concat();
        serde_json::from_str(&done(&scene, &all)).expect("JSON")
    };
    let figure = |lines: &[Value], what: &str| {
        let line = lines.iter().find(|line| line["what"] == what);
        line.expect(what)["figure"].as_f64()
    };
    let lines = plan(&["--keep-days", "9", "--instances", "3"]);
    for (what, expected) in [
        ("a balance event in tables and indexes", each),
        ("on disk after 30 days", each * 30.0 / 1e3),
        ("on disk after a year", each * 365.0 / 1e3),
        ("with pruning, after 30 days", each * 10.0 / 1e3),
        ("with pruning, after a year", each * 10.0 / 1e3),
        ("events a second, peak", 3e6 / 86_400.0),
        ("connections, at most", 60.0),
    ] {
        let figure = figure(&lines, what).expect(what);
        // Three digits are told.
        assert!(
            (figure / expected - 1.0).abs() < 0.006,
            "{what}: {figure}, not {expected}"
        );
    }
    assert_eq!(figure(&lines, "WAL a day"), None, "nobody looked");
    assert_eq!(figure(&lines, "a domain event in tables and indexes"), None);
    let domain = plan(&["--domain-share", "0.5"]);
    assert_eq!(
        figure(&domain, "on disk after a year"),
        None,
        "never seen here"
    );
}

/// The platform's own tables take space for each event as well: those that a handler may write, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn sluice_plan_counts_the_platforms_own_tables() {
    let scene = Scene::new(1).await;
    let capacity = std::fs::read_to_string(repository().join("sql/capacity.sql"));
    let capacity = capacity.expect("it is there");
    let own = format!(
        "SELECT coalesce(sum(c.table_bytes + c.index_bytes), 0)::bigint FROM (
            {capacity}
        ) c WHERE c.kind = 'domain' AND c.part = 'own rows'"
    );
    assert_eq!(scene.database.count(&own).await, 0, "there are none yet");
    let tables = "
        CREATE SCHEMA platform;
        CREATE TABLE platform.reviews (review_id text PRIMARY KEY, body text NOT NULL);
        CREATE TABLE platform.stars (given_on date NOT NULL, stars integer NOT NULL) PARTITION BY RANGE (given_on);
        CREATE TABLE platform.stars_2026 PARTITION OF platform.stars FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        CREATE TABLE platform.read_only (id text PRIMARY KEY);
        GRANT INSERT (review_id, body) ON platform.reviews TO sluice_handler;
        GRANT SELECT, INSERT ON platform.stars TO sluice_handler;
        GRANT SELECT ON platform.read_only TO sluice_handler;
        INSERT INTO platform.reviews SELECT n::text, 'Good.' FROM generate_series(1, 1000) n;
        INSERT INTO platform.stars SELECT date '2026-11-21', 5 FROM generate_series(1, 1000);
        INSERT INTO platform.read_only SELECT n::text FROM generate_series(1, 1000) n";
    let made = scene.database.client.batch_execute(tables).await;
    made.expect("a superuser may");
    let taken = format!(
        "SELECT ({own}) - pg_total_relation_size('platform.reviews') - pg_total_relation_size('platform.stars_2026')"
    );
    assert_eq!(scene.database.count(&taken).await, 0);
}
