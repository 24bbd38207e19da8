//! The conformance cases, through real Kafka and PostgreSQL.

use std::time::Duration;

use proofs::compare::{Accounts, Source, compare_partition};
use proofs::database::Lines;
use proofs::dead_letters::from_base64;
use proofs::event::amount;
use proofs::json::{self, Json};
use proofs::scene::{STALL, Scene};
use proofs::stack::repository;
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};

struct Case {
    name: String,
    records: Vec<(Message, String, Option<String>)>,
    balances: Vec<(String, i128, i128)>,
}

fn cases() -> Vec<Case> {
    let path = repository().join("tests/conformance/cases.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let Some(Json::Array(cases)) = json::parse(&text) else {
        panic!("cases.json is no array")
    };
    cases.iter().map(case).collect()
}

fn case(case: &Json) -> Case {
    let records = array(field(case, "records")).iter().map(|record| {
        let value = field(record, "value");
        let payload = match value {
            Json::Null => None,
            Json::Object(fields) if fields[0].0 == "text" => {
                Some(string(field(value, "text")).into_bytes())
            }
            _ => Some(from_base64(&string(field(value, "base64")))),
        };
        let reason = Some(field(record, "reason"))
            .filter(|reason| **reason != Json::Null)
            .map(string);
        (
            Message {
                key: Some(b"key".to_vec()),
                payload,
                headers: Vec::new(),
            },
            string(field(record, "verdict")),
            reason,
        )
    });
    let Json::Object(balances) = field(case, "balances") else {
        panic!("balances are no object")
    };
    let units = |json: &Json| amount(&string(json)).expect("an amount");
    let balances = balances.iter().map(|(account, pair)| {
        (
            account.clone(),
            units(&array(pair)[0]),
            units(&array(pair)[1]),
        )
    });
    let mut balances: Vec<_> = balances.collect();
    balances.sort();
    Case {
        name: string(field(case, "name")),
        records: records.collect(),
        balances,
    }
}

fn field<'j>(json: &'j Json, name: &str) -> &'j Json {
    let Json::Object(fields) = json else {
        panic!("not an object: {json:?}")
    };
    fields
        .iter()
        .find(|(key, _)| key == name)
        .map_or_else(|| panic!("{name} is missing"), |(_, value)| value)
}

fn array(json: &Json) -> &[Json] {
    let Json::Array(items) = json else {
        panic!("not an array: {json:?}")
    };
    items
}

fn string(json: &Json) -> String {
    let Json::String(text) = json else {
        panic!("not a string: {json:?}")
    };
    text.clone()
}

/// Cases use the same ids and accounts, so each one meets a ledger that was emptied before it.
async fn run_cases(settings: &[(&str, &str)], batches_of_one: bool) {
    let cases = cases();
    assert_eq!(cases.len(), 39);
    let scene = Scene::new(cases.len() as i32).await;
    let mut ingester = scene.ingester_with(settings);
    for (partition, case) in (0..).zip(&cases) {
        scene.kafka().produce(
            &scene.topic,
            partition,
            case.records.iter().map(|(message, ..)| message.clone()),
        );
        let end = case.records.len() as i64;
        wait_until(
            &format!("case {:?} to be committed", case.name),
            STALL,
            async || {
                scene
                    .database
                    .progress(&scene.topic)
                    .await
                    .get(&partition)
                    .is_some_and(|progress| progress.commit_offset == end)
            },
        )
        .await;
        check_case(&scene, partition, case).await;
        check_batches(&scene, partition, case, batches_of_one).await;
        empty_ledger(&scene).await;
    }
    ingester.stop().await;
}

async fn check_case(scene: &Scene, partition: i32, case: &Case) {
    let name = &case.name;
    let rows = scene
        .database
        .client
        .query(
            "SELECT verdict, reason FROM ledger.event_verdicts WHERE topic = $1 AND partition = $2 ORDER BY kafka_offset",
            &[&scene.topic, &partition],
        )
        .await
        .expect("the view event_verdicts");
    let verdicts: Vec<(String, Option<String>)> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected: Vec<_> = case
        .records
        .iter()
        .map(|(_, verdict, reason)| (verdict.clone(), reason.clone()))
        .collect();
    assert_eq!(verdicts, expected, "verdicts of case {name:?}");

    let mut balances = Vec::new();
    let query = "SELECT account_id || '/' || shard_id || '/' || currency_code, available, frozen FROM ledger.account_balances";
    let mut lines = Lines::of(&scene.database.client, query).await;
    while let Some(line) = lines.next().await {
        let fields: Vec<&str> = line.split('\t').collect();
        balances.push((
            fields[0].to_owned(),
            amount(fields[1]).expect("an amount"),
            amount(fields[2]).expect("an amount"),
        ));
    }
    balances.sort();
    assert_eq!(balances, case.balances, "balances of case {name:?}");

    let (kafka, admin_url) = (scene.kafka().clone(), scene.database.admin_url.clone());
    let report = compare_partition(
        Source::Topic,
        kafka,
        admin_url,
        scene.topic.clone(),
        partition,
        Accounts::OfOnePartition,
        Default::default(),
    )
    .await;
    assert_eq!(
        report.difference_count, 0,
        "case {name:?}: {:?}",
        report.differences
    );
}

/// That the records were indeed cut as this run means to try.
async fn check_batches(scene: &Scene, partition: i32, case: &Case, batches_of_one: bool) {
    let query = format!(
        "SELECT count(DISTINCT created_at) FROM ledger.balance_change_logs WHERE topic = '{}' AND partition = {partition}",
        scene.topic
    );
    let batches = scene.database.count(&query).await;
    if batches_of_one {
        let query = query.replace("DISTINCT created_at", "DISTINCT kafka_offset");
        assert_eq!(
            batches,
            scene.database.count(&query).await,
            "case {:?} in batches of one",
            case.name
        );
    } else {
        assert!(
            batches <= 1,
            "case {:?} in one batch came in {batches}",
            case.name
        );
    }
}

async fn empty_ledger(scene: &Scene) {
    const EMPTY: &str =
        "TRUNCATE ledger.account_balances, ledger.balance_log, ledger.event_identities,
        ledger.verdicts, ledger.event_conflicts, ledger.dead_letters, ledger.dead_letter_actions";
    scene
        .database
        .client
        .batch_execute(EMPTY)
        .await
        .expect("an idle ledger can be emptied");
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_come_out_right_in_one_batch_each() {
    run_cases(
        &[("BATCH_SIZE", "2000"), ("BATCHING_DELAY_MS", "150")],
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_come_out_right_in_batches_of_one() {
    run_cases(&[("BATCH_SIZE", "1"), ("BATCHING_DELAY_MS", "0")], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_between_good_records_is_kept_byte_for_byte_and_hurts_no_neighbour() {
    let scene = Scene::new(1).await;
    let dead: Vec<Message> = cases()
        .into_iter()
        .flat_map(|case| case.records)
        .filter(|(_, verdict, _)| verdict == "DEAD")
        .map(|(message, ..)| Message {
            key: Some(vec![0x00, 0xff]),
            headers: vec![
                ("a".into(), Some(b"text".to_vec())),
                ("a".into(), Some(vec![0xff, 0x00])),
                ("none".into(), None),
            ],
            ..message
        })
        .collect();
    assert!(
        dead.len() > 80,
        "only {} garbage payloads in the cases",
        dead.len()
    );
    let count = dead.len();
    let messages = dead
        .into_iter()
        .enumerate()
        .flat_map(|(number, garbage)| [credit(&format!("before {number}"), 1, "1"), garbage]);
    scene
        .kafka()
        .produce(&scene.topic, 0, messages.chain([credit("last", 1, "1")]));

    let mut ingester = scene.ingester();
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_eq!(
        (report.count("DEAD"), report.count("APPLIED")),
        (count as u64, count as u64 + 1)
    );
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_cutting_into_batches_gives_the_same_ledger() {
    use proofs::workload::Workload;
    let seed = proofs::rng::seed();
    for (size, delay) in [("7", "0"), ("2000", "30"), ("100000", "5")] {
        let scene = Scene::new(2).await;
        scene.fill(&Workload::new(seed), 6_000).await;
        let mut ingester =
            scene.ingester_with(&[("BATCH_SIZE", size), ("BATCHING_DELAY_MS", delay)]);
        // The reference does not know of batches: equal to it means equal to each other.
        proofs::scene::assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
        ingester.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_nearly_a_megabyte_is_no_hindrance() {
    let scene = Scene::new(1).await;
    let padded = |id: &str, len: usize| {
        let good = String::from_utf8(credit(id, 1, "1").payload.expect("a payload")).expect("text");
        Message::of(good.replacen('{', &format!("{{\"padding\":\"{}\",", "x".repeat(len)), 1))
    };
    let garbage = Message::of(vec![b'['; 900_000]);
    scene.kafka().produce(
        &scene.topic,
        0,
        [
            credit("a", 1, "1"),
            padded("b", 900_000),
            garbage,
            credit("c", 1, "1"),
        ],
    );
    let mut ingester = scene.ingester();
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_eq!((report.count("APPLIED"), report.count("DEAD")), (3, 1));
    ingester.stop().await;
    assert!(ingester.ended(Duration::from_secs(1)).await.success());
}
