//! Creates topics on request; a running ingester creates none.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::config::kafka::KafkaSettings;
use crate::kafka::client::REQUEST_TIMEOUT;
use crate::kafka::config::{client_config, describe_config_error};
use crate::kafka::words::{of, of_code};

/// The replication factor by default: that of the brokers.
const AS_BROKERS_DO: i32 = -1;

/// Creates these topics, and leaves existing ones as they are; an error names the first that was refused.
pub async fn create(
    settings: &KafkaSettings,
    topics: &[&str],
    partitions: i32,
    replication: Option<i32>,
) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> = client_config(settings)
        .create()
        .map_err(|error| describe_config_error(&error, settings))?;
    let copies = replication.unwrap_or(AS_BROKERS_DO);
    let wanted: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(copies)))
        .collect();
    let options = AdminOptions::new()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .operation_timeout(Some(REQUEST_TIMEOUT));
    let made = admin.create_topics(&wanted, &options).await;
    let made = made.map_err(|error| format!("{}; see KAFKA_BROKERS", of(&error)))?;
    // Dropping it waits for a thread of its own to end.
    drop(tokio::task::spawn_blocking(move || drop(admin)));
    let refused = made.into_iter().filter_map(Result::err);
    match refused
        .into_iter()
        .find(|(_, code)| *code != Code::TopicAlreadyExists)
    {
        Some((topic, code)) => Err(format!("topic {topic} was not created: {}", of_code(code))),
        None => Ok(()),
    }
}
