//! The clients of one instance: one consumer for all partitions that it leads, with a queue for each, and one that
//! asks questions.
//!
//! Partitions are assigned by hand at the database's offsets. The consumer group has one use:
//! offsets are committed to it after the COMMIT, so that ordinary lag tools work. They are never
//! read back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;
use uuid::Uuid;

use crate::config::kafka::KafkaSettings;
use crate::kafka::brokers::Brokers;
use crate::kafka::config::{base_config, client_config, describe_config_error};
use crate::kafka::context::{COMPLAIN_AGAIN, Context, Generations};
use crate::kafka::native;
use crate::kafka::reader::PartitionReader;
use crate::kafka::words::{of, of_code};
use crate::observe::status::Status;
use crate::partition::Partition;
use crate::throttle::Throttle;

/// How long one request to Kafka may take before it is tried again.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long committing the last group offsets may take at the shutdown.
const LAST_HINT: Duration = Duration::from_millis(500);

/// Defaults of the reading client.
const READING: [(&str, &str); 5] = [
    ("fetch.wait.max.ms", "50"),
    ("fetch.error.backoff.ms", "50"),
    // How long librdkafka waits to fetch again after its queue was full: by default a second.
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.message.max.bytes", "1048576"),
    ("queued.max.messages.kbytes", "2048"),
];

/// Where a partition begins and ends, what open transactions have written included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub low: i64,
    pub high: i64,
}

/// Distinguishes a topic from another one of the same name; `None` from brokers without topic ids.
pub type TopicId = Option<Uuid>;

/// The clients of one instance.
pub struct Kafka {
    settings: KafkaSettings,
    reader: Arc<BaseConsumer<Context>>,
    /// Queries watermarks and topic ids on connections of its own: no request waits for a long poll.
    /// It sees the real end of a partition, not the last stable offset.
    inquirer: Arc<BaseConsumer<Context>>,
    generations: Generations,
    refusal: Arc<Mutex<Option<String>>>,
}

impl Kafka {
    pub fn connect(settings: &KafkaSettings, status: Arc<Status>) -> Result<Self, String> {
        let base = base_config(settings);
        let mut reader = base.clone();
        for (property, value) in READING {
            // Defaults: a given property overrides them, unless Sluice relies on it (`FIXED` in config/kafka.rs).
            let given = |name: &str| settings.properties.contains_key(name);
            let by_other_name =
                property == "fetch.message.max.bytes" && given("max.partition.fetch.bytes");
            if !given(property) && !by_other_name {
                reader.set(property, value);
            }
        }
        reader
            .set("group.id", &settings.group_id)
            .set("enable.partition.eof", "true")
            .set("debug", "metadata")
            .set_log_level(RDKafkaLogLevel::Debug);
        let mut inquirer = base;
        inquirer.set("isolation.level", "read_uncommitted");
        let generations = Generations::default();
        let complained = Arc::new(Mutex::new(Throttle::every(COMPLAIN_AGAIN)));
        let refusal = Arc::default();
        let create = |config: &ClientConfig, status: Option<Arc<Status>>| {
            let context = Context {
                brokers: Arc::new(Brokers::new(&settings.brokers)?),
                generations: generations.clone(),
                status,
                complained: Arc::clone(&complained),
                refusal: Arc::clone(&refusal),
            };
            let consumer: Result<BaseConsumer<Context>, _> = config.create_with_context(context);
            consumer
                .map(Arc::new)
                .map_err(|error| describe_config_error(&error, settings))
        };
        Ok(Self {
            settings: settings.clone(),
            reader: create(&reader, Some(status))?,
            inquirer: create(&inquirer, None)?,
            generations,
            refusal,
        })
    }

    /// Serves the clients' callbacks for as long as the process lives.
    pub fn serve(self: &Arc<Self>) {
        for consumer in [&self.reader, &self.inquirer] {
            let consumer = consumer.clone();
            std::thread::spawn(move || {
                loop {
                    let client = consumer.client();
                    client.context().brokers.name_again(client);
                    if let Some(Err(error)) = consumer.poll(Duration::from_secs(1)) {
                        debug!("kafka: {}", of(&error));
                    }
                }
            });
        }
    }

    /// Why the brokers last refused us, and what to change.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().expect("no panic while held").clone()
    }

    /// How many partitions a topic has; `None` if it does not exist.
    pub async fn partition_count(self: &Arc<Self>, topic: &str) -> Result<Option<i32>, String> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || {
            // Asked by the reader, which then knows the leader of every partition before it reads one.
            let metadata = this
                .reader
                .fetch_metadata(Some(&topic), REQUEST_TIMEOUT)
                .map_err(|error| of(&error))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let Some(found) = found else { return Ok(None) };
            match found.error().map(Code::from) {
                None if !found.partitions().is_empty() => Ok(Some(found.partitions().len() as i32)),
                None
                | Some(
                    Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
                ) => Ok(None),
                Some(code) => Err(of_code(code)),
            }
        })
        .await
    }

    /// Where a partition begins and ends; `None` if it does not exist.
    pub async fn watermarks(
        self: &Arc<Self>,
        partition: &Partition,
    ) -> Result<Option<Watermarks>, String> {
        let (this, partition) = (self.clone(), partition.clone());
        blocking(move || {
            if let Some(found) = watermarks_of(&this.inquirer, &partition)? {
                return Ok(Some(found));
            }
            // This client does not know a partition that was added since, until it asks for the topic.
            let metadata = this
                .inquirer
                .fetch_metadata(Some(&partition.topic), REQUEST_TIMEOUT)
                .map_err(|error| of(&error))?;
            let mut partitions = metadata
                .topics()
                .iter()
                .flat_map(|topic| topic.partitions());
            if !partitions.any(|found| found.id() == partition.number) {
                return Ok(None);
            }
            let found = watermarks_of(&this.inquirer, &partition)?;
            found.map(Some).ok_or_else(|| {
                format!("{partition} is there, but its leader does not serve it yet")
            })
        })
        .await
    }

    /// The last stable offset: records of open transactions cannot be read.
    pub async fn stable_end(self: &Arc<Self>, partition: &Partition) -> Result<i64, String> {
        let (this, partition) = (self.clone(), partition.clone());
        blocking(move || {
            let found = watermarks_of(&this.reader, &partition)?;
            let found = found.ok_or_else(|| format!("{partition} does not exist"))?;
            Ok(found.high)
        })
        .await
    }

    /// The id of a topic; `None` if there is no such topic.
    pub async fn topic_id(self: &Arc<Self>, topic: &str) -> Result<Option<TopicId>, String> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || {
            let client = this.inquirer.client();
            let found = native::describe_topic(client, &topic, REQUEST_TIMEOUT)?;
            Ok(found.map(|topic| topic.id.map(Uuid::from_bytes)))
        })
        .await
    }

    /// Whether compaction may remove records of a topic; an error if the brokers do not tell.
    pub async fn is_compacted(&self, topic: &str) -> Result<bool, String> {
        let policy = topic_setting(&self.settings, topic, "cleanup.policy").await?;
        Ok(policy.is_some_and(|policy| policy.contains("compact")))
    }

    /// Starts reading a partition at an offset.
    pub async fn open(
        self: &Arc<Self>,
        partition: &Partition,
        offset: i64,
    ) -> Result<PartitionReader, String> {
        let (this, partition) = (self.clone(), partition.clone());
        blocking(move || {
            let generation = this.generations.of(&partition.topic);
            PartitionReader::open(&this.reader, partition, offset, generation)
        })
        .await
    }

    /// Commits offsets to the group. A hint: sent without waiting.
    pub fn commit_hint(&self, offsets: &HashMap<Partition, i64>) {
        self.commit(offsets, CommitMode::Async);
    }

    /// The last hint before the process ends: Kafka gets a moment to accept it.
    pub async fn commit_last(self: &Arc<Self>, offsets: HashMap<Partition, i64>) {
        if offsets.is_empty() {
            return;
        }
        let this = self.clone();
        let commit = blocking(move || {
            this.commit(&offsets, CommitMode::Sync);
            Ok(())
        });
        let _ = tokio::time::timeout(LAST_HINT, commit).await;
    }

    fn commit(&self, offsets: &HashMap<Partition, i64>, mode: CommitMode) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            if list
                .add_partition_offset(&partition.topic, partition.number, Offset::Offset(*offset))
                .is_err()
            {
                return;
            }
        }
        if let Err(error) = self.reader.commit(&list, mode) {
            debug!("kafka: group offsets not committed: {}", of(&error));
        }
    }
}

/// The value of a topic's setting, from the brokers.
pub async fn topic_setting(
    settings: &KafkaSettings,
    topic: &str,
    name: &str,
) -> Result<Option<String>, String> {
    let admin: AdminClient<DefaultClientContext> = client_config(settings)
        .create()
        .map_err(|error| describe_config_error(&error, settings))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let topics = [ResourceSpecifier::Topic(topic)];
    let asked = admin.describe_configs(&topics, &options);
    let answers = tokio::time::timeout(2 * REQUEST_TIMEOUT, asked)
        .await
        .map_err(|_| "no answer about the topic's settings in time".to_owned())?
        .map_err(|error| of(&error))?;
    let found = answers.into_iter().next().transpose();
    let found = found.map_err(of_code)?;
    // Dropping it waits for a thread of its own to end.
    drop(tokio::task::spawn_blocking(move || drop(admin)));
    let value = found.and_then(|found| found.get(name).and_then(|entry| entry.value.clone()));
    Ok(value)
}

fn watermarks_of(
    client: &BaseConsumer<Context>,
    partition: &Partition,
) -> Result<Option<Watermarks>, String> {
    match client.fetch_watermarks(&partition.topic, partition.number, REQUEST_TIMEOUT) {
        Ok((low, high)) => Ok(Some(Watermarks { low, high })),
        Err(error) => match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Ok(None)
            }
            _ => Err(of(&error)),
        },
    }
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, String> + Send + 'static,
) -> Result<R, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| "internal error: task panicked".to_owned())?
}
