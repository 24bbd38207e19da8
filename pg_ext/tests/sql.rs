//! What DBAs do by hand: corrections and audit.

mod common;

use common::{Batch, Database, available, change, lead, sqlstate};
use tokio_postgres::Client;

/// One of the numbers in a query's first row, as text.
async fn text(client: &Client, query: &str) -> Option<String> {
    let row = client
        .query_opt(query, &[])
        .await
        .unwrap_or_else(|error| panic!("{query}: {error:?}"));
    row.and_then(|row| row.get(0))
}

#[tokio::test]
async fn corrections_follow_the_rules_of_events_and_name_who_made_them() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let correct = |changes: &str, reason: &str, dry_run: bool| {
        format!(
            "SELECT status || ' ' || coalesce(reject_reason, available_after::text) FROM sluice.apply_balance_changes('{changes}', '{reason}', {dry_run})"
        )
    };
    let credit = r#"[{"accountId": 1, "currencyCode": "USD", "availableDelta": 12.5}]"#;
    let applied = Some("APPLIED 12.500000000000000000".to_owned());
    assert_eq!(text(&admin, &correct(credit, "gift", true)).await, applied);
    assert_eq!(available(&database, 1).await, None, "only a dry run");
    assert_eq!(text(&admin, &correct(credit, "gift", false)).await, applied);
    let debit = r#"[{"accountId": 1, "currencyCode": "USD", "availableDelta": "-13"}]"#;
    assert_eq!(
        text(&admin, &correct(debit, "too much", false))
            .await
            .as_deref(),
        Some("REJECTED INSUFFICIENT_BALANCE")
    );
    let who = "SELECT string_agg(by_user || ': ' || why, ', ' ORDER BY kafka_offset) FROM ledger.manual_corrections";
    assert_eq!(
        text(&admin, who).await.as_deref(),
        Some("postgres: gift, postgres: too much")
    );
    for (changes, reason) in [
        (r#"[{"accountId": 1}]"#, "no currency"),
        ("[]", "none"),
        (credit, " "),
    ] {
        let refused = admin.query(&correct(changes, reason, false), &[]).await;
        assert_eq!(sqlstate(refused), "22023", "{changes}");
    }
    let writer = database.writer().await;
    assert_eq!(
        sqlstate(writer.query(&correct(credit, "mine", false), &[]).await),
        "42501"
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn audits_find_nothing_where_all_is_well_and_name_what_is_not() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default()
        .event(2, "e2", &[change(1, "10", "0")])
        .dead(3, "MALFORMED_JSON", "{")
        .event(5, "e5", &[change(1, "-4", "1")]);
    batch.apply(&writer, leader, 0, 8).await.expect("applied");
    let verify = "SELECT account_id || ' ' || available || ' ' || logged_available FROM sluice.verify_balances()";
    let gaps = "SELECT string_agg(first_offset || '-' || next_offset, ' ' ORDER BY 1) FROM sluice.offset_gaps('balance.changed', 0)";
    assert_eq!(
        (text(&admin, verify).await, text(&admin, gaps).await),
        (None, None)
    );
    let at = |at: &str| {
        format!(
            "SELECT available::text || ' ' || frozen::text FROM sluice.balance_as_of(1, 0, 'USD', {at})"
        )
    };
    let zeros = "0".repeat(18);
    assert_eq!(
        text(&admin, &at("clock_timestamp()")).await,
        Some(format!("6.{zeros} 1.{zeros}"))
    );
    assert_eq!(text(&admin, &at("'-infinity'")).await, None);

    admin
        .batch_execute(
            "UPDATE ledger.account_balances SET available = 7;
             DELETE FROM ledger.balance_log WHERE kafka_offset = 2;
             DELETE FROM ledger.verdicts;
             DELETE FROM ledger.offset_holes WHERE first_offset = 6",
        )
        .await
        .expect("sabotage");
    assert_eq!(
        text(&admin, verify).await,
        Some(format!("1 7.{zeros} -4.{zeros}"))
    );
    assert_eq!(text(&admin, gaps).await.as_deref(), Some("2-4 6-8"));
}

/// The changes of account 1 as its history tells them, newest first.
async fn history(client: &Client, limit: &str) -> Option<String> {
    let query = format!(
        "SELECT string_agg(nth || ':' || trim_scale(available_delta) || '=' || trim_scale(available_after) || '@' || partition || '/' || kafka_offset || '.' || change_no, ' ')
         FROM (SELECT * FROM ledger.account_history WHERE account_id = 1 {limit}) h"
    );
    text(client, &query).await
}

#[tokio::test]
async fn the_history_of_a_balance_goes_through_all_partitions() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let (zero, one) = (lead(&writer, 0, "a").await, lead(&writer, 1, "a").await);
    assert_eq!(history(&admin, "").await, None);
    let batch = Batch::default()
        .event(
            0,
            "a",
            &[
                change(1, "10", "0"),
                change(2, "1", "0"),
                change(1, "-3", "0"),
            ],
        )
        .event(1, "b", &[change(1, "-8", "0")]) // rejected, and no part of the history
        .event(2, "c", &[change(1, "1", "0")]);
    batch.apply(&writer, zero, 0, 3).await.expect("applied");
    let batch = Batch::default().event(0, "d", &[change(1, "-2", "0")]);
    batch.apply(&writer, one, 0, 1).await.expect("applied");
    let batch = Batch::default().event(3, "e", &[change(1, "5", "0")]);
    batch.apply(&writer, zero, 3, 4).await.expect("applied");
    let whole = "1:5=11@0/3.0 2:-2=6@1/0.0 3:1=8@0/2.0 4:-3=7@0/0.2 5:10=10@0/0.0";
    assert_eq!(history(&admin, "").await.as_deref(), Some(whole));
    assert_eq!(
        history(&admin, "LIMIT 2").await.as_deref(),
        Some("1:5=11@0/3.0 2:-2=6@1/0.0")
    );
    let at_each = "SELECT string_agg(trim_scale(b.available)::text, ' ' ORDER BY h.nth)
        FROM (SELECT DISTINCT ON (created_at) * FROM ledger.account_history WHERE account_id = 1 ORDER BY created_at, nth) h
        CROSS JOIN sluice.balance_as_of(1, 0, 'USD', h.created_at) b";
    assert_eq!(text(&admin, at_each).await.as_deref(), Some("11 6 8"));
    database.assert_invariants().await;

    // What the migration does for a log that was written before there was a history.
    let migration = include_str!("../../migrations/V13__history_and_results.sql");
    let (_, link) = migration.split_once("WITH changes").expect("the linking");
    let (link, _) = link.split_once("COMMENT ON").expect("its end");
    let forget = "UPDATE ledger.balance_log SET previous_offset = NULL, previous_partition_id = NULL, previous_change_no = NULL;
        UPDATE ledger.account_balances SET last_offset = NULL, last_partition_id = NULL, last_change_no = NULL;";
    admin.batch_execute(forget).await.expect("forgotten");
    assert_eq!(history(&admin, "").await, None);
    admin
        .batch_execute(&format!("WITH changes{link}"))
        .await
        .expect("linked");
    assert_eq!(history(&admin, "").await.as_deref(), Some(whole));
    database.assert_invariants().await;
}

#[tokio::test]
async fn results_are_told_from_where_they_were_left_and_again_when_a_replay_changes_them() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let good = r#"{"eventId":"r","eventType":"balance.changed","source":"bank","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"2.50"}]}}"#;
    let batch = Batch::default()
        .event(0, "a", &[change(1, "10", "0"), change(2, "0", "1.5")])
        .dead(1, "MALFORMED_JSON", "{")
        .event(3, "b", &[change(1, "-11", "0")])
        .event(4, "a", &[change(1, "10", "0"), change(2, "0", "1.5")]);
    batch.apply(&writer, leader, 0, 6).await.expect("applied");
    let unsent = async |max_rows: i32| {
        let query = "SELECT result, next_offset, changed_verdict FROM sluice.unsent_results('balance.changed', 0, $1)";
        let rows = writer.query(query, &[&max_rows]).await.expect("results");
        let told = |row: &tokio_postgres::Row| {
            let result: Option<String> = row.get(0);
            let result = result.map(|json| json.replace([' ', '"'], ""));
            (
                result,
                row.get::<_, Option<i64>>(1),
                row.get::<_, Option<i64>>(2),
            )
        };
        rows.iter().map(told).collect::<Vec<_>>()
    };
    let mark = async |next: Option<i64>, changed: &[i64]| {
        let mark = "SELECT sluice.mark_results('balance.changed', 0, $1, $2)";
        writer
            .execute(mark, &[&next, &changed])
            .await
            .expect("marked");
    };
    let balance = |account: i64, available: &str, frozen: &str| {
        format!(
            "{{accountId:{account},shardId:0,currencyCode:USD,available:{available},frozen:{frozen}}}"
        )
    };
    let (one, two) = (balance(1, "10", "0"), balance(2, "0", "1.5"));
    let json = |offset: i64, event: &str, verdict: &str, balances: &str| {
        let (event_id, source) = event.split_once(' ').expect("id and source");
        let (verdict, reason) = verdict.split_once(' ').expect("verdict and reason");
        Some(format!(
            "{{topic:balance.changed,partition:0,offset:{offset},eventId:{event_id},source:{source},verdict:{verdict},reason:{reason},balances:[{balances}]}}"
        ))
    };
    let result = |offset: i64, event: &str, verdict: &str, balances: &str| {
        (
            json(offset, event, verdict, balances),
            Some(offset + 1),
            None,
        )
    };
    let first = [
        result(0, "a null", "APPLIED null", &format!("{one},{two}")),
        result(1, "null null", "DEAD MALFORMED_JSON", ""),
    ];
    assert_eq!(unsent(2).await, first);
    assert_eq!(unsent(2).await, first, "as long as they are not marked");
    mark(Some(2), &[]).await;
    let second = [
        result(3, "b null", "REJECTED INSUFFICIENT_BALANCE", &one),
        result(4, "a null", "DUPLICATE null", ""),
        (None, Some(6), None), // offset 5 is a hole
    ];
    assert_eq!(unsent(10).await, second);
    mark(Some(6), &[]).await;
    mark(Some(3), &[]).await; // a slow former leader moves nothing back
    mark(Some(99), &[]).await; // and nobody beyond what is committed
    assert_eq!(unsent(10).await, [(None, Some(6), None)]);
    let waiting =
        "SELECT string_agg(topic || '/' || partition, ' ') FROM sluice.partitions_with_results()";
    assert_eq!(text(&admin, waiting).await, None);

    let replay = "SELECT sluice.replay_dead_letters(ids => ARRAY(SELECT id FROM ledger.dead_letters), payload => $1, dry_run => false)";
    admin
        .execute(replay, &[&good.as_bytes()])
        .await
        .expect("replayed");
    assert_eq!(
        text(&admin, waiting).await.as_deref(),
        Some("balance.changed/0")
    );
    let told = unsent(10).await;
    let changed: Vec<i64> = told.iter().filter_map(|row| row.2).collect();
    let again = json(1, "r bank", "APPLIED null", &balance(1, "12.5", "0"));
    assert_eq!(told[1..], [(again, None, Some(changed[0]))]);
    mark(None, &changed).await;
    assert_eq!(text(&admin, waiting).await, None);
    database.assert_invariants().await;
}
