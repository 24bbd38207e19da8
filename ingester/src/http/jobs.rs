//! Jobs by HTTP: what is done with all dead letters that match, how far it is, its end, and that it is undone.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use crate::http::asked::{Answer, Asked, Given, bad, parameters, unreadable};
use crate::http::letters::Which;
use crate::http::refusal::Refusal;
use crate::http::told::Told;
use crate::operator::jobs::{Action, Job, Order, Refused};

pub async fn jobs(State(told): State<Arc<Told>>, given: Given) -> Answer {
    parameters(given, &[])?;
    Ok(Json(json!({"jobs": told.jobs.tell()})))
}

pub async fn job(State(told): State<Arc<Told>>, Path(id): Path<String>, given: Given) -> Answer {
    parameters(given, &[])?;
    let job = told.jobs.find(number(&id)?);
    let job = job.ok_or_else(|| refused(&id, &Refused::NoSuch))?;
    Ok(Json(job.tell()))
}

/// A job for all letters that match; where no filter is given `all` has to say so.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    action: String,
    #[serde(default)]
    filter: Which,
    #[serde(default)]
    all: bool,
    #[serde(default = "yes")]
    dry_run: bool,
    #[serde(default)]
    by: String,
    #[serde(default)]
    why: String,
}

fn yes() -> bool {
    true
}

pub async fn begin(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Answer {
    let Json(wanted) = wanted.map_err(unreadable)?;
    let Some(action) = Action::of(&wanted.action) else {
        return Err(bad(format!(
            "action: {:?} is none of replay, discard, restore",
            wanted.action
        )));
    };
    let asked = Asked {
        by: wanted.by,
        why: wanted.why,
    };
    let why = match wanted.dry_run {
        true => String::new(),
        false => asked.recorded()?,
    };
    let which = wanted.filter.describe();
    let filter = wanted.filter.into_filter();
    if !wanted.all && !filter.says_which() {
        let text = "filter: say which letters, or \"all\": true";
        return Err(bad(text.to_owned()));
    }
    let job = told.jobs.begin(Order {
        action,
        filter,
        which: which.clone(),
        dry_run: wanted.dry_run,
        why: why.clone(),
    });
    let job = job.map_err(|refusal| refused("", &refusal))?;
    info!(?action, which, wanted.dry_run, why, peer = %peer.ip(), "an operator begins a job");
    answer(&job)
}

pub async fn change(
    State(told): State<Arc<Told>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((id, action)): Path<(String, String)>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Answer {
    let number = number(&id)?;
    let Json(asked) = asked.map_err(unreadable)?;
    let why = asked.recorded()?;
    let changed = match action.as_str() {
        "stop" => told.jobs.stop(number),
        "undo" => told.jobs.undo(number, why.clone()),
        _ => {
            let text = "stop or undo".to_owned();
            return Err(Refusal(StatusCode::NOT_FOUND, text));
        }
    };
    let job = changed.map_err(|refusal| refused(&id, &refusal))?;
    info!(action, job = id, why, peer = %peer.ip(), "an operator acts");
    answer(&job)
}

fn answer(job: &Job) -> Answer {
    Ok(Json(job.tell()))
}

fn number(id: &str) -> Result<i64, Refusal> {
    id.parse().map_err(|_| refused(id, &Refused::NoSuch))
}

fn refused(id: &str, refusal: &Refused) -> Refusal {
    match refusal {
        Refused::TooMany => Refusal(
            StatusCode::CONFLICT,
            "two jobs are running: wait, or stop one".to_owned(),
        ),
        Refused::NoSuch => Refusal(
            StatusCode::NOT_FOUND,
            format!(
                "this instance has no job {id}: it was asked of another one, or before a restart"
            ),
        ),
        Refused::NotThatOne(text) => Refusal(StatusCode::CONFLICT, (*text).to_owned()),
    }
}
