//! The page's API, called without the page: authorization, limits, and actions.

use std::time::{Duration, Instant};

use proofs::ingester::{Answer, Ingester};
use proofs::rng::seed;
use proofs::scene::{STALL, Scene};
use proofs::wait::wait_until;
use proofs::watch::settled;
use proofs::workload::{Message, Workload, credit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const TOKEN: &str = "a-token-for-the-tests";
/// Whatever hangs behind; generous for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(super) async fn get(ingester: &Ingester, path: &str) -> (u16, Value) {
    let (status, body) = ingester.get(path).await;
    (status, body.parse().expect("JSON"))
}

/// As often as one may ask.
async fn state(ingester: &Ingester) -> Value {
    let mut told = (429, Value::Null);
    wait_until("the state to be told", STALL, async || {
        told = get(ingester, "/api/state").await;
        told.0 != 429
    })
    .await;
    assert_eq!(told.0, 200, "{}", told.1);
    told.1
}

/// A change asked for by whoever has the token.
pub(super) async fn post(ingester: &Ingester, path: &str, body: &Value) -> (u16, Value) {
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let mut told = (429, Value::Null);
    wait_until("a change to be let in", STALL, async || {
        let answer = post_with(ingester, path, &[&authorization], &body.to_string()).await;
        told = (answer.status, answer.body.parse().expect("JSON"));
        told.0 != 429
    })
    .await;
    told
}

async fn post_with(ingester: &Ingester, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut all = vec!["Host: localhost", "Content-Type: application/json"];
    all.extend(headers);
    ingester.ask(&format!("POST {path}"), &all, body).await
}

fn error(answer: &Answer) -> String {
    let body: Value = answer.body.parse().expect("JSON");
    body["error"].as_str().expect("an error").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_is_for_this_machine_and_changing_for_whoever_has_the_token() {
    let scene = Scene::new(1).await;
    let pause = format!("/api/partitions/{}/0/pause", scene.topic);
    let asked = r#"{"by": "ann", "why": "ticket 1"}"#;
    let mut without = scene.ingester();
    assert_eq!(state(&without).await["changes_allowed"], false);
    for (headers, expected) in [
        (&["Host: 127.0.0.1"][..], 200),
        (&["Host: [::1]:3010"], 200),
        (&["Host: evil.example"], 403),
        (&["Host: localhost", "X-Forwarded-For: 1.2.3.4"], 403),
        (&[], 403),
    ] {
        let answer = without.ask("GET /api/state", headers, "").await;
        assert_eq!(answer.status, expected, "{headers:?} {}", answer.body);
        if expected == 403 {
            assert!(error(&answer).contains("ADMIN_TOKEN"), "{}", answer.body);
        }
    }
    for headers in [&[][..], &["Authorization: Bearer anything-at-all"]] {
        let refused = post_with(&without, &pause, headers, asked).await;
        assert_eq!(refused.status, 403);
        let error = error(&refused);
        assert_eq!(error, "nobody may change anything: set ADMIN_TOKEN");
    }
    // What orchestrators ask is answered whoever asks.
    for path in ["/livez", "/health", "/readyz", "/metrics", "/"] {
        let asked = format!("GET {path}");
        let answer = without.ask(&asked, &["Host: evil.example"], "").await;
        assert!([200, 503].contains(&answer.status), "{path}");
    }
    without.stop().await;

    let mut ingester = scene.ingester_with(&[("ADMIN_TOKEN", TOKEN)]);
    let right = format!("Authorization: Bearer {TOKEN}");
    let wrong = format!("Authorization: Bearer {TOKEN}x");
    for (host, token, expected) in [
        ("Host: localhost", None, 200),
        ("Host: localhost", Some(&wrong), 401),
        ("Host: sluice.example", None, 401),
        ("Host: sluice.example", Some(&wrong), 401),
        ("Host: sluice.example", Some(&right), 200),
    ] {
        let mut headers = vec![host];
        headers.extend(token.map(String::as_str));
        let answer = ingester.ask("GET /api/state", &headers, "").await;
        assert_eq!(answer.status, expected, "{host} {token:?}");
        let names_the_way = answer.head.contains("www-authenticate: bearer");
        assert_eq!(names_the_way, expected == 401, "{}", answer.head);
    }
    for headers in [&[][..], &[wrong.as_str()]] {
        let refused = post_with(&ingester, &pause, headers, asked).await;
        assert_eq!(refused.status, 401, "{}", refused.body);
    }
    // The ingester's own login may not do what an operator does.
    let (status, refused) = post(&ingester, &pause, &asked.parse().expect("JSON")).await;
    assert_eq!(status, 503, "{refused}");
    let words = refused["error"].as_str().expect("an error");
    assert!(words.contains("OPERATOR_DATABASE_URL"), "{words}");
    let (status, refused) = get(&ingester, "/api/dead-letters").await;
    assert_eq!(status, 503, "{refused}");
    ingester.stop().await;
    assert!(!ingester.log().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_whole_and_asks_for_nothing_from_elsewhere() {
    let scene = Scene::new(1).await;
    let mut ingester = scene.ingester();
    let page = ingester.ask("GET /", &["Host: localhost"], "").await;
    assert_eq!(page.status, 200);
    for (header, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        let line = format!("\r\n{header}: {value}\r\n");
        assert!(page.head.contains(&line), "{line}{}", page.head);
    }
    let (_, policy) = page
        .head
        .split_once("content-security-policy: ")
        .expect("a policy");
    let policy = policy.lines().next().expect("a line");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );

    let named = |text: &str, before: &str| -> Vec<String> {
        let parts = text.split(before).skip(1);
        let names = parts.filter_map(|part| part.split('"').next());
        names.map(str::to_owned).collect()
    };
    let mut files = named(&page.body, "src=\"");
    files.extend(named(&page.body, "<link rel=\"icon\" href=\""));
    files.extend(named(&page.body, "<link rel=\"stylesheet\" href=\""));
    assert_eq!(files.len(), 3, "{files:?}");
    let mut seen = Vec::new();
    while let Some(file) = files.pop() {
        assert!(file.starts_with("/page/"), "{file}");
        let (status, text) = ingester.get(&file).await;
        assert_eq!(status, 200, "{file}");
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !elsewhere.contains("//www") && !elsewhere.contains("https:"),
            "{file}"
        );
        let imported = named(&text, "from \"./").into_iter();
        let imported = imported.map(|name| format!("/page/{name}"));
        let news = imported.filter(|file| !seen.contains(file));
        files.extend(news.collect::<Vec<_>>());
        seen.push(file);
    }
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_limited_in_size_time_and_number() {
    let scene = Scene::new(1).await;
    let mut ingester = scene.ingester_with(&[("ADMIN_TOKEN", TOKEN)]);
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let replay = "/api/dead-letters/replay";
    let too_long = "x".repeat(2 << 20);
    let too_many = json!({"ids": vec![1; 501]}).to_string();
    for (body, expected, told) in [
        (
            format!(r#"{{"ids": [1], "payload": "{too_long}"}}"#),
            413,
            "2097152 bytes",
        ),
        ("{".to_owned(), 400, "JSON"),
        (r#"{"ids": [1], "force": true}"#.to_owned(), 422, "force"),
        (r#"{"ids": []}"#.to_owned(), 400, "ids: must be 1 to 500"),
        (too_many, 400, "ids: must be 1 to 500"),
        (r#"{"ids": [1], "dry_run": false}"#.to_owned(), 400, "by: "),
        (
            r#"{"ids": [1], "dry_run": false, "by": "a\nb", "why": "w"}"#.to_owned(),
            400,
            "by: ",
        ),
    ] {
        let answer = post_with(&ingester, replay, &[&authorization], &body).await;
        assert_eq!(answer.status, expected, "{}", answer.body);
        assert!(error(&answer).contains(told), "{}", answer.body);
    }
    let local = ["Host: localhost", authorization.as_str()];
    for (request, expected) in [
        ("POST /api/dead-letters/replay", 415),
        ("GET /api/dead-letters/replay", 405),
        ("GET /api/dead-letters/no-number", 404),
        ("DELETE /api/state", 405),
        ("POST /health", 405),
        ("GET /api/nothing", 404),
        ("GET /page/../../etc/passwd", 404),
        ("POST /api/partitions/t/0/drop", 404),
    ] {
        let answer = ingester.ask(request, &local, "").await;
        assert_eq!(answer.status, expected, "{request} {}", answer.body);
        assert!(!error(&answer).is_empty(), "{request}");
    }
    let asked = json!({"by": "ann", "why": "none"});
    for (path, expected) in [
        ("/api/partitions/t/0/drop", 404),
        ("/api/partitions/t/x/pause", 404),
    ] {
        let (status, answer) = post(&ingester, path, &asked).await;
        assert_eq!(status, expected, "{path} {answer}");
    }
    let long = format!("X-Long: {}", "x".repeat(300_000));
    let answer = ingester.ask("GET /health", &[&long], "").await;
    assert_eq!(answer.status, 431);

    // A body that never comes.
    let began = Instant::now();
    let mut stream = TcpStream::connect(ingester.address().await)
        .await
        .expect("it listens");
    let head = format!(
        "POST {replay} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n{authorization}\r\nContent-Length: 9\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(20));

    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) {
        assert!(statuses.len() < 10_000, "never too many");
        statuses.push(ingester.get("/api/dead-letters/x").await.0);
    }
    assert!(statuses.len() > 100, "{} at once", statuses.len());
    let refused = ingester
        .ask("GET /api/state", &["Host: localhost"], "")
        .await;
    if refused.status == 429 {
        assert!(refused.head.contains("\r\nretry-after: 1\r\n"));
    }
    assert_eq!(ingester.get("/livez").await.0, 200, "has its own limit");
    wait_until("the API to answer again", STALL, async || {
        ingester.get("/api/state").await.0 == 200
    })
    .await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_resumes_and_moves_a_partition_on_record() {
    let scene = Scene::new(2).await;
    let (operator_url, operator) = scene.operator().await;
    let settings = [
        ("ADMIN_TOKEN", TOKEN),
        ("OPERATOR_DATABASE_URL", operator_url.as_str()),
    ];
    let mut instances = [
        scene.ingester_with(&settings),
        scene.ingester_with(&settings),
    ];
    let names = instances.each_ref().map(|one| one.service_id.clone());
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    let names = names.each_ref().map(String::as_str);
    settled(&scene.database, &scene.topic, 2, &names, STALL).await;
    let [one, _] = &instances;
    let act = async |action: &str, why: &str| {
        let path = format!("/api/partitions/{}/0/{action}", scene.topic);
        let (status, answer) = post(one, &path, &json!({"by": "ann", "why": why})).await;
        assert_eq!(status, 200, "{answer}");
        answer["said"].as_str().expect("words").to_owned()
    };
    // Both instances tell of all partitions.
    let partition = async || {
        let state = state(one).await;
        assert_eq!(state["service_id"], *one.service_id);
        let partitions = state["partitions"].as_array().expect("partitions");
        let found = partitions
            .iter()
            .find(|partition| partition["partition"] == 0);
        found.cloned().unwrap_or_default()
    };
    wait_until("the partition to be seen running", STALL, async || {
        let seen = partition().await;
        seen["state"] == "running"
            && seen["records_per_second"].as_f64() > Some(0.0)
            && seen["last_apply_us"].as_i64() > Some(0)
    })
    .await;

    let name = format!("{}/0", scene.topic);
    assert_eq!(act("pause", "ticket 1").await, format!("{name} is paused"));
    let told = wait_until("the pause to be seen", STALL, async || {
        let seen = partition().await;
        seen["state"] == "paused" && seen["reason"] == "paused by hand: ticket 1 (ann)"
    });
    assert!(told.await < Duration::from_secs(5));
    assert!(act("pause", "again").await.ends_with("was paused already"));
    assert_eq!(act("resume", "looked").await, format!("{name} goes on"));
    let former = scene.database.progress(&scene.topic).await[&0]
        .leader
        .clone();
    let former = former.expect("a leader");
    let said = act("step-down", "its host is slow").await;
    assert_eq!(said, format!("{former} leads {name} no more"));
    wait_until("the other one to lead", STALL, async || {
        let seen = partition().await;
        seen["state"] == "running" && seen["leader_svc_id"] != *former
    })
    .await;

    let record = "SELECT string_agg(concat_ws('|', action, by_user, why), E'\\n' ORDER BY id)
        FROM ledger.partition_actions WHERE topic || '/' || partition = $1";
    let record = scene.database.client.query_one(record, &[&name]).await;
    let record: String = record.expect("the record").get(0);
    let expected = [
        format!("PAUSE|{operator}|ticket 1 (ann)"),
        format!("RESUME|{operator}|looked (ann)"),
        format!("STEP_DOWN|{operator}|its host is slow (ann)"),
    ];
    assert_eq!(record, expected.join("\n"));
    let log = one.log();
    let told = log.lines().filter(|line| line.contains("an operator acts"));
    assert_eq!(told.count(), 4, "{log}");
    let (status, answer) = post(
        one,
        "/api/partitions/nowhere/0/resume",
        &json!({"by": "ann", "why": "none"}),
    )
    .await;
    assert_eq!(status, 404, "{answer}");
    assert!(
        answer["error"]
            .as_str()
            .expect("words")
            .contains("nobody has read")
    );
    feed.stop().await;
    for instance in &mut instances {
        instance.stop().await;
        let log = instance.log();
        assert!(!log.contains(TOKEN) && !log.contains(&operator_url));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_at_dead_letters_tries_replays_and_discards_them() {
    let scene = Scene::new(1).await;
    let (operator_url, operator) = scene.operator().await;
    let mut ingester = scene.ingester_with(&[
        ("ADMIN_TOKEN", TOKEN),
        ("OPERATOR_DATABASE_URL", &operator_url),
    ]);
    let binary = Message::of([0xff_u8, 0xfe, 0].as_slice());
    let messages = [credit("a", 1, "5"), Message::of("{"), binary];
    scene.kafka().produce(&scene.topic, 0, messages);
    scene.caught_up().await;
    let found = wait_until("the letters to be counted", STALL, async || {
        state(&ingester).await["parked"]
            == json!([{"topic": scene.topic, "code": "MALFORMED_JSON", "letters": 2}])
    });
    assert!(found.await < Duration::from_secs(5));
    let listed = async |query: &str| {
        let (status, answer) = get(&ingester, &format!("/api/dead-letters?{query}")).await;
        assert_eq!(status, 200, "{answer}");
        let letters = answer["letters"].as_array().expect("letters");
        letters
            .iter()
            .map(|letter| letter["id"].as_i64().expect("an id"))
            .collect::<Vec<_>>()
    };
    let ids = listed("status=PARKED").await;
    assert_eq!(ids.len(), 2);
    assert_eq!(
        listed(&format!("topic={}&code=MALFORMED_JSON", scene.topic)).await,
        ids
    );
    assert!(listed("topic=other").await.is_empty());
    assert!(listed("code=UNKNOWN").await.is_empty());
    let (binary, malformed) = (ids[0], ids[1]);
    let (_, letter) = get(&ingester, &format!("/api/dead-letters/{binary}")).await;
    assert_eq!(letter["payload"], "//4A");
    assert_eq!(letter["kafka_offset"], 2);
    assert_eq!(letter["actions"], json!([]));
    assert_eq!(get(&ingester, "/api/dead-letters/999999").await.0, 404);

    let replay = "/api/dead-letters/replay";
    let corrected = credit("b", 1, "7").payload.expect("a payload");
    let corrected = String::from_utf8(corrected).expect("text");
    let mut asked = json!({"ids": [malformed]});
    let (_, tried) = post(&ingester, replay, &asked).await;
    assert_eq!(tried["dry_run"], true);
    assert_eq!(tried["outcomes"][0]["verdict"], "DEAD");
    asked["payload"] = json!("nothing better");
    let (status, refused) = post(&ingester, replay, &asked).await;
    assert_eq!(status, 400, "{refused}");
    asked["payload"] = json!(corrected);
    let (_, tried) = post(&ingester, replay, &asked).await;
    assert_eq!(tried["outcomes"][0]["verdict"], "APPLIED", "{tried}");
    assert_eq!(listed("status=PARKED").await, ids, "tried only");
    asked["dry_run"] = json!(false);
    asked["by"] = json!("ann");
    asked["why"] = json!("decimal comma");
    let (status, done) = post(&ingester, replay, &asked).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(done["outcomes"][0]["verdict"], "APPLIED");
    assert_eq!(listed("status=REPLAYED").await, [malformed]);
    let balance = "SELECT available::bigint FROM ledger.account_balances WHERE account_id = 1";
    assert_eq!(scene.database.count(balance).await, 12);

    let discard = "/api/dead-letters/discard";
    let mut asked = json!({"ids": [binary, malformed], "by": "bob", "why": "test data"});
    let (_, tried) = post(&ingester, discard, &asked).await;
    let told = |answer: &Value| -> Vec<(i64, Value, Value)> {
        let outcomes = answer["outcomes"].as_array().expect("outcomes").iter();
        let told = outcomes.map(|told| {
            let id = told["id"].as_i64().expect("an id");
            (id, told["verdict"].clone(), told["reason"].clone())
        });
        told.collect()
    };
    let left_out = (malformed, Value::Null, json!("NOT_PARKED"));
    let given_up = (binary, json!("DEAD"), json!("MALFORMED_JSON"));
    assert_eq!(told(&tried), [given_up.clone(), left_out], "{tried}");
    assert_eq!(listed("status=PARKED").await, [binary], "tried only");
    asked["dry_run"] = json!(false);
    let (status, done) = post(&ingester, discard, &asked).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(listed("status=DISCARDED").await, [binary]);
    asked["payload"] = json!("{}");
    assert_eq!(post(&ingester, discard, &asked).await.0, 400);

    let restore = "/api/dead-letters/restore";
    let mut asked =
        json!({"ids": [malformed, binary], "by": "bob", "why": "after all", "dry_run": false});
    let (status, done) = post(&ingester, restore, &asked).await;
    assert_eq!(status, 200, "{done}");
    let left_out = (malformed, Value::Null, json!("NOT_DISCARDED"));
    assert_eq!(told(&done), [given_up, left_out], "{done}");
    assert_eq!(listed("status=PARKED").await, [binary]);
    asked["payload"] = json!("{}");
    assert_eq!(post(&ingester, restore, &asked).await.0, 400);

    let (_, letter) = get(&ingester, &format!("/api/dead-letters/{malformed}")).await;
    let action = &letter["actions"][0];
    assert_eq!(action["by_user"], *operator);
    assert_eq!(action["why"], "decimal comma (ann)");
    assert_eq!(action["corrected"], true);
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_told_at_once_also_when_the_database_hangs_or_is_away() {
    let scene = Scene::new(1).await;
    let (operator_url, _) = scene.operator().await;
    let mut ingester = scene.ingester_with(&[
        ("ADMIN_TOKEN", TOKEN),
        ("OPERATOR_DATABASE_URL", &operator_url),
    ]);
    let messages = (0..10).map(|n| credit(&format!("e{n}"), 1, "1"));
    scene.kafka().produce(&scene.topic, 0, messages);
    scene.caught_up().await;
    let at_once = async || {
        let asked = Instant::now();
        let state = state(&ingester).await;
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        state
    };
    let until = async |what: &str, is_so: fn(&Value) -> bool| {
        wait_until(what, STALL, async || is_so(&at_once().await)).await
    };
    let is_fresh =
        |state: &Value| state["stale"] == false && state["partitions"][0]["commit_offset"] == 10;
    until("a fresh look", is_fresh).await;

    let mut blocker = scene.database.session().await;
    let transaction = blocker.transaction().await.expect("a transaction");
    let lock = "LOCK TABLE ledger.dead_letters IN ACCESS EXCLUSIVE MODE";
    transaction.batch_execute(lock).await.expect("a lock");
    until("the look to be old", |state| {
        state["stale"] == true && state["trouble"] == "PostgreSQL does not answer"
    })
    .await;
    // Of its own partitions it knows better.
    let messages = (10..20).map(|n| credit(&format!("e{n}"), 1, "1"));
    scene.kafka().produce(&scene.topic, 0, messages);
    until("its own partition to be told of", |state| {
        state["partitions"][0]["commit_offset"] == 20 && state["stale"] == true
    })
    .await;
    let (status, late) = get(&ingester, "/api/dead-letters").await;
    assert_eq!(status, 504, "{late}");
    let history = &at_once().await["history"];
    let applied = history["applied"].as_array().expect("a column");
    let applied: i64 = applied.iter().filter_map(Value::as_i64).sum();
    assert!(applied >= 10, "{history}");
    assert!(applied <= 20, "{history}");
    transaction.rollback().await.expect("a rollback");
    until("a fresh look again", |state| state["stale"] == false).await;

    scene.stack.control(&["postgres-stop", "fast"]).await;
    until("PostgreSQL to be away", |state| {
        state["stale"] == true && state["status"] == "down" && state["database_connected"] == false
    })
    .await;
    scene.stack.control(&["postgres-start"]).await;
    until("all to be well again", |state| {
        state["stale"] == false && state["status"] == "healthy"
    })
    .await;
    ingester.stop().await;
}
