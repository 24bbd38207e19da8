//! Everything that can arrive from one partition, as one closed enum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use crate::batch::record::Record;
use crate::kafka::context::Context;
use crate::kafka::words::{of, of_code};
use crate::kafka::{headers, native};
use crate::partition::Partition;

/// What a partition's queue can deliver.
pub enum Arrival<'a> {
    Record(Record<'a>),
    /// Every available record has been read, up to this offset.
    End(i64),
    /// The requested offset is not in the partition.
    OutOfRange,
    /// The topic or partition does not exist (any more).
    Gone,
    /// librdkafka retries by itself.
    Failed(String),
}

/// One assigned partition; dropping it ends the assignment.
pub struct PartitionReader {
    consumer: Arc<BaseConsumer<Context>>,
    queue: native::Queue<Context>,
    partition: Partition,
    generation: Arc<AtomicU64>,
    opened_at: u64,
}

impl PartitionReader {
    /// Assigns the partition from `offset` on; `generation` counts how often its topic was replaced.
    pub(super) fn open(
        consumer: &Arc<BaseConsumer<Context>>,
        partition: Partition,
        offset: i64,
        generation: Arc<AtomicU64>,
    ) -> Result<Self, String> {
        // Read first, so that a topic that is replaced from here on is noticed.
        let opened_at = generation.load(Ordering::SeqCst);
        // Split before assigning, so that no record arrives in the common queue.
        let queue = native::Queue::of(consumer, &partition.topic, partition.number);
        let queue = queue.ok_or_else(|| format!("{partition} cannot be named to Kafka"))?;
        consumer
            .incremental_assign(&one(&partition, offset)?)
            .map_err(|error| of(&error))?;
        Ok(Self {
            consumer: consumer.clone(),
            queue,
            partition,
            generation,
            opened_at,
        })
    }

    /// Whether the topic is still the one that was opened.
    pub fn is_same_topic(&self) -> bool {
        self.generation.load(Ordering::SeqCst) == self.opened_at
    }

    /// Returns the next arrival, if there is one; never waits.
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
            Some((code, _)) => Arrival::Failed(of_code(code)),
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
            self.consumer
                .incremental_unassign(&list)
                .map_err(|error| of(&error))
        });
        if let Err(error) = unassigned {
            debug!("kafka: {} was not unassigned: {error}", self.partition);
        }
    }
}

fn one(partition: &Partition, offset: i64) -> Result<TopicPartitionList, String> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(offset))
        .map_err(|error| format!("offset {offset} of {partition}: {}", of(&error)))?;
    Ok(list)
}
