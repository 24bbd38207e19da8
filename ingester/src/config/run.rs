//! How a service gathers, leads and retries.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use backon::BackoffBuilder;
use clap::{ArgAction, Args as ClapArgs, ValueEnum};

use crate::config::database::DatabaseArgs;
use crate::config::kafka::{KafkaArgs, KafkaSettings};
use crate::config::redis_server::RedisArgs;
use crate::config::secrets::Secret;
use crate::config::sessions::SessionArgs;
use crate::config::setting::{BadSetting, bad};
use crate::postgres::database::Database;
use crate::redis_marks::Redis;

/// How `run` gathers, leads and retries.
#[derive(ClapArgs, Clone)]
pub struct RunArgs {
    #[command(flatten)]
    sessions: SessionArgs,
    /// Batches of 1000 records or more that PostgreSQL gets at the same time
    #[arg(long, env = "APPLY_CONCURRENCY", help_heading = "Batches", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    apply_concurrency: u16,
    /// Records of a batch at most
    #[arg(long, env = "BATCH_SIZE", help_heading = "Batches", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_size: u32,
    /// Bytes of a batch at most, records and their rows
    #[arg(long, env = "BATCH_BYTES", help_heading = "Batches", default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..=33_554_432))]
    batch_bytes: u32,
    /// Bytes of a payload at most; a larger one is a dead letter
    #[arg(long, env = "MAX_EVENT_BYTES", help_heading = "Batches", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    max_event_bytes: u32,
    /// Milliseconds that a batch waits for more records at the longest, where BATCHING_DELAY_MS is not set
    #[arg(long, env = "BATCH_TIMEOUT_MS", help_heading = "Batches", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    batch_timeout_ms: Option<u64>,
    /// Milliseconds that a batch waits for more records at the longest, counted from its first; 0 sends what is there [default: BATCH_TIMEOUT_MS, or 30]
    #[arg(long, env = "BATCHING_DELAY_MS", help_heading = "Batches", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    batching_delay_ms: Option<u64>,
    /// Milliseconds after which a silent leader is replaced
    #[arg(long, env = "LEASE_MS", help_heading = "Leadership", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    lease_ms: u64,
    /// Milliseconds between renewals of the lease
    #[arg(long, env = "RENEW_INTERVAL_MS", help_heading = "Leadership", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=300_000))]
    renew_interval_ms: u64,
    /// Milliseconds between looks for partitions to take over
    #[arg(long, env = "STANDBY_POLL_MS", help_heading = "Leadership", default_value_t = 500, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    standby_poll_ms: u64,
    /// Name of this instance; default: host name and a random part
    #[arg(long, env = "SERVICE_ID", help_heading = "Leadership")]
    service_id: Option<String>,
    /// Where a partition begins that was never read before
    #[arg(long, env = "START_OFFSET", help_heading = "Leadership", value_enum, default_value_t = StartOffset::Earliest)]
    start_offset: StartOffset,
    /// Tries of a record that the database refuses
    #[arg(long, env = "MAX_RETRY_ATTEMPTS", help_heading = "Records that are refused", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    max_retry_attempts: u32,
    /// Milliseconds before the second try
    #[arg(long, env = "RETRY_DELAY_MS", help_heading = "Records that are refused", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    retry_delay_ms: u64,
    /// Port of the page, /health and /metrics; 0 takes a free one and logs it [default: 3010]
    #[arg(long, env = "PORT", help_heading = "HTTP and metrics")]
    port: Option<u16>,
    /// Another name of PORT, which it precedes
    #[arg(
        long,
        env = "DB_WRITER_SERVICE_PORT",
        help_heading = "HTTP and metrics",
        hide = true
    )]
    db_writer_service_port: Option<u16>,
    /// A further port, for /livez and /readyz alone; 0 takes a free one and logs it; default: none
    #[arg(long, env = "PROBE_PORT", help_heading = "HTTP and metrics")]
    probe_port: Option<u16>,
    /// Address to listen on
    #[arg(
        long,
        env = "HTTP_HOST",
        help_heading = "HTTP and metrics",
        default_value = "127.0.0.1"
    )]
    http_host: IpAddr,
    /// Bearer token for HTTP requests that change state, 16 bytes or more; default: none, and nothing can be changed by HTTP
    #[arg(
        long,
        env = "ADMIN_TOKEN",
        help_heading = "HTTP and metrics",
        hide_env_values = true
    )]
    admin_token: Option<String>,
    /// Seconds after which a reference to nothing is counted in the metrics
    #[arg(long, env = "DANGLING_AFTER", help_heading = "HTTP and metrics", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    dangling_after: u64,
    /// Whether each further wait is twice as long
    #[arg(long, env = "EXPONENTIAL_BACKOFF", help_heading = "Records that are refused", default_value_t = true, action = ArgAction::Set)]
    exponential_backoff: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StartOffset {
    Earliest,
    Latest,
}

#[derive(Clone, Debug)]
pub struct GateSettings {
    pub batch_size: usize,
    pub batch_bytes: usize,
    pub max_event_bytes: usize,
    pub batching_delay: Duration,
}

#[derive(Clone, Debug)]
pub struct RetrySettings {
    pub max_attempts: u32,
    pub delay: Duration,
    pub exponential: bool,
}

impl RetrySettings {
    /// The waits before the second, third … try of one record.
    pub fn waits(&self) -> impl Iterator<Item = Duration> {
        let factor = if self.exponential { 2.0 } else { 1.0 };
        backon::ExponentialBuilder::default()
            .with_min_delay(self.delay)
            .with_factor(factor)
            .with_max_delay(Duration::from_secs(60))
            .with_max_times(self.max_attempts as usize - 1)
            .build()
    }
}

pub struct RunSettings {
    pub database: Database,
    pub kafka: KafkaSettings,
    /// And how long a mark stays.
    pub redis: Option<(Redis, Duration)>,
    pub pool_size: usize,
    pub apply_concurrency: usize,
    pub connection_timeout: Duration,
    pub gate: GateSettings,
    pub lease: Duration,
    pub renew_interval: Duration,
    pub standby_poll: Duration,
    pub service_id: String,
    pub start: StartOffset,
    pub retry: RetrySettings,
    /// Which setting names the port.
    pub port_setting: &'static str,
    pub http: SocketAddr,
    pub probes: Option<SocketAddr>,
    /// For what the page shows and does.
    pub operator: Database,
    pub admin_token: Option<Secret>,
    pub dangling_after: Duration,
}

/// How long a batch waits for more where nothing is set.
const BATCHING_DELAY: Duration = Duration::from_millis(30);

impl RunArgs {
    pub fn settings(
        &self,
        database: &DatabaseArgs,
        kafka: &KafkaArgs,
        redis: &RedisArgs,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<RunSettings, BadSetting> {
        if self.lease_ms < 2 * self.renew_interval_ms {
            return Err(bad(
                "LEASE_MS",
                "must be at least twice RENEW_INTERVAL_MS, or one late renewal loses every partition",
            ));
        }
        if self.lease_ms < 3 * self.standby_poll_ms {
            return Err(bad(
                "LEASE_MS",
                "must be at least three times STANDBY_POLL_MS, or a live instance seems to be gone between two looks",
            ));
        }
        let service_id = self
            .service_id
            .clone()
            .filter(|id| !id.is_empty())
            .unwrap_or_else(made_up_name);
        if service_id.len() > 255 || service_id.contains('\0') {
            return Err(bad("SERVICE_ID", "must have 1 to 255 bytes"));
        }
        let lease = Duration::from_millis(self.lease_ms);
        let idle_limit = (2 * lease).max(Duration::from_secs(10));
        Ok(RunSettings {
            database: database
                .database(&format!("sluice/{service_id}"), idle_limit)?
                .limit_events(self.max_event_bytes as usize),
            kafka: kafka.settings(environment)?,
            redis: redis.redis()?.map(|redis_at| (redis_at, redis.ttl())),
            pool_size: self.sessions.shared_connections(),
            apply_concurrency: usize::from(self.apply_concurrency),
            connection_timeout: database.connection_timeout(),
            gate: GateSettings {
                batch_size: self.batch_size as usize,
                batch_bytes: self.batch_bytes as usize,
                max_event_bytes: self.max_event_bytes as usize,
                batching_delay: self.batching_delay(),
            },
            lease,
            renew_interval: Duration::from_millis(self.renew_interval_ms),
            standby_poll: Duration::from_millis(self.standby_poll_ms),
            start: self.start_offset,
            retry: RetrySettings {
                max_attempts: self.max_retry_attempts,
                delay: Duration::from_millis(self.retry_delay_ms),
                exponential: self.exponential_backoff,
            },
            port_setting: self.port().0,
            http: SocketAddr::new(self.http_host, self.port().1),
            probes: self
                .probe_port
                .map(|port| SocketAddr::new(self.http_host, port)),
            operator: self
                .sessions
                .operator(database, &format!("sluice page/{service_id}"))?,
            admin_token: self.admin_token()?,
            dangling_after: Duration::from_secs(self.dangling_after),
            service_id,
        })
    }

    /// The setting that names the port, and the port.
    fn port(&self) -> (&'static str, u16) {
        match self.db_writer_service_port {
            Some(port) => ("DB_WRITER_SERVICE_PORT", port),
            None => ("PORT", self.port.unwrap_or(3010)),
        }
    }

    /// Who sets the longest wait of a batch only, means that one.
    fn batching_delay(&self) -> Duration {
        let given = self.batching_delay_ms.or(self.batch_timeout_ms);
        given.map_or(BATCHING_DELAY, Duration::from_millis)
    }

    fn admin_token(&self) -> Result<Option<Secret>, BadSetting> {
        let token = self.admin_token.as_deref().filter(|text| !text.is_empty());
        let token = token.map(|text| match text {
            text if text.len() < 16 => Err("must have 16 bytes or more, or it can be guessed"),
            text if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("must be of ASCII letters, digits and signs, without blanks")
            }
            text => Ok(Secret(text.to_owned())),
        });
        token
            .transpose()
            .map_err(|reason| bad("ADMIN_TOKEN", reason))
    }
}

fn made_up_name() -> String {
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!(
        "{}-{}",
        host.chars().take(200).collect::<String>(),
        &random[..8]
    )
}
