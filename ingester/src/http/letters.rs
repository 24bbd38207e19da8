//! Dead letters by HTTP: a page of those that match, one with all that is known of it, and what is done with them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::http::asked::{Answer, Asked, Given, bad, not_done, parameters, refused, unreadable};
use crate::http::refusal::Refusal;
use crate::http::told::Told;
use crate::operator::dead_letters::{self, CHUNK, Deed, Filter, Query, Start, is_left_out};
use crate::operator::session::{ANSWER_LIMIT, within};

/// How long PostgreSQL may take to show dead letters.
pub const SHOW_LIMIT: Duration = Duration::from_secs(3);
/// Dead letters of one answer at most, and where nothing is said.
const LETTERS: i64 = 200;
const PARAMETERS: [&str; 12] = [
    "status", "topic", "type", "code", "event_id", "key", "text", "since", "until", "before",
    "after", "limit",
];

/// Which letters; what is not given is open.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    topic: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    code: Option<String>,
    event_id: Option<String>,
    key: Option<String>,
    text: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

impl Which {
    /// In words.
    pub fn describe(&self) -> String {
        let parts = [
            ("topic", &self.topic),
            ("type", &self.event_type),
            ("reason", &self.code),
            ("event", &self.event_id),
            ("key", &self.key),
            ("text", &self.text),
            ("since", &self.since),
            ("until", &self.until),
        ];
        let given = parts.iter().filter_map(|(name, value)| {
            let value = value.as_ref()?;
            Some(format!("{name} {value}"))
        });
        let given: Vec<String> = given.collect();
        match given.is_empty() {
            true => "all".to_owned(),
            false => given.join(", "),
        }
    }

    pub fn into_filter(self) -> Filter {
        Filter {
            id: None,
            topic: self.topic,
            event_type: self.event_type,
            code: self.code,
            key: self.key,
            since: self.since,
            until: self.until,
            event_id: self.event_id,
            text: self.text,
        }
    }
}

pub async fn letters(State(told): State<Arc<Told>>, given: Given) -> Answer {
    let mut given = parameters(given, &PARAMETERS)?;
    let mut take = |name: &str| given.remove(name).filter(|value| !value.is_empty());
    let status = take("status");
    if let Some(status) = &status
        && !["PARKED", "REPLAYED", "DISCARDED"].contains(&status.as_str())
    {
        return Err(bad(format!(
            "status: {status:?} is none of PARKED, REPLAYED, DISCARDED"
        )));
    }
    let start = match (take("before"), take("after")) {
        (None, None) => Start::Latest,
        (Some(id), None) => Start::Before(id_of("before", &id)?),
        (None, Some(id)) => Start::After(id_of("after", &id)?),
        (Some(_), Some(_)) => return Err(bad("before, after: give one of them".to_owned())),
    };
    let limit = match take("limit") {
        None => LETTERS,
        Some(limit) => id_of("limit", &limit)?,
    };
    if !(1..=LETTERS).contains(&limit) {
        return Err(bad(format!("limit: must be 1 to {LETTERS}")));
    }
    let which = Which {
        topic: take("topic"),
        event_type: take("type"),
        code: take("code"),
        event_id: take("event_id"),
        key: take("key"),
        text: take("text"),
        since: take("since"),
        until: take("until"),
    };
    let filter = which.into_filter();
    let query = Query {
        filter: &filter,
        status: status.as_deref(),
        limit: Some(limit),
    };
    let page = within(&told.operator, SHOW_LIMIT, async |client| {
        query.page(client, start).await
    });
    let page = page.await.map_err(refused)?;
    Ok(Json(json!({
        "limit": limit, "matching": page.matching, "newer": page.newer, "letters": page.letters,
    })))
}

fn id_of(name: &str, text: &str) -> Result<i64, Refusal> {
    text.parse()
        .map_err(|_| bad(format!("{name}: {text:?} is no whole number")))
}

pub async fn letter(State(told): State<Arc<Told>>, Path(id): Path<String>, given: Given) -> Answer {
    parameters(given, &[])?;
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

/// Dead letters to be replayed, discarded or restored; in a dry run nobody has to say who and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Letters {
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

pub async fn replay(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    letters: GivenLetters,
) -> Answer {
    let Json(letters) = letters.map_err(unreadable)?;
    let payload = letters.payload.as_ref().map(String::as_bytes);
    act(&told, peer, "replay", &Deed::Replay(payload), &letters).await
}

pub async fn discard(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    letters: GivenLetters,
) -> Answer {
    let Json(letters) = letters.map_err(unreadable)?;
    uncorrected(&letters)?;
    act(&told, peer, "discard", &Deed::Discard, &letters).await
}

pub async fn restore(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    letters: GivenLetters,
) -> Answer {
    let Json(letters) = letters.map_err(unreadable)?;
    uncorrected(&letters)?;
    act(&told, peer, "restore", &Deed::Restore, &letters).await
}

fn uncorrected(letters: &Letters) -> Result<(), Refusal> {
    match letters.payload {
        None => Ok(()),
        Some(_) => Err(bad("payload: only what is replayed is corrected".to_owned())),
    }
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
        return Err(bad(format!("ids: must be 1 to {CHUNK}")));
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
        deed.act_and_tell(client, ids, why.as_deref(), dry_run)
            .await
    });
    let done = done.await;
    if let Some(why) = &why {
        let outcome = match &done {
            Ok(letters) => {
                let done = letters.iter().filter(|letter| !is_left_out(letter));
                format!("{} of {} letters", done.count(), letters.len())
            }
            Err(trouble) => trouble.describe(),
        };
        info!(action, ?ids, why, peer = %peer.ip(), outcome, "an operator acts");
    }
    let outcomes = done.map_err(not_done)?;
    Ok(Json(json!({"dry_run": dry_run, "outcomes": outcomes})))
}
