//! Whether events could be decoded, before they are sent: by the decoder of the ingester and of the extension, and with
//! their rules for identities. What the database decides is left to the database.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ledger::contract::MAX_DEPTH;
use ledger::decode::{decode_balance_event, decode_domain_event};
use ledger::event::{BALANCE_CHANGED, Change, Defect, EventHead, check_size, own_type};
use ledger::fold::{Claim, claims, first_carriers};
use ledger::identity::PayloadHash;
use ledger::json::{Fault, Reader};
use ledger::verdict::{DeadReason, RejectReason};
use serde_json::{Value, json};

use crate::operator::events::types;

/// Events as a file holds them.
pub struct File {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// What an event is checked for.
#[derive(Default)]
pub struct Rules {
    /// The topic's type; by default each event's own.
    pub event_type: Option<String>,
    pub max_event_bytes: usize,
}

/// An event that would not be applied.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub file: String,
    /// The line at which the event begins, from 1.
    pub line: usize,
    pub event_id: Option<String>,
    pub reason: &'static str,
    pub message: String,
    pub advice: String,
}

impl Refused {
    pub fn row(&self) -> Value {
        json!({
            "file": self.file, "line": self.line, "event_id": self.event_id, "reason": self.reason,
            "message": self.message, "advice": self.advice,
        })
    }
}

/// What was found, in the order of the files.
#[derive(Default)]
pub struct Findings {
    pub refused: Vec<Refused>,
    /// Events that can be decoded, by type.
    pub accepted: BTreeMap<String, usize>,
    /// Of these, how many are repeated byte for byte: they would be applied once.
    pub duplicates: usize,
}

impl Findings {
    pub fn events(&self) -> usize {
        self.refused.len() + self.accepted.values().sum::<usize>()
    }

    /// Types of events that need a handler which does not come with Sluice.
    pub fn own_types(&self) -> Vec<&str> {
        let known = types();
        let given = self.accepted.keys().map(String::as_str);
        given
            .filter(|given| *given != BALANCE_CHANGED && !known.contains(given))
            .collect()
    }
}

/// An event in a file.
pub struct Given<'f> {
    pub file: &'f str,
    pub line: usize,
    pub payload: &'f [u8],
}

impl Given<'_> {
    fn refused(
        &self,
        event_id: Option<String>,
        reason: &'static str,
        message: String,
        advice: String,
    ) -> Refused {
        Refused {
            file: self.file.to_owned(),
            line: self.line,
            event_id,
            reason,
            message,
            advice,
        }
    }
}

pub fn check(files: &[File], rules: &Rules) -> Findings {
    let given: Vec<Given<'_>> = files.iter().flat_map(events_of).collect();
    check_given(&given, rules)
}

pub fn check_given(given: &[Given<'_>], rules: &Rules) -> Findings {
    let mut changes = Vec::new();
    let mut findings = Findings::default();
    let decoded: Vec<Result<(String, EventHead<'_>), Refused>> = given
        .iter()
        .map(|event| decoded(event, rules, &mut changes))
        .collect();
    let carried: Vec<_> = decoded
        .iter()
        .zip(given)
        .map(|(decoded, event)| {
            let (_, head) = decoded.as_ref().ok()?;
            Some((head.identity(), PayloadHash::of(event.payload)))
        })
        .collect();
    let first = first_carriers(&carried);
    let claims = claims(&carried, &first, |_| None);
    for (place, decoded) in decoded.into_iter().enumerate() {
        let (event_type, head) = match decoded {
            Ok(decoded) => decoded,
            Err(refused) => {
                findings.refused.push(refused);
                continue;
            }
        };
        if claims[place] == Some(Claim::Conflict) {
            let identity = head.identity();
            let owner = first.iter().find(|carrier| carrier.identity == identity);
            let owner = owner.map(|carrier| &given[carrier.record]);
            findings.refused.push(conflict(&given[place], &head, owner));
            continue;
        }
        findings.duplicates += usize::from(claims[place] == Some(Claim::Duplicate));
        *findings.accepted.entry(event_type).or_default() += 1;
    }
    findings
}

/// The type of an event, and what the decoder of its topic makes of it.
fn decoded<'f>(
    event: &Given<'f>,
    rules: &Rules,
    changes: &mut Vec<Change>,
) -> Result<(String, EventHead<'f>), Refused> {
    let event_type = match &rules.event_type {
        Some(event_type) => event_type.clone(),
        None => own_type(event.payload).map_or_else(String::new, Cow::into_owned),
    };
    let size = check_size(Some(event.payload), rules.max_event_bytes);
    let is_too_large = size.is_err();
    let head = size.and_then(|()| match event_type.as_str() {
        BALANCE_CHANGED => decode_balance_event(Some(event.payload), changes),
        _ => decode_domain_event(Some(event.payload), &event_type),
    });
    match head {
        Ok(head) => Ok((event_type, head)),
        Err(defect) => {
            let advice = match is_too_large {
                true => "Send less in one event, or raise MAX_EVENT_BYTES of the ingesters.".into(),
                false => advice(&defect, &event_type),
            };
            let reason = defect.reason.as_str();
            Err(event.refused(defect.event_id, reason, defect.detail, advice))
        }
    }
}

/// What to change.
fn advice(defect: &Defect, event_type: &str) -> String {
    match defect.reason {
        DeadReason::MalformedJson => format!(
            "Send one JSON text (RFC 8259) for each event: UTF-8 without byte order mark, at most {MAX_DEPTH} levels deep."
        ),
        DeadReason::UnknownEventType => {
            format!("Send the event to the topic of its own type, or set eventType to {event_type:?}.")
        }
        DeadReason::InvalidAmount => {
            "Write the delta as a string such as \"-12.50\": at most 18 digits before and 18 behind the point, \
             no exponent, no plus sign."
                .to_owned()
        }
        _ if event_type == BALANCE_CHANGED || types().contains(&event_type) => format!(
            "Compare the event with `sluice events sample {event_type}`; `sluice events schema {event_type}` has all its fields."
        ),
        _ => "An event has eventId, eventType and data, and may have timestamp and source: see `sluice events sample user.created`."
            .to_owned(),
    }
}

fn conflict(event: &Given<'_>, head: &EventHead<'_>, owner: Option<&Given<'_>>) -> Refused {
    let owner = owner.map_or_else(String::new, |owner| {
        format!("{}:{}", owner.file, owner.line)
    });
    event.refused(
        Some(head.event_id.clone().into_owned()),
        RejectReason::EventIdConflict.as_str(),
        format!("{owner} has the same source and eventId, and other bytes."),
        "Give each event an eventId of its own. A retry sends the same bytes again.".to_owned(),
    )
}

/// The events of a file. Each stands on a line of its own, or on several that only together are one JSON text; empty lines
/// do not count.
pub fn events_of(file: &File) -> Vec<Given<'_>> {
    let bytes = &file.bytes;
    let (mut events, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let end = match is_empty(&bytes[at..line_end(bytes, at)]) {
            true => line_end(bytes, at),
            false => event_end(bytes, at),
        };
        let payload = &bytes[at..end];
        if !is_empty(payload) {
            let file = &file.name;
            events.push(Given {
                file,
                line,
                payload,
            });
        }
        line += 1 + line_breaks(payload);
        at = end + 1;
    }
    events
}

/// The end of the last line of the event that begins here.
fn event_end(bytes: &[u8], at: usize) -> usize {
    let first = line_end(bytes, at);
    let (mut end, mut step) = (first, 1);
    // Twice as many lines each time, so that no byte is read more often than a few times.
    while end < bytes.len() && is_unfinished(&bytes[at..end]) {
        for _ in 0..step {
            end = next_line_end(bytes, end);
        }
        step *= 2;
    }
    if end == first {
        return first;
    }
    if let Some(length) = whole_value(&bytes[at..end]) {
        let end = line_end(bytes, at + length);
        // What follows begins on a line of its own.
        if is_empty(&bytes[at + length..end]) {
            return end;
        }
    }
    // It stays unfinished: its lines end where another event begins.
    end = first;
    while end < bytes.len() && !bytes[end + 1..].starts_with(b"{") {
        end = next_line_end(bytes, end);
    }
    end
}

/// The line break at or behind this place, or else the end.
fn line_end(bytes: &[u8], at: usize) -> usize {
    let found = bytes[at..].iter().position(|byte| *byte == b'\n');
    found.map_or(bytes.len(), |length| at + length)
}

/// The end of the line behind the one that ends here.
fn next_line_end(bytes: &[u8], end: usize) -> usize {
    line_end(bytes, (end + 1).min(bytes.len()))
}

fn line_breaks(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn is_empty(line: &[u8]) -> bool {
    line.iter()
        .all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

fn is_unfinished(text: &[u8]) -> bool {
    let read = Reader::new(text).and_then(|mut reader| reader.skip_value());
    read.is_err_and(|malformed| malformed.fault == Fault::Unfinished)
}

/// Where the first value of a text ends.
fn whole_value(text: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(text).ok()?;
    reader.skip_value().ok()?;
    Some(reader.position())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File {
            name: "events.jsonl".to_owned(),
            bytes: text.as_bytes().to_vec(),
        }
    }

    fn found(text: &str) -> Findings {
        let rules = Rules {
            event_type: None,
            max_event_bytes: 1 << 20,
        };
        check(&[file(text)], &rules)
    }

    fn credit(event_id: &str) -> String {
        format!(
            r#"{{"eventId":"{event_id}","eventType":"balance.changed","data":{{"accountId":1,"changes":[{{"currencyCode":"USD","availableDelta":"1"}}]}}}}"#
        )
    }

    /// Lines at which events begin.
    fn lines(text: &str) -> Vec<usize> {
        events_of(&file(text))
            .iter()
            .map(|event| event.line)
            .collect()
    }

    #[test]
    fn an_event_takes_a_line_or_as_many_as_make_it_whole() {
        let pretty = "{\n  \"a\": [\n    1\n  ]\n}\n";
        for (text, expected) in [
            ("", vec![]),
            ("\n \r\n\t\n", vec![]),
            ("{}\n{}\n", vec![1, 2]),
            ("{}\n\n{}", vec![1, 3]),
            (pretty, vec![1]),
            (&format!("{pretty}{pretty}\n{{}}\n"), vec![1, 6, 12]),
            ("hello\nworld\n{}\n", vec![1, 2, 3]),
            // Cut off: the next line is an event of its own.
            ("{\"a\": {\n{}\n{}\n", vec![1, 2, 3]),
            ("{\n  \"a\": 1\n{}\n", vec![1, 3]),
            ("{\n  \"a\": 1\n", vec![1]),
            ("{\n} {\n}\n", vec![1]),
        ] {
            assert_eq!(lines(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_is_judged_as_the_record_would_be() {
        let misspelt = credit("e-2").replace("availableDelta", "availabelDelta");
        let float = credit("e-3").replace("\"1\"", "1e3");
        let user = r#"{"eventId":"u-1","eventType":"user.created","data":{"a":1,"a":2}}"#;
        let typeless = r#"{"eventId":"u-2","data":{}}"#;
        let good = credit("e-1");
        let text = format!("{good}\n{misspelt}\n{float}\n{user}\n{typeless}\n{{\n{good}\n");
        let found = found(&text);
        let told: Vec<_> = found
            .refused
            .iter()
            .map(|refused| (refused.line, refused.event_id.as_deref(), refused.reason))
            .collect();
        let expected = [
            (2, Some("e-2"), "INVALID_EVENT"),
            (3, Some("e-3"), "INVALID_AMOUNT"),
            (4, Some("u-1"), "INVALID_EVENT"),
            (5, Some("u-2"), "INVALID_EVENT"),
            (6, None, "MALFORMED_JSON"),
        ];
        assert_eq!(told, expected);
        assert!(found.refused[0].message.contains("availabelDelta"));
        assert!(found.refused[3].message.contains("eventType is missing"));
        assert_eq!((found.events(), found.duplicates), (7, 1));
        assert_eq!(
            found.accepted,
            BTreeMap::from([(BALANCE_CHANGED.to_owned(), 2)])
        );
    }

    #[test]
    fn an_id_that_is_given_again_with_other_bytes_is_a_conflict() {
        let other = credit("e-1").replace("\"1\"", "\"2\"");
        let found = found(&format!("{}\n{other}\n", credit("e-1")));
        assert_eq!(found.refused.len(), 1);
        let refused = &found.refused[0];
        assert_eq!((refused.line, refused.reason), (2, "EVENT_ID_CONFLICT"));
        assert!(
            refused.message.starts_with("events.jsonl:1 "),
            "{refused:?}"
        );
    }

    #[test]
    fn the_topic_and_the_limit_of_bytes_may_be_given() {
        let rules = Rules {
            event_type: Some("user.created".to_owned()),
            max_event_bytes: 1 << 20,
        };
        let found = check(&[file(&credit("e-1"))], &rules);
        assert_eq!(found.refused[0].reason, "UNKNOWN_EVENT_TYPE");
        let rules = Rules {
            event_type: None,
            max_event_bytes: 10,
        };
        let found = check(&[file(&credit("e-1"))], &rules);
        assert_eq!(found.refused[0].reason, "INVALID_EVENT");
        assert!(found.refused[0].advice.contains("MAX_EVENT_BYTES"));
    }
}
