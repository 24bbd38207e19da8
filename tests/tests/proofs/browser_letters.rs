//! Dead letters on the page, in a real Chromium, by keyboard alone: found, corrected, replayed, discarded, and that undone.

use std::time::{Duration, Instant};

use proofs::browser::Browser;
use proofs::scene::Scene;
use proofs::workload::{Message, credit};
use serde_json::json;
use thirtyfour::Key;

use super::browser::{DESKTOP, PHONE, instance, is_accessible, open, unlock, visit};
use super::page::TOKEN;

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_worked_on_by_keyboard_alone() {
    let scene = Scene::new(1).await;
    let mut ingester = instance(&scene, &[]).await;
    // Markup, and a character that turns the order of what follows around.
    let hostile = "{\"eventId\": \"<img src=x onerror=alert(1)>\u{202e}gpj\", \"eventType\": \"balance.changed\"}";
    let messages = [credit("a", 1, "5"), Message::of("{"), Message::of(hostile)];
    scene.kafka().produce(&scene.topic, 0, messages);
    scene.caught_up().await;
    let browser = open(&scene, &ingester, scene.partitions).await;
    browser.reads("#troubles", "2 dead letters parked").await;
    // From the top to the section, without a mouse.
    browser.tab_to("#sections a[href='#/letters']").await;
    browser.press(Key::Enter).await;
    browser.shows("[data-view=letters]").await;
    browser.gets_focus("#letters-title").await;
    browser.reads("#parked", "2 parked").await;
    browser.reads("#letters tbody", "INVALID_EVENT").await;
    // What comes in payloads is text and nothing else.
    let images = "return document.images.length";
    browser
        .reads("#letters tbody", r"<img src=x onerror=alert(1)>\u202egpj")
        .await;
    assert_eq!(browser.script(images, "").await, 0);

    // Allow changes.
    browser.tab_to("#unlock").await;
    browser.press(Key::Enter).await;
    browser.shows("#token-dialog").await;
    browser.press(Key::Escape).await;
    browser.hides("#token-dialog").await;
    browser.gets_focus("#unlock").await;
    browser.press(Key::Enter).await;
    browser.tab_to("#token").await;
    browser.press(TOKEN).await;
    browser.tab_to("#by").await;
    browser.press("bob").await;
    browser.press(Key::Enter).await;
    browser.hides("#token-dialog").await;
    browser.shows("#lock").await;

    // The table is one stop; the arrow keys move in it.
    let malformed = "#letters [aria-label='Look at dead letter 1']";
    browser.tab_to("#letters tbody input").await;
    browser.press(Key::Right).await;
    browser.press(Key::Down).await;
    browser.gets_focus(malformed).await;
    browser.press(Key::Enter).await;
    browser.reads("#letter-facts", "MALFORMED_JSON").await;
    assert_eq!(browser.text("#payload").await, "{");
    correct(&scene, &browser).await;
    browser.gets_focus("#letter-title").await;
    browser.reads("#letter-facts", "REPLAYED").await;
    browser.press(Key::Escape).await;
    browser.hides("#letter-dialog").await;
    // Its row has gone; the focus is at the next one.
    let other = "#letters [aria-label='Look at dead letter 2']";
    browser.gets_focus(other).await;

    discard_and_undo(&scene, &browser).await;

    // Who has done what is seen there.
    browser.tab_to("#which-status").await;
    browser.press("Any").await;
    browser.reads("#letters-count", "of 2 letters").await;
    browser.tab_to("#letters tbody button").await;
    browser.press(Key::End).await;
    browser.press(Key::Enter).await;
    browser
        .reads("#letter-actions", "cut off (bob): APPLIED")
        .await;
    browser.reads("#letter-actions", " UTC: REPLAY").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.quit().await;
    ingester.stop().await;
}

/// In the dialog of the letter: a dry run, a correction that Escape does not throw away, its money, the deed.
async fn correct(scene: &Scene, browser: &Browser) {
    browser.tab_to("#letter-replay").await;
    browser.press(Key::Enter).await;
    browser
        .reads("#outcome-summary", "would become 1 DEAD")
        .await;
    browser.reads("#outcomes", "MALFORMED_JSON").await;
    browser.tab_to("#corrected").await;
    let corrected = credit("b", 1, "7").payload.expect("a payload");
    let corrected = String::from_utf8(corrected).expect("text");
    browser.select_all().await;
    browser.press(corrected.as_str()).await;
    let waits = "return document.querySelector('#deed-go').disabled";
    assert_eq!(browser.script(waits, "").await, true, "a dry run first");
    let typed = "return document.querySelector('#corrected').value";
    for _ in 0..2 {
        browser.press(Key::Escape).await;
    }
    browser.reads("#draft", "Escape does not close").await;
    assert_eq!(browser.script(typed, "").await, json!(corrected));
    // Cancelled, it is there again.
    browser.click("#deed-close").await;
    browser.hides("#deed-dialog").await;
    browser.tab_to("#letter-replay").await;
    browser.press(Key::Enter).await;
    browser.reads("#draft", "from before").await;
    assert_eq!(browser.script(typed, "").await, json!(corrected));
    let added = "return [...document.querySelectorAll('#diff ins')].map((line) => line.textContent)
        .includes('+         \"availableDelta\": \"7\"')";
    assert_eq!(browser.script(added, "").await, true, "what it changes");
    browser.tab_to("#try").await;
    browser.press(Key::Enter).await;
    browser
        .reads("#outcome-summary", "would become 1 APPLIED")
        .await;
    let money = "account 1, shard 0, USD: available +7 → 12";
    browser.reads("#outcomes .money", money).await;
    is_accessible(browser, "a correction").await;
    let parked = "SELECT count(*) FROM ledger.dead_letters WHERE status = 'PARKED'";
    assert_eq!(scene.database.count(parked).await, 2, "tried only");
    let balance = "SELECT available::bigint FROM ledger.account_balances WHERE account_id = 1";
    assert_eq!(scene.database.count(balance).await, 5, "tried only");
    browser.tab_to("#deed-why").await;
    browser.press("cut off").await;
    browser.tab_to("#deed-go").await;
    browser.press(Key::Enter).await;
    browser
        .reads(
            "#deed-dialog .done",
            "1 of 1 dead letter replayed: 1 APPLIED",
        )
        .await;
    browser.gets_focus("#deed-dialog .done").await;
    browser.reads("#outcomes .money", money).await;
    assert_eq!(scene.database.count(parked).await, 1);
    assert_eq!(scene.database.count(balance).await, 12);
    browser.press(Key::Escape).await;
    browser.hides("#deed-dialog").await;
}

/// Chooses what is left, discards it, parks it again, and discards it for good.
async fn discard_and_undo(scene: &Scene, browser: &Browser) {
    let parked = "SELECT count(*) FROM ledger.dead_letters WHERE status = 'PARKED'";
    for is_undone in [true, false] {
        browser.shows("#choose-all:enabled").await;
        browser.tab_to("#choose-all").await;
        browser.press(" ").await;
        browser.reads("#discard-chosen", "Discard 1").await;
        browser.tab_to("#discard-chosen").await;
        browser.press(Key::Enter).await;
        browser.reads("#outcome-summary", "would be given up").await;
        browser.tab_to("#deed-why").await;
        browser.press("a test").await;
        browser.press(Key::Enter).await;
        browser
            .reads("#deed-dialog .done", "1 of 1 dead letter discarded")
            .await;
        assert_eq!(scene.database.count(parked).await, 0);
        if is_undone {
            browser.tab_to("#deed-undo").await;
            browser.press(Key::Enter).await;
            browser
                .reads("#deed-dialog .done", "1 of 1 dead letter parked again")
                .await;
            assert_eq!(scene.database.count(parked).await, 1);
        }
        browser.tab_to("#deed-close").await;
        browser.press(Key::Enter).await;
        browser.hides("#deed-dialog").await;
    }
    browser.shows("#no-letters").await;
    let actions = "SELECT count(*) FROM ledger.dead_letter_actions
        WHERE (action, why) IN (('REPLAY', 'cut off (bob)'), ('DISCARD', 'a test (bob)'), ('RESTORE', 'undone: a test (bob)'))
            AND by_user LIKE 'operator%'";
    assert_eq!(scene.database.count(actions).await, 4);
}

/// Letters that nobody sends in a test, for their number: of the records that follow those that were read.
const CROWD: &str = "
    INSERT INTO ledger.dead_letters (topic, partition, kafka_offset, event_id, key, payload, error_code, error_message,
        attempts, published_at, is_domain, owns_identity)
    SELECT $1::text, n % 200, 1000000 + n, 'crowd-' || n, convert_to('key-' || n, 'UTF8'), '{', 'MALFORMED_JSON',
        'line 1 column 2: expected a key of record ' || n, 3, now(), false, false
    FROM generate_series(1, 99000) n";
/// As if somebody had corrected them all.
const CORRECTED: &str = r#"
    UPDATE ledger.dead_letters SET retry_payload = convert_to(format(
        '{"eventId":"%s","eventType":"balance.changed","source":"wallet","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"1"}]}}',
        event_id), 'UTF8')
    WHERE error_code = 'INVALID_EVENT'"#;
const WANTED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn one_event_of_a_hundred_thousand_letters_and_two_hundred_partitions_is_found_in_ten_seconds()
 {
    let scene = Scene::new(200).await;
    let mut ingester = instance(&scene, &[]).await;
    let incomplete = |n: i32| {
        let text = format!(
            r#"{{"eventId":"broken-{n}","source":"wallet","eventType":"balance.changed"}}"#
        );
        Message::of(text)
    };
    scene
        .kafka()
        .produce(&scene.topic, 7, (0..1_000).map(incomplete));
    scene.caught_up().await;
    let client = &scene.database.client;
    let crowd = client.execute(CROWD, &[&scene.topic]).await;
    assert_eq!(crowd.expect("a superuser may"), 99_000);
    client
        .batch_execute(CORRECTED)
        .await
        .expect("a superuser may");

    let browser = open(&scene, &ingester, 200).await;
    browser
        .reads("#troubles", "100,000 dead letters parked")
        .await;
    for (size, mobile) in [(DESKTOP, false), (PHONE, true)] {
        browser.screen(size, "light", mobile).await;
        visit(&browser, "overview").await;
        // By the sender's id of it, from wherever one is.
        let began = Instant::now();
        let chain = browser.driver.action_chain().key_down(Key::Control);
        let chain = chain.send_keys("k").key_up(Key::Control);
        chain.perform().await.expect("keys");
        browser.shows("#event-id").await;
        browser.press("broken-417").await;
        browser.press(Key::Enter).await;
        browser.reads("#event-found", "INVALID_EVENT").await;
        browser.reads("#event-found", "/7 @ 417").await;
        assert!(began.elapsed() < WANTED, "{:?}", began.elapsed());
        println!("{size:?}: the event found in {:?}", began.elapsed());
        is_accessible(&browser, "an event").await;

        // By its key, among the letters.
        visit(&browser, "letters").await;
        browser.reads("#letters-count", "1 to 50 of 100,000").await;
        let began = Instant::now();
        browser.tab_to("#which-text").await;
        browser.press("key-98765").await;
        browser.press(Key::Enter).await;
        browser.reads("#letters-count", "1 to 1 of 1").await;
        browser.reads("#letters tbody", "crowd-98765").await;
        assert!(began.elapsed() < WANTED, "{:?}", began.elapsed());
        println!("{size:?}: the letter found in {:?}", began.elapsed());
        let clear = "document.querySelector('#which-text').value = ''";
        browser.script(clear, "").await;
    }

    // All of a reason, with progress, by keyboard.
    browser.screen(DESKTOP, "light", false).await;
    unlock(&browser).await;
    visit(&browser, "letters?code=INVALID_EVENT").await;
    browser.reads("#letters-count", "1 to 50 of 1,000").await;
    let older = "#letters-older";
    browser.tab_to(older).await;
    browser.press(Key::Enter).await;
    browser.reads("#letters-count", "51 to 100 of 1,000").await;
    browser.tab_to("#replay-all").await;
    browser.press(Key::Enter).await;
    browser
        .reads("#outcome-summary", "would become 50 APPLIED")
        .await;
    browser.tab_to("#deed-why").await;
    browser.press("the sender has mended them").await;
    browser.press(Key::Enter).await;
    browser.shows("#deed-job progress").await;
    browser
        .reads(
            "#deed-job",
            "done, 1,000 of 1,000 letters; became 1,000 APPLIED",
        )
        .await;
    is_accessible(&browser, "a job").await;
    let balance = "SELECT available::bigint FROM ledger.account_balances WHERE account_id = 1";
    assert_eq!(scene.database.count(balance).await, 1_000);
    browser
        .reads("#troubles", "99,000 dead letters parked")
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.quit().await;
    ingester.stop().await;
}
