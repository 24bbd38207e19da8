//! What an SRE looks at: `sluice check` for people and for programs, and tables that fit a terminal of 80 columns.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use proofs::database::Database;
use proofs::scene::{STALL, Scene};
use proofs::stack::{Login, sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
use serde_json::Value;

/// A login of its own, a member of `sluice_writer`, and its address.
async fn login(scene: &Scene, connections: i32) -> String {
    let login = Login {
        user: unique("ingester"),
        password: unique("secret"),
    };
    let Login { user, password } = &login;
    let made = format!(
        "CREATE ROLE {user} LOGIN PASSWORD '{password}' CONNECTION LIMIT {connections}; GRANT sluice_writer TO {user}"
    );
    let client = &scene.database.client;
    client.batch_execute(&made).await.expect("a superuser may");
    scene
        .stack
        .url(&login, scene.stack.postgres_port, &scene.database.name)
}

/// Exit status, findings as JSON by their names.
fn check(scene: &Scene, settings: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let (status, text) = said(scene, &["check", "-o", "json"], settings);
    (status, serde_json::from_str(&text).expect("JSON"))
}

fn said(scene: &Scene, arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut environment = vec![
        ("DATABASE_URL", scene.database.url.as_str()),
        ("ADMIN_DATABASE_URL", scene.database.admin_url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
        ("BALANCE_TOPICS", &scene.topic),
        ("DLQ_TOPIC", ""),
    ];
    environment.retain(|(name, _)| settings.iter().all(|(another, _)| another != name));
    environment.extend(settings);
    let output = sluice_command(arguments, &environment).output();
    let output = output.expect("sluice runs");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.code(), text)
}

fn finding<'f>(findings: &'f [Value], what: &str) -> &'f Value {
    let found = findings.iter().find(|finding| finding["check"] == what);
    found.unwrap_or_else(|| panic!("no look at {what}: {findings:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_programs_what_it_found_and_what_to_change() {
    let scene = Scene::new(1).await;
    let (operator, _) = scene.operator().await;
    let settings = [
        ("OPERATOR_DATABASE_URL", operator.as_str()),
        // Optional: it is done without.
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("DLQ_TOPIC", "letters.that.nobody.has.made"),
        ("BATCHSIZE", "10"),
    ];
    let (status, findings) = check(&scene, &settings);
    assert_eq!(status, Some(0), "{findings:#?}");
    for (what, verdict) in [
        ("PostgreSQL", "ok"),
        ("sessions", "ok"),
        ("role of the server", "ok"),
        ("functions, views, triggers, columns, grants", "ok"),
        ("connections", "ok"),
        ("huge pages", "ok"),
        ("publications", "ok"),
        ("clocks", "ok"),
        ("operator's login", "ok"),
        ("operator's sessions", "ok"),
        ("role sluice_admin", "ok"),
        ("operator's database", "ok"),
        ("dead letter topic letters.that.nobody.has.made", "warn"),
        ("Redis", "warn"),
        ("variable BATCHSIZE", "warn"),
    ] {
        let found = finding(&findings, what);
        assert_eq!(found["verdict"], verdict, "{found}");
        assert_eq!(found["advice"].is_string(), verdict != "ok", "{found}");
    }
    // A login that is let into another database with a Sluice, as all are unless somebody takes that away.
    let other = Database::create(&scene.stack).await;
    assert_eq!(finding(&check(&scene, &[]).1, "login")["verdict"], "note");
    drop(other);

    let published = "CREATE PUBLICATION everything FOR TABLES IN SCHEMA ledger";
    let client = &scene.database.client;
    client
        .batch_execute(published)
        .await
        .expect("a superuser may");
    let few = login(&scene, 6).await;
    let writer = scene.database.url.as_str();
    let settings = [
        ("DATABASE_URL", few.as_str()),
        ("OPERATOR_DATABASE_URL", writer),
    ];
    let (status, findings) = check(&scene, &settings);
    assert_eq!(status, Some(1));
    for (what, verdict, advice) in [
        ("connections", "fail", "DB_POOL_SIZE"),
        ("publications", "note", "event_identities"),
        ("role sluice_admin", "fail", "GRANT sluice_admin TO"),
    ] {
        let found = finding(&findings, what);
        assert_eq!(found["verdict"], verdict, "{found}");
        assert!(
            found["advice"].as_str().expect("some").contains(advice),
            "{found}"
        );
    }
}

/// An ingester of another database that works with the same login is told apart from a right that nobody uses.
#[tokio::test(flavor = "multi_thread")]
async fn check_notices_a_login_of_another_databases_sluice() {
    let (one, other) = (Scene::new(1).await, Scene::new(1).await);
    let url = login(&one, -1).await;
    let elsewhere = url.replace(&one.database.name, &other.database.name);
    let mut ingester = other.ingester_with(&[("DATABASE_URL", &elsewhere)]);
    wait_until("the other one to work", STALL, async || {
        let (_, findings) = check(&one, &[("DATABASE_URL", &url)]);
        let found = finding(&findings, "login");
        found["verdict"] == "warn"
            && found["found"]
                .as_str()
                .is_some_and(|text| text.contains(&other.database.name))
    })
    .await;
    ingester.stop().await;
}

/// Two topics with long names, of which one partition is paused, and dead letters.
async fn long_names(scene: &Scene) -> String {
    let long = unique("a.topic.whose.name.is.as.long.as.those.that.platforms.give");
    scene.kafka().create_topic(&long, 12, &[]).await;
    for partition in 0..12 {
        let event = credit(&format!("e{partition}"), 1, "1");
        scene
            .kafka()
            .produce(&long, partition, [event, Message::of("no event")]);
    }
    let topics = format!("{},{long}", scene.topic);
    let mut ingester = scene.ingester_with(&[("BALANCE_TOPICS", &topics), ("DLQ_TOPIC", "")]);
    scene
        .database
        .caught_up(scene.kafka(), &long, 12, STALL)
        .await;
    let paused = format!("{long}/7");
    let (status, _) = said(
        scene,
        &["pause", &paused, "--why", "somebody looks at its accounts"],
        &[],
    );
    assert_eq!(status, Some(0));
    wait_until("the states to be told", STALL, async || {
        let (_, text) = said(scene, &["status", "-o", "json"], &[]);
        let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        rows.iter().filter(|row| row["state"] == "running").count() == 12
    })
    .await;
    ingester.stop().await;
    long
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_80_columns_and_break_no_word() {
    const NARROW: [(&str, &str); 2] = [("COLUMNS", "80"), ("LINES", "8")];
    let scene = Scene::new(1).await;
    let long = long_names(&scene).await;
    let (_, operator) = scene.operator().await;
    for (arguments, rows) in [
        (&["status"][..], 14),
        (&["status", "--troubled"], 14),
        (&["partitions"], 14),
        (&["dlq", "list"], 13),
        (&["dlq", "stats"], 2),
        (&["prune", "--topic", &long], 13),
        (&["events", "find", "e3"], 0),
        (&["check"], 0),
    ] {
        let (_, text) = said(&scene, arguments, &NARROW);
        let wide = |line: &&str| line.chars().count() > 80;
        assert_eq!(text.lines().find(wide), None, "{arguments:?}:\n{text}");
        assert!(!text.is_empty(), "{arguments:?}");
        if rows > 0 {
            assert_eq!(
                text.lines().count(),
                rows,
                "a row is a line: {arguments:?}:\n{text}"
            );
            assert!(text.contains('…'), "{arguments:?}:\n{text}");
        }
        // In full, where that is asked for.
        let wide = [arguments, &["-o", "wide"]].concat();
        let (_, text) = said(&scene, &wide, &NARROW);
        assert!(
            arguments[0] == "check" || text.contains(&long),
            "{wide:?}:\n{text}"
        );
    }
    // What waits for a person stands on top: a paused partition among those without a leader, before the order of names.
    let (_, text) = said(&scene, &["status", "--state", "paused", "-o", "wide"], &[]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.contains(&format!("{long}/7")) && text.contains("somebody looks"),
        "{text}"
    );
    assert!(!text.contains(&operator));

    // As many rows as the terminal has, and a line about the rest.
    let environment = [
        ("ADMIN_DATABASE_URL", scene.database.admin_url.as_str()),
        NARROW[0],
        NARROW[1],
    ];
    let mut watching = sluice_command(&["status", "--watch"], &environment)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sluice runs");
    let stdout = BufReader::new(watching.stdout.take().expect("piped"));
    let lines: Vec<String> = stdout
        .lines()
        .take(7)
        .map(|line| line.expect("text"))
        .collect();
    watching.kill().expect("a child of ours");
    watching.wait().expect("it ends");
    assert!(
        lines[6].starts_with("… and 8 more: show them by --topic"),
        "{lines:#?}"
    );
    scene.kafka().delete_topic(&long).await;
}
