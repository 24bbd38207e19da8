//! Kafka Connect standalone with Debezium's JDBC sink.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::config::Host;

use crate::measure::sample::{Clock, Sample};
use crate::stack::{Result, Stack};

use super::update::{PARTITIONS, Update};

/// Its start included.
const TIMEOUT: Duration = Duration::from_secs(120);
const TASKS: usize = 4;
const BATCH: usize = 2_000;
/// Of a record.
const SCHEMA: &str = r#"{"type":"struct","fields":[{"field":"user_id","type":"string"},{"field":"display_name","type":"string","optional":true},{"field":"bio","type":"string","optional":true}]}"#;
/// Lines of the log that an error shows.
const TAIL: usize = 10;

#[derive(Clone, Copy)]
pub enum Setup {
    /// As its documentation shows it: each record brings its schema.
    Plain,
    /// As an expert would: the schema is in the settings, a user is written once per batch,
    /// and the driver joins the rows into few statements.
    Tuned,
}

impl Setup {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Tuned];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tuned => "tuned",
        }
    }

    /// The topic that is read, and the table that is written.
    pub fn target(self) -> String {
        format!("debezium.{}", self.name())
    }

    pub fn payload(self, update: &Update) -> Vec<u8> {
        let row = update.row();
        match self {
            Self::Plain => format!(r#"{{"schema":{SCHEMA},"payload":{row}}}"#).into_bytes(),
            Self::Tuned => row.to_string().into_bytes(),
        }
    }
}

/// A running Connect; it ends with this value, come what may.
pub struct Connect {
    pub setup: Setup,
    process: Child,
    log: PathBuf,
}

impl Connect {
    pub fn start(stack: &Stack, setup: Setup) -> Result<Self> {
        let file = |what: &str| stack.dir.join(format!("connect-{}.{what}", setup.name()));
        let (worker, sink, log) = (
            file("worker.properties"),
            file("sink.properties"),
            file("log"),
        );
        let offsets = file("offsets").display().to_string();
        std::fs::write(&worker, worker_settings(stack, setup, &offsets))?;
        std::fs::write(&sink, sink_settings(stack, setup)?)?;
        let output = File::create(&log)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/connect.sh");
        let process = Command::new(script)
            .args([&worker, &sink])
            .env("CONNECT_JAVA_OPTIONS", "-Xmx1g")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Self {
            setup,
            process,
            log,
        })
    }

    /// Watches the number of updates that its table has seen, of all partitions together, go from one to the other.
    pub async fn drain(&mut self, stack: &Stack, from: i64, to: i64) -> Result<Sample> {
        let admin = stack.admin().await?;
        let marks: Vec<String> = (0..PARTITIONS).map(Update::mark).collect();
        let progress = admin
            .prepare(&format!(
                "SELECT sum(split_part(display_name, ' ', 3)::bigint)::bigint FROM {} WHERE user_id = ANY ($1)",
                self.setup.target()
            ))
            .await?;
        let started = Instant::now();
        let mut clock = Clock::new(from, to);
        loop {
            let seen: i64 = admin.query_one(&progress, &[&marks]).await?.get(0);
            if let Some(sample) = clock.see(seen)? {
                return Ok(sample);
            }
            if self.process.try_wait()?.is_some() || started.elapsed() > TIMEOUT {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
                let missing = to - seen;
                return Err(format!(
                    "Debezium has {missing} updates to go; the end of Connect's log:\n{tail}"
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn worker_settings(stack: &Stack, setup: Setup, offsets: &str) -> String {
    let schema = match setup {
        Setup::Plain => String::new(),
        Setup::Tuned => format!("value.converter.schema.content={SCHEMA}"),
    };
    format!(
        "bootstrap.servers={}
listeners=http://127.0.0.1:0
offset.storage.file.filename={offsets}
plugin.discovery=service_load
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=true
{schema}
consumer.max.poll.records={BATCH}
consumer.isolation.level=read_committed
",
        stack.kafka_brokers,
    )
}

fn sink_settings(stack: &Stack, setup: Setup) -> Result<String> {
    let database = stack.admin_config()?;
    let (Some(Host::Tcp(host)), Some(port)) =
        (database.get_hosts().first(), database.get_ports().first())
    else {
        return Err("ADMIN_DATABASE_URL names no host and port".into());
    };
    let name = database.get_dbname().unwrap_or_default();
    let user = database.get_user().unwrap_or_default();
    let password = String::from_utf8_lossy(database.get_password().unwrap_or_default());
    let target = setup.target();
    // With rows joined, a user that comes twice in a statement would fail it.
    let tuned = matches!(setup, Setup::Tuned);
    Ok(format!(
        "name={target}
connector.class=io.debezium.connector.jdbc.JdbcSinkConnector
tasks.max={TASKS}
topics={target}
connection.url=jdbc:postgresql://{host}:{port}/{name}?reWriteBatchedInserts={tuned}
connection.username={user}
connection.password={password}
collection.name.format={target}
insert.mode=upsert
primary.key.mode=record_value
primary.key.fields=user_id
batch.size={BATCH}
use.reduction.buffer={tuned}
schema.evolution=none
"
    ))
}
