//! From version 0.6.0 to this one: what it ends in, and while events come in.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proofs::compare::{Accounts, Source, compare_topics};
use proofs::database::{Database, migrate};
use proofs::deeds::Deeds;
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::{Stack, repository, sluice_command, unique};
use proofs::wait::wait_until;
use proofs::watch::led_by;
use proofs::workload::{Message, Workload, credit};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;

use crate::earlier::database_of_0_6_0;

#[tokio::test(flavor = "multi_thread")]
async fn an_ingester_that_is_newer_than_the_database_waits_for_the_migration() {
    let stack = Stack::get();
    let database = Database::create_empty(&stack).await;
    // As far as an ingester looks at first.
    let older = "CREATE EXTENSION sluice; UPDATE pg_extension SET extversion = '0.6.0' WHERE extname = 'sluice'";
    let created = database.client.batch_execute(older).await;
    created.expect("a superuser may");
    let scene = Scene::with_database(stack, database, 1, &[]).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("e", 1, "5")]);
    let mut ingester = scene.ingester();
    let waits = "waiting for a migration: the extension is of version 0.6.0, this binary wants";
    ingester.logs(waits, STALL).await;
    let (status, _) = ingester.get("/readyz").await;
    assert_eq!(status, 503, "it is not ready");
    // Half of a migration: the schema is there, its grants are not.
    let half = format!(
        "UPDATE pg_extension SET extversion = '{}' WHERE extname = 'sluice'; CREATE SCHEMA ledger",
        env!("CARGO_PKG_VERSION")
    );
    let client = &scene.database.client;
    client.batch_execute(&half).await.expect("a superuser may");
    ingester
        .logs("waiting for the end of a migration", STALL)
        .await;
    let again = "DROP SCHEMA ledger";
    client.batch_execute(again).await.expect("it is empty");
    migrate(&scene.stack, &scene.database.name).await;
    scene.verify(Accounts::OfOnePartition).await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingester_that_is_older_than_the_database_says_so_and_ends() {
    let scene = Scene::new(1).await;
    // As the next version's ALTER EXTENSION leaves it.
    let newer = "UPDATE pg_extension SET extversion = '99.0.0' WHERE extname = 'sluice'";
    scene
        .database
        .client
        .execute(newer, &[])
        .await
        .expect("a superuser may");
    let mut ingester = scene.ingester();
    let status = ingester.ended(STALL).await;
    assert_eq!(status.code(), Some(1));
    let told = "the extension is of version 99.0.0, this binary of";
    assert!(ingester.log().contains(told), "{}", ingester.log());
}

/// What the catalogs tell of Sluice, one line a fact.
async fn catalog(database: &Database) -> BTreeSet<String> {
    let query = include_str!("../../upgrade/catalog.sql");
    let session = database.session().await;
    // So that definitions name every schema.
    let path = session.batch_execute("SET search_path = pg_catalog").await;
    path.expect("a setting");
    let rows = session.query(query, &[]).await.expect("the catalogs");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The places of columns, which are no facts of `catalog`: one line a table or view.
async fn column_orders(database: &Database) -> BTreeSet<String> {
    const ORDERS: &str = "SELECT format('%s: %s', attrelid::regclass, string_agg(attname, ' ' ORDER BY attnum)) FROM pg_attribute
        WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (
            SELECT oid FROM pg_class
            WHERE relkind IN ('r', 'v') AND relnamespace IN ('ledger'::regnamespace, 'domain'::regnamespace))
        GROUP BY attrelid";
    let rows = database.client.query(ORDERS, &[]).await.expect("columns");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The functions of a database, a line each as in `bridge/functions-0.6.0`.
async fn functions(database: &Database) -> BTreeSet<String> {
    const FUNCTIONS: &str = "
        SELECT concat_ws(' ', n.nspname || '.' || p.proname, md5(p.prosrc), p.provolatile,
            CASE WHEN p.prosecdef THEN 'owner' ELSE 'caller' END,
            nullif(array_to_string(ARRAY(SELECT s FROM unnest(p.proconfig) s ORDER BY s COLLATE \"C\"), '; '), ''))
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
        WHERE n.nspname IN ('sluice', 'ledger', 'domain') AND l.lanname IN ('sql', 'plpgsql')";
    let rows = database.client.query(FUNCTIONS, &[]).await;
    rows.expect("functions")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// By them a migration tells which functions of such a database somebody replaced.
#[tokio::test(flavor = "multi_thread")]
async fn the_functions_of_0_6_0_are_listed_as_a_database_of_it_has_them() {
    let database = database_of_0_6_0(&Stack::get()).await;
    let found: Vec<String> = functions(&database).await.into_iter().collect();
    let listed = include_str!("../../../bridge/functions-0.6.0");
    let listed: Vec<&str> = listed.lines().collect();
    assert_eq!(found, listed, "{}", found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_came_from_0_6_0_is_the_same_as_a_new_one_to_the_last_grant_and_comment() {
    let stack = Stack::get();
    let bridged = database_of_0_6_0(&stack).await;
    let behind = catalog(&bridged).await;
    let is_old = |fact: &String| fact.starts_with("extension sluice: version 0.6.0 ");
    assert!(behind.iter().any(is_old));
    migrate(&stack, &bridged.name).await;
    let new = Database::create_empty(&stack).await;
    migrate(&stack, &new.name).await;
    let (ours, wanted) = (catalog(&bridged).await, catalog(&new).await);
    let (lacks, has) = (wanted.difference(&ours), ours.difference(&wanted));
    let differences: Vec<String> = lacks
        .map(|fact| format!("lacks {fact}"))
        .chain(has.map(|fact| format!("has {fact}")))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(wanted.len() > 2_000, "{}", wanted.len());
    assert_ne!(behind, wanted);
    // What came later stands last in a new database, too, so that a dump of one fits the other.
    assert_eq!(column_orders(&bridged).await, column_orders(&new).await);
}

/// Tables of a version that was never released, or of another program that keeps its history the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_neither_of_0_6_0_nor_of_this_line_is_refused_and_nothing_is_changed() {
    let stack = Stack::get();
    let database = Database::create(&stack).await;
    let other = "UPDATE ledger.schema_history SET checksum = '1' WHERE version = 1";
    let changed = database.client.batch_execute(other).await;
    changed.expect("refinery's table");
    let before = catalog(&database).await;
    for command in ["migrate", "check"] {
        let environment = [
            ("ADMIN_DATABASE_URL", database.admin_url.as_str()),
            ("DATABASE_URL", database.admin_url.as_str()),
            ("KAFKA_BROKERS", stack.kafka.brokers.as_str()),
        ];
        let output = sluice_command(&[command], &environment).output();
        let output = output.expect("sluice can be run");
        let printed =
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success(), "{printed}");
        let told = "was never released";
        assert!(printed.contains(told), "{printed}");
    }
    assert_eq!(catalog(&database).await, before);
}

/// A migration of it was interrupted, or came with a newer version.
#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_is_behind_is_named_by_check() {
    let stack = Stack::get();
    let database = Database::create(&stack).await;
    let back = "DELETE FROM ledger.platform_schema_history WHERE version = 2";
    let changed = database.client.batch_execute(back).await;
    changed.expect("refinery's table");
    let environment = [
        ("DATABASE_URL", database.url.as_str()),
        ("KAFKA_BROKERS", stack.kafka.brokers.as_str()),
    ];
    let output = sluice_command(&["check"], &environment).output();
    let output = output.expect("sluice can be run");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{printed}");
    // The table breaks lines.
    let words: Vec<&str> = printed.split_whitespace().collect();
    let told = "family platform is at migration 1 of 2";
    assert!(words.join(" ").contains(told), "{printed}");
}

/// A file of version 0.6.0, `sluice` or `sluice.so`, built by `tests/upgrade/run.sh`.
fn previous(file: &str) -> PathBuf {
    let folder = std::env::var_os("SLUICE_PREVIOUS").expect("SLUICE_PREVIOUS: run make upgrade");
    PathBuf::from(folder).join(file)
}

/// As a package does it: the library appears at once and whole, and sessions keep the one that they have.
fn install_library(file: &Path) {
    let folder = std::env::var_os("SLUICE_LIBDIR").expect("SLUICE_LIBDIR: run make upgrade");
    let (new, place) = (
        Path::new(&folder).join("sluice.so.new"),
        Path::new(&folder).join("sluice.so"),
    );
    std::fs::copy(file, &new).expect("make build");
    std::fs::rename(new, place).expect("one folder");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs version 0.6.0: make upgrade"]
async fn an_upgrade_under_load_with_old_and_new_ingesters_loses_nothing() {
    let stack = Stack::get();
    let database = database_of_0_6_0(&stack).await;
    let grant = format!("GRANT sluice_writer TO {}", stack.ingester.user);
    let granted = database.client.batch_execute(&grant).await;
    granted.expect("a superuser may");
    // The library that the database was created with knows both versions; that of 0.6.0 serves it from now on.
    install_library(&previous("sluice.so"));
    let scene = Scene::with_database(stack, database, 4, &[]).await;
    let follows = unique("user.followed");
    let register =
        format!("SELECT sluice.register_handler('{follows}', 'domain.on_user_followed')");
    let registered = scene.database.client.batch_execute(&register).await;
    registered.expect("a function of the platform");
    scene.kafka().create_topic(&follows, 2, &[]).await;
    let settings = [("EVENT_TOPICS", follows.as_str())];
    let old = || {
        let (url, topic) = (&scene.database.url, &scene.topic);
        Ingester::start_build(previous("sluice"), &scene.stack, url, topic, &settings)
    };
    let mut olds = [old(), old()];
    let feed = scene.feed(&Workload::fitting_0_6_0(seed()), 3_000);
    let (domain_events, stop) = feed_follows(&scene, &follows);
    scene.committed_beyond(6_000).await;
    let goes_on = async || {
        scene
            .committed_beyond(scene.committed().await + 6_000)
            .await
    };

    // The new library beside the old functions and tables: for sessions that are there and for fresh ones.
    install_library(&repository().join("target/release/libsluice_pg.so"));
    goes_on().await;
    olds[0].kill9();
    olds[0].start_again();
    goes_on().await;

    let mut new = scene.ingester_with(&settings);
    let waits = "waiting for a migration: the extension is of version 0.6.0";
    new.logs(waits, STALL).await;
    let start = Instant::now();
    migrate(&scene.stack, &scene.database.name).await;
    println!("migrated under load in {:?}", start.elapsed());
    let names = [&olds[0].service_id, &olds[1].service_id, &new.service_id].map(String::clone);
    let names = names.each_ref().map(String::as_str);
    wait_until("each leads two of the six partitions", STALL, async || {
        for name in names {
            let led = led_by(&scene.database, &scene.topic, name).await.len()
                + led_by(&scene.database, &follows, name).await.len();
            if led != 2 {
                return false;
            }
        }
        true
    })
    .await;
    goes_on().await;

    // One by one the old ones go; one that starts again says that its time is over.
    olds[0].stop().await;
    olds[0].start_again();
    let status = olds[0].ended(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(1));
    let told = "this binary of 0.6.0";
    assert!(olds[0].log().contains(told), "{}", olds[0].log_tail());
    olds[1].stop().await;
    // An old ingester stages no times, whatever the tables are.
    let timed_from = committed_offsets(&scene).await;
    goes_on().await;
    feed.stop().await;
    stop.send(()).expect("it goes on until it is told");
    let followed = domain_events.await.expect("all were sent");
    scene.caught_up().await;
    let deeds = Arc::new(Deeds {
        timed_from,
        ..Deeds::default()
    });
    let topics = [(
        scene.topic.as_str(),
        scene.partitions,
        Accounts::OfOnePartition,
    )];
    let report = compare_topics(
        Source::Topic,
        &scene.stack,
        &scene.database,
        &topics,
        &deeds,
    )
    .await;
    report.assert_none();
    assert_mixed(&report);
    scene.verify_invariants().await;
    scene.database.audit(&scene.topic).await;
    // Neither what old sessions did nor what new ones do refuses one of them.
    let applied = format!(
        "SELECT count(*) FROM ledger.event_verdicts WHERE topic = '{follows}' AND verdict = 'APPLIED'"
    );
    wait_until("every follow is applied", STALL, async || {
        scene.database.count(&applied).await == followed
    })
    .await;
    let rows = "SELECT count(*) FROM domain.follows WHERE following";
    assert_eq!(scene.database.count(rows).await, followed);
    new.stop().await;
}

/// How far each partition of the balance topic is committed.
async fn committed_offsets(scene: &Scene) -> HashMap<(String, i32), i64> {
    const OFFSETS: &str =
        "SELECT partition, commit_offset FROM ledger.partition_leader_locks WHERE topic = $1";
    let rows = scene.database.client.query(OFFSETS, &[&scene.topic]).await;
    let rows = rows.expect("a view of the contract");
    let offset = |row: &tokio_postgres::Row| ((scene.topic.clone(), row.get(0)), row.get(1));
    rows.iter().map(offset).collect()
}

/// Follows of ever new pairs, 1,000 a second, until the sender is told to stop; answers how many there were.
fn feed_follows(scene: &Scene, topic: &str) -> (JoinHandle<i64>, oneshot::Sender<()>) {
    let (stop, mut stopped) = oneshot::channel();
    let (kafka, topic) = (scene.kafka().clone(), topic.to_owned());
    let feed = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let mut sent = 0;
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            ticks.tick().await;
            let follow = |number: i64| {
                let followee = number / 2 + 1_000_000;
                let data = format!(r#"{{"followerId":"u{number}","followeeId":"u{followee}"}}"#);
                let head = format!(r#""eventId":"follow-{number}","eventType":"{topic}""#);
                Message::of(format!(r#"{{{head},"data":{data}}}"#))
            };
            let partition = (sent / 20 % 2) as i32;
            tokio::task::block_in_place(|| {
                kafka.produce(&topic, partition, (sent..sent + 20).map(follow))
            });
            sent += 20;
        }
        sent
    });
    (feed, stop)
}
