//! The rules of decoding, one by one, and under any damage.

use std::borrow::Cow;

use ledger::account::{AccountKey, Currency};
use ledger::amount::Amount;
use ledger::decode::{decode_balance_event, decode_domain_event};
use ledger::event::{Change, Defect, EventHead};
use ledger::identity::Identity;
use ledger::json::Reader;
use ledger::verdict::DeadReason;
use proptest::prelude::*;

fn decode(payload: &[u8]) -> Result<(EventHead<'_>, Vec<Change>), Defect> {
    let mut changes = Vec::new();
    decode_balance_event(Some(payload), &mut changes).map(|head| (head, changes))
}

fn reason(payload: &str) -> Option<DeadReason> {
    decode(payload.as_bytes()).err().map(|defect| defect.reason)
}

const CHANGE: &str = r#"{"currencyCode":"USD","availableDelta":"1"}"#;

/// An event with these members in `data` and one plain change.
fn with_data(members: &str) -> String {
    format!(
        r#"{{"eventId":"a","eventType":"balance.changed","data":{{{members},"changes":[{CHANGE}]}}}}"#
    )
}

/// An event with this change, and account 1 in `data`.
fn with_change(change: &str) -> String {
    format!(
        r#"{{"eventId":"a","eventType":"balance.changed","data":{{"accountId":1,"changes":[{change}]}}}}"#
    )
}

/// An event with these members in its envelope.
fn with_envelope(members: &str) -> String {
    format!(
        r#"{{{members},"eventType":"balance.changed","data":{{"accountId":1,"changes":[{CHANGE}]}}}}"#
    )
}

fn key(account_id: i64, shard_id: i32, currency: &str) -> AccountKey {
    AccountKey {
        account_id,
        shard_id,
        currency: Currency::new(currency).expect("a currency"),
    }
}

fn amount(text: &str) -> Amount {
    Amount::parse(text).expect("an amount")
}

#[test]
fn the_data_of_a_domain_event_is_where_it_says() {
    let payload =
        r#" {"data" : { "a": [{"data": 1}], "b": "}" } ,"eventType":"note","eventId":"e"} "#;
    let head = decode_domain_event(Some(payload.as_bytes()), "note").expect("an event");
    assert_eq!(&payload[head.data], r#"{ "a": [{"data": 1}], "b": "}" }"#);
}

#[test]
fn the_example_of_the_contract() {
    let payload = r#"{"eventId":"0193","eventType":"balance.changed","timestamp":"2026-11-21T05:00:00.000Z","source":"matching-engine",
 "data":{"accountId":42,"shardId":1,
         "changes":[{"currencyCode":"USD","availableDelta":"-12.50","frozenDelta":"12.50"},
                    {"accountId":7,"shardId":1,"currencyCode":"BTC","availableDelta":"0.001"}]}}"#;
    let (head, changes) = decode(payload.as_bytes()).expect("an event");
    assert!(matches!(head.event_id, Cow::Borrowed("0193")));
    assert_eq!(head.source.as_deref(), Some("matching-engine"));
    assert_eq!(head.timestamp_us, Some(1_795_237_200_000_000));
    let data = &payload[head.data.clone()];
    assert!(data.starts_with(r#"{"accountId":42"#) && data.ends_with(r#""0.001"}]}"#));
    assert_eq!(
        head.identity(),
        Identity::of(Some("matching-engine"), "0193")
    );
    assert_eq!(
        changes,
        [
            Change {
                key: key(42, 1, "USD"),
                available_delta: amount("-12.5"),
                frozen_delta: amount("12.5")
            },
            Change {
                key: key(7, 1, "BTC"),
                available_delta: amount("0.001"),
                frozen_delta: Amount::ZERO
            },
        ]
    );
}

#[test]
fn fields_may_stand_in_any_order() {
    let payload = format!(
        r#"{{"data":{{"changes":[{CHANGE},{{"accountId":"-7","shardId":2,"currencyCode":"USD","frozenDelta":"0"}}],"shardId":9,"accountId":5}},
            "source":"","eventType":"balance.changed","eventId":"a"}}"#
    );
    let (head, changes) = decode(payload.as_bytes()).expect("an event");
    assert_eq!(head.source, None);
    assert_eq!(
        changes.iter().map(|change| change.key).collect::<Vec<_>>(),
        [key(5, 9, "USD"), key(-7, 2, "USD")]
    );
}

#[test]
fn empty_payloads() {
    let mut changes = Vec::new();
    for payload in [None, Some(&b""[..])] {
        let defect = decode_balance_event(payload, &mut changes).expect_err("empty");
        assert_eq!(
            (defect.reason, defect.event_id),
            (DeadReason::EmptyPayload, None)
        );
    }
}

#[test]
fn what_is_not_json_comes_first() {
    for payload in [
        r#"{"eventId":7,"eventType":"x","data":{"accountId":true}}}"#,
        r#"{"eventId":"a","eventType":"nobody.knows","x":01}"#,
        r#"{"eventId":"a","eventType":"balance.changed","data":{"changes":[{"availableDelta":"NaN"}]},"z":"\ud800"}"#,
        r#"{"eventId":"a","eventId":"b","\udc00":1}"#,
        r#"[1,2"#,
    ] {
        let defect = decode(payload.as_bytes()).expect_err("not JSON");
        assert_eq!(
            (defect.reason, defect.event_id),
            (DeadReason::MalformedJson, None),
            "{payload}"
        );
    }
}

#[test]
fn depth_counts_the_levels_of_the_payload() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let payload = |levels| with_envelope(&format!(r#""eventId":"a","x":{}"#, nested(levels)));
    assert_eq!(reason(&payload(127)), None, "128 levels with the envelope");
    assert_eq!(
        reason(&payload(128)),
        Some(DeadReason::MalformedJson),
        "129 levels"
    );
}

#[test]
fn unknown_fields_are_ignored_also_when_given_twice_or_huge() {
    let payload = with_envelope(
        r#""eventId":"a","x":1e999999,"x":{"eventId":"b","eventId":"c"},"EVENTID":"d""#,
    );
    assert_eq!(reason(&payload), None);
    assert_eq!(
        reason(&with_data(
            r#""accountId":1,"eventId":"b","eventId":"b","Changes":7,"Changes":8"#
        )),
        None
    );
}

#[test]
fn a_change_has_five_fields_and_no_other() {
    for field in [
        "avaliableDelta",
        "AvailableDelta",
        "availableDelta ",
        "data",
        "note",
        "",
        "\u{202e}",
        "\\u0000",
        "\\n",
        &"x".repeat(70_000),
    ] {
        for value in ["null", "\"5\"", "[{\"availableDelta\":1}]"] {
            let payload = with_change(&format!(
                "{{\"currencyCode\":\"USD\",\"availableDelta\":\"1\",\"{field}\":{value}}}"
            ));
            let defect = decode(payload.as_bytes()).expect_err("a defect");
            assert_eq!(defect.reason, DeadReason::InvalidEvent, "{field:?}");
            assert!(
                defect.detail.is_ascii() && !defect.detail.contains(char::is_control),
                "{}",
                defect.detail
            );
            assert!(defect.detail.len() < 300, "{}", defect.detail);
        }
    }
    // The name decides, however it is written.
    assert_eq!(
        reason(&with_change(
            r#"{"currencyCode":"USD","availableDelt\u0061":"1"}"#
        )),
        None
    );
}

#[test]
fn a_change_without_a_delta_is_none() {
    for (change, fits) in [
        (r#"{"currencyCode":"USD"}"#, false),
        (r#"{"currencyCode":"USD","availableDelta":null}"#, false),
        (
            r#"{"currencyCode":"USD","availableDelta":null,"frozenDelta":null}"#,
            false,
        ),
        (
            r#"{"frozenDelta":"0","currencyCode":"USD","availableDelta":null}"#,
            true,
        ),
        (r#"{"currencyCode":"USD","availableDelta":0}"#, true),
    ] {
        let expected = (!fits).then_some(DeadReason::InvalidEvent);
        assert_eq!(reason(&with_change(change)), expected, "{change}");
        let second = format!("{CHANGE},{change}");
        assert_eq!(reason(&with_change(&second)), expected, "{second}");
    }
}

#[test]
fn known_fields_given_twice() {
    for payload in [
        with_envelope(r#""eventId":"a","eventId":"a""#),
        with_envelope(r#""eventId":"a","event\u0049d":"a""#),
        with_envelope(r#""eventId":"a","source":null,"source":null"#),
        with_envelope(r#""eventId":"a","timestamp":null,"timestamp":null"#),
        with_envelope(r#""eventId":"a","eventType":"balance.changed""#),
        with_envelope(r#""eventId":"a","data":{}"#),
        with_data(r#""accountId":1,"accountId":1"#),
        with_data(r#""accountId":1,"shardId":null,"shardId":null"#),
        with_data(r#""accountId":1,"changes":[]"#),
        with_change(r#"{"currencyCode":"USD","currencyCode":"USD","frozenDelta":1}"#),
        with_change(r#"{"currencyCode":"USD","accountId":null,"accountId":null,"frozenDelta":1}"#),
        with_change(r#"{"currencyCode":"USD","shardId":1,"shardId":1,"frozenDelta":1}"#),
        with_change(r#"{"currencyCode":"USD","availableDelta":"1","availableDelt\u0061":"1"}"#),
        with_change(
            r#"{"currencyCode":"USD","availableDelta":1,"frozenDelta":null,"frozenDelta":null}"#,
        ),
    ] {
        assert_eq!(
            reason(&payload),
            Some(DeadReason::InvalidEvent),
            "{payload}"
        );
    }
}

#[test]
fn another_type_wins_over_odd_data_but_not_over_a_bad_envelope() {
    for (payload, expected) in [
        (
            r#"{"eventId":"a","eventType":"x"}"#,
            DeadReason::UnknownEventType,
        ),
        (
            r#"{"eventId":"a","eventType":"","data":7}"#,
            DeadReason::UnknownEventType,
        ),
        (
            r#"{"eventId":"a","eventType":"x","data":{"changes":[{"availableDelta":"NaN"}]}}"#,
            DeadReason::UnknownEventType,
        ),
        (r#"{"eventType":"x"}"#, DeadReason::InvalidEvent),
        (
            r#"{"eventId":"a","eventType":null}"#,
            DeadReason::InvalidEvent,
        ),
    ] {
        assert_eq!(reason(payload), Some(expected), "{payload}");
    }
    assert_eq!(
        reason(
            &with_envelope(r#""eventId":"a""#).replace("balance.changed", r"balance\u002echanged")
        ),
        None
    );
}

#[test]
fn event_ids() {
    let long = |count: usize| with_envelope(&format!(r#""eventId":"{}""#, "é".repeat(count)));
    assert_eq!(reason(&long(127)), None, "254 bytes");
    assert_eq!(
        reason(&long(128)),
        Some(DeadReason::InvalidEvent),
        "256 bytes"
    );
    // 255 bytes of value, many more as it is written.
    let escaped = with_envelope(&format!(r#""eventId":"{}""#, "\\u0061".repeat(255)));
    assert_eq!(
        decode(escaped.as_bytes()).expect("an event").0.event_id,
        "a".repeat(255)
    );
    for bad in [
        r#""eventId":null"#,
        r#""eventId":7"#,
        r#""eventId":"""#,
        r#""eventId":"\u0000""#,
        r#""eventId":["a"]"#,
        r#""x":1"#,
    ] {
        let payload = with_envelope(bad);
        assert_eq!(
            reason(&payload),
            Some(DeadReason::InvalidEvent),
            "{payload}"
        );
    }
}

#[test]
fn sources() {
    for none in [r#""source":null"#, r#""source":"""#, r#""x":1"#] {
        let payload = with_envelope(&format!(r#""eventId":"a",{none}"#));
        let head = decode(payload.as_bytes()).expect("an event").0;
        assert_eq!(
            (head.source.clone(), head.identity()),
            (None, Identity::of(None, "a"))
        );
    }
    for bad in [
        "7",
        "true",
        "[]",
        "{}",
        r#""a\u0000""#,
        &format!("\"{}\"", "s".repeat(256)),
    ] {
        let payload = with_envelope(&format!(r#""eventId":"a","source":{bad}"#));
        assert_eq!(
            reason(&payload),
            Some(DeadReason::InvalidEvent),
            "{payload}"
        );
    }
    // Where the source ends and the id begins is part of the identity.
    assert_ne!(Identity::of(Some("ab"), "c"), Identity::of(Some("a"), "bc"));
    assert_ne!(Identity::of(Some("a"), "b"), Identity::of(None, "ab"));
}

#[test]
fn account_and_shard_ids() {
    for (text, expected) in [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("\"-0\"", Some(0)),
        ("\"007\"", Some(7)),
        ("\"-007\"", Some(-7)),
        ("\"\\u0031\"", Some(1)),
        ("\"00000000000000000000000000000001\"", Some(1)),
        ("9223372036854775807", Some(i64::MAX)),
        ("\"-9223372036854775808\"", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("\"9223372036854775808\"", None),
        ("-9223372036854775809", None),
        ("1.0", None),
        ("1e0", None),
        ("\"1.0\"", None),
        ("\"+1\"", None),
        ("\"\"", None),
        ("\"-\"", None),
        ("\" 1\"", None),
        ("\"1 \"", None),
        ("\"--1\"", None),
        ("\"\u{661}\"", None),
        ("true", None),
        ("[]", None),
        ("{}", None),
        ("null", None),
    ] {
        let payload = with_data(&format!("\"accountId\":{text}"));
        let account_id = decode(payload.as_bytes())
            .ok()
            .map(|(_, changes)| changes[0].key.account_id);
        assert_eq!(account_id, expected, "{payload}");
    }
    for (text, expected) in [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("null", Some(0)),
        ("2147483647", Some(i32::MAX)),
        ("-2147483648", Some(i32::MIN)),
        ("2147483648", None),
        ("\"1\"", None),
        ("1.0", None),
        ("1e0", None),
        ("true", None),
        ("[]", None),
    ] {
        let payload = with_data(&format!("\"accountId\":1,\"shardId\":{text}"));
        let shard_id = decode(payload.as_bytes())
            .ok()
            .map(|(_, changes)| changes[0].key.shard_id);
        assert_eq!(shard_id, expected, "{payload}");
    }
    // A bad one is bad also where every change has its own.
    let own = r#"{"eventId":"a","eventType":"balance.changed","data":{"accountId":"x","changes":[{"accountId":1,"currencyCode":"USD","frozenDelta":1}]}}"#;
    assert_eq!(reason(own), Some(DeadReason::InvalidEvent));
}

#[test]
fn deltas() {
    for (text, expected) in [
        ("\"1\"", Some("1")),
        ("1", Some("1")),
        ("-0", Some("0")),
        ("-0.10", Some("-0.1")),
        ("\"007.50\"", Some("7.5")),
        ("\"\\u0031\\u002e5\"", Some("1.5")),
        ("\"\\u002d1\"", Some("-1")),
        (
            "999999999999999999.999999999999999999",
            Some("999999999999999999.999999999999999999"),
        ),
        ("\"0000000000000000001\"", None),
        ("1e2", None),
        ("1.0E0", None),
        ("\"1e2\"", None),
        ("true", None),
        ("[\"1\"]", None),
        ("{\"a\":1}", None),
        ("\"\"", None),
        ("\"1.\"", None),
        ("\".1\"", None),
        ("\"+1\"", None),
    ] {
        let payload = with_change(&format!(
            "{{\"currencyCode\":\"USD\",\"availableDelta\":{text}}}"
        ));
        match (decode(payload.as_bytes()), expected) {
            (Ok((_, changes)), Some(expected)) => {
                assert_eq!(changes[0].available_delta.to_string(), expected)
            }
            (Err(defect), None) => {
                assert_eq!(defect.reason, DeadReason::InvalidAmount, "{payload}")
            }
            (other, _) => panic!("{payload}: {other:?}"),
        }
    }
}

#[test]
fn at_most_64_changes() {
    for (count, fits) in [(0, false), (1, true), (64, true), (65, false), (200, false)] {
        let payload = with_change(&vec![CHANGE; count].join(","));
        assert_eq!(
            decode(payload.as_bytes())
                .map(|(_, changes)| changes.len())
                .ok(),
            fits.then_some(count)
        );
    }
}

#[test]
fn details_name_the_field() {
    for (payload, expected) in [
        (
            with_change(r#"{"currencyCode":"USD","frozenDelta":"secret"}"#),
            "data.changes[0].frozenDelta is not a decimal",
        ),
        (
            with_change(&format!("{CHANGE},{{\"accountId\":2}}")),
            "data.changes[1].currencyCode is missing.",
        ),
        (with_change("7"), "data.changes[0] is not an object."),
        (
            with_change(&format!(
                "{CHANGE},{{\"currencyCode\":\"USD\",\"avaliableDelta\":\"secret\"}}"
            )),
            "data.changes[1] has the field \"avaliableDelta\", but a change has only",
        ),
        (
            with_change(r#"{"currencyCode":"USD","note\u0000é":"secret"}"#),
            "data.changes[0] has the field \"note\\u{0}\\u{e9}\", but",
        ),
        (
            with_change(&format!("{CHANGE},{{\"currencyCode\":\"USD\"}}")),
            "data.changes[1] has neither availableDelta nor frozenDelta",
        ),
        (
            with_data("\"shardId\":\"secret\""),
            "data.shardId is not an integer",
        ),
        (
            "{\"eventId\":\"a\",\"eventType\":\"balance.changed\"}".into(),
            "data is missing.",
        ),
        (
            "[".into(),
            "The payload is not acceptable JSON: unfinished at byte 1.",
        ),
        ("7".into(), "The payload is not a JSON object."),
    ] {
        let defect = decode(payload.as_bytes()).expect_err("a defect");
        assert!(defect.detail.starts_with(expected), "{}", defect.detail);
        assert!(!defect.detail.contains("secret"), "{}", defect.detail);
    }
}

#[test]
fn the_event_id_of_a_dead_record() {
    let event_id = |payload: &str| decode(payload.as_bytes()).expect_err("a defect").event_id;
    assert_eq!(
        event_id(r#"{"eventId":"\u0061b","eventType":"x"}"#).as_deref(),
        Some("ab")
    );
    assert_eq!(
        event_id(r#"{"eventType":"x","data":7,"eventId":"a"}"#).as_deref(),
        Some("a")
    );
    assert_eq!(
        event_id(r#"{"eventId":"a","eventId":"b","eventType":"x"}"#),
        None
    );
    assert_eq!(event_id(r#"{"eventId":"","eventType":"x"}"#), None);
}

fn edited(payload: String, edits: Vec<(prop::sample::Index, u8, u8)>) -> Vec<u8> {
    let mut bytes = payload.into_bytes();
    for (place, kind, byte) in edits {
        let at = place.index(bytes.len() + 1);
        match kind {
            0 if at < bytes.len() => drop(bytes.remove(at)),
            1 if at < bytes.len() => bytes[at] = byte,
            2 => bytes.truncate(at),
            3 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
            _ => bytes.insert(at, byte),
        }
    }
    bytes
}

fn check_any(bytes: &[u8]) -> Result<(), TestCaseError> {
    let is_json = Reader::new(bytes)
        .and_then(|mut reader| reader.skip_value().and_then(|()| reader.finish()))
        .is_ok();
    let mut changes = Vec::new();
    match decode_balance_event(Some(bytes), &mut changes) {
        Ok(head) => {
            prop_assert!(is_json && (1..=64).contains(&changes.len()));
            prop_assert!((1..=255).contains(&head.event_id.len()) && !head.event_id.contains('\0'));
            prop_assert!(
                changes
                    .iter()
                    .all(|change| change.available_delta.units().abs() <= Amount::MAX.units())
            );
        }
        Err(defect) => {
            prop_assert!(changes.is_empty());
            prop_assert_eq!(defect.reason == DeadReason::EmptyPayload, bytes.is_empty());
            prop_assert_eq!(
                defect.reason == DeadReason::MalformedJson,
                !is_json && !bytes.is_empty()
            );
            prop_assert!(defect.detail.ends_with('.') && defect.detail.is_ascii());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn any_bytes_have_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_any(&bytes)?;
    }

    #[test]
    fn damaged_events_have_a_verdict(
        account in any::<i64>(),
        shard in prop::option::of(any::<i32>()),
        delta in r"-?[0-9]{1,19}(\.[0-9]{1,19})?",
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6u8, any::<u8>()), 0..4),
    ) {
        let shard = shard.map_or_else(|| "null".to_owned(), |shard| shard.to_string());
        let payload = format!(
            "{{\"eventId\":\"a\\u0062\",\"eventType\":\"balance.changed\",\"timestamp\":\"2026-11-21T05:00:00Z\",\
             \"source\":\"m\",\"data\":{{\"accountId\":{account},\"shardId\":{shard},\"changes\":[{CHANGE},\
             {{\"accountId\":\"{account}\",\"currencyCode\":\"BTC\",\"frozenDelta\":\"{delta}\"}}]}}}}"
        );
        check_any(&edited(payload, edits))?;
    }

    #[test]
    fn amounts_read_back(units in -999_999_999_999_999_999_999_999_999_999_999_999i128..=999_999_999_999_999_999_999_999_999_999_999_999) {
        let amount = Amount::from_units(units);
        prop_assert_eq!(Amount::parse(&amount.to_string()), Some(amount));
    }

    #[test]
    fn amounts_match_the_pattern(text in r"[-+]?[0-9]{0,20}[.]?[0-9]{0,20}") {
        let (sign, rest) = text.strip_prefix('-').map_or((1, text.as_str()), |rest| (-1, rest));
        let (whole, fraction) = rest.split_once('.').map_or((rest, None), |(whole, fraction)| (whole, Some(fraction)));
        let side = |digits: &str| (1..=18).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let expected = (side(whole) && fraction.is_none_or(side)).then(|| {
            let digits = format!("{whole}{:0<18}", fraction.unwrap_or_default());
            sign * digits.parse::<i128>().expect("at most 36 digits")
        });
        prop_assert_eq!(Amount::parse(&text).map(Amount::units), expected);
    }
}
