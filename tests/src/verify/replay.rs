//! Topics read again, record by record, without the product: what must have become of each one.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::event::Change;
use crate::families::schema::EventType;
use crate::families::{Event, micros};
use crate::kafka::{Kafka, Record};
use crate::reference::{Balance, Ledger, Verdict, show};
use crate::workload::Message;

/// Topic, partition and offset.
pub type Place = (String, i32, i64);

/// What must have become of one record.
#[derive(Debug)]
pub struct Fate {
    pub verdict: &'static str,
    /// Any one of these; none for a verdict without a reason.
    pub reasons: Vec<&'static str>,
    /// `None` where the record is too broken to say.
    pub event_id: Option<String>,
    pub balances: Vec<Value>,
    pub message: Message,
}

/// Reads a balance topic by itself, one record after the other.
pub fn balances(kafka: &Kafka, topic: &str, partition: i32) -> Vec<(Place, Fate)> {
    let records = kafka.read(topic, partition);
    let mut ledger = Ledger::default();
    let judge = |(index, record): (usize, &Record)| {
        let judgement = ledger.judge(&records, index, None);
        let (verdict, reasons) = match judgement.verdict {
            Verdict::Applied => ("APPLIED", Vec::new()),
            Verdict::Rejected(reason) => ("REJECTED", vec![reason]),
            Verdict::Duplicate => ("DUPLICATE", Vec::new()),
            Verdict::Dead(reasons) => ("DEAD", reasons),
        };
        let balance = |(change, after): &(Change, Balance)| {
            json!({
                "accountId": change.account.id, "shardId": change.account.shard, "currencyCode": change.account.code(),
                "available": show(after.available), "frozen": show(after.frozen),
            })
        };
        let fate = Fate {
            verdict,
            reasons,
            event_id: judgement.event_id.filter(|_| verdict != "DEAD"),
            balances: judgement.log.iter().map(balance).collect(),
            message: record.message.clone(),
        };
        ((topic.to_owned(), partition, record.offset), fate)
    };
    records.iter().enumerate().map(judge).collect()
}

/// The same for a topic of domain events; the events that apply are added to `applied`.
pub fn events(
    kafka: &Kafka,
    event_type: &EventType,
    applied: &mut Vec<Event>,
) -> Vec<(Place, Fate)> {
    let validator = event_type.validator();
    let mut seen = HashMap::new();
    let mut judge = |record: Record| {
        let payload = record.message.payload.clone().unwrap_or_default();
        let mut fate = Fate {
            verdict: "DEAD",
            reasons: vec!["MALFORMED_JSON"],
            event_id: None,
            balances: Vec::new(),
            message: record.message,
        };
        if let Ok(event) = serde_json::from_slice::<Value>(&payload) {
            let event_id = event["eventId"].as_str().expect("an id").to_owned();
            if seen.insert(event_id.clone(), payload).is_some() {
                (fate.verdict, fate.reasons) = ("DUPLICATE", Vec::new());
            } else if validator.refusal(&event).is_some() {
                fate.reasons = vec!["HANDLER_FAILED"];
            } else {
                (fate.verdict, fate.reasons) = ("APPLIED", Vec::new());
                let time_us = micros(event["timestamp"].as_str().expect("a time"));
                let data = event["data"].clone();
                applied.push(Event {
                    offset: record.offset,
                    ..Event::new(&event_type.name, &event_id, time_us, data)
                });
            }
            fate.event_id = Some(event_id);
        }
        ((event_type.name.clone(), 0, record.offset), fate)
    };
    kafka
        .read(&event_type.name, 0)
        .into_iter()
        .map(&mut judge)
        .collect()
}
