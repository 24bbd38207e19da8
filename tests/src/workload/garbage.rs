//! Payloads that are no balance event, in every way that came to mind.

use crate::rng::Rng;

/// What to replace in a good event, and by what, so that one field of it is wrong.
const BROKEN_FIELDS: &[(&str, &str)] = &[
    ("\"availableDelta\":\"", "\"availableDelta\":\"NaN"),
    ("\"availableDelta\":\"", "\"availableDelta\":\"1e3"),
    ("\"currencyCode\":\"", "\"currencyCode\":\"$"),
    ("\"availableDelta\":\"", "\"avaliableDelta\":\""),
    ("\"currencyCode\":\"", "\"note\":1,\"currencyCode\":\""),
    ("\"changes\":[", "\"changes\":[7,"),
    (
        "\"eventType\":\"balance.changed\"",
        "\"eventType\":\"balance.guessed\"",
    ),
    (
        "\"eventType\":\"balance.changed\"",
        "\"eventType\":\"balance.changed\",\"eventType\":\"balance.changed\"",
    ),
    ("\"eventType\":\"balance.changed\"", "\"eventType\":null"),
    ("\"eventId\":\"", "\"eventId\":\"\\u0000"),
    ("\"eventId\":\"", "\"eventId\":7,\"x\":\""),
    ("\"data\":{", "\"data\":{\"accountId\":1.5,"),
    ("\"data\":{", "\"data\":{},\"more\":{"),
    ("\"data\":{", "\"timestamp\":\"yesterday\",\"data\":{"),
    ("\"data\":{", "\"note\":\"\\ud800\",\"data\":{"),
];

/// Whether a change has a field that is none of the five: until version 1.0.0 it was ignored.
pub fn has_unknown_field(payload: &[u8]) -> bool {
    let text = String::from_utf8_lossy(payload);
    text.contains("\"avaliableDelta\":") || text.contains("\"note\":1,\"currencyCode\":")
}

const NO_EVENT_AT_ALL: &[&[u8]] = &[
    b"not json",
    b" ",
    b"{",
    b"{}",
    b"[]",
    b"null",
    b"42",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b"\x00\x00\x00\x00\x05avro",
    b"{\"eventId\":\"\xc3(\"}",
    b"'; DROP TABLE ledger.account_balances; --",
    b"\\N",
    b"\\.",
    b"{\"eventId\":\"a\",\"eventType\":\"balance.changed\",\"data\":{\"accountId\":1,\"changes\":[]}}",
];

/// A payload made of, or beside, the good event `good`; `None` is a tombstone.
pub fn payload(rng: &mut Rng, good: &[u8]) -> Option<Vec<u8>> {
    match rng.below(10) {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(good[..rng.below(good.len() as u64) as usize].to_vec()),
        3 => {
            let len = rng.between(1, 2_000) as usize;
            // The first byte begins no JSON text, so that chance cannot make an event of it.
            Some(
                std::iter::once(0x80)
                    .chain((1..len).map(|_| rng.next() as u8))
                    .collect(),
            )
        }
        4 => {
            let depth = rng.between(129, 20_000) as usize;
            Some([vec![b'['; depth], vec![b']'; depth]].concat())
        }
        5..8 => Some(broken(rng, good)),
        _ => Some(rng.pick(NO_EVENT_AT_ALL).to_vec()),
    }
}

fn broken(rng: &mut Rng, good: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(good);
    let (from, to) = rng.pick(BROKEN_FIELDS);
    let broken = text.replacen(from, to, 1);
    if from == to || broken == text {
        format!("{text}%").into_bytes()
    } else {
        broken.into_bytes()
    }
}
