//! Kafka, and the only place that names it: one consumer for all partitions that this
//! instance leads, a queue for each, and all that Kafka can do to us as one closed enum.
//!
//! Partitions are assigned by hand from the database's offsets. The consumer group is
//! used for one thing only: offsets committed to it after the fact, so that ordinary lag
//! tools work. Nothing reads them back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::batch::record::Record;
use crate::config::KafkaSettings;
use crate::kafka::brokers::Brokers;
use crate::kafka::config::{base_config, client_config, describe_config_error};
use crate::kafka::{headers, native};
use crate::observe::status::{Ends, Queue, Status};
use crate::partition::Partition;
use crate::tls::{self, Names};

const TLS_NAMES: Names = Names {
    ca: "KAFKA_SSL_CA_LOCATION",
    certificate: "KAFKA_SSL_CERTIFICATE_LOCATION",
    key: "KAFKA_SSL_KEY_LOCATION",
    host: "KAFKA_BROKERS",
};

/// How long one request to Kafka may take before it is tried again.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A refusal by Kafka is said again after this time.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(10);
/// How long the last group offsets may take at the end.
const LAST_HINT: Duration = Duration::from_millis(500);

const OTHER_PROTOCOL: &str =
    "if that lasts, KAFKA_SECURITY_PROTOCOL is not what this port of the broker speaks";

/// Defaults of the reading client.
const READING: [(&str, &str); 5] = [
    ("fetch.wait.max.ms", "50"),
    ("fetch.error.backoff.ms", "50"),
    // After its queue was full librdkafka waits so long to fetch again: by default a second.
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.message.max.bytes", "1048576"),
    ("queued.max.messages.kbytes", "2048"),
];

/// What a partition's queue can bring.
pub enum Arrival<'a> {
    Record(Record<'a>),
    /// Everything that was there has been read, up to this offset.
    End(i64),
    /// The offset that was asked for is not in the partition.
    OutOfRange,
    /// The topic or partition does not exist (any more).
    Gone,
    /// librdkafka goes on trying by itself.
    Trouble(String),
}

/// Where a partition begins and ends, what open transactions have written included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub low: i64,
    pub high: i64,
}

/// What tells a topic from another one of its name; `None` from brokers that do not know topic ids.
pub type TopicId = Option<Uuid>;

/// How often each topic was created anew while we looked.
#[derive(Clone, Default)]
struct Generations(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Generations {
    fn of(&self, topic: &str) -> Arc<AtomicU64> {
        self.0
            .lock()
            .expect("no panic while held")
            .entry(topic.to_owned())
            .or_default()
            .clone()
    }
}

#[derive(Clone)]
struct Context {
    brokers: Arc<Brokers>,
    generations: Generations,
    /// Told by the reader only.
    status: Option<Arc<Status>>,
    complained: Arc<Mutex<Option<Instant>>>,
    /// What the brokers have against us, and what to change.
    refusal: Arc<Mutex<Option<String>>>,
}

impl Context {
    /// librdkafka repeats itself with every try to connect.
    fn is_time_to_complain(&self) -> bool {
        let mut last = self.complained.lock().expect("no panic while held");
        let due = last.is_none_or(|last| last.elapsed() > COMPLAIN_AGAIN);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// librdkafka goes on at the old offset in a topic that was deleted and created within one
/// glance, and says so in a debug line only, before it fetches anything of the new one. That
/// line is an alarm and no evidence: behind it a broker is asked for the topic's id. The first
/// id that librdkafka learns replaces one of zeros.
fn created_anew(message: &str) -> Option<&str> {
    let (before, ids) = message.split_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    let (old, _) = ids.split_once(" to ")?;
    (!old.bytes().all(|byte| byte == b'A')).then_some(topic)
}

impl Context {
    fn refuses_us(&self, reason: &str, advice: &str) {
        let refusal = format!("Kafka refuses us: {reason}; {advice}").replace('\n', " ");
        if self.is_time_to_complain() {
            warn!("KAFKA_BROKERS: {refusal}");
        }
        *self.refusal.lock().expect("no panic while held") = Some(refusal);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        if let Some(topic) = created_anew(message) {
            warn!(topic, "topic was created anew");
            self.generations.of(topic).fetch_add(1, Ordering::SeqCst);
        }
        // A broker that expects TLS hangs up on the first request, which librdkafka says in its log only.
        if message.contains("Disconnected") && message.contains("in state APIVERSION_QUERY") {
            self.refuses_us(message, OTHER_PROTOCOL);
        }
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!("kafka: {message}"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!("kafka: {message}")
            }
            _ => debug!("kafka: {message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.seen(&statistics);
        let Some(status) = &self.status else { return };
        let is_up = statistics
            .brokers
            .values()
            .any(|broker| broker.state == "UP");
        let partitions = || {
            let topics = statistics.topics.values();
            topics.flat_map(|topic| topic.partitions.values())
        };
        let queue = Queue {
            records: partitions().map(|partition| partition.fetchq_cnt).sum(),
            bytes: partitions()
                .map(|partition| partition.fetchq_size as i64)
                .sum(),
        };
        let ends = statistics.topics.into_iter().flat_map(|(topic, found)| {
            let partitions = found.partitions.into_values();
            // What is below zero is not known yet.
            partitions.filter_map(move |partition| {
                let (high, stable) = (partition.hi_offset, partition.ls_offset);
                let ends = Ends {
                    high,
                    stable: if stable >= 0 { stable } else { high },
                };
                let (topic, number) = (topic.clone(), partition.partition);
                (high >= 0).then_some((Partition { topic, number }, ends))
            })
        });
        status.kafka_tells(is_up, queue, ends);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(advice) = advice(&error, reason) else {
            debug!("kafka: {error}: {reason}");
            return;
        };
        self.refuses_us(reason, &advice);
    }
}

/// What to change, where nothing but that helps.
fn advice(error: &KafkaError, reason: &str) -> Option<String> {
    if reason.contains("PLAINTEXT broker listener") || reason.contains("security.protocol") {
        return Some(OTHER_PROTOCOL.into());
    }
    if let Some(advice) = tls::advice(reason, &TLS_NAMES) {
        return Some(advice);
    }
    match error.rdkafka_error_code()? {
        Code::SSL => Some("see KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_LOCATION".into()),
        Code::Authentication | Code::SaslAuthenticationFailed => Some(
            "KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must name a login that the brokers let in".into(),
        ),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed => {
            Some("the brokers' ACLs must allow this login what it reads and writes".into())
        }
        _ => None,
    }
}

impl ConsumerContext for Context {}

/// The clients of one instance.
pub struct Kafka {
    settings: KafkaSettings,
    reader: Arc<BaseConsumer<Context>>,
    /// Watermarks and topic ids, on connections of their own: no request waits behind a long poll.
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
            // Ours are defaults only: any property can be passed through.
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
        let (complained, refusal) = (Arc::default(), Arc::default());
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
                        debug!("kafka: {error}");
                    }
                }
            });
        }
    }

    /// What the brokers had against us last, and what to change.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().expect("no panic while held").clone()
    }

    /// How many partitions a topic has; `None` if it does not exist.
    pub async fn partition_count(self: &Arc<Self>, topic: &str) -> Result<Option<i32>, String> {
        let (this, topic) = (self.clone(), topic.to_owned());
        blocking(move || {
            // By the reader, which then knows the leader of every partition before it has to read one.
            let metadata = this
                .reader
                .fetch_metadata(Some(&topic), REQUEST_TIMEOUT)
                .map_err(|e| e.to_string())?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let Some(found) = found else { return Ok(None) };
            match found.error().map(Code::from) {
                None if !found.partitions().is_empty() => Ok(Some(found.partitions().len() as i32)),
                None
                | Some(
                    Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
                ) => Ok(None),
                Some(code) => Err(code.to_string()),
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
            // A partition that was added since is news to this client, until it asks for the topic.
            let metadata = this
                .inquirer
                .fetch_metadata(Some(&partition.topic), REQUEST_TIMEOUT)
                .map_err(|error| error.to_string())?;
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

    /// Up to where records can be read now: not those of open transactions.
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

    /// Whether compaction may remove records of a topic; an error where the brokers do not say.
    pub async fn is_compacted(&self, topic: &str) -> Result<bool, String> {
        let policy = topic_setting(&self.settings, topic, "cleanup.policy").await?;
        Ok(policy.is_some_and(|policy| policy.contains("compact")))
    }

    /// Begins to read a partition at an offset.
    pub async fn open(
        self: &Arc<Self>,
        partition: &Partition,
        offset: i64,
    ) -> Result<PartitionReader, String> {
        let (this, name) = (self.clone(), partition.clone());
        blocking(move || {
            // Taken first, so that a topic created anew from here on is noticed.
            let generation = this.generations.of(&name.topic);
            let opened_at = generation.load(Ordering::SeqCst);
            // Split before assigning, so that no record takes the way through the common queue.
            let queue = native::Queue::of(&this.reader, &name.topic, name.number);
            let queue = queue.ok_or_else(|| format!("{name} cannot be named to Kafka"))?;
            this.reader
                .incremental_assign(&one(&name, offset)?)
                .map_err(|error| error.to_string())?;
            Ok(PartitionReader {
                kafka: this.clone(),
                queue,
                partition: name,
                generation,
                opened_at,
            })
        })
        .await
    }

    /// Tells the group how far we are. A hint: sent, not waited for.
    pub fn commit_hint(&self, offsets: &HashMap<Partition, i64>) {
        self.commit(offsets, CommitMode::Async);
    }

    /// The last hint of a process that ends: Kafka gets a moment to take it.
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
            debug!("kafka: group offsets not committed: {error}");
        }
    }
}

/// One assigned partition; dropping it gives the assignment back.
pub struct PartitionReader {
    kafka: Arc<Kafka>,
    queue: native::Queue<Context>,
    partition: Partition,
    generation: Arc<AtomicU64>,
    opened_at: u64,
}

impl PartitionReader {
    /// Whether the topic is still the one that was opened.
    pub fn is_same_topic(&self) -> bool {
        self.generation.load(Ordering::SeqCst) == self.opened_at
    }

    /// Hands over what has arrived, if anything; never waits.
    pub fn poll<R>(&self, take: impl FnOnce(Arrival<'_>) -> R) -> Option<R> {
        if !self.is_same_topic() {
            return Some(take(Arrival::Gone));
        }
        let message = self.queue.poll()?;
        let arrival = match message.error() {
            None => Arrival::Record(Record {
                offset: message.offset(),
                timestamp_ms: message.timestamp_ms(),
                key: message.key(),
                payload: message.payload(),
                headers: headers::as_json(&message.headers()),
            }),
            Some((Code::PartitionEOF, _)) => Arrival::End(message.offset()),
            Some((Code::OffsetOutOfRange | Code::AutoOffsetReset, _)) => Arrival::OutOfRange,
            Some((
                Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::UnknownTopicId,
                _,
            )) => Arrival::Gone,
            Some((_, text)) => Arrival::Trouble(text),
        };
        Some(take(arrival))
    }

    /// Waits until something may have arrived.
    pub async fn arrived(&self) {
        self.queue.arrived().await;
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        let unassigned = one(&self.partition, 0).and_then(|list| {
            self.kafka
                .reader
                .incremental_unassign(&list)
                .map_err(|error| error.to_string())
        });
        if let Err(error) = unassigned {
            debug!("kafka: {} was not unassigned: {error}", self.partition);
        }
    }
}

/// What the brokers say that a setting of a topic is.
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
        .map_err(|error| error.to_string())?;
    let found = answers.into_iter().next().transpose();
    let found = found.map_err(|code| code.to_string())?;
    // It waits for a thread of its own to end.
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
            _ => Err(error.to_string()),
        },
    }
}

fn one(partition: &Partition, offset: i64) -> Result<TopicPartitionList, String> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(offset))
        .map_err(|error| format!("offset {offset} of {partition}: {error}"))?;
    Ok(list)
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, String> + Send + 'static,
) -> Result<R, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
}
