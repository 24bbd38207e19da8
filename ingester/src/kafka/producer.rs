//! Producing to Kafka: at least once, in order per key, and never more at once than the topic accepts. A record that is
//! too large by itself is shortened, so that it does not block later ones.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::statistics::Statistics;
use tracing::debug;

use crate::config::kafka::KafkaSettings;
use crate::kafka::brokers::Brokers;
use crate::kafka::client::topic_setting;
use crate::kafka::config::{STATISTICS, client_config, describe_config_error};
use crate::kafka::words::of;
use crate::leases::lease::Leadership;

/// How long one record may take before the whole lot is tried again.
const DELIVERY: Duration = Duration::from_secs(5);

/// The topic's own limit applies, not librdkafka's default of a megabyte.
const MESSAGE_MAX_BYTES: (&str, &str) = ("message.max.bytes", "1000000000");
/// The partition that Java's clients and the samples choose for a key.
const PARTITIONER: (&str, &str) = ("partitioner", "murmur2_random");

/// The limit of a topic if the brokers do not tell: less than Kafka's default.
const LIMIT_BYTES: usize = 1_000_000;
/// How long an answer about a topic's limit is valid.
const LIMIT_AGE: Duration = Duration::from_secs(60);
/// The size of the header of a batch of records.
const BATCH_HEAD: usize = 61;
/// The most that the numbers before and after a record or a header take.
const RECORD_HEAD: usize = 32;
const HEADER_HEAD: usize = 10;

/// Header with the number of bytes of the original's headers that were left out.
pub const HEADERS_OMITTED: &str = "sluice-headers-omitted";

/// One record to produce.
pub struct Message<'m> {
    pub key: Option<&'m [u8]>,
    pub payload: Option<Cow<'m, [u8]>>,
    pub headers: Vec<(&'static str, String)>,
    /// The headers of the original record.
    pub original_headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message<'_> {
    /// Its size in a batch, at most, in bytes.
    pub fn size(&self) -> usize {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let own = self.headers.iter();
        let own = own.map(|(name, value)| HEADER_HEAD + name.len() + value.len());
        let original = HEADER_HEAD * self.original_headers.len() + self.original_bytes();
        let payload = length(self.payload.as_deref());
        RECORD_HEAD + length(self.key) + payload + own.sum::<usize>() + original
    }

    /// The size of the original's headers, names and values, in bytes.
    pub fn original_bytes(&self) -> usize {
        let headers = self.original_headers.iter();
        let value_bytes = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        headers
            .map(|(name, value)| name.len() + value_bytes(value))
            .sum()
    }

    /// Leaves out the original's headers, and adds their length as a header; false if there are none.
    pub fn omit_original_headers(&mut self) -> bool {
        let bytes = self.original_bytes();
        let has_any = !self.original_headers.is_empty();
        if has_any {
            self.original_headers.clear();
            self.headers.push((HEADERS_OMITTED, bytes.to_string()));
        }
        has_any
    }
}

/// Why not all of the records were produced.
struct Refused {
    /// The record that failed.
    index: usize,
    /// A record, or all of them together.
    too_large: bool,
    text: String,
}

impl Refused {
    fn new(index: usize, error: &KafkaError) -> Self {
        Self {
            index,
            too_large: error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge),
            text: of(error),
        }
    }
}

#[derive(Clone)]
struct Context(Arc<Brokers>);

impl ClientContext for Context {
    /// What of it matters comes back as the error of a record.
    fn log(&self, _: RDKafkaLogLevel, _facility: &str, message: &str) {
        debug!("kafka: {message}");
    }

    fn stats(&self, statistics: Statistics) {
        self.0.seen(&statistics);
    }
}

pub struct TopicProducer {
    producer: FutureProducer<Context>,
    brokers: Arc<Brokers>,
    settings: KafkaSettings,
    topic: String,
    /// The limit of the topic, and when it was queried.
    limit: Mutex<Option<(Instant, usize)>>,
}

impl TopicProducer {
    pub fn new(settings: &KafkaSettings, topic: &str) -> Result<Self, String> {
        let mut config = client_config(settings);
        config
            .set(STATISTICS.0, STATISTICS.1)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", DELIVERY.as_millis().to_string());
        for (property, value) in [MESSAGE_MAX_BYTES, PARTITIONER] {
            if !settings.properties.contains_key(property) {
                config.set(property, value);
            }
        }
        let brokers = Arc::new(Brokers::new(&settings.brokers)?);
        Ok(Self {
            producer: config
                .create_with_context(Context(brokers.clone()))
                .map_err(|error| describe_config_error(&error, settings))?,
            brokers,
            settings: settings.clone(),
            topic: topic.to_owned(),
            limit: Mutex::default(),
        })
    }

    /// The largest batch that the topic accepts, in bytes.
    async fn limit(&self) -> usize {
        let known = *self.limit.lock().expect("no panic while held");
        if let Some((_, limit)) = known.filter(|(at, _)| at.elapsed() < LIMIT_AGE) {
            return limit;
        }
        let asked = topic_setting(&self.settings, &self.topic, "max.message.bytes").await;
        let told = asked
            .as_ref()
            .ok()
            .and_then(|value| value.as_ref()?.parse().ok());
        let limit = told.unwrap_or_else(|| {
            debug!(
                topic = self.topic,
                "not known what the topic takes: {asked:?}"
            );
            LIMIT_BYTES
        });
        *self.limit.lock().expect("no panic while held") = Some((Instant::now(), limit));
        limit
    }

    /// Produces all, in order; after an error some of them may have been produced and some not. A record that the topic
    /// does not accept by itself is shortened by `shorten`, step by step, until that returns false.
    /// None is produced once the leadership of their partition has ended: the new leader may have produced something
    /// more recent.
    pub async fn produce(
        &self,
        messages: &mut [Message<'_>],
        shorten: fn(&mut Message<'_>) -> bool,
        leadership: &Leadership,
    ) -> Result<(), String> {
        if messages.is_empty() {
            return Ok(());
        }
        self.brokers.name_again(self.producer.client());
        let limit = self.limit().await;
        let mut rest = &*messages;
        let mut lots = Vec::new();
        while !rest.is_empty() {
            let (_, behind) = rest.split_at(fitting(rest, limit));
            lots.push(messages.len() - rest.len()..messages.len() - behind.len());
            rest = behind;
        }
        // The first chunk last, because chunks are taken from the end.
        lots.reverse();
        while let Some(lot) = lots.pop() {
            match self.produce_lot(&messages[lot.clone()], leadership).await {
                Ok(()) => {}
                // Kafka refuses all records of a request that is too large, whichever record is the cause.
                Err(refused) if refused.too_large && lot.len() > 1 => {
                    let middle = lot.start + lot.len() / 2;
                    lots.push(middle..lot.end);
                    lots.push(lot.start..middle);
                }
                // The database has the complete record.
                Err(refused) if refused.too_large => {
                    if !shorten(&mut messages[lot.start]) {
                        return Err(format!(
                            "{}, and nothing more of it can be left out: raise max.message.bytes of topic {}",
                            refused.text, self.topic
                        ));
                    }
                    lots.push(lot);
                }
                Err(refused) => return Err(refused.text),
            }
        }
        Ok(())
    }

    /// Produces records that fit into one request.
    async fn produce_lot(
        &self,
        messages: &[Message<'_>],
        leadership: &Leadership,
    ) -> Result<(), Refused> {
        if leadership.is_over() {
            return Err(Refused {
                index: 0,
                too_large: false,
                text: "this instance does not lead the partition any more".to_owned(),
            });
        }
        let mut refused: Option<Refused> = None;
        let mut deliveries = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let mut record = FutureRecord::to(&self.topic).headers(headers(message));
            if let Some(key) = message.key {
                record = record.key(key);
            }
            if let Some(payload) = message.payload.as_deref() {
                record = record.payload(payload);
            }
            // Queued before anything is awaited, so that they keep their order.
            match self.producer.send_result(record) {
                Ok(delivery) => deliveries.push((index, delivery)),
                Err((error, _)) => {
                    refused = Some(Refused::new(index, &error));
                    break;
                }
            }
        }
        // Every record is waited for: the next chunk must not overtake one.
        for (index, delivery) in deliveries {
            let error = match delivery.await {
                Ok(Ok(_)) => continue,
                Ok(Err((error, _))) => error,
                Err(_) => KafkaError::Canceled,
            };
            // A later one may have failed because the one before it did.
            let first = refused.take().filter(|first| first.index < index);
            refused = Some(first.unwrap_or_else(|| Refused::new(index, &error)));
        }
        refused.map_or(Ok(()), Err)
    }
}

/// How many of the first messages fit into one batch of so many bytes; at least one.
fn fitting(messages: &[Message<'_>], limit: usize) -> usize {
    let mut bytes = BATCH_HEAD;
    let fit = messages.iter().take_while(|message| {
        bytes += message.size();
        bytes <= limit
    });
    fit.count().max(1)
}

fn headers(message: &Message<'_>) -> OwnedHeaders {
    let own = message.headers.iter();
    let own = own.map(|(name, value)| (*name, Some(value.as_bytes())));
    let original = message.original_headers.iter();
    let original = original.map(|(name, value)| (name.as_str(), value.as_deref()));
    original
        .chain(own)
        .fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &[u8]) -> Message<'_> {
        Message {
            key: Some(b"key"),
            payload: Some(payload.into()),
            headers: vec![("name", "value".to_owned())],
            original_headers: vec![("trace".to_owned(), Some(vec![0; 10]))],
        }
    }

    #[test]
    fn lots_are_as_large_as_the_topic_takes_with_keys_and_headers_counted() {
        let payload = [0; 100];
        let messages: Vec<_> = (0..9).map(|_| message(&payload)).collect();
        let one = messages[0].size();
        assert!(one > 100 + "keynamevaluetrace".len() + 10);
        assert_eq!(fitting(&messages, BATCH_HEAD + 3 * one), 3);
        assert_eq!(fitting(&messages, BATCH_HEAD + 4 * one - 1), 3);
        assert_eq!(fitting(&messages, 1), 1, "for the broker to judge");
        assert_eq!(fitting(&messages, usize::MAX / 2), 9);
    }
}
