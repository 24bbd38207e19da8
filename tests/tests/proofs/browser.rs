//! The page, in a real Chromium, as operators use it.

use std::time::Duration;

use proofs::browser::Browser;
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene};
use proofs::stack::repository;
use proofs::wait::wait_until;
use proofs::watch::settled;
use proofs::workload::{Message, Workload};
use serde_json::json;

use super::page::TOKEN;

pub(super) const DESKTOP: (u32, u32) = (1280, 1000);
pub(super) const PHONE: (u32, u32) = (390, 844);
const SMALL: (u32, u32) = (360, 740);
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
    let url = format!("http://{}/#/partitions", ingester.address().await);
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

/// Another section of the page, by its address.
pub(super) async fn visit(browser: &Browser, address: &str) {
    let go = "location.hash = `#/${arguments[0]}`";
    browser.script(go, address).await;
    let view = address.split('?').next().expect("a section");
    browser.shows(&format!("[data-view={view}]")).await;
}

pub(super) async fn unlock(browser: &Browser) {
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
    wait_until("verdicts and delays to be drawn", STALL, async || {
        let drawn =
            "return document.querySelector('#verdicts .applied')?.getAttribute('d').length > 20
            && document.querySelectorAll('#delays polyline').length >= 2";
        browser.script(drawn, "").await == true
    })
    .await;
    browser.reads("#verdicts-summary", "applied").await;
    browser.reads("#delays-legend", "half within").await;

    browser
        .reads(&row(&scene, 1, "[data-label='Last batch']"), " in ")
        .await;
    wait_until("all instances' rate to be drawn", STALL, async || {
        let drawn = "return document.querySelector('#rates polyline')?.points.length > 1";
        browser.script(drawn, "").await == true
    })
    .await;
    browser.reads("#rates-summary", "records per second").await;

    // Nothing is changed without the token, nor with a wrong one, nor without a reason.
    browser.click(&row(&scene, 1, "button.name")).await;
    browser.reads("#partition-facts", "commit").await;
    browser.click("[data-action=pause]").await;
    browser.reads("#partition-dialog .error", "Say why").await;
    browser.fill("#partition-why", "ticket 4711").await;
    browser.click("[data-action=pause]").await;
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
    // It goes on with what was wanted, and says so where one works.
    browser
        .reads("#partition-dialog .done", "/1 is paused")
        .await;
    assert!(browser.reads(&state, "paused").await < SOON);
    browser.gets_focus("[data-action=resume]").await;
    browser
        .reads(&row(&scene, 1, ".reason"), "ticket 4711 (ann)")
        .await;
    let before = scene.database.progress(&scene.topic).await[&1].commit_offset;
    let committed = scene.committed().await;
    scene.committed_beyond(committed + 1_000).await;
    let after = scene.database.progress(&scene.topic).await[&1].commit_offset;
    assert_eq!(after, before);
    // It waits for a person: on top, in the title, and in the list of troubles.
    browser.reads("#health", "wrong").await;
    browser.reads("#troubles", "1 partition paused").await;
    let title = "return document.title.includes('1 partition paused')";
    assert_eq!(browser.script(title, "").await, true);

    browser.fill("#partition-why", "looked").await;
    browser.click("[data-action=resume]").await;
    assert!(browser.reads(&state, "running").await < SOON);
    wait_until("it to go on", SOON, async || {
        number(&browser, &offset).await > before
    })
    .await;

    let former = browser.text(&leader).await;
    browser.fill("#partition-why", "its host is slow").await;
    browser.click("[data-action=step-down]").await;
    browser
        .reads("#partition-dialog .done", &format!("{former} leads "))
        .await;
    let other = names.iter().find(|name| **name != former).expect("another");
    browser.reads(&leader, other).await;
    browser.click("#partition-dialog [data-close]").await;
    browser.gets_focus(&row(&scene, 1, "button.name")).await;

    // All instances, with their versions.
    visit(&browser, "instances").await;
    for name in names {
        let one = format!("#instances tr[data-key='{name}']");
        browser.reads(&one, env!("CARGO_PKG_VERSION")).await;
    }

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

/// Nothing of axe-core's rules is broken, and nothing is wider than the screen.
pub(super) async fn is_accessible(browser: &Browser, what: &str) {
    assert_eq!(browser.violations().await, Vec::<String>::new(), "{what}");
    let overflow = "return document.documentElement.scrollWidth - innerWidth";
    let overflow = browser.script(overflow, "").await.as_i64();
    assert!(
        overflow.is_some_and(|pixels| pixels <= 0),
        "{what}: {overflow:?} too wide"
    );
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
    browser.click(&row(&scene, 2, "button.name")).await;
    browser.fill("#partition-why", "ticket 4711").await;
    is_accessible(&browser, "a partition").await;
    browser.click("[data-action=pause]").await;
    browser
        .reads(&row(&scene, 2, ".reason"), "ticket 4711")
        .await;
    browser.click("#partition-dialog [data-close]").await;

    for (size, theme, mobile) in [
        (DESKTOP, "light", false),
        (DESKTOP, "dark", false),
        (PHONE, "light", true),
        (SMALL, "dark", true),
    ] {
        browser.screen(size, theme, mobile).await;
        let ground = "return getComputedStyle(document.body).backgroundColor";
        let is_dark = browser.script(ground, "").await == "rgb(13, 17, 23)";
        assert_eq!(is_dark, theme == "dark");
        for view in [
            "overview",
            "partitions",
            "partitions?group=topic",
            "letters",
            "event",
            "instances",
        ] {
            visit(&browser, view).await;
            if view == "letters" {
                browser.shows("#letters tbody tr").await;
            }
            is_accessible(&browser, &format!("{view} at {size:?} in {theme}")).await;
        }
        if mobile {
            // Fingers need room.
            let small = "return [...document.querySelectorAll('button, select')]
                .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 44).map((one) => one.textContent)";
            assert_eq!(browser.script(small, "").await, json!([]));
        }
        // State and leader stay on one line each, whatever their length.
        visit(&browser, "partitions").await;
        let broken = "return [...document.querySelectorAll('#partitions .state, #partitions [data-label=Leader] bdi')]
            .filter((one) => one.getBoundingClientRect().height > 2 * parseFloat(getComputedStyle(one).fontSize)).map((one) => one.textContent)";
        assert_eq!(browser.script(broken, "").await, json!([]));
        let name = match (theme, mobile, size) {
            ("light", false, _) => "page-light.png",
            ("dark", false, _) => "page-dark.png",
            (_, _, PHONE) => "page-phone.png",
            _ => continue,
        };
        picture(&browser, name, size.0).await;
    }

    // Dialogs as well: the letter, and the dry run of its replay.
    browser.screen(DESKTOP, "light", false).await;
    visit(&browser, "letters").await;
    picture(&browser, "page-letters.png", DESKTOP.0).await;
    browser.click("#letters tbody tr:first-child button").await;
    browser.shows("#letter-replay").await;
    is_accessible(&browser, "a letter").await;
    browser.click("#letter-replay").await;
    browser
        .reads("#outcome-summary", "Nothing is changed yet")
        .await;
    is_accessible(&browser, "a dry run").await;
    picture(&browser, "page-replay.png", DESKTOP.0).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.quit().await;
    feed.stop().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_there_is_no_button_and_a_sentence_says_how_to_set_one() {
    let scene = Scene::new(1).await;
    let (operator_url, _) = scene.operator().await;
    // Names as long as they may be.
    let (service_id, missing) = ("i".repeat(200), format!("topic.{}", "x".repeat(200)));
    let settings = [
        ("OPERATOR_DATABASE_URL", operator_url.as_str()),
        ("SERVICE_ID", &service_id),
        ("EVENT_TOPICS", &missing),
    ];
    let mut ingester = scene.ingester_with(&settings);
    scene.kafka().produce(&scene.topic, 0, [Message::of("{")]);
    scene.caught_up().await;
    let browser = open(&scene, &ingester, 1).await;
    browser.reads("#no-token", "ADMIN_TOKEN").await;
    for view in ["partitions", "letters"] {
        visit(&browser, view).await;
        for changes in ["#unlock", "#lock", "#letters-actions", ".choose"] {
            assert!(!browser.is_shown(changes).await, "{view}: {changes}");
        }
    }
    browser.click("#letters tbody tr:first-child button").await;
    browser.reads("#payload", "{").await;
    assert!(!browser.is_shown("#letter-replay").await);
    assert!(!browser.is_shown("#letter-discard").await);
    browser.click("#letter-dialog [data-close]").await;
    visit(&browser, "partitions").await;
    browser.click(&row(&scene, 0, "button.name")).await;
    browser.reads("#partition-facts", "running").await;
    assert!(!browser.is_shown("[data-action=pause]").await);
    is_accessible(&browser, "without a token").await;
    browser.click("#partition-dialog [data-close]").await;
    browser.reads("#troubles", &missing).await;
    for size in [PHONE, SMALL] {
        browser.screen(size, "light", true).await;
        for view in ["partitions", "letters", "instances"] {
            visit(&browser, view).await;
            is_accessible(&browser, &format!("long names in {view} at {size:?}")).await;
        }
    }
    browser.quit().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_heard_of_any_more_is_grey_with_its_age_and_not_green() {
    let scene = Scene::new(2).await;
    let mut ingester = instance(&scene, &[]).await;
    scene.caught_up().await;
    let browser = open(&scene, &ingester, 2).await;
    browser.reads("#health", "ok").await;
    let title = "return document.title === 'ok – Sluice'";
    assert_eq!(browser.script(title, "").await, true);
    let grey = "const ink = (css) => getComputedStyle(document.querySelector(css)).color;
        return ink('#partitions .state') === ink('#partition-count')";
    let state = row(&scene, 0, ".state");
    browser.reads(&state, "running").await;
    assert_eq!(browser.script(grey, "").await, false);

    // It hangs: nobody knows how it is.
    ingester.freeze();
    browser.reads("#problem", "does not answer").await;
    browser.reads(&state, "s ago").await;
    assert_eq!(browser.script(grey, "").await, true);
    browser.reads("#health", "nothing known").await;
    ingester.unfreeze();
    browser.reads("#health", "ok").await;
    wait_until("the row to be green again", SOON, async || {
        browser.text(&state).await == "running"
    })
    .await;
    ingester.stop().await;
    browser.reads(&state, "s ago").await;
    browser.quit().await;
}
