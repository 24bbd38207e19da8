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
            listed.lines().any(|line| line.starts_with(name)),
            "{listed}"
        );
    }
    let scene = Scene::new(1).await;
    let (letters, results) = (unique("letters"), unique("results"));
    for topic in [&letters, &results] {
        scene.kafka().create_topic(topic, 1, &[]).await;
    }
    let settings = [("DLQ_TOPIC", letters.as_str()), ("RESULTS_TOPIC", &results)];
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
        verdicts.push(result["verdict"].as_str().expect("a verdict").to_owned());
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
