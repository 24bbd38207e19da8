//! What somebody who publishes events is offered: schemas of the records of the core, and a check without Kafka and
//! PostgreSQL that judges as the product does.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use proofs::dead_letters::from_base64;
use proofs::families::schema::Validator;
use proofs::kafka::Record;
use proofs::scene::{STALL, Scene};
use proofs::stack::{Stack, repository, sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
use serde_json::{Map, Value, json};

/// What `sluice events` prints.
fn printed(arguments: &[&str]) -> String {
    let command = [&["events"], arguments].concat();
    let output = sluice_command(&command, &[]).output().expect("sluice");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn schema(name: &str) -> Value {
    printed(&["schema", name]).parse().expect("JSON")
}

fn validator(name: &str) -> Validator {
    Validator::of(name, schema(name))
}

/// `sluice events check` in a folder, with something on its standard input.
fn check(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command: Command = sluice_command(&[&["events", "check"], arguments].concat(), &[]);
    let mut child = command
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sluice");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn conformance() -> Vec<Value> {
    let path = repository().join("tests/conformance/cases.json");
    let text = std::fs::read(path).expect("the cases");
    serde_json::from_slice(&text).expect("JSON")
}

fn payload(record: &Value) -> Option<Vec<u8>> {
    let value = &record["value"];
    let text = value["text"].as_str().map(|text| text.as_bytes().to_vec());
    text.or_else(|| value["base64"].as_str().map(from_base64))
}

/// Dead records and conflicts of identities are found; what depends on a balance is not, and is no reason to refuse.
#[test]
fn what_is_checked_before_it_is_sent_is_judged_as_when_it_arrives() {
    let folder = Stack::get().dir.join(unique("check"));
    std::fs::create_dir(&folder).expect("a folder");
    let (mut refused_count, mut accepted_count) = (0, 0);
    for case in conformance() {
        let mut expected = Vec::new();
        let mut files = Vec::new();
        for record in case["records"].as_array().expect("records") {
            // A file has no tombstones, and no empty records.
            let Some(payload) = payload(record).filter(|payload| !payload.trim_ascii().is_empty())
            else {
                continue;
            };
            let file = format!("{}.json", files.len());
            std::fs::write(folder.join(&file), payload).expect("a file");
            let reason = record["reason"].as_str().unwrap_or_default();
            if record["verdict"] == "DEAD" || reason == "EVENT_ID_CONFLICT" {
                expected.push((file.clone(), reason.to_owned()));
            } else {
                accepted_count += 1;
            }
            files.push(file);
        }
        if files.is_empty() {
            continue;
        }
        let options = ["--type", "balance.changed", "--output", "jsonl"];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let output = check(&folder, &[&options, files.as_slice()].concat(), b"");
        let told = String::from_utf8(output.stdout).expect("text");
        let mut found: Vec<(String, String)> = told
            .lines()
            .map(|line| {
                let row: Value = line.parse().expect("JSON");
                let text = |name: &str| row[name].as_str().expect("a text").to_owned();
                assert!(!text("message").is_empty() && !text("advice").is_empty());
                (text("file"), text("reason"))
            })
            .collect();
        // A text that is cut off may end before a line that is an event of its own.
        found.dedup_by(|later, earlier| later.0 == earlier.0);
        assert_eq!(found, expected, "{}", case["name"]);
        let status = i32::from(!expected.is_empty());
        assert_eq!(output.status.code(), Some(status), "{}", case["name"]);
        refused_count += expected.len();
    }
    assert!(refused_count > 30 && accepted_count > 50);
}

/// Exit status 1 with place, event, reason and what to change; 2 where there is nothing to check.
#[test]
fn a_refusal_tells_the_line_the_event_the_reason_and_what_to_change() {
    let folder = Stack::get().dir.join(unique("check"));
    std::fs::create_dir(&folder).expect("a folder");
    let sample = printed(&["sample", "balance.changed"]);
    let user = printed(&["sample", "user.created"]);
    let misspelt = sample
        .replace("-0000", "-1111")
        .replace("availableDelta", "availabelDelta");
    let output = check(
        &folder,
        &["-"],
        format!("{sample}{misspelt}{user}").as_bytes(),
    );
    let told = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{told}");
    let line = "stdin:2: event 0193f2a0-6b1e-7c44-9d2f-111100000101: INVALID_EVENT: data.changes[0] has the field \"availabelDelta\"";
    let is_there = |part: &str| assert!(told.contains(part), "{part}: {told}");
    is_there(line);
    is_there("`sluice events schema balance.changed`");
    is_there("3 events, 1 refused; can be decoded: 1 balance.changed, 1 user.created.");
    is_there("only the database can tell");

    let pretty: Value = sample.parse().expect("JSON");
    let pretty = serde_json::to_string_pretty(&pretty).expect("JSON");
    std::fs::write(folder.join("good.json"), pretty).expect("a file");
    let output = check(&folder, &["good.json"], b"");
    assert!(output.status.success(), "{output:?}");
    for (arguments, words) in [
        (&["absent.json"][..], "absent.json: cannot be read"),
        (&["-"], "stdin: no event"),
    ] {
        let output = check(&folder, arguments, b"\n");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8(output.stderr).expect("text");
        assert!(told.contains(words), "{told}");
    }
}

/// A schema cannot see that a field is given twice, how many bytes a text has, how a number was written, or that a text
/// is not the JSON that the contract asks for.
#[test]
fn the_schema_of_balance_events_takes_what_the_decoder_takes_and_refuses_what_it_refuses() {
    let validator = validator("balance.changed");
    let (mut taken, mut refused) = (0, Vec::new());
    for case in conformance() {
        for record in case["records"].as_array().expect("records") {
            let Some(payload) = payload(record) else {
                continue;
            };
            let Ok(event) = serde_json::from_slice::<Value>(&payload) else {
                continue;
            };
            let refusal = validator.refusal(&event);
            if record["verdict"] != "DEAD" {
                assert_eq!(refusal, None, "{}: {event}", case["name"]);
                taken += 1;
            } else if refusal.is_some() {
                refused.push(record["reason"].as_str().expect("a reason").to_owned());
            }
        }
    }
    assert!(taken > 50, "{taken}");
    for reason in ["INVALID_EVENT", "INVALID_AMOUNT", "UNKNOWN_EVENT_TYPE"] {
        assert!(refused.iter().any(|found| found == reason), "{reason}");
    }
    let event: Value = printed(&["sample", "balance.changed"])
        .parse()
        .expect("JSON");
    for (change, is_good) in [
        (json!({"currencyCode": "USD", "frozenDelta": "1"}), true),
        (
            json!({"currencyCode": "USD", "availableDelta": null, "frozenDelta": 1}),
            true,
        ),
        (json!({"currencyCode": "USD"}), false),
        (
            json!({"currencyCode": "USD", "availableDelta": null}),
            false,
        ),
        (json!({"currencyCode": "USD", "availabelDelta": "1"}), false),
        (
            json!({"currencyCode": "USD", "availableDelta": "1", "note": "x"}),
            false,
        ),
        (json!({"currencyCode": "usd", "availableDelta": "1"}), false),
        (
            json!({"currencyCode": "USD", "availableDelta": "1e3"}),
            false,
        ),
    ] {
        let mut event = event.clone();
        event["data"]["changes"] = json!([change]);
        assert_eq!(validator.refusal(&event).is_none(), is_good, "{change}");
    }
}

/// A dead letter as its schema describes it.
fn letter(record: &Record) -> Value {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let headers: Map<String, Value> = record
        .message
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), json!(value.as_ref().map(text))))
        .collect();
    json!({
        "key": record.message.key.as_ref().map(text), "payload": record.message.payload.as_ref().map(text),
        "headers": headers,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_dead_letters_are_as_their_schemas_say() {
    for name in ["balance.changed", "result", "dead-letter"] {
        let schema = schema(name);
        assert!(
            schema["$id"].as_str().is_some_and(|id| id.ends_with(name)),
            "{name}"
        );
        let sample: Value = printed(&["sample", name]).parse().expect("JSON");
        assert_eq!(
            validator(name).refusal(&sample),
            None,
            "the sample of {name}"
        );
        let listed = printed(&["list"]);
        assert!(
            listed
                .lines()
                .any(|line| line.split_whitespace().next() == Some(name)),
            "{listed}"
        );
    }
    let scene = Scene::new(1).await;
    let (letters, results) = (unique("letters"), unique("results"));
    for topic in [&letters, &results] {
        scene.kafka().create_topic(topic, 1, &[]).await;
    }
    let settings = [
        ("DLQ_TOPIC", letters.as_str()),
        ("RESULTS_TOPIC", &results),
        ("RESULTS_KEY", "account"),
    ];
    let mut ingester = scene.ingester_with(&settings);
    let mut keyed = Message::of("{");
    keyed.key = Some(b"42".to_vec());
    keyed.headers = vec![("traceparent".to_owned(), Some(b"00".to_vec()))];
    let sample = printed(&["sample", "balance.changed"]);
    let records = [
        credit("e-1", 42, "100"),
        credit("e-1", 42, "100"),
        credit("e-1", 42, "200"),
        credit("e-2", 42, "-200"),
        credit("e-3", 42, "1e3"),
        Message::of(sample.trim_end()),
        Message::default(),
        keyed,
    ];
    let count = records.len();
    scene.kafka().produce(&scene.topic, 0, records);
    wait_until("all to be told", STALL, async || {
        let ends = [&results, &letters].map(|topic| scene.kafka().ends(topic, 1)[0]);
        ends == [count as i64, 3]
    })
    .await;
    ingester.stop().await;
    let schema = validator("result");
    let mut verdicts = Vec::new();
    for record in scene.kafka().read(&results, 0) {
        let payload = record.message.payload.expect("a result");
        let result: Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!(schema.refusal(&result), None, "{result}");
        let verdict = result["verdict"].as_str().expect("a verdict").to_owned();
        assert_eq!(result["eventType"], "balance.changed");
        let says_why = result["message"]
            .as_str()
            .is_some_and(|words| !words.is_empty());
        assert_eq!(says_why, verdict == "DEAD", "{result}");
        // By the account, which of a dead record is its key, if it has one.
        let key = record
            .message
            .key
            .map(|key| String::from_utf8_lossy(&key).into_owned());
        let has_account = verdict == "APPLIED" || verdict == "REJECTED" || result["offset"] == 7;
        let otherwise = format!("{}/0", scene.topic);
        assert_eq!(
            key.as_deref(),
            Some(if has_account { "42" } else { &otherwise }),
            "{result}"
        );
        verdicts.push(verdict);
    }
    let expected = [
        "APPLIED",
        "DUPLICATE",
        "REJECTED",
        "REJECTED",
        "DEAD",
        "REJECTED",
        "DEAD",
        "DEAD",
    ];
    assert_eq!(verdicts, expected);
    let schema = validator("dead-letter");
    for record in scene.kafka().read(&letters, 0) {
        let letter = letter(&record);
        assert_eq!(schema.refusal(&letter), None, "{letter}");
    }
    for topic in [&letters, &results] {
        scene.kafka().delete_topic(topic).await;
    }
    scene.verify_invariants().await;
}

/// A user as the handler of user.created takes it, or without what it needs.
fn user(event_id: &str, name: &str) -> String {
    format!(
        r#"{{"eventId":"{event_id}","eventType":"user.created","data":{{"userId":"{event_id}",{name}"email":"a@example.org","role":"USER"}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_tried_on_events_and_nothing_of_it_stays() {
    let scene = Scene::new(1).await;
    let (address, operator) = scene.operator().await;
    let client = &scene.database.client;
    let named = r#""username":"ada","#;
    let events = [user("u-1", named), user("u-2", ""), user("u-1", named)].join("\n");
    let try_them = |event_type: &str, input: &str| {
        let environment = [("ADMIN_DATABASE_URL", address.as_str())];
        let mut child = sluice_command(&["events", "try", event_type, "-"], &environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sluice");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let told =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
        (output.status.code(), told.concat())
    };
    let (status, told) = try_them("user.created", &events);
    assert_eq!(status, Some(1), "{told}");
    for part in [
        "HANDLER_FAILED",
        r#"event u-2: field "username" is required"#,
        "DUPLICATE",
        "domain.users {",
        r#""user_id":"u-1""#,
        "Rolled back",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let verdicts: Vec<Vec<&str>> = told
        .lines()
        .filter(|line| line.trim_start().starts_with("stdin:"))
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    let expected = [
        ["stdin:1", "u-1", "APPLIED"],
        ["stdin:2", "u-2", "DEAD"],
        ["stdin:3", "u-1", "DUPLICATE"],
    ];
    assert_eq!(verdicts, expected);
    let (status, told) = try_them("user.created", &user("u-3", named));
    assert_eq!(status, Some(0), "{told}");
    // What cannot be decoded does not get as far.
    let (status, told) = try_them(
        "user.created",
        r#"{"eventId":"u-4","eventType":"user.created","data":{"a":1,"a":2}}"#,
    );
    assert_eq!(status, Some(1), "{told}");
    assert!(
        told.contains("data.a") && told.contains("nothing was tried"),
        "{told}"
    );
    for (event_type, words) in [
        ("review.written", "register_handler"),
        ("balance.changed", "apply_balance_changes"),
    ] {
        let event = match event_type {
            "balance.changed" => printed(&["sample", event_type]),
            _ => r#"{"eventId":"x","eventType":"review.written","data":{}}"#.to_owned(),
        };
        let (status, told) = try_them(event_type, &event);
        assert_eq!(status, Some(1), "{told}");
        assert!(told.contains(words), "{words}: {told}");
    }

    // The same in SQL; a change of a row that is there is undone, too, and so is a deletion.
    client
        .batch_execute(
            "CREATE TABLE domain.x_notes (id text PRIMARY KEY, body text);
             GRANT SELECT, INSERT, UPDATE, DELETE ON domain.x_notes TO sluice_handler;
             INSERT INTO domain.x_notes VALUES ('old', 'as it was'), ('gone', NULL);
             CREATE FUNCTION domain.x_on_note(events domain.event[]) RETURNS void LANGUAGE sql AS $$
                 INSERT INTO domain.x_notes SELECT e.data ->> 'id', e.data ->> 'body' FROM unnest(events) e
                 ON CONFLICT (id) DO UPDATE SET body = excluded.body;
                 DELETE FROM domain.x_notes WHERE id = 'gone'
             $$;
             SELECT sluice.register_handler('note.written', 'domain.x_on_note')",
        )
        .await
        .expect("a handler");
    let note = |id: &str| json!({"eventId": id, "eventType": "note.written", "data": {"id": id, "body": "new"}});
    let both = json!([note("old"), note("fresh")]).to_string();
    let tried = format!(
        "SET ROLE {operator};
         SELECT coalesce(nth || ' ' || event_id || ' ' || verdict, relation || ' ' || coalesce(written::text, message))
         FROM sluice.try_handler('note.written', '{both}');
         RESET ROLE"
    );
    let answers = client.simple_query(&tried).await.expect("it may");
    let answers: Vec<String> = answers
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect();
    let expected = [
        "1 old APPLIED",
        "2 fresh APPLIED",
        r#"domain.x_notes {"id": "old", "body": "new"}"#,
        r#"domain.x_notes {"id": "fresh", "body": "new"}"#,
        "domain.x_notes 1 rows deleted",
    ];
    let mut sorted = (answers.clone(), expected.map(str::to_owned).to_vec());
    sorted.0.sort();
    sorted.1.sort();
    assert_eq!(sorted.0, sorted.1);
    let notes = "SELECT count(*) FROM domain.x_notes WHERE body IS DISTINCT FROM 'new'";
    assert_eq!(scene.database.count(notes).await, 2);
    for table in [
        "domain.users",
        "ledger.event_identities",
        "ledger.verdicts",
        "ledger.dead_letters",
    ] {
        let rows = format!("SELECT count(*) FROM {table}");
        assert_eq!(scene.database.count(&rows).await, 0, "{table}");
    }
    scene.verify_invariants().await;
}
