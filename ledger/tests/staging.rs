//! Staged bytes are read back as they were written, and other bytes are refused.

use ledger::account::{AccountKey, Currency};
use ledger::amount::Amount;
use ledger::event::Change;
use ledger::identity::{Identity, PayloadHash};
use ledger::staging::{
    Content, Dead, Staged, StagedEvent, StagedRecord, checksum, put_dead, put_event, read,
};
use ledger::timestamp::RANGE_US;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Sample {
    Event(String, Option<String>, Option<i64>, Vec<Change>),
    Dead(Box<DeadSample>),
}

#[derive(Clone, Debug)]
struct DeadSample {
    texts: [Option<String>; 3],
    message: String,
    event_time_us: Option<i64>,
    attempts: i32,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

fn change() -> impl Strategy<Value = Change> {
    let amount = || {
        let limit = Amount::MAX.units();
        (-limit..=limit).prop_map(Amount::from_units)
    };
    (
        any::<i64>(),
        any::<i32>(),
        "[A-Z0-9]{2,16}",
        amount(),
        amount(),
    )
        .prop_map(
            |(account_id, shard_id, currency, available_delta, frozen_delta)| Change {
                key: AccountKey {
                    account_id,
                    shard_id,
                    currency: Currency::new(&currency).expect("a currency"),
                },
                available_delta,
                frozen_delta,
            },
        )
}

/// What an envelope can give.
fn time_us() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(RANGE_US)
}

fn sample() -> impl Strategy<Value = Sample> {
    let id = || "[^\\x00]{1,60}";
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..50));
    let text = || prop::option::of("[^\\x00]{0,300}");
    prop_oneof![
        (
            id(),
            prop::option::of(id()),
            time_us(),
            prop::collection::vec(change(), 1..=64)
        )
            .prop_map(|(event_id, source, time_us, changes)| {
                Sample::Event(event_id, source, time_us, changes)
            }),
        (
            [text(), text(), text()],
            "[^\\x00]*",
            time_us(),
            any::<i32>(),
            bytes(),
            bytes()
        )
            .prop_map(|(texts, message, event_time_us, attempts, key, payload)| {
                Sample::Dead(Box::new(DeadSample {
                    texts,
                    message,
                    event_time_us,
                    attempts,
                    key,
                    payload,
                }))
            }),
    ]
}

fn event<'s>(event_id: &'s str, source: Option<&'s str>, time_us: Option<i64>) -> StagedEvent<'s> {
    StagedEvent {
        event_id,
        source,
        identity: Identity::of(source, event_id),
        payload_hash: PayloadHash::of(event_id.as_bytes()),
        time_us,
    }
}

fn staged(samples: &[Sample]) -> (Vec<u8>, Staged<'_>) {
    let (mut bytes, mut staged) = (Vec::new(), Staged::default());
    for (offset, sample) in (-3..).zip(samples) {
        let content = match sample {
            Sample::Event(event_id, source, time_us, changes) => {
                let event = event(event_id, source.as_deref(), *time_us);
                put_event(&mut bytes, offset, &event, changes);
                let first = staged.changes.len();
                staged.changes.extend_from_slice(changes);
                Content::Event(event, first..staged.changes.len())
            }
            Sample::Dead(sample) => {
                let [event_id, source, headers] = sample.texts.each_ref().map(Option::as_deref);
                let dead = Dead {
                    reason: "INVALID_EVENT",
                    message: &sample.message,
                    time_ms: (sample.attempts % 2 == 0).then_some(i64::from(sample.attempts) << 9),
                    event_time_us: sample.event_time_us,
                    attempts: sample.attempts,
                    event_id,
                    source,
                    key: sample.key.as_deref(),
                    payload: sample.payload.as_deref(),
                    headers,
                };
                put_dead(&mut bytes, offset, &dead);
                Content::Dead(Box::new(dead))
            }
        };
        staged.records.push(StagedRecord { offset, content });
    }
    (bytes, staged)
}

fn rows(staged: &Staged<'_>) -> usize {
    let is_dead = |record: &&StagedRecord<'_>| matches!(record.content, Content::Dead(_));
    staged.changes.len() + staged.records.iter().filter(is_dead).count()
}

proptest! {
    #[test]
    fn what_is_staged_reads_back(samples in prop::collection::vec(sample(), 0..8)) {
        let (bytes, staged) = staged(&samples);
        let rows = rows(&staged);
        prop_assert!(read(&bytes, rows + 1).is_err() && rows.checked_sub(1).is_none_or(|fewer| read(&bytes, fewer).is_err()));
        prop_assert_eq!(read(&bytes, rows), Ok(staged));
    }

    /// Bytes that are lost or changed on the way are never mistaken for a batch: what still reads has another checksum.
    #[test]
    fn damage_shows(samples in prop::collection::vec(sample(), 1..4), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let (bytes, whole) = staged(&samples);
        let at = at.index(bytes.len());
        prop_assert_ne!(checksum(&bytes[..at]), checksum(&bytes));
        let mut damaged = bytes.clone();
        damaged[at] ^= flip;
        let _ = read(&damaged, rows(&whole));
        prop_assert_ne!(checksum(&damaged), checksum(&bytes));
    }

    #[test]
    fn noise_is_an_answer_and_no_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&noise, 9);
    }
}

#[test]
fn bounds_are_kept() {
    let change = Change {
        key: AccountKey {
            account_id: 1,
            shard_id: 0,
            currency: Currency::new("USD").expect("a currency"),
        },
        available_delta: Amount::ZERO,
        frozen_delta: Amount::ZERO,
    };
    let bytes_of = |event_id: &str, changes: &[Change]| {
        let mut bytes = Vec::new();
        put_event(&mut bytes, 7, &event(event_id, None, None), changes);
        bytes
    };
    let at_time = |time_us: i64| {
        let mut bytes = Vec::new();
        put_event(&mut bytes, 7, &event("e", None, Some(time_us)), &[change]);
        bytes
    };
    for time_us in [*RANGE_US.start(), *RANGE_US.end()] {
        assert!(read(&at_time(time_us), 1).is_ok(), "{time_us}");
    }
    let good = bytes_of("e", &[change]);
    assert!(read(&good, 1).is_ok());
    let too_much = Change {
        frozen_delta: Amount::from_units(Amount::MAX.units() + 1),
        ..change
    };
    for (bad, expected) in [
        (bytes_of("", &[change]), "event"),
        (bytes_of("a\0b", &[change]), "event id"),
        (bytes_of("e", &[]), "event"),
        (bytes_of("e", &[change; 65]), "event"),
        (bytes_of("e", &[too_much]), "amount"),
        (at_time(RANGE_US.start() - 1), "event time"),
        (at_time(RANGE_US.end() + 1), "event time"),
        (good[..good.len() - 1].to_vec(), "amount"),
        ([&good[..], &[1]].concat(), "end of the promised rows"),
        ([&good[..8], &[9], &good[9..]].concat(), "kind"),
    ] {
        assert_eq!(
            read(&bad, 1).map_err(|malformed| malformed.expected),
            Err(expected)
        );
    }
    let at = good.len() - 35;
    assert_eq!(&good[at..at + 3], b"USD");
    let mut bad = good.clone();
    bad[at] = b'u';
    assert_eq!(
        read(&bad, 1).map_err(|malformed| malformed.expected),
        Err("currency")
    );
}

/// Both ends may be of different builds for a while: these figures must never change.
#[test]
fn the_form_is_stable() {
    let mut samples = [
        Sample::Event(
            "e".into(),
            Some("s".into()),
            None,
            vec![Change {
                key: AccountKey {
                    account_id: 1,
                    shard_id: 2,
                    currency: Currency::new("USD").expect("a currency"),
                },
                available_delta: Amount::from_units(3),
                frozen_delta: Amount::from_units(-4),
            }],
        ),
        Sample::Dead(Box::new(DeadSample {
            texts: [None, Some("s".into()), Some("[]".into())],
            message: "m".into(),
            event_time_us: None,
            attempts: 1,
            key: None,
            payload: Some(b"{".to_vec()),
        })),
    ];
    assert_eq!(checksum(&[]), 0, "an empty batch");
    assert_eq!(checksum(&staged(&samples).0), 4_850_526_249_305_582_191);
    for sample in &mut samples {
        match sample {
            Sample::Event(_, _, time_us, _) => *time_us = Some(5),
            Sample::Dead(dead) => dead.event_time_us = Some(6),
        }
    }
    assert_eq!(checksum(&staged(&samples).0), -7_130_956_242_758_300_687);
}
