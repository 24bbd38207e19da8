//! The whole way: a backlog in Kafka, a real `sluice run`, and the clock until its last COMMIT.

use crate::ingester::Ingester;
use crate::kafka::{Kafka, Record};
use crate::sample::Sample;
use crate::stack::{Result, Stack};

use super::workload::{Event, payload};

/// Events that wait in the topic when the ingester starts.
pub const BACKLOG: usize = 400_000;
pub const PARTITIONS: i32 = 8;

/// Fills a new topic, starts an ingester, and measures from its first COMMIT to its last.
pub async fn measure(
    stack: &Stack,
    kafka: &Kafka,
    round: usize,
    backlog: &[Event],
) -> Result<Sample> {
    let topic = format!("bench.whole.{round}");
    kafka.create_topics([topic.as_str()], PARTITIONS).await?;
    tokio::task::block_in_place(|| produce(kafka, &topic, backlog))?;
    let mut ingester = Ingester::start(stack, &topic, "", None)?;
    let sample = ingester
        .drain(stack, &[&topic], 0, backlog.len() as i64)
        .await?;
    ingester.stop();
    Ok(sample)
}

/// Sends the events, each to the partition of its account.
pub fn produce(kafka: &Kafka, topic: &str, backlog: &[Event]) -> Result<()> {
    // In parts, for the payloads take room.
    for events in backlog.chunks(10_000) {
        let sent: Vec<(i32, String, Vec<u8>)> = events
            .iter()
            .map(|event| {
                let account_id = event.change.key.account_id;
                // An account's events stay in one partition, as any producer would send them.
                let partition = account_id as i32 % PARTITIONS;
                (partition, account_id.to_string(), payload(event))
            })
            .collect();
        kafka.produce(sent.iter().map(|(partition, key, payload)| Record {
            topic,
            partition: *partition,
            key: key.as_bytes(),
            payload,
        }))?;
    }
    Ok(())
}
