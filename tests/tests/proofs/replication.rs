//! A subscriber of all tables of `ledger` can apply everything that is decoded from the WAL.

use std::time::Duration;

use proofs::database::Database;
use proofs::rng::seed;
use proofs::scene::Scene;
use proofs::stack::unique;
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload, credit};

const PATIENCE: Duration = Duration::from_secs(60);

/// All that a publication can have.
const TABLES: &str = "SELECT c.relname::text FROM pg_class c
    WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY 1";

async fn tables(database: &Database) -> Vec<String> {
    let rows = database.client.query(TABLES, &[]).await.expect("pg_class");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Rows of a table, and what they say.
async fn content(database: &Database, table: &str) -> String {
    let content = format!(
        "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM ledger.{table} t"
    );
    let row = database.client.query_one(&content, &[]).await;
    row.expect("a table").get(0)
}

async fn differing(publisher: &Database, subscriber: &Database) -> Vec<String> {
    let mut differing = Vec::new();
    for table in tables(publisher).await {
        if content(publisher, &table).await != content(subscriber, &table).await {
            differing.push(table);
        }
    }
    differing
}

/// Restarts PostgreSQL, which a `wal_level` asks for.
async fn restart_with(scene: &mut Scene, setting: &str) {
    let client = &scene.database.client;
    client
        .batch_execute(setting)
        .await
        .expect("a superuser may");
    scene.stack.control(&["postgres-stop", "fast"]).await;
    scene.stack.control(&["postgres-start"]).await;
    scene.database.reconnect().await;
}

async fn subscribe(publisher: &Database, subscriber: &Database, name: &str) {
    // In one server the slot has to be made by itself, in a transaction that has written nothing.
    for statement in [
        format!("CREATE PUBLICATION {name} FOR TABLES IN SCHEMA ledger"),
        format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"),
    ] {
        let done = publisher.client.batch_execute(&statement).await;
        done.expect(&statement);
    }
    let there: Vec<String> = tables(subscriber).await;
    let there = there.iter().map(|table| format!("ledger.{table}"));
    let there = there.collect::<Vec<_>>().join(", ");
    // What migrations wrote comes from the publisher.
    let empty = format!("TRUNCATE {there}");
    let emptied = subscriber.client.batch_execute(&empty).await;
    emptied.expect("emptied");
    let subscribe = format!(
        "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION {name} WITH (create_slot = false, slot_name = '{name}')",
        publisher.admin_url
    );
    let subscribed = subscriber.client.batch_execute(&subscribe).await;
    subscribed.expect("a subscription");
}

async fn unsubscribe(publisher: &Database, subscriber: &Database, name: &str) {
    for statement in [
        format!("ALTER SUBSCRIPTION {name} DISABLE"),
        format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
        format!("DROP SUBSCRIPTION {name}"),
    ] {
        let done = subscriber.client.batch_execute(&statement).await;
        done.expect(&statement);
    }
    let drop = format!("SELECT pg_drop_replication_slot('{name}')");
    wait_until("the slot to be free", PATIENCE, async || {
        publisher.client.batch_execute(&drop).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_of_all_tables_ends_equal_duplicates_included() {
    let mut scene = Scene::new(3).await;
    restart_with(&mut scene, "ALTER SYSTEM SET wal_level TO logical").await;
    let subscriber = Database::create(&scene.stack).await;
    let name = unique("subscriber");
    subscribe(&scene.database, &subscriber, &name).await;

    scene
        .fill(&Workload::shared_by_partitions(seed(), 40), 12_000)
        .await;
    for partition in 0..3 {
        // The same events on all partitions, and each twice.
        let events: Vec<Message> = (0..2_000)
            .map(|number| credit(&format!("everywhere {}", number % 1_000), number % 10, "1"))
            .collect();
        scene.kafka().produce(&scene.topic, partition, events);
    }
    let settings = [("BATCH_SIZE", "300"), ("BATCHING_DELAY_MS", "0")];
    let mut ingester = scene.ingester_with(&settings);
    scene.caught_up().await;
    scene.verify_invariants().await;
    let duplicates = "SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'DUPLICATE'";
    assert!(scene.database.count(duplicates).await >= 5_000);
    ingester.stop().await;

    let broke = "SELECT coalesce(sum(apply_error_count + sync_error_count), 0)::bigint FROM pg_stat_subscription_stats";
    wait_until("the subscriber to be equal", PATIENCE, async || {
        assert_eq!(
            subscriber.count(broke).await,
            0,
            "the subscriber has stopped"
        );
        differing(&scene.database, &subscriber).await.is_empty()
    })
    .await;
    unsubscribe(&scene.database, &subscriber, &name).await;
    restart_with(&mut scene, "ALTER SYSTEM RESET wal_level").await;
}
