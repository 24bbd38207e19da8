//! Kafka: topics to be filled, records to fill them with, and a consumer to read them by.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::stack::{Result, Stack};

const TIMEOUT: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(10);

pub struct Kafka {
    admin: AdminClient<DefaultClientContext>,
    producer: BaseProducer,
}

/// A record to be sent.
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub key: &'a [u8],
    pub payload: &'a [u8],
}

impl Kafka {
    pub fn connect(stack: &Stack) -> Result<Self> {
        Ok(Self {
            admin: client(stack).create()?,
            producer: producer(stack).create()?,
        })
    }

    /// For `send`: with a producer that waits for no company.
    pub fn prompt(stack: &Stack) -> Result<Self> {
        Ok(Self {
            admin: client(stack).create()?,
            producer: producer(stack).set("linger.ms", "0").create()?,
        })
    }

    /// For `at_once`.
    pub fn transactional(stack: &Stack, id: &str) -> Result<Self> {
        let kafka = Self {
            admin: client(stack).create()?,
            producer: producer(stack).set("transactional.id", id).create()?,
        };
        kafka.producer.init_transactions(TIMEOUT)?;
        Ok(kafka)
    }

    pub async fn create_topics(
        &self,
        names: impl IntoIterator<Item = &str>,
        partitions: i32,
    ) -> Result<()> {
        let topics: Vec<NewTopic<'_>> = names
            .into_iter()
            .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1)))
            .collect();
        let created = self.admin.create_topics(&topics, &AdminOptions::new());
        for result in created.await? {
            result.map_err(|(topic, code)| format!("topic {topic} cannot be created: {code}"))?;
        }
        Ok(())
    }

    /// Sends all, and waits until Kafka has them.
    pub fn produce<'a>(&self, records: impl IntoIterator<Item = Record<'a>>) -> Result<()> {
        for record in records {
            self.send(&record)?;
        }
        self.flush()
    }

    /// Hands one record over, and does not wait until Kafka has it.
    pub fn send(&self, record: &Record<'_>) -> Result<()> {
        let mut unsent = BaseRecord::to(record.topic)
            .partition(record.partition)
            .key(record.key)
            .payload(record.payload);
        loop {
            match self.producer.send(unsent) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    self.producer.poll(Duration::from_millis(10));
                    unsent = again;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    pub fn flush(&self) -> Result<()> {
        Ok(self.producer.flush(TIMEOUT)?)
    }

    /// What `fill` sends comes into sight all at once, for readers of what is committed.
    pub fn at_once(&self, fill: impl FnOnce() -> Result<()>) -> Result<()> {
        self.producer.begin_transaction()?;
        fill()?;
        Ok(self.producer.commit_transaction(TIMEOUT)?)
    }

    /// The offset behind the last record of a topic of one partition.
    pub fn end(&self, topic: &str) -> Result<i64> {
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.producer.client().fetch_watermarks(topic, 0, ANSWER) {
                Ok((_, end)) => return Ok(end),
                // A topic that was just created has no leader for a moment.
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(format!("{topic}: {error}").into()),
            }
        }
    }
}

fn client(stack: &Stack) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stack.kafka_brokers);
    config
}

fn producer(stack: &Stack) -> ClientConfig {
    let mut config = client(stack);
    config
        .set("linger.ms", "50")
        .set("batch.size", "500000")
        .set("queue.buffering.max.messages", "200000")
        // What is sent again after a lost answer must not stand there twice.
        .set("enable.idempotence", "true");
    config
}

/// A consumer, as part of a group.
pub struct Reader(BaseConsumer);

/// A record that was read.
pub struct Found {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub payload: Vec<u8>,
}

impl Reader {
    pub fn connect(stack: &Stack, group: &str) -> Result<Self> {
        let consumer = client(stack)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()?;
        Ok(Self(consumer))
    }

    /// Begins to read each partition at its offset.
    pub fn assign<'a>(
        &self,
        partitions: impl IntoIterator<Item = (&'a str, i32, i64)>,
    ) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in partitions {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        }
        self.0.assign(&list)?;
        // Asking once finds the group's coordinator, so that the first commit need not.
        self.0.committed(ANSWER)?;
        Ok(())
    }

    pub fn unassign(&self) -> Result<()> {
        Ok(self.0.unassign()?)
    }

    pub fn next(&self, timeout: Duration) -> Result<Option<Found>> {
        let Some(record) = self.0.poll(timeout) else {
            return Ok(None);
        };
        let record = record?;
        Ok(Some(Found {
            topic: record.topic().to_owned(),
            partition: record.partition(),
            offset: record.offset(),
            payload: record.payload().unwrap_or_default().to_owned(),
        }))
    }

    /// Commits what was read up to these records, and waits for the answer.
    pub fn commit(&self, read: &[Found]) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for record in read {
            let next = Offset::Offset(record.offset + 1);
            match list.find_partition(&record.topic, record.partition) {
                Some(mut partition) => partition.set_offset(next)?,
                None => list.add_partition_offset(&record.topic, record.partition, next)?,
            }
        }
        Ok(self.0.commit(&list, CommitMode::Sync)?)
    }
}
