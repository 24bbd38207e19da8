//! The JSON parser against serde_json, on texts that are JSON, almost JSON, and anything.
//!
//! serde_json's own limits are looser (lone surrogates in ignored strings) or tighter
//! (depth, huge exponents) than the contract's, so the oracle asks it three questions that
//! it answers exactly, and counts the depth by itself.

use ledger::contract::MAX_DEPTH;
use ledger::json::{Malformed, Reader, Token};
use proptest::prelude::*;
use serde_json::{Map, Value};

fn ours(bytes: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(bytes)?;
    reader.skip_value()?;
    reader.finish()
}

/// The strings of a text that keeps the grammar, as they are written, and its depth.
fn strings_and_depth(text: &str) -> (Vec<&str>, usize) {
    let (mut strings, mut depth, mut deepest) = (Vec::new(), 0usize, 0);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth -= 1,
            b'"' => {
                let start = at;
                at += 1;
                while bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                strings.push(&text[start..=at]);
            }
            _ => {}
        }
        at += 1;
    }
    (strings, deepest)
}

fn oracle(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    // Checks the grammar without a limit on depth or on the size of numbers.
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return false;
    }
    let (strings, depth) = strings_and_depth(text);
    depth <= MAX_DEPTH
        && strings
            .iter()
            .all(|string| serde_json::from_str::<String>(string).is_ok())
}

/// What our reader sees, as serde_json would say it. `None` if a number is beyond f64.
fn tree(reader: &mut Reader<'_>) -> Result<Option<Value>, Malformed> {
    let token = reader.value()?;
    Ok(match token {
        Token::Null => Some(Value::Null),
        Token::Bool(value) => Some(Value::Bool(value)),
        Token::Number(text) => serde_json::from_str(text).ok().map(Value::Number),
        Token::String(text) => Some(Value::String(text.value().into_owned())),
        Token::Array => {
            let mut items = Some(Vec::new());
            while reader.next_item()? {
                let item = tree(reader)?;
                items = items.zip(item).map(|(mut items, item)| {
                    items.push(item);
                    items
                });
            }
            items.map(Value::Array)
        }
        Token::Object => {
            let mut members = Some(Map::new());
            while let Some(key) = reader.next_key()? {
                let value = tree(reader)?;
                members = members.zip(value).map(|(mut members, value)| {
                    members.insert(key.value().into_owned(), value);
                    members
                });
            }
            members.map(Value::Object)
        }
    })
}

fn whole_tree(bytes: &[u8]) -> Result<Option<Value>, Malformed> {
    let mut reader = Reader::new(bytes)?;
    let value = tree(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mine = ours(bytes);
    prop_assert_eq!(
        mine.is_ok(),
        oracle(bytes),
        "{:?} on {:?}",
        mine,
        String::from_utf8_lossy(bytes)
    );
    prop_assert_eq!(
        whole_tree(bytes).map(|_| ()),
        mine,
        "reading and skipping differ"
    );
    if let (Ok(Some(value)), Ok(theirs)) =
        (whole_tree(bytes), serde_json::from_slice::<Value>(bytes))
    {
        prop_assert_eq!(value, theirs);
    }
    Ok(())
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(String::new()), 1 => "[ \t\n\r]{1,3}"]
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        12 => "[a-z0-9 .é中😀\u{7f}\u{2028}]{0,6}",
        4 => prop::sample::select(vec![
            "\\n", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\r", "\\t", "\\u0000", "\\u00e9", "\\ud83d\\ude00", "\\uFFFF",
            "\\uDBFF\\uDFFF",
        ])
        .prop_map(str::to_owned),
        // Not valid, now and then.
        1 => prop::sample::select(vec![
            "\\ud800", "\\udc00", "\\ud800\\u0041", "\\udc00\\ud800", "\\ud83dx", "\\u12g4", "\\u+123", "\\x", "\\u12",
            "\u{1}", "\n", "\\U0041", "\\'",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        1 => "-?[0-9.eE+-]{1,6}",
        1 => Just("1e999999999".to_owned()),
    ]
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        3 => string(),
        3 => number(),
        2 => prop::sample::select(vec!["true", "false", "null"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let item = (space(), inner.clone(), space()).prop_map(|(a, b, c)| a + &b + &c);
        let member = (space(), string(), space(), space(), inner, space())
            .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
        prop_oneof![
            (prop::collection::vec(item, 0..6), space()).prop_map(|(items, gap)| {
                match items.len() {
                    0 => format!("[{gap}]"),
                    _ => format!("[{}]", items.join(",")),
                }
            }),
            (prop::collection::vec(member, 0..6), space()).prop_map(|(members, gap)| match members
                .len()
            {
                0 => format!("{{{gap}}}"),
                _ => format!("{{{}}}", members.join(",")),
            }),
        ]
    })
}

/// A text with a few bytes removed, put in or replaced.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop::sample::select(br#"{}[]",:\ utfn0123456789.-+eE"#.to_vec()),
        1 => any::<u8>(),
    ];
    let edit = (any::<prop::sample::Index>(), 0..3u8, byte);
    (json(), prop::collection::vec(edit, 1..4)).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        for (place, kind, byte) in edits {
            let at = place.index(bytes.len() + 1);
            match kind {
                0 if at < bytes.len() => drop(bytes.remove(at)),
                1 if at < bytes.len() => bytes[at] = byte,
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn agrees_with_serde_json(text in json(), before in space(), after in space()) {
        agree(format!("{before}{text}{after}").as_bytes())?;
    }

    #[test]
    fn agrees_with_serde_json_on_damaged_texts(bytes in damaged()) {
        agree(&bytes)?;
    }

    #[test]
    fn agrees_with_serde_json_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        agree(&bytes)?;
    }

    #[test]
    fn agrees_with_serde_json_on_every_prefix(text in json()) {
        for end in 0..=text.len() {
            agree(&text.as_bytes()[..end])?;
        }
    }

    #[test]
    fn depth_is_limited_to_128(depth in 1usize..260, objects in any::<u128>()) {
        let is_object = |level: usize| objects >> (level % 128) & 1 == 1;
        let mut text: String = (0..depth).map(|level| if is_object(level) { "{\"a\":" } else { "[" }).collect();
        text.push('1');
        text.extend((0..depth).rev().map(|level| if is_object(level) { '}' } else { ']' }));
        prop_assert_eq!(ours(text.as_bytes()).is_ok(), depth <= MAX_DEPTH);
        agree(text.as_bytes())?;
    }
}

#[test]
fn edges() {
    for (text, fits) in [
        ("", false),
        (" ", false),
        ("{}", true),
        ("{} \n", true),
        ("{}{}", false),
        ("{}x", false),
        ("[1,]", false),
        ("[,1]", false),
        ("[,]", false),
        ("{,}", false),
        ("{\"a\":1,}", false),
        ("{\"a\"}", false),
        ("{\"a\":}", false),
        ("{a:1}", false),
        ("{'a':1}", false),
        ("{1:1}", false),
        ("[1 2]", false),
        ("[1", false),
        ("{\"a\":1", false),
        ("[}", false),
        ("{]", false),
        ("]", false),
        ("01", false),
        ("-01", false),
        ("-", false),
        ("+1", false),
        (".5", false),
        ("5.", false),
        ("5.e1", false),
        ("1e", false),
        ("1e+", false),
        ("0", true),
        ("-0", true),
        ("0e0", true),
        ("0.0E-0", true),
        ("1E400", true),
        ("NaN", false),
        ("Infinity", false),
        ("nul", false),
        ("nulll", false),
        ("True", false),
        ("\u{feff}{}", false),
        ("{}\u{feff}", false),
        ("\u{a0}{}", false),
        ("\u{b}{}", false),
        ("\u{c}{}", false),
        ("{}\0", false),
        ("\"\u{7f}\"", true),
        ("\"\t\"", false),
        ("\"\\ud83d\\ude00\"", true),
        ("\"\\ud83d\"", false),
        ("\"\\ude00\"", false),
        ("\"\\ud83d\\ud83d\"", false),
        ("\"\\", false),
        ("\"\\u", false),
        ("\"\\u123", false),
        ("\"\\ud83d\\", false),
        ("\"\\ud83d\\u", false),
        ("// c\n{}", false),
        ("{}/**/", false),
        ("\"\u{fffe}\u{ffff}\"", true),
    ] {
        assert_eq!(ours(text.as_bytes()).is_ok(), fits, "{text:?}");
        assert_eq!(oracle(text.as_bytes()), fits, "the oracle on {text:?}");
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"\"\xc0\x80\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xf4\x90\x80\x80\"",
        b"{}\xff",
        b"\xef\xbb",
    ] {
        assert!(ours(bytes).is_err());
    }
}

/// Strings are scanned eight bytes at a time: every byte in every place of such a word, and
/// beside every other kind of byte.
#[test]
fn every_byte_at_every_place_of_a_string() {
    for fill in ["a", "\u{7f}", " ", "é", "\\\\"] {
        for length in 0..20 {
            let filled = fill.repeat(length);
            for at in (0..=filled.len()).step_by(fill.len()) {
                for byte in 0..=u8::MAX {
                    let mut bytes = format!("\"{filled}\"").into_bytes();
                    bytes.insert(at + 1, byte);
                    assert_eq!(
                        ours(&bytes).is_ok(),
                        oracle(&bytes),
                        "{byte:#x} at {at} of {length}"
                    );
                }
            }
        }
    }
}
