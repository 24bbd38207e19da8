//! Settings: what stands in the environment or on the command line (the `…Args`), and what it
//! means once checked (the `…Settings`). A bad value is one line that names the setting.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use backon::BackoffBuilder;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args as ClapArgs, ValueEnum};

use crate::postgres::database::{Database, Tls};
use crate::postgres::precedence::CONTROL_CONNECTIONS;
use crate::redis_marks::Redis;
use crate::tls::Files;

/// Where PostgreSQL is. Shared by all commands.
#[derive(ClapArgs, Clone)]
pub struct DatabaseArgs {
    /// Address of PostgreSQL, postgres://user:password@host:port/database?sslmode=…
    #[arg(long, env = "DATABASE_URL")]
    database_url: Option<String>,
    /// Host, instead of DATABASE_URL
    #[arg(long, env = "DB_HOST")]
    db_host: Option<String>,
    /// Port, with DB_HOST
    #[arg(long, env = "DB_PORT", default_value_t = 5432)]
    db_port: u16,
    /// Login, with DB_HOST
    #[arg(long, env = "DB_USERNAME")]
    db_username: Option<String>,
    /// Password, with DB_HOST
    #[arg(long, env = "DB_PASSWORD")]
    db_password: Option<String>,
    /// Database, with DB_HOST
    #[arg(long, env = "DB_DATABASE")]
    db_database: Option<String>,
    /// disable, prefer, require, verify-ca or verify-full, where no address says; without any: prefer
    #[arg(long, env = "DB_SSLMODE")]
    db_sslmode: Option<String>,
    /// File of the CA that must have signed PostgreSQL's certificate; without: whom the machine trusts
    #[arg(long, env = "DB_SSLROOTCERT")]
    db_sslrootcert: Option<String>,
    /// File of our certificate, where PostgreSQL asks for one
    #[arg(long, env = "DB_SSLCERT")]
    db_sslcert: Option<String>,
    /// File of its key
    #[arg(long, env = "DB_SSLKEY")]
    db_sslkey: Option<String>,
    /// Superuser's address, for migrations
    #[arg(long, env = "ADMIN_DATABASE_URL")]
    admin_database_url: Option<String>,
    /// Milliseconds that connecting may take
    #[arg(long, env = "DB_CONNECTION_TIMEOUT", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    db_connection_timeout: u64,
}

/// Where Kafka is and what is read. Shared by `run` and `check`.
#[derive(ClapArgs, Clone)]
pub struct KafkaArgs {
    /// Kafka's brokers, host:port, comma separated
    #[arg(long, env = "KAFKA_BROKERS")]
    kafka_brokers: Option<String>,
    /// Name under which Kafka knows this client
    #[arg(long, env = "KAFKA_CLIENT_ID", default_value = "db-writer-service")]
    kafka_client_id: String,
    /// Consumer group whose offsets are committed, for lag tools only
    #[arg(long, env = "KAFKA_GROUP_ID", default_value = "db-writer-group")]
    kafka_group_id: String,
    /// Topics with balance events, comma separated; empty: none; default: balance.changed, awaited as long as it is not there
    #[arg(long, env = "BALANCE_TOPICS")]
    balance_topics: Option<String>,
    /// Topics with domain events, comma separated; default: those of all registered handlers, also later ones
    #[arg(long, env = "EVENT_TOPICS")]
    event_topics: Option<String>,
    /// Topic that each dead letter is produced to; empty: none
    #[arg(long, env = "DLQ_TOPIC", default_value = "db-writer.dlq")]
    dlq_topic: String,
    /// Topic that the verdict of each event is produced to; default: none
    #[arg(long, env = "RESULTS_TOPIC", default_value = "")]
    results_topic: String,
}

/// Where processed events are marked.
#[derive(ClapArgs, Clone)]
pub struct RedisArgs {
    /// Address of Redis, redis://user:password@host:port/database; rediss:// by TLS
    #[arg(long, env = "REDIS_URL")]
    redis_url: Option<String>,
    /// Host, instead of REDIS_URL
    #[arg(long, env = "REDIS_HOST")]
    redis_host: Option<String>,
    /// Port, with REDIS_HOST
    #[arg(long, env = "REDIS_PORT", default_value_t = 6379)]
    redis_port: u16,
    /// Whether by TLS, with REDIS_HOST
    #[arg(long, env = "REDIS_TLS", default_value_t = false, action = ArgAction::Set)]
    redis_tls: bool,
    /// Login, where the address names none
    #[arg(long, env = "REDIS_USERNAME")]
    redis_username: Option<String>,
    /// Password, where the address has none
    #[arg(long, env = "REDIS_PASSWORD")]
    redis_password: Option<String>,
    /// File of the CA that must have signed Redis's certificate; without: whom the machine trusts
    #[arg(long, env = "REDIS_CA")]
    redis_ca: Option<String>,
    /// File of our certificate, where Redis asks for one
    #[arg(long, env = "REDIS_CERT")]
    redis_cert: Option<String>,
    /// File of its key
    #[arg(long, env = "REDIS_KEY")]
    redis_key: Option<String>,
    /// Seconds that an event stays marked
    #[arg(long, env = "IDEMPOTENCY_TTL", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    idempotency_ttl: u64,
}

/// How `run` gathers, leads and retries.
#[derive(ClapArgs, Clone)]
pub struct RunArgs {
    /// Connections to PostgreSQL at most
    #[arg(long, env = "DB_POOL_SIZE", default_value_t = 20, value_parser = clap::value_parser!(u16).range(4..=1000))]
    db_pool_size: u16,
    /// Batches of 1000 records or more that PostgreSQL gets at the same time
    #[arg(long, env = "APPLY_CONCURRENCY", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    apply_concurrency: u16,
    /// Records of a batch at most
    #[arg(long, env = "BATCH_SIZE", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_size: u32,
    /// Bytes of a batch at most, records and their rows
    #[arg(long, env = "BATCH_BYTES", default_value_t = 4 << 20, value_parser = clap::value_parser!(u32).range(1024..=33_554_432))]
    batch_bytes: u32,
    /// Bytes of a payload at most; a larger one is a dead letter
    #[arg(long, env = "MAX_EVENT_BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    max_event_bytes: u32,
    /// Milliseconds that a batch waits for more records at the longest, where BATCHING_DELAY_MS is not set
    #[arg(long, env = "BATCH_TIMEOUT_MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    batch_timeout_ms: Option<u64>,
    /// Milliseconds that a batch waits for more records at the longest, counted from its first; 0 sends what is there [default: BATCH_TIMEOUT_MS, or 30]
    #[arg(long, env = "BATCHING_DELAY_MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    batching_delay_ms: Option<u64>,
    /// Milliseconds after which a silent leader is replaced
    #[arg(long, env = "LEASE_MS", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    lease_ms: u64,
    /// Milliseconds between renewals of the lease
    #[arg(long, env = "RENEW_INTERVAL_MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=300_000))]
    renew_interval_ms: u64,
    /// Milliseconds between looks for partitions to take over
    #[arg(long, env = "STANDBY_POLL_MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    standby_poll_ms: u64,
    /// Name of this instance; default: host name and a random part
    #[arg(long, env = "SERVICE_ID")]
    service_id: Option<String>,
    /// Where a partition begins that was never read before
    #[arg(long, env = "START_OFFSET", value_enum, default_value_t = StartOffset::Earliest)]
    start_offset: StartOffset,
    /// Tries of a record that the database refuses
    #[arg(long, env = "MAX_RETRY_ATTEMPTS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    max_retry_attempts: u32,
    /// Milliseconds before the second try
    #[arg(long, env = "RETRY_DELAY_MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    retry_delay_ms: u64,
    /// Port of /health, /metrics and their like; 0 takes a free one and logs it [default: PORT, or 3010]
    #[arg(long, env = "DB_WRITER_SERVICE_PORT")]
    db_writer_service_port: Option<u16>,
    /// The same, by the name that platforms give it
    #[arg(long, env = "PORT")]
    port: Option<u16>,
    /// A further port, for /livez and /readyz alone; 0 takes a free one and logs it; default: none
    #[arg(long, env = "PROBE_PORT")]
    probe_port: Option<u16>,
    /// Address to listen on
    #[arg(long, env = "HTTP_HOST", default_value = "127.0.0.1")]
    http_host: IpAddr,
    /// Secret of those who may change something by HTTP, 16 bytes or more; default: nobody may
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// Address for the page, with the login of a member of sluice_admin; default: DATABASE_URL
    #[arg(long, env = "OPERATOR_DATABASE_URL", hide_env_values = true)]
    operator_database_url: Option<String>,
    /// Seconds after which a reference to nothing is counted in the metrics
    #[arg(long, env = "DANGLING_AFTER", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    dangling_after: u64,
    /// Whether each further wait is twice as long
    #[arg(long, env = "EXPONENTIAL_BACKOFF", default_value_t = true, action = ArgAction::Set)]
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

#[derive(Clone)]
pub struct KafkaSettings {
    pub brokers: String,
    pub client_id: String,
    pub group_id: String,
    pub balance_topics: Vec<String>,
    /// Nobody has named them: they need not exist yet.
    pub awaits_balance_topics: bool,
    /// `None`: those of the registered handlers.
    pub event_topics: Option<Vec<String>>,
    pub dlq_topic: Option<String>,
    pub results_topic: Option<String>,
    /// librdkafka properties from `KAFKA_…`, with the name of the variable.
    pub properties: BTreeMap<String, (String, String)>,
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
    pub http: SocketAddr,
    pub probes: Option<SocketAddr>,
    /// For what the page shows and does.
    pub operator: Database,
    pub admin_token: Option<Secret>,
    pub dangling_after: Duration,
}

/// A text that neither log nor error quotes.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// A setting that cannot be meant: one line that names it.
#[derive(Debug, PartialEq, Eq)]
pub struct BadSetting(pub String);

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn bad(name: &str, what: impl fmt::Display) -> BadSetting {
    BadSetting(format!("{name}: {what}"))
}

/// How long a batch waits for more where nothing is set.
const BATCHING_DELAY: Duration = Duration::from_millis(30);
/// The topic that is read where BALANCE_TOPICS names none.
const BALANCE_TOPIC: &str = "balance.changed";

/// Own settings that begin with KAFKA_, and the property each stands for.
const OWN_KAFKA: [&str; 4] = [
    "KAFKA_BROKERS",
    "KAFKA_CLIENT_ID",
    "KAFKA_GROUP_ID",
    "KAFKA_AUTO_COMMIT",
];
/// Kubernetes puts these there for a service that is called kafka.
fn is_kubernetes(name: &str) -> bool {
    ["KAFKA_SERVICE_HOST", "KAFKA_SERVICE_PORT", "KAFKA_PORT"]
        .iter()
        .any(|prefix| name == *prefix || name.starts_with(&format!("{prefix}_")))
}

/// An empty variable, as compose files and charts write "not set", is not set; topics may be none.
pub fn without_empty_variables(command: clap::Command) -> clap::Command {
    let heed = |argument: clap::Arg| {
        let is_empty = argument
            .get_env()
            .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
        if is_empty
            && !["BALANCE_TOPICS", "EVENT_TOPICS", "DLQ_TOPIC"]
                .map(Some)
                .contains(&argument.get_env().and_then(|name| name.to_str()))
        {
            argument.env(None::<&'static str>)
        } else {
            argument
        }
    };
    command
        .mut_args(heed)
        .mut_subcommands(|command| command.mut_args(heed))
}

/// Settings that may hold a secret. Each comes from the environment, or from the file that `<NAME>_FILE`
/// names, as secrets are mounted; never from the command line, which every user of a machine can read.
const SECRETS: [&str; 7] = [
    "DATABASE_URL",
    "ADMIN_DATABASE_URL",
    "OPERATOR_DATABASE_URL",
    "ADMIN_TOKEN",
    "DB_PASSWORD",
    "REDIS_URL",
    "REDIS_PASSWORD",
];

const SECRETS_HELP: &str = "\
Secrets, each from the environment or from the file that NAME_FILE names, never from the command line:";
const KAFKA_HELP: &str = "\
Properties of librdkafka, from the environment as KAFKA_NAME or the file that KAFKA_NAME_FILE names; for TLS and SASL:
  PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL [env: KAFKA_SECURITY_PROTOCOL]
  File of the CA that must have signed the brokers' certificates; without: whom the machine trusts [env: KAFKA_SSL_CA_LOCATION]
  File of our certificate, where the brokers ask for one [env: KAFKA_SSL_CERTIFICATE_LOCATION]
  File of its key [env: KAFKA_SSL_KEY_LOCATION]
  PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 [env: KAFKA_SASL_MECHANISM]
  Login [env: KAFKA_SASL_USERNAME]
  Password; better KAFKA_SASL_PASSWORD_FILE [env: KAFKA_SASL_PASSWORD]";

/// Shows secrets apart from the flags that they are not.
pub fn with_secrets_apart(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|command| {
        let mut help = String::new();
        for argument in command.get_arguments() {
            if let Some(name) = secret_of(argument) {
                let what = argument.get_help().map(ToString::to_string);
                help += &format!("\n  {} [env: {name}]", what.unwrap_or_default());
            }
        }
        if help.is_empty() {
            return command;
        }
        let reads_kafka = command
            .get_arguments()
            .any(|argument| argument.get_id() == "kafka_brokers");
        let kafka = if reads_kafka {
            format!("\n\n{KAFKA_HELP}")
        } else {
            String::new()
        };
        command
            .mut_args(|argument| match secret_of(&argument) {
                Some(_) => argument.hide(true),
                None => argument,
            })
            .after_help(format!("{SECRETS_HELP}{help}{kafka}"))
    })
}

fn secret_of(argument: &clap::Arg) -> Option<&'static str> {
    let name = argument.get_env()?.to_str()?;
    SECRETS.into_iter().find(|secret| *secret == name)
}

/// Takes secrets from the files that the environment names.
pub fn with_secret_files(command: clap::Command) -> Result<clap::Command, BadSetting> {
    let mut secrets: BTreeMap<&str, String> = BTreeMap::new();
    for name in SECRETS {
        let setting = format!("{name}_FILE");
        if let Some(path) = std::env::var_os(&setting).filter(|path| !path.is_empty()) {
            if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
                return Err(both_set(&setting, name));
            }
            secrets.insert(name, read_secret(&setting, Path::new(&path))?);
        }
    }
    let heed = |argument: clap::Arg| match secret_of(&argument).and_then(|name| secrets.get(name)) {
        Some(secret) => argument.default_value(secret.clone()),
        None => argument,
    };
    Ok(command.mut_subcommands(|command| command.mut_args(heed)))
}

/// Refuses a secret on the command line, and says where it belongs.
pub fn refuse_secrets_in(matches: &ArgMatches) -> Result<(), BadSetting> {
    let mut matches = Some(matches);
    while let Some(level) = matches {
        for id in level.ids() {
            let name = id.as_str().to_uppercase();
            if SECRETS.contains(&name.as_str())
                && level.value_source(id.as_str()) == Some(ValueSource::CommandLine)
            {
                return Err(bad(
                    &name,
                    format!(
                        "every user of this machine can read a command line: set {name} or {name}_FILE in the environment instead"
                    ),
                ));
            }
        }
        matches = level.subcommand().map(|(_, below)| below);
    }
    Ok(())
}

fn both_set(file: &str, name: &str) -> BadSetting {
    bad(file, format!("{name} is set, too: unset one of them"))
}

/// What the file says that `setting` names, without the line end that editors leave.
fn read_secret(setting: &str, path: &Path) -> Result<String, BadSetting> {
    let secret = std::fs::read_to_string(path)
        .map_err(|error| bad(setting, format!("cannot read {}: {error}", path.display())))?;
    Ok(secret.trim_end_matches(['\r', '\n']).to_owned())
}

/// Properties whose values Sluice's guarantees rest on.
const FIXED: [&str; 20] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "client.id",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "enable.partition.eof",
    "allow.auto.create.topics",
    "check.crcs",
    "debug",
    "log.queue",
    "statistics.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.propagation.max.ms",
    // Of the producer.
    "enable.idempotence",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "transactional.id",
];

impl DatabaseArgs {
    /// The ingester's own login.
    pub fn database(
        &self,
        application: &str,
        idle_limit: Duration,
    ) -> Result<Database, BadSetting> {
        let (wait, tls) = (self.connection_timeout(), self.tls()?);
        if let Some(url) = self.database_url.as_deref().filter(|url| !url.is_empty()) {
            return Database::parse(url, &tls, wait, application, idle_limit)
                .map_err(|error| bad("DATABASE_URL", error));
        }
        let host = self.db_host.as_deref().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| {
            bad(
                "DATABASE_URL",
                "missing; set it, or DB_HOST with DB_USERNAME, DB_PASSWORD, DB_DATABASE",
            )
        })?;
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(self.db_port);
        if let Some(user) = &self.db_username {
            config.user(user);
        }
        if let Some(password) = &self.db_password {
            config.password(password);
        }
        if let Some(name) = &self.db_database {
            config.dbname(name);
        }
        Database::from_config(config, &tls, wait, application, idle_limit)
            .map_err(|error| bad("DB_HOST", error))
    }

    /// What holds where an address says nothing of TLS.
    fn tls(&self) -> Result<Tls, BadSetting> {
        let mut tls = Tls::default();
        for (setting, parameter, value) in [
            ("DB_SSLMODE", "sslmode", &self.db_sslmode),
            ("DB_SSLROOTCERT", "sslrootcert", &self.db_sslrootcert),
            ("DB_SSLCERT", "sslcert", &self.db_sslcert),
            ("DB_SSLKEY", "sslkey", &self.db_sslkey),
        ] {
            if let Some(value) = value {
                tls.set(parameter, value)
                    .map_err(|error| bad(setting, error))?;
            }
        }
        Ok(tls)
    }

    /// For migrations: a superuser, or else the ingester's own login.
    pub fn admin(&self, application: &str) -> Result<Database, BadSetting> {
        let (idle_limit, wait) = (Duration::ZERO, self.connection_timeout());
        match self
            .admin_database_url
            .as_deref()
            .filter(|url| !url.is_empty())
        {
            Some(url) => Database::parse(url, &self.tls()?, wait, application, idle_limit)
                .map_err(|error| bad("ADMIN_DATABASE_URL", error)),
            None => self.database(application, idle_limit),
        }
    }

    pub fn connection_timeout(&self) -> Duration {
        Duration::from_millis(self.db_connection_timeout)
    }
}

impl KafkaArgs {
    pub fn settings(
        &self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<KafkaSettings, BadSetting> {
        let brokers = self
            .kafka_brokers
            .clone()
            .filter(|brokers| !brokers.is_empty());
        let brokers = brokers.ok_or_else(|| {
            bad(
                "KAFKA_BROKERS",
                "missing; set it to host:port, comma separated",
            )
        })?;
        let named = self.balance_topics.as_deref();
        let balance_topics = topics("BALANCE_TOPICS", named.unwrap_or(BALANCE_TOPIC))?;
        let event_topics = self.event_topics.as_deref();
        let event_topics = event_topics
            .map(|list| topics("EVENT_TOPICS", list))
            .transpose()?;
        if balance_topics.is_empty() && event_topics.as_ref().is_some_and(Vec::is_empty) {
            return Err(bad(
                "BALANCE_TOPICS",
                "empty, as EVENT_TOPICS is: there is nothing to read",
            ));
        }
        let both = event_topics.iter().flatten();
        if let Some(topic) = both
            .into_iter()
            .find(|topic| balance_topics.contains(topic))
        {
            return Err(bad(
                "EVENT_TOPICS",
                format!("{topic} is one of BALANCE_TOPICS: a topic is one or the other"),
            ));
        }
        let written = |setting, list| -> Result<Option<String>, BadSetting> {
            let mut topics = topics(setting, list)?;
            let topic = topics.pop();
            if !topics.is_empty() {
                return Err(bad(setting, "must be one topic"));
            }
            let read = balance_topics.iter().chain(event_topics.iter().flatten());
            match read.into_iter().find(|read| Some(*read) == topic.as_ref()) {
                Some(topic) => Err(bad(
                    setting,
                    format!("{topic} is read, too: what is produced would come back"),
                )),
                None => Ok(topic),
            }
        };
        let dlq_topic = written("DLQ_TOPIC", &self.dlq_topic)?;
        let results_topic = written("RESULTS_TOPIC", &self.results_topic)?;
        let mut properties = BTreeMap::new();
        for (name, value) in environment.filter(|(name, _)| name.starts_with("KAFKA_")) {
            let (plain, value) = match name.strip_suffix("_FILE") {
                Some(plain) if !value.is_empty() => (plain, read_secret(&name, Path::new(&value))?),
                _ => (name.as_str(), value),
            };
            let property = plain["KAFKA_".len()..].to_lowercase().replace('_', ".");
            if name == "KAFKA_AUTO_COMMIT"
                && !["false", "0", ""].contains(&value.to_lowercase().as_str())
            {
                return Err(bad(
                    &name,
                    "must be false: offsets are committed by the database, with the money",
                ));
            }
            if OWN_KAFKA.contains(&plain) || value.is_empty() || is_kubernetes(&name) {
                continue;
            }
            if FIXED.contains(&property.as_str()) {
                return Err(bad(
                    &name,
                    format!("{property} cannot be set: Sluice's guarantees rest on its value"),
                ));
            }
            let (file, given) = (format!("{plain}_FILE"), plain.to_owned());
            if properties.insert(property, (name, value)).is_some() {
                return Err(both_set(&file, &given));
            }
        }
        let (client_id, group_id) = (self.kafka_client_id.clone(), self.kafka_group_id.clone());
        Ok(KafkaSettings {
            brokers,
            client_id,
            group_id,
            balance_topics,
            awaits_balance_topics: named.is_none(),
            event_topics,
            dlq_topic,
            results_topic,
            properties,
        })
    }
}

impl RedisArgs {
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.idempotency_ttl)
    }

    /// Where Redis is, if it is to be told anything.
    pub fn redis(&self) -> Result<Option<Redis>, BadSetting> {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let scheme = if self.redis_tls { "rediss" } else { "redis" };
        let by_host =
            given(&self.redis_host).map(|host| format!("{scheme}://{host}:{}", self.redis_port));
        let (setting, url) = match (given(&self.redis_url), by_host) {
            (Some(url), _) => ("REDIS_URL", url),
            (None, Some(url)) => ("REDIS_HOST", url),
            (None, None) => return Ok(None),
        };
        let path = |value: &Option<String>| given(value).map(Into::into);
        let files = Files {
            ca: path(&self.redis_ca),
            certificate: path(&self.redis_cert),
            key: path(&self.redis_key),
        };
        let (username, password) = (given(&self.redis_username), given(&self.redis_password));
        Redis::parse(&url, username.as_deref(), password.as_deref(), &files)
            .map(Some)
            .map_err(|error| bad(setting, error))
    }
}

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
            pool_size: usize::from(self.db_pool_size) - CONTROL_CONNECTIONS,
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
            http: SocketAddr::new(
                self.http_host,
                self.db_writer_service_port.or(self.port).unwrap_or(3010),
            ),
            probes: self
                .probe_port
                .map(|port| SocketAddr::new(self.http_host, port)),
            operator: self.operator(database, &service_id)?,
            admin_token: self.admin_token()?,
            dangling_after: Duration::from_secs(self.dangling_after),
            service_id,
        })
    }

    /// Who sets the longest wait of a batch only, means that one.
    fn batching_delay(&self) -> Duration {
        let given = self.batching_delay_ms.or(self.batch_timeout_ms);
        given.map_or(BATCHING_DELAY, Duration::from_millis)
    }

    /// A login of its own where one is given, so that the ingester's may do no more than before.
    fn operator(&self, own: &DatabaseArgs, service_id: &str) -> Result<Database, BadSetting> {
        let application = format!("sluice page/{service_id}");
        let idle_limit = Duration::from_secs(10);
        let url = self.operator_database_url.as_deref();
        match url.filter(|url| !url.is_empty()) {
            Some(url) => Database::parse(
                url,
                &own.tls()?,
                own.connection_timeout(),
                &application,
                idle_limit,
            )
            .map_err(|error| bad("OPERATOR_DATABASE_URL", error)),
            None => own.database(&application, idle_limit),
        }
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

fn topics(setting: &str, list: &str) -> Result<Vec<String>, BadSetting> {
    let mut topics: Vec<String> = list
        .split(',')
        .map(|topic| topic.trim().to_owned())
        .filter(|t| !t.is_empty())
        .collect();
    topics.sort();
    topics.dedup();
    let well_formed = |topic: &String| {
        topic.len() <= 249
            && topic
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    match topics.iter().find(|topic| !well_formed(topic)) {
        Some(topic) => Err(bad(
            setting,
            format!("{topic:?} is no name of a Kafka topic"),
        )),
        None => Ok(topics),
    }
}

/// The environment without what is not UTF-8: no setting of ours is.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
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
