//! `sluice events`: the event types that come with Sluice, from the schemas of this build, their topics and those of
//! the settings, and what became of an event.

use std::collections::BTreeSet;
use std::sync::Arc;

use comfy_table::{ContentArrangement, Table, presets};

use crate::cli::event_check::Check;
use crate::cli::event_try::Try;
use crate::cli::find::Find;
use crate::cli::output::write_line;
use crate::config::database::DatabaseArgs;
use crate::config::kafka::{KafkaArgs, KafkaSettings};
use crate::kafka::client::Kafka;
use crate::kafka::creation;
use crate::operator::events::{described, parsed_schema, schema, types};

#[derive(clap::Subcommand)]
pub enum Events {
    #[command(flatten)]
    Types(Types),
    /// Decode events as the ingesters would, without Kafka and PostgreSQL; exit status 1 with the reasons where one is refused
    Check(Check),
    /// Call the handler of a type with events and show what it would write: in PostgreSQL, rolled back, without Kafka. Exit status 1 where it refuses one
    Try {
        #[command(flatten)]
        database: Box<DatabaseArgs>,
        #[command(flatten)]
        events: Try,
    },
    /// What became of an event: where it is, its verdict, its changes, its dead letter, and whether its sender was told
    Find {
        #[command(flatten)]
        database: Box<DatabaseArgs>,
        #[command(flatten)]
        find: Find,
    },
    /// Topics of the types that come with Sluice and of the settings (BALANCE_TOPICS, EVENT_TOPICS, DLQ_TOPIC,
    /// RESULTS_TOPIC), and how many partitions each has; --create makes those that are not there
    Topics {
        #[command(flatten)]
        kafka: Box<KafkaArgs>,
        #[command(flatten)]
        topics: Topics,
    },
}

#[derive(clap::Subcommand)]
pub enum Types {
    /// All types with what each one says, and the records that Sluice writes: result, dead-letter
    List,
    /// The JSON Schema of a type, or of a record that Sluice writes
    Schema {
        /// For example user.created, balance.changed, result, dead-letter
        event_type: String,
    },
    /// A sample event of a type, ready to be sent; or a sample of a record that Sluice writes
    Sample {
        /// For example user.created, balance.changed, result, dead-letter
        event_type: String,
    },
}

#[derive(clap::Args)]
pub struct Topics {
    /// These topics only: of a type, also one of your own, it is the type's name, for example user.created; default: all
    topics: Vec<String>,
    /// Make those that are not there
    #[arg(long)]
    create: bool,
    /// Partitions of each topic that is made: as many as instances will ever share it
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Copies of each record in a topic that is made; default: as the brokers do by themselves
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100))]
    replication: Option<i32>,
}

/// What to print, or one line that says why not.
pub fn types_as_text(command: &Types) -> Result<String, String> {
    match command {
        Types::List => list(),
        Types::Schema { event_type } => Ok(schema(event_type)?.trim_end().to_owned()),
        Types::Sample { event_type } => {
            let schema = parsed_schema(event_type)?;
            serde_json::to_string(&schema["examples"][0]).map_err(|error| error.to_string())
        }
    }
}

fn list() -> Result<String, String> {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    for event_type in described() {
        let schema = parsed_schema(event_type)?;
        let meaning = schema["description"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        table.add_row([event_type.to_owned(), meaning]);
    }
    Ok(table.trim_fmt())
}

pub async fn topics(settings: &KafkaSettings, arguments: &Topics) -> Result<(), String> {
    let names: BTreeSet<&str> = match arguments.topics.is_empty() {
        true => all_topics(settings),
        false => arguments.topics.iter().map(String::as_str).collect(),
    };
    if let Some(name) = names.iter().find(|name| !is_topic_name(name)) {
        return Err(format!(
            "{name:?} is no name of a Kafka topic: those have 1 to 249 letters, digits, '.', '_' and '-'"
        ));
    }
    let kafka = Arc::new(Kafka::connect(settings, Arc::default())?);
    kafka.serve();
    let mut missing = Vec::new();
    let mut found: Vec<(&str, String)> = Vec::new();
    for name in names {
        let counted = kafka.partition_count(name).await;
        match counted.map_err(|error| refused(&kafka, &error))? {
            Some(count) => found.push((name, format!("{count} partitions"))),
            None => missing.push(name),
        }
    }
    if arguments.create && !missing.is_empty() {
        let (partitions, copies) = (arguments.partitions, arguments.replication);
        creation::create(settings, &missing, partitions, copies).await?;
        let made = |name| (name, format!("made, {partitions} partitions"));
        found.extend(missing.into_iter().map(made));
    } else {
        found.extend(
            missing
                .into_iter()
                .map(|name| (name, "not there".to_owned())),
        );
    }
    found.sort();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (name, state) in found {
        table.add_row([name.to_owned(), state]);
    }
    write_line(&table.trim_fmt())
}

/// Those of the types that come with Sluice, and those that the settings name.
fn all_topics(settings: &KafkaSettings) -> BTreeSet<&str> {
    let named = settings.event_topics.iter().flatten();
    let named = named
        .chain(&settings.balance_topics)
        .chain(&settings.dlq_topic)
        .chain(&settings.results_topic);
    let mut topics: BTreeSet<&str> = types().into_iter().collect();
    topics.extend(named.map(String::as_str));
    topics
}

/// By Kafka's own rule.
fn is_topic_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && ![".", ".."].contains(&name) && name.bytes().all(is_allowed)
}

fn refused(kafka: &Kafka, error: &str) -> String {
    let said = kafka.refusal();
    said.unwrap_or_else(|| format!("{error}; see KAFKA_BROKERS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kafka::ResultsKey;

    #[test]
    fn the_topics_of_the_settings_are_made_with_those_of_the_types() {
        let settings = KafkaSettings {
            brokers: "localhost:9092".to_owned(),
            client_id: "a test".to_owned(),
            group_id: "a test".to_owned(),
            balance_topics: vec!["balance.changed".to_owned()],
            awaits_balance_topics: true,
            event_topics: Some(vec!["review.written".to_owned(), "user.created".to_owned()]),
            dlq_topic: Some("db-writer.dlq".to_owned()),
            results_topic: None,
            results_key: ResultsKey::Partition,
            properties: Default::default(),
        };
        let topics = all_topics(&settings);
        let named = ["balance.changed", "db-writer.dlq", "review.written"];
        assert!(named.iter().all(|name| topics.contains(name)), "{topics:?}");
        assert_eq!(topics.len(), types().len() + named.len());
    }

    #[test]
    fn names_of_topics_are_those_that_kafka_takes() {
        let longest = "x".repeat(249);
        for name in ["review.written", "A_b-9", "...", longest.as_str()] {
            assert!(is_topic_name(name), "{name}");
        }
        let too_long = "x".repeat(250);
        for name in ["", ".", "..", "a b", "a/b", "ä", too_long.as_str()] {
            assert!(!is_topic_name(name), "{name}");
        }
    }
}
