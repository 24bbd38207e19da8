//! The start of a service: its clients, its tasks and its first connection, and how all of them end together.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::back_off::back_off;
use crate::config::run::RunSettings;
use crate::http;
use crate::http::token::Token;
use crate::http::told::{LastAnswer, Told};
use crate::kafka::producer::TopicProducer;
use crate::leases::lease::Session;
use crate::operator::jobs::Jobs;
use crate::operator::overview::Overview;
use crate::operator::session::ACTION_LIMIT;
use crate::outbox::dead_letters::DeadLetterWork;
use crate::outbox::results::Results;
use crate::postgres::database::{Database, IS_READ_ONLY};
use crate::postgres::error::{
    Consequence, STANDBY, consequence, describe, describe_at, is_refusal,
};
use crate::postgres::pool::Manager;
use crate::postgres::pooler;
use crate::postgres::precedence::{CONTROL_CONNECTIONS, ControlSession};
use crate::redis_marks::Hint;
use crate::run::conductor::{Conductor, Parts};
use crate::run::renewals::{self, Leases, Renewals};
use crate::run::service::Service;
use crate::schema::migrations::{self, Misfit};
use crate::words::of_io;

/// How long the grants, which come at the end of a migration, may be missing while one is running.
const MIGRATION: Duration = Duration::from_secs(60);
/// For the page: opened when somebody opens the page.
const OPERATOR_CONNECTIONS: usize = 3;
/// Between tries to connect, unless another wait is given.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A task that ends when this is dropped.
type Task = AbortOnDropHandle<()>;

/// Runs until `shutdown`; an error is one line for the operator.
pub async fn run(settings: RunSettings, shutdown: CancellationToken) -> Result<(), String> {
    let service = Service::new(&settings)?;
    // Before anything that may have to wait: health is served from the first moment on.
    let serving = serve(&settings, &service).await?;
    let (wake, woken) = mpsc::channel(1);
    let Some(standby) = connect_first(&settings, &wake, &shutdown).await? else {
        return Ok(());
    };
    log_settings(&settings);
    service
        .watcher
        .precedence
        .set_open(ControlSession::Standby, true);
    let leases = Arc::<Leases>::default();
    let mut renewals = renew(&settings, &service, &leases);
    let watcher = service.watcher.clone();
    let watching = Task::new(tokio::spawn(async move { watcher.keep_watching().await }));
    let results = results(&settings, &service, &leases)?;
    let ttl = settings.redis.as_ref().map(|(_, ttl)| *ttl);
    let redis = settings.redis.clone();
    let (pool, status) = (&service.pool, &service.status);
    let hint = redis.map(|(redis, ttl)| Hint::start(redis, ttl, pool.clone(), status.clone()));
    let (wake_dead_letters, dead_letters) =
        dead_letters(&settings, &service, &leases, hint.clone().zip(ttl))?;
    let _looking = look_at_database(&settings, &service);
    let conductor = Conductor::new(Parts {
        settings,
        service,
        leases,
        hint,
        wake_dead_letters,
        standby,
        wake,
        quit: shutdown.clone(),
    });
    tokio::select! {
        () = conductor.conduct(woken, shutdown) => Ok(()),
        // None of these tasks ends by itself: without renewals no lease would last.
        _ = dead_letters => Err(panicked("retries dead letters")),
        _ = serving.http => Err(panicked("serves HTTP")),
        _ = ended(results) => Err(panicked("produces results")),
        _ = &mut renewals => Err(panicked("renews leases")),
        _ = watching => Err(panicked("watches for answers of PostgreSQL")),
    }
}

fn panicked(what: &str) -> String {
    format!("internal error: the task that {what} panicked; the log line before this says where")
}

/// The HTTP server; it stops when this is dropped.
struct Serving {
    http: AbortOnDropHandle<std::convert::Infallible>,
    _probes: Option<AbortOnDropHandle<std::convert::Infallible>>,
    _overview: Task,
}

async fn serve(settings: &RunSettings, service: &Service) -> Result<Serving, String> {
    let listener = http::bind(settings.port_setting, settings.http).await?;
    let address = listener.local_addr().map_err(|error| of_io(&error))?;
    let probes = match settings.probes {
        Some(address) => Some(http::bind("PROBE_PORT", address).await?),
        None => None,
    };
    let operator = settings
        .operator
        .clone()
        .with_statement_limit(ACTION_LIMIT)
        .in_utc();
    let operator = Manager::of_operator(&operator, &service.watcher)
        .pool(OPERATOR_CONNECTIONS, settings.connection_timeout)?;
    let overview = Arc::new(Overview::new(operator.clone()));
    let told = Arc::new(Told {
        service_id: settings.service_id.clone(),
        status: service.status.clone(),
        metrics: service.metrics.clone(),
        pool: service.pool.clone(),
        pool_size: settings.pool_size + CONTROL_CONNECTIONS,
        jobs: Jobs::new(operator.clone()),
        operator,
        overview: overview.clone(),
        admin_token: settings.admin_token.as_ref().map(Token::of),
        health: LastAnswer::default(),
        scrape: LastAnswer::default(),
    });
    let probes = match probes {
        Some(listener) => {
            let address = listener.local_addr().map_err(|error| of_io(&error))?;
            info!(probes = %address, "serving /livez and /readyz");
            let probing = http::serve_probes(listener, told.clone());
            Some(AbortOnDropHandle::new(tokio::spawn(probing)))
        }
        None => None,
    };
    let http = AbortOnDropHandle::new(tokio::spawn(http::serve(listener, told)));
    let overview = Task::new(tokio::spawn(async move { overview.keep_looking().await }));
    info!(%address, "serving the page, /health and /metrics");
    Ok(Serving {
        http,
        _probes: probes,
        _overview: overview,
    })
}

fn log_settings(settings: &RunSettings) {
    let event_topics = settings.kafka.event_topics.as_ref();
    info!(
        balance_topics = settings.kafka.balance_topics.join(","),
        event_topics = event_topics.map(|names| names.join(",")),
        database = settings.database.address(),
        kafka = settings.kafka.brokers,
        batch_size = settings.gate.batch_size,
        "sluice runs"
    );
}

fn renew(settings: &RunSettings, service: &Service, leases: &Arc<Leases>) -> Task {
    Task::new(tokio::spawn(renewals::keep_renewing(Renewals {
        database: settings.database.clone(),
        lease: settings.lease,
        interval: settings.renew_interval,
        leases: leases.clone(),
        watcher: service.watcher.clone(),
        status: service.status.clone(),
        metrics: service.metrics.clone(),
    })))
}

fn producer(
    settings: &RunSettings,
    topic: &Option<String>,
) -> Result<Option<TopicProducer>, String> {
    let topic = topic.as_ref();
    topic
        .map(|topic| TopicProducer::new(&settings.kafka, topic))
        .transpose()
}

fn results(
    settings: &RunSettings,
    service: &Service,
    leases: &Arc<Leases>,
) -> Result<Option<Task>, String> {
    let Some(producer) = producer(settings, &settings.kafka.results_topic)? else {
        return Ok(None);
    };
    let results = Results {
        pool: service.pool.clone(),
        producer,
        key: settings.kafka.results_key,
        status: service.status.clone(),
        begun: HashSet::new(),
    };
    let led = leases.clone();
    let running = tokio::spawn(results.keep_producing(move || led.all()));
    Ok(Some(Task::new(running)))
}

/// The task for dead letters, and what wakes it.
fn dead_letters(
    settings: &RunSettings,
    service: &Service,
    leases: &Arc<Leases>,
    hint: Option<(Hint, Duration)>,
) -> Result<(Arc<Notify>, Task), String> {
    let work = DeadLetterWork {
        pool: service.pool.clone(),
        retry: settings.retry.clone(),
        hint,
        producer: producer(settings, &settings.kafka.dlq_topic)?,
        wake: Arc::default(),
        metrics: service.metrics.clone(),
    };
    let wake = work.wake.clone();
    let led = leases.clone();
    let running = tokio::spawn(work.keep_working(move || led.all()));
    Ok((wake, Task::new(running)))
}

/// Starts the task that queries the database for metrics about work for a person.
fn look_at_database(settings: &RunSettings, service: &Service) -> Task {
    let (metrics, pool) = (service.metrics.clone(), service.pool.clone());
    let dangling_after = settings.dangling_after;
    Task::new(tokio::spawn(async move {
        metrics.look(pool, dangling_after).await;
    }))
}

/// Waits for a task, if there is one.
async fn ended(task: Option<Task>) -> Result<(), tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Why a session that was opened is of no use.
enum Unfit {
    /// A standby, until it is promoted or the address leads elsewhere.
    ReadOnly,
    Misfit(Misfit),
}

/// Whether an instance can work by this session.
async fn fits(
    session: &Session,
    database: &Database,
) -> Result<Result<(), Unfit>, tokio_postgres::Error> {
    let client = session.client();
    if pooler::is_between(client, database).await? {
        let shared = format!("DATABASE_URL: {}: {}", database.address(), pooler::ADVICE);
        return Ok(Err(Unfit::Misfit(Misfit::Wrong(shared))));
    }
    if client.query_typed_one(IS_READ_ONLY, &[]).await?.get(0) {
        return Ok(Err(Unfit::ReadOnly));
    }
    Ok(migrations::fits(client).await?.map_err(Unfit::Misfit))
}

/// The first connection: waits for an unreachable server and for a migration, gives up if the server refuses.
async fn connect_first(
    settings: &RunSettings,
    wake: &mpsc::Sender<()>,
    shutdown: &CancellationToken,
) -> Result<Option<Session>, String> {
    let mut waits = back_off();
    let mut was_behind: Option<Instant> = None;
    loop {
        let opened = async {
            let session =
                Session::open(&settings.database, settings.lease, Some(wake.clone())).await?;
            let fit = fits(&session, &settings.database).await?;
            Ok::<_, tokio_postgres::Error>((session, fit))
        };
        let address = settings.database.address();
        let trouble = match tokio::time::timeout(settings.connection_timeout * 2, opened).await {
            Ok(Ok((session, Ok(())))) => return Ok(Some(session)),
            Ok(Ok((_, Err(Unfit::ReadOnly)))) => {
                format!("PostgreSQL at {address} is read-only: {STANDBY}; trying again")
            }
            Ok(Ok((_, Err(Unfit::Misfit(Misfit::Wrong(misfit)))))) => return Err(misfit),
            Ok(Ok((_, Err(Unfit::Misfit(Misfit::Behind(misfit)))))) => {
                was_behind = Some(Instant::now());
                format!("waiting for a migration: {misfit}")
            }
            // Its grants come last.
            Ok(Err(error))
                if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
                    && was_behind.is_some_and(|since| since.elapsed() < MIGRATION) =>
            {
                format!("waiting for the end of a migration: {}", describe(&error))
            }
            Ok(Err(error)) if is_refusal(&error) || consequence(&error) == Consequence::Halt => {
                return Err(format!("DATABASE_URL: {}", describe_at(&address, &error)));
            }
            Ok(Err(error)) => format!("{}; trying again", describe_at(&address, &error)),
            Err(_) => {
                format!("cannot reach PostgreSQL at {address}: no answer in time; trying again")
            }
        };
        warn!("DATABASE_URL: {trouble}");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)) => {}
        }
    }
}
