//! Random events of all types, on so few ids that they meet, at so few times that they tie.

use serde_json::{Map, Value, json};

use super::schema::EventType;
use super::{Event, NEW_YEAR_US, values};
use crate::rng::Rng;
use crate::workload::Message;

/// `count` events, each type among them; a deletion is drawn `deletes` times in a thousand where it might be.
pub fn mixed(
    rng: &mut Rng,
    types: &[EventType],
    count: usize,
    pool: u64,
    deletes: u64,
) -> Vec<Event> {
    (0..count)
        .map(|n| {
            let mut event_type = types
                .get(n)
                .unwrap_or_else(|| &types[rng.below(types.len() as u64) as usize]);
            if n >= types.len() && !rng.chance(deletes) {
                let instead = event_type.name.replace(".deleted", ".updated");
                event_type = types
                    .iter()
                    .find(|found| found.name == instead)
                    .expect("deletions have updates");
            }
            let time_us =
                NEW_YEAR_US + rng.below(20) as i64 * 1_000_000 + i64::from(rng.chance(300));
            let mut event = event(rng, event_type, &format!("event-{n}"), pool, time_us);
            event.offset = rng.below(3) as i64;
            event.tie = u128::from(rng.next()) << 64 | u128::from(rng.next());
            event
        })
        .collect()
}

/// Records of all families for their topics, with repeats, garbage and events that break their handler among them; no two at the same time.
pub fn stream(rng: &mut Rng, types: &[EventType], count: usize) -> Vec<(String, Message)> {
    let mut sent: Vec<(String, Message)> = Vec::new();
    for n in 0..count {
        let event_type = &types[n % types.len()];
        let time_us = NEW_YEAR_US + (n as i64 * 7_919) % count as i64 * 1_000;
        let mut event = event(rng, event_type, &format!("mixed-{n}"), 40, time_us);
        if rng.chance(50) && n >= 10 * types.len() {
            let again = sent[n - types.len() * rng.between(1, 9) as usize].clone();
            sent.push(again);
            continue;
        }
        if rng.chance(20) {
            let required = event_type.fields.iter().find(|field| field.required);
            let data = event.data.as_object_mut().expect("an object");
            data.remove(&required.expect("a required field").name);
        }
        let payload = if rng.chance(10) {
            b"{\"eventId\": ".to_vec()
        } else {
            event.payload()
        };
        let message = Message {
            key: Some(format!("key {}", n % 100).into_bytes()),
            ..Message::of(payload)
        };
        sent.push((event_type.name.clone(), message));
    }
    sent
}

/// One event that its handler takes.
pub fn event(
    rng: &mut Rng,
    event_type: &EventType,
    event_id: &str,
    pool: u64,
    time_us: i64,
) -> Event {
    let mut data = Map::new();
    for field in &event_type.fields {
        if field.required || rng.chance(700) {
            let is_null = !field.required && rng.chance(100);
            let value = if is_null {
                Value::Null
            } else {
                values::good(rng, field, pool)
            };
            data.insert(field.name.clone(), value);
        }
    }
    values::add_extra(rng, &mut data);
    // Nobody follows or blocks themselves, and periods have a length.
    for (one, other) in [("followerId", "followeeId"), ("blockerId", "blockedId")] {
        if text(&data, one).is_some() && text(&data, one) == text(&data, other) {
            data.insert(other.to_owned(), json!("user-other"));
        }
    }
    if text(&data, "periodStart").is_some() && text(&data, "periodEnd").is_some() {
        let day = rng.between(1, 9);
        data.insert("periodStart".to_owned(), json!("2026-01-01T00:00:00Z"));
        data.insert(
            "periodEnd".to_owned(),
            json!(format!("2026-02-0{day}T00:00:00Z")),
        );
    }
    Event::new(&event_type.name, event_id, time_us, Value::Object(data))
}

fn text(data: &Map<String, Value>, field: &str) -> Option<String> {
    match data.get(field)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
