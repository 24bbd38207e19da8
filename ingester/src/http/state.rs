//! How the instance and the whole cluster are: what the page asks for once a second.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::http::asked::{Answer, Given, parameters};
use crate::http::told::Told;
use crate::observe::snapshot::{Led, Processed, Snapshot};
use crate::operator::overview::Seen;
use crate::partition::Partition;

pub async fn state(State(told): State<Arc<Told>>, given: Given) -> Answer {
    parameters(given, &[])?;
    let (seen, snapshot) = (told.overview.seen().await, told.status.snapshot());
    Ok(Json(json!({
        "service_id": told.service_id,
        "version": env!("CARGO_PKG_VERSION"),
        "status": snapshot.health().as_str(),
        "kafka_connected": snapshot.kafka_is_connected,
        "database_connected": snapshot.database_is_connected,
        "redis_connected": snapshot.redis_is_connected,
        "last_processed_event": snapshot.last_processed.as_ref().map(Processed::at),
        "missing_topics": snapshot.missing_topics,
        "cannot_lead": snapshot.cannot_lead,
        "other_writers": told.metrics.other_writers(),
        "changes_allowed": told.admin_token.is_some(),
        "seen_s_ago": seen.at.map(|at| at.elapsed().as_secs_f64()),
        "stale": seen.is_stale(),
        "trouble": seen.trouble,
        "partitions": partitions(&seen, &snapshot, &told),
        "instances": seen.instances,
        "parked": seen.parked,
        "jobs": told.jobs.tell(),
        "history": told.metrics.history.tell(),
        "trend": told.metrics.trend.tell(),
    })))
}

/// What the database says of all partitions, what this instance knows of its own where that is old
/// or names another leader, and those that nobody has read yet. Each with the age of what is said of it.
fn partitions(seen: &Seen, snapshot: &Snapshot, told: &Told) -> Vec<Value> {
    let seen_s_ago = seen.at.map(|at| at.elapsed().as_secs_f64());
    let service_id = &told.service_id;
    let mut partitions = seen.partitions.clone();
    for row in &mut partitions {
        let reported_s_ago = row["reported_s_ago"].as_f64().unwrap_or_default();
        row["age_s"] = json!(seen_s_ago.map(|ago| ago + reported_s_ago));
        row["waiting_s"] = json!(waiting(row, told));
    }
    for (partition, led) in &snapshot.partitions {
        let is_it = |row: &&mut Value| {
            row["topic"] == *partition.topic && row["partition"] == partition.number
        };
        let known = partitions.iter_mut().find(is_it);
        match (known, led) {
            (Some(row), Some(led)) if seen.is_stale() || row["leader_svc_id"] != *service_id => {
                know(row, led, service_id);
            }
            (Some(row), Some(led)) => row["waiting_s"] = json!(waits(led)),
            (Some(_), None) => {}
            (None, led) => {
                let mut row = json!({
                    "topic": partition.topic, "partition": partition.number, "state": "no leader", "age_s": 0.0,
                });
                if let Some(led) = led {
                    know(&mut row, led, service_id);
                }
                partitions.push(row);
            }
        }
    }
    partitions
}

/// How long the oldest record waits, at least.
fn waiting(row: &Value, told: &Told) -> Option<f64> {
    row["lag"].as_i64().filter(|lag| *lag > 0)?;
    let partition = Partition {
        topic: row["topic"].as_str()?.to_owned(),
        number: i32::try_from(row["partition"].as_i64()?).ok()?,
    };
    let waiting = told.metrics.trend.waiting(&partition)?;
    Some(waiting.as_secs_f64())
}

/// The same, as its leader knows.
fn waits(led: &Led) -> Option<f64> {
    led.lag_seconds().filter(|seconds| *seconds > 0.0)
}

fn know(row: &mut Value, led: &Led, service_id: &str) {
    row["leader_svc_id"] = json!(service_id);
    row["commit_offset"] = json!(led.commit_offset);
    row["lag"] = json!(led.lag);
    row["state"] = json!(led.state.as_str());
    row["reason"] = json!(led.reason);
    row["age_s"] = json!(0.0);
    row["waiting_s"] = json!(waits(led));
    row["lease_left_s"] = Value::Null;
    row["records_per_second"] = Value::Null;
}
