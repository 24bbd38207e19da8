//! The whole way: a backlog in Kafka, a real `sluice run`, and the clock until its last COMMIT.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::contender::Sample;
use crate::stack::{Result, Stack};
use crate::workload::{Event, payload};

/// Events that wait in the topic when the ingester starts.
pub const BACKLOG: usize = 400_000;
const PARTITIONS: i32 = 8;
const TIMEOUT: Duration = Duration::from_secs(120);

/// Fills a new topic, starts an ingester, and measures from its first COMMIT to its last.
pub async fn measure(stack: &Stack, round: usize, backlog: &[Event]) -> Result<Sample> {
    let topic = format!("bench.whole.{round}");
    create_topic(stack, &topic).await?;
    tokio::task::block_in_place(|| produce(stack, &topic, backlog))?;
    let ingester = Ingester::start(stack, &topic)?;
    let sample = watch(stack, &topic, backlog.len() as i64).await;
    ingester.stop();
    sample.map_err(|error| {
        format!(
            "{error} (the ingester's log: {})",
            log_path(stack).display()
        )
        .into()
    })
}

async fn create_topic(stack: &Stack, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &stack.kafka_brokers)
        .create()?;
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    for result in admin.create_topics([&new], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| format!("topic {topic} cannot be created: {code}"))?;
    }
    Ok(())
}

fn produce(stack: &Stack, topic: &str, backlog: &[Event]) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &stack.kafka_brokers)
        .set("linger.ms", "50")
        .set("batch.size", "500000")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    for event in backlog {
        let account_id = event.change.key.account_id;
        let (key, value) = (account_id.to_string(), payload(event));
        // An account's events stay in one partition, as any producer would send them.
        let mut record = BaseRecord::to(topic)
            .partition(account_id as i32 % PARTITIONS)
            .key(&key)
            .payload(&value);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    producer.poll(Duration::from_millis(10));
                    record = unsent;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    Ok(producer.flush(TIMEOUT)?)
}

/// Reads the committed offsets until they have reached the end of the backlog.
async fn watch(stack: &Stack, topic: &str, backlog: i64) -> Result<Sample> {
    let admin = stack.admin().await?;
    let committed = admin
        .prepare("SELECT coalesce(sum(commit_offset), 0)::bigint FROM ledger.partition_leader_locks WHERE topic = $1")
        .await?;
    let started = Instant::now();
    let mut first: Option<(Instant, i64)> = None;
    loop {
        let count: i64 = admin.query_one(&committed, &[&topic]).await?.get(0);
        let (since, before) = match first {
            Some(first) => first,
            None if count > 0 => *first.insert((Instant::now(), count)),
            None => (started, 0),
        };
        if count >= backlog {
            let seconds = since.elapsed().as_secs_f64();
            return Ok(Sample {
                events: (backlog - before) as usize,
                batches: 1,
                seconds,
            });
        }
        if started.elapsed() > TIMEOUT {
            return Err(format!(
                "only {count} of {backlog} events were committed within {} s",
                TIMEOUT.as_secs()
            )
            .into());
        }
        // Often enough for a per mille of the time measured, rarely enough not to disturb.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn log_path(stack: &Stack) -> std::path::PathBuf {
    stack.dir.join("bench-ingester.log")
}

/// A running ingester; it ends with this value, come what may.
struct Ingester(Child);

impl Ingester {
    fn start(stack: &Stack, topic: &str) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_path(stack))?;
        let child = Command::new(stack.sluice()?)
            .arg("run")
            .env("BALANCE_TOPICS", topic)
            .env("EVENT_TOPICS", "")
            .env("SERVICE_ID", "bench-ingester")
            .env("DB_WRITER_SERVICE_PORT", "0")
            .env("LOG_FORMAT", "text")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    /// Asks it to stop, so that it gives its partitions back.
    fn stop(mut self) {
        let asked = Command::new("kill")
            .args(["-TERM", &self.0.id().to_string()])
            .status();
        if asked.is_ok_and(|status| status.success()) {
            // It promises to end within 5 s; Drop sees to it where it does not.
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Ingester {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
