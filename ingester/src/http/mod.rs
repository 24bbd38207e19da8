//! What the service tells by HTTP: health for people and orchestrators, metrics for Prometheus,
//! a page for operators, whose actions are the only changes that come this way.
//! Health and metrics are told from memory, so that answers come at once whatever hangs behind,
//! and again for a moment, so that they cost little however often they are asked.

mod api;
mod asked;
mod events;
mod guard;
mod jobs;
mod letters;
mod page;
mod places;
pub mod refusal;
mod state;
pub mod token;
pub mod told;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing::warn;

use crate::http::places::Places;
use crate::http::refusal::Refusal;
use crate::http::told::Told;
use crate::instance;
use crate::observe::snapshot::{Health, Processed, Snapshot};
use crate::observe::{metrics, open};
use crate::words::of_io;

/// Connections at one time.
const CONNECTIONS: usize = 256;
/// The same of the listener for probes.
const PROBES: usize = 64;
/// How long a connection may be without the whole head of a request.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of the head of a request; hyper may take up to twice as many.
const HEAD: usize = 64 << 10;

/// Takes the address that `setting` names; an error is one line for the operator.
pub async fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("{setting}: cannot listen on {address}: {}", of_io(&error)))
}

/// Serves everything for as long as the process lives.
pub async fn serve(listener: TcpListener, told: Arc<Told>) -> Infallible {
    accept(listener, routes(told), CONNECTIONS).await
}

/// Serves probes alone: what keeps the other listener busy does not touch this one.
pub async fn serve_probes(listener: TcpListener, told: Arc<Told>) -> Infallible {
    let routes = probes()
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_that_way)
        .layer(middleware::map_response(guard::with_headers))
        .with_state(told);
    accept(listener, routes, PROBES).await
}

/// Takes whoever comes. A connection that has not asked for anything gives way to one more than `most`.
async fn accept(listener: TcpListener, routes: Router, most: usize) -> Infallible {
    let routes = TowerToHyperService::new(routes);
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD);
    let places = Places::new(most);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("an HTTP connection was not accepted: {}", of_io(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = Arc::new(places.take().await);
        let (routes, asks) = (routes.clone(), place.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let (asking, answer) = (asks.asking(), routes.call(request));
            async move {
                let answer = answer.await;
                drop(asking);
                answer
            }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // However it ends, it is the client's to ask again.
            tokio::select! {
                _ = connection => {}
                () = place.gives_way() => {}
            }
        });
        // Many may come at once: each is heard before the next can take its place.
        tokio::task::yield_now().await;
    }
}

/// What orchestrators ask.
fn probes() -> Router<Arc<Told>> {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

fn routes(told: Arc<Told>) -> Router {
    let guard = Arc::new(guard::Guard::new(told.admin_token.clone()));
    let api = api::routes().route_layer(middleware::from_fn_with_state(
        guard.clone(),
        guard::only_who_may,
    ));
    probes()
        .route("/health", get(health))
        .route("/metrics", get(prometheus))
        .merge(page::routes())
        .merge(api)
        .fallback(nothing_there)
        .method_not_allowed_fallback(not_that_way)
        .layer(middleware::from_fn_with_state(guard, guard::limit))
        .layer(middleware::map_response(guard::with_headers))
        .with_state(told)
}

async fn nothing_there() -> Refusal {
    let text = "there is nothing here: / is the page, docs/page.md has the rest";
    Refusal(StatusCode::NOT_FOUND, text.to_owned())
}

async fn not_that_way() -> Refusal {
    let text = "not with this method: what reads is GET, what changes is POST";
    Refusal(StatusCode::METHOD_NOT_ALLOWED, text.to_owned())
}

fn of_health(health: Health) -> StatusCode {
    match health {
        Health::Healthy | Health::Degraded => StatusCode::OK,
        Health::Down => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn health(State(told): State<Arc<Told>>) -> Response {
    let (status, text) = told.health.or(|| {
        let snapshot = told.status.snapshot();
        let body = describe(&snapshot, &told);
        (of_health(snapshot.health()), format!("{body:#}\n"))
    });
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Ready to lead; a standby is.
async fn ready(State(told): State<Arc<Told>>) -> Response {
    let snapshot = told.status.snapshot();
    match snapshot.not_ready() {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        None => format!("{}\n", snapshot.health().as_str()).into_response(),
    }
}

async fn prometheus(State(told): State<Arc<Told>>, headers: HeaderMap) -> Response {
    let (status, text) = told.scrape.or(|| {
        let text = told.metrics.render(&told.status.snapshot(), &told.pool);
        (StatusCode::OK, text)
    });
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.and_then(|value| value.to_str().ok());
    if accepted.is_some_and(open::is_asked_for) {
        let text = open::of_prometheus(&String::from_utf8_lossy(&text));
        return (status, [(header::CONTENT_TYPE, open::CONTENT_TYPE)], text).into_response();
    }
    (
        status,
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        text,
    )
        .into_response()
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
            "reason": led.map_or_else(|| snapshot.blocked.get(partition).cloned(), |led| led.reason.clone()),
        })
    });
    let last = snapshot.last_processed.as_ref().map(|last| {
        json!({
            "topic": last.partition.topic,
            "partition": last.partition.number,
            "offset": last.offset,
        })
    });
    json!({
        "status": snapshot.health().as_str(),
        "serviceId": told.service_id,
        "version": instance::VERSION,
        "uptimeSeconds": instance::uptime_s(),
        "kafka": {"connected": snapshot.kafka_is_connected, "lag": snapshot.lag()},
        "database": {
            "connected": snapshot.database_is_connected,
            "activeConnections": connections.size.saturating_sub(connections.available),
            "poolSize": told.pool_size,
        },
        "redis": {"connected": snapshot.redis_is_connected},
        "lastProcessedEvent": snapshot.last_processed.as_ref().map(Processed::at),
        "lastProcessed": last,
        "missingTopics": snapshot.missing_topics,
        "cannotLead": snapshot.cannot_lead,
        "deadLetters": {"parked": told.metrics.parked()},
        "partitions": partitions.collect::<Vec<_>>(),
    })
}
