//! Marks in Redis, `processed:{source}:{eventId}`, for other services that want to know early
//! whether an event was processed. Set after COMMIT, according to the verdict in the database: a
//! `DEAD` or `REJECTED` event gets none, nor does its duplicate. Sluice never reads them, and works
//! without them when Redis is away: the database's identities decide.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ledger::span::Span;
use openssl::ssl::SslConnector;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_openssl::SslStream;
use tokio_postgres::types::ToSql;
use tracing::{debug, info, warn};

use crate::back_off::back_off;
use crate::observe::status::Status;
use crate::partition::Partition;
use crate::postgres::pool::{AskError, Pool};
use crate::throttle::Throttle;
use crate::tls::{self, Files, Names};
use crate::words::{self, of_io};

const TLS_NAMES: Names = Names {
    ca: "REDIS_CA",
    certificate: "REDIS_CERT",
    key: "REDIS_KEY",
    host: "the host of REDIS_URL (REDIS_HOST)",
};

/// Batches whose marks may wait; batches that come while the queue is full are not marked.
const QUEUE: usize = 64;
/// How long Redis may take for the marks of one batch.
const ANSWER: Duration = Duration::from_secs(2);
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// How often Redis is pinged while there is nothing to mark.
const PING: Duration = Duration::from_secs(2);
/// How long PostgreSQL may take to say which records of a batch were not processed.
const LOOK: Duration = Duration::from_secs(2);

const UNPROCESSED: &str = "SELECT sluice.unprocessed_records($1, $2, $3, $4)";

/// The address of Redis and the login.
#[derive(Clone)]
pub struct Redis {
    client: redis::Client,
    /// Host, port and trusted CA, with TLS.
    tls: Option<(String, u16, SslConnector)>,
}

impl Redis {
    /// Login and password apply to an address without. An address may contain a password anywhere,
    /// so no error quotes from it.
    pub fn parse(
        url: &str,
        username: Option<&str>,
        password: Option<&str>,
        files: &Files,
    ) -> Result<Self, String> {
        const FORM: &str = "not redis://user:password@host:port/database, or rediss:// for TLS; \
             in a password # is written as %23, / as %2F, @ as %40";
        if url.contains('#') {
            return Err(FORM.to_owned());
        }
        let plain = ["rediss://", "valkeys://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .map(|rest| format!("redis://{rest}"));
        let mut info = plain
            .as_deref()
            .unwrap_or(url)
            .into_connection_info()
            .map_err(|_| FORM.to_owned())?;
        let mut login = info.redis_settings().clone();
        if let Some(username) = username.filter(|_| login.username().is_none()) {
            login = login.set_username(username);
        }
        if let Some(password) = password.filter(|_| login.password().is_none()) {
            login = login.set_password(password);
        }
        info = info.set_redis_settings(login);
        let tls = match (&plain, info.addr()) {
            (Some(_), ConnectionAddr::Tcp(host, port)) => {
                let connector = files.connector(&TLS_NAMES)?.build();
                Some((host.clone(), *port, connector))
            }
            _ if files.are_given() => {
                return Err(
                    "REDIS_CA, REDIS_CERT and REDIS_KEY need TLS: rediss://, or REDIS_TLS with REDIS_HOST"
                        .to_owned(),
                );
            }
            _ => None,
        };
        let client = redis::Client::open(info).map_err(|_| FORM.to_owned())?;
        Ok(Self { client, tls })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let Some((host, port, connector)) = &self.tls else {
            return self
                .client
                .get_multiplexed_async_connection()
                .await
                .map_err(|error| said(&error));
        };
        let tcp = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(|error| of_io(&error))?;
        tcp.set_nodelay(true).map_err(|error| of_io(&error))?;
        let unusable = |error: openssl::error::ErrorStack| tls::words(&error.to_string());
        let ssl = connector
            .configure()
            .and_then(|configured| configured.into_ssl(host))
            .map_err(unusable)?;
        let mut stream = SslStream::new(ssl, tcp).map_err(unusable)?;
        if let Err(error) = Pin::new(&mut stream).connect().await {
            return Err(refused(&error.to_string(), stream.ssl().verify_result()));
        }
        let settings = self.client.get_connection_info().redis_settings();
        let config = AsyncConnectionConfig::default();
        let opened = MultiplexedConnection::new_with_config(settings, stream, config).await;
        let (connection, driver) = opened.map_err(|error| self.said_by_server(&error))?;
        tokio::spawn(driver);
        Ok(connection)
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), String> {
        let mut connection = self.connect().await?;
        let asked = redis::cmd("PING");
        let answer: Result<String, RedisError> = asked.query_async(&mut connection).await;
        answer
            .map(drop)
            .map_err(|error| self.said_by_server(&error))
    }

    /// The error of the first exchange on a new connection. With TLS 1.3 a server checks our
    /// certificate only then, and its alert may be lost to the reset that follows it.
    fn said_by_server(&self, error: &RedisError) -> String {
        let said = said(error);
        if self.tls.is_none() || !error.is_connection_dropped() || said.contains(TLS_NAMES.key) {
            return said;
        }
        let Names {
            certificate, key, ..
        } = TLS_NAMES;
        format!(
            "{said}; if the server wants a certificate of ours, {certificate} and {key} must name one that it trusts"
        )
    }
}

/// The kind of the error; the message of Redis itself may quote anything.
fn said(error: &RedisError) -> String {
    if let Some(io) = words::cause::<std::io::Error>(error) {
        return advised(&io.to_string(), &of_io(io));
    }
    let kind = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
            return "Redis refuses the login; REDIS_USERNAME and REDIS_PASSWORD, or REDIS_URL, must name a login that Redis lets in"
                .to_owned();
        }
        _ if error.is_connection_refusal() => "connection refused: nothing listens there",
        _ if error.is_timeout() => "no answer in time",
        _ if error.is_connection_dropped() => "Redis closed the connection",
        _ if error.is_io_error() => return advised(&error.to_string(), "the connection failed"),
        (_, Some("LOADING")) => "Redis is still loading its data",
        (_, Some("READONLY")) => "this Redis is a read-only replica",
        (_, Some("OOM")) => "Redis has no memory left",
        (_, Some("MISCONF")) => "Redis cannot save to its disk, and takes no writes",
        (_, Some(code)) => return format!("Redis answered with error {code}"),
        _ => "Redis answered with something that is no answer: does another service listen there?",
    };
    kind.to_owned()
}

fn refused(error: &str, verified: openssl::x509::X509VerifyResult) -> String {
    let raw = format!("{error}: {verified}");
    advised(&raw, &format!("TLS handshake failed: {}", tls::words(&raw)))
}

/// `raw` is what OpenSSL or the operating system wrote, `told` the same for people.
fn advised(raw: &str, told: &str) -> String {
    match tls::advice(raw, &TLS_NAMES) {
        Some(advice) => format!("{told}; {advice}"),
        None => told.to_owned(),
    }
}

/// A batch that was committed.
pub struct Committed {
    pub partition: Partition,
    pub span: Span,
    /// The mark of each event, with its record's offset.
    pub keys: Vec<(i64, String)>,
    /// All of them are `APPLIED`.
    pub all_processed: bool,
}

/// What is to be marked.
enum News {
    Batch(Committed),
    /// Events whose dead letters were replayed; acknowledged once Redis has their marks.
    Replays(Vec<String>, oneshot::Sender<()>),
}

#[derive(Clone)]
pub struct Hint(mpsc::Sender<News>);

impl Hint {
    /// Redis itself may be away.
    pub fn start(redis: Redis, ttl: Duration, pool: Pool, status: Arc<Status>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(mark(redis, ttl, pool, receiver, status));
        Self(sender)
    }

    /// Never waits.
    pub fn committed(&self, batch: Committed) {
        if !batch.keys.is_empty() {
            let _ = self.0.try_send(News::Batch(batch));
        }
    }

    /// Whether Redis has these marks now.
    pub async fn replayed(&self, keys: Vec<String>) -> bool {
        let (done, is_done) = oneshot::channel();
        let told = self.0.try_send(News::Replays(keys, done));
        told.is_ok() && matches!(tokio::time::timeout(ANSWER, is_done).await, Ok(Ok(())))
    }
}

/// The marks of the processed events of a batch. If the database does not answer which were not processed, none is set:
/// a missing mark does no harm, a wrong one reports what never happened.
async fn of_processed(batch: Committed, pool: &Pool) -> Vec<String> {
    let mut unprocessed = HashSet::new();
    if !batch.all_processed {
        let Partition { topic, number } = &batch.partition;
        let asked = async {
            let client = pool.get().await.map_err(AskError::of_pool)?;
            let span: [&(dyn ToSql + Sync); 4] =
                [topic, number, &batch.span.from(), &batch.span.next()];
            client.answer(client.query(UNPROCESSED, &span)).await
        };
        let asked = tokio::time::timeout(LOOK, asked).await;
        match asked.unwrap_or_else(|_| Err(AskError::Silent("none in time".to_owned()))) {
            Ok(rows) => unprocessed.extend(rows.iter().map(|row| row.get::<_, i64>(0))),
            Err(failed) => {
                debug!(partition = %batch.partition, "a batch is not marked: {}", failed.describe());
                return Vec::new();
            }
        }
    }
    let keys = batch.keys.into_iter();
    keys.filter(|(offset, _)| !unprocessed.contains(offset))
        .map(|(_, key)| key)
        .collect()
}

/// The mark of an event.
pub fn key(source: Option<&str>, event_id: &str) -> String {
    match source {
        Some(source) => format!("processed:{source}:{event_id}"),
        None => format!("processed:{event_id}"),
    }
}

async fn mark(
    redis: Redis,
    ttl: Duration,
    pool: Pool,
    mut queue: mpsc::Receiver<News>,
    status: Arc<Status>,
) {
    let mut connection: Option<MultiplexedConnection> = None;
    let mut outage = OutageLog(Throttle::every(SAY_AGAIN));
    let mut waits = back_off();
    loop {
        let (keys, done) = match tokio::time::timeout(PING, queue.recv()).await {
            Ok(Some(News::Batch(batch))) => (of_processed(batch, &pool).await, None),
            Ok(Some(News::Replays(keys, done))) => (keys, Some(done)),
            Ok(None) => return,
            Err(_) => (Vec::new(), None),
        };
        let work = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => redis.connect().await?,
            };
            let mut pipeline = redis::pipe();
            for key in &keys {
                pipeline.set_ex(key, 1, ttl.as_secs()).ignore();
            }
            if keys.is_empty() {
                pipeline.ping().ignore();
            }
            let sent = pipeline.query_async::<()>(&mut open).await;
            sent.map_err(|error| said(&error))?;
            Ok::<_, String>(open)
        };
        let outcome = tokio::time::timeout(ANSWER, work).await;
        status.redis_is_connected(matches!(outcome, Ok(Ok(_))));
        match outcome {
            Ok(Ok(open)) => {
                connection = Some(open);
                // The receiver may have been dropped.
                let _ = done.map(|done| done.send(()));
                outage.over();
                waits = back_off();
                continue;
            }
            Ok(Err(error)) => outage.say(&error),
            Err(_) => outage.say("no answer in time"),
        }
        tokio::time::sleep(waits.next().unwrap_or(SAY_AGAIN)).await;
    }
}

/// One line when Redis becomes unreachable, one when it is back, and one a minute in between.
struct OutageLog(Throttle);

impl OutageLog {
    fn say(&mut self, reason: &str) {
        if self.0.is_due() {
            warn!("REDIS_URL: events are not marked as processed, going on without: {reason}");
        }
    }

    fn over(&mut self) {
        if self.0.over() {
            info!("Redis is back: events are marked as processed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, files: &Files) -> Result<Redis, String> {
        Redis::parse(url, Some("name"), Some("word"), files)
    }

    #[test]
    fn a_login_fills_what_the_address_leaves_open() {
        let login = |url: &str| {
            let redis = parse(url, &Files::default()).expect("an address");
            let login = redis.client.get_connection_info().redis_settings().clone();
            let word = |word: Option<&str>| word.map(str::to_owned);
            (word(login.username()), word(login.password()))
        };
        let pair = |name: &str, word: &str| (Some(name.to_owned()), Some(word.to_owned()));
        assert_eq!(login("redis://h"), pair("name", "word"));
        assert_eq!(login("rediss://me:mine@h"), pair("me", "mine"));
    }

    #[test]
    fn certificates_without_tls_are_refused() {
        let files = Files {
            ca: Some("/no/such/ca".into()),
            ..Files::default()
        };
        let error = |url: &str| parse(url, &files).map(drop).expect_err(url);
        assert!(error("redis://h").contains("rediss://"));
        assert!(error("rediss://h").contains("REDIS_CA /no/such/ca"));
    }

    #[test]
    fn no_error_quotes_what_may_be_a_password() {
        for url in [
            "canary",
            "redis://:canary#1@h",
            "redis://u:canary/x@h",
            "redis://u:1/canary@h",
            "rediss://u:canary@h:canary",
        ] {
            let error = parse(url, &Files::default()).map(drop).expect_err(url);
            assert!(!error.contains("canary"), "{url}: {error}");
        }
    }

    #[test]
    fn a_mark_names_the_source_where_there_is_one() {
        assert_eq!(key(None, "e"), "processed:e");
        assert_eq!(key(Some("s"), "e"), "processed:s:e");
    }
}
