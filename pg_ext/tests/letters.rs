//! Dead letters: which columns decide about them, and two sessions that handle the same one. Needs the services of
//! `make test`.

mod common;

use common::notes::{self, Writer, code, count, note, notes, raw, words};
use common::{Batch, Database, TOPIC, acquire, available, change, lead, message, sqlstate};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, Row};

/// One change of account 1 as a payload.
fn credit(event_id: &str, account: i64, delta: &str) -> String {
    format!(
        r#"{{"eventId":"{event_id}","eventType":"balance.changed","data":{{"accountId":{account},"changes":[{{"currencyCode":"USD","availableDelta":"{delta}"}}]}}}}"#
    )
}

/// The letter at an offset of a partition.
async fn id(admin: &Client, partition: i32, offset: i64) -> i64 {
    let id = "SELECT id FROM ledger.dead_letters WHERE partition = $1 AND kafka_offset = $2";
    let row = admin.query_one(id, &[&partition, &offset]).await;
    row.expect("a letter").get(0)
}

/// What a function answered: verdict or "-", and the reason, of each letter by its offset.
fn told(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            let text = |column| row.get::<_, Option<String>>(column).unwrap_or("-".into());
            let offset: Option<i64> = row.get("kafka_offset");
            let offset = offset.map_or("?".to_owned(), |offset| offset.to_string());
            format!("{offset} {} {}", text("verdict"), text("reason"))
        })
        .collect()
}

/// Calls replay, discard or restore for good, with these ids.
async fn act(client: &Client, action: &str, ids: &[i64], more: &str) -> Result<Vec<String>, Error> {
    let call =
        format!("SELECT * FROM sluice.{action}_dead_letters(ids => $1, dry_run => false{more})");
    let rows = client.query(&call, &[&ids]).await?;
    Ok(told(&rows))
}

/// The same in a task of its own, which may have to wait.
fn act_soon(
    client: Client,
    action: &'static str,
    ids: Vec<i64>,
    more: String,
) -> JoinHandle<Result<Vec<String>, Error>> {
    tokio::spawn(async move { act(&client, action, &ids, &more).await })
}

fn corrected(payload: &str) -> String {
    format!(", payload => convert_to('{payload}', 'UTF8')")
}

/// Status, attempts, whether it owns its identity, and what is tried next of a letter.
async fn letter(admin: &Client, id: i64) -> (String, i32, bool, Option<String>) {
    let letter = "SELECT status, attempts, owns_identity, convert_from(retry_payload, 'UTF8') FROM ledger.dead_letters WHERE id = $1";
    let row = admin.query_one(letter, &[&id]).await.expect("a letter");
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

/// The leader's own tries, without waits between them.
async fn retry(writer: &Writer, max_attempts: i32) -> Result<(i64, i64), Error> {
    let retry =
        "SELECT retried, waiting FROM sluice.retry_dead_letters($1, 0, $2, $3, $4, 0, false)";
    let row = writer
        .client
        .query_one(
            retry,
            &[
                &notes::TOPIC,
                &writer.token,
                &writer.lease_id,
                &max_attempts,
            ],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

async fn unregister(admin: &Client) {
    let unregister = "SELECT sluice.unregister_handler('note.written')";
    admin.execute(unregister, &[]).await.expect("unregistered");
}

async fn register(admin: &Client) {
    let register = "SELECT sluice.register_handler('note.written', 'domain.on_note')";
    admin.execute(register, &[]).await.expect("registered");
}

async fn allow_nulls(admin: &Client) {
    let mend = "ALTER TABLE domain.notes ALTER body DROP NOT NULL";
    admin.batch_execute(mend).await.expect("mended");
}

#[tokio::test]
async fn without_its_handler_a_letter_of_a_domain_topic_is_not_replayed_and_never_becomes_money() {
    let (database, admin, mut writer) = notes("").await;
    let planted = credit("planted", 666, "1000000");
    writer
        .send(&[raw(&planted), note("e1", "a", None)])
        .await
        .expect("applied");
    unregister(&admin).await;
    let ids = [id(&admin, 0, 0).await, id(&admin, 0, 1).await];
    let refused = ["0 - NO_HANDLER", "1 - NO_HANDLER"];
    assert_eq!(
        act(&admin, "replay", &ids, "").await.expect("told"),
        refused
    );
    let planted = corrected(&planted);
    let by_correction = act(&admin, "replay", &ids[..1], &planted).await;
    assert_eq!(by_correction.expect("told"), refused[..1]);
    let all = "SELECT * FROM sluice.replay_dead_letters(since => '-infinity', dry_run => false)";
    assert_eq!(told(&admin.query(all, &[]).await.expect("told")), refused);
    assert_eq!(
        retry(&writer, 9)
            .await
            .expect_err("no handler")
            .code()
            .map(|code| code.code()),
        Some("42704")
    );
    let native = "SELECT * FROM sluice.replay_letters($1, NULL)";
    let native = admin.query(native, &[&&ids[..]]).await;
    assert_eq!(sqlstate(native), "42704");
    let money = "SELECT (SELECT count(*) FROM ledger.account_balances) + (SELECT count(*) FROM ledger.balance_log)
        + (SELECT count(*) FROM ledger.dead_letter_actions)";
    assert_eq!(count(&admin, money).await, 0);

    // Nothing of that is in the way of the handler.
    register(&admin).await;
    allow_nulls(&admin).await;
    assert_eq!(
        act(&admin, "replay", &ids, "").await.expect("told"),
        ["0 DEAD UNKNOWN_EVENT_TYPE", "1 APPLIED -"]
    );
    assert_eq!(count(&admin, "SELECT count(*) FROM domain.notes").await, 1);
    assert_eq!(count(&admin, money).await, 2, "both replays are on record");
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_correction_that_failed_again_is_what_is_tried_next() {
    let (database, admin, mut writer) = notes("").await;
    let text = |event_id: &str| {
        let (_, payload) = note(event_id, "corrected", None);
        String::from_utf8(payload.expect("a payload")).expect("text")
    };
    writer
        .send(&[note("e0", "as it came", None), raw("{")])
        .await
        .expect("applied");
    let ids = [id(&admin, 0, 0).await, id(&admin, 0, 1).await];
    for (id, event_id) in ids.iter().zip(["e8", "e9"]) {
        let correction = corrected(&text(event_id));
        let again = act(&admin, "replay", &[*id], &correction).await;
        assert!(again.expect("told")[0].ends_with("DEAD HANDLER_FAILED"));
        let expected = ("PARKED".to_owned(), 2, true, Some(text(event_id)));
        assert_eq!(letter(&admin, *id).await, expected);
        database.assert_invariants().await;
    }
    // Without a payload it is the correction that is tried, by hand as by the leader.
    let again = act(&admin, "replay", &ids[..1], "").await;
    assert_eq!(again.expect("told"), ["0 DEAD HANDLER_FAILED"]);
    allow_nulls(&admin).await;
    assert_eq!(retry(&writer, 9).await.expect("retried"), (2, 0));
    let notes = "SELECT count(*) FROM domain.notes WHERE id = 'corrected'";
    assert_eq!(count(&admin, notes).await, 1);
    assert_eq!(count(&admin, "SELECT count(*) FROM domain.notes").await, 1);
    // The former identity is free, those of the corrections are owned.
    writer
        .send(&[
            note("e0", "as it came", None),
            note("e8", "corrected", None),
            note("e9", "corrected", None),
        ])
        .await
        .expect("applied");
    let verdicts = notes::verdicts(&admin).await;
    let verdicts: Vec<&str> = verdicts
        .iter()
        .map(|(_, verdict, _)| verdict.as_str())
        .collect();
    assert_eq!(
        verdicts,
        ["APPLIED", "APPLIED", "APPLIED", "DUPLICATE", "DUPLICATE"]
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_letter_that_is_corrected_twice_leaves_its_former_identities_free() {
    let (database, admin, mut writer) = notes("").await;
    let text = |event_id: &str| {
        let (_, payload) = note(event_id, "n", None);
        String::from_utf8(payload.expect("a payload")).expect("text")
    };
    writer
        .send(&[note("e0", "n", None)])
        .await
        .expect("applied");
    let id = id(&admin, 0, 0).await;
    for event_id in ["e1", "e2", "e0", "e3"] {
        let correction = corrected(&text(event_id));
        let told = act(&admin, "replay", &[id], &correction).await;
        assert_eq!(told.expect("told"), ["0 DEAD HANDLER_FAILED"]);
        database.assert_invariants().await;
    }
    allow_nulls(&admin).await;
    let again = [
        note("e0", "n", None),
        note("e1", "n", None),
        note("e2", "n", None),
        note("e3", "n", None),
    ];
    writer.send(&again).await.expect("applied");
    let verdicts = notes::verdicts(&admin).await;
    let verdicts: Vec<&str> = verdicts
        .iter()
        .map(|(_, verdict, _)| verdict.as_str())
        .collect();
    assert_eq!(
        verdicts,
        ["DEAD", "APPLIED", "APPLIED", "APPLIED", "DUPLICATE"]
    );
    database.assert_invariants().await;
}

/// As it was parked by a version whose reader took the payload: its handler broke, and it owns its identity.
#[tokio::test]
async fn a_letter_that_is_refused_today_owns_its_identity_until_it_is_corrected() {
    let (database, admin, mut writer) = notes("").await;
    writer
        .send(&[note("e0", "n", None)])
        .await
        .expect("applied");
    let id = id(&admin, 0, 0).await;
    let payload =
        r#"{"eventId":"e0","eventType":"note.written","data":{"id":"n","body":"\u0000"}}"#;
    let park = "UPDATE ledger.dead_letters SET payload = $1";
    let parked = admin.execute(park, &[&payload.as_bytes()]).await;
    assert_eq!(parked.expect("parked"), 1);
    let refused = act(&admin, "replay", &[id], "").await;
    assert_eq!(refused.expect("told"), ["0 DEAD INVALID_EVENT"]);
    assert_eq!(
        letter(&admin, id).await,
        ("PARKED".to_owned(), 2, true, None)
    );
    let text = |note: notes::Note| String::from_utf8(note.1.expect("a payload")).expect("text");
    let correction = corrected(&text(note("e0", "n", Some("mended"))));
    let mended = act(&admin, "replay", &[id], &correction).await;
    assert_eq!(
        mended.expect("told"),
        ["0 APPLIED -"],
        "it is its own event"
    );
    writer
        .send(&[note("e0", "n", Some("mended"))])
        .await
        .expect("applied");
    let last = notes::verdicts(&admin).await.pop();
    assert_eq!(last, Some((1, "DUPLICATE".to_owned(), None)));
    database.assert_invariants().await;
}

/// A database with one dead letter of balance events, at offset 0 of partition 0.
async fn one_letter() -> (Database, Client, Client, i64) {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default().dead(0, "MALFORMED_JSON", "{");
    batch.apply(&writer, leader, 0, 1).await.expect("applied");
    let id = id(&admin, 0, 0).await;
    (database, writer, admin, id)
}

#[tokio::test]
async fn of_two_sessions_at_one_letter_the_second_finds_what_the_first_made_of_it() {
    let (five, seven) = (
        corrected(&credit("five", 1, "5")),
        corrected(&credit("seven", 1, "7")),
    );
    for (first, second, expected) in [
        (("replay", &five), ("replay", &seven), "REPLAYED"),
        (("replay", &five), ("discard", &String::new()), "REPLAYED"),
        (("discard", &String::new()), ("replay", &five), "DISCARDED"),
        (
            ("discard", &String::new()),
            ("discard", &String::new()),
            "DISCARDED",
        ),
    ] {
        let (database, _writer, admin, id) = one_letter().await;
        admin.batch_execute("BEGIN").await.expect("begun");
        let became = act(&admin, first.0, &[id], first.1).await.expect("told");
        assert!(!became[0].contains(" - "), "{became:?}");
        let late = act_soon(database.admin().await, second.0, vec![id], second.1.clone());
        database.wait_until_blocked(1).await;
        admin.batch_execute("COMMIT").await.expect("committed");
        let late = late.await.expect("no panic").expect("told");
        assert_eq!(late, ["0 - NOT_PARKED"], "{first:?} {second:?}");
        assert_eq!(letter(&admin, id).await.0, expected);
        let actions = "SELECT count(*) FROM ledger.dead_letter_actions";
        assert_eq!(count(&admin, actions).await, 1, "{first:?} {second:?}");
        let balance = (expected == "REPLAYED").then_some("5");
        assert_eq!(available(&database, 1).await.as_deref(), balance);
        database.assert_invariants().await;
    }
    // Once the first has rolled back, the letter is as it was, and the second has it.
    let (database, _writer, admin, id) = one_letter().await;
    admin.batch_execute("BEGIN").await.expect("begun");
    act(&admin, "replay", &[id], &five).await.expect("told");
    let late = act_soon(database.admin().await, "replay", vec![id], seven);
    database.wait_until_blocked(1).await;
    admin.batch_execute("ROLLBACK").await.expect("rolled back");
    assert_eq!(
        late.await.expect("no panic").expect("told"),
        ["0 APPLIED -"]
    );
    assert_eq!(available(&database, 1).await.as_deref(), Some("7"));
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_retry_and_a_replay_by_hand_try_a_letter_once() {
    let (database, admin, mut writer) = notes("").await;
    writer
        .send(&[note("e0", "a", None)])
        .await
        .expect("applied");
    let id = id(&admin, 0, 0).await;
    allow_nulls(&admin).await;
    writer.client.batch_execute("BEGIN").await.expect("begun");
    assert_eq!(retry(&writer, 9).await.expect("retried"), (1, 0));
    let late = act_soon(database.admin().await, "replay", vec![id], String::new());
    database.wait_until_blocked(1).await;
    writer
        .client
        .batch_execute("COMMIT")
        .await
        .expect("committed");
    assert_eq!(
        late.await.expect("no panic").expect("told"),
        ["0 - NOT_PARKED"]
    );
    assert_eq!(
        count(&admin, "SELECT last_value FROM domain.calls").await,
        2
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_letter_that_somebody_has_locked_holds_up_neither_the_leader_nor_its_partition() {
    let (database, admin, mut writer) = notes("").await;
    let batch = [note("e0", "a", None), note("e1", "b", None)];
    writer.send(&batch).await.expect("applied");
    let (first, second) = (id(&admin, 0, 0).await, id(&admin, 0, 1).await);
    admin.batch_execute("BEGIN").await.expect("begun");
    let discarded = act(&admin, "discard", &[first], "").await;
    assert_eq!(discarded.expect("told"), ["0 DEAD HANDLER_FAILED"]);
    // A replay of both waits for that letter, and holds nothing meanwhile that a batch wants.
    let late = act_soon(
        database.admin().await,
        "replay",
        vec![first, second],
        String::new(),
    );
    database.wait_until_blocked(1).await;
    assert_eq!(retry(&writer, 9).await.expect("answers").0, 1);
    writer
        .send(&[note("e2", "c", Some("c"))])
        .await
        .expect("applied");
    admin.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(
        late.await.expect("no panic").expect("told"),
        ["1 DEAD HANDLER_FAILED", "0 - NOT_PARKED"]
    );
    database.assert_invariants().await;
}

/// Two partitions with a letter each, whose corrections were tried in vain: they change these accounts.
async fn letters_of_two_partitions(
    accounts: [i64; 2],
) -> (Database, Client, [i64; 2], [common::Leader; 3]) {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let mut leaders = Vec::new();
    for partition in 0..3 {
        let leader = lead(&writer, partition, "a").await;
        let opened = format!("open {partition}");
        let batch = match accounts.get(partition as usize) {
            Some(account) => Batch::default().dead(
                0,
                "APPLY_FAILED",
                &credit(&format!("letter {partition}"), *account, "1"),
            ),
            None => Batch::default().event(
                0,
                &opened,
                &[
                    change(0, "1", "0"),
                    change(1, "1", "0"),
                    change(5, "1", "0"),
                    change(9, "1", "0"),
                ],
            ),
        };
        batch.apply(&writer, leader, 0, 1).await.expect("applied");
        leaders.push(leader);
    }
    let ids = [id(&admin, 0, 0).await, id(&admin, 1, 0).await];
    (database, writer, ids, [leaders[0], leaders[1], leaders[2]])
}

/// A replay of both letters meets a running batch of `partition` that holds balance 1 and waits at balance `held`.
async fn replay_beside_a_batch(partition: usize, held: i64, accounts: [i64; 2]) {
    let (database, writer, ids, leaders) = letters_of_two_partitions(accounts).await;
    let holder = database.admin().await;
    holder.batch_execute("BEGIN").await.expect("begun");
    let lock = "SELECT FROM ledger.account_balances WHERE account_id = $1 FOR UPDATE";
    holder.execute(lock, &[&held]).await.expect("locked");
    let leader = leaders[partition];
    let batch = tokio::spawn(async move {
        let changes: Vec<_> = [held, 1, 9].map(|account| change(account, "1", "0")).into();
        let batch = Batch::default().event(1, "batch", &changes);
        batch.apply(&writer, leader, 1, 2).await.map(drop)
    });
    database.wait_until_blocked(1).await;
    let replay = act_soon(
        database.admin().await,
        "replay",
        ids.to_vec(),
        String::new(),
    );
    database.wait_until_blocked(2).await;
    holder.batch_execute("COMMIT").await.expect("committed");
    batch
        .await
        .expect("no panic")
        .expect("the batch is applied");
    let told = replay.await.expect("no panic").expect("replayed");
    assert_eq!(told, ["0 APPLIED -", "0 APPLIED -"]);
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_replay_over_partitions_locks_their_progress_before_any_balance() {
    // The batch of partition 1 waits for balance 1 or has it; the replay must not have it before that partition.
    replay_beside_a_batch(1, 0, [1, 5]).await;
}

#[tokio::test]
async fn a_replay_over_partitions_locks_all_balances_in_the_order_of_their_keys() {
    // By partitions it would be 9, then 1; the batch holds 1 and comes to 9.
    replay_beside_a_batch(2, 5, [9, 1]).await;
}

#[tokio::test]
async fn a_take_over_waits_for_an_operators_replay_and_ends_it_not() {
    let (database, writer, admin, id) = one_letter().await;
    let holder = database.admin().await;
    let open = "INSERT INTO ledger.account_balances (account_id, shard_id, currency_code, available, frozen, updated_msec) VALUES (1, 0, 'USD', 0, 0, 0)";
    holder.batch_execute("BEGIN").await.expect("begun");
    holder.execute(open, &[]).await.expect("opened");
    let correction = corrected(&credit("five", 1, "5"));
    let replay = act_soon(
        database.member("sluice_admin").await,
        "replay",
        vec![id],
        correction,
    );
    database.wait_until_blocked(1).await;
    let early = acquire(&writer, 0, "a").await;
    assert_eq!(
        sqlstate(early),
        "55P03",
        "within its patience it ends nobody"
    );
    holder.batch_execute("ROLLBACK").await.expect("rolled back");
    assert_eq!(
        replay.await.expect("no panic").expect("told"),
        ["0 APPLIED -"]
    );
    lead(&writer, 0, "a").await;
    assert_eq!(available(&database, 1).await.as_deref(), Some("5"));

    // The mark of an operator is none of a writer: a predecessor's transaction is ended.
    let frozen = database.writer().await;
    let mark = "SELECT pg_advisory_xact_lock_shared(1936487784, (SELECT partition_id FROM ledger.partition_leases))";
    let leader = lead(&writer, 0, "a").await;
    frozen.batch_execute("BEGIN").await.expect("begun");
    frozen.batch_execute(mark).await.expect("marked");
    let batch = Batch::default().event(1, "e", &[change(1, "1", "0")]);
    batch.stage(&frozen).await.expect("staged");
    batch.call(&frozen, leader, 1, 2).await.expect("applied");
    lead(&writer, 0, "a").await;
    assert!(frozen.batch_execute("COMMIT").await.is_err());
    database.assert_invariants().await;
    drop(admin);
}

#[tokio::test]
async fn a_topic_of_balance_events_gets_no_handler() {
    let (_database, admin, _writer) = notes("").await;
    let other = "INSERT INTO ledger.partition_leases (topic, partition) VALUES ('money', 3);
        INSERT INTO ledger.partition_progress (partition_id, fencing_token, commit_offset, is_domain)
        SELECT partition_id, 0, 0, false FROM ledger.partition_leases WHERE topic = 'money'";
    admin.batch_execute(other).await.expect("a balance topic");
    for topic in ["balance.changed", "money"] {
        let register = "SELECT sluice.register_handler($1, 'domain.on_note')";
        let refused = admin.execute(register, &[&topic]).await.expect_err(topic);
        assert_eq!(code(&refused), "22023");
        let expected = format!("{topic} is a topic of balance events: no handler gets them");
        assert_eq!(words(&refused), expected);
    }
}

#[tokio::test]
async fn a_partition_that_was_read_as_one_kind_is_never_read_as_the_other() {
    let (database, admin, mut writer) = notes("").await;
    writer
        .send(&[note("e0", "a", Some("a"))])
        .await
        .expect("applied");
    let balances = "SELECT * FROM sluice.apply_balance_batch($1, $2, $3, $4, 1, 1, 0, $5, NULL)";
    let checksum = Batch::default().checksum();
    let refused = writer
        .client
        .query_one(
            balances,
            &[
                &notes::TOPIC,
                &0,
                &writer.token,
                &writer.lease_id,
                &checksum,
            ],
        )
        .await;
    assert!(message(refused).contains("was read as domain events"));
    // Nor is another partition of its topic.
    let acquire = "SELECT * FROM sluice.acquire_partition_lock($1, 1, 'w', interval '60 s')";
    let led = writer
        .client
        .query_one(acquire, &[&notes::TOPIC])
        .await
        .expect("acquired");
    let (token, lease_id): (i64, uuid::Uuid) = (led.get("fencing_token"), led.get("lease_id"));
    let first = balances.replace("1, 1, 0", "0, 0, 0");
    let refused = writer
        .client
        .query_one(&first, &[&notes::TOPIC, &1, &token, &lease_id, &checksum])
        .await;
    assert_eq!(sqlstate(refused), "42809");

    let leader = lead(&writer.client, 0, "w").await;
    let batch = Batch::default().event(0, "e", &[change(1, "1", "0")]);
    batch
        .apply(&writer.client, leader, 0, 1)
        .await
        .expect("applied");
    let events = "SELECT * FROM sluice.apply_event_batch($1, 0, $2, $3, 1, 1, NULL, '{}', '{}', '{}', '{}', '{}')";
    let refused = writer
        .client
        .query_one(events, &[&TOPIC, &leader.fencing_token, &leader.lease_id])
        .await;
    assert!(message(refused).contains("was read as balance events"));
    let kinds = "SELECT count(*) FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
        WHERE p.is_domain = (l.topic = 'note.written')";
    assert_eq!(count(&admin, kinds).await, 3);
    database.assert_invariants().await;
}

#[tokio::test]
async fn behind_a_dead_record_of_any_reason_later_ones_of_its_key_wait() {
    let (database, admin, mut writer) = notes(", parks_key => true").await;
    let text = |number: i64| {
        let (_, payload) = note(&format!("e{number}"), "z", Some(&number.to_string()));
        String::from_utf8(payload.expect("a payload")).expect("text")
    };
    let keyed = |payload: &str| (Some(b"z".to_vec()), Some(payload.as_bytes().to_vec()));
    let order = "CREATE TABLE domain.seen (n serial, offset_ bigint);
        GRANT ALL ON domain.seen, domain.seen_n_seq TO sluice_handler;
        CREATE OR REPLACE FUNCTION domain.on_note(events domain.event[]) RETURNS void LANGUAGE sql AS $$
            INSERT INTO domain.seen (offset_) SELECT e.kafka_offset FROM unnest(events) e ORDER BY 1 $$";
    admin
        .batch_execute(order)
        .await
        .expect("a handler that keeps the order");
    // Cut off, good, of the wrong type, good: of one batch, and one more in the next.
    let wrong = text(2).replace("note.written", "note.burnt");
    let batch = [
        keyed("{\"eventId"),
        keyed(&text(1)),
        keyed(&wrong),
        keyed(&text(3)),
    ];
    writer.send(&batch).await.expect("applied");
    writer.send(&[keyed(&text(4))]).await.expect("applied");
    let reasons = notes::verdicts(&admin).await;
    let reasons: Vec<Option<&str>> = reasons
        .iter()
        .map(|(_, _, reason)| reason.as_deref())
        .collect();
    let expected = [
        "MALFORMED_JSON",
        "PARKED_BEHIND",
        "UNKNOWN_EVENT_TYPE",
        "PARKED_BEHIND",
        "PARKED_BEHIND",
    ];
    assert_eq!(reasons, expected.map(Some));
    database.assert_invariants().await;
    for (offset, number) in [(0, 0), (2, 2)] {
        let id = id(&admin, 0, offset).await;
        let told = act(&admin, "replay", &[id], &corrected(&text(number))).await;
        assert_eq!(told.expect("told"), [format!("{offset} APPLIED -")]);
        retry(&writer, 3).await.expect("retried");
    }
    let seen = "SELECT string_agg(offset_::text, ' ' ORDER BY n) FROM domain.seen";
    let seen: String = admin.query_one(seen, &[]).await.expect("seen").get(0);
    assert_eq!(seen, "0 1 2 3 4");
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_correction_waits_behind_an_earlier_dead_record_of_its_key() {
    let (database, admin, mut writer) = notes(", parks_key => true").await;
    let keyed = |payload: &str| (Some(b"z".to_vec()), Some(payload.as_bytes().to_vec()));
    writer
        .send(&[keyed("{"), keyed("[")])
        .await
        .expect("applied");
    let (first, second) = (id(&admin, 0, 0).await, id(&admin, 0, 1).await);
    let (_, payload) = note("e1", "z", Some("1"));
    let payload = String::from_utf8(payload.expect("a payload")).expect("text");
    let told = act(&admin, "replay", &[second], &corrected(&payload)).await;
    assert_eq!(told.expect("told"), ["1 DEAD PARKED_BEHIND"]);
    let waits = ("PARKED".to_owned(), 1, true, Some(payload));
    assert_eq!(letter(&admin, second).await, waits, "waiting is no try");
    database.assert_invariants().await;
    act(&admin, "discard", &[first], "").await.expect("told");
    assert_eq!(retry(&writer, 3).await.expect("retried"), (1, 0));
    assert_eq!(
        count(&admin, "SELECT count(*) FROM domain.notes WHERE body = '1'").await,
        1
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_discarded_letter_is_restored_and_keys_wait_behind_it_again() {
    let (database, admin, mut writer) = notes(", parks_key => true").await;
    let poison = (note("e0", "a", None).0, note("e0", "z", None).1);
    writer
        .send(&[poison, note("e1", "a", Some("1"))])
        .await
        .expect("applied");
    let (first, second) = (id(&admin, 0, 0).await, id(&admin, 0, 1).await);
    let restored = act(&admin, "restore", &[first], "").await.expect("told");
    assert_eq!(restored, ["0 - NOT_DISCARDED"]);
    act(&admin, "discard", &[first], ", why => 'hopeless'")
        .await
        .expect("told");
    assert_eq!(
        act(&admin, "replay", &[first], "").await.expect("told"),
        ["0 - NOT_PARKED"]
    );
    let dry = "SELECT * FROM sluice.restore_dead_letters(topic => 'note.written')";
    assert_eq!(
        told(&admin.query(dry, &[]).await.expect("told")),
        ["0 DEAD HANDLER_FAILED"]
    );
    assert_eq!(letter(&admin, first).await.0, "DISCARDED", "a dry run");
    let restored = act(&admin, "restore", &[first], ", why => 'after all'").await;
    assert_eq!(restored.expect("told"), ["0 DEAD HANDLER_FAILED"]);
    // It is the head again: what waited behind it waits on.
    assert_eq!(retry(&writer, 1).await.expect("retried"), (0, 0));
    writer
        .send(&[note("e2", "a", Some("2"))])
        .await
        .expect("applied");
    assert_eq!(letter(&admin, second).await.0, "PARKED");
    database.assert_invariants().await;
    allow_nulls(&admin).await;
    let third = id(&admin, 0, 2).await;
    let told = act(&admin, "replay", &[third, second, first], "").await;
    assert_eq!(
        told.expect("told"),
        ["0 APPLIED -", "1 APPLIED -", "2 APPLIED -"]
    );
    let actions = "SELECT string_agg(action || coalesce(' ' || why, ''), ', ' ORDER BY id) FROM ledger.dead_letter_actions WHERE dead_letter_id = $1";
    let actions: String = admin
        .query_one(actions, &[&first])
        .await
        .expect("actions")
        .get(0);
    assert_eq!(actions, "DISCARD hopeless, RESTORE after all, REPLAY");
    database.assert_invariants().await;
}

#[tokio::test]
async fn every_letter_that_is_left_out_is_answered_with_its_reason() {
    let (database, admin, mut writer) = notes("").await;
    let batch: Vec<_> = (0..5)
        .map(|number| note(&format!("e{number}"), "a", None))
        .collect();
    writer.send(&batch).await.expect("applied");
    let mut ids = Vec::new();
    for offset in 0..5 {
        ids.push(id(&admin, 0, offset).await);
    }
    act(&admin, "discard", &ids[..1], "").await.expect("told");
    let worn_out = "UPDATE ledger.dead_letters SET attempts = 20 WHERE kafka_offset = 1";
    admin.execute(worn_out, &[]).await.expect("tried often");
    let all = "SELECT * FROM sluice.replay_dead_letters(topic => 'note.written')";
    assert_eq!(
        told(&admin.query(all, &[]).await.expect("told")),
        [
            "2 DEAD HANDLER_FAILED",
            "3 DEAD HANDLER_FAILED",
            "4 DEAD HANDLER_FAILED",
            "1 - TOO_MANY_ATTEMPTS"
        ]
    );
    ids.push(4711);
    let some = ", since => (SELECT first_failed_at FROM ledger.dead_letters WHERE kafka_offset = 3), max_rows => 1";
    let since = "UPDATE ledger.dead_letters SET first_failed_at = first_failed_at - interval '1 h' WHERE kafka_offset = 2";
    admin.execute(since, &[]).await.expect("older");
    let expected = [
        "0 - NOT_PARKED",
        "2 - OTHER_FILTER",
        "4 - MAX_ROWS",
        "? - NO_SUCH_LETTER",
    ];
    let call = format!("SELECT * FROM sluice.discard_dead_letters(ids => $1{some})");
    let answer = told(&admin.query(&call, &[&ids]).await.expect("told"));
    let left: Vec<&String> = answer.iter().filter(|line| line.contains(" - ")).collect();
    for line in expected {
        assert!(left.iter().any(|told| *told == line), "{line}: {answer:?}");
    }
    let words =
        "SELECT message FROM sluice.replay_dead_letters(ids => $1) WHERE reason = 'NOT_PARKED'";
    let words: String = admin.query_one(words, &[&ids]).await.expect("told").get(0);
    assert!(
        words.contains("it is DISCARDED since") && words.contains("restore_dead_letters"),
        "{words}"
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_balance_letter_owns_no_identity() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let payload = credit("e", 1, "5");
    let event =
        |offset| Batch::default().event_with_payload(offset, "e", &payload, &[change(1, "5", "0")]);
    let dead = Batch::default().dead(0, "APPLY_FAILED", &payload);
    dead.apply(&writer, leader, 0, 1).await.expect("applied");
    let id = id(&admin, 0, 0).await;
    assert!(!letter(&admin, id).await.2);
    event(1)
        .apply(&writer, leader, 1, 2)
        .await
        .expect("applied");
    assert_eq!(
        act(&admin, "replay", &[id], "").await.expect("told"),
        ["0 DUPLICATE -"]
    );
    assert_eq!(available(&database, 1).await.as_deref(), Some("5"));
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_letter_that_is_discarded_before_it_is_published_is_published_all_the_same() {
    let (database, admin, mut writer) = notes("").await;
    let batch = [note("e0", "a", None), note("e1", "b", None)];
    writer.send(&batch).await.expect("applied");
    let first = id(&admin, 0, 0).await;
    let unpublished = async || {
        let unpublished =
            "SELECT kafka_offset FROM sluice.unpublished_dead_letters('note.written', 0, 3, 100)";
        let rows = writer.client.query(unpublished, &[]).await.expect("asked");
        let cared = "SELECT count(*) FROM sluice.partitions_to_care_for()";
        (
            rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(),
            count(&writer.client, cared).await,
        )
    };
    assert_eq!(unpublished().await, (vec![], 1), "both have tries left");
    act(&admin, "discard", &[first], "").await.expect("told");
    assert_eq!(unpublished().await, (vec![0], 1), "given up, and told");
    let mark = "SELECT sluice.mark_published($1)";
    writer
        .client
        .execute(mark, &[&vec![first]])
        .await
        .expect("marked");
    assert!(unpublished().await.0.is_empty());
    database.assert_invariants().await;
}

#[tokio::test]
async fn the_migration_tells_kinds_and_identities_by_what_was_done() {
    let (database, admin, mut writer) = notes("").await;
    let leader = lead(&writer.client, 0, "w").await;
    let batch =
        Batch::default()
            .event(0, "e", &[change(1, "1", "0")])
            .dead(1, "MALFORMED_JSON", "{");
    batch
        .apply(&writer.client, leader, 0, 2)
        .await
        .expect("applied");
    writer
        .send(&[
            note("e0", "a", Some("a")),
            note("e1", "b", None),
            raw("["),
            note("e3", "c", None),
        ])
        .await
        .expect("applied");
    // One is corrected in vain, one is replayed.
    let (_, payload) = note("e9", "b", None);
    let correction = corrected(&String::from_utf8(payload.expect("a payload")).expect("text"));
    let letters = [id_in(&admin, 1).await, id_in(&admin, 3).await];
    act(&admin, "replay", &letters[..1], &correction)
        .await
        .expect("told");
    allow_nulls(&admin).await;
    act(&admin, "replay", &letters[1..], "")
        .await
        .expect("told");
    let columns = "SELECT string_agg(concat_ws(' ', d.topic, d.kafka_offset, d.is_domain, d.owns_identity, encode(d.retry_payload, 'hex')), ', ' ORDER BY d.id)
        || (SELECT string_agg(concat_ws(' ', l.topic, p.is_domain), ', ' ORDER BY l.topic)
            FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)) FROM ledger.dead_letters d";
    let columns = async || {
        admin
            .query_one(columns, &[])
            .await
            .expect("told")
            .get::<_, String>(0)
    };
    let before = columns().await;
    // As before the migration.
    admin
        .batch_execute(
            "ALTER TABLE ledger.dead_letters ALTER is_domain DROP NOT NULL, ALTER owns_identity DROP NOT NULL;
             UPDATE ledger.dead_letters SET record_time_ms = CASE WHEN is_domain THEN record_time_ms END;
             UPDATE ledger.dead_letters SET is_domain = NULL, owns_identity = NULL, retry_payload = NULL;
             UPDATE ledger.partition_progress SET is_domain = NULL",
        )
        .await
        .expect("undone");
    let migration = include_str!("../../bridge/V21__letters_decide_by_columns.sql");
    for (from, to) in [
        ("UPDATE ledger.dead_letters d", "ALTER TABLE"),
        ("WITH letters AS", "COMMENT ON"),
    ] {
        let start = migration.find(from).expect(from);
        let length = migration[start..].find(to).expect(to);
        let statement = &migration[start..start + length];
        admin.batch_execute(statement).await.expect("filled");
    }
    assert_eq!(columns().await, before);
    database.assert_invariants().await;
}

/// The letter at an offset of the notes.
async fn id_in(admin: &Client, offset: i64) -> i64 {
    let id = "SELECT id FROM ledger.dead_letters WHERE topic = $1 AND kafka_offset = $2";
    let row = admin.query_one(id, &[&notes::TOPIC, &offset]).await;
    row.expect("a letter").get(0)
}

/// Replays lock the partitions of a topic by their numbers; these came into being the other way round.
#[tokio::test]
async fn a_breaker_that_pauses_or_resumes_a_topic_and_a_replay_do_not_deadlock() {
    const TRIP: &str = "SELECT sluice.trip_breaker('balance.changed', 'a test')";
    const RESET: &str = "SELECT sluice.reset_breaker('balance.changed')";
    for (before, breaker) in [("SELECT", TRIP), (TRIP, RESET)] {
        let database = Database::create().await;
        let (writer, admin) = (database.writer().await, database.admin().await);
        for partition in [1, 0] {
            let leader = lead(&writer, partition, "a").await;
            let batch = Batch::default().dead(0, "MALFORMED_JSON", "{");
            batch.apply(&writer, leader, 0, 1).await.expect("applied");
        }
        let ids = vec![id(&admin, 0, 0).await, id(&admin, 1, 0).await];
        admin.batch_execute(before).await.expect("prepared");
        let holder = database.admin().await;
        let hold = "BEGIN; SELECT FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
            WHERE l.partition = 1 FOR UPDATE OF p";
        holder.batch_execute(hold).await.expect("held");
        let client = database.admin().await;
        let breaking = tokio::spawn(async move { client.batch_execute(breaker).await });
        database.wait_until_blocked(1).await;
        let replay = act_soon(database.admin().await, "replay", ids, String::new());
        database.wait_until_blocked(2).await;
        holder.batch_execute("COMMIT").await.expect("given back");
        let broken = breaking.await.expect("joined");
        let replayed = replay.await.expect("joined");
        broken.unwrap_or_else(|error| panic!("{breaker}: {error:?}"));
        let expected = ["0 DEAD MALFORMED_JSON"; 2];
        assert_eq!(replayed.expect("no deadlock"), expected, "{breaker}");
        database.assert_invariants().await;
    }
}
