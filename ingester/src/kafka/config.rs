//! librdkafka's properties: those of all clients, and those of each.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::config::kafka::KafkaSettings;
use crate::kafka::words;

/// How often librdkafka reports the brokers that it knows, and the ends of the partitions.
pub const STATISTICS: (&str, &str) = ("statistics.interval.ms", "2000");

/// Defaults of all clients: how long a broker may take to answer a request or a connection. By default librdkafka
/// waits a minute for an answer that never comes, and all partitions of that broker with it.
const ANSWERS: [(&str, &str); 2] = [
    ("socket.timeout.ms", "5000"),
    ("socket.connection.setup.timeout.ms", "5000"),
];

/// Whether librdkafka knows the properties and their values.
pub fn validate(settings: &KafkaSettings) -> Result<(), String> {
    let checked = base_config(settings).create_native_config();
    checked
        .map(drop)
        .map_err(|error| describe_config_error(&error, settings))
}

/// The properties that all clients share.
pub fn client_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (property, (_, value)) in &settings.properties {
        config.set(property, value);
    }
    for (property, value) in ANSWERS {
        if !settings.properties.contains_key(property) {
            config.set(property, value);
        }
    }
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", &settings.client_id)
        .set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// The properties that all reading clients share.
pub fn base_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = client_config(settings);
    config
        .set(STATISTICS.0, STATISTICS.1)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", "5000")
        .set("topic.metadata.propagation.max.ms", "0");
    config
}

/// Names the variable that a property came from, and never its value, which may be a secret.
pub fn describe_config_error(error: &KafkaError, settings: &KafkaSettings) -> String {
    let (raw, told) = match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, property, _) => (
            property.clone(),
            format!("librdkafka has no property {property}"),
        ),
        KafkaError::ClientConfig(_, reason, property, _) => {
            (format!("{property}: {reason}"), reason.clone())
        }
        _ => (error.to_string(), words::of(error)),
    };
    let properties = settings.properties.iter();
    let named = properties
        .filter(|(property, _)| raw.contains(property.as_str()))
        .max_by_key(|(property, _)| property.len());
    let variable = named.map_or("KAFKA_BROKERS", |(_, (variable, _))| variable);
    format!("{variable}: {told}")
}
