//! What the service tells by HTTP: health for people and orchestrators, metrics for Prometheus.
//! Everything is told from memory, so that answers come at once whatever hangs behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use deadpool_postgres::Pool;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::metrics::{self, Metrics};
use crate::status::{Health, Snapshot, Status};

/// What there is to tell.
#[derive(Clone)]
pub struct Told {
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
    pub pool: Pool,
    pub pool_size: usize,
}

/// Takes the address; an error is one line for the operator.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("DB_WRITER_SERVICE_PORT: cannot listen on {address}: {error}"))
}

/// Serves for as long as the process lives.
pub async fn serve(listener: TcpListener, told: Told) -> Result<(), std::io::Error> {
    let routes = Router::new()
        .route("/health", get(health))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .with_state(told);
    axum::serve(listener, routes).await
}

fn of_health(health: Health) -> StatusCode {
    match health {
        Health::Ok | Health::Degraded => StatusCode::OK,
        Health::Down => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn health(State(told): State<Told>) -> Response {
    let snapshot = told.status.snapshot();
    let body = describe(&snapshot, &told);
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (of_health(snapshot.health()), headers, format!("{body:#}\n")).into_response()
}

/// Ready to lead; a standby is.
async fn ready(State(told): State<Told>) -> Response {
    let health = told.status.snapshot().health();
    (of_health(health), format!("{}\n", health.as_str())).into_response()
}

async fn prometheus(State(told): State<Told>) -> Response {
    let text = told.metrics.render(&told.status.snapshot(), &told.pool);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

fn describe(snapshot: &Snapshot, told: &Told) -> Value {
    let connections = told.pool.status();
    let partitions = snapshot.partitions.iter().map(|(partition, led)| {
        let led = led.as_ref();
        json!({
            "topic": partition.topic,
            "partition": partition.number,
            "role": if led.is_some() { "leader" } else { "standby" },
            "lag": led.and_then(|led| led.lag),
            "commitOffset": led.map(|led| led.commit_offset),
            "state": led.map(|led| led.state.as_str()),
            "reason": led.and_then(|led| led.reason.clone()),
        })
    });
    let last = snapshot.last_processed.as_ref().map(|last| {
        let at = last.committed_at.duration_since(UNIX_EPOCH);
        json!({
            "topic": last.partition.topic,
            "partition": last.partition.number,
            "offset": last.offset,
            "committedAtMs": at.map_or(0, |at| at.as_millis() as u64),
        })
    });
    json!({
        "status": snapshot.health().as_str(),
        "kafka": {"connected": snapshot.kafka_is_connected, "lag": snapshot.lag()},
        "database": {
            "connected": snapshot.database_is_connected,
            "activeConnections": connections.size.saturating_sub(connections.available),
            "poolSize": told.pool_size,
        },
        "redis": {"connected": snapshot.redis_is_connected},
        "lastProcessedEvent": last,
        "missingTopics": snapshot.missing_topics,
        "partitions": partitions.collect::<Vec<_>>(),
    })
}
