//! The page, in a real Chromium, as operators use it.

use std::time::Duration;

use proofs::browser::Browser;
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene};
use proofs::stack::repository;
use proofs::wait::wait_until;
use proofs::watch::settled;
use proofs::workload::{Message, Workload, credit};
use serde_json::{Value, json};
use thirtyfour::Key;

use super::page::TOKEN;

const DESKTOP: (u32, u32) = (1280, 1000);
const PHONE: (u32, u32) = (390, 844);
/// What is to be seen within, of a service that goes or comes back.
pub(super) const SOON: Duration = Duration::from_secs(5);

pub(super) async fn instance(scene: &Scene, more: &[(&str, &str)]) -> Ingester {
    let (operator_url, _) = scene.operator().await;
    let mut settings = vec![
        ("ADMIN_TOKEN", TOKEN),
        ("OPERATOR_DATABASE_URL", &operator_url),
    ];
    settings.extend(more);
    scene.ingester_with(&settings)
}

pub(super) async fn open(scene: &Scene, ingester: &Ingester, partitions: i32) -> Browser {
    let browser = Browser::start(&scene.stack).await;
    browser.screen(DESKTOP, "light", false).await;
    let url = format!("http://{}/", ingester.address().await);
    browser.open(&url).await;
    let rows = "return document.querySelectorAll('#partitions tbody tr').length";
    wait_until("all partitions to be shown", STALL, async || {
        browser.script(rows, "").await == partitions
    })
    .await;
    browser
}

/// The row of a partition; a part of it.
fn row(scene: &Scene, partition: i32, part: &str) -> String {
    format!(
        "#partitions tr[data-key='{}/{partition}'] {part}",
        scene.topic
    )
}

async fn number(browser: &Browser, css: &str) -> i64 {
    let digits: String = browser.text(css).await;
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(-1)
}

async fn unlock(browser: &Browser) {
    browser.click("#unlock").await;
    browser.fill("#token", TOKEN).await;
    browser.fill("#by", "ann").await;
    browser.click("#token-dialog [type=submit]").await;
    browser.hides("#token-dialog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_seen_live_paused_resumed_and_moved() {
    let scene = Scene::new(3).await;
    let mut instances = [instance(&scene, &[]).await, instance(&scene, &[]).await];
    let names = instances.each_ref().map(|one| one.service_id.clone());
    let names = names.each_ref().map(String::as_str);
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    settled(&scene.database, &scene.topic, 3, &names, STALL).await;
    let browser = open(&scene, &instances[0], scene.partitions).await;
    let (state, leader) = (
        row(&scene, 1, ".state"),
        row(&scene, 1, "[data-label=Leader]"),
    );
    let offset = row(&scene, 1, "[data-label=Offset]");

    // Live, without a reload.
    let mark = "window.notReloaded = true";
    browser.script(mark, "").await;
    browser.reads(&state, "running").await;
    for _ in 0..3 {
        let before = number(&browser, &offset).await;
        wait_until("the offset to move", SOON, async || {
            number(&browser, &offset).await > before
        })
        .await;
    }
    wait_until("a rate to be shown", STALL, async || {
        number(&browser, &row(&scene, 1, "[data-label='Records/s']")).await > 0
    })
    .await;
    browser
        .reads(&row(&scene, 1, "[data-label='Last batch']"), "commit")
        .await;
    wait_until("verdicts and delays to be drawn", STALL, async || {
        let drawn =
            "return document.querySelector('#verdicts .applied')?.getAttribute('d').length > 20
            && document.querySelectorAll('#delays polyline').length >= 2";
        browser.script(drawn, "").await == true
    })
    .await;
    browser.reads("#verdicts-summary", "applied").await;
    browser.reads("#delays-legend", "half within").await;

    // Nothing is changed without the token, nor with a wrong one.
    browser.click(&row(&scene, 1, "[data-action=pause]")).await;
    browser.fill("#token", "not-the-right-token").await;
    browser.fill("#by", "ann").await;
    browser.click("#token-dialog [type=submit]").await;
    browser
        .reads("#token-dialog .error", "not the one of ADMIN_TOKEN")
        .await;
    let complaints = browser.complaints().await;
    assert!(
        complaints.iter().all(|line| line.contains("401")),
        "{complaints:?}"
    );
    assert_eq!(browser.text(&state).await, "running");
    browser.fill("#token", TOKEN).await;
    browser.click("#token-dialog [type=submit]").await;
    // It goes on with what was wanted.
    browser.reads("#action-title", "Pause ").await;
    browser.fill("#action-why", "ticket 4711").await;
    browser.click("#action-go").await;
    browser.reads("#done", "/1 is paused").await;
    assert!(browser.reads(&state, "paused").await < SOON);
    browser
        .reads(&row(&scene, 1, ".reason"), "ticket 4711 (ann)")
        .await;
    let before = scene.database.progress(&scene.topic).await[&1].commit_offset;
    let committed = scene.committed().await;
    scene.committed_beyond(committed + 1_000).await;
    let after = scene.database.progress(&scene.topic).await[&1].commit_offset;
    assert_eq!(after, before);

    browser.click(&row(&scene, 1, "[data-action=resume]")).await;
    browser.fill("#action-why", "looked").await;
    browser.click("#action-go").await;
    assert!(browser.reads(&state, "running").await < SOON);
    wait_until("it to go on", SOON, async || {
        number(&browser, &offset).await > before
    })
    .await;

    let former = browser.text(&leader).await;
    let former = former.lines().last().expect("a leader").to_owned();
    browser
        .click(&row(&scene, 1, "[data-action=step-down]"))
        .await;
    browser.fill("#action-why", "its host is slow").await;
    browser.click("#action-go").await;
    browser.reads("#done", &format!("{former} leads ")).await;
    let other = names.iter().find(|name| **name != former).expect("another");
    browser.reads(&leader, other).await;

    // The token is this tab's alone, and gone when it is locked.
    let kept = "return [localStorage.length, document.cookie, sessionStorage.token ?? null]";
    assert_eq!(browser.script(kept, "").await, json!([0, "", TOKEN]));
    browser.click("#lock").await;
    assert_eq!(browser.script(kept, "").await, json!([0, "", null]));
    let still = "return window.notReloaded";
    assert_eq!(browser.script(still, "").await, true);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.quit().await;
    feed.stop().await;
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_worked_on_by_keyboard_alone() {
    let scene = Scene::new(1).await;
    let mut ingester = instance(&scene, &[]).await;
    let hostile = r#"{"eventId": "<img src=x onerror=alert(1)>", "eventType": "balance.changed"}"#;
    let messages = [credit("a", 1, "5"), Message::of("{"), Message::of(hostile)];
    scene.kafka().produce(&scene.topic, 0, messages);
    scene.caught_up().await;
    let browser = open(&scene, &ingester, scene.partitions).await;
    browser.reads("#parked", "2 parked").await;
    browser.reads("#letters tbody", "INVALID_EVENT").await;
    // What comes in payloads is text and nothing else.
    let images = "return document.images.length";
    browser.reads("#letters tbody", "<img src=x").await;
    assert_eq!(browser.script(images, "").await, 0);

    // Allow changes.
    browser.tab_to("#unlock").await;
    browser.press(Key::Enter).await;
    browser.shows("#token-dialog").await;
    browser.press(Key::Escape).await;
    browser.hides("#token-dialog").await;
    assert!(browser.has_focus("#unlock").await, "the focus comes back");
    browser.press(Key::Enter).await;
    browser.tab_to("#token").await;
    browser.press(TOKEN).await;
    browser.tab_to("#by").await;
    browser.press("bob").await;
    browser.press(Key::Enter).await;
    browser.hides("#token-dialog").await;
    browser.shows("#lock").await;

    // Look at one, correct it, try that, replay it.
    let malformed = "#letters [aria-label='Look at dead letter 1']";
    browser.tab_to(malformed).await;
    browser.press(Key::Enter).await;
    browser.reads("#letter-facts", "MALFORMED_JSON").await;
    assert_eq!(browser.text("#payload").await, "{");
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
    browser.tab_to("#try").await;
    browser.press(Key::Enter).await;
    browser
        .reads("#outcome-summary", "would become 1 APPLIED")
        .await;
    let parked = "SELECT count(*) FROM ledger.dead_letters WHERE status = 'PARKED'";
    assert_eq!(scene.database.count(parked).await, 2, "tried only");
    browser.tab_to("#deed-why").await;
    browser.press("cut off").await;
    browser.tab_to("#deed-go").await;
    browser.press(Key::Enter).await;
    browser
        .reads("#done", "1 of 1 dead letter replayed: 1 APPLIED")
        .await;
    assert_eq!(scene.database.count(parked).await, 1);
    let balance = "SELECT available::bigint FROM ledger.account_balances WHERE account_id = 1";
    assert_eq!(scene.database.count(balance).await, 12);

    // Choose what is left, and discard it.
    browser.tab_to("#choose-all").await;
    browser.press(" ").await;
    browser.reads("#discard-chosen", "Discard 1").await;
    browser.tab_to("#discard-chosen").await;
    browser.press(Key::Enter).await;
    browser.reads("#outcome-summary", "would be given up").await;
    browser.tab_to("#deed-why").await;
    browser.press("a test").await;
    browser.press(Key::Enter).await;
    browser.reads("#done", "1 of 1 dead letter discarded").await;
    browser.shows("#no-letters").await;
    let actions = "SELECT count(*) FROM ledger.dead_letter_actions
        WHERE (action, why) IN (('REPLAY', 'cut off (bob)'), ('DISCARD', 'a test (bob)')) AND by_user LIKE 'operator%'";
    assert_eq!(scene.database.count(actions).await, 2);

    // Who has done what is seen there.
    browser.tab_to("#which-status").await;
    browser.press("Any").await;
    browser.tab_to(malformed).await;
    browser.press(Key::Enter).await;
    browser
        .reads("#letter-actions", "cut off (bob): APPLIED")
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.quit().await;
    ingester.stop().await;
}

/// Texts that stand out too little against what is behind them: a ratio below 4.5, as WCAG counts.
const TOO_FAINT: &str = "
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = parts(colour).map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if ((parts(colour)[3] ?? 1) === 1) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.body.querySelectorAll('*')]
        .filter((element) => hasText(element) && element.checkVisibility() && !element.disabled && element.tagName !== 'NOSCRIPT')
        .map((element) => {
            const [one, other] = [light(getComputedStyle(element).color), light(behind(element))];
            const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
            return [ratio, element.tagName, element.className, element.textContent.trim().slice(0, 40)];
        })
        .filter(([ratio]) => ratio < 4.5);";

/// What can be used and has no name for a screen reader.
async fn nameless(browser: &Browser) -> Vec<Value> {
    let tree = browser
        .devtools("Accessibility.getFullAXTree", json!({}))
        .await;
    let nodes = tree["nodes"].as_array().expect("nodes").clone();
    let used = [
        "button", "checkbox", "combobox", "textbox", "link", "table", "image", "dialog",
    ];
    let is_used = |node: &Value| {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        node["ignored"] == false && used.contains(&role)
    };
    let found: Vec<Value> = nodes.into_iter().filter(is_used).collect();
    assert!(found.len() > 4, "only {} things to use", found.len());
    let has_name = |node: &Value| {
        node["name"]["value"]
            .as_str()
            .is_some_and(|name| !name.is_empty())
    };
    found.into_iter().filter(|node| !has_name(node)).collect()
}

/// Kept for the documentation where `WRITE_PICTURES` is set.
async fn picture(browser: &Browser, name: &str, width: u32) {
    let png = browser.picture().await;
    assert!(
        png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 20_000,
        "{} bytes",
        png.len()
    );
    let found = u32::from_be_bytes(png[16..20].try_into().expect("four bytes"));
    assert_eq!(found, width, "{name}");
    let path = repository().join("docs/pictures").join(name);
    if std::env::var_os("WRITE_PICTURES").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, png).expect("written");
    }
    assert!(
        path.exists(),
        "{} is missing: set WRITE_PICTURES",
        path.display()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_readable_in_light_and_dark_on_desks_and_phones() {
    let scene = Scene::new(4).await;
    let mut ingester = instance(&scene, &[("SERVICE_ID", "bank-1")]).await;
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    scene.committed_beyond(20_000).await;
    let browser = open(&scene, &ingester, scene.partitions).await;
    unlock(&browser).await;
    browser.click(&row(&scene, 2, "[data-action=pause]")).await;
    browser.fill("#action-why", "ticket 4711").await;
    browser.click("#action-go").await;
    browser
        .reads(&row(&scene, 2, ".reason"), "ticket 4711")
        .await;
    browser.shows("#letters tbody tr").await;

    for (name, size, theme, mobile) in [
        ("page-light.png", DESKTOP, "light", false),
        ("page-dark.png", DESKTOP, "dark", false),
        ("page-phone.png", PHONE, "light", true),
    ] {
        browser.screen(size, theme, mobile).await;
        let faint = browser.script(TOO_FAINT, "").await;
        assert_eq!(faint, json!([]), "{name}");
        let ground = "return getComputedStyle(document.body).backgroundColor";
        let is_dark = browser.script(ground, "").await == "rgb(13, 17, 23)";
        assert_eq!(is_dark, theme == "dark");
        assert_eq!(nameless(&browser).await, Vec::<Value>::new(), "{name}");
        let overflow = "return document.documentElement.scrollWidth - innerWidth";
        let overflow = browser.script(overflow, "").await.as_i64();
        assert!(
            overflow.is_some_and(|pixels| pixels <= 0),
            "{name}: {overflow:?} too wide"
        );
        picture(&browser, name, size.0).await;
    }
    // Fingers need room.
    let small = "return [...document.querySelectorAll('button, select')]
        .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 44).map((one) => one.textContent)";
    assert_eq!(browser.script(small, "").await, json!([]));

    // A dialog as well: the letter, and the dry run of its replay.
    browser.screen(DESKTOP, "light", false).await;
    browser.click("#letters tbody tr:first-child button").await;
    browser.shows("#letter-replay:enabled").await;
    browser.click("#letter-replay").await;
    browser
        .reads("#outcome-summary", "Nothing is changed yet")
        .await;
    assert_eq!(browser.script(TOO_FAINT, "").await, json!([]));
    assert_eq!(nameless(&browser).await, Vec::<Value>::new());
    picture(&browser, "page-replay.png", DESKTOP.0).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.quit().await;
    feed.stop().await;
    ingester.stop().await;
}
