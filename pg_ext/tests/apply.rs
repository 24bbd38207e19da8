//! `sluice.apply_balance_batch` in SQL: promises, verdicts, and what an owner may add to `account_balances`. Needs the
//! services of `make test`.

mod common;

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use common::{Batch, Database, Leader, available, call, change, lead, message, sqlstate, verdicts};

fn verdict(word: &str, reason: Option<&str>) -> (String, Option<String>) {
    (word.to_owned(), reason.map(str::to_owned))
}

#[tokio::test]
async fn one_batch_gives_every_kind_of_verdict() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let credit = [change(1, "10", "0")];
    let batch = Batch::default()
        .event(0, "credit", &credit)
        .event(1, "too much", &[change(1, "-11", "0")])
        .event(2, "credit", &credit)
        .event_with_payload(3, "credit", "other bytes", &credit)
        .dead(4, "MALFORMED_JSON", "{")
        .event(5, "legs", &[change(1, "-4", "4"), change(2, "1.5", "0")])
        .event(7, "unfreeze", &[change(1, "5", "-5")]);
    let answer = batch
        .apply(&writer, leader, 0, 8)
        .await
        .expect("the batch fits");
    assert_eq!(answer.get::<_, &str>("outcome"), "APPLIED");
    let count = |column: &str| answer.get::<_, i64>(column);
    assert_eq!(
        (count("events"), count("applied"), count("rejected")),
        (7, 2, 3)
    );
    assert_eq!(
        (count("duplicates"), count("dead"), count("error_rows")),
        (1, 1, 3)
    );
    assert_eq!(
        (
            count("inserted_rows"),
            count("updated_rows"),
            count("commit_offset")
        ),
        (2, 0, 8)
    );
    let expected = [
        verdict("APPLIED", None),
        verdict("REJECTED", Some("INSUFFICIENT_BALANCE")),
        verdict("DUPLICATE", None),
        verdict("REJECTED", Some("EVENT_ID_CONFLICT")),
        verdict("DEAD", Some("MALFORMED_JSON")),
        verdict("APPLIED", None),
        verdict("REJECTED", Some("INSUFFICIENT_FROZEN")),
    ];
    assert_eq!(verdicts(&database).await, expected);
    assert_eq!(available(&database, 1).await.as_deref(), Some("6"));
    assert_eq!(available(&database, 2).await.as_deref(), Some("1.5"));
    let hole = "SELECT first_offset, next_offset FROM ledger.offset_holes";
    let hole = database
        .admin()
        .await
        .query_one(hole, &[])
        .await
        .expect("offset 6 holds no record");
    assert_eq!((hole.get::<_, i64>(0), hole.get::<_, i64>(1)), (6, 7));
    database.assert_invariants().await;
}

#[tokio::test]
async fn the_next_batch_meets_balances_and_identities_of_the_former() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let credit = [change(1, "10", "0")];
    Batch::default()
        .event(0, "a", &credit)
        .apply(&writer, leader, 0, 1)
        .await
        .expect("first batch");
    let second = Batch::default()
        .event(1, "a", &credit)
        .event_with_payload(2, "a", "other", &credit)
        .event(3, "b", &[change(1, "-10", "0")])
        .event(4, "c", &[change(1, "-0.000000000000000001", "0")]);
    let answer = second
        .apply(&writer, leader, 1, 5)
        .await
        .expect("second batch");
    assert_eq!(answer.get::<_, i64>("updated_rows"), 1);
    assert_eq!(
        verdicts(&database).await[1..],
        [
            verdict("DUPLICATE", None),
            verdict("REJECTED", Some("EVENT_ID_CONFLICT")),
            verdict("APPLIED", None),
            verdict("REJECTED", Some("INSUFFICIENT_BALANCE")),
        ]
    );
    assert_eq!(available(&database, 1).await.as_deref(), Some("0"));
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_batch_committed_twice_is_recognised_by_its_offsets() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    batch
        .apply(&writer, leader, 0, 1)
        .await
        .expect("first time");
    let again = batch
        .apply(&writer, leader, 0, 1)
        .await
        .expect("second time");
    assert_eq!(again.get::<_, &str>("outcome"), "ALREADY_COMMITTED");
    assert_eq!(available(&database, 1).await.as_deref(), Some("10"));
    let ahead = Batch::default().event(5, "b", &[change(1, "10", "0")]);
    let stale = ahead.apply(&writer, leader, 5, 6).await;
    let stale = stale.expect_err("a stale offset");
    let answer = stale.as_db_error().expect("an answer");
    // Only the fence's own mark says that leadership is lost.
    assert_eq!(answer.code().code(), "55000");
    assert_eq!(answer.routine(), Some(ledger::contract::routine::FENCE));
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_counted_as_it_is_recorded() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let before = Batch::default().event(0, "z", &[change(1, "1", "0")]);
    before
        .apply(&writer, leader, 0, 1)
        .await
        .expect("before it");
    let batch = Batch::default()
        .event(1, "a", &[change(1, "10", "0"), change(2, "5", "0")])
        .event(2, "a", &[change(1, "10", "0"), change(2, "5", "0")])
        .event(3, "b", &[change(1, "-1", "0"), change(3, "-1", "0")])
        .event(4, "a", &[change(1, "11", "0")])
        .dead(5, "MALFORMED_JSON", "{");
    let counts = |row: &tokio_postgres::Row| {
        [
            "events",
            "applied",
            "rejected",
            "duplicates",
            "dead",
            "error_rows",
            "commit_offset",
        ]
        .map(|name| row.get::<_, i64>(name))
    };
    let first = batch
        .apply(&writer, leader, 1, 7)
        .await
        .expect("first time");
    assert_eq!(counts(&first), [5, 1, 2, 1, 1, 3, 7]);
    let again = batch
        .apply(&writer, leader, 1, 7)
        .await
        .expect("second time");
    assert_eq!(again.get::<_, &str>("outcome"), "ALREADY_COMMITTED");
    assert_eq!(counts(&again), counts(&first));
}

#[tokio::test]
async fn nobody_buries_a_record_without_an_order() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let event = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    let buried = Batch::default().dead(0, "BURIED", "bytes");
    assert!(
        message(buried.apply(&writer, leader, 0, 1).await)
            .contains("nobody has ordered to bury the record at offset 0")
    );
    let admin = database.admin().await;
    let order = "SELECT sluice.bury_record('balance.changed', 0, 0, 'a test')";
    admin.batch_execute(order).await.expect("an order");
    let told = event.apply(&writer, leader, 0, 1).await;
    let told = told.expect_err("it is to come as a dead record");
    let told = told.as_db_error().expect("an answer");
    assert_eq!((told.code().code(), told.detail()), ("39000", Some("0")));
    assert_eq!(told.routine(), Some(ledger::contract::routine::SLUICE));
    buried
        .apply(&writer, leader, 0, 1)
        .await
        .expect("as ordered");
    assert_eq!(
        verdicts(&database).await,
        [("DEAD".to_owned(), Some("BURIED".to_owned()))]
    );
    // It owns no identity: the same event may come again.
    let again = Batch::default().event(1, "a", &[change(1, "10", "0")]);
    again.apply(&writer, leader, 1, 2).await.expect("applied");
    assert_eq!(available(&database, 1).await.as_deref(), Some("10"));
    database.assert_invariants().await;
}

#[tokio::test]
async fn staged_rows_that_break_the_promise_are_refused_and_nothing_happens() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default()
        .event(0, "a", &[change(1, "10", "0")])
        .event(1, "b", &[change(1, "1", "0")]);

    writer.batch_execute("BEGIN").await.expect("begin");
    let nothing_staged = batch.call(&writer, leader, 0, 2).await;
    assert_eq!(sqlstate(nothing_staged), "XX001");
    writer
        .batch_execute("ROLLBACK; BEGIN")
        .await
        .expect("again");
    batch.stage(&writer).await.expect("stage");
    let wrong_count = call(&writer, leader, 0, 2, 1, batch.checksum()).await;
    assert_eq!(sqlstate(wrong_count), "XX001");
    writer
        .batch_execute("ROLLBACK; BEGIN")
        .await
        .expect("again");
    batch.stage(&writer).await.expect("stage");
    let wrong_checksum = call(&writer, leader, 0, 2, 2, batch.checksum() ^ 1).await;
    assert_eq!(sqlstate(wrong_checksum), "XX001");
    writer
        .batch_execute("ROLLBACK; BEGIN; SAVEPOINT s")
        .await
        .expect("again");
    batch.stage(&writer).await.expect("stage");
    writer
        .batch_execute("ROLLBACK TO s")
        .await
        .expect("the savepoint takes the staged rows along");
    assert_eq!(sqlstate(batch.call(&writer, leader, 0, 2).await), "XX001");
    writer.batch_execute("ROLLBACK").await.expect("rollback");
    // Staged in a transaction of its own: gone with it.
    batch.stage(&writer).await.expect("stage");
    writer.batch_execute("BEGIN").await.expect("begin");
    assert_eq!(sqlstate(batch.call(&writer, leader, 0, 2).await), "XX001");
    writer.batch_execute("ROLLBACK").await.expect("rollback");

    assert_eq!(available(&database, 1).await, None);
    assert!(verdicts(&database).await.is_empty());
    batch
        .apply(&writer, leader, 0, 2)
        .await
        .expect("the right promise");
    assert_eq!(available(&database, 1).await.as_deref(), Some("11"));
}

#[tokio::test]
async fn rows_outside_the_span_or_out_of_order_are_refused() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let credit = [change(1, "10", "0")];
    let outside = Batch::default().event(7, "a", &credit);
    assert_eq!(
        sqlstate(outside.apply(&writer, leader, 0, 7).await),
        "XX001"
    );
    let backwards = Batch::default()
        .event(1, "a", &credit)
        .event(0, "b", &credit);
    assert_eq!(
        sqlstate(backwards.apply(&writer, leader, 0, 2).await),
        "XX001"
    );
}

#[tokio::test]
async fn without_synchronous_commit_nothing_is_applied() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    writer
        .batch_execute("SET synchronous_commit = off")
        .await
        .expect("set");
    let refused = Batch::default()
        .event(0, "a", &[change(1, "1", "0")])
        .apply(&writer, leader, 0, 1)
        .await;
    assert!(message(refused).contains("synchronous_commit"));
}

#[tokio::test]
async fn an_owners_triggers_fire_and_may_not_change_balances() {
    let database = Database::create().await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "CREATE TABLE public.seen (what text, account_id bigint);
             CREATE FUNCTION public.note_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                 $$ BEGIN INSERT INTO public.seen VALUES (TG_OP, NEW.account_id); RETURN NEW; END $$;
             CREATE FUNCTION public.note_statement() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                 $$ BEGIN INSERT INTO public.seen VALUES ('STATEMENT ' || TG_OP, NULL); RETURN NULL; END $$;
             CREATE TRIGGER row AFTER INSERT OR UPDATE ON ledger.account_balances
                 FOR EACH ROW EXECUTE FUNCTION public.note_row();
             CREATE TRIGGER statement AFTER UPDATE ON ledger.account_balances
                 FOR EACH STATEMENT EXECUTE FUNCTION public.note_statement();",
        )
        .await
        .expect("triggers");
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    Batch::default()
        .event(0, "a", &[change(1, "10", "0")])
        .apply(&writer, leader, 0, 1)
        .await
        .expect("insert");
    Batch::default()
        .event(1, "b", &[change(1, "-3", "0")])
        .apply(&writer, leader, 1, 2)
        .await
        .expect("update");
    let seen = admin
        .query("SELECT what FROM public.seen ORDER BY what", &[])
        .await
        .expect("seen");
    let seen: Vec<&str> = seen.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, ["INSERT", "STATEMENT UPDATE", "UPDATE"]);
    assert_eq!(available(&database, 1).await.as_deref(), Some("7"));

    admin
        .batch_execute(
            "CREATE FUNCTION public.skim() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.available := NEW.available / 2; RETURN NEW; END $$;
             CREATE TRIGGER skim BEFORE UPDATE ON ledger.account_balances
                 FOR EACH ROW EXECUTE FUNCTION public.skim();",
        )
        .await
        .expect("a greedy trigger");
    let refused = Batch::default()
        .event(2, "c", &[change(1, "1", "0")])
        .apply(&writer, leader, 2, 3)
        .await;
    assert!(message(refused).contains("trigger"));
    assert_eq!(available(&database, 1).await.as_deref(), Some("7"));
    database.assert_invariants().await;
}

const ACCOUNTS: i64 = 300;

/// What each account has.
async fn balances(admin: &Client) -> BTreeMap<i64, i64> {
    let statement = "SELECT account_id, available::bigint FROM ledger.account_balances";
    let rows = admin.query(statement, &[]).await.expect("balances");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Gives each account 1, and answers where the next batch begins.
async fn give_each_one(writer: &Client, leader: Leader, from: i64) -> i64 {
    let next = from + ACCOUNTS;
    let batch = (from..next).fold(Batch::default(), |batch, offset| {
        let account = offset - from + 1;
        batch.event(offset, &offset.to_string(), &[change(account, "1", "0")])
    });
    let answer = batch.apply(writer, leader, from, next).await;
    let applied: i64 = answer.expect("the batch fits").get("applied");
    assert_eq!(applied, ACCOUNTS);
    next
}

#[tokio::test]
async fn rows_that_others_change_and_move_are_met_as_they_are() {
    const BEHIND: [&str; 7] = [
        "SELECT",
        "UPDATE ledger.account_balances SET available = available + 100 WHERE account_id % 3 = 0",
        "CREATE TEMPORARY TABLE gone AS SELECT * FROM ledger.account_balances WHERE account_id % 2 = 0;
         DELETE FROM ledger.account_balances WHERE account_id % 2 = 0;
         INSERT INTO ledger.account_balances SELECT * FROM gone ORDER BY account_id DESC",
        // Where a row was, another account's is.
        "CREATE TEMPORARY TABLE kept AS TABLE ledger.account_balances;
         TRUNCATE ledger.account_balances;
         INSERT INTO ledger.account_balances SELECT * FROM kept ORDER BY account_id DESC",
        "VACUUM FULL ledger.account_balances",
        "DELETE FROM ledger.account_balances",
        // The table is shorter than it was.
        "TRUNCATE ledger.account_balances",
    ];
    let database = Database::create().await;
    let (admin, writer) = (database.admin().await, database.writer().await);
    let leader = lead(&writer, 0, "a").await;
    let mut from = 0;
    for behind in BEHIND {
        admin.batch_execute(behind).await.expect(behind);
        let mut expected = balances(&admin).await;
        for _ in 0..3 {
            from = give_each_one(&writer, leader, from).await;
        }
        (1..=ACCOUNTS).for_each(|account| *expected.entry(account).or_default() += 3);
        assert_eq!(balances(&admin).await, expected, "after {behind}");
    }
}

#[tokio::test]
async fn a_row_that_another_changes_at_that_moment_is_waited_for() {
    let database = Database::create().await;
    let (admin, writer) = (database.admin().await, database.writer().await);
    let leader = lead(&writer, 0, "a").await;
    let from = give_each_one(&writer, leader, 0).await;
    for (round, end) in ["COMMIT", "ROLLBACK"].into_iter().enumerate() {
        let before = balances(&admin).await;
        // The first of its batch, and one behind it.
        let change = "BEGIN; UPDATE ledger.account_balances SET available = available + 100 WHERE account_id IN (1, 7)";
        admin.batch_execute(change).await.expect("a superuser may");
        let apply = give_each_one(&writer, leader, from + round as i64 * ACCOUNTS);
        let goes_on = async {
            database.wait_until_blocked(1).await;
            admin.batch_execute(end).await.expect("open");
        };
        tokio::join!(apply, goes_on);
        let after = balances(&admin).await;
        for (account, available) in before {
            let changed = end == "COMMIT" && [1, 7].contains(&account);
            let expected = available + 1 + if changed { 100 } else { 0 };
            assert_eq!(after[&account], expected, "account {account} after {end}");
        }
    }
}

#[tokio::test]
async fn with_an_old_snapshot_the_index_stays_whole_and_each_row_one() {
    const BATCHES: i64 = 100;
    let database = Database::create().await;
    let (admin, writer) = (database.admin().await, database.writer().await);
    let leader = lead(&writer, 0, "a").await;
    let mut from = give_each_one(&writer, leader, 0).await;
    let old = database.admin().await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .expect("a snapshot");
    let before = balances(&old).await;
    for batch in 1..BATCHES {
        if batch % 10 == 0 {
            // What a batch that comes to nothing has learned is worth nothing.
            let broken = Batch::default().event(from, "broken", &[change(1, "1", "0")]);
            writer.batch_execute("BEGIN").await.expect("idle");
            broken.stage(&writer).await.expect("staged");
            let done = broken.call(&writer, leader, from, from + 1).await;
            done.expect("the batch fits");
            writer.batch_execute("ROLLBACK").await.expect("open");
        }
        from = give_each_one(&writer, leader, from).await;
    }
    let everyone_has = |amount| (1..=ACCOUNTS).map(|account| (account, amount)).collect();
    assert_eq!(balances(&old).await, before, "the old snapshot");
    assert_eq!(balances(&admin).await, everyone_has(BATCHES));
    // Versions that found no room in their page, and so have an entry of their own.
    admin
        .batch_execute(
            "CREATE EXTENSION amcheck; SELECT bt_index_check('ledger.account_balances_pkey', true);
             SET enable_seqscan = off; SET enable_bitmapscan = off",
        )
        .await
        .expect("an index with an entry for each version that needs one");
    let entries = admin
        .query_one(
            "SELECT pg_relation_size('ledger.account_balances_pkey') / 8192, count(*)
             FROM generate_series(1, $1::bigint) n JOIN LATERAL (
                 SELECT FROM ledger.account_balances b WHERE b.account_id = n AND b.shard_id = 0 AND b.currency_code = 'USD'
             ) b ON true",
            &[&ACCOUNTS],
        )
        .await
        .expect("looked up by the index");
    assert!(entries.get::<_, i64>(0) > 10, "pages of the index");
    assert_eq!(entries.get::<_, i64>(1), ACCOUNTS, "found by the index");
    old.batch_execute("COMMIT").await.expect("open");
    admin
        .batch_execute("VACUUM ledger.account_balances")
        .await
        .expect("nothing holds it");
    give_each_one(&writer, leader, from).await;
    assert_eq!(balances(&admin).await, everyone_has(BATCHES + 1));
    database.assert_invariants().await;
}

#[tokio::test]
async fn an_owners_columns_indexes_and_constraints_are_honoured() {
    let database = Database::create().await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "ALTER TABLE ledger.account_balances ADD COLUMN note text NOT NULL DEFAULT 'new';
             CREATE INDEX by_available ON ledger.account_balances (available);
             CREATE INDEX by_time ON ledger.account_balances USING brin (updated_msec);
             ALTER TABLE ledger.account_balances ADD CONSTRAINT cap CHECK (available < 100);",
        )
        .await
        .expect("additions");
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    Batch::default()
        .event(0, "a", &[change(1, "10", "0")])
        .apply(&writer, leader, 0, 1)
        .await
        .expect("insert");
    admin
        .execute("UPDATE ledger.account_balances SET note = 'kept'", &[])
        .await
        .expect("note");
    Batch::default()
        .event(1, "b", &[change(1, "5", "0")])
        .apply(&writer, leader, 1, 2)
        .await
        .expect("update");
    admin
        .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        .await
        .expect("index only");
    let row = admin
        .query_one(
            "SELECT note FROM ledger.account_balances WHERE available = 15",
            &[],
        )
        .await;
    assert_eq!(
        row.expect("found by the new index").get::<_, &str>(0),
        "kept"
    );
    let over_cap = Batch::default()
        .event(2, "c", &[change(1, "90", "0")])
        .apply(&writer, leader, 2, 3)
        .await;
    assert_eq!(sqlstate(over_cap), "23514");
    assert_eq!(available(&database, 1).await.as_deref(), Some("15"));
}

#[tokio::test]
async fn an_owners_computed_columns_follow() {
    let database = Database::create().await;
    let admin = database.admin().await;
    admin
        .batch_execute("ALTER TABLE ledger.account_balances ADD total numeric GENERATED ALWAYS AS (available + frozen) STORED")
        .await
        .expect("a column");
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    for (offset, total) in [(0, 10), (1, 20)] {
        Batch::default()
            .event(offset, &offset.to_string(), &[change(1, "7", "3")])
            .apply(&writer, leader, offset, offset + 1)
            .await
            .expect("the batch fits");
        let row = admin
            .query_one("SELECT total::bigint FROM ledger.account_balances", &[])
            .await
            .expect("one account");
        assert_eq!(row.get::<_, i64>(0), total);
    }
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_name() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    for (add, undo, named) in [
        (
            "ALTER TABLE ledger.account_balances ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE ledger.account_balances DISABLE ROW LEVEL SECURITY",
            "row level security",
        ),
        (
            "CREATE RULE quiet AS ON UPDATE TO ledger.account_balances DO INSTEAD NOTHING",
            "DROP RULE quiet ON ledger.account_balances",
            "rules",
        ),
        (
            "CREATE TABLE public.child () INHERITS (ledger.account_balances)",
            "DROP TABLE public.child; VACUUM ANALYZE ledger.account_balances",
            "child tables",
        ),
        (
            "CREATE TRIGGER t BEFORE INSERT ON ledger.balance_log FOR EACH ROW EXECUTE FUNCTION
                 pg_catalog.suppress_redundant_updates_trigger()",
            "DROP TRIGGER t ON ledger.balance_log",
            "triggers",
        ),
        (
            "DROP VIEW IF EXISTS ledger.account_history; ALTER TABLE ledger.account_balances ALTER available TYPE numeric(30, 8)",
            "ALTER TABLE ledger.account_balances ALTER available TYPE numeric(36, 18)",
            "precision",
        ),
        (
            "CREATE TABLE public.logs (LIKE ledger.balance_log) PARTITION BY LIST (partition_id);
             ALTER TABLE public.logs ATTACH PARTITION ledger.balance_log FOR VALUES IN (77)",
            "ALTER TABLE public.logs DETACH PARTITION ledger.balance_log; DROP TABLE public.logs",
            "partition of another table",
        ),
        (
            "CREATE UNIQUE INDEX one_payload ON ledger.event_identities (payload_hash)",
            "DROP INDEX ledger.one_payload",
            "one_payload",
        ),
        (
            "ALTER TABLE ledger.event_identities ADD CONSTRAINT apart EXCLUDE USING btree (payload_hash WITH =)",
            "ALTER TABLE ledger.event_identities DROP CONSTRAINT apart",
            "apart",
        ),
        (
            "ALTER TABLE ledger.balance_log SET UNLOGGED",
            "ALTER TABLE ledger.balance_log SET LOGGED",
            "unlogged",
        ),
    ] {
        admin.batch_execute(add).await.expect(add);
        let refused = message(batch.apply(&writer, leader, 0, 1).await);
        assert!(
            refused.contains(named) && refused.contains("ledger."),
            "{add}: {refused}"
        );
        for statement in undo.split(';') {
            admin.batch_execute(statement).await.expect(statement);
        }
    }
    batch
        .apply(&writer, leader, 0, 1)
        .await
        .expect("all undone");
    admin
        .batch_execute(
            "ALTER TABLE ledger.account_balances RENAME TO old;
             CREATE TABLE ledger.account_balances (LIKE ledger.old) PARTITION BY HASH (account_id);",
        )
        .await
        .expect("a partitioned table");
    let refused = Batch::default()
        .event(1, "b", &[change(1, "1", "0")])
        .apply(&writer, leader, 1, 2)
        .await;
    assert!(message(refused).contains("partitioned"));
}

/// A further index on the identity alone is the same rule once more, as REINDEX CONCURRENTLY makes one meanwhile.
#[tokio::test]
async fn a_second_index_on_the_identity_is_no_obstacle() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let index = "CREATE UNIQUE INDEX again ON ledger.event_identities (identity)";
    admin.batch_execute(index).await.expect("an owner may");
    for offset in 0..2 {
        let answer = Batch::default()
            .event_with_payload(offset, "a", "the same", &[change(1, "10", "0")])
            .apply(&writer, leader, offset, offset + 1)
            .await;
        let duplicates: i64 = answer.expect("applied").get("duplicates");
        assert_eq!(duplicates, offset);
    }
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_transaction_with_one_snapshot_for_all_statements_is_refused_by_name() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let trigger = "CREATE TRIGGER t BEFORE UPDATE ON ledger.account_balances FOR EACH ROW
        EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()";
    admin.batch_execute(trigger).await.expect("an owner may");
    let batch = Batch::default()
        .event(0, "a", &[change(1, "10", "0")])
        .dead(1, "MALFORMED_JSON", "{");
    for level in ["repeatable read", "serializable"] {
        let default = format!("SET default_transaction_isolation TO '{level}'");
        writer.batch_execute(&default).await.expect("anybody may");
        let refused = message(batch.apply(&writer, leader, 0, 2).await);
        assert!(refused.contains("READ COMMITTED"), "{level}: {refused}");
    }
    let default = "SET default_transaction_isolation TO 'read committed'";
    writer.batch_execute(default).await.expect("anybody may");
    batch.apply(&writer, leader, 0, 2).await.expect("applied");
    let default = "SET default_transaction_isolation TO 'repeatable read'";
    admin.batch_execute(default).await.expect("anybody may");
    let correction = r#"SELECT * FROM sluice.apply_balance_changes('[{"accountId": 1, "currencyCode": "USD", "availableDelta": "1"}]', 'a test', false)"#;
    let refused = message(admin.batch_execute(correction).await);
    assert!(refused.contains("READ COMMITTED"), "{refused}");
    assert_eq!(available(&database, 1).await.as_deref(), Some("10"));
}

#[tokio::test]
async fn the_table_itself_refuses_negative_and_nan_balances() {
    let database = Database::create().await;
    let admin = database.admin().await;
    for bad in ["-1", "'NaN'", "'Infinity'", "1e18"] {
        let statement =
            format!("INSERT INTO ledger.account_balances VALUES (1, 0, 'USD', {bad}, 0, 0)");
        assert!(
            admin.batch_execute(&statement).await.is_err(),
            "{bad} as available"
        );
        let statement =
            format!("INSERT INTO ledger.account_balances VALUES (1, 0, 'USD', 0, {bad}, 0)");
        assert!(
            admin.batch_execute(&statement).await.is_err(),
            "{bad} as frozen"
        );
    }
}

/// Two partitions take the same accounts in opposite orders. Balances are locked in key
/// order, so nobody waits in a circle; without that order this deadlocks.
#[tokio::test]
async fn partitions_that_share_accounts_do_not_deadlock() {
    let database = Database::create().await;
    const ROUNDS: i64 = 40;
    const ACCOUNTS: i64 = 60;
    let seed = (0..ACCOUNTS).fold(Batch::default(), |batch, account| {
        batch.event(
            account,
            &format!("seed{account}"),
            &[change(account, "1", "0")],
        )
    });
    let writer = database.writer().await;
    let leader = lead(&writer, 9, "seed").await;
    seed.apply(&writer, leader, 0, ACCOUNTS)
        .await
        .expect("accounts");
    let run = |partition: i32| {
        let database = &database;
        async move {
            let client = database.writer().await;
            let leader = lead(&client, partition, "a").await;
            for round in 0..ROUNDS {
                let from = round * ACCOUNTS;
                let batch = (0..ACCOUNTS).fold(Batch::default(), |batch, index| {
                    let account = if partition == 0 {
                        index
                    } else {
                        ACCOUNTS - 1 - index
                    };
                    batch.event(
                        from + index,
                        &format!("p{partition}r{round}e{index}"),
                        &[change(account, "1", "0")],
                    )
                });
                batch
                    .apply(&client, leader, from, from + ACCOUNTS)
                    .await
                    .expect("no deadlock surfaces");
            }
        }
    };
    tokio::join!(run(0), run(1));
    for account in [0, ACCOUNTS - 1] {
        assert_eq!(
            available(&database, account).await,
            Some((2 * ROUNDS + 1).to_string())
        );
    }
    database.assert_invariants().await;
}

#[tokio::test]
async fn accounts_opened_by_two_partitions_at_once_fail_only_on_their_key() {
    let database = Database::create().await;
    let (first, second) = (database.writer().await, database.writer().await);
    let (a, b) = (lead(&first, 0, "a").await, lead(&first, 1, "a").await);
    let mine = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    let theirs = Batch::default().event(0, "b", &[change(1, "5", "0")]);
    first.batch_execute("BEGIN").await.expect("begin");
    mine.stage(&first).await.expect("stage");
    mine.call(&first, a, 0, 1).await.expect("apply");
    // The second one waits for the first, then finds the account that it opened.
    let (committed, answer) = tokio::join!(
        async {
            database.wait_until_blocked(1).await;
            first.batch_execute("COMMIT").await
        },
        theirs.apply(&second, b, 0, 1)
    );
    committed.expect("commit");
    if let Err(error) = &answer {
        assert_eq!(
            error.code().map(|code| code.code()),
            Some("23505"),
            "{error}"
        );
        theirs.apply(&second, b, 0, 1).await.expect("tried again");
    }
    assert_eq!(available(&database, 1).await.as_deref(), Some("15"));
    database.assert_invariants().await;
}

/// What the second partition makes of an identity that the first one has claimed, once that one has ended. Where the
/// second one `repeats` itself it looks for owners before it inserts.
async fn second_claim(end: &str, repeats: bool) -> Row {
    let database = Database::create().await;
    let (first, second) = (database.writer().await, database.writer().await);
    let (a, b) = (lead(&first, 0, "a").await, lead(&first, 1, "a").await);
    let event = |from, account| {
        let changes = [change(account, "1", "0")];
        Batch::default()
            .event_with_payload(from, "x", "the same bytes", &changes)
            .event(from + 1, &format!("other{account}"), &changes)
    };
    let from = if repeats { 2 } else { 0 };
    for offset in 0..from {
        let again =
            Batch::default().event_with_payload(offset, "again", "again", &[change(2, "1", "0")]);
        let again = again.apply(&second, b, offset, offset + 1).await;
        again.expect("applied");
    }
    first.batch_execute("BEGIN").await.expect("begin");
    let mine = event(0, 1);
    mine.stage(&first).await.expect("stage");
    mine.call(&first, a, 0, 2).await.expect("apply");
    let theirs = event(from, 2);
    let (ended, answer) = tokio::join!(
        async {
            database.wait_until_blocked(1).await;
            first.batch_execute(end).await
        },
        theirs.apply(&second, b, from, from + 2)
    );
    ended.expect(end);
    let rows = database.admin().await;
    let rows = rows
        .query("SELECT identity FROM ledger.event_identities", &[])
        .await
        .expect("identities");
    let expected = usize::from(repeats) + if end == "COMMIT" { 3 } else { 2 };
    assert_eq!(rows.len(), expected, "each once");
    database.assert_invariants().await;
    answer.expect("applied")
}

#[tokio::test]
async fn an_identity_that_two_partitions_carry_belongs_to_the_first_to_commit() {
    for repeats in [false, true] {
        let answer = second_claim("COMMIT", repeats).await;
        assert_eq!(answer.get::<_, i64>("duplicates"), 1);
        assert_eq!(answer.get::<_, i64>("applied"), 1);
        let answer = second_claim("ROLLBACK", repeats).await;
        assert_eq!(answer.get::<_, i64>("duplicates"), 0);
        assert_eq!(answer.get::<_, i64>("applied"), 2);
    }
}

#[tokio::test]
async fn partitions_that_carry_the_same_identities_apply_each_once() {
    let database = Database::create().await;
    const ROUNDS: i64 = 30;
    const EVENTS: i64 = 700;
    // Both send the same events, in another order and with other cuts of the account.
    let run = |partition: i32| {
        let database = &database;
        async move {
            let client = database.writer().await;
            let leader = lead(&client, partition, "a").await;
            let (mut applied, mut duplicates) = (0, 0);
            for round in 0..ROUNDS {
                let from = round * EVENTS;
                let batch = (0..EVENTS).fold(Batch::default(), |batch, index| {
                    let number = if partition == 0 {
                        index
                    } else {
                        EVENTS - 1 - index
                    };
                    let id = format!("r{round}e{number}");
                    batch.event_with_payload(
                        from + index,
                        &id,
                        &id,
                        &[change(i64::from(partition), "1", "0")],
                    )
                });
                let answer = batch
                    .apply(&client, leader, from, from + EVENTS)
                    .await
                    .expect("no deadlock surfaces");
                applied += answer.get::<_, i64>("applied");
                duplicates += answer.get::<_, i64>("duplicates");
            }
            (applied, duplicates)
        }
    };
    let (first, second) = tokio::join!(run(0), run(1));
    assert_eq!(
        first.0 + second.0,
        ROUNDS * EVENTS,
        "each is applied by one of them"
    );
    assert_eq!(
        first.1 + second.1,
        ROUNDS * EVENTS,
        "and is a duplicate to the other"
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_backend_that_is_terminated_within_the_apply_lets_go_of_its_pages() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    admin
        .batch_execute("CREATE EXTENSION pg_buffercache")
        .await
        .expect("comes with PostgreSQL");
    let leader = lead(&writer, 0, "a").await;
    let first = Batch::default().event(0, "a", &[change(1, "1", "0")]);
    first.apply(&writer, leader, 0, 1).await.expect("applied");
    let other = database.admin().await;
    other
        .batch_execute("BEGIN; SELECT FROM ledger.account_balances FOR UPDATE")
        .await
        .expect("locked");
    let second = Batch::default().event(1, "b", &[change(1, "1", "0")]);
    let (terminated, answer) = tokio::join!(
        async {
            database.wait_until_blocked(1).await;
            let blocked = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            admin.batch_execute(blocked).await
        },
        second.apply(&writer, leader, 1, 2)
    );
    terminated.expect("terminated");
    answer.expect_err("the connection is gone");
    database.wait_for_sessions(0).await;
    other.batch_execute("ROLLBACK").await.expect("rolled back");
    let pinned = "SELECT count(*) FROM pg_buffercache b JOIN pg_class c ON b.relfilenode = pg_relation_filenode(c.oid)
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'ledger' AND b.pinning_backends > 0
            AND b.reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let pinned: i64 = admin.query_one(pinned, &[]).await.expect("asked").get(0);
    assert_eq!(pinned, 0);
}

#[tokio::test]
async fn a_dead_letter_is_replayed_with_a_corrected_payload() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default()
        .event(0, "credit", &[change(1, "10", "0")])
        .dead(1, "MALFORMED_JSON", "{")
        .dead(2, "MALFORMED_JSON", "[")
        .event(3, "debit", &[change(1, "-4", "0")]);
    batch.apply(&writer, leader, 0, 4).await.expect("applied");
    let replay = async |offset: i64, event_id: &str, delta: &str, dry_run: bool| {
        let replay = format!(
            r#"SELECT verdict, reason FROM sluice.replay_dead_letters(
                ids => ARRAY(SELECT id FROM ledger.dead_letters WHERE kafka_offset = {offset}), dry_run => {dry_run},
                payload => convert_to('{{"eventId":"{event_id}","eventType":"balance.changed","data":{{"accountId":1,
                    "changes":[{{"currencyCode":"USD","availableDelta":"{delta}"}}]}}}}', 'UTF8'))"#
        );
        let row = admin.query_one(&replay, &[]).await.expect("replayed");
        (row.get::<_, String>(0), row.get::<_, Option<String>>(1))
    };
    assert_eq!(
        replay(1, "new", "-7", true).await,
        verdict("REJECTED", Some("INSUFFICIENT_BALANCE"))
    );
    assert_eq!(replay(1, "new", "-6", true).await, verdict("APPLIED", None));
    assert_eq!(
        available(&database, 1).await.as_deref(),
        Some("6"),
        "only a dry run"
    );
    assert_eq!(
        replay(1, "new", "-6", false).await,
        verdict("APPLIED", None)
    );
    assert_eq!(available(&database, 1).await.as_deref(), Some("0"));
    assert_eq!(
        replay(2, "new", "-6", false).await,
        verdict("DUPLICATE", None)
    );
    let expected = [
        verdict("APPLIED", None),
        verdict("APPLIED", None),
        verdict("DUPLICATE", None),
        verdict("APPLIED", None),
    ];
    assert_eq!(verdicts(&database).await, expected);
    database.assert_invariants().await;
}

/// Every other offset is the marker of a transaction, so that 200 offsets hold 100 records.
#[tokio::test]
async fn behind_one_record_transactions_the_circuit_breaker_still_trips() {
    const TRIPPED: &str =
        "the database refused 101 of the last 200 records of balance.changed/0, last: a test";
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let refused = async |n: i64| {
        let batch = Batch::default().dead(2 * n, "APPLY_FAILED", "{}");
        batch.apply(&writer, leader, 2 * n, 2 * n + 2).await
    };
    let applied = async |records: std::ops::Range<i64>| {
        let (from, next) = (2 * records.start, 2 * records.end);
        let batch = records.fold(Batch::default(), |batch, n| {
            batch.event(2 * n, &format!("e{n}"), &[change(1, "1", "0")])
        });
        batch.apply(&writer, leader, from, next).await
    };
    for n in 0..100 {
        refused(n).await.expect("a dead letter");
    }
    assert_eq!(message(refused(100).await), TRIPPED);
    // Until it is 201 records ago the first of them counts, wherever the verdicts of the others stand.
    applied(100..199).await.expect("applied");
    assert_eq!(message(refused(199).await), TRIPPED);
    applied(199..200).await.expect("applied");
    refused(200).await.expect("half of 200 is not most");
    database.assert_invariants().await;
}
