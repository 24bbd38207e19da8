//! Marks in Redis: of processed events, and of no others.

use proofs::ingester::Ingester;
use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};

use super::domain::Notes;

fn is_marked(scene: &Scene, event_id: &str) -> bool {
    let mark = format!("processed:{event_id}");
    scene.stack.redis(&["EXISTS", &mark]) == "1"
}

async fn until_marked(scene: &Scene, event_id: &str) {
    let what = format!("{event_id} to be marked");
    wait_until(&what, STALL, async || is_marked(scene, event_id)).await;
}

/// Sends an applied event behind all others, and waits for its mark: marks are set in the order of batches.
async fn all_is_told(scene: &Scene, event_id: &str) {
    let last = credit(event_id, 1, "1");
    scene.kafka().produce(&scene.topic, 0, [last]);
    until_marked(scene, event_id).await;
}

async fn parked(scene: &Scene, topic: &str, letters: i64) {
    let parked = format!(
        "SELECT count(*) FROM ledger.dead_letters WHERE topic = '{topic}' AND status = 'PARKED'"
    );
    wait_until("the dead letters", STALL, async || {
        scene.database.count(&parked).await == letters
    })
    .await;
}

/// Whether the database takes the letters of a topic now.
async fn replay(scene: &Scene, topic: &str) -> bool {
    let replay = format!("SELECT sluice.replay_dead_letters(topic => '{topic}', dry_run => false)");
    let client = &scene.database.client;
    client.batch_execute(&replay).await.is_ok()
}

fn ingester(scene: &Scene, notes: &Notes, attempts: &str) -> Ingester {
    scene.ingester_with(&[
        ("REDIS_URL", &scene.stack.redis_url),
        ("EVENT_TOPICS", &notes.topic),
        ("MAX_RETRY_ATTEMPTS", attempts),
        ("RETRY_DELAY_MS", "200"),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_and_dead_events_are_not_marked_as_processed() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let id = |name: &str| unique(name);
    let (applied, rejected, conflict) = (id("applied"), id("rejected"), id("conflict"));
    let (refused, dead, good) = (id("refused"), id("dead"), id("good"));
    // What the database refuses although it can be decoded.
    let refuse = "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION USING MESSAGE = ''not this account'', ERRCODE = ''P0001''; END';
         CREATE TRIGGER refuse BEFORE INSERT ON ledger.account_balances FOR EACH ROW WHEN (NEW.account_id = 666)
         EXECUTE FUNCTION public.refuse()";
    let client = &scene.database.client;
    client.batch_execute(refuse).await.expect("a trigger");
    let messages = [
        credit(&applied, 1, "5"),
        credit(&applied, 1, "5"),
        credit(&rejected, 2, "-5"),
        credit(&rejected, 2, "-5"),
        credit(&conflict, 3, "5"),
        credit(&refused, 666, "5"),
    ];
    scene.kafka().produce(&scene.topic, 0, messages);
    let lines = [
        notes.message(&dead, "a", None, 1),
        notes.message(&dead, "a", None, 1),
        notes.message(&good, "b", Some("text"), 1),
        // What it owns is another event's.
        notes.message(&conflict, "c", Some("text"), 1),
    ];
    scene.kafka().produce(&notes.topic, 0, lines);
    let mut ingester = ingester(&scene, &notes, "1");
    parked(&scene, &scene.topic, 1).await;
    parked(&scene, &notes.topic, 1).await;
    for event in [&applied, &good, &conflict] {
        until_marked(&scene, event).await;
    }
    all_is_told(&scene, &id("last")).await;
    for event in [&rejected, &refused, &dead] {
        assert!(!is_marked(&scene, event), "{event} was not processed");
    }

    // A replay that fails marks nothing; one that succeeds does, by whomever, for the event that it became.
    assert!(!replay(&scene, &scene.topic).await);
    all_is_told(&scene, &id("again")).await;
    assert!(!is_marked(&scene, &refused));
    let mend = "DROP TRIGGER refuse ON ledger.account_balances";
    client.batch_execute(mend).await.expect("no trigger");
    assert!(replay(&scene, &scene.topic).await);
    until_marked(&scene, &refused).await;
    let corrected = id("corrected");
    let Message { payload, .. } = notes.message(&corrected, "a", Some("text"), 1);
    let payload = String::from_utf8(payload.expect("a payload")).expect("text");
    let file = scene.stack.dir.join(&corrected);
    std::fs::write(&file, payload).expect("written");
    let letter = "SELECT id FROM ledger.dead_letters WHERE status = 'PARKED'";
    let letter = scene.database.count(letter).await.to_string();
    let file = file.display().to_string();
    let arguments = [
        "dlq",
        "replay",
        "--id",
        &letter,
        "--payload",
        &file,
        "--apply",
        "--why",
        "a test",
    ];
    let admin = [("DATABASE_URL", scene.database.admin_url.as_str())];
    let replayed = sluice_command(&arguments, &admin).output().expect("sluice");
    assert!(replayed.status.success(), "{replayed:?}");
    until_marked(&scene, &corrected).await;
    assert!(!is_marked(&scene, &dead), "it is another event now");
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_was_replayed_while_redis_was_away_is_marked_once_it_is_back() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.break_handler(&scene).await;
    notes.register(&scene).await;
    let late = unique("late");
    let message = notes.message(&late, "a", Some("text"), 1);
    scene.kafka().produce(&notes.topic, 0, [message]);
    let mut ingester = ingester(&scene, &notes, "50");
    parked(&scene, &notes.topic, 1).await;
    scene.stack.control(&["redis-stop"]).await;
    // The leader's own next try succeeds.
    notes.write_handler(&scene).await;
    parked(&scene, &notes.topic, 0).await;
    scene.stack.control(&["redis-start"]).await;
    until_marked(&scene, &late).await;
    // Told once, not at each look.
    let unmarked = "SELECT count(*) FROM ledger.dead_letters WHERE marked_at IS NULL";
    wait_until("it to be settled", STALL, async || {
        scene.database.count(unmarked).await == 0
    })
    .await;
    ingester.stop().await;
}
