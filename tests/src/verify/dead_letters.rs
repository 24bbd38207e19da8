//! Dead letters against the records that they stand for, byte for byte.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::compare::{Place, Report};
use crate::database::{Lines, connect, unescape};
use crate::deeds::Letter;
use crate::json::{self, Json};
use crate::workload::Message;

/// A record that must have a dead letter, and what its verdict in the database says.
pub(crate) struct Buried<'a> {
    pub message: &'a Message,
    pub event_id: Option<String>,
    pub reason: Option<String>,
    /// What operators tried with it.
    pub letter: Option<&'a Letter>,
}

/// The status of each letter, by offset.
pub(crate) async fn statuses(admin_url: &str, place: &Place<'_>) -> HashMap<i64, String> {
    let query = format!(
        "SELECT kafka_offset, status FROM ledger.dead_letters WHERE {}",
        place.filter()
    );
    let client = connect(admin_url).await;
    let rows = client.query(&query, &[]).await.expect("dead letters");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Each dead record, by offset, must stand in `dead_letters` byte for byte, and nothing else.
pub(crate) async fn compare_dead_letters(
    client: &Client,
    place: &Place<'_>,
    mut buried: HashMap<i64, Buried<'_>>,
    report: &mut Report,
) {
    let query = format!(
        "SELECT kafka_offset, encode(key, 'hex'), encode(payload, 'hex'), headers, event_id, error_code,
            status, attempts, error_message <> ''
         FROM ledger.dead_letters WHERE {}",
        place.filter()
    );
    let mut lines = Lines::of(client, &query).await;
    while let Some(line) = lines.next().await {
        let fields: Vec<Option<String>> = line.split('\t').map(unescape).collect();
        let text = |field: usize| fields[field].as_deref();
        let offset: i64 = text(0)
            .and_then(|text| text.parse().ok())
            .expect("an offset");
        let Some(record) = buried.remove(&offset) else {
            report.differs(|| {
                format!(
                    "{}: a dead letter of a record that is not dead",
                    place.at(offset)
                )
            });
            continue;
        };
        let stored = Message {
            key: text(1).map(from_hex),
            payload: text(2).map(from_hex),
            headers: text(3).map(headers).unwrap_or_default(),
        };
        if stored != *record.message {
            report.differs(|| {
                format!(
                    "{}: dead letter {stored:?}, sent {:?}",
                    place.at(offset),
                    record.message
                )
            });
        }
        let status = text(6).unwrap_or_default();
        let as_its_verdict = status == "REPLAYED"
            || (text(4) == record.event_id.as_deref() && text(5) == record.reason.as_deref());
        let as_it_was_treated = match record.letter {
            None => (status, text(7)) == ("PARKED", Some("1")),
            Some(letter) => letter.fits(status),
        };
        if !as_its_verdict || !as_it_was_treated || text(8) != Some("t") {
            report.differs(|| format!("{}: dead letter {line}", place.at(offset)));
        }
    }
    for offset in buried.keys() {
        report.differs(|| format!("{}: no dead letter", place.at(*offset)));
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// `[{"key": …, "value": text}, {"key": …, "base64": …}]` back into what was sent.
fn headers(text: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let Some(Json::Array(items)) = json::parse(text.as_bytes()) else {
        panic!("headers are no array: {text}")
    };
    items
        .iter()
        .map(|item| header(item).unwrap_or_else(|| panic!("no header: {item:?}")))
        .collect()
}

fn header(item: &Json) -> Option<(String, Option<Vec<u8>>)> {
    let Json::Object(fields) = item else {
        return None;
    };
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    let Some(Json::String(key)) = field("key") else {
        return None;
    };
    let value = match (field("value"), field("base64")) {
        (Some(Json::String(text)), None) => Some(text.clone().into_bytes()),
        (None, Some(Json::String(text))) => Some(from_base64(text)),
        (Some(Json::Null), None) => None,
        _ => return None,
    };
    Some((key.clone(), value))
}

pub fn from_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {text}"),
    };
    let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(value).collect();
    let decode = |group: &[u32]| {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_bytes_back() {
        assert_eq!(from_base64("//57fQ=="), [0xff, 0xfe, 0x7b, 0x7d]);
        assert_eq!(from_base64("aGVsbG8="), b"hello");
        assert_eq!(from_base64(""), b"");
    }

    #[test]
    fn headers_keep_order_repeats_and_bytes() {
        let text = r#"[{"key": "a", "value": "1"}, {"key": "a", "base64": "/wA="}, {"key": "", "value": null}]"#;
        let expected = vec![
            ("a".into(), Some(b"1".to_vec())),
            ("a".into(), Some(vec![0xff, 0])),
            (String::new(), None),
        ];
        assert_eq!(headers(text), expected);
    }
}
