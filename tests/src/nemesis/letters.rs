//! Dead letters: replayed as they are, replayed with a correction, discarded, several operators at once.

use super::arena::Arena;
use crate::deeds::Answer;
use crate::families::NEW_YEAR_US;
use crate::families::random;
use crate::rng::Rng;
use crate::workload::credit;

/// A parked letter, and where its record stands.
struct Parked {
    id: i64,
    place: (String, i32, i64),
    is_balance: bool,
}

/// One that no operator has touched yet.
async fn parked(arena: &Arena, rng: &mut Rng) -> Option<Parked> {
    let session = arena.session().await?;
    let query = "SELECT id, topic, partition, kafka_offset FROM ledger.dead_letters WHERE status = 'PARKED' ORDER BY id";
    let rows = session.query(query, &[]).await.ok()?;
    let mut deeds = arena.deeds.lock().expect("no panic while held");
    let untouched: Vec<_> = rows
        .iter()
        .map(|row| (row.get::<_, i64>(0), (row.get(1), row.get(2), row.get(3))))
        .filter(|(_, place)| !deeds.letters.contains_key(place))
        .filter(|(_, (topic, ..))| arena.is_old(topic))
        .collect();
    if untouched.is_empty() {
        return None;
    }
    let (id, place) = rng.pick(&untouched).clone();
    // Each letter meets one deed.
    deeds.letters.entry(place.clone()).or_default();
    let is_balance = arena.balances.iter().any(|topic| topic.name == place.0);
    Some(Parked {
        id,
        place,
        is_balance,
    })
}

/// Nothing of the record changes, so a letter of a balance topic stays dead.
pub async fn replay(arena: &Arena, rng: &mut Rng) {
    let Some(letter) = parked(arena, rng).await else {
        return;
    };
    let dry_run = rng.chance(300);
    let statement = format!(
        "SELECT * FROM sluice.replay_dead_letters(ids => ARRAY[{}::bigint], why => 'nemesis', dry_run => {dry_run})",
        letter.id
    );
    arena.operate(&statement).await;
}

/// What the record should have been: an event of its own, whose effect nothing else has.
fn correction(arena: &Arena, rng: &mut Rng, letter: &Parked) -> Vec<u8> {
    let event_id = format!("corrected-{}", arena.next());
    if letter.is_balance {
        let amount = format!("{}.5", rng.between(1, 99));
        return credit(&event_id, arena.account(), &amount)
            .payload
            .expect("it has one");
    }
    let mut families = arena.families.iter();
    let family = families
        .find(|family| family.name == letter.place.0)
        .expect("a family of ours");
    // A day's last second, which no event of the load has.
    let time_us = NEW_YEAR_US + 86_399_000_000 + arena.next();
    random::event(rng, family, &event_id, 40, time_us).payload()
}

/// By one operator or by two at once, with the same correction: it may only ever count once.
pub async fn replay_corrected(arena: &Arena, rng: &mut Rng) {
    let Some(letter) = parked(arena, rng).await else {
        return;
    };
    let payload = correction(arena, rng, &letter);
    {
        let mut deeds = arena.deeds.lock().expect("no panic while held");
        deeds
            .letters
            .entry(letter.place.clone())
            .or_default()
            .payload = Some(payload.clone());
    }
    let statement = format!(
        "SELECT * FROM sluice.replay_dead_letters(ids => ARRAY[{}::bigint], payload => '\\x{}'::bytea, why => 'nemesis', dry_run => false)",
        letter.id,
        payload
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
    let operators = if rng.chance(300) { 2 } else { 1 };
    let answers: Vec<Answer> = match operators {
        1 => vec![arena.operate(&statement).await],
        _ => {
            let (one, other) = tokio::join!(arena.operate(&statement), arena.operate(&statement));
            vec![one, other]
        }
    };
    // Whoever was there first did it; a correction of a balance letter is never refused by what it says.
    if letter.is_balance && answers.contains(&Answer::Done) {
        let mut deeds = arena.deeds.lock().expect("no panic while held");
        deeds.letters.entry(letter.place).or_default().settled = Some("REPLAYED");
    }
}

/// Of balance topics: what operators give up of a family would hide what a handler's fault has done.
pub async fn discard(arena: &Arena, rng: &mut Rng) {
    let Some(letter) = parked(arena, rng).await.filter(|letter| letter.is_balance) else {
        return;
    };
    {
        let mut deeds = arena.deeds.lock().expect("no panic while held");
        deeds
            .letters
            .entry(letter.place.clone())
            .or_default()
            .may_be_discarded = true;
    }
    let statement = format!(
        "SELECT * FROM sluice.discard_dead_letters(ids => ARRAY[{}::bigint], why => 'nemesis', dry_run => false)",
        letter.id
    );
    if arena.operate(&statement).await == Answer::Done {
        let mut deeds = arena.deeds.lock().expect("no panic while held");
        deeds.letters.entry(letter.place).or_default().settled = Some("DISCARDED");
    }
}
