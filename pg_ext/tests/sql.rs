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
