//! Functions that DBAs use: corrections and audit.

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
    let applied = Some("APPLIED 12.5".to_owned());
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
    assert_eq!(
        text(&admin, &at("clock_timestamp()")).await.as_deref(),
        Some("6 1")
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
    assert_eq!(text(&admin, verify).await.as_deref(), Some("1 7 -4"));
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
}

#[tokio::test]
async fn results_are_told_from_where_they_were_left_and_again_when_a_replay_changes_them() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let good = r#"{"eventId":"r","eventType":"balance.changed","source":"bank","timestamp":"2026-11-21T06:00:00.5+01:00","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"2.50"}]}}"#;
    let batch = Batch::default()
        .event(0, "a", &[change(1, "10", "0"), change(2, "0", "1.5")])
        .at(1_795_237_200)
        .dead(1, "MALFORMED_JSON", "{")
        .event(3, "b", &[change(1, "-11", "0")])
        .event(4, "a", &[change(1, "10", "0"), change(2, "0", "1.5")])
        .at(1_795_237_200);
    batch.apply(&writer, leader, 0, 6).await.expect("applied");
    let unsent = async |max_rows: i32| {
        let query = "SELECT result, next_offset, changed_verdict FROM sluice.unsent_results('balance.changed', 0, $1)";
        let rows = writer.query(query, &[&max_rows]).await.expect("results");
        let told = |row: &tokio_postgres::Row| {
            let result: Option<String> = row.get(0);
            let result = result.map(|json| {
                // Just now, whenever that is.
                let (head, rest) = json.split_once(", \"createdAt\" : \"20").expect("it");
                let (at, rest) = rest.split_once("Z\"").expect("its end");
                assert_eq!(at.len(), "26-11-21T05:00:00.000000".len(), "{json}");
                [head, rest].concat().replace([' ', '"'], "")
            });
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
        let event: Vec<&str> = event.split(' ').collect();
        let [event_id, source, time] = event[..] else {
            panic!("id, source and time: {event:?}");
        };
        let (verdict, reason) = verdict.split_once(' ').expect("verdict and reason");
        let message = if verdict == "DEAD" { "atest" } else { "null" };
        Some(format!(
            "{{topic:balance.changed,partition:0,offset:{offset},eventId:{event_id},source:{source},eventType:balance.changed,verdict:{verdict},reason:{reason},message:{message},eventTime:{time},balances:[{balances}]}}"
        ))
    };
    let result = |offset: i64, event: &str, verdict: &str, balances: &str| {
        (
            json(offset, event, verdict, balances),
            Some(offset + 1),
            None,
        )
    };
    const AT_FIVE: &str = "a null 2026-11-21T05:00:00.000000Z";
    let first = [
        result(0, AT_FIVE, "APPLIED null", &format!("{one},{two}")),
        result(1, "null null null", "DEAD MALFORMED_JSON", ""),
    ];
    assert_eq!(unsent(2).await, first);
    assert_eq!(unsent(2).await, first, "as long as they are not marked");
    mark(Some(2), &[]).await;
    let second = [
        result(3, "b null null", "REJECTED INSUFFICIENT_BALANCE", &one),
        result(4, AT_FIVE, "DUPLICATE null", ""),
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
    let replayed = "r bank 2026-11-21T05:00:00.500000Z";
    let again = json(1, replayed, "APPLIED null", &balance(1, "12.5", "0"));
    assert_eq!(told[1..], [(again, None, Some(changed[0]))]);
    mark(None, &changed).await;
    assert_eq!(text(&admin, waiting).await, None);
    database.assert_invariants().await;
}

/// What one call of `sluice.prune` on partition 0 or 1 answers: the columns, as text.
async fn prune(
    client: &Client,
    partition: i32,
    arguments: &str,
) -> Result<String, tokio_postgres::Error> {
    let query = format!(
        "SELECT concat_ws(' ', pruned_below, records, log_rows, identities, dead_letters, open_dead_letters, more)
         FROM sluice.prune('balance.changed', {partition}, {arguments})"
    );
    client.query_one(&query, &[]).await.map(|row| row.get(0))
}

#[tokio::test]
async fn a_pruned_history_begins_with_the_balance_brought_forward() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let (zero, one) = (lead(&writer, 0, "a").await, lead(&writer, 1, "a").await);
    let apply = async |leader: common::Leader, from: i64, id: &str, amount: &str| {
        let batch = Batch::default().event(from, id, &[change(1, amount, "0")]);
        let applied = batch.apply(&writer, leader, from, from + 1).await;
        applied.expect("applied");
    };
    // The changes of the balance, oldest first: of partition 0, 0, 1, 0 and 1.
    apply(zero, 0, "a", "10").await;
    apply(zero, 1, "b", "-3").await;
    apply(one, 0, "c", "5").await;
    apply(zero, 2, "d", "1").await;
    apply(one, 1, "e", "-2").await;
    let made =
        "SELECT string_agg(created_at::text, ',' ORDER BY created_at) FROM ledger.balance_log";
    let made = text(&admin, made).await.expect("five changes");
    let made: Vec<&str> = made.split(',').collect();
    let as_of = async |at: &str| {
        let query = format!(
            "SELECT trim_scale(available)::text FROM sluice.balance_as_of(1, 0, 'USD', '{at}')"
        );
        let answer = admin.query_opt(&query, &[]).await;
        match answer {
            Ok(row) => row.map_or_else(|| "none".to_owned(), |row| row.get(0)),
            Err(error) => error.code().expect("an answer").code().to_owned(),
        }
    };
    let all = async || {
        let mut all = Vec::new();
        for at in &made {
            all.push(as_of(at).await);
        }
        all.join(" ")
    };
    assert_eq!(all().await, "10 7 12 13 11");
    let verify = "SELECT account_id::text FROM sluice.verify_balances()";
    for (partition, below, left, at_each) in [
        // The oldest two.
        (
            0,
            2,
            "1:-2=11@1/1.0 2:1=13@0/2.0 3:5=12@1/0.0 4:=7@/.",
            "22023 7 12 13 11",
        ),
        // One between those that are left of the other partition: what is older is out of reach.
        (0, 3, "1:-2=11@1/1.0 2:=13@/.", "22023 22023 22023 13 11"),
        (1, 1, "1:-2=11@1/1.0 2:=13@/.", "22023 22023 22023 13 11"),
        // And the last one.
        (1, 2, "1:=11@/.", "22023 22023 22023 22023 11"),
    ] {
        let arguments = format!("{below}, '0', dry_run => false");
        prune(&admin, partition, &arguments).await.expect("pruned");
        let query = "SELECT string_agg(nth || ':' || coalesce(trim_scale(available_delta)::text, '') || '=' || trim_scale(available_after)
                || '@' || coalesce(partition || '/' || kafka_offset, '/') || '.' || coalesce(change_no::text, ''), ' ' ORDER BY nth)
            FROM ledger.account_history WHERE account_id = 1";
        assert_eq!(
            text(&admin, query).await.as_deref(),
            Some(left),
            "{partition} {below}"
        );
        assert_eq!(all().await, at_each, "{partition} {below}");
        assert_eq!(text(&admin, verify).await, None);
        database.assert_invariants().await;
    }
    assert_eq!(as_of("2020-01-01").await, "22023");
    // It goes on from there.
    apply(zero, 3, "f", "4").await;
    let last = "SELECT string_agg(nth || ':' || trim_scale(available_after), ' ' ORDER BY nth) FROM ledger.account_history";
    assert_eq!(text(&admin, last).await.as_deref(), Some("1:15 2:11"));
    database.assert_invariants().await;

    admin
        .batch_execute("UPDATE ledger.balance_checkpoints SET available = available + 1")
        .await
        .expect("sabotage");
    assert_eq!(text(&admin, verify).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn rejections_are_counted_by_reason_also_of_a_batch_that_was_committed_before() {
    let database = Database::create().await;
    let writer = database.writer().await;
    let leader = lead(&writer, 0, "a").await;
    let most = "9".repeat(18);
    let batch = Batch::default()
        .event(0, "a", &[change(1, "10", "0")])
        .event(1, "b", &[change(1, "-11", "0")])
        .event(2, "c", &[change(1, "-12", "0"), change(2, "1", "0")])
        .event(3, "d", &[change(1, "0", "-1")])
        .event(4, "e", &[change(1, &most, "0")])
        .event(5, "a", &[change(1, "1", "0")])
        .event(6, "a", &[change(1, "2", "0")])
        .event(7, "a", &[change(1, "3", "0")]);
    let last = "SELECT sluice.last_batch_rejections()::text";
    assert_eq!(text(&writer, last).await.as_deref(), Some("{0,0,0,0}"));
    for _ in 0..2 {
        batch.apply(&writer, leader, 0, 8).await.expect("applied");
        assert_eq!(text(&writer, last).await.as_deref(), Some("{2,1,1,3}"));
    }
    let batch = Batch::default().event(8, "f", &[change(1, "1", "0")]);
    batch.apply(&writer, leader, 8, 9).await.expect("applied");
    assert_eq!(text(&writer, last).await.as_deref(), Some("{0,0,0,0}"));
}

/// What became of an event without a source: each record with its verdict, its changes and its dead letter.
async fn found(client: &Client, event_id: &str) -> String {
    let query = format!(
        "SELECT string_agg(concat(
            partition, '/', kafka_offset, CASE WHEN is_first THEN ' first' END, ' ', verdict, ' ' || reason,
            ' @' || extract(epoch FROM event_time)::bigint, ' told ' || result_told,
            (SELECT string_agg(concat(' [', c ->> 'account_id', ' ', c ->> 'available_before', '+', c ->> 'available_delta', '=',
                c ->> 'available_after', ']'), '') FROM jsonb_array_elements(changes) c),
            ' ' || (dead_letter ->> 'status'), ' ' || (dead_letter -> 'actions' -> 0 ->> 'action')), ', ')
         FROM sluice.find_event(NULL, '{event_id}')"
    );
    text(client, &query).await.unwrap_or_default()
}

#[tokio::test]
async fn an_event_is_found_by_its_name_with_all_that_became_of_it() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let (zero, one) = (lead(&writer, 0, "a").await, lead(&writer, 1, "a").await);
    let transfer = [change(1, "10", "0"), change(2, "5", "0")];
    let batch = Batch::default()
        .event(0, "paid", &transfer)
        .at(1_795_237_200)
        .event(2, "paid", &transfer)
        .at(1_795_237_200)
        .event(3, "refused", &[change(1, "-99", "0")])
        .dead_event(4, "comma", "INVALID_AMOUNT", "{")
        .dead(5, "MALFORMED_JSON", "{");
    batch.apply(&writer, zero, 0, 6).await.expect("applied");
    let batch = Batch::default().event(0, "paid", &[change(1, "11", "0")]);
    batch.apply(&writer, one, 0, 1).await.expect("applied");
    let at = "@1795237200";
    let paid = format!(
        "0/0 first APPLIED {at} [1 0+10=10] [2 0+5=5], 0/2 DUPLICATE {at}, 1/0 REJECTED EVENT_ID_CONFLICT [1 10+11=10]"
    );
    let refused = "0/3 first REJECTED INSUFFICIENT_BALANCE [1 10+-99=10]";
    for (event_id, became) in [
        ("paid", paid.as_str()),
        ("refused", refused),
        ("comma", "0/4 DEAD INVALID_AMOUNT PARKED"),
        ("never sent", ""),
    ] {
        assert_eq!(found(&admin, event_id).await, became, "{event_id}");
    }
    let other = "SELECT count(*)::text FROM sluice.find_event('bank', 'paid')";
    assert_eq!(text(&admin, other).await.as_deref(), Some("0"));

    // Told to RESULTS_TOPIC up to offset 3; a replay is to be told again.
    let mark = "SELECT sluice.mark_results('balance.changed', 0, 3, '{}')";
    writer.batch_execute(mark).await.expect("marked");
    assert_eq!(
        found(&admin, "refused").await,
        "0/3 first REJECTED INSUFFICIENT_BALANCE told false [1 10+-99=10]"
    );
    writer
        .batch_execute("SELECT sluice.mark_results('balance.changed', 0, 6, '{}')")
        .await
        .expect("marked");
    let corrected = r#"{"eventId":"comma","eventType":"balance.changed","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"2"}]}}"#;
    let replay = "SELECT sluice.replay_dead_letters(ids => ARRAY(SELECT id FROM ledger.dead_letters WHERE kafka_offset = 4),
        payload => $1, dry_run => false)";
    admin
        .execute(replay, &[&corrected.as_bytes()])
        .await
        .expect("replayed");
    let replayed = "0/4 first APPLIED told false [1 10+2=12] REPLAYED REPLAY";
    assert_eq!(found(&admin, "comma").await, replayed);
    let told = "SELECT sluice.mark_results('balance.changed', 0, 6, ARRAY(SELECT id FROM ledger.changed_verdicts))";
    admin.batch_execute(told).await.expect("marked");
    let told = replayed.replace("false", "true");
    assert_eq!(found(&admin, "comma").await, told);
    let paid = paid.replace(at, &format!("{at} told true"));
    assert_eq!(found(&admin, "paid").await, paid);
    database.assert_invariants().await;

    // Events from before version 1.0.0 are looked for in the log.
    let forget = "UPDATE ledger.event_identities SET kafka_offset = NULL, partition_id = NULL";
    admin.batch_execute(forget).await.expect("forgotten");
    assert_eq!(found(&admin, "paid").await, paid);
    assert_eq!(found(&admin, "comma").await, told);
    database.assert_invariants().await;
}

/// The history of account 1 by one clock, or the SQLSTATE of the refusal.
async fn told_by(client: &Client, rest: &str) -> String {
    let query = format!(
        "SELECT string_agg(concat(nth, ':', coalesce(trim_scale(available_delta)::text, 'forward'), '=', trim_scale(available_after),
            CASE WHEN kafka_offset IS NOT NULL THEN '@' || coalesce(to_char(event_time AT TIME ZONE 'UTC', 'HH24:MI'), '') END), ' ') FROM sluice.account_history(1, 0, 'USD', {rest})"
    );
    match client.query_one(&query, &[]).await {
        Ok(row) => row.get::<_, Option<String>>(0).unwrap_or_default(),
        Err(error) => error.code().expect("an answer").code().to_owned(),
    }
}

/// After an outage all is committed in one minute, and a statement of account by the database's clock shows the wrong hour.
#[tokio::test]
async fn after_an_outage_an_account_is_told_by_its_events_own_times() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let (five, six, seven) = (1_795_237_200, 1_795_240_800, 1_795_244_400);
    let batch = Batch::default()
        .event(0, "five", &[change(1, "10", "0")])
        .at(five)
        .event(1, "seven", &[change(1, "5", "1")])
        .at(seven)
        // Committed behind the one before it, and happened before it.
        .event(2, "six", &[change(1, "-12", "0")])
        .at(six)
        .event(3, "refused", &[change(1, "-99", "0")])
        .at(six)
        .event(4, "seven", &[change(1, "5", "1")])
        .at(seven);
    batch.apply(&writer, leader, 0, 5).await.expect("applied");
    let logged = "SELECT string_agg(kafka_offset || '@' || extract(epoch FROM event_time)::bigint || ' ' || status, ', ' ORDER BY 1)
        FROM ledger.balance_change_logs WHERE created_at > event_time";
    assert_eq!(
        text(&admin, logged).await,
        Some(format!(
            "0@{five} APPLIED, 1@{seven} APPLIED, 2@{six} APPLIED, 3@{six} REJECTED"
        ))
    );
    let verdict = "SELECT verdict || ' ' || extract(epoch FROM event_time)::bigint FROM ledger.event_verdicts WHERE kafka_offset = 4";
    assert_eq!(
        text(&admin, verdict).await,
        Some(format!("DUPLICATE {seven}"))
    );
    let as_of = async |at: &str, by: &str| {
        let query = format!(
            "SELECT trim_scale(available) || '+' || trim_scale(frozen) FROM sluice.balance_as_of(1, 0, 'USD', {at}{by})"
        );
        match admin.query_opt(&query, &[]).await {
            Ok(row) => row.map_or_else(|| "none".to_owned(), |row| row.get(0)),
            Err(error) => error.code().expect("an answer").code().to_owned(),
        }
    };
    let event_time = ", by => 'event_time'";
    for (at, balance) in [
        ("'2026-11-21T04:59:59Z'", "none"),
        ("'2026-11-21T05:00:00Z'", "10+0"),
        ("'2026-11-21T06:30:00Z'", "-2+0"),
        ("'2026-11-21T07:00:00Z'", "3+1"),
    ] {
        assert_eq!(as_of(at, event_time).await, balance, "{at}");
        assert_eq!(as_of(at, "").await, "none", "{at}: nothing was committed");
    }
    assert_eq!(as_of("now()", ", by => 'created_at'").await, "3+1");
    for wrong in [", by => 'time'", ", by => NULL"] {
        assert_eq!(as_of("now()", wrong).await, "22023");
    }
    let by_event_time = "by => 'event_time'";
    for (arguments, told) in [
        (by_event_time, "1:5=3@07:00 2:-12=-2@06:00 3:10=10@05:00"),
        (
            "by => 'created_at'",
            "1:-12=3@06:00 2:5=15@07:00 3:10=10@05:00",
        ),
        (
            "since => '2026-11-21T06:00Z', until => '2026-11-21T07:00Z', by => 'event_time'",
            "2:-12=-2@06:00",
        ),
        ("until => '2026-11-21T07:00Z'", ""),
        ("by => 'nth'", "22023"),
    ] {
        assert_eq!(told_by(&admin, arguments).await, told, "{arguments}");
    }
    // Without a time of its own an event counts from its commit.
    let batch = Batch::default().event(5, "timeless", &[change(1, "1", "0")]);
    batch.apply(&writer, leader, 5, 6).await.expect("applied");
    assert_eq!(as_of("'2026-11-21T08:00Z'", event_time).await, "3+1");
    assert_eq!(as_of("now()", event_time).await, "4+1");

    // What is pruned counts from the latest time that any of it had, however old its commit is.
    prune(&admin, 0, "2, '0', dry_run => false")
        .await
        .expect("pruned");
    assert_eq!(
        told_by(&admin, by_event_time).await,
        "1:1=4@ 2:forward=3 3:-12=@06:00"
    );
    let until = "sluice.brought_forward_until(1, 0, 'USD')";
    for (at, balance) in [
        ("'2026-11-21T07:00:00Z'".to_owned(), "22023"),
        (format!("{until} - interval '1 us'"), "22023"),
        (until.to_owned(), "3+1"),
        ("now()".to_owned(), "4+1"),
    ] {
        assert_eq!(as_of(&at, event_time).await, balance, "{at}");
    }
    database.assert_invariants().await;
}

#[tokio::test]
async fn pruning_keeps_what_is_open_young_or_still_to_be_told() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let good = r#"{"eventId":"r","eventType":"balance.changed","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"2"}]}}"#;
    let batch = Batch::default()
        .event(0, "a", &[change(1, "10", "0"), change(2, "1", "0")])
        .dead(1, "MALFORMED_JSON", "{")
        .event(3, "b", &[change(1, "-11", "0")]) // rejected; offset 2 is a hole
        .event(4, "a", &[change(1, "10", "0"), change(2, "1", "0")]) // once more
        .dead(5, "MALFORMED_JSON", "}")
        .event(6, "c", &[change(2, "1", "0")]);
    batch.apply(&writer, leader, 0, 8).await.expect("applied");
    let age = async |what: &str| {
        admin.batch_execute(what).await.expect("aged");
    };
    let (dry, real) = ("'0'", "'0', dry_run => false");
    let prune = async |arguments: &str| prune(&admin, 0, arguments).await;

    // Nothing is 30 days old.
    assert_eq!(prune("8").await.expect("dry"), "0 0 0 0 0 0 f");
    age("UPDATE ledger.balance_log SET created_at = created_at - interval '40 days' WHERE kafka_offset < 3;
         UPDATE ledger.verdicts SET created_at = created_at - interval '40 days' WHERE kafka_offset < 3").await;
    assert_eq!(prune("8").await.expect("dry"), "3 1 2 1 0 1 f");
    // Not beyond the committed offset, nor beyond what Kafka has lost.
    assert_eq!(
        prune(&format!("99, {dry}")).await.expect("dry"),
        "8 4 4 3 0 2 f"
    );
    assert_eq!(
        prune(&format!("4, {dry}")).await.expect("dry"),
        "4 2 3 2 0 1 f"
    );
    // Nor what RESULTS_TOPIC does not have yet.
    let told = async |below: i64| {
        let mark = "SELECT sluice.mark_results('balance.changed', 0, $1, '{}')";
        writer.execute(mark, &[&below]).await.expect("marked");
    };
    told(1).await;
    assert_eq!(
        prune(&format!("8, {dry}")).await.expect("dry"),
        "1 1 2 1 0 0 f"
    );
    told(8).await;

    // In chunks of two records, the open dead letters among them.
    assert_eq!(
        prune(&format!("8, {real}, max_records => 2"))
            .await
            .expect("pruned"),
        "3 1 2 1 0 1 t"
    );
    assert_eq!(
        prune(&format!("8, {real}, max_records => 2"))
            .await
            .expect("pruned"),
        "5 2 1 1 0 1 t"
    );
    assert_eq!(
        prune(&format!("8, {real}, max_records => 2"))
            .await
            .expect("pruned"),
        "8 1 1 1 0 2 f"
    );
    assert_eq!(
        prune(&format!("8, {real}")).await.expect("pruned"),
        "8 0 0 0 0 2 f"
    );
    let left = "SELECT string_agg(kafka_offset || ' ' || verdict, ', ' ORDER BY kafka_offset) FROM ledger.event_verdicts";
    assert_eq!(text(&admin, left).await.as_deref(), Some("1 DEAD, 5 DEAD"));
    database.assert_invariants().await;

    // What was open can still be replayed or discarded. Then it goes, once it is old enough and told.
    let replay = "SELECT verdict FROM sluice.replay_dead_letters(ids => ARRAY(SELECT min(id) FROM ledger.dead_letters), payload => $1, dry_run => false)";
    let replayed = admin.query_one(replay, &[&good.as_bytes()]).await;
    assert_eq!(replayed.expect("replayed").get::<_, &str>(0), "APPLIED");
    let discard = "SELECT sluice.discard_dead_letters(ids => ARRAY(SELECT max(id) FROM ledger.dead_letters), dry_run => false)";
    admin.execute(discard, &[]).await.expect("discarded");
    database.assert_invariants().await;
    assert_eq!(
        prune("8, dry_run => false").await.expect("young"),
        "8 0 0 0 0 0 f"
    );
    // Nor before 400 days, for both were done by hand.
    assert_eq!(
        prune(&format!("8, {real}")).await.expect("by hand"),
        "8 0 0 0 0 0 f"
    );
    age("UPDATE ledger.record_keeping SET keep_by_hand = '0'").await;
    assert_eq!(
        prune(&format!("8, {real}")).await.expect("untold"),
        "8 1 0 0 1 0 f"
    );
    let changed = "SELECT id FROM ledger.changed_verdicts";
    let changed: i64 = admin.query_one(changed, &[]).await.expect("one").get(0);
    let mark = "SELECT sluice.mark_results('balance.changed', 0, NULL, $1)";
    writer.execute(mark, &[&vec![changed]]).await.expect("told");
    assert_eq!(
        prune(&format!("8, {dry}")).await.expect("dry"),
        "8 1 1 1 1 0 f"
    );
    assert_eq!(
        prune(&format!("8, {real}")).await.expect("told"),
        "8 1 1 1 1 0 f"
    );
    assert_eq!(text(&admin, left).await, None);
    let balance = available(&database, 1).await;
    assert_eq!(balance.as_deref(), Some("12"));
    database.assert_invariants().await;
}

#[tokio::test]
async fn only_admins_prune_and_only_what_can_be_meant() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    lead(&writer, 0, "a").await;
    assert_eq!(sqlstate(prune(&writer, 0, "1").await), "42501");
    for refused in [
        "-1",
        "NULL",
        "1, '-1 day'",
        "1, NULL",
        "1, max_records => 0",
        "1, dry_run => NULL",
    ] {
        assert_eq!(
            sqlstate(prune(&admin, 0, refused).await),
            "22023",
            "{refused}"
        );
    }
    assert_eq!(sqlstate(prune(&admin, 7, "1").await), "42704");
    let corrections = admin
        .query("SELECT sluice.prune('manual corrections', 0, 1)", &[])
        .await;
    assert_eq!(sqlstate(corrections), "22023");
    for role in ["sluice_reader", "sluice_writer", "sluice_handler"] {
        let may = format!("SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p
            WHERE p.proname IN ('prune', 'prune_records', 'count_prunable', 'event_identity') AND has_function_privilege('{role}', p.oid, 'EXECUTE')");
        assert_eq!(text(&admin, &may).await, None, "{role}");
    }
    let admins = "SELECT string_agg(p.proname, ' ') FROM pg_proc p
        WHERE p.proname IN ('prune', 'prune_records', 'count_prunable', 'event_identity') AND has_function_privilege('sluice_admin', p.oid, 'EXECUTE')";
    assert_eq!(text(&admin, admins).await.as_deref(), Some("prune"));
}

#[tokio::test]
async fn an_admin_who_credits_himself_by_a_corrected_replay_cannot_prune_the_traces() {
    let database = Database::create().await;
    let (writer, server) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default()
        .event(0, "a", &[change(1, "10", "0")])
        .dead(1, "MALFORMED_JSON", "{")
        .event(2, "b", &[change(1, "1", "0")]);
    batch.apply(&writer, leader, 0, 3).await.expect("applied");
    let admin = database.member("sluice_admin").await;
    let credit = r#"{"eventId":"mine","eventType":"balance.changed","data":{"accountId":666,"changes":[{"currencyCode":"USD","availableDelta":"1000000"}]}}"#;
    let replay = "SELECT verdict FROM sluice.replay_dead_letters(ids => ARRAY(SELECT id FROM ledger.dead_letters), payload => $1, dry_run => false)";
    let replayed = admin.query_one(replay, &[&credit.as_bytes()]).await;
    assert_eq!(replayed.expect("replayed").get::<_, &str>(0), "APPLIED");
    let forged = "SELECT concat_ws(' ', records, log_rows, identities, dead_letters, kept_by_hand) FROM sluice.prune('balance.changed', 0, 9000000, '0', dry_run => $1)";
    for dry_run in [true, false, false] {
        let pruned = admin.query_one(forged, &[&dry_run]).await.expect("pruned");
        let expected = ["2 2 2 0 1", "0 0 0 0 1"];
        let told: &str = pruned.get(0);
        assert!(expected.contains(&told), "{told}");
    }
    for (what, query) in [
        (
            "the action",
            "SELECT by_user FROM ledger.dead_letter_actions WHERE payload IS NOT NULL",
        ),
        (
            "the letter",
            "SELECT status FROM ledger.dead_letters WHERE kafka_offset = 1",
        ),
        (
            "the log",
            "SELECT event_id FROM ledger.balance_log WHERE account_id = 666",
        ),
        (
            "the history",
            "SELECT event_id FROM ledger.account_history WHERE account_id = 666",
        ),
        (
            "the identity",
            "SELECT identity::text FROM ledger.event_identities WHERE identity = sluice.event_identity(NULL, 'mine')",
        ),
    ] {
        assert!(text(&server, query).await.is_some(), "{what} is gone");
    }
    let recorded = "SELECT string_agg(concat_ws(' ', a.arguments->>'log_start_offset', a.arguments->>'older_than', a.arguments->>'records',
            a.by_user LIKE 'member%'), ', ' ORDER BY a.id) FROM ledger.partition_actions a WHERE a.action = 'PRUNE'";
    assert_eq!(
        text(&server, recorded).await.as_deref(),
        Some("9000000 00:00:00 2 t, 9000000 00:00:00 0 t")
    );
    // Nor can he shorten how long that is kept.
    for attempt in [
        "UPDATE ledger.record_keeping SET keep_by_hand = '0'",
        "UPDATE ledger.dead_letter_actions SET acted_at = '2020-01-01'",
        "DELETE FROM ledger.partition_actions",
    ] {
        assert_eq!(
            sqlstate(admin.execute(attempt, &[]).await),
            "42501",
            "{attempt}"
        );
    }
    database.assert_invariants().await;
    // After 400 days it may go as everything else does.
    let age = "UPDATE ledger.dead_letter_actions SET acted_at = acted_at - interval '401 days';
        UPDATE ledger.dead_letters SET updated_at = updated_at - interval '401 days'";
    server.batch_execute(age).await.expect("aged");
    let pruned = admin.query_one(forged, &[&false]).await.expect("pruned");
    assert_eq!(pruned.get::<_, &str>(0), "1 1 1 1 0");
    database.assert_invariants().await;
}

#[tokio::test]
async fn an_admin_who_skips_deposits_by_an_acceptance_cannot_prune_the_traces() {
    let database = Database::create().await;
    let (writer, server) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let credit = |offset, event_id| {
        let changes = [change(1, "10", "0")];
        Batch::default().event(offset, event_id, &changes)
    };
    let first = credit(0, "a").apply(&writer, leader, 0, 1).await;
    first.expect("applied");
    let halt = "SELECT sluice.halt_partition('balance.changed', 0, $1, $2, 'not recognised')";
    let halted = writer
        .query_one(halt, &[&leader.fencing_token, &leader.lease_id])
        .await;
    assert!(halted.expect("answered").get::<_, bool>(0));
    let admin = database.member("sluice_admin").await;
    let accept = "SELECT sluice.accept_partition('balance.changed', 0, 'ticket 1', 500)";
    let accepted = admin.query_one(accept, &[]).await.expect("accepted");
    assert_eq!(accepted.get::<_, i64>(0), 500);
    database.assert_invariants().await;
    let next = credit(500, "b").apply(&writer, leader, 500, 501).await;
    next.expect("read on");
    let forged = "SELECT sluice.prune('balance.changed', 0, 9000000, '0', dry_run => false)";
    admin.execute(forged, &[]).await.expect("pruned");
    let holes = "SELECT count(*)::text FROM ledger.offset_holes";
    assert_eq!(text(&server, holes).await.as_deref(), Some("0"));
    let recorded = "SELECT concat_ws(' ', a.why, a.arguments->>'from', a.arguments->>'to', a.by_user LIKE 'member%')
        FROM ledger.partition_actions a WHERE a.action = 'ACCEPT'";
    assert_eq!(
        text(&server, recorded).await.as_deref(),
        Some("ticket 1 1 500 t")
    );
    for attempt in [
        "DELETE FROM ledger.partition_actions",
        "UPDATE ledger.partition_actions SET arguments = NULL",
    ] {
        let refused = sqlstate(admin.execute(attempt, &[]).await);
        assert_eq!(refused, "42501", "{attempt}");
    }
    database.assert_invariants().await;
}
