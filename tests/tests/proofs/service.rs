//! The binary as an operator uses it: settings, refusals, migrations, shutdown, privileges.

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use proofs::compare::Accounts;
use proofs::database::{Database, connect, migrate};
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::{Stack, repository, sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Workload, credit};
use rustix::process::{Pid, Signal, kill_process};

/// Runs `sluice`, which must end by itself, and not well.
async fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = sluice_command(arguments, environment);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("sluice can be run");
    let output = ended(child, Duration::from_secs(30), environment).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success(),
        "{arguments:?} with {environment:?} was not refused:\n{text}"
    );
    assert!(
        !text.contains("panicked") && !text.contains("stack backtrace"),
        "{text}"
    );
    text
}

async fn ended(mut child: Child, timeout: Duration, environment: &[(&str, &str)]) -> Output {
    let start = Instant::now();
    while child
        .try_wait()
        .expect("a child can be waited for")
        .is_none()
    {
        if start.elapsed() > timeout {
            child.kill().expect("a child can be killed");
            let output = child.wait_with_output().expect("its output");
            panic!(
                "sluice with {environment:?} did not end by itself:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.wait_with_output().expect("its output")
}

/// The one line that matters must name what to change.
fn assert_names(text: &str, name: &str) {
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(name)).collect();
    assert!(!lines.is_empty(), "no line names {name}:\n{text}");
    assert!(
        text.lines().count() <= 3,
        "more than a line for {name}:\n{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_setting_stops_the_start_with_one_line_that_names_it() {
    let scene = Scene::new(1).await;
    let good = [
        ("DATABASE_URL", scene.database.url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
        ("LOG_FORMAT", "text"),
    ];
    let bad = [
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "many"),
        ("BATCHING_DELAY_MS", "-1"),
        ("LEASE_MS", "10"),
        ("START_OFFSET", "middle"),
        ("ADMIN_TOKEN", "guessable"),
        ("ADMIN_TOKEN", "with blanks between its words"),
        ("OPERATOR_DATABASE_URL", "host=h sslmode=maybe"),
        ("DB_POOL_SIZE", "0"),
        ("LOG_FORMAT", "xml"),
        ("DATABASE_URL", "nonsense"),
        ("KAFKA_NO_SUCH_PROPERTY", "1"),
        ("KAFKA_AUTO_COMMIT", "true"),
        ("EXPONENTIAL_BACKOFF", "perhaps"),
        ("DLQ_TOPIC", "balance.changed"),
        ("RESULTS_TOPIC", "one,another"),
        ("DB_WRITER_SERVICE_PORT", "70000"),
    ];
    for (name, value) in bad {
        let mut environment: Vec<_> = good
            .iter()
            .copied()
            .filter(|(known, _)| *known != name)
            .collect();
        environment.push((name, value));
        assert_names(&refused(&["run"], &environment).await, name);
    }
    assert_names(&refused(&["run"], &good[1..]).await, "DATABASE_URL");
    let text = refused(&["run", "--no-such-flag"], &good).await;
    assert!(text.contains("--no-such-flag"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_may_stand_in_files() {
    let scene = Scene::new(1).await;
    let file = scene.stack.dir.join(unique("secret"));
    std::fs::write(&file, format!("{}\n", scene.database.url)).expect("written");
    let file = file.display().to_string();
    let environment = [
        ("DATABASE_URL_FILE", file.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
        ("BALANCE_TOPICS", &scene.topic),
    ];
    let checked = sluice_command(&["check"], &environment).output();
    let checked = checked.expect("sluice check");
    let (said, complained) = (
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr),
    );
    assert!(checked.status.success(), "{said}{complained}");
    let password = &scene.stack.ingester.password;
    assert!(!said.contains(password) && !complained.contains(password));
    let help = sluice_command(&["run", "--help"], &environment).output();
    let help = help.expect("sluice run --help").stdout;
    assert!(!String::from_utf8_lossy(&help).contains(password));
    let missing = [("DATABASE_URL_FILE", "/no/such/file"), environment[1]];
    assert_names(&refused(&["run"], &missing).await, "DATABASE_URL_FILE");
    let missing = [
        environment[0],
        environment[1],
        ("KAFKA_SASL_PASSWORD_FILE", "/no/such/file"),
    ];
    assert_names(
        &refused(&["run"], &missing).await,
        "KAFKA_SASL_PASSWORD_FILE",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_or_database_ends_the_start_and_shows_no_secret() {
    let scene = Scene::new(1).await;
    let stack = &scene.stack;
    let url = |user: &str, password: &str, database: &str| {
        format!(
            "postgres://{user}:{password}@127.0.0.1:{}/{database}",
            stack.postgres_port
        )
    };
    let (user, password) = (
        stack.ingester.user.as_str(),
        stack.ingester.password.as_str(),
    );
    let brokers = scene.kafka().brokers.as_str();
    for (url, word) in [
        (url(user, "verysecret", &scene.database.name), "password"),
        (
            url("nobody_at_all", "verysecret", &scene.database.name),
            "nobody_at_all",
        ),
        (url(user, password, "no_such_database"), "no_such_database"),
    ] {
        let text = refused(
            &["run"],
            &[
                ("DATABASE_URL", &url),
                ("KAFKA_BROKERS", brokers),
                ("LOG_FORMAT", "text"),
            ],
        )
        .await;
        assert!(text.contains(word), "{word:?} is not named:\n{text}");
        assert!(
            !text.contains("verysecret") && !text.contains(password),
            "a secret is shown:\n{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_not_migrated_or_grants_nothing_is_named() {
    let scene = Scene::new(1).await;
    let stack = &scene.stack;
    let server = connect(&stack.admin_url("postgres")).await;
    let empty = unique("empty");
    server
        .batch_execute(&format!("CREATE DATABASE {empty}"))
        .await
        .expect("a database");
    let brokers = scene.kafka().brokers.as_str();
    let url = stack.url(&stack.ingester, stack.postgres_port, &empty);
    let text = refused(
        &["run"],
        &[
            ("DATABASE_URL", &url),
            ("KAFKA_BROKERS", brokers),
            ("LOG_FORMAT", "text"),
        ],
    )
    .await;
    assert!(text.contains("migrate"), "{text}");

    scene
        .database
        .client
        .batch_execute("DROP EXTENSION sluice CASCADE")
        .await
        .expect("a superuser may");
    let text = refused(
        &["run"],
        &[
            ("DATABASE_URL", &scene.database.url),
            ("KAFKA_BROKERS", brokers),
            ("LOG_FORMAT", "text"),
        ],
    )
    .await;
    assert!(text.contains("migrate"), "{text}");

    let scene = Scene::new(1).await;
    let role = unique("stranger");
    server
        .batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'"))
        .await
        .expect("a role");
    let url = format!(
        "postgres://{role}:x@127.0.0.1:{}/{}",
        stack.postgres_port, scene.database.name
    );
    let text = refused(
        &["run"],
        &[
            ("DATABASE_URL", &url),
            ("KAFKA_BROKERS", brokers),
            ("LOG_FORMAT", "text"),
        ],
    )
    .await;
    assert!(text.contains("sluice_writer"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_services_are_retried_visibly() {
    let scene = Scene::new(1).await;
    let nowhere = format!("postgres://{}:x@127.0.0.1:1/db", scene.stack.ingester.user);
    let mut without_database = scene.ingester_with(&[("DATABASE_URL", &nowhere)]);
    let mut without_kafka = scene.ingester_with(&[("KAFKA_BROKERS", "127.0.0.1:1")]);
    without_database
        .logs("127.0.0.1:1", Duration::from_secs(20))
        .await;
    without_kafka
        .logs("127.0.0.1:1", Duration::from_secs(20))
        .await;
    for instance in [&mut without_database, &mut without_kafka] {
        assert!(!instance.has_ended(), "what can heal is waited for");
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_fits_and_fails_where_something_does_not() {
    let scene = Scene::new(1).await;
    let dlq = unique("dlq");
    let environment = [
        ("DATABASE_URL", scene.database.url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
        ("BALANCE_TOPICS", &scene.topic),
        ("DLQ_TOPIC", &dlq),
    ];
    let check = |environment: &[(&str, &str)]| {
        let output = sluice_command(&["check"], environment)
            .output()
            .expect("sluice can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    let line = |text: &str, name: &str| -> String {
        let found: Vec<&str> = text.lines().filter(|line| line.contains(name)).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0].to_owned()
    };
    let (status, text) = check(&environment);
    assert_eq!(status, Some(0));
    assert!(line(&text, &format!("topic {}", scene.topic)).contains("1 partitions"));
    // The handlers that come with Sluice, none of whose topics exist: one line for all.
    let handlers = scene
        .database
        .count("SELECT count(*) FROM ledger.event_handlers")
        .await;
    let awaited = line(&text, "topics of handlers");
    assert!(awaited.contains(&format!(
        "{handlers} not there yet: content.comment.created, "
    )));
    assert!(!text.contains("wallet.updated"));
    let missing = line(&text, &dlq);
    assert!(missing.contains("missing") && missing.contains("create it or change DLQ_TOPIC"));

    scene.kafka().create_topic(&dlq, 1, &[]).await;
    assert!(line(&check(&environment).1, &dlq).contains("1 partitions"));
    let mut environment = environment;
    environment[3].1 = "";
    assert!(line(&check(&environment).1, "dead letter topic").contains("none"));
    environment[2].1 = "no.such.topic";
    let (status, text) = check(&environment);
    assert_eq!(status, Some(1));
    let missing = line(&text, "topic no.such.topic");
    assert!(missing.starts_with("fail") && missing.contains("BALANCE_TOPICS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_twice_changes_nothing_and_at_once_is_harmless() {
    let stack = Stack::get();
    let name = unique("migrated");
    connect(&stack.admin_url("postgres"))
        .await
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .await
        .expect("a database");
    let url = stack.admin_url(&name);
    let start = || {
        let mut command = sluice_command(&["migrate"], &[("ADMIN_DATABASE_URL", &url)]);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sluice can be run")
    };
    let children = [start(), start(), start()];
    for child in children {
        let output = ended(child, Duration::from_secs(30), &[]).await;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let database = Database::open(&stack, &name).await;
    let versions = database
        .count("SELECT count(*) FROM ledger.schema_history")
        .await;
    migrate(&stack, &name).await;
    assert_eq!(
        database
            .count("SELECT count(*) FROM ledger.schema_history")
            .await,
        versions
    );
    for (check, found) in database.run_checks().await {
        assert_eq!(found, None, "{check} on an empty ledger");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_migrated_by_a_newer_version_is_refused_by_name() {
    let scene = Scene::new(1).await;
    let newer = "INSERT INTO ledger.schema_history SELECT 9999, 'from_the_future', applied_on, checksum FROM ledger.schema_history LIMIT 1";
    scene
        .database
        .client
        .batch_execute(newer)
        .await
        .expect("refinery's table");
    let text = refused(
        &["migrate"],
        &[("ADMIN_DATABASE_URL", &scene.database.admin_url)],
    )
    .await;
    assert!(
        text.contains("newer") && text.contains("from_the_future"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_under_load_takes_less_than_five_seconds_and_ends_well() {
    let scene = Scene::new(4).await;
    scene.fill(&Workload::new(seed()), 30_000).await;
    let mut ingester = scene.ingester_with(&[("BATCH_SIZE", "100")]);
    scene.committed_beyond(500).await;
    // A batch that cannot end: abandoned, not waited for.
    let locker = scene.database.session().await;
    locker
        .batch_execute("BEGIN; SELECT FROM ledger.account_balances ORDER BY account_id, shard_id, currency_code FOR UPDATE")
        .await
        .expect("rows can be locked");
    ingester.terminate();
    let status = ingester.ended(Duration::from_secs(5)).await;
    assert!(
        status.success(),
        "ended with {status}:\n{}",
        ingester.log_tail()
    );
    locker
        .batch_execute("ROLLBACK")
        .await
        .expect("the lock can be given back");
    ingester.start_again();
    scene.verify(Accounts::OfOnePartition).await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_full_disk_ends_nothing() {
    let scene = Scene::new(1).await;
    scene.fill(&Workload::new(seed()), 2_000).await;
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("a device that is always full");
    let environment = [
        ("DATABASE_URL", scene.database.url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
        ("BALANCE_TOPICS", &scene.topic),
        ("EVENT_TOPICS", ""),
        ("PORT", "0"),
    ];
    let mut command = sluice_command(&["run"], &environment);
    let child = command.stderr(full).spawn().expect("sluice can be run");
    scene.caught_up().await;
    let pid = Pid::from_raw(child.id() as i32).expect("a process");
    kill_process(pid, Signal::TERM).expect("it runs");
    let output = ended(child, Duration::from_secs(30), &environment).await;
    assert!(output.status.success(), "{}", output.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let scene = Scene::new(1).await;
    scene.fill(&Workload::new(seed()), 2_000).await;
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let locker = scene.database.session().await;
    locker
        .batch_execute("BEGIN; SELECT FROM ledger.account_balances ORDER BY account_id, shard_id, currency_code FOR UPDATE")
        .await
        .expect("rows can be locked");
    scene.fill(&Workload::new(seed() + 1), 100).await;
    wait_until("a batch to be held up", Duration::from_secs(20), async || {
        scene.database.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").await > 0
    })
    .await;
    ingester.terminate();
    // Two signals at once would be one.
    ingester.logs("stopping", Duration::from_secs(2)).await;
    ingester.terminate();
    let start = Instant::now();
    ingester.ended(Duration::from_secs(5)).await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "took {:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ingesters_login_can_change_no_ledger_table_and_public_nothing_at_all() {
    let scene = Scene::new(1).await;
    let writable = "SELECT count(*) FROM pg_class c, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) privilege
        WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'v', 'p', 'm')
            AND has_table_privilege('sluice_ingester', c.oid, privilege)
            AND NOT (c.relname LIKE 'staging%' AND privilege = 'INSERT')";
    assert_eq!(scene.database.count(writable).await, 0);
    let columns = "SELECT count(*) FROM pg_class c, unnest(ARRAY['INSERT', 'UPDATE']) privilege
        WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname NOT LIKE 'staging%'
            AND has_any_column_privilege('sluice_ingester', c.oid, privilege)";
    assert_eq!(scene.database.count(columns).await, 0);
    let nobody = unique("nobody");
    scene
        .database
        .client
        .batch_execute(&format!("CREATE ROLE {nobody}"))
        .await
        .expect("a role");
    let public = format!(
        "SELECT (SELECT count(*) FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) privilege
                 WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'v')
                    AND has_table_privilege('{nobody}', c.oid, privilege))
            + (SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'sluice'::regnamespace AND has_function_privilege('{nobody}', p.oid, 'EXECUTE'))
            + has_schema_privilege('{nobody}', 'ledger', 'USAGE')::int + has_schema_privilege('{nobody}', 'sluice', 'USAGE')::int"
    );
    assert_eq!(scene.database.count(&public).await, 0);
    let writer = scene.database.writer().await;
    for statement in [
        "UPDATE ledger.account_balances SET available = 1",
        "DELETE FROM ledger.event_identities",
        "TRUNCATE ledger.dead_letters",
    ] {
        let error = writer
            .batch_execute(statement)
            .await
            .expect_err("the ingester may not");
        assert_eq!(
            error.code().map(|code| code.code()),
            Some("42501"),
            "{statement}"
        );
    }
}

#[test]
fn what_proves_the_product_shares_no_code_with_it() {
    for (package, expected) in [("tests", "rdkafka"), ("model", "indexmap")] {
        let manifest = repository().join(package).join("Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).expect("a manifest");
        let dependencies: Vec<&str> = manifest
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(name, _)| name)
            .collect();
        assert!(dependencies.contains(&expected));
        assert!(
            ["ledger", "sluice", "sluice_pg"]
                .iter()
                .all(|product| !dependencies.contains(product)),
            "{dependencies:?}"
        );
    }
}

/// Its marks are written after the fact and never read, so nothing that it does can matter.
#[tokio::test(flavor = "multi_thread")]
async fn redis_may_lie_hang_forget_or_be_away() {
    let scene = Scene::new(2).await;
    let url = scene.stack.redis_url.clone();
    let pid = std::fs::read_to_string(scene.stack.dir.join("redis.pid")).expect("Redis runs");
    let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process id");
    let workload = Workload::new(seed());
    // It says that every event was processed already, which the database never saw.
    let lies = workload.stream(0).take(500).filter_map(|message| {
        let payload = String::from_utf8(message.payload?).ok()?;
        let id = payload
            .split("\"eventId\":\"")
            .nth(1)?
            .split('"')
            .next()?
            .to_owned();
        Some(format!("processed:{id}"))
    });
    let lies: Vec<String> = lies.collect();
    assert!(lies.len() > 100);
    for lie in &lies {
        scene.stack.redis(&["SET", lie, "1"]);
    }
    let feed = scene.feed(&workload, 2_000);
    let settings = [("REDIS_URL", url.as_str()), ("IDEMPOTENCY_TTL", "600")];
    let mut ingester = scene.ingester_with(&settings);
    let beyond = async |records: i64| {
        let committed = scene.committed().await;
        scene.committed_beyond(committed + records).await;
    };
    beyond(1_000).await;
    kill_process(pid, Signal::STOP).expect("Redis can be frozen");
    beyond(3_000).await;
    kill_process(pid, Signal::CONT).expect("Redis goes on");
    scene.stack.redis(&["FLUSHALL"]);
    beyond(1_000).await;
    scene.stack.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    beyond(1_000).await;
    scene.stack.redis(&["CONFIG", "SET", "maxmemory", "0"]);
    scene.stack.control(&["redis-stop"]).await;
    beyond(3_000).await;
    scene.stack.control(&["redis-start"]).await;
    wait_until("Redis to be marked again", STALL, async || {
        scene
            .stack
            .redis(&["DBSIZE"])
            .parse::<i64>()
            .is_ok_and(|size| size > 0)
    })
    .await;
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    let log = ingester.log();
    assert!(log.contains("REDIS_URL: events are not marked as processed, going on without"));
    assert!(log.contains("Redis is back"));

    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("a mark", 1, "1")]);
    wait_until("the mark of an event", STALL, async || {
        scene
            .stack
            .redis(&["TTL", "processed:a mark"])
            .parse::<i64>()
            .is_ok_and(|ttl| (1..=600).contains(&ttl))
    })
    .await;
    ingester.stop().await;
}
