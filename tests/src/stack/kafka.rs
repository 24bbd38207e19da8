//! Topics, a producer and a reader of our own.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Headers, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList};

use crate::wait::wait_until;
use crate::workload::Message;

const PATIENCE: Duration = Duration::from_secs(60);

/// A record as this reader found it in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub message: Message,
}

#[derive(Clone)]
pub struct Kafka {
    pub brokers: String,
    clients: Arc<Clients>,
}

/// A client needs half a second before its first answer, so those at rest are kept for the next call.
#[derive(Default)]
struct Clients {
    consumers: Mutex<Vec<BaseConsumer>>,
    producer: OnceLock<Producer>,
}

impl Kafka {
    pub fn new(brokers: String) -> Self {
        Self {
            brokers,
            clients: Arc::default(),
        }
    }

    /// Lends a consumer that is assigned nothing.
    fn with_consumer<T>(&self, ask: impl FnOnce(&BaseConsumer) -> T) -> T {
        let at_rest = || {
            self.clients
                .consumers
                .lock()
                .expect("no one panics with it")
        };
        // librdkafka forgets its only broker when that says, while it stops, that there is none.
        let kept = at_rest()
            .pop()
            .filter(|kept| kept.fetch_metadata(Some(""), PATIENCE / 10).is_ok());
        let consumer = kept.unwrap_or_else(|| self.consumer());
        let answer = ask(&consumer);
        consumer.unassign().expect("a consumer can be put aside");
        at_rest().push(consumer);
        answer
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("log_level", "2")
            // After an outage we are back at once, so that a scenario measures the product.
            .set("reconnect.backoff.max.ms", "500");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config()
            .create()
            .expect("an admin client needs only a broker's address")
    }

    fn options() -> AdminOptions {
        AdminOptions::new()
            .operation_timeout(Some(PATIENCE))
            .request_timeout(Some(PATIENCE))
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let results = self
            .admin()
            .create_topics([&new], &Self::options())
            .await
            .expect("Kafka answers");
        results
            .into_iter()
            .for_each(|result| drop(result.expect("the topic is new")));
        wait_until(&format!("topic {topic} to exist"), PATIENCE, async || {
            self.partitions(topic) == partitions
        })
        .await;
    }

    /// Returns when the topic is gone, so that it can be created anew.
    pub async fn delete_topic(&self, topic: &str) {
        self.delete_topics(&[topic.to_owned()]).await;
        wait_until(&format!("topic {topic} to be gone"), PATIENCE, async || {
            self.partitions(topic) == 0
        })
        .await;
    }

    pub async fn delete_topics(&self, topics: &[String]) {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        if !topics.is_empty() {
            let deleting = self.admin();
            let results = deleting.delete_topics(&topics, &Self::options()).await;
            let results = results.expect("Kafka answers").into_iter();
            results.for_each(|result| drop(result.expect("the topic exists")));
        }
    }

    pub async fn grow_topic(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        let results = self
            .admin()
            .create_partitions([&new], &Self::options())
            .await
            .expect("Kafka answers");
        results
            .into_iter()
            .for_each(|result| drop(result.expect("more partitions than before")));
    }

    /// What retention does, at once: records below `offset` are gone.
    pub async fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .expect("an offset");
        self.admin()
            .delete_records(&list, &Self::options())
            .await
            .expect("Kafka deletes records");
    }

    /// How many partitions can be written to; 0 when there is no such topic.
    pub fn partitions(&self, topic: &str) -> i32 {
        self.with_consumer(|consumer| {
            let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5));
            let Ok(metadata) = metadata else { return -1 };
            let mut topics = metadata.topics().iter();
            let found = topics.find(|found| found.name() == topic && found.error().is_none());
            // A partition without a leader cannot be written to yet.
            let ready = |topic: &MetadataTopic| {
                let partitions = topic.partitions().iter();
                partitions
                    .filter(|partition| partition.leader() >= 0)
                    .count() as i32
            };
            found.map_or(0, ready)
        })
    }

    fn consumer(&self) -> BaseConsumer {
        self.config()
            .set("group.id", "proofs-reader")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20")
            .set("queued.max.messages.kbytes", "16384")
            .create()
            .expect("a consumer needs only a broker's address")
    }

    /// First offset there is, and the offset that the next record will get.
    pub fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let began = Instant::now();
        let ask = |consumer: &BaseConsumer| consumer.fetch_watermarks(topic, partition, PATIENCE);
        // After a restart a partition is unknown, or has no leader, for a moment; one that was just added until somebody
        // asks for the topic's partitions again.
        loop {
            match self.with_consumer(ask) {
                Ok(watermarks) => return watermarks,
                Err(_) if began.elapsed() < PATIENCE => {
                    self.partitions(topic);
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => panic!("no watermarks of {topic}/{partition}: {error}"),
            }
        }
    }

    /// The high watermarks of partitions 0 to `partitions` - 1.
    pub fn ends(&self, topic: &str, partitions: i32) -> Vec<i64> {
        (0..partitions)
            .map(|partition| self.watermarks(topic, partition).1)
            .collect()
    }

    /// Reads a partition from its beginning to its end, committed records only.
    pub fn read(&self, topic: &str, partition: i32) -> Vec<Record> {
        self.with_consumer(|consumer| read(consumer, topic, partition))
    }

    pub fn producer(&self) -> Producer {
        self.producer_with(&[])
    }

    /// A producer with further librdkafka settings, as `("transactional.id", "x")`.
    pub fn producer_with(&self, settings: &[(&str, &str)]) -> Producer {
        let mut config = self.config();
        // Idempotence keeps the order also over a restart of the broker.
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("batch.size", "262144")
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("message.timeout.ms", "300000")
            .set("statistics.interval.ms", "1000");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let inner = config
            .create_with_context(Deliveries::default())
            .expect("the settings of a producer");
        let brokers = CString::new(self.brokers.as_str()).expect("an address");
        Producer { inner, brokers }
    }

    /// Sends messages to one partition and waits until the broker has them all.
    pub fn produce(
        &self,
        topic: &str,
        partition: i32,
        messages: impl IntoIterator<Item = Message>,
    ) {
        // Kept, so without idempotence: its numbering would not fit a topic that was created anew.
        let plain = [
            ("enable.idempotence", "false"),
            ("max.in.flight", "1"),
            ("linger.ms", "1"),
        ];
        let producer = self
            .clients
            .producer
            .get_or_init(|| self.producer_with(&plain));
        messages
            .into_iter()
            .for_each(|message| producer.send(topic, partition, &message));
        producer.flush();
    }
}

fn read(consumer: &BaseConsumer, topic: &str, partition: i32) -> Vec<Record> {
    let mut list = TopicPartitionList::new();
    let added = list.add_partition_offset(topic, partition, Offset::Beginning);
    added
        .and_then(|()| consumer.assign(&list))
        .expect("a partition can be assigned");
    let mut records = Vec::new();
    loop {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => records.push(Record {
                offset: message.offset(),
                message: Message {
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                    headers: message.headers().map(owned_headers).unwrap_or_default(),
                },
            }),
            Some(Err(KafkaError::PartitionEOF(_))) => return records,
            Some(Err(KafkaError::MessageConsumption(code))) if is_passing(code) => {}
            Some(Err(error)) => panic!("cannot read {topic}/{partition}: {error}"),
            None => panic!("no answer from Kafka while reading {topic}/{partition}"),
        }
    }
}

fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    matches!(
        code,
        AllBrokersDown | BrokerTransportFailure | OperationTimedOut
    )
}

fn owned_headers(headers: &impl Headers) -> Vec<(String, Option<Vec<u8>>)> {
    headers
        .iter()
        .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
        .collect()
}

#[derive(Default)]
struct Deliveries {
    lost: AtomicUsize,
    /// No broker is left: see `Producer::poll`.
    is_forlorn: AtomicBool,
}

impl ClientContext for Deliveries {
    fn stats(&self, statistics: Statistics) {
        // One that was dropped lingers in the list, but is not connected.
        let is_left = |source: &str| matches!(source, "learned" | "configured");
        let mut brokers = statistics.brokers.values();
        let is_forlorn = !brokers.any(|broker| is_left(&broker.source) && broker.state == "UP");
        self.is_forlorn.store(is_forlorn, Ordering::Relaxed);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub struct Producer {
    inner: BaseProducer<Deliveries>,
    brokers: CString,
}

impl Producer {
    /// Queues a message; waits only while the queue is full.
    pub fn send(&self, topic: &str, partition: i32, message: &Message) {
        let start = Instant::now();
        loop {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition);
            record.key = message.key.as_deref();
            record.payload = message.payload.as_deref();
            if !message.headers.is_empty() {
                let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
                for (key, value) in &message.headers {
                    headers = headers.insert(Header {
                        key,
                        value: value.as_deref(),
                    });
                }
                record.headers = Some(headers);
            }
            match self.inner.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.inner.poll(Duration::from_millis(5));
                }
                // It was added a moment ago.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition), _))
                    if start.elapsed() < PATIENCE =>
                {
                    let _ = self
                        .inner
                        .client()
                        .fetch_metadata(Some(topic), PATIENCE / 10);
                }
                Err((error, _)) => panic!("cannot send to {topic}/{partition}: {error}"),
            }
        }
    }

    /// Lets delivery reports come in, which frees the queue.
    pub fn poll(&self) {
        self.poll_for(Duration::ZERO);
    }

    fn poll_for(&self, time: Duration) {
        let client = self.inner.client();
        // librdkafka forgets its only broker when that says, while it stops, that there is none.
        if client.context().is_forlorn.swap(false, Ordering::Relaxed) {
            // SAFETY: the client outlives the call, which copies the list.
            #[allow(unsafe_code)]
            unsafe {
                rd_kafka_brokers_add(client.native_ptr(), self.brokers.as_ptr())
            };
        }
        self.inner.poll(time);
    }

    pub fn flush(&self) {
        let start = Instant::now();
        while self.inner.in_flight_count() > 0 {
            assert!(start.elapsed() < 5 * PATIENCE, "Kafka takes what was sent");
            self.poll_for(Duration::from_millis(5));
        }
        assert_eq!(
            self.inner.client().context().lost.load(Ordering::Relaxed),
            0,
            "messages that Kafka did not take"
        );
    }

    /// One transaction around `send`; aborted when `commit` is false.
    pub fn transaction(&self, commit: bool, send: impl FnOnce(&Self)) {
        self.inner
            .begin_transaction()
            .expect("a transaction begins");
        send(self);
        self.inner
            .flush(PATIENCE)
            .expect("Kafka takes what was sent");
        let ended = if commit {
            self.inner.commit_transaction(PATIENCE)
        } else {
            self.inner.abort_transaction(PATIENCE)
        };
        ended.expect("a transaction ends");
    }

    /// Begins a transaction that stays open until `commit`.
    pub fn begin(&self) {
        self.inner
            .begin_transaction()
            .expect("a transaction begins");
    }

    pub fn commit(&self) {
        let committed = self.inner.commit_transaction(PATIENCE);
        committed.expect("a transaction ends");
    }

    pub fn init_transactions(&self) {
        self.inner
            .init_transactions(PATIENCE)
            .expect("the coordinator answers");
    }
}
