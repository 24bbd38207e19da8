//! Publishes a credit for each account that is named, then prints the verdicts of these events.
//!
//!     KAFKA_BROKERS=localhost:9092 RESULTS_TOPIC=results cargo run -- 42 7

use std::collections::HashSet;
use std::env::{self, VarError};
use std::error::Error;
use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Message};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

const SOURCE: &str = "sample-rust";

/// The id and the bytes of an event. Store both with what the event is about, before sending: a retry sends the same bytes
/// again, and Sluice applies them once.
fn credit(account_id: i64, amount: &str) -> Result<(String, Vec<u8>), Box<dyn Error>> {
    let event_id = Uuid::new_v4().to_string();
    let event = json!({
        "eventId": event_id,
        "eventType": "balance.changed",
        "timestamp": OffsetDateTime::now_utc().format(&Rfc3339)?,
        "source": SOURCE,
        // The amount is a string: a float would not hold every amount.
        "data": {"accountId": account_id, "changes": [{"currencyCode": "USD", "availableDelta": amount}]},
    });
    Ok((event_id, serde_json::to_vec(&event)?))
}

/// Sends until Kafka has the event on all its in-sync replicas.
async fn send(
    producer: &FutureProducer,
    topic: &str,
    key: &str,
    payload: &[u8],
) -> Result<Delivery, KafkaError> {
    loop {
        let record = FutureRecord::to(topic).key(key).payload(payload);
        match producer.send(record, Timeout::Never).await {
            Ok(delivery) => return Ok(delivery),
            Err((error, _)) => match error.rdkafka_error_code() {
                // Not known whether Kafka has it: the same bytes again.
                Some(Code::MessageTimedOut | Code::NotEnoughReplicasAfterAppend) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                _ => return Err(error),
            },
        }
    }
}

/// Reads results from the beginning until each event sent has its verdict. A service that runs for long has one group.id
/// for good, and commits what it has dealt with.
async fn print_verdicts(
    brokers: &str,
    topic: &str,
    mut sent: HashSet<String>,
) -> Result<(), Box<dyn Error>> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("{SOURCE}-{}", Uuid::new_v4()))
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[topic])?;
    while !sent.is_empty() {
        let message = consumer.recv().await?;
        let result: Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
        // A result may come twice, and other services have theirs here, too.
        let event_id = result["eventId"].as_str().unwrap_or_default();
        if result["source"] == SOURCE && sent.remove(event_id) {
            let text = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
            println!("verdict {event_id} {} {}", text("verdict"), text("reason"));
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let brokers = env::var("KAFKA_BROKERS")?;
    let topic = env::var("BALANCE_TOPIC").unwrap_or_else(|_| "balance.changed".to_owned());
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        // No record is lost or written twice by this producer, and none overtakes another.
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // The partition that Java's clients choose for a key; librdkafka's default is another one.
        .set("partitioner", "murmur2_random")
        .create()?;
    let mut sent = HashSet::new();
    for account in env::args().skip(1) {
        let (event_id, payload) = credit(account.parse()?, "1.00")?;
        let place = send(&producer, &topic, &account, &payload).await?;
        println!(
            "sent {event_id} account {account} partition {}",
            place.partition
        );
        sent.insert(event_id);
    }
    match env::var("RESULTS_TOPIC") {
        Ok(results) => {
            let read = print_verdicts(&brokers, &results, sent);
            tokio::time::timeout(Duration::from_secs(60), read).await?
        }
        Err(VarError::NotPresent) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
