//! Errors by whose fault they are: an error that is not the record's fault makes no dead letter and is reported with
//! its offset, and an operator can bury that one record.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use proofs::database::connect;
use proofs::ingester::Ingester;
use proofs::scene::{STALL, Scene};
use proofs::stack::sluice_command;
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
use serde_json::Value;

use super::domain::Notes;
use super::operate::done;

/// One refused record costs one try.
const AT_ONCE: &[(&str, &str)] = &[("MAX_RETRY_ATTEMPTS", "1"), ("RETRY_DELAY_MS", "10")];

async fn execute(scene: &Scene, statements: &str) {
    let done = scene.database.client.batch_execute(statements).await;
    done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

/// A trigger of an owner on the balances of these accounts, which raises this.
async fn raise_on(scene: &Scene, accounts: &str, raise: &str) {
    let trigger = format!(
        "CREATE OR REPLACE FUNCTION public.house_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {raise} RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER house_rule BEFORE INSERT OR UPDATE ON ledger.account_balances
         FOR EACH ROW WHEN ({accounts}) EXECUTE FUNCTION public.house_rule()"
    );
    execute(scene, &trigger).await;
}

async fn mend(scene: &Scene) {
    execute(scene, "DROP TRIGGER house_rule ON ledger.account_balances").await;
}

/// State and reason that `/health` gives of a partition.
async fn told(ingester: &Ingester, topic: &str, number: i32) -> (String, String) {
    let health: Value = ingester.get("/health").await.1.parse().expect("JSON");
    let partitions = health["partitions"].as_array().expect("a list");
    let one = partitions
        .iter()
        .find(|one| one["topic"] == *topic && one["partition"] == number);
    let text = |name: &str| {
        let value = one.and_then(|one| one[name].as_str());
        value.unwrap_or_default().to_owned()
    };
    (text("state"), text("reason"))
}

async fn wait_for_reason(ingester: &Ingester, topic: &str, state: &str, parts: &[&str]) {
    let what = format!("{topic}/0 to be {state} because of {parts:?}");
    wait_until(&what, STALL, async || {
        let (found, reason) = told(ingester, topic, 0).await;
        found == state && parts.iter().all(|part| reason.contains(part))
    })
    .await;
}

/// `sluice` with the scene's services.
fn sluice(scene: &Scene, arguments: &[&str], url: &str) -> Output {
    let environment = [
        ("DATABASE_URL", url),
        ("ADMIN_DATABASE_URL", scene.database.admin_url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
        ("BALANCE_TOPICS", &scene.topic),
        ("EVENT_TOPICS", ""),
    ];
    let output = sluice_command(arguments, &environment).output();
    output.expect("sluice runs")
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// What a table of `sluice` says, without its line breaks.
fn told_by_check(scene: &Scene) -> (bool, String) {
    let output = sluice(scene, &["check"], &scene.database.url);
    let said = words(&output);
    let told: Vec<&str> = said.split_whitespace().collect();
    (output.status.success(), told.join(" "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_breaks_on_every_balance_pauses_the_topic_and_kills_no_more_records() {
    let scene = Scene::new(2).await;
    let (topic, database) = (&scene.topic, &scene.database);
    raise_on(&scene, "true", "RAISE EXCEPTION 'house rule';").await;
    let credits = |of: &'static str| (0..300).map(move |n| credit(&format!("{of}{n}"), n, "1"));
    scene.kafka().produce(topic, 0, credits("a"));
    let mut ingester = scene.ingester_with(AT_ONCE);
    const REFUSED: &str =
        "SELECT count(*) FROM ledger.dead_letters WHERE error_code = 'APPLY_FAILED'";
    // What counts is in the database: neither a restart nor another leader begins anew.
    for count in [30, 60] {
        wait_until("some records to be refused", 3 * STALL, async || {
            database.count(REFUSED).await >= count
        })
        .await;
        ingester.kill9();
        ingester.start_again();
    }
    let paused = format!(
        "SELECT count(*) FROM ledger.partition_leader_locks
         WHERE topic = '{topic}' AND paused_reason LIKE 'circuit breaker: the database refused 101 of the last 200 records of {topic}/0, last: house rule%'"
    );
    wait_until("the whole topic to be paused", 3 * STALL, async || {
        database.count(&paused).await == 2
    })
    .await;
    assert_eq!(database.count(REFUSED).await, 100);
    assert_eq!(scene.committed().await, 100);
    wait_for_reason(
        &ingester,
        topic,
        "paused",
        &["circuit breaker: ", "house rule"],
    )
    .await;
    wait_until("the metric", STALL, async || {
        let (_, scrape) = ingester.get("/metrics").await;
        scrape.contains("sluice_partitions_led{state=\"paused\"} 2")
    })
    .await;
    let status = done(&scene, &["status", "--output", "json"]);
    assert!(status.contains("circuit breaker: "), "{status}");

    // The other partition, and one that appears now, take nothing either.
    scene.kafka().produce(topic, 1, credits("b"));
    scene.kafka().grow_topic(topic, 3).await;
    wait_until(
        "the third partition to be led, and paused",
        STALL,
        async || database.count(&paused).await == 3,
    )
    .await;
    assert_eq!(scene.committed().await, 100);
    assert_eq!(database.count(REFUSED).await, 100);

    // Still broken: what was refused before the operator resumed does not count against it, new failures do.
    assert_eq!(
        done(&scene, &["resume", topic]),
        format!("{topic} goes on: partitions resumed: 3\n")
    );
    wait_until("the topic to be paused again", 3 * STALL, async || {
        let again = format!("SELECT count(*) FROM ledger.partition_leader_locks WHERE topic = '{topic}' AND paused_reason IS NOT NULL");
        database.count(&again).await == 3
    })
    .await;
    assert!((200..=300).contains(&database.count(REFUSED).await));
    mend(&scene).await;
    done(&scene, &["resume", topic, "--why", "mended"]);
    database.caught_up(scene.kafka(), topic, 2, STALL).await;
    let replay = [
        "dlq", "replay", "--topic", topic, "--apply", "--why", "mended",
    ];
    done(&scene, &replay);
    let sum = "SELECT sum(available)::bigint FROM ledger.account_balances";
    assert_eq!(database.count(sum).await, 600);
    let resumed =
        "SELECT count(*) FROM ledger.partition_actions WHERE action = 'RESUME' AND why = 'mended'";
    assert_eq!(database.count(resumed).await, 3);
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_nobody_has_classified_stands_at_its_record_until_it_is_buried_by_hand() {
    let scene = Scene::new(1).await;
    let (topic, database) = (&scene.topic, &scene.database);
    // An internal error, one of a foreign data wrapper, a snapshot too old, a missing right: none is the record's fault.
    for (round, (sqlstate, state)) in [
        ("XX000", "retrying"),
        ("HV000", "retrying"),
        ("42501", "halted"),
    ]
    .into_iter()
    .enumerate()
    {
        let raise = format!("RAISE EXCEPTION 'cache lookup failed' USING ERRCODE = '{sqlstate}';");
        raise_on(&scene, "NEW.account_id = 666", &raise).await;
        let begin = round as i64 * 200;
        let culprit = begin + 77;
        let credits = (begin..begin + 200).map(|n| {
            let account = if n == culprit { 666 } else { n % 7 };
            credit(&format!("e{n}"), account, "1")
        });
        scene.kafka().produce(topic, 0, credits);
        let mut ingester = scene.ingester_with(AT_ONCE);
        let at = format!("stands at offset {culprit}: cache lookup failed (SQLSTATE {sqlstate})");
        let advice = format!("sluice bury {topic}/0 {culprit} --why");
        wait_for_reason(&ingester, topic, state, &[&at, &advice]).await;
        assert_eq!(
            scene.committed().await,
            culprit,
            "what stands before it is committed"
        );
        assert!(ingester.log().contains(&at));
        let why = format!("ticket {round}");
        let bury = [
            "bury",
            &format!("{topic}/0"),
            &culprit.to_string(),
            "--why",
            &why,
        ];
        let said = done(&scene, &bury);
        assert!(said.contains("becomes a dead letter"), "{said}");
        scene.caught_up().await;
        let letter = format!(
            "SELECT count(*) FROM ledger.dead_letters d
             JOIN ledger.event_verdicts v USING (topic, partition, kafka_offset)
             JOIN ledger.dead_letter_actions a ON a.dead_letter_id = d.id
             JOIN ledger.burials b ON b.kafka_offset = d.kafka_offset
             WHERE d.kafka_offset = {culprit} AND d.error_code = 'BURIED' AND v.verdict = 'DEAD' AND v.reason = 'BURIED'
                AND d.error_message LIKE 'buried by postgres: {why}%' AND d.event_id = 'e{culprit}'
                AND a.action = 'BURY' AND a.by_user = 'postgres' AND a.why = '{why}'
                AND b.outcome = 'BURIED' AND b.by_user = 'postgres'"
        );
        assert_eq!(database.count(&letter).await, 1);
        let sent = scene.kafka().read(topic, 0);
        let sent = sent[culprit as usize].message.clone();
        let kept = database
            .client
            .query_one(
                "SELECT key, payload FROM ledger.dead_letters WHERE kafka_offset = $1",
                &[&culprit],
            )
            .await
            .expect("the letter");
        assert_eq!(kept.get::<_, Option<Vec<u8>>>(0), sent.key);
        assert_eq!(kept.get::<_, Option<Vec<u8>>>(1), sent.payload);
        ingester.stop().await;
    }
    assert_eq!(
        database
            .count("SELECT count(*) FROM ledger.dead_letters")
            .await,
        3
    );
    let applied = "SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'APPLIED'";
    assert_eq!(database.count(applied).await, 597);
    mend(&scene).await;
    done(
        &scene,
        &[
            "dlq", "replay", "--code", "BURIED", "--apply", "--why", "mended",
        ],
    );
    assert_eq!(database.count(applied).await, 600);
    scene.verify_invariants().await;
}

/// PostgreSQL has one SQLSTATE for a value too large for an index and for transaction ids that are used up.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_database_is_no_fault_of_the_record_that_meets_it() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let (topic, table, database) = (&scene.topic, &notes.table, &scene.database);
    let limit = r#"RAISE EXCEPTION 'multixact "members" limit exceeded' USING ERRCODE = '54000';"#;
    raise_on(&scene, "true", limit).await;
    let domain = format!(
        "CREATE TRIGGER house_rule BEFORE INSERT ON domain.{table} FOR EACH ROW EXECUTE FUNCTION public.house_rule();
         CREATE INDEX ON domain.{table} (body)"
    );
    execute(&scene, &domain).await;
    let large = noise(6_000);
    let sent = [
        notes.message("small", "small", Some("text"), 0),
        notes.message("large", "large", Some(&large), 0),
    ];
    scene.kafka().produce(topic, 0, [credit("e", 1, "1")]);
    scene.kafka().produce(&notes.topic, 0, sent);
    let settings = [AT_ONCE, &[("EVENT_TOPICS", notes.topic.as_str())]].concat();
    let mut ingester = scene.ingester_with(&settings);
    let letters = "SELECT count(*) FROM ledger.dead_letters";
    for topic in [topic, &notes.topic] {
        let at = "stands at offset 0: multixact";
        wait_for_reason(&ingester, topic, "retrying", &[at, "(SQLSTATE 54000)"]).await;
        assert_eq!(database.committed(topic).await, 0);
    }
    assert_eq!(database.count(letters).await, 0);
    // An index row that is too large is the record's fault: in words on the balances, in truth on the notes.
    execute(
        &scene,
        &format!("DROP TRIGGER house_rule ON domain.{table}"),
    )
    .await;
    let row = r#"RAISE EXCEPTION 'index row size 2800 exceeds btree version 4 maximum 2704 for index "i"' USING ERRCODE = '54000';"#;
    raise_on(&scene, "true", row).await;
    scene.caught_up().await;
    database
        .caught_up(scene.kafka(), &notes.topic, 1, STALL)
        .await;
    let refused = format!(
        "{letters} WHERE (error_code, event_id) IN (('APPLY_FAILED', 'e'), ('HANDLER_FAILED', 'large'))
            AND error_message LIKE 'index row %'"
    );
    assert_eq!(database.count(&refused).await, 2);
    assert_eq!(database.count(letters).await, 2);
    assert_eq!(notes.count(&scene).await, 1);
    mend(&scene).await;
    scene.verify_invariants().await;
    ingester.stop().await;
}

/// Letters that do not compress.
fn noise(length: usize) -> String {
    let mut state = 1_u64;
    let letters = (0..length).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 60) as u8)
    });
    letters.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_the_database_refuses_halts_at_its_offset_with_advice() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let database = &scene.database;
    let refuse = "CREATE FUNCTION public.no_letters() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no letters here'; END $$;
        CREATE TRIGGER no_letters BEFORE INSERT ON ledger.dead_letters FOR EACH ROW EXECUTE FUNCTION public.no_letters()";
    execute(&scene, refuse).await;
    let good = notes.message("good", "good", Some("text"), 0);
    let balances = [credit("good", 1, "1"), Message::of("{")];
    scene.kafka().produce(&scene.topic, 0, balances);
    scene
        .kafka()
        .produce(&notes.topic, 0, [good, Message::of("{")]);
    let settings = [AT_ONCE, &[("EVENT_TOPICS", notes.topic.as_str())]].concat();
    let mut ingester = scene.ingester_with(&settings);
    for topic in [&scene.topic, &notes.topic] {
        let at = "stands at offset 1: no letters here";
        let advice = format!("sluice bury {topic}/0 1 --why");
        wait_for_reason(&ingester, topic, "halted", &[at, &advice]).await;
        assert_eq!(database.committed(topic).await, 1, "{topic}");
    }
    // A letter that is ordered is refused as well, and that says so.
    let place = format!("{}/0", scene.topic);
    done(&scene, &["bury", &place, "1", "--why", "no use"]);
    let refused = ["stands at offset 1", "by order", "no letters here"];
    wait_for_reason(&ingester, &scene.topic, "halted", &refused).await;
    execute(&scene, "DROP TRIGGER no_letters ON ledger.dead_letters").await;
    scene.caught_up().await;
    database
        .caught_up(scene.kafka(), &notes.topic, 1, STALL)
        .await;
    let letters = "SELECT count(*) FROM ledger.dead_letters WHERE kafka_offset = 1";
    assert_eq!(database.count(letters).await, 2);
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burial_takes_exactly_its_record_and_can_be_withdrawn_until_then() {
    let scene = Scene::new(1).await;
    let (topic, database) = (&scene.topic, &scene.database);
    let credits = |range: std::ops::Range<i64>| range.map(|n| credit(&format!("e{n}"), n, "1"));
    scene.kafka().produce(topic, 0, credits(0..10));
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let place = format!("{topic}/0");
    let bury = |offset: &str, rest: &[&str]| {
        let arguments = [&["bury", &place, offset], rest].concat();
        sluice(&scene, &arguments, &database.url)
    };
    let refused = bury("9", &["--why", "too late"]);
    assert!(!refused.status.success());
    assert!(
        words(&refused).contains("offset 9 of"),
        "{}",
        words(&refused)
    );
    assert!(
        words(&refused).contains("is committed already"),
        "{}",
        words(&refused)
    );
    assert_eq!(
        bury("12", &[]).status.code(),
        Some(2),
        "a reason is missing"
    );
    assert!(words(&bury("12", &["--why", " "])).contains("why is missing"));
    for offset in ["12", "14", "15"] {
        assert!(words(&bury(offset, &["--why", "first"])).contains("becomes a dead letter"));
    }
    assert!(words(&bury("12", &["--why", "again"])).contains("already"));
    assert!(words(&bury("14", &["--withdraw"])).contains("not to be buried any more"));
    assert!(words(&bury("14", &["--withdraw"])).contains("was not to be buried"));
    scene.kafka().produce(topic, 0, credits(10..20));
    scene.caught_up().await;
    let dead = "SELECT string_agg(kafka_offset::text, ',' ORDER BY kafka_offset) FROM ledger.dead_letters WHERE error_message = 'buried by postgres: first'";
    let row = database.client.query_one(dead, &[]).await.expect("letters");
    assert_eq!(row.get::<_, &str>(0), "12,15");
    let sum = "SELECT sum(available)::bigint FROM ledger.account_balances";
    assert_eq!(database.count(sum).await, 18);
    let left = "SELECT count(*) FROM ledger.partition_progress WHERE bury_from IS NOT NULL";
    assert_eq!(database.count(left).await, 0);
    // Nobody buries without an order, nor with the ingester's login.
    let writer = database.writer().await;
    for call in [
        "bury_record($1, 0, 99, 'x')",
        "withdraw_burial($1, 0, 99)",
        "reset_breaker($1)",
    ] {
        let refused = writer
            .query(&format!("SELECT sluice.{call}"), &[topic])
            .await;
        let code = refused
            .expect_err(call)
            .code()
            .map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{call}");
    }
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_event_that_meets_trouble_of_the_database_is_buried_by_hand_too() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let table = &notes.table;
    let stumble = format!(
        "CREATE FUNCTION public.stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'fencing token 1 of x is stale: leadership is lost' USING ERRCODE = '55000'; END $$;
         CREATE TRIGGER stumble BEFORE INSERT ON domain.{table} FOR EACH ROW WHEN (NEW.id = 'n40') EXECUTE FUNCTION public.stumble()"
    );
    execute(&scene, &stumble).await;
    let mut ingester =
        scene.ingester_with(&[AT_ONCE, &[("EVENT_TOPICS", notes.topic.as_str())]].concat());
    let sent = (0..100).map(|n| notes.message(&format!("e{n}"), &format!("n{n}"), Some("text"), 0));
    scene
        .kafka()
        .produce(&notes.topic, 0, sent.collect::<Vec<_>>());
    wait_for_reason(
        &ingester,
        &notes.topic,
        "retrying",
        &["stands at offset 40: fencing token", "sluice bury"],
    )
    .await;
    assert_eq!(scene.database.committed(&notes.topic).await, 40);
    assert_eq!(
        scene
            .database
            .count("SELECT count(*) FROM ledger.dead_letters")
            .await,
        0
    );
    done(
        &scene,
        &[
            "bury",
            &format!("{}/0", notes.topic),
            "40",
            "--why",
            "it stumbles",
        ],
    );
    let (kafka, database) = (scene.kafka(), &scene.database);
    database.caught_up(kafka, &notes.topic, 1, STALL).await;
    assert_eq!(notes.count(&scene).await, 99);
    let buried = "SELECT count(*) FROM ledger.dead_letters WHERE error_code = 'BURIED' AND event_id = 'e40' AND kafka_offset = 40";
    assert_eq!(database.count(buried).await, 1);
    assert!(
        !ingester.log().contains("leadership lost"),
        "{}",
        ingester.log_tail()
    );
    execute(&scene, &format!("DROP TRIGGER stumble ON domain.{table}")).await;
    done(
        &scene,
        &[
            "dlq",
            "replay",
            "--topic",
            &notes.topic,
            "--apply",
            "--why",
            "mended",
        ],
    );
    assert_eq!(notes.count(&scene).await, 100);
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_raises_the_fences_sqlstate_and_words_is_not_leadership_lost() {
    let scene = Scene::new(2).await;
    let (topic, database) = (&scene.topic, &scene.database);
    let credits = |from: i64| (from..from + 10).map(|n| credit(&format!("e{n}"), n % 5, "1"));
    scene.kafka().produce(topic, 0, credits(0));
    let mut ingester = scene.ingester_with(AT_ONCE);
    scene.caught_up().await;
    let before = database.progress(topic).await;
    let forged = "RAISE EXCEPTION 'fencing token 1 of x is stale: leadership is lost' USING ERRCODE = '55000';";
    for (offset, trouble, end) in [
        (
            10,
            "ALTER TABLE ledger.account_balances REPLICA IDENTITY NOTHING; CREATE PUBLICATION all_of_it FOR ALL TABLES",
            "DROP PUBLICATION all_of_it; ALTER TABLE ledger.account_balances REPLICA IDENTITY DEFAULT",
        ),
        (20, "", "DROP TRIGGER house_rule ON ledger.account_balances"),
    ] {
        if trouble.is_empty() {
            raise_on(&scene, "true", forged).await;
        }
        execute(&scene, trouble).await;
        scene.kafka().produce(topic, 0, credits(offset));
        let at = format!("stands at offset {offset}: ");
        wait_for_reason(&ingester, topic, "retrying", &[&at, "(SQLSTATE 55000)"]).await;
        execute(&scene, end).await;
        scene.caught_up().await;
    }
    let after = database.progress(topic).await;
    for number in [0, 1] {
        assert_eq!(
            after[&number].fencing_token, before[&number].fencing_token,
            "{number}"
        );
    }
    assert!(
        !ingester.log().contains("leadership lost"),
        "{}",
        ingester.log_tail()
    );
    assert_eq!(
        database
            .count("SELECT count(*) FROM ledger.dead_letters")
            .await,
        0
    );
    scene.verify_invariants().await;
    ingester.stop().await;
}

/// A pgbouncer of its own in front of the scene's PostgreSQL.
struct Pooler {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Pooler {
    async fn start(scene: &Scene, mode: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = scene.stack.dir.join(proofs::stack::unique("pgbouncer"));
        std::fs::create_dir(&folder).expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let login = &scene.stack.ingester;
        let users = folder.join("users");
        let line = format!("\"{}\" \"{}\"\n", login.user, login.password);
        std::fs::write(&users, line).expect("a file");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = plain\nauth_file = {}\npool_mode = {mode}\n",
            scene.stack.postgres_port,
            users.display()
        );
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("a file");
        for (path, mode) in [(&folder, 0o755), (&users, 0o644), (&file, 0o644)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, permissions).expect("ours");
        }
        let log = std::fs::File::create(folder.join("log")).expect("a file");
        let program = Path::new("/usr/sbin/pgbouncer");
        assert!(
            program.exists(),
            "pgbouncer is not installed: run make setup"
        );
        let mut command = Command::new(program);
        // It refuses to run as root.
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("pgbouncer runs");
        let pooler = Self {
            child,
            folder,
            port,
        };
        wait_until("pgbouncer to listen", STALL, async || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_named_in_one_line_by_check_and_run() {
    let scene = Scene::new(1).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("e", 1, "1")]);
    for mode in ["transaction", "statement"] {
        let pooler = Pooler::start(&scene, mode).await;
        let url = scene.database.url_through(&scene.stack, pooler.port);
        // Others are at work through it as well.
        let busy = connect(&url).await;
        let output = sluice(&scene, &["check"], &url);
        let said: Vec<String> = words(&output)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(output.status.code(), Some(1), "{said:?}");
        assert!(
            said.join(" ").contains("not its own"),
            "{mode}: {}",
            said.join(" ")
        );
        let mut ingester = scene.ingester_with(&[("DATABASE_URL", &url)]);
        let status = ingester.ended(Duration::from_secs(20)).await;
        assert_eq!(status.code(), Some(1));
        let log = ingester.log();
        assert_eq!(
            log.matches("a pooler in transaction or statement mode")
                .count(),
            1,
            "{log}"
        );
        drop(busy);
    }
    assert_eq!(scene.committed().await, 0);
    // In session mode the sessions are its own.
    let pooler = Pooler::start(&scene, "session").await;
    let url = scene.database.url_through(&scene.stack, pooler.port);
    let mut ingester = scene.ingester_with(&[("DATABASE_URL", &url)]);
    scene.caught_up().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_dropped_with_all_that_depends_on_it_comes_back_whole_by_migrate() {
    let scene = Scene::new(1).await;
    let credits = |from: i64| (from..from + 10).map(|n| credit(&format!("e{n}"), n, "1"));
    scene.kafka().produce(&scene.topic, 0, credits(0));
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    execute(&scene, "DROP EXTENSION sluice CASCADE").await;
    scene.kafka().produce(&scene.topic, 0, credits(10));
    // What a hasty hand does first: functions are there again, and what belongs to the tables is not.
    execute(&scene, "CREATE EXTENSION sluice").await;
    let (fits, said) = told_by_check(&scene);
    for missing in [
        "trigger capture of ledger.staging_balance_changes is missing",
        "view ledger.partition_status is missing",
    ] {
        assert!(!fits && said.contains(missing), "{missing}: {said}");
    }
    let again = scene.ingester().ended(Duration::from_secs(20)).await;
    assert_eq!(again.code(), Some(1), "a new one says so, too");
    execute(&scene, "DROP EXTENSION sluice CASCADE").await;
    let migrated = done(&scene, &["migrate"]);
    for restored in [
        "restored trigger capture of ledger.staging_balance_changes",
        "restored view ledger.partition_status",
    ] {
        assert!(migrated.contains(restored), "{restored}: {migrated}");
    }
    let (fits, said) = told_by_check(&scene);
    assert!(fits, "{said}");
    scene.caught_up().await;
    let sum = "SELECT sum(available)::bigint FROM ledger.account_balances";
    assert_eq!(scene.database.count(sum).await, 20);
    let led = "SELECT count(*) FROM ledger.partition_status WHERE leader_svc_id IS NOT NULL";
    assert_eq!(scene.database.count(led).await, 1);
    assert!(done(&scene, &["status", "--output", "json"]).contains(&scene.topic));
    let whole = "SELECT count(*) FROM pg_class c
        WHERE c.oid = 'ledger.partition_status'::regclass AND c.relowner = 'sluice_owner'::regrole
            AND has_table_privilege('sluice_writer', c.oid, 'SELECT') AND has_table_privilege('sluice_reader', c.oid, 'SELECT')
            AND NOT has_table_privilege('sluice_writer', c.oid, 'INSERT, UPDATE, DELETE')
            AND obj_description(c.oid) LIKE 'Each partition:%' AND col_description(c.oid, 1) IS NOT NULL";
    assert_eq!(scene.database.count(whole).await, 1);
    assert!(done(&scene, &["migrate"]).contains("up to date"));
    scene.verify_invariants().await;
    ingester.stop().await;
}

/// A function of a trigger, a trigger that guards money, and a view that another one reads.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_of_the_ledger_somebody_dropped_is_named_by_check_and_made_anew_by_migrate() {
    let scene = Scene::new(1).await;
    let drop = "DROP FUNCTION ledger.refuse_balance_topic() CASCADE; DROP VIEW ledger.partition_halts CASCADE;
        DROP VIEW domain.live_users CASCADE";
    execute(&scene, drop).await;
    let (fits, said) = told_by_check(&scene);
    for missing in [
        "trigger refuse_balance_topic of ledger.event_handlers is missing",
        "view ledger.partition_halts is missing",
        "view ledger.partition_status is missing",
    ] {
        assert!(!fits && said.contains(missing), "{missing}: {said}");
    }
    assert!(!said.contains("live_users"), "no ingester reads it: {said}");
    let migrated = done(&scene, &["migrate"]);
    for restored in [
        "restored function ledger.refuse_balance_topic",
        "restored trigger refuse_balance_topic of ledger.event_handlers",
        "restored view ledger.partition_halts",
        "restored view ledger.partition_status",
        "restored view domain.live_users",
    ] {
        assert!(migrated.contains(restored), "{restored}: {migrated}");
    }
    let (fits, said) = told_by_check(&scene);
    assert!(fits, "{said}");
    assert!(done(&scene, &["migrate"]).contains("up to date"));
    let guarded = "SELECT sluice.register_handler('balance.changed', 'domain.on_user_created')";
    assert!(
        scene.database.client.execute(guarded, &[]).await.is_err(),
        "a balance event never goes to a handler"
    );
    let mut ingester = scene.ingester();
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("e", 1, "1")]);
    scene.caught_up().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_each_object_that_the_ingester_lacks() {
    let scene = Scene::new(1).await;
    let (fits, said) = told_by_check(&scene);
    assert!(fits, "{said}");
    for (take, missing, give) in [
        (
            "ALTER TABLE ledger.staging_balance_changes DISABLE TRIGGER capture",
            "trigger capture of ledger.staging_balance_changes is disabled",
            "ALTER TABLE ledger.staging_balance_changes ENABLE TRIGGER capture",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION sluice.heartbeat(text, text[], interval) FROM sluice_writer",
            "GRANT EXECUTE ON FUNCTION sluice.heartbeat TO sluice_writer",
            "GRANT EXECUTE ON FUNCTION sluice.heartbeat(text, text[], interval) TO sluice_writer",
        ),
        (
            "ALTER FUNCTION sluice.replay_letters(bigint[], bytea) RENAME TO replayed_letters",
            "function sluice.replay_letters is missing",
            "ALTER FUNCTION sluice.replayed_letters(bigint[], bytea) RENAME TO replay_letters",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION sluice.blames_record(text, text) FROM sluice_handler",
            "sluice_handler may not call sluice.blames_record",
            "GRANT EXECUTE ON FUNCTION sluice.blames_record(text, text) TO sluice_handler",
        ),
        (
            "REVOKE INSERT ON ledger.staging_balance_changes FROM sluice_writer",
            "no right to INSERT ledger.staging_balance_changes.piece",
            "GRANT INSERT ON ledger.staging_balance_changes TO sluice_writer",
        ),
        (
            "ALTER TABLE ledger.balance_log RENAME COLUMN source TO sender",
            "column ledger.balance_log.source is missing",
            "ALTER TABLE ledger.balance_log RENAME COLUMN sender TO source",
        ),
        (
            "ALTER TABLE ledger.partition_progress RENAME COLUMN is_domain TO is_other",
            "column ledger.partition_progress.is_domain is missing",
            "ALTER TABLE ledger.partition_progress RENAME COLUMN is_other TO is_domain",
        ),
        (
            "REVOKE SELECT ON ledger.partition_halts FROM sluice_writer",
            "GRANT SELECT (reason) ON ledger.partition_halts TO sluice_writer",
            "GRANT SELECT ON ledger.partition_halts TO sluice_writer",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION sluice.partition_position(text, integer) FROM sluice_writer",
            "GRANT EXECUTE ON FUNCTION sluice.partition_position TO sluice_writer",
            "GRANT EXECUTE ON FUNCTION sluice.partition_position(text, integer) TO sluice_writer",
        ),
        (
            "ALTER VIEW ledger.live_instances RENAME TO instances",
            "view ledger.live_instances is missing",
            "ALTER VIEW ledger.instances RENAME TO live_instances",
        ),
    ] {
        execute(&scene, take).await;
        let (fits, said) = told_by_check(&scene);
        assert!(!fits && said.contains(missing), "{take}: {said}");
        execute(&scene, give).await;
    }
    assert!(told_by_check(&scene).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_given_up_hold_pruning_until_somebody_says_so_and_it_says_why() {
    let scene = Scene::new(1).await;
    let (topic, database) = (&scene.topic, &scene.database);
    let credits = |from: i64| (from..from + 10).map(|n| credit(&format!("e{n}"), n, "1"));
    let results = proofs::stack::unique("results");
    scene.kafka().create_topic(&results, 1, &[]).await;
    scene.kafka().produce(topic, 0, credits(0));
    let mut ingester = scene.ingester_with(&[("RESULTS_TOPIC", &results)]);
    wait_until("the results to be told", STALL, async || {
        let told = "SELECT count(*) FROM ledger.results_progress WHERE next_offset = 10";
        database.count(told).await == 1
    })
    .await;
    ingester.stop().await;
    let mut ingester = scene.ingester();
    scene.kafka().produce(topic, 0, credits(10));
    scene.caught_up().await;
    ingester.stop().await;
    scene.kafka().delete_records(topic, 0, 20).await;
    let prune = || {
        let arguments = ["prune", "--topic", topic, "--older-than", "0s", "--apply"];
        sluice(&scene, &arguments, &database.url)
    };
    let pruned = "SELECT pruned_below FROM ledger.retention";
    let held = prune();
    assert!(held.status.success(), "{}", words(&held));
    let said = format!(
        "{topic}/0: records from offset 10 on stay, because RESULTS_TOPIC does not have their verdicts yet"
    );
    assert!(words(&held).contains(&said), "{}", words(&held));
    assert_eq!(database.count(pruned).await, 10);
    let end = format!("SELECT sluice.end_results('{topic}')::bigint");
    assert_eq!(database.count(&end).await, 1);
    let free = prune();
    assert!(!words(&free).contains("RESULTS_TOPIC"), "{}", words(&free));
    assert_eq!(database.count(pruned).await, 20);
    scene.verify_invariants().await;
}
