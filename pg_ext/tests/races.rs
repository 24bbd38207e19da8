//! Another session interferes at the worst moment: rows that move during a look-up, tables that are renamed while a
//! batch waits for their lock. Needs the services of `make test`.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Batch, Database, acquire, available, change, lead, leader};
use futures_util::future::join_all;

/// Every update moves the row: there is no room beside it, and an index on what changes.
const UPDATES_THAT_MOVE: &str = "
    ALTER TABLE ledger.account_balances SET (fillfactor = 100);
    CREATE INDEX ON ledger.account_balances (updated_msec)";
/// Moves it and commits, again and again. Without the proof that a row is not there, a lookup in 500 or so finds none.
const MOVE: &str = "DO $$
    DECLARE
        until timestamptz := clock_timestamp() + interval '20 s';
    BEGIN
        WHILE clock_timestamp() < until LOOP
            UPDATE ledger.account_balances SET updated_msec = updated_msec + 1;
            COMMIT;
        END LOOP;
    END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_moves_while_it_is_looked_up_is_never_missing() {
    let database = Database::create().await;
    let (admin, mover) = (database.admin().await, database.admin().await);
    admin
        .batch_execute(UPDATES_THAT_MOVE)
        .await
        .expect("an owner may");
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    Batch::default()
        .event(0, "open", &[change(1, "1000000", "0")])
        .apply(&writer, leader, 0, 1)
        .await
        .expect("opened");
    mover
        .batch_execute("SET synchronous_commit TO off")
        .await
        .expect("a superuser may");
    let moved = AtomicBool::new(false);
    let debits = async {
        let mut offset = 1;
        while !moved.load(Ordering::Relaxed) {
            let batch = (offset..offset + 10).fold(Batch::default(), |batch, offset| {
                batch.event(offset, &format!("e{offset}"), &[change(1, "-1", "0")])
            });
            let answer = batch.apply(&writer, leader, offset, offset + 10).await;
            let rejected: i64 = answer.expect("the batch fits").get("rejected");
            if rejected > 0 {
                return offset;
            }
            offset += 10;
        }
        assert!(offset > 100, "only {offset} lookups");
        0
    };
    let moving = async {
        mover.batch_execute(MOVE).await.expect("moved");
        moved.store(true, Ordering::Relaxed);
    };
    let ((), wrong) = tokio::join!(moving, debits);
    assert_eq!(
        wrong, 0,
        "the first offset at which a good debit was refused"
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn the_checks_find_a_debit_that_was_refused_as_if_its_balance_were_missing() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    for (offset, delta) in ["10", "5", "-40", "1"].into_iter().enumerate() {
        let offset = offset as i64;
        Batch::default()
            .event(offset, &format!("e{offset}"), &[change(1, delta, "0")])
            .apply(&writer, leader, offset, offset + 1)
            .await
            .expect("applied or refused");
    }
    // The first batch of a partition has none before it that would tell when it looked.
    let other = lead(&writer, 1, "a").await;
    Batch::default()
        .event(0, "first", &[change(1, "-40", "0")])
        .apply(&writer, other, 0, 1)
        .await
        .expect("refused");
    database.assert_invariants().await;
    for (partition, met) in [(0, 15), (1, 16)] {
        for (told, expected) in [(0, &["check_balance_met"][..]), (met, &[][..])] {
            let refusal = format!(
                "UPDATE ledger.balance_log g SET available_after = {told} FROM ledger.partition_leases l
                 WHERE l.partition_id = g.partition_id AND l.partition = {partition} AND g.reject_reason IS NOT NULL"
            );
            let changed = admin.execute(&refusal, &[]).await;
            assert_eq!(changed.expect("a superuser may"), 1);
            let found = database.findings().await;
            assert_eq!(found, expected, "partition {partition}");
        }
    }
}

/// Each waits for the one that has claimed the identity, and none for one that waits for it.
#[tokio::test]
async fn five_partitions_that_carry_one_new_identity_go_on_when_the_first_rolls_back() {
    let database = Database::create().await;
    let event = |account| {
        let changes = [change(account, "1", "0")];
        Batch::default().event_with_payload(0, "x", "the same bytes", &changes)
    };
    let first = database.writer().await;
    let mine = lead(&first, 0, "a").await;
    first.batch_execute("BEGIN").await.expect("begin");
    event(0).stage(&first).await.expect("stage");
    event(0).call(&first, mine, 0, 1).await.expect("apply");
    let others = join_all((1..5).map(async |partition| {
        let client = database.writer().await;
        let leader = lead(&client, partition, "a").await;
        let answer = event(partition.into()).apply(&client, leader, 0, 1).await;
        answer.expect("no deadlock").get::<_, i64>("applied")
    }));
    let (rolled_back, applied) = tokio::join!(
        async {
            database.wait_until_blocked(4).await;
            first.batch_execute("ROLLBACK").await
        },
        tokio::time::timeout(Duration::from_secs(15), others)
    );
    rolled_back.expect("rolled back");
    let applied: i64 = applied.expect("none waits in a circle").iter().sum();
    assert_eq!(applied, 1, "the others are duplicates");
    let again = event(0)
        .apply(&first, mine, 0, 1)
        .await
        .expect("tried again");
    assert_eq!(again.get::<_, i64>("duplicates"), 1);
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_table_renamed_while_a_batch_waits_for_it_is_not_written() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let batch = |offset: i64, delta| {
        Batch::default().event(offset, &format!("e{offset}"), &[change(1, delta, "0")])
    };
    batch(0, "10")
        .apply(&writer, leader, 0, 1)
        .await
        .expect("opened");
    admin
        .batch_execute("BEGIN; LOCK TABLE ledger.account_balances IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    let swap = "ALTER TABLE ledger.account_balances RENAME TO former;
        CREATE TABLE ledger.account_balances (LIKE ledger.former INCLUDING ALL);
        ALTER TABLE ledger.account_balances OWNER TO sluice_owner;
        INSERT INTO ledger.account_balances SELECT * FROM ledger.former;
        COMMIT";
    let debit = batch(1, "-4");
    let (swapped, answer) = tokio::join!(
        async {
            database.wait_until_blocked(1).await;
            admin.batch_execute(swap).await
        },
        debit.apply(&writer, leader, 1, 2)
    );
    swapped.expect("swapped");
    let answer = answer.expect("applied");
    assert_eq!(answer.get::<_, i64>("updated_rows"), 1);
    assert_eq!(available(&database, 1).await.as_deref(), Some("6"));
    let former = "SELECT trim_scale(available)::text FROM ledger.former";
    let former: String = admin.query_one(former, &[]).await.expect("asked").get(0);
    assert_eq!(former, "10");
    database.assert_invariants().await;
}

/// Then the row names a MultiXact, whose number may be that of any transaction.
#[tokio::test]
async fn acquire_ends_all_who_hold_a_row_together() {
    let database = Database::create().await;
    let (frozen, second) = (database.writer().await, database.writer().await);
    let (sharer, bystander) = (database.admin().await, database.admin().await);
    let old = lead(&frozen, 0, "a").await;
    let share = "BEGIN; SELECT FROM ledger.partition_progress FOR KEY SHARE";
    sharer.batch_execute(share).await.expect("shared");
    // In a subtransaction that has ended, of which pg_locks knows nothing any more.
    frozen
        .batch_execute("BEGIN; SAVEPOINT s")
        .await
        .expect("begin");
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    batch.stage(&frozen).await.expect("stage");
    batch.call(&frozen, old, 0, 1).await.expect("in flight");
    frozen.batch_execute("RELEASE s").await.expect("released");
    let acquired = tokio::time::timeout(Duration::from_secs(5), acquire(&second, 0, "a")).await;
    let new = leader(0, &acquired.expect("not held up").expect("acquired"));
    assert_eq!(new.commit_offset, 0);
    frozen.batch_execute("COMMIT").await.expect_err("ended");
    sharer.batch_execute("COMMIT").await.expect_err("ended");
    bystander.batch_execute("SELECT").await.expect("lives");
    batch.apply(&second, new, 0, 1).await.expect("goes on");
}

/// A test cannot make the number of a MultiXact that of a live transaction. That the number counts for nothing it can show.
#[tokio::test]
async fn who_holds_a_row_together_is_named_by_its_header_and_not_by_the_number_in_xmax() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let (first, second) = (database.admin().await, database.admin().await);
    lead(&writer, 0, "a").await;
    // In a subtransaction that has ended, of which pg_locks knows nothing any more.
    let begin =
        "BEGIN; SAVEPOINT s; SELECT FROM ledger.partition_progress FOR KEY SHARE; RELEASE s";
    for holder in [&first, &second] {
        holder.batch_execute(begin).await.expect("locked");
    }
    let (mut expected, mut pids) = (Vec::new(), Vec::new());
    for holder in [&first, &second] {
        let who = "SELECT pg_current_xact_id()::xid::text, pg_backend_pid()";
        let row = holder.query_one(who, &[]).await.expect("itself");
        expected.push(row.get::<_, String>(0));
        pids.push(row.get::<_, i32>(1));
    }
    let named =
        "SELECT h.id FROM ledger.partition_leases l, sluice.partition_row_holders(l.partition_id) h
        WHERE h.what = 'progress'";
    let named = admin.query(named, &[]).await.expect("named");
    let mut named: Vec<String> = named.iter().map(|row| row.get(0)).collect();
    named.sort();
    expected.sort();
    assert_eq!(named, expected);
    let members =
        "SELECT count(*) FROM ledger.partition_progress p, pg_get_multixact_members(p.xmax)";
    let members = admin.query_one(members, &[]).await.expect("a MultiXact");
    assert_eq!(members.get::<_, i64>(0), 2);
    // The number alone is that of a transaction, which is over or is to come.
    let number =
        "SELECT h.words FROM ledger.partition_progress p, sluice.transaction_holder(p.xmax) h";
    let number = admin.query_one(number, &[]).await.expect("an answer");
    assert_eq!(number.get::<_, Option<String>>(0), None);

    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let words = async || -> Option<String> {
        let words = "SELECT sluice.partition_holder(l.partition_id) FROM ledger.partition_leases l";
        admin.query_one(words, &[]).await.expect("an answer").get(0)
    };
    let told = words().await.expect("somebody holds it");
    let is_told =
        |pid: &i32| told.starts_with(&format!("its progress is held by process {pid} of"));
    assert!(pids.iter().any(is_told), "{told}, held by {pids:?}");
    for holder in [&first, &second] {
        holder.batch_execute("ROLLBACK").await.expect("given back");
    }
    assert_eq!(words().await, None);
}
