//! The fold against a model that shares no code with it: any cutting into batches, and
//! any repetition of a batch, gives the verdicts and balances of one record at a time.

mod support;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use support::{Database, Outcome, Payload, apply_cut};

/// 10^18, the units in one.
const ONE: i128 = 1_000_000_000_000_000_000;

/// An event as the test means it.
#[derive(Clone, Debug)]
struct Event {
    id: u8,
    source: Option<u8>,
    /// Account, shard, currency, available and frozen delta in units.
    legs: Vec<(i64, i32, &'static str, i128, i128)>,
    /// A payload that says the same in other bytes.
    spaced: bool,
}

#[derive(Clone, Debug)]
enum Record {
    Event(Event),
    /// The payload of an earlier record again.
    Again(prop::sample::Index),
    Garbage(&'static str),
    Tombstone,
}

fn decimal(units: i128) -> String {
    let magnitude = units.abs();
    format!(
        "{}{}.{:018}",
        if units < 0 { "-" } else { "" },
        magnitude / ONE,
        magnitude % ONE
    )
}

fn write(event: &Event) -> Vec<u8> {
    let gap = if event.spaced { " " } else { "" };
    let source = event
        .source
        .map_or_else(String::new, |source| format!("\"source\":\"s{source}\","));
    let changes: Vec<String> = event
        .legs
        .iter()
        .map(|(account, shard, currency, available, frozen)| {
            format!(
                "{{\"accountId\":{account},\"shardId\":{shard},\"currencyCode\":\"{currency}\",\
                 \"availableDelta\":\"{}\",\"frozenDelta\":{}}}",
                decimal(*available),
                decimal(*frozen)
            )
        })
        .collect();
    format!(
        "{{\"eventId\":\"{}\",\"eventType\":\"balance.changed\",{source}{gap}\"data\":{{\"changes\":[{}]}}}}",
        event.id,
        changes.join(",")
    )
    .into_bytes()
}

/// The records as bytes, and what the test knows about each.
fn written(records: &[Record]) -> (Vec<Payload>, Vec<Option<Event>>) {
    let mut payloads: Vec<Payload> = Vec::new();
    let mut events: Vec<Option<Event>> = Vec::new();
    for record in records {
        let (payload, event) = match record {
            Record::Event(event) => (Some(write(event)), Some(event.clone())),
            Record::Again(_) if payloads.is_empty() => (None, None),
            Record::Again(index) => {
                let index = index.index(payloads.len());
                (payloads[index].clone(), events[index].clone())
            }
            Record::Garbage(text) => (Some(text.as_bytes().to_vec()), None),
            Record::Tombstone => (None, None),
        };
        payloads.push(payload);
        events.push(event);
    }
    (payloads, events)
}

type Key = (i64, i32, String);

/// The rules once more, in the plainest words.
#[derive(Default)]
struct Model {
    balances: BTreeMap<Key, (i128, i128)>,
    owners: HashMap<(String, u8), Vec<u8>>,
    /// By offset.
    decided: Vec<Expected>,
}

/// Verdict, reason, and logged balances.
type Expected = (&'static str, Option<&'static str>, Vec<(i128, i128)>);

impl Model {
    fn take(&mut self, payload: &Payload, event: Option<&Event>) {
        let Some((event, payload)) = event.zip(payload.as_ref()) else {
            self.decided.push(("DEAD", None, Vec::new()));
            return;
        };
        let identity = (
            event
                .source
                .map_or_else(String::new, |source| format!("s{source}")),
            event.id,
        );
        let reason = match self.owners.get(&identity) {
            Some(owner) if owner == payload => {
                self.decided.push(("DUPLICATE", None, Vec::new()));
                return;
            }
            Some(_) => Some("EVENT_ID_CONFLICT"),
            None => {
                self.owners.insert(identity, payload.clone());
                None
            }
        };
        let met: Vec<_> = event.legs.iter().map(|leg| self.balance(leg)).collect();
        let before = self.balances.clone();
        match reason.map_or_else(|| self.try_legs(event), Err) {
            Ok(after) => self.decided.push(("APPLIED", None, after)),
            Err(reason) => {
                self.balances = before;
                self.decided.push(("REJECTED", Some(reason), met));
            }
        }
    }

    fn balance(&self, leg: &(i64, i32, &'static str, i128, i128)) -> (i128, i128) {
        self.balances
            .get(&(leg.0, leg.1, leg.2.to_owned()))
            .copied()
            .unwrap_or((0, 0))
    }

    fn try_legs(&mut self, event: &Event) -> Result<Vec<(i128, i128)>, &'static str> {
        let limit = ONE * ONE;
        let mut after = Vec::new();
        for leg in &event.legs {
            let (available, frozen) = self.balance(leg);
            let balance = (available + leg.3, frozen + leg.4);
            if balance.0 < 0 {
                return Err("INSUFFICIENT_BALANCE");
            }
            if balance.1 < 0 {
                return Err("INSUFFICIENT_FROZEN");
            }
            if balance.0 >= limit || balance.1 >= limit {
                return Err("BALANCE_OVERFLOW");
            }
            self.balances
                .insert((leg.0, leg.1, leg.2.to_owned()), balance);
            after.push(balance);
        }
        Ok(after)
    }
}

fn agree(database: &Database, model: &Model) -> Result<(), TestCaseError> {
    for (offset, (decided, expected)) in database.decided.iter().zip(&model.decided).enumerate() {
        prop_assert_eq!(
            decided.verdict.as_str(),
            expected.0,
            "verdict at {}",
            offset
        );
        if expected.0 != "DEAD" {
            prop_assert_eq!(
                decided.reason.as_deref(),
                expected.1,
                "reason at {}",
                offset
            );
        }
        let logged: Vec<_> = decided
            .logged
            .iter()
            .map(|(_, balance)| (balance.available.units(), balance.frozen.units()))
            .collect();
        prop_assert_eq!(&logged, &expected.2, "logged balances at {}", offset);
    }
    prop_assert_eq!(database.decided.len(), model.decided.len());
    let balances: BTreeMap<Key, (i128, i128)> = database
        .balances
        .iter()
        .map(|(key, balance)| {
            let key = (
                key.account_id,
                key.shard_id,
                key.currency.as_str().to_owned(),
            );
            (key, (balance.available.units(), balance.frozen.units()))
        })
        .collect();
    prop_assert_eq!(&balances, &model.balances);
    Ok(())
}

fn delta() -> impl Strategy<Value = i128> {
    prop_oneof![
        2 => Just(0),
        6 => (-60i128..100).prop_map(|whole| whole * ONE),
        2 => -3i128..4,
        // Large enough to leave numeric(36,18) after one or two more.
        1 => (0..3i128).prop_map(|below| ONE * ONE - 1 - below),
        1 => (0..3i128).prop_map(|above| above + 1 - ONE * ONE),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let leg = || {
        (
            1i64..4,
            0i32..2,
            prop::sample::select(vec!["USD", "BTC", "A2"]),
            delta(),
            delta(),
        )
    };
    let legs = prop_oneof![4 => prop::collection::vec(leg(), 1..2), 2 => prop::collection::vec(leg(), 1..6)];
    let source = prop_oneof![3 => Just(None), 1 => (0u8..2).prop_map(Some)];
    (0u8..40, source, legs, prop::bool::weighted(0.2)).prop_map(|(id, source, legs, spaced)| {
        Event {
            id,
            source,
            legs,
            spaced,
        }
    })
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let garbage = prop::sample::select(vec![
        "",
        "{",
        "[]",
        "{\"eventId\":\"1\",\"eventType\":\"x\"}",
    ]);
    let record = prop_oneof![
        12 => event().prop_map(Record::Event),
        3 => any::<prop::sample::Index>().prop_map(Record::Again),
        1 => garbage.prop_map(Record::Garbage),
        1 => Just(Record::Tombstone),
    ];
    prop::collection::vec(record, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_cutting_decides_alike(records in records(), sizes in prop::collection::vec(1usize..12, 0..30)) {
        let (payloads, events) = written(&records);
        let mut model = Model::default();
        for (payload, event) in payloads.iter().zip(&events) {
            model.take(payload, event.as_ref());
        }
        let one_at_a_time = apply_cut(&payloads, &vec![1; payloads.len()]);
        agree(&one_at_a_time, &model)?;
        prop_assert_eq!(&apply_cut(&payloads, &[]), &one_at_a_time);
        prop_assert_eq!(&apply_cut(&payloads, &sizes), &one_at_a_time);
    }

    #[test]
    fn repeating_a_batch_changes_nothing(
        records in records(),
        sizes in prop::collection::vec((1usize..12, 0usize..3), 1..20),
    ) {
        let (payloads, _) = written(&records);
        let mut database = Database::default();
        let mut from = 0;
        for (size, repeats) in sizes.into_iter().chain([(payloads.len(), 2)]) {
            let next = payloads.len().min(from + size);
            if next == from {
                break;
            }
            prop_assert_eq!(database.apply(from, &payloads[from..next]), Outcome::Applied);
            for _ in 0..repeats {
                // The answer to COMMIT was lost: the same batch comes once more.
                prop_assert_eq!(database.apply(from, &payloads[from..next]), Outcome::AlreadyCommitted);
            }
            from = next;
        }
        prop_assert_eq!(&database, &apply_cut(&payloads, &[]));
    }

    /// All records a second time, at new offsets: what has an identity is a duplicate or a
    /// conflict as before, and no balance moves.
    #[test]
    fn replaying_a_topic_changes_no_balance(records in records(), sizes in prop::collection::vec(1usize..12, 0..30)) {
        let (payloads, _) = written(&records);
        let once = apply_cut(&payloads, &[]);
        let twice = apply_cut(&[payloads.clone(), payloads].concat(), &sizes);
        prop_assert_eq!(&twice.balances, &once.balances);
        prop_assert_eq!(&twice.identities, &once.identities);
        for (first, second) in once.decided.iter().zip(&twice.decided[once.decided.len()..]) {
            let expected = match (first.verdict.as_str(), first.reason.as_deref()) {
                ("DEAD", _) => "DEAD",
                (_, Some("EVENT_ID_CONFLICT")) => "REJECTED",
                _ => "DUPLICATE",
            };
            prop_assert_eq!(second.verdict.as_str(), expected);
        }
    }
}
