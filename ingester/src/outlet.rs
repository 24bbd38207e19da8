//! Producing to Kafka: at least once, in order per key.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::config::KafkaSettings;
use crate::source::client_config;

/// How long one record may take before the whole lot is tried again.
const DELIVERY: Duration = Duration::from_secs(5);

/// One record to be produced.
pub struct Message<'m> {
    pub key: Option<&'m [u8]>,
    pub payload: Option<&'m [u8]>,
    pub headers: Vec<(&'static str, String)>,
}

#[derive(Clone)]
pub struct Outlet {
    producer: FutureProducer,
    topic: String,
}

impl Outlet {
    pub fn new(settings: &KafkaSettings, topic: &str) -> Result<Self, String> {
        let mut config = client_config(settings);
        config
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", DELIVERY.as_millis().to_string());
        Ok(Self {
            producer: config.create().map_err(|error| error.to_string())?,
            topic: topic.to_owned(),
        })
    }

    /// Produces all, in order; an error says that some of them may be there and some not.
    pub async fn produce(&self, messages: &[Message<'_>]) -> Result<(), String> {
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
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
            deliveries.push(delivery.map_err(|(error, _)| error.to_string())?);
        }
        for delivery in deliveries {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => return Err(error.to_string()),
                Err(_) => return Err("the producer has ended".to_owned()),
            }
        }
        Ok(())
    }
}
