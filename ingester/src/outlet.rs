//! Producing to Kafka: at least once, in order per key.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::statistics::Statistics;

use crate::config::KafkaSettings;
use crate::source::brokers::Brokers;
use crate::source::{STATISTICS, client_config, describe_config_error};

/// How long one record may take before the whole lot is tried again.
const DELIVERY: Duration = Duration::from_secs(5);

/// What Kafka may take is for the topic to say, not for librdkafka's default of a megabyte.
const MESSAGE_MAX_BYTES: (&str, &str) = ("message.max.bytes", "1000000000");

/// One record to be produced.
pub struct Message<'m> {
    pub key: Option<&'m [u8]>,
    pub payload: Option<&'m [u8]>,
    pub headers: Vec<(&'static str, String)>,
}

/// Why not all were produced.
pub struct Refused {
    /// The one to blame.
    pub index: usize,
    pub too_large: bool,
    pub text: String,
}

impl Refused {
    fn new(index: usize, error: &KafkaError) -> Self {
        Self {
            index,
            too_large: error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge),
            text: error.to_string(),
        }
    }
}

#[derive(Clone)]
struct Context(Arc<Brokers>);

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        self.0.seen(&statistics);
    }
}

#[derive(Clone)]
pub struct Outlet {
    producer: FutureProducer<Context>,
    brokers: Arc<Brokers>,
    topic: String,
}

impl Outlet {
    pub fn new(settings: &KafkaSettings, topic: &str) -> Result<Self, String> {
        let mut config = client_config(settings);
        config
            .set(STATISTICS.0, STATISTICS.1)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", DELIVERY.as_millis().to_string());
        let (property, value) = MESSAGE_MAX_BYTES;
        if !settings.properties.contains_key(property) {
            config.set(property, value);
        }
        let brokers = Arc::new(Brokers::new(&settings.brokers)?);
        Ok(Self {
            producer: config
                .create_with_context(Context(brokers.clone()))
                .map_err(|error| describe_config_error(&error, settings))?,
            brokers,
            topic: topic.to_owned(),
        })
    }

    /// Produces all, in order; an error says that some of them may be there and some not.
    pub async fn produce(&self, messages: &[Message<'_>]) -> Result<(), Refused> {
        self.brokers.name_again(self.producer.client());
        let mut deliveries = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let headers =
                message
                    .headers
                    .iter()
                    .fold(OwnedHeaders::new(), |headers, (key, value)| {
                        headers.insert(Header {
                            key,
                            value: Some(value),
                        })
                    });
            let mut record = FutureRecord::to(&self.topic).headers(headers);
            if let Some(key) = message.key {
                record = record.key(key);
            }
            if let Some(payload) = message.payload {
                record = record.payload(payload);
            }
            // Queued here and now, so that they keep their order.
            let delivery = self.producer.send_result(record);
            deliveries.push(delivery.map_err(|(error, _)| Refused::new(index, &error))?);
        }
        let size = |index: usize| messages[index].payload.map_or(0, <[u8]>::len);
        let mut refused: Option<Refused> = None;
        for (index, delivery) in deliveries.into_iter().enumerate() {
            let error = match delivery.await {
                Ok(Ok(_)) => continue,
                Ok(Err((error, _))) => error,
                Err(_) => KafkaError::Canceled,
            };
            // Kafka refuses all records of a request that is too large: the largest is to blame.
            let is_smaller = |first: &Refused| first.too_large && size(first.index) < size(index);
            if refused.as_ref().is_none_or(is_smaller) {
                refused = Some(Refused::new(index, &error));
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
