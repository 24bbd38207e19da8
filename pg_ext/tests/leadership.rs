//! Two sessions at one fence. Needs the services of `make test`.

mod common;

use common::{Batch, Database, acquire, available, change, lead, leader, sqlstate};
use std::time::Duration;
use tokio_postgres::Client;

async fn renew(client: &Client, leader: common::Leader) -> bool {
    let statement =
        "SELECT sluice.renew_partition_lock($1, $2, $3, $4, interval '60 s') IS NOT NULL";
    let row = client
        .query_one(
            statement,
            &[
                &common::TOPIC,
                &leader.partition,
                &leader.fencing_token,
                &leader.lease_id,
            ],
        )
        .await;
    row.expect("renew answers").get(0)
}

async fn release(client: &Client, leader: common::Leader) -> bool {
    let statement = "SELECT sluice.release_partition_lock($1, $2, $3, $4)";
    let row = client
        .query_one(
            statement,
            &[
                &common::TOPIC,
                &leader.partition,
                &leader.fencing_token,
                &leader.lease_id,
            ],
        )
        .await;
    row.expect("release answers").get(0)
}

async fn expire(database: &Database) {
    let statement =
        "UPDATE ledger.partition_leases SET lease_expires_at = clock_timestamp() - interval '1 ms'";
    database
        .admin()
        .await
        .execute(statement, &[])
        .await
        .expect("the lease is over");
}

#[tokio::test]
async fn a_held_partition_is_refused_with_the_leaders_name() {
    let database = Database::create().await;
    let (first, second) = (database.writer().await, database.writer().await);
    lead(&first, 0, "a").await;
    let refused = acquire(&second, 0, "b")
        .await
        .expect("an answer, not an error");
    assert!(!refused.get::<_, bool>("acquired"));
    assert_eq!(refused.get::<_, Option<&str>>("leader_svc_id"), Some("a"));
    assert_eq!(refused.get::<_, Option<i64>>("fencing_token"), None);
}

#[tokio::test]
async fn every_acquisition_has_a_larger_token_and_another_lease() {
    let database = Database::create().await;
    let client = database.writer().await;
    let mut last = lead(&client, 0, "a").await;
    for _ in 0..5 {
        let next = lead(&client, 0, "a").await;
        assert!(next.fencing_token > last.fencing_token);
        assert_ne!(next.lease_id, last.lease_id);
        assert!(
            !renew(&client, last).await,
            "the former incarnation has lost"
        );
        last = next;
    }
    // As after a restore of an old backup: the clock carries the token on.
    let restored = "UPDATE ledger.partition_progress SET fencing_token = 1";
    database
        .admin()
        .await
        .execute(restored, &[])
        .await
        .expect("an old token");
    assert!(lead(&client, 0, "a").await.fencing_token > last.fencing_token);
}

#[tokio::test]
async fn a_leader_whose_session_is_gone_has_lost_at_once() {
    let database = Database::create().await;
    let (first, second) = (database.writer().await, database.writer().await);
    let old = lead(&first, 0, "a").await;
    drop(first);
    database.wait_for_sessions(1).await;
    let leaderless = "SELECT leader_svc_id FROM ledger.partition_leader_locks";
    let row = database
        .admin()
        .await
        .query_one(leaderless, &[])
        .await
        .expect("one partition");
    assert_eq!(row.get::<_, Option<&str>>(0), None, "nobody leads");
    lead(&second, 0, "b").await;
    assert_eq!(
        sqlstate(Batch::default().apply(&second, old, 0, 1).await),
        "55000"
    );
}

#[tokio::test]
async fn a_released_partition_is_announced_and_fenced() {
    let database = Database::create().await;
    let (first, second) = (database.writer().await, database.writer().await);
    let old = lead(&first, 0, "a").await;
    assert!(release(&first, old).await);
    assert!(!release(&first, old).await, "only once");
    assert_eq!(
        sqlstate(Batch::default().apply(&first, old, 0, 1).await),
        "55000"
    );
    assert!(!renew(&first, old).await);
    lead(&second, 0, "b").await;
}

#[tokio::test]
async fn a_stale_token_or_lease_changes_nothing() {
    let database = Database::create().await;
    let client = database.writer().await;
    let old = lead(&client, 0, "a").await;
    let new = lead(&client, 0, "a").await;
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    assert_eq!(sqlstate(batch.apply(&client, old, 0, 1).await), "55000");
    let forged_lease = common::Leader {
        lease_id: old.lease_id,
        ..new
    };
    assert_eq!(
        sqlstate(batch.apply(&client, forged_lease, 0, 1).await),
        "55000"
    );
    let forged_token = common::Leader {
        fencing_token: new.fencing_token + 1,
        ..new
    };
    assert_eq!(
        sqlstate(batch.apply(&client, forged_token, 0, 1).await),
        "55000"
    );
    assert_eq!(available(&database, 1).await, None);
    batch
        .apply(&client, new, 0, 1)
        .await
        .expect("the leader may");
}

#[tokio::test]
async fn acquire_waits_for_a_commit_in_flight_and_reads_its_offset() {
    let database = Database::create().await;
    let (first, second) = (database.writer().await, database.writer().await);
    let old = lead(&first, 0, "a").await;
    first.batch_execute("BEGIN").await.expect("begin");
    Batch::default()
        .call(&first, old, 0, 7)
        .await
        .expect("apply in flight");
    expire(&database).await;
    let (committed, acquired) =
        tokio::join!(first.batch_execute("COMMIT"), acquire(&second, 0, "b"));
    let new = leader(0, &acquired.expect("acquire answers"));
    match committed {
        Ok(()) => assert_eq!(new.commit_offset, 7),
        Err(_) => assert_eq!(new.commit_offset, 0, "terminated before its COMMIT"),
    }
}

#[tokio::test]
async fn acquire_ends_a_transaction_that_a_frozen_leader_left_open() {
    let database = Database::create().await;
    let (frozen, second) = (database.writer().await, database.writer().await);
    let old = lead(&frozen, 0, "a").await;
    frozen.batch_execute("BEGIN").await.expect("begin");
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    batch.stage(&frozen).await.expect("stage");
    batch
        .call(&frozen, old, 0, 1)
        .await
        .expect("apply in flight");
    expire(&database).await;
    let acquired = tokio::time::timeout(Duration::from_secs(2), acquire(&second, 0, "b")).await;
    let new = leader(0, &acquired.expect("not held up").expect("acquired"));
    assert_eq!(new.commit_offset, 0);
    assert!(
        frozen.batch_execute("COMMIT").await.is_err(),
        "the zombie's session is gone"
    );
    batch
        .apply(&second, new, 0, 1)
        .await
        .expect("the successor goes on");
    assert_eq!(available(&database, 1).await.as_deref(), Some("10"));
}

#[tokio::test]
async fn a_lease_row_held_by_an_idle_transaction_does_not_block_its_successor() {
    let database = Database::create().await;
    let (frozen, second) = (database.writer().await, database.writer().await);
    lead(&frozen, 0, "a").await;
    expire(&database).await;
    frozen.batch_execute("BEGIN").await.expect("begin");
    lead(&frozen, 0, "a").await; // not committed
    let acquired = tokio::time::timeout(Duration::from_secs(2), acquire(&second, 0, "b")).await;
    assert!(
        acquired
            .expect("not held up")
            .expect("acquired")
            .get::<_, bool>("acquired")
    );
}

#[tokio::test]
async fn a_renewal_that_meets_an_acquisition_has_lost() {
    let database = Database::create().await;
    let (first, second) = (database.writer().await, database.writer().await);
    let old = lead(&first, 0, "a").await;
    expire(&database).await;
    second.batch_execute("BEGIN").await.expect("begin");
    lead(&second, 0, "b").await;
    assert!(!renew(&first, old).await, "its lease has run out");
    second.batch_execute("COMMIT").await.expect("commit");
    assert!(!renew(&first, old).await, "it is another's");
}

#[tokio::test]
async fn a_lease_that_somebody_holds_costs_no_other_lease_its_renewal() {
    let database = Database::create().await;
    let control = database.writer().await;
    lead(&control, 0, "a").await;
    lead(&control, 1, "a").await;
    let admin = database.admin().await;
    let leases = "SELECT partition, lease_expires_at::text, lease_id, fencing_token
        FROM ledger.partition_leases JOIN ledger.partition_progress USING (partition_id, lease_id) ORDER BY partition";
    let before = admin.query(leases, &[]).await.expect("two leases");
    let holder = database.admin().await;
    holder
        .batch_execute("BEGIN; SELECT FROM ledger.partition_leases WHERE partition = 0 FOR UPDATE")
        .await
        .expect("a lock");
    // As the ingester renews: all in one statement.
    let ids: Vec<uuid::Uuid> = before.iter().map(|row| row.get(2)).collect();
    let tokens: Vec<i64> = before.iter().map(|row| row.get(3)).collect();
    let renew = "SELECT sluice.renew_partition_lock($1, u.n::int - 1, u.token, u.lease, interval '120 s')::text
        FROM unnest($2::uuid[], $3::bigint[]) WITH ORDINALITY AS u (lease, token, n) ORDER BY n";
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&common::TOPIC, &ids, &tokens];
    let renewed = control.query(renew, &arguments);
    let renewed = tokio::time::timeout(Duration::from_secs(2), renewed).await;
    let renewed = renewed.expect("it does not wait").expect("an answer");
    let until = |row: &tokio_postgres::Row, at| row.get::<_, String>(at);
    assert_eq!(until(&renewed[0], 0), until(&before[0], 1), "it stands");
    assert!(
        until(&renewed[1], 0) > until(&before[1], 1),
        "it is renewed"
    );
    holder.batch_execute("ROLLBACK").await.expect("given back");
}

#[tokio::test]
async fn a_step_down_that_waits_for_a_batch_does_not_hold_the_lease() {
    let database = Database::create().await;
    let (batch, control) = (database.writer().await, database.writer().await);
    let mine = lead(&control, 0, "a").await;
    batch.batch_execute("BEGIN").await.expect("begin");
    Batch::default()
        .call(&batch, mine, 0, 7)
        .await
        .expect("apply in flight");
    let admin = database.admin().await;
    let asked = tokio::spawn(async move {
        let step_down = "SELECT sluice.step_down($1, 0)";
        let former = admin.query_one(step_down, &[&common::TOPIC]).await;
        former.expect("stepped down").get::<_, Option<String>>(0)
    });
    database.wait_until_blocked(1).await;
    let renewed = tokio::time::timeout(Duration::from_secs(2), renew(&control, mine)).await;
    assert!(renewed.expect("it does not wait"));
    batch.batch_execute("COMMIT").await.expect("commit");
    assert_eq!(asked.await.expect("no panic").as_deref(), Some("a"));
    assert!(!renew(&control, mine).await);
}

#[tokio::test]
async fn a_name_takes_nothing_from_a_session_of_another_login() {
    let database = Database::create().await;
    let (leader, again) = (database.writer().await, database.writer().await);
    let thief = database.member("sluice_writer").await;
    lead(&leader, 0, "a").await;
    let refused = acquire(&thief, 0, "a").await.expect("an answer");
    assert!(!refused.get::<_, bool>("acquired"));
    // Its own next incarnation need not wait.
    lead(&again, 0, "a").await;
    drop(leader);
    let heartbeat = "SELECT sluice.heartbeat('a', '{t}', interval '100 ms')";
    assert!(
        again
            .query_one(heartbeat, &[])
            .await
            .expect("an answer")
            .get::<_, bool>(0)
    );
    let silent =
        "SELECT count(*) FROM ledger.ingester_instances WHERE expires_at < clock_timestamp()";
    let admin = database.admin().await;
    proofs::wait::wait_until("it to be silent", Duration::from_secs(5), async || {
        admin
            .query_one(silent, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
            == 1
    })
    .await;
    assert!(
        !thief
            .query_one(heartbeat, &[])
            .await
            .expect("an answer")
            .get::<_, bool>(0)
    );
}

#[tokio::test]
async fn one_session_counts_as_one_instance() {
    let database = Database::create().await;
    let client = database.writer().await;
    for ghost in ["a", "b", "c"] {
        let heartbeat = "SELECT sluice.heartbeat($1, '{t}', interval '1 day')";
        client
            .query_one(heartbeat, &[&ghost])
            .await
            .expect("an answer");
    }
    let live = "SELECT string_agg(service_id, ' ') FROM ledger.live_instances";
    let live = database
        .admin()
        .await
        .query_one(live, &[])
        .await
        .expect("instances");
    assert_eq!(live.get::<_, Option<&str>>(0), Some("c"));
}

#[tokio::test]
async fn whose_transaction_holds_a_partition_is_named() {
    let database = Database::create().await;
    let (first, second, admin) = (
        database.writer().await,
        database.writer().await,
        database.admin().await,
    );
    for (partition, table) in [(0, "partition_leases"), (1, "partition_progress")] {
        let leader = lead(&first, partition, "a").await;
        assert!(release(&first, leader).await);
        let gid = proofs::stack::unique("forgotten");
        // Twice, so that the row's mark is a list of transactions and not one.
        let share = format!(
            "SELECT FROM ledger.{table} t WHERE t.partition_id = (SELECT partition_id FROM ledger.partition_leases WHERE partition = {partition}) FOR SHARE"
        );
        let other = database.admin().await;
        other
            .batch_execute(&format!("BEGIN; {share}"))
            .await
            .expect("a lock");
        admin
            .batch_execute(&format!("BEGIN; {share}; PREPARE TRANSACTION '{gid}'"))
            .await
            .expect("prepared");
        other.batch_execute("COMMIT").await.expect("given back");
        let began = std::time::Instant::now();
        let refused = acquire(&second, partition, "b")
            .await
            .expect_err("it is held");
        assert_eq!(refused.code().map(|code| code.code()), Some("55P03"));
        let message = refused
            .as_db_error()
            .expect("an answer")
            .message()
            .to_owned();
        assert!(
            message.contains(&gid) && message.contains("ROLLBACK PREPARED"),
            "{message}"
        );
        assert!(
            began.elapsed() < Duration::from_millis(900),
            "no use in waiting for it"
        );
        admin
            .batch_execute(&format!("ROLLBACK PREPARED '{gid}'"))
            .await
            .expect("undone");
        lead(&second, partition, "b").await;
    }
}

#[tokio::test]
async fn renewals_go_on_while_a_batch_is_in_flight() {
    let database = Database::create().await;
    let (batch, control) = (database.writer().await, database.writer().await);
    let mine = lead(&control, 0, "a").await;
    batch.batch_execute("BEGIN").await.expect("begin");
    Batch::default()
        .call(&batch, mine, 0, 7)
        .await
        .expect("apply in flight");
    let renewed = tokio::time::timeout(Duration::from_secs(2), renew(&control, mine)).await;
    assert!(renewed.expect("the batch does not hold the lease row"));
    batch.batch_execute("COMMIT").await.expect("commit");
}

#[tokio::test]
async fn of_many_who_acquire_at_once_one_wins() {
    let database = Database::create().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(database.writer().await);
    }
    let attempts = clients
        .iter()
        .enumerate()
        .map(|(index, client)| async move {
            acquire(client, 0, &format!("s{index}"))
                .await
                .expect("an answer")
                .get::<_, bool>("acquired")
        });
    let wins = futures_util::future::join_all(attempts)
        .await
        .into_iter()
        .filter(|won| *won)
        .count();
    assert_eq!(wins, 1);
}

#[tokio::test]
async fn bad_arguments_are_named() {
    let database = Database::create().await;
    let client = database.writer().await;
    for (call, named) in [
        (
            "SELECT sluice.acquire_partition_lock(NULL, 0, 'a', '3 s')",
            "topic",
        ),
        (
            "SELECT sluice.acquire_partition_lock('', 0, 'a', '3 s')",
            "topic",
        ),
        (
            "SELECT sluice.acquire_partition_lock('t', -1, 'a', '3 s')",
            "partition",
        ),
        (
            "SELECT sluice.acquire_partition_lock('t', 0, '', '3 s')",
            "service_id",
        ),
        (
            "SELECT sluice.acquire_partition_lock('t', 0, 'a', '-3 s')",
            "lease",
        ),
        ("SELECT sluice.heartbeat('a', NULL, '3 s')", "topics"),
    ] {
        let error = client.simple_query(call).await.expect_err(call);
        let text = error
            .as_db_error()
            .expect("a database error")
            .message()
            .to_owned();
        assert!(text.contains(named), "{call}: {text}");
    }
}

/// Where the clock is behind the tokens, it cannot tell an original from its copy.
#[tokio::test]
async fn a_restored_copy_gives_other_tokens_than_its_original_even_with_a_clock_that_is_behind() {
    let mut given = Vec::new();
    for _ in 0..2 {
        let database = Database::create().await;
        let client = database.writer().await;
        lead(&client, 0, "a").await;
        let ahead = "UPDATE ledger.partition_progress SET fencing_token = 9000000000000000";
        let admin = database.admin().await;
        admin
            .execute(ahead, &[])
            .await
            .expect("a token of the future");
        for _ in 0..3 {
            given.push(lead(&client, 0, "a").await.fencing_token);
        }
        let rising = given[given.len() - 3..]
            .windows(2)
            .all(|pair| pair[0] < pair[1]);
        assert!(
            rising && given.iter().all(|token| *token > 9_000_000_000_000_000),
            "{given:?}"
        );
    }
    given.sort_unstable();
    let count = given.len();
    given.dedup();
    assert_eq!(given.len(), count, "a token was given twice");
}
