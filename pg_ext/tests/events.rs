//! Domain events: handlers, the search for events on which they fail, pauses and parked keys.

mod common;

use common::Database;
use common::notes::{
    Note, TOPIC, Writer, code, count, note, notes, raw, replace_handler, verdicts, words,
};
use tokio_postgres::Client;

#[tokio::test]
async fn every_record_gets_its_verdict() {
    let (database, admin, mut writer) = notes("").await;
    let first = note("e1", "a", Some("one"));
    let answer = writer
        .send(&[
            first.clone(),
            (None, None),
            raw("{"),
            raw(r#"{"eventId":"x","eventType":"other","data":{}}"#),
            raw(r#"{"eventId":"y","eventType":"note.written","data":{"a":1,"a":2}}"#),
            first.clone(),
            note("e1", "a", Some("two")),
            note("e2", "b", Some("three")),
        ])
        .await
        .expect("applied");
    let counts = ["events", "applied", "rejected", "duplicates", "dead"]
        .map(|name| answer.get::<_, i64>(name));
    assert_eq!(counts, [8, 2, 1, 1, 4]);
    let found = verdicts(&admin).await;
    let expected = [
        ("APPLIED", None),
        ("DEAD", Some("EMPTY_PAYLOAD")),
        ("DEAD", Some("MALFORMED_JSON")),
        ("DEAD", Some("UNKNOWN_EVENT_TYPE")),
        ("DEAD", Some("INVALID_EVENT")),
        ("DUPLICATE", None),
        ("REJECTED", Some("EVENT_ID_CONFLICT")),
        ("APPLIED", None),
    ];
    let found: Vec<_> = found
        .iter()
        .map(|(_, verdict, reason)| (verdict.as_str(), reason.as_deref()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(count(&admin, "SELECT count(*) FROM domain.notes").await, 2);
    // The answer to COMMIT was lost: the same batch again changes nothing.
    writer.next -= 8;
    let again = writer.send_until(&[], 8).await.expect("asked again");
    assert_eq!(again.get::<_, &str>("outcome"), "ALREADY_COMMITTED");
    let recorded = ["events", "applied", "rejected", "duplicates", "dead"]
        .map(|name| again.get::<_, i64>(name));
    assert_eq!(recorded, counts);
    let stale = writer
        .send_until(&[first], 1)
        .await
        .expect_err("a stale offset");
    assert_eq!(code(&stale), "55000");
    database.assert_invariants().await;
}

#[tokio::test]
async fn one_poison_record_in_a_thousand_costs_twelve_tries_and_its_neighbours_nothing() {
    for poison in [0, 1, 499, 500, 998, 999] {
        let (database, admin, mut writer) = notes("").await;
        let batch: Vec<Note> = (0..1_000)
            .map(|n| {
                note(
                    &format!("e{n}"),
                    &n.to_string(),
                    (n != poison).then_some("text"),
                )
            })
            .collect();
        let answer = writer.send(&batch).await.expect("applied");
        assert_eq!(
            (
                answer.get::<_, i64>("applied"),
                answer.get::<_, i64>("dead")
            ),
            (999, 1)
        );
        assert_eq!(
            count(&admin, "SELECT count(*) FROM domain.notes").await,
            999
        );
        let tries = count(&admin, "SELECT last_value FROM domain.calls").await;
        assert!(tries <= 1 + 12, "poison at {poison}: {tries} tries");
        let letter = admin
            .query_one("SELECT * FROM ledger.dead_letters", &[])
            .await
            .expect("one letter");
        assert_eq!(letter.get::<_, i64>("kafka_offset"), poison);
        assert_eq!(letter.get::<_, &str>("error_code"), "HANDLER_FAILED");
        let message: &str = letter.get("error_message");
        assert!(
            message.contains("null value in column \"body\"") && message.contains("23502"),
            "{message}"
        );
        assert_eq!(
            letter.get::<_, Option<Vec<u8>>>("payload"),
            batch[poison as usize].1
        );
        database.assert_invariants().await;
    }
}

#[tokio::test]
async fn many_poison_records_are_all_found() {
    let (database, admin, mut writer) = notes("").await;
    let is_poison = |n: usize| n % 10 == 3 || (400..440).contains(&n);
    let batch: Vec<Note> = (0..1_000)
        .map(|n| {
            note(
                &format!("e{n}"),
                &n.to_string(),
                (!is_poison(n)).then_some("text"),
            )
        })
        .collect();
    let answer = writer.send(&batch).await.expect("applied");
    let poison = (0..1_000).filter(|n| is_poison(*n)).count() as i64;
    assert_eq!(
        (
            answer.get::<_, i64>("applied"),
            answer.get::<_, i64>("dead")
        ),
        (1_000 - poison, poison)
    );
    assert_eq!(
        count(&admin, "SELECT count(*) FROM domain.notes").await,
        1_000 - poison
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_handler_that_names_what_it_refuses_is_called_once_more_for_each() {
    let (database, admin, mut writer) = notes(", true").await;
    replace_handler(
        &admin,
        "PERFORM nextval('domain.calls');
         PERFORM domain.refuse(e.event_id, 'body', 'is required') FROM unnest(events) e WHERE e.data->>'body' IS NULL;
         INSERT INTO domain.notes SELECT e.data->>'id', e.data->>'body', e.version FROM unnest(events) e;",
    )
    .await;
    let poison = [3, 500, 501, 999];
    let batch: Vec<Note> = (0..1_000)
        .map(|n| {
            let body = (!poison.contains(&n)).then_some("text");
            note(&format!("e{n}"), &n.to_string(), body)
        })
        .collect();
    writer.send(&batch).await.expect("applied");
    let tries = count(&admin, "SELECT last_value FROM domain.calls").await;
    assert!(tries <= 1 + 2 * 4, "{tries} tries");
    let letters = "SELECT kafka_offset, error_message FROM ledger.dead_letters ORDER BY 1";
    let letters = admin.query(letters, &[]).await.expect("letters");
    let found: Vec<(i64, String)> = letters.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = poison.map(|n| {
        let words = format!("event e{n}: field \"body\" is required (SQLSTATE 22023)");
        (n as i64, words)
    });
    assert_eq!(found, expected);
    let notes = "SELECT count(*) FROM domain.notes";
    assert_eq!(count(&admin, notes).await, 996);
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_handler_can_write_no_money_and_change_no_setting() {
    let (database, admin, mut writer) = notes("").await;
    replace_handler(
        &admin,
        "INSERT INTO ledger.account_balances VALUES (1, 0, 'USD', 1, 0, 0);",
    )
    .await;
    writer
        .send(&[note("e1", "a", Some("b"))])
        .await
        .expect("applied");
    let message = "SELECT count(*) FROM ledger.dead_letters WHERE error_message LIKE 'permission denied for schema ledger%42501%'";
    assert_eq!(count(&admin, message).await, 1);
    for local in ["true", "false"] {
        let set = format!("PERFORM pg_catalog.set_config('synchronous_commit', 'off', {local});");
        replace_handler(&admin, &set).await;
        let sent = writer
            .send(&[note(&format!("e{local}"), "a", Some("b"))])
            .await;
        let setting: String = writer
            .client
            .query_one("SHOW synchronous_commit", &[])
            .await
            .expect("SHOW")
            .get(0);
        assert_eq!(
            (setting.as_str(), sent.is_ok()),
            ("on", true),
            "is_local {local}: undone with the call"
        );
    }
    database.assert_invariants().await;
}

#[tokio::test]
async fn an_outage_inside_a_handler_is_no_fault_of_the_events() {
    let (_database, admin, mut writer) = notes("").await;
    for sqlstate in [
        "40P01", "40001", "53100", "57P01", "55P03", "XX000", "26000", "72000", "25P01", "55000",
        "42P01", "HV000",
    ] {
        replace_handler(
            &admin,
            &format!("RAISE EXCEPTION 'not now' USING ERRCODE = '{sqlstate}';"),
        )
        .await;
        let error = writer
            .send(&[note("e1", "a", Some("b"))])
            .await
            .expect_err("passed on");
        assert_eq!(code(&error), sqlstate);
    }
    assert_eq!(verdicts(&admin).await, []);
}

#[tokio::test]
async fn of_a_handlers_message_a_dead_letter_keeps_4000_characters() {
    let (_database, admin, mut writer) = notes("").await;
    replace_handler(&admin, "RAISE EXCEPTION '%', repeat('é', 1000000);").await;
    writer
        .send(&[note("e1", "a", Some("b"))])
        .await
        .expect("a dead letter");
    let kept = "SELECT count(*) FROM ledger.dead_letters
        WHERE error_message = repeat('é', 4000) || ' (SQLSTATE P0001)'";
    assert_eq!(count(&admin, kept).await, 1);
}

#[tokio::test]
async fn a_handler_that_breaks_on_everything_pauses_and_resumes_when_replaced() {
    let (database, admin, mut writer) = notes("").await;
    replace_handler(&admin, "RAISE EXCEPTION 'always';").await;
    let batch: Vec<Note> = (0..300)
        .map(|n| note(&format!("e{n}"), &n.to_string(), Some("x")))
        .collect();
    // A trickle fills the window, too: half of 200 is not past it.
    for single in &batch[..100] {
        writer
            .send(std::slice::from_ref(single))
            .await
            .expect("a dead letter");
    }
    for rest in [&batch[100..101], &batch[100..]] {
        let error = writer.send(rest).await.expect_err("too much");
        assert_eq!(code(&error), "38000");
        assert!(
            words(&error).contains(
                "domain.on_note broke on 101 of the last 200 events of note.written/0, last: always"
            ),
            "{error:?}"
        );
    }
    assert_eq!(
        count(&admin, "SELECT count(*) FROM ledger.dead_letters").await,
        100
    );
    let pause = "SELECT sluice.pause_handler($1, 'it breaks')";
    writer
        .client
        .execute(pause, &[&TOPIC])
        .await
        .expect("paused");
    let error = writer.send(&batch[100..101]).await.expect_err("paused");
    assert_eq!(code(&error), "38000");
    assert!(words(&error).contains("note.written is paused: it breaks; replace domain.on_note, or SELECT sluice.resume_handler('note.written')"), "{error:?}");
    // Still broken: the old failures do not count against it, new ones do.
    replace_handler(&admin, "RAISE EXCEPTION 'still';").await;
    writer
        .send(&batch[100..200])
        .await
        .expect("a second chance");
    writer.send(&batch[200..201]).await.expect_err("used up");
    writer
        .client
        .execute(pause, &[&TOPIC])
        .await
        .expect("paused");
    replace_handler(&admin, "PERFORM 1;").await;
    writer.send(&batch[200..]).await.expect("mended");
    writer
        .client
        .execute(pause, &[&TOPIC])
        .await
        .expect("paused");
    writer
        .send(&[note("z", "z", Some("z"))])
        .await
        .expect_err("paused");
    let resumed: bool = admin
        .query_one("SELECT sluice.resume_handler($1)", &[&TOPIC])
        .await
        .expect("resume")
        .get(0);
    assert!(resumed);
    writer
        .send(&[note("z", "z", Some("z"))])
        .await
        .expect("resumed");
    database.assert_invariants().await;
}

#[tokio::test]
async fn behind_one_record_transactions_a_broken_handler_still_pauses() {
    let (database, admin, mut writer) = notes("").await;
    replace_handler(&admin, "RAISE EXCEPTION 'always';").await;
    for n in 0..=100 {
        let record = note(&format!("e{n}"), &n.to_string(), Some("x"));
        // The marker of its transaction follows.
        let sent = writer.send_until(&[record], writer.next + 2).await;
        if n < 100 {
            sent.expect("a dead letter");
            writer.next += 2;
            continue;
        }
        let error = sent.expect_err("too much");
        assert_eq!(code(&error), "38000");
        assert!(
            words(&error)
                .contains("broke on 101 of the last 200 events of note.written/0, last: always"),
            "{error:?}"
        );
    }
    database.assert_invariants().await;
}

#[tokio::test]
async fn later_records_of_a_dead_ones_key_are_parked_behind_it() {
    let (database, admin, mut writer) = notes(", parks_key => true").await;
    let batch = [
        note("e0", "a", Some("0")),
        note("e1", "b", Some("1")),
        (note("e2", "a", None).0, note("e2", "c", None).1),
        note("e3", "b", Some("3")),
        note("e4", "a", Some("4")),
        (None, note("e5", "a", Some("5")).1),
    ];
    writer.send(&batch).await.expect("applied");
    writer
        .send(&[note("e6", "a", Some("6")), note("e7", "b", Some("7"))])
        .await
        .expect("applied");
    let dead: Vec<(i64, String)> = verdicts(&admin)
        .await
        .into_iter()
        .filter_map(|(offset, _, reason)| Some((offset, reason?)))
        .collect();
    assert_eq!(
        dead,
        [
            (2, "HANDLER_FAILED".into()),
            (4, "PARKED_BEHIND".into()),
            (6, "PARKED_BEHIND".into())
        ]
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_advice() {
    let (_database, admin, _writer) = notes("").await;
    admin
        .batch_execute(
            "CREATE FUNCTION domain.other(events jsonb) RETURNS void LANGUAGE sql AS '';
             CREATE FUNCTION domain.answers(events domain.event[]) RETURNS integer LANGUAGE sql AS 'SELECT 1';
             CREATE FUNCTION domain.hidden(events domain.event[]) RETURNS void LANGUAGE sql AS '';
             REVOKE EXECUTE ON FUNCTION domain.hidden(domain.event[]) FROM PUBLIC, sluice_handler",
        )
        .await
        .expect("functions");
    for (event_type, handler, sqlstate, part) in [
        (
            "note.written",
            "domain.on_note",
            "42710",
            "has a handler already: domain.on_note",
        ),
        (
            "a b",
            "domain.on_note",
            "22023",
            "'a b' cannot be the name of a Kafka topic",
        ),
        (
            "new",
            "domain.missing",
            "42883",
            "there is no function domain.missing(domain.event[])",
        ),
        (
            "new",
            "domain.other",
            "42P13",
            "domain.other does not take (domain.event[])",
        ),
        ("new", "domain.answers", "42P13", "must return void"),
        (
            "new",
            "domain.hidden",
            "42501",
            "sluice_handler may not call domain.hidden",
        ),
    ] {
        let register = "SELECT sluice.register_handler($1, $2)";
        let error = admin
            .execute(register, &[&event_type, &handler])
            .await
            .expect_err(handler);
        assert_eq!(code(&error), sqlstate, "{error:?}");
        assert!(words(&error).contains(part), "{error:?}");
        assert!(
            error.as_db_error().and_then(|error| error.hint()).is_some(),
            "{error:?}"
        );
    }
    let unknown = "SELECT sluice.unregister_handler('new'), sluice.resume_handler('note.written')";
    let row = admin.query_one(unknown, &[]).await.expect("answers");
    assert_eq!(
        (row.get::<_, bool>(0), row.get::<_, bool>(1)),
        (false, false)
    );
}

async fn replay(admin: &Client, options: &str) -> Vec<(i64, String, Option<String>)> {
    let replay = format!(
        "SELECT kafka_offset, coalesce(verdict, 'left out'), reason FROM sluice.replay_dead_letters({options})"
    );
    let rows = admin
        .query(&replay, &[])
        .await
        .unwrap_or_else(|error| panic!("{replay}: {error:?}"));
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

fn became(offset: i64, verdict: &str, reason: Option<&str>) -> (i64, String, Option<String>) {
    (offset, verdict.to_owned(), reason.map(str::to_owned))
}

#[tokio::test]
async fn dead_letters_are_replayed_once_their_handler_is_mended() {
    let (database, admin, mut writer) = notes("").await;
    let batch = [
        note("e0", "a", Some("0")),
        note("e1", "b", None),
        raw("{"),
        note("e3", "c", None),
    ];
    writer.send(&batch).await.expect("applied");
    let all = format!("topic => '{TOPIC}'");
    let still = [
        became(1, "DEAD", Some("HANDLER_FAILED")),
        became(2, "DEAD", Some("MALFORMED_JSON")),
        became(3, "DEAD", Some("HANDLER_FAILED")),
    ];
    assert_eq!(replay(&admin, &all).await, still, "a dry run by default");
    admin
        .batch_execute("ALTER TABLE domain.notes ALTER body DROP NOT NULL")
        .await
        .expect("mended");
    let now = [
        became(1, "APPLIED", None),
        became(2, "DEAD", Some("MALFORMED_JSON")),
        became(3, "APPLIED", None),
    ];
    assert_eq!(replay(&admin, &all).await, now);
    assert_eq!(
        count(&admin, "SELECT count(*) FROM domain.notes").await,
        1,
        "only a dry run"
    );
    assert_eq!(
        replay(&admin, &format!("{all}, why => 'mended', dry_run => false")).await,
        now
    );
    assert_eq!(count(&admin, "SELECT count(*) FROM domain.notes").await, 3);
    assert_eq!(
        replay(&admin, &format!("{all}, dry_run => false")).await,
        [now[1].clone()],
        "twice applies once"
    );
    let letters = admin
        .query(
            "SELECT status, attempts FROM ledger.dead_letters ORDER BY kafka_offset",
            &[],
        )
        .await
        .expect("letters");
    let letters: Vec<(String, i32)> = letters.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(
        letters,
        [
            ("REPLAYED".into(), 2),
            ("PARKED".into(), 3),
            ("REPLAYED".into(), 2)
        ]
    );
    assert_eq!(count(&admin, "SELECT count(*) FROM ledger.dead_letter_actions WHERE action = 'REPLAY' AND by_user = session_user").await, 4);
    // What was replayed owns its identity, as ever.
    writer
        .send(&[note("e1", "b", None), note("e1", "b", Some("other"))])
        .await
        .expect("applied");
    assert_eq!(
        verdicts(&admin).await[4..],
        [
            became(4, "DUPLICATE", None),
            became(5, "REJECTED", Some("EVENT_ID_CONFLICT"))
        ]
    );
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_corrected_payload_takes_the_place_of_the_record() {
    let (database, admin, mut writer) = notes("").await;
    writer
        .send(&[raw("{"), note("e1", "b", None), note("e2", "c", None)])
        .await
        .expect("applied");
    let corrected = |offset: i64, payload: &str| {
        format!(
            "ids => ARRAY(SELECT id FROM ledger.dead_letters WHERE kafka_offset = {offset}), payload => convert_to('{payload}', 'UTF8'), dry_run => false"
        )
    };
    let text = |event_id: &str, id: &str| {
        String::from_utf8(note(event_id, id, Some("good")).1.expect("a payload")).expect("text")
    };
    let worse = admin
        .query(
            &format!(
                "SELECT * FROM sluice.replay_dead_letters({})",
                corrected(0, "[")
            ),
            &[],
        )
        .await
        .expect_err("no correction");
    assert!(
        words(&worse).contains("the corrected payload is not usable: MALFORMED_JSON"),
        "{worse:?}"
    );
    let two = admin
        .query(
            "SELECT * FROM sluice.replay_dead_letters(ids => ARRAY[1, 2], payload => 'x')",
            &[],
        )
        .await
        .expect_err("which one?");
    assert!(
        words(&two).contains("a corrected payload is for one dead letter"),
        "{two:?}"
    );
    assert_eq!(
        replay(&admin, &corrected(0, &text("e0", "a"))).await,
        [became(0, "APPLIED", None)]
    );
    assert_eq!(
        replay(&admin, &corrected(1, &text("e1", "b"))).await,
        [became(1, "APPLIED", None)]
    );
    // Another event than it was: its former identity is free again.
    assert_eq!(
        replay(&admin, &corrected(2, &text("e9", "c"))).await,
        [became(2, "APPLIED", None)]
    );
    writer
        .send(&[
            note("e0", "a", Some("good")),
            note("e1", "b", Some("good")),
            note("e2", "d", Some("x")),
            note("e9", "c", Some("x")),
        ])
        .await
        .expect("applied");
    let later = [
        became(3, "DUPLICATE", None),
        became(4, "DUPLICATE", None),
        became(5, "APPLIED", None),
        became(6, "REJECTED", Some("EVENT_ID_CONFLICT")),
    ];
    assert_eq!(verdicts(&admin).await[3..], later);
    database.assert_invariants().await;
}

#[tokio::test]
async fn parked_records_follow_in_order_once_the_first_is_settled() {
    let (database, admin, mut writer) = notes(", parks_key => true").await;
    let poison = (note("e0", "a", None).0, note("e0", "z", None).1);
    writer
        .send(&[
            poison,
            note("e1", "a", Some("1")),
            note("e2", "a", Some("2")),
        ])
        .await
        .expect("applied");
    let behind = |id: i64| {
        format!(
            "ids => ARRAY(SELECT id FROM ledger.dead_letters WHERE kafka_offset >= {id}), dry_run => false"
        )
    };
    assert_eq!(
        replay(&admin, &behind(1)).await,
        [
            became(1, "DEAD", Some("PARKED_BEHIND")),
            became(2, "DEAD", Some("PARKED_BEHIND"))
        ]
    );
    assert_eq!(
        replay(&admin, &behind(0)).await,
        [
            became(0, "DEAD", Some("HANDLER_FAILED")),
            became(1, "DEAD", Some("PARKED_BEHIND")),
            became(2, "DEAD", Some("PARKED_BEHIND"))
        ]
    );
    let discard = "SELECT count(*) FROM sluice.discard_dead_letters(error_code => 'HANDLER_FAILED', why => 'nobody needs it', dry_run => false)";
    assert_eq!(count(&admin, discard).await, 1);
    assert_eq!(
        replay(&admin, &behind(0)).await,
        [
            became(1, "APPLIED", None),
            became(2, "APPLIED", None),
            became(0, "left out", Some("NOT_PARKED"))
        ]
    );
    let attempts = "SELECT sum(attempts) FROM ledger.dead_letters WHERE kafka_offset > 0";
    assert_eq!(count(&admin, attempts).await, 4, "waiting is no attempt");
    let nothing = admin
        .query("SELECT * FROM sluice.replay_dead_letters()", &[])
        .await
        .expect_err("which?");
    assert!(
        words(&nothing).contains("which dead letters?"),
        "{nothing:?}"
    );
    database.assert_invariants().await;
}

/// A handler that writes what it gets of each event, by id.
async fn seen(options: &str) -> (Database, Client, Writer) {
    let (database, admin, writer) = notes(options).await;
    let table = "CREATE TABLE domain.seen (event_id text, time_us bigint, field_us bigint);
        GRANT INSERT ON domain.seen TO sluice_handler";
    admin.batch_execute(table).await.expect("a table");
    replace_handler(
        &admin,
        "INSERT INTO domain.seen
         SELECT e.event_id, extract(epoch FROM e.event_time) * 1000000,
             extract(epoch FROM domain.instant(e.data->'at', e.event_id, 'at', required => false)) * 1000000
         FROM unnest(events) e;",
    )
    .await;
    (database, admin, writer)
}

#[tokio::test]
async fn what_jsonb_cannot_hold_is_the_records_fault_and_named() {
    // One failure of the handler would pause it.
    let (database, admin, mut writer) = seen(", max_failures => 0").await;
    let bad = [
        (r#"{"unread":"\u0000"}"#, "data.unread", "U+0000"),
        (
            r#"{"a":{"b":[1,{"\u0000":1}]}}"#,
            "data.a.b[1].\\u{0}",
            "U+0000",
        ),
        (r#"{"unread":[0,1e999999999]}"#, "data.unread[1]", "number"),
        (r#"{"unread":0e1999999999}"#, "data.unread", "number"),
        (
            &format!("{{\"unread\":{}}}", "9".repeat(140_000)),
            "data.unread",
            "number",
        ),
        (
            &format!("{{\"unread\":0.{}}}", "1".repeat(17_000)),
            "data.unread",
            "number",
        ),
        (r#"{"unread":1,"unread":1}"#, "data.unread", "given twice"),
    ];
    let payload = |n: usize, data: &str| {
        format!(r#"{{"eventId":"e{n}","eventType":"{TOPIC}","data":{data}}}"#)
    };
    let mut records = Vec::new();
    for (n, (data, ..)) in bad.iter().enumerate() {
        records.push(raw(&payload(n, data)));
        records.push(raw(&payload(100 + n, "{}")));
    }
    writer.send(&records).await.expect("no handler is paused");
    let letters =
        "SELECT event_id, error_code, error_message FROM ledger.dead_letters ORDER BY kafka_offset";
    let letters = admin.query(letters, &[]).await.expect("letters");
    assert_eq!(letters.len(), bad.len());
    for (n, (letter, (_, field, rule))) in letters.iter().zip(&bad).enumerate() {
        let (code, message): (&str, &str) = (letter.get(1), letter.get(2));
        let told = format!("event e{n}: field \"{field}\"");
        assert_eq!(code, "INVALID_EVENT");
        assert!(
            message.starts_with(&told) && message.contains(rule),
            "{message}"
        );
    }
    let applied = "SELECT count(*) FROM domain.seen";
    assert_eq!(count(&admin, applied).await, bad.len() as i64);
    database.assert_invariants().await;
}

#[tokio::test]
async fn numbers_are_refused_exactly_where_numeric_ends() {
    let (_database, admin, mut writer) = seen("").await;
    let digits = |count: usize| "9".repeat(count);
    let mut numbers: Vec<String> = Vec::new();
    for count in [131_071, 131_072, 131_073] {
        numbers.extend([
            digits(count),
            format!("-{}", digits(count)),
            format!("{}.5", digits(count)),
        ]);
        numbers.extend([
            format!("1e{}", count - 1),
            format!("0.001E+{}", count + 2),
            format!("12.5e{}", count - 2),
        ]);
    }
    for count in [16_382, 16_383, 16_384] {
        numbers.extend([
            format!("0.{}", digits(count)),
            format!("1e-{count}"),
            format!("0e-{count}"),
            format!("0.0e-{}", count - 1),
        ]);
        numbers.extend([
            format!("1.5e-{}", count - 1),
            format!("-0.{}", "0".repeat(count)),
        ]);
    }
    numbers.extend(
        [
            "0e99999999",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "0.0",
            "-0",
        ]
        .map(str::to_owned),
    );
    let records: Vec<Note> = numbers
        .iter()
        .enumerate()
        .map(|(n, number)| {
            raw(&format!(
                r#"{{"eventId":"n{n}","eventType":"{TOPIC}","data":{{"x":{number}}}}}"#
            ))
        })
        .collect();
    writer.send(&records).await.expect("applied");
    for ((number, (_, verdict, reason)), n) in numbers.iter().zip(verdicts(&admin).await).zip(0..) {
        let number_is = format!(
            "{n}: {} characters, {}",
            number.len(),
            &number[number.len().saturating_sub(12)..]
        );
        let fits = admin
            .query_one("SELECT $1::text::jsonb IS NOT NULL", &[number])
            .await
            .is_ok();
        let expected = if fits {
            ("APPLIED", None)
        } else {
            ("DEAD", Some("INVALID_EVENT"))
        };
        assert_eq!(
            (verdict.as_str(), reason.as_deref()),
            expected,
            "{number_is}"
        );
    }
}

#[tokio::test]
async fn fields_and_envelopes_read_the_same_time() {
    let (_database, admin, mut writer) = seen("").await;
    let texts = [
        "2026-11-21T05:00:15Z",
        "2026-11-21t05:00:15.1234567z",
        "2026-11-21T05:00:15.9999999Z",
        "2026-11-21T05:00:15.12345678901234567890Z",
        "2026-11-21T05:00:15+16:00",
        "2026-11-21T05:00:15-23:59",
        "2026-11-30T23:59:60Z",
        "2026-11-30T23:59:60.5Z",
        "2026-11-21T05:00:60Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+09:00",
        "9999-12-31T23:59:59.9999999-23:59",
        "2026-11-21T05:00:15+24:00",
        "2026-11-21T05:00:15",
        "2026-02-29T00:00:00Z",
        "infinity",
    ];
    let mut records: Vec<Note> = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let timestamp = format!(
            r#"{{"eventId":"envelope {n}","eventType":"{TOPIC}","timestamp":"{text}","data":{{}}}}"#
        );
        let field =
            format!(r#"{{"eventId":"field {n}","eventType":"{TOPIC}","data":{{"at":"{text}"}}}}"#);
        records.extend([raw(&timestamp), raw(&field)]);
    }
    writer.send(&records).await.expect("applied");
    let mut read = 0;
    for (n, text) in texts.iter().enumerate() {
        let both = "SELECT (SELECT time_us FROM domain.seen WHERE event_id = 'envelope ' || $1),
            (SELECT field_us FROM domain.seen WHERE event_id = 'field ' || $1)";
        let row = admin
            .query_one(both, &[&n.to_string()])
            .await
            .expect("times");
        let (envelope, field): (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
        assert_eq!(envelope, field, "{text}");
        read += usize::from(field.is_some());
    }
    assert_eq!(read, 11, "the others are no times to either");
}

#[tokio::test]
async fn a_record_time_out_of_range_is_named() {
    let (_database, admin, mut writer) = seen("").await;
    for time_ms in [
        i64::MAX,
        i64::MIN,
        i64::MAX / 1_000 + 1,
        -210_866_803_200_001,
    ] {
        writer.time_ms = Some(time_ms);
        let event = format!(r#"{{"eventId":"{time_ms}","eventType":"{TOPIC}","data":{{}}}}"#);
        writer.send(&[raw(&event)]).await.expect("applied");
        let message = format!(
            "SELECT count(*) FROM ledger.dead_letters WHERE error_code = 'INVALID_EVENT' AND event_id = '{time_ms}'
                AND error_message LIKE 'timestamp is missing, and the record''s own time is out of range: {time_ms} ms%'"
        );
        assert_eq!(count(&admin, &message).await, 1, "{time_ms}");
    }
    for time_ms in [i64::MAX / 1_000, -210_866_803_200_000, -1] {
        writer.time_ms = Some(time_ms);
        let event = format!(r#"{{"eventId":"{time_ms}","eventType":"{TOPIC}","data":{{}}}}"#);
        writer.send(&[raw(&event)]).await.expect("applied");
        let seen = format!("SELECT time_us FROM domain.seen WHERE event_id = '{time_ms}'");
        assert_eq!(
            count(&admin, &seen).await,
            time_ms * 1_000,
            "to the microsecond"
        );
    }
}

#[tokio::test]
async fn the_later_record_of_a_partition_wins_a_tie_of_event_time() {
    let (_database, admin, mut writer) = notes("").await;
    writer.time_ms = Some(1_000);
    let updates = |body: &str| -> Vec<Note> {
        let id = |n: usize| format!("wallet {n}");
        (0..200)
            .map(|n| note(&format!("{body} {n}"), &id(n), Some(body)))
            .collect()
    };
    let bodies = "SELECT count(*) FROM domain.notes WHERE body = ";
    // In one batch, then in another.
    writer
        .send(&[updates("first"), updates("second")].concat())
        .await
        .expect("applied");
    assert_eq!(count(&admin, &format!("{bodies} 'second'")).await, 200);
    writer.send(&updates("third")).await.expect("applied");
    assert_eq!(count(&admin, &format!("{bodies} 'third'")).await, 200);
}

#[tokio::test]
async fn a_replayed_record_has_the_version_of_its_own_offset() {
    let (_database, admin, mut writer) = notes("").await;
    writer.time_ms = Some(1_000);
    let body = "INSERT INTO domain.notes AS n SELECT DISTINCT ON (1) e.data->>'id', e.data->>'body', e.version
        FROM unnest(events) e ORDER BY 1, 3 DESC
        ON CONFLICT (id) DO UPDATE SET body = excluded.body, version = excluded.version WHERE n.version < excluded.version;";
    replace_handler(&admin, "RAISE EXCEPTION 'not yet';").await;
    writer
        .send(&[note("e0", "a", Some("earlier"))])
        .await
        .expect("dead");
    replace_handler(&admin, body).await;
    writer
        .send(&[note("e1", "a", Some("later"))])
        .await
        .expect("applied");
    let replayed = replay(&admin, "since => '-infinity', dry_run => false").await;
    assert_eq!(replayed, [became(0, "APPLIED", None)]);
    let kept = "SELECT count(*) FROM domain.notes WHERE body = 'later' AND substr(version, 9, 8) = int8send(1)";
    assert_eq!(count(&admin, kept).await, 1);
}

#[tokio::test]
async fn stored_versions_of_24_bytes_get_the_offset_of_their_record() {
    let (_database, admin, mut writer) = notes("").await;
    writer.time_ms = Some(1_000);
    let noted = ["a", "b", "c"].map(|id| note(id, id, Some("before")));
    writer.send(&noted).await.expect("applied");
    // As version 0.6 wrote them; of one the verdict was pruned since.
    let old = "UPDATE domain.notes SET version = substr(version, 1, 8) || substr(version, 17);
        DELETE FROM ledger.verdicts WHERE event_id = 'c'";
    admin.batch_execute(old).await.expect("old");
    let migration = include_str!("../../bridge/V25__versions_by_offset.sql");
    let migrate = format!("BEGIN; {migration}; COMMIT");
    admin.batch_execute(&migrate).await.expect("migrated");
    let places = "SELECT count(*) FROM domain.notes WHERE octet_length(version) = 32
        AND substr(version, 9, 8) = int8send(CASE id WHEN 'b' THEN 1 ELSE 0 END)";
    assert_eq!(count(&admin, places).await, 3);
    writer
        .client
        .query_one("SELECT", &[])
        .await
        .expect_err("it made old versions");
}
