//! What the page asks for to find letters and events, and the jobs that work on all letters that match.

use std::time::Duration;

use proofs::database::Database;
use proofs::ingester::Ingester;
use proofs::scene::{STALL, Scene};
use proofs::wait::wait_until;
use proofs::workload::Message;
use serde_json::{Value, json};

use super::page::{TOKEN, get, post};

async fn instance(scene: &Scene) -> Ingester {
    let (operator_url, _) = scene.operator().await;
    scene.ingester_with(&[
        ("ADMIN_TOKEN", TOKEN),
        ("OPERATOR_DATABASE_URL", &operator_url),
    ])
}

/// Letters of events without data, with keys, and one that is no JSON.
async fn letters(scene: &Scene, count: i64) {
    let incomplete = |n: i64| Message {
        key: Some(format!("key-{n}").into_bytes()),
        ..Message::of(format!(
            r#"{{"eventId":"Broken-{n}","eventType":"balance.changed","source":"wallet"}}"#
        ))
    };
    let messages = (0..count).map(incomplete).chain([Message::of("{")]);
    scene
        .kafka()
        .produce(&scene.topic, 0, messages.collect::<Vec<_>>());
    scene.caught_up().await;
}

/// As if somebody had corrected all of them.
async fn correct(scene: &Scene) {
    let corrected = r#"
        UPDATE ledger.dead_letters SET retry_payload = convert_to(format(
            '{"eventId":"%s","eventType":"balance.changed","source":"wallet","data":{"accountId":9007199254740993,"changes":[{"currencyCode":"USD","availableDelta":"1.50"}]}}',
            event_id), 'UTF8')
        WHERE error_code = 'INVALID_EVENT'"#;
    let client = &scene.database.client;
    client
        .batch_execute(corrected)
        .await
        .expect("a superuser may");
}

async fn count(scene: &Scene, status: &str) -> i64 {
    let count = format!("SELECT count(*) FROM ledger.dead_letters WHERE status = '{status}'");
    scene.database.count(&count).await
}

/// The ids and the counts of a page.
async fn page(ingester: &Ingester, query: &str) -> (Vec<i64>, i64, i64) {
    let (status, answer) = get(ingester, &format!("/api/dead-letters?{query}")).await;
    assert_eq!(status, 200, "{answer}");
    let letters = answer["letters"].as_array().expect("letters").iter();
    let ids = letters.map(|letter| letter["id"].as_i64().expect("an id"));
    let count = |name: &str| answer[name].as_i64().expect("a count");
    (ids.collect(), count("matching"), count("newer"))
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_found_by_event_key_reason_and_time_page_by_page() {
    let scene = Scene::new(1).await;
    let mut ingester = instance(&scene).await;
    letters(&scene, 9).await;
    let all: Vec<i64> = (1..=10).rev().collect();
    assert_eq!(page(&ingester, "").await, (all.clone(), 10, 0));
    assert_eq!(page(&ingester, "limit=4").await, (all[..4].to_vec(), 10, 0));
    let second = (all[4..8].to_vec(), 10, 4);
    assert_eq!(page(&ingester, "limit=4&before=7").await, second);
    assert_eq!(page(&ingester, "limit=4&after=2").await, second);
    let last = (all[8..].to_vec(), 10, 8);
    assert_eq!(page(&ingester, "limit=4&before=3").await, last);
    for (query, found) in [
        ("event_id=Broken-3", &[4][..]),
        ("event_id=broken-3", &[]),
        ("key=key-3", &[4]),
        ("text=broken-3", &[4]),
        ("text=KEY-3", &[]),
        ("text=key-3", &[4]),
        ("text=%25", &[]),
        ("code=MALFORMED_JSON", &[10]),
        ("code=MALFORMED_JSON&text=broken", &[]),
        ("since=2099-01-01", &[]),
        ("until=2001-01-01T00:00Z", &[]),
        ("status=REPLAYED", &[]),
    ] {
        let (ids, matching, newer) = page(&ingester, query).await;
        assert_eq!(ids, found, "{query}");
        assert_eq!((matching, newer), (found.len() as i64, 0), "{query}");
    }
    let (ids, ..) = page(&ingester, "text=data&since=2001-01-01&until=2099-01-01").await;
    assert_eq!(ids, all[1..], "by the words of the reason");

    // What is misspelt must not look like no filter.
    for (path, told) in [
        ("dead-letters?statsu=PARKED", "unknown parameter \"statsu\""),
        ("dead-letters?status=parked", "\"parked\" is none of PARKED"),
        ("dead-letters?topic=a&topic=b", "\"topic\" is given twice"),
        ("dead-letters?limit=201", "limit: must be 1 to 200"),
        ("dead-letters?before=x", "before: \"x\" is no whole number"),
        ("dead-letters?before=1&after=2", "give one of them"),
        ("dead-letters?since=yesteryear", "yesteryear"),
        ("dead-letters/1?status=PARKED", "there is none"),
        ("state?partition=1", "there is none"),
        ("jobs?id=1", "there is none"),
        ("events?id=1", "known are event_id, source"),
        ("events", "event_id: say which event"),
    ] {
        let (status, answer) = get(&ingester, &format!("/api/{path}")).await;
        assert_eq!(status, 400, "{path}: {answer}");
        let error = answer["error"].as_str().expect("an error");
        assert!(error.contains(told), "{path}: {error}");
    }
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_money_and_moves_none_and_an_event_is_found_without_its_source() {
    let scene = Scene::new(1).await;
    let mut ingester = instance(&scene).await;
    letters(&scene, 2).await;
    correct(&scene).await;
    let moved = "SELECT count(*) FROM ledger.account_balances";
    let actions = "SELECT count(*) FROM ledger.dead_letter_actions";
    let ask = json!({"ids": [1, 2, 3]});
    let (status, tried) = post(&ingester, "/api/dead-letters/replay", &ask).await;
    assert_eq!(status, 200, "{tried}");
    // In digits, however many an account's id has.
    let change = json!([{
        "account_id": "9007199254740993", "shard_id": 0, "currency_code": "USD",
        "available_delta": "1.5", "frozen_delta": "0", "available_after": "3", "frozen_after": "0",
    }]);
    assert_eq!(tried["outcomes"][1]["changes"], change, "{tried}");
    assert_eq!(tried["outcomes"][2]["changes"], json!([]));
    assert_eq!(count(&scene, "PARKED").await, 3);
    assert_eq!(scene.database.count(moved).await, 0);
    assert_eq!(scene.database.count(actions).await, 0);

    // Who goes away in the middle leaves nothing behind on the session that the next one gets.
    let lock = "SELECT FROM ledger.dead_letters WHERE id = 1 FOR UPDATE";
    let mut blocker = scene.database.session().await;
    let transaction = blocker.transaction().await.expect("a transaction");
    transaction.batch_execute(lock).await.expect("a lock");
    let gone = tokio::time::timeout(
        Duration::from_millis(500),
        post(&ingester, "/api/dead-letters/replay", &ask),
    );
    assert!(gone.await.is_err(), "it waits for the lock");
    transaction.rollback().await.expect("a rollback");
    // As soon as the dry run has got its lock and has done its work.
    let works = "SELECT count(*) FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE '%replay_dead_letters%' AND pid <> pg_backend_pid()";
    wait_until("the dry run to end", STALL, async || {
        scene.database.count(works).await == 0
    })
    .await;
    let real = json!({"ids": [1], "dry_run": false, "by": "ann", "why": "mended"});
    let (_, done) = post(&ingester, "/api/dead-letters/replay", &real).await;
    assert_eq!(done["outcomes"][0]["changes"][0]["available_after"], "1.5");
    assert_eq!(scene.database.count(moved).await, 1);
    assert_eq!(count(&scene, "PARKED").await, 2, "the dry run is undone");

    let found = async |query: &str| {
        let (status, answer) = get(&ingester, &format!("/api/events?{query}")).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let records = found("event_id=Broken-0&source=wallet").await["records"].clone();
    assert_eq!(records[0]["verdict"], "APPLIED", "{records}");
    assert_eq!(records[0]["dead_letter"]["status"], "REPLAYED");
    let changes = &records[0]["changes"][0];
    assert_eq!(changes["account_id"], "9007199254740993");
    let answer = found("event_id=Broken-0").await;
    assert_eq!(answer["records"][0]["source"], "wallet", "{answer}");
    assert_eq!(answer["records"][0]["changes"], records[0]["changes"]);
    let other = found("event_id=Broken-0&source=other").await;
    assert_eq!(other["records"], json!([]));
    assert_eq!(other["dead_letters"][0]["id"], 1, "by its id alone");
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_works_on_all_that_match_is_stopped_goes_on_and_is_undone() {
    const LETTERS: i64 = 450;
    let scene = Scene::new(1).await;
    let mut ingester = instance(&scene).await;
    letters(&scene, LETTERS).await;
    correct(&scene).await;
    let begin = async |body: Value| post(&ingester, "/api/jobs", &body).await;
    let job = async |id: &Value| get(&ingester, &format!("/api/jobs/{id}")).await.1;
    let ended = async |id: &Value| {
        let mut told = Value::Null;
        wait_until("the job to end", STALL, async || {
            told = job(id).await;
            !told["ended_ms"].is_null()
        })
        .await;
        told
    };
    let by = json!({"by": "ann", "why": "mended"});
    for (body, expected, part) in [
        (
            json!({"action": "drop", "all": true}),
            400,
            "\"drop\" is none of",
        ),
        (json!({"action": "replay"}), 400, "say which letters"),
        (
            json!({"action": "replay", "filter": {"cod": "X"}}),
            422,
            "cod",
        ),
        (
            json!({"action": "replay", "all": true, "dry_run": false}),
            400,
            "by: ",
        ),
    ] {
        let (status, answer) = begin(body).await;
        assert_eq!(status, expected, "{answer}");
        assert!(
            answer["error"].as_str().expect("words").contains(part),
            "{answer}"
        );
    }

    // Dry: all of them are tried, and none is changed.
    let filter = json!({"code": "INVALID_EVENT"});
    let (status, dry) = begin(json!({"action": "replay", "filter": filter})).await;
    assert_eq!(status, 200, "{dry}");
    let dry = ended(&dry["id"]).await;
    assert_eq!(
        (&dry["state"], &dry["total"]),
        (&json!("done"), &json!(LETTERS))
    );
    assert_eq!(dry["verdicts"], json!({"APPLIED": LETTERS}));
    assert_eq!(count(&scene, "REPLAYED").await, 0);

    // Stopped while it waits for a letter of its second chunk: what was done stays done.
    let mut blocker = scene.database.session().await;
    let transaction = blocker.transaction().await.expect("a transaction");
    let lock = "SELECT FROM ledger.dead_letters WHERE id = 150 FOR UPDATE";
    transaction.batch_execute(lock).await.expect("a lock");
    let order = json!({"action": "replay", "filter": filter, "dry_run": false, "by": "ann", "why": "mended"});
    let (_, begun) = begin(order.clone()).await;
    wait_until("the first chunk to be done", STALL, async || {
        job(&begun["id"]).await["seen"] == 100
    })
    .await;
    let stop = format!("/api/jobs/{}/stop", begun["id"]);
    assert_eq!(post(&ingester, &stop, &by).await.1["state"], "stopping");
    transaction.rollback().await.expect("a rollback");
    let stopped = ended(&begun["id"]).await;
    assert_eq!(
        (&stopped["state"], &stopped["seen"]),
        (&json!("stopped"), &json!(200))
    );
    assert_eq!(count(&scene, "REPLAYED").await, 200);
    // The page tells of it whoever looks, and the same job goes on with the rest.
    let (_, state) = get(&ingester, "/api/state").await;
    assert_eq!(state["jobs"][0], stopped);
    let (_, begun) = begin(order).await;
    let done = ended(&begun["id"]).await;
    assert_eq!(
        (&done["state"], &done["seen"]),
        (&json!("done"), &json!(LETTERS - 200))
    );
    let balance = "SELECT (available * 10)::bigint FROM ledger.account_balances";
    assert_eq!(scene.database.count(balance).await, 15 * LETTERS);
    let recorded = "SELECT count(*) FROM ledger.dead_letter_actions WHERE action = 'REPLAY' AND why = 'mended (ann)'";
    assert_eq!(scene.database.count(recorded).await, LETTERS);

    // A discard of all, and that undone.
    let (_, begun) = begin(json!({"action": "discard", "all": true, "dry_run": false, "by": "bob", "why": "test data"})).await;
    let done = ended(&begun["id"]).await;
    assert_eq!(
        (&done["done"], &done["can_be_undone"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(count(&scene, "DISCARDED").await, 1);
    let undo = format!("/api/jobs/{}/undo", begun["id"]);
    let (status, undone) = post(&ingester, &undo, &by).await;
    assert_eq!(status, 200, "{undone}");
    ended(&undone["id"]).await;
    assert_eq!(count(&scene, "PARKED").await, 1);
    assert_eq!(get(&ingester, "/api/jobs/7").await.0, 404);
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_postgres_that_is_away_and_goes_on() {
    const LETTERS: i64 = 250;
    let scene = Scene::new(1).await;
    let mut ingester = instance(&scene).await;
    letters(&scene, LETTERS).await;
    correct(&scene).await;
    let mut blocker = scene.database.session().await;
    let transaction = blocker.transaction().await.expect("a transaction");
    let lock = "SELECT FROM ledger.dead_letters WHERE id = 150 FOR UPDATE";
    transaction.batch_execute(lock).await.expect("a lock");
    let order = json!({"action": "replay", "filter": {"code": "INVALID_EVENT"}, "dry_run": false, "by": "ann", "why": "mended"});
    let (_, begun) = post(&ingester, "/api/jobs", &order).await;
    let path = format!("/api/jobs/{}", begun["id"]);
    let mut told = Value::Null;
    wait_until("the first chunk to be done", STALL, async || {
        told = get(&ingester, &path).await.1;
        told["seen"] == 100
    })
    .await;
    scene.stack.control(&["postgres-stop", "immediate"]).await;
    wait_until("the job to say that it waits", STALL, async || {
        told = get(&ingester, &path).await.1;
        told["trouble"].is_string()
    })
    .await;
    assert_eq!(told["state"], "running", "{told}");
    scene.stack.control(&["postgres-start"]).await;
    wait_until("the job to end", STALL, async || {
        told = get(&ingester, &path).await.1;
        !told["ended_ms"].is_null()
    })
    .await;
    assert_eq!(
        (&told["state"], &told["verdicts"]),
        (&json!("done"), &json!({"APPLIED": LETTERS}))
    );
    // The session of before has ended with the server.
    let database = Database::open(&scene.stack, &scene.database.name).await;
    let balance = "SELECT (available * 10)::bigint FROM ledger.account_balances";
    assert_eq!(database.count(balance).await, 15 * LETTERS);
    ingester.stop().await;
}
