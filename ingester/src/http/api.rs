//! The API of the page: JSON in, JSON out, errors as `{"error": "…"}`. docs/page.md describes it for others.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tracing::info;

use crate::http::asked::{Answer, Asked, BODY_BYTES, not_done, unreadable};
use crate::http::refusal::Refusal;
use crate::http::told::Told;
use crate::http::{events, jobs, letters, state};
use crate::operator::partitions::Action;
use crate::operator::session::{ANSWER_LIMIT, within};
use crate::partition::Partition;

pub fn routes() -> Router<Arc<Told>> {
    Router::new()
        .route("/api/state", get(state::state))
        .route("/api/events", get(events::find))
        .route("/api/dead-letters", get(letters::letters))
        .route("/api/dead-letters/{id}", get(letters::letter))
        .route("/api/dead-letters/replay", post(letters::replay))
        .route("/api/dead-letters/discard", post(letters::discard))
        .route("/api/dead-letters/restore", post(letters::restore))
        .route("/api/jobs", get(jobs::jobs).post(jobs::begin))
        .route("/api/jobs/{id}", get(jobs::job))
        .route("/api/jobs/{id}/{action}", post(jobs::change))
        .route("/api/partitions/{topic}/{number}/{action}", post(partition))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
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
