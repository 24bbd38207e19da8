//! The API of the page: JSON in, JSON out, errors as `{"error": "…"}`. docs/page.md describes it for others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::http::refusal::Refusal;
use crate::http::told::Told;
use crate::observe::snapshot::{Led, Processed, Snapshot};
use crate::operator::dead_letters::{self, CHUNK, Deed};
use crate::operator::overview::Seen;
use crate::operator::partitions::Action;
use crate::operator::session::{ACTION_LIMIT, Trouble, within};
use crate::partition::Partition;

/// Of a request; Kafka's own limit for a record is half of it.
const BODY_BYTES: usize = 2 << 20;
/// How long PostgreSQL may take to show dead letters.
const SHOW_LIMIT: Duration = Duration::from_secs(3);
/// Longer than PostgreSQL's own limit, so that it can say that nothing is changed.
const ANSWER_LIMIT: Duration = ACTION_LIMIT.saturating_add(Duration::from_secs(1));
/// Dead letters of one answer at most.
const LETTERS: i64 = 200;
const NAME_CHARS: usize = 100;
const WHY_CHARS: usize = 1_000;

type Answer = Result<Json<Value>, Refusal>;

pub fn routes() -> Router<Arc<Told>> {
    Router::new()
        .route("/api/state", get(state))
        .route("/api/dead-letters", get(letters))
        .route("/api/dead-letters/{id}", get(letter))
        .route("/api/dead-letters/replay", post(replay))
        .route("/api/dead-letters/discard", post(discard))
        .route("/api/dead-letters/restore", post(restore))
        .route("/api/partitions/{topic}/{number}/{action}", post(partition))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
}

async fn state(State(told): State<Arc<Told>>) -> Json<Value> {
    let (seen, snapshot) = (told.overview.seen().await, told.status.snapshot());
    Json(json!({
        "service_id": told.service_id,
        "version": env!("CARGO_PKG_VERSION"),
        "status": snapshot.health().as_str(),
        "kafka_connected": snapshot.kafka_is_connected,
        "database_connected": snapshot.database_is_connected,
        "redis_connected": snapshot.redis_is_connected,
        "last_processed_event": snapshot.last_processed.as_ref().map(Processed::at),
        "missing_topics": snapshot.missing_topics,
        "other_writers": told.metrics.other_writers(),
        "changes_allowed": told.admin_token.is_some(),
        "seen_s_ago": seen.at.map(|at| at.elapsed().as_secs_f64()),
        "stale": seen.is_stale(),
        "trouble": seen.trouble,
        "partitions": partitions(&seen, &snapshot, &told.service_id),
        "parked": seen.parked,
        "history": told.metrics.history.tell(),
    }))
}

/// What the database says of all partitions, what this instance knows of its own where that is old
/// or names another leader, and those that nobody has read yet.
fn partitions(seen: &Seen, snapshot: &Snapshot, service_id: &str) -> Vec<Value> {
    let mut partitions = seen.partitions.clone();
    for (partition, led) in &snapshot.partitions {
        let is_it = |row: &&mut Value| {
            row["topic"] == *partition.topic && row["partition"] == partition.number
        };
        let known = partitions.iter_mut().find(is_it);
        match (known, led) {
            (Some(row), Some(led)) if seen.is_stale() || row["leader_svc_id"] != service_id => {
                know(row, led, service_id);
            }
            (Some(_), _) => {}
            (None, led) => {
                let mut row = json!({
                    "topic": partition.topic, "partition": partition.number, "state": "no leader",
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

fn know(row: &mut Value, led: &Led, service_id: &str) {
    row["leader_svc_id"] = json!(service_id);
    row["commit_offset"] = json!(led.commit_offset);
    row["lag"] = json!(led.lag);
    row["state"] = json!(led.state.as_str());
    row["reason"] = json!(led.reason);
    row["lease_left_s"] = Value::Null;
    row["records_per_second"] = Value::Null;
}

#[derive(Deserialize)]
struct Which {
    topic: Option<String>,
    code: Option<String>,
    status: Option<String>,
}

async fn letters(
    State(told): State<Arc<Told>>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer {
    let Query(which) = which.map_err(|bad| Refusal(bad.status(), bad.body_text()))?;
    let filter = dead_letters::Filter {
        topic: which.topic,
        code: which.code,
        ..dead_letters::Filter::default()
    };
    let query = dead_letters::Query {
        filter: &filter,
        status: which.status.as_deref(),
        limit: Some(LETTERS),
    };
    let letters = within(&told.operator, SHOW_LIMIT, async |client| {
        query.letters(client).await
    });
    let letters = letters.await.map_err(refused)?;
    Ok(Json(json!({"limit": LETTERS, "letters": letters})))
}

async fn letter(State(told): State<Arc<Told>>, Path(id): Path<String>) -> Answer {
    let nothing = || {
        Refusal(
            StatusCode::NOT_FOUND,
            format!("there is no dead letter {id}"),
        )
    };
    let number: i64 = id.parse().map_err(|_| nothing())?;
    let found = within(&told.operator, SHOW_LIMIT, async |client| {
        let Some(mut letter) = dead_letters::letter(client, number).await? else {
            return Ok(None);
        };
        let actions = dead_letters::actions(client, number).await?;
        letter.insert("actions".to_owned(), Value::Array(actions));
        Ok(Some(letter))
    });
    let letter = found.await.map_err(refused)?.ok_or_else(nothing)?;
    Ok(Json(Value::Object(letter)))
}

/// Who asks for a change, and why: told by whoever has the token, and recorded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    by: String,
    why: String,
}

impl Asked {
    /// As it stands in the database, whose own column has the login.
    fn recorded(&self) -> Result<String, Refusal> {
        let (by, why) = (self.by.trim(), self.why.trim());
        for (name, text, most) in [("by", by, NAME_CHARS), ("why", why, WHY_CHARS)] {
            let fits = (1..=most).contains(&text.chars().count());
            if !fits || text.chars().any(char::is_control) {
                let text = format!("{name}: must have 1 to {most} characters, on one line");
                return Err(Refusal(StatusCode::BAD_REQUEST, text));
            }
        }
        Ok(format!("{why} ({by})"))
    }
}

async fn partition(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((topic, number, action)): Path<(String, String, String)>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Answer {
    let nothing = |what| Refusal(StatusCode::NOT_FOUND, what);
    let action = match action.as_str() {
        "pause" => Action::Pause,
        "resume" => Action::Resume,
        "step-down" => Action::StepDown,
        _ => return Err(nothing("pause, resume or step-down".to_owned())),
    };
    let number = number
        .parse()
        .map_err(|_| nothing(format!("there is no partition {number}")))?;
    let partition = Partition { topic, number };
    let Json(asked) = asked.map_err(unreadable)?;
    let why = asked.recorded()?;
    let done = within(&told.operator, ANSWER_LIMIT, async |client| {
        action.take(client, &partition, &why).await
    });
    let done = done.await;
    let outcome = match &done {
        Ok(said) => said.clone(),
        Err(trouble) => trouble.describe(),
    };
    info!(?action, %partition, why, peer = %peer.ip(), outcome, "an operator acts");
    Ok(Json(json!({"said": done.map_err(not_done)?})))
}

/// Dead letters to be replayed, discarded or restored; in a dry run nobody has to say who and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Letters {
    ids: Vec<i64>,
    #[serde(default = "yes")]
    dry_run: bool,
    #[serde(default)]
    by: String,
    #[serde(default)]
    why: String,
    /// Corrected, for one letter.
    payload: Option<String>,
}

fn yes() -> bool {
    true
}

type GivenLetters = Result<Json<Letters>, JsonRejection>;

async fn replay(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    letters: GivenLetters,
) -> Answer {
    let Json(letters) = letters.map_err(unreadable)?;
    let payload = letters.payload.as_ref().map(String::as_bytes);
    act(&told, peer, "replay", &Deed::Replay(payload), &letters).await
}

async fn discard(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    letters: GivenLetters,
) -> Answer {
    let Json(letters) = letters.map_err(unreadable)?;
    uncorrected(&letters)?;
    act(&told, peer, "discard", &Deed::Discard, &letters).await
}

async fn restore(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    letters: GivenLetters,
) -> Answer {
    let Json(letters) = letters.map_err(unreadable)?;
    uncorrected(&letters)?;
    act(&told, peer, "restore", &Deed::Restore, &letters).await
}

fn uncorrected(letters: &Letters) -> Result<(), Refusal> {
    if letters.payload.is_none() {
        return Ok(());
    }
    let text = "payload: only what is replayed is corrected".to_owned();
    Err(Refusal(StatusCode::BAD_REQUEST, text))
}

async fn act(
    told: &Told,
    peer: SocketAddr,
    action: &str,
    deed: &Deed<'_>,
    letters: &Letters,
) -> Answer {
    let (ids, dry_run) = (&letters.ids, letters.dry_run);
    if !(1..=CHUNK).contains(&ids.len()) {
        let text = format!("ids: must be 1 to {CHUNK}");
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    }
    let asked = Asked {
        by: letters.by.clone(),
        why: letters.why.clone(),
    };
    let why = match dry_run {
        true => None,
        false => Some(asked.recorded()?),
    };
    let done = within(&told.operator, ANSWER_LIMIT, async |client| {
        deed.act(client, ids, why.as_deref(), dry_run).await
    });
    let done = done.await;
    if let Some(why) = &why {
        let outcome = match &done {
            Ok(letters) => {
                let done = letters.iter().filter(|letter| !letter["verdict"].is_null());
                format!("{} of {} letters", done.count(), letters.len())
            }
            Err(trouble) => trouble.describe(),
        };
        info!(action, ?ids, why, peer = %peer.ip(), outcome, "an operator acts");
    }
    let outcomes = done.map_err(not_done)?;
    Ok(Json(json!({"dry_run": dry_run, "outcomes": outcomes})))
}

fn unreadable(bad: JsonRejection) -> Refusal {
    let text = match bad.status() {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body has more than {BODY_BYTES} bytes"),
        _ => bad.body_text(),
    };
    Refusal(bad.status(), text)
}

/// What was to be changed, and is not, or nobody knows.
fn not_done(trouble: Trouble) -> Refusal {
    let is_late = matches!(trouble, Trouble::Late);
    let Refusal(status, text) = refused(trouble);
    match is_late {
        true => Refusal(
            status,
            format!("{text}: it is done or not, look before you try again"),
        ),
        false => Refusal(status, text),
    }
}

fn refused(trouble: Trouble) -> Refusal {
    let text = trouble.describe();
    let code = match &trouble {
        Trouble::Refused(error) => error.code().map(|code| code.code()),
        Trouble::Away(_) => None,
        Trouble::Late => return Refusal(StatusCode::GATEWAY_TIMEOUT, text),
    };
    match code {
        Some("42704") => Refusal(StatusCode::NOT_FOUND, text),
        Some("22023") => Refusal(StatusCode::BAD_REQUEST, text),
        Some("42501") => {
            let advice = "let OPERATOR_DATABASE_URL name a member of sluice_admin";
            Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("{text}; {advice}"))
        }
        Some("57014") => {
            let limit = ACTION_LIMIT.as_secs();
            let text = format!("not done within {limit} s, nothing is changed");
            Refusal(StatusCode::GATEWAY_TIMEOUT, text)
        }
        _ => Refusal(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}
