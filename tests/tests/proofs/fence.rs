//! Two plain sessions at one fence: the result for each, in every order.

use std::time::{Duration, Instant};

use proofs::database::Database;
use proofs::stack::Stack;
use proofs::wait::wait_until;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

const ACQUIRE: &str = "SELECT acquired, fencing_token, lease_id, commit_offset, leader_svc_id
    FROM sluice.acquire_partition_lock('t', 0, $1, $2::text::interval)";
const RENEW: &str = "SELECT sluice.renew_partition_lock('t', 0, $1, $2, '1 minute') IS NOT NULL";
const RELEASE: &str = "SELECT sluice.release_partition_lock('t', 0, $1, $2)";
const APPLY: &str = "SELECT outcome, commit_offset FROM sluice.apply_balance_batch('t', 0, $1, $2, $3, $4, $5, 0, NULL)";

#[derive(Debug, Clone)]
struct Lock {
    acquired: bool,
    token: Option<i64>,
    lease_id: Option<Uuid>,
    commit_offset: Option<i64>,
    leader: Option<String>,
}

async fn acquire(session: &Client, service_id: &str, lease: &str) -> Lock {
    let row = session
        .query_one(ACQUIRE, &[&service_id, &lease])
        .await
        .expect("acquiring is no error");
    Lock {
        acquired: row.get(0),
        token: row.get(1),
        lease_id: row.get(2),
        commit_offset: row.get(3),
        leader: row.get(4),
    }
}

/// Moves the offset with an empty batch, which is enough to try the fence.
async fn apply(session: &Client, lock: &Lock, from: i64, next: i64) -> Result<Row, Error> {
    session
        .query_one(APPLY, &[&lock.token, &lock.lease_id, &from, &next, &0i64])
        .await
}

async fn renew(session: &Client, lock: &Lock) -> bool {
    session
        .query_one(RENEW, &[&lock.token, &lock.lease_id])
        .await
        .expect("renewing is no error")
        .get(0)
}

async fn release(session: &Client, lock: &Lock) -> bool {
    session
        .query_one(RELEASE, &[&lock.token, &lock.lease_id])
        .await
        .expect("releasing is no error")
        .get(0)
}

fn assert_stale(result: Result<Row, Error>) {
    let error = result.expect_err("a stale fencing token is an error");
    assert_eq!(
        error.code(),
        Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE),
        "{error:?}"
    );
}

async fn database() -> Database {
    Database::create(&Stack::get()).await
}

async fn commit_offset(database: &Database) -> i64 {
    database.committed("t").await
}

/// Runs `ours` while `theirs` is blocked or on its way.
async fn until_active(database: &Database, needle: &str) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%{needle}%' AND pid <> pg_backend_pid()"
    );
    wait_until(
        &format!("{needle} to be under way"),
        Duration::from_secs(5),
        async || database.count(&query).await > 0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_other_is_told_who() {
    let database = database().await;
    let (a, b) = (database.writer().await, database.writer().await);
    let first = acquire(&a, "a", "1 minute").await;
    assert!(first.acquired);
    assert_eq!(
        (first.commit_offset, first.leader.as_deref()),
        (Some(0), Some("a"))
    );
    let second = acquire(&b, "b", "1 minute").await;
    assert!(!second.acquired);
    assert_eq!(
        (second.leader.as_deref(), second.token, second.lease_id),
        (Some("a"), None, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_goes_to_the_next_and_the_former_token_is_stale() {
    let database = database().await;
    let (a, b) = (database.writer().await, database.writer().await);
    let old = acquire(&a, "a", "150 milliseconds").await;
    apply(&a, &old, 0, 5).await.expect("the leader may");
    let mut new = None;
    wait_until("the lease to run out", Duration::from_secs(5), async || {
        new = Some(acquire(&b, "b", "1 minute").await).filter(|lock| lock.acquired);
        new.is_some()
    })
    .await;
    let new = new.expect("acquired");
    assert_eq!(new.commit_offset, Some(5));
    assert!(new.token > old.token && new.lease_id != old.lease_id);
    assert_stale(apply(&a, &old, 5, 9).await);
    // Also the batch that it had committed before is no longer its own to ask about.
    assert_stale(apply(&a, &old, 0, 5).await);
    assert!(!renew(&a, &old).await && !release(&a, &old).await);
    assert_eq!(commit_offset(&database).await, 5);
    apply(&b, &new, 5, 6).await.expect("the leader may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_session_is_gone_is_replaced_without_waiting_for_its_lease() {
    let database = database().await;
    let (a, b) = (database.writer().await, database.writer().await);
    let old = acquire(&a, "a", "1 hour").await;
    drop(a);
    let took = wait_until(
        "the dead leader to be noticed",
        Duration::from_secs(5),
        async || acquire(&b, "b", "1 hour").await.acquired,
    )
    .await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert_stale(apply(&b, &old, 0, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_from_another_session_moves_the_lease_to_that_session() {
    let database = database().await;
    let (a, b, other) = (
        database.writer().await,
        database.writer().await,
        database.writer().await,
    );
    let lock = acquire(&a, "a", "1 hour").await;
    assert!(renew(&b, &lock).await);
    drop(a);
    wait_until("the first session to end", Duration::from_secs(5), async || {
        database.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'sluice_ingester'").await == 2
    })
    .await;
    assert!(!acquire(&other, "c", "1 hour").await.acquired);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_is_a_new_incarnation() {
    let database = database().await;
    let (a, b) = (database.writer().await, database.writer().await);
    let old = acquire(&a, "same", "1 hour").await;
    let new = acquire(&b, "same", "1 hour").await;
    assert!(new.acquired && new.token > old.token);
    assert_stale(apply(&a, &old, 0, 1).await);
    apply(&b, &new, 0, 1)
        .await
        .expect("the new incarnation may");
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_against_an_apply_in_flight_ends_it_and_then_reads_the_offset() {
    let database = database().await;
    let (a, b) = (database.writer().await, database.writer().await);
    let old = acquire(&a, "a", "100 milliseconds").await;
    a.batch_execute("BEGIN").await.expect("a transaction");
    apply(&a, &old, 0, 10).await.expect("still the leader");
    let start = Instant::now();
    let mut new = None;
    wait_until("the successor", Duration::from_secs(10), async || {
        // Not to have ended the other yet is an answer too (55P03): try again.
        let answer = b.query_one(ACQUIRE, &[&"b", &"1 minute"]).await;
        new = answer.ok().filter(|row| row.get(0));
        new.is_some()
    })
    .await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "held up for {:?}",
        start.elapsed()
    );
    let offset: i64 = new.expect("acquired").get(3);
    assert_eq!(offset, 0, "what the zombie wrote must not be seen");
    assert!(
        a.batch_execute("COMMIT").await.is_err(),
        "the zombie's transaction is over"
    );
    assert_eq!(commit_offset(&database).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_against_an_apply_that_commits_at_that_moment_sees_the_truth() {
    let database = database().await;
    let mut expected = 0;
    for _ in 0..10 {
        let (a, b) = (database.writer().await, database.writer().await);
        let old = acquire(&a, "a", "1 minute").await;
        assert_eq!(old.commit_offset, Some(expected));
        a.batch_execute("BEGIN").await.expect("a transaction");
        apply(&a, &old, expected, expected + 10)
            .await
            .expect("still the leader");
        // The same name makes it its own predecessor, whose lease need not have run out.
        let successor = tokio::spawn(async move { (acquire(&b, "a", "1 minute").await, b) });
        until_active(&database, "acquire_partition_lock").await;
        if a.batch_execute("COMMIT").await.is_ok() {
            expected += 10;
        }
        let (new, _session) = successor.await.expect("the successor's answer");
        assert!(new.acquired);
        assert_eq!(new.commit_offset, Some(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renew_against_an_apply_in_flight_does_not_wait() {
    let database = database().await;
    let (a, control) = (database.writer().await, database.writer().await);
    let lock = acquire(&control, "a", "1 minute").await;
    a.batch_execute("BEGIN").await.expect("a transaction");
    apply(&a, &lock, 0, 10).await.expect("the leader may");
    control
        .batch_execute("SET statement_timeout = '2s'")
        .await
        .expect("a setting");
    assert!(renew(&control, &lock).await);
    a.batch_execute("COMMIT")
        .await
        .expect("nobody was in the way");
    assert_eq!(commit_offset(&database).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_against_acquire_has_one_winner() {
    let database = database().await;
    for round in 0..20 {
        // The first round also creates the partition's rows at the same time.
        let mut attempts = tokio::task::JoinSet::new();
        for number in 0..4 {
            let session = database.writer().await;
            attempts.spawn(async move {
                (
                    acquire(&session, &format!("{round}-{number}"), "1 minute").await,
                    session,
                )
            });
        }
        let results = attempts.join_all().await;
        let winners: Vec<_> = results.iter().filter(|(lock, _)| lock.acquired).collect();
        assert_eq!(
            winners.len(),
            1,
            "{results:?}",
            results = results.iter().map(|(lock, _)| lock).collect::<Vec<_>>()
        );
        assert!(release(&winners[0].1, &winners[0].0).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn release_against_acquire_frees_the_partition_when_it_commits() {
    let database = database().await;
    let (a, b) = (database.writer().await, database.writer().await);
    let lock = acquire(&a, "a", "1 hour").await;
    a.batch_execute("BEGIN").await.expect("a transaction");
    assert!(release(&a, &lock).await);
    let waiting = tokio::spawn(async move { (b.query_one(ACQUIRE, &[&"b", &"1 hour"]).await, b) });
    a.batch_execute("COMMIT")
        .await
        .expect("a release is no crime");
    let (first, b) = waiting.await.expect("an answer");
    if !first.is_ok_and(|row| row.get(0)) {
        assert!(
            acquire(&b, "b", "1 hour").await.acquired,
            "released, and still not free"
        );
    }
    assert_stale(apply(&a, &lock, 0, 1).await);
    assert!(!release(&a, &lock).await, "a second release is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn release_against_an_apply_in_flight_lets_it_commit_first() {
    let database = database().await;
    let (a, control, b) = (
        database.writer().await,
        database.writer().await,
        database.writer().await,
    );
    let lock = acquire(&control, "a", "1 hour").await;
    a.batch_execute("BEGIN").await.expect("a transaction");
    apply(&a, &lock, 0, 10).await.expect("the leader may");
    let released = {
        let lock = lock.clone();
        tokio::spawn(async move { release(&control, &lock).await })
    };
    until_active(&database, "release_partition_lock").await;
    a.batch_execute("COMMIT")
        .await
        .expect("a release waits for what is in flight");
    assert!(released.await.expect("an answer"));
    assert_eq!(acquire(&b, "b", "1 hour").await.commit_offset, Some(10));
    assert_stale(apply(&a, &lock, 10, 11).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_again_is_already_committed_and_any_other_offset_is_stale() {
    let database = database().await;
    let a = database.writer().await;
    let lock = acquire(&a, "a", "1 minute").await;
    let outcome = |row: Row| (row.get::<_, String>(0), row.get::<_, i64>(1));
    assert_eq!(
        outcome(apply(&a, &lock, 0, 10).await.expect("the leader may")),
        ("APPLIED".into(), 10)
    );
    assert_eq!(
        outcome(apply(&a, &lock, 0, 10).await.expect("the leader may ask")),
        ("ALREADY_COMMITTED".into(), 10)
    );
    assert_stale(apply(&a, &lock, 0, 9).await);
    assert_stale(apply(&a, &lock, 11, 12).await);
    assert_eq!(commit_offset(&database).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_applies_of_one_leader_at_once_are_one() {
    let database = database().await;
    let (a, b) = (database.writer().await, database.writer().await);
    let lock = acquire(&a, "a", "1 minute").await;
    a.batch_execute("BEGIN").await.expect("a transaction");
    apply(&a, &lock, 0, 10).await.expect("the leader may");
    let second = {
        let lock = lock.clone();
        tokio::spawn(async move { apply(&b, &lock, 0, 10).await })
    };
    until_active(&database, "apply_balance_batch").await;
    a.batch_execute("COMMIT")
        .await
        .expect("first come, first served");
    let row = second.await.expect("an answer").expect("the same batch");
    assert_eq!(row.get::<_, String>(0), "ALREADY_COMMITTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_staging_never_passes_for_an_empty_batch() {
    let database = database().await;
    let a = database.writer().await;
    let lock = acquire(&a, "a", "1 minute").await;
    let error = a
        .query_one(APPLY, &[&lock.token, &lock.lease_id, &0i64, &10i64, &3i64])
        .await
        .expect_err("three rows were promised");
    assert_eq!(error.code().map(SqlState::code), Some("XX001"), "{error:?}");
    assert_eq!(commit_offset(&database).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_does_not_wait_for_the_disk_is_refused() {
    let database = database().await;
    let a = database.writer().await;
    let lock = acquire(&a, "a", "1 minute").await;
    a.batch_execute("SET synchronous_commit = off")
        .await
        .expect("a setting");
    let error = apply(&a, &lock, 0, 10)
        .await
        .expect_err("durability is part of the promise");
    assert_eq!(
        error.code(),
        Some(&SqlState::INVALID_PARAMETER_VALUE),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_was_given_is_stale() {
    let database = database().await;
    let a = database.writer().await;
    let mut lock = acquire(&a, "a", "1 minute").await;
    lock.token = lock.token.map(|token| token + 1);
    assert_stale(apply(&a, &lock, 0, 1).await);
    let stranger = Lock {
        token: Some(1),
        lease_id: Some(Uuid::nil()),
        ..lock
    };
    let apply_elsewhere = APPLY.replace("'t', 0", "'t', 1");
    assert_stale(
        a.query_one(
            &apply_elsewhere,
            &[&stranger.token, &stranger.lease_id, &0i64, &1i64, &0i64],
        )
        .await,
    );
}
