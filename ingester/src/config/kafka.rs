//! Where Kafka is, what is read there and what is written.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Args as ClapArgs, ValueEnum};

use crate::config::secrets::{both_set, read_secret};
use crate::config::setting::{BadSetting, bad};

/// Where Kafka is and what is read. Shared by `run` and `check`.
#[derive(ClapArgs, Clone)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// Kafka's brokers, host:port, comma separated
    #[arg(long, env = "KAFKA_BROKERS")]
    kafka_brokers: Option<String>,
    /// Name under which Kafka knows this client
    #[arg(long, env = "KAFKA_CLIENT_ID", default_value = "db-writer-service")]
    kafka_client_id: String,
    /// Name of this installation, after which its group and its dead letter topic are called: so that two of them on one Kafka
    /// are kept apart
    #[arg(long, env = "INSTALLATION", value_name = "NAME")]
    installation: Option<String>,
    /// Consumer group whose offsets are committed, for lag tools only [default: INSTALLATION, or db-writer-group]
    #[arg(long, env = "KAFKA_GROUP_ID")]
    kafka_group_id: Option<String>,
    /// Topics with balance events, comma separated; empty: none; default: balance.changed, awaited as long as it is not there
    #[arg(long, env = "BALANCE_TOPICS")]
    balance_topics: Option<String>,
    /// Topics with domain events, comma separated; default: those of all registered handlers, also later ones
    #[arg(long, env = "EVENT_TOPICS")]
    event_topics: Option<String>,
    /// Topic that each dead letter is produced to; empty: none [default: INSTALLATION with .dlq behind it, or db-writer.dlq]
    #[arg(long, env = "DLQ_TOPIC")]
    dlq_topic: Option<String>,
    /// Topic that the verdict of each event is produced to; default: none
    #[arg(long, env = "RESULTS_TOPIC", default_value = "")]
    results_topic: String,
    /// Key of the records in RESULTS_TOPIC: topic/partition, the event's id, the account of its first change, or its source
    #[arg(long, env = "RESULTS_KEY", value_enum, default_value_t = ResultsKey::Partition)]
    results_key: ResultsKey,
}

/// What the results of one key have in common. They keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResultsKey {
    Partition,
    Event,
    Account,
    Source,
}

#[derive(Clone)]
pub struct KafkaSettings {
    pub brokers: String,
    pub client_id: String,
    pub group_id: String,
    pub balance_topics: Vec<String>,
    /// Nobody has named them: they need not exist yet.
    pub awaits_balance_topics: bool,
    /// `None`: those of the registered handlers.
    pub event_topics: Option<Vec<String>>,
    pub dlq_topic: Option<String>,
    pub results_topic: Option<String>,
    pub results_key: ResultsKey,
    /// librdkafka properties from `KAFKA_…`, with the name of the variable.
    pub properties: BTreeMap<String, (String, String)>,
}

/// Where no installation is named: as it was called before it had a name.
const GROUP_ID: &str = "db-writer-group";
const DLQ_TOPIC: &str = "db-writer.dlq";
/// Kafka's own limit is 249, with what stands behind it.
const LONGEST_NAME: usize = 200;

struct Names {
    group_id: String,
    dlq_topic: String,
}

/// The topic that is read where BALANCE_TOPICS names none.
const BALANCE_TOPIC: &str = "balance.changed";

/// Own settings that begin with KAFKA_: no properties of librdkafka.
const OWN_KAFKA: [&str; 4] = [
    "KAFKA_BROKERS",
    "KAFKA_CLIENT_ID",
    "KAFKA_GROUP_ID",
    "KAFKA_AUTO_COMMIT",
];

/// Kubernetes puts these there for a service that is called kafka.
fn is_kubernetes(name: &str) -> bool {
    ["KAFKA_SERVICE_HOST", "KAFKA_SERVICE_PORT", "KAFKA_PORT"]
        .iter()
        .any(|prefix| name == *prefix || name.starts_with(&format!("{prefix}_")))
}

/// Properties whose values Sluice's guarantees rest on.
const FIXED: [&str; 18] = [
    "client.id",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "enable.partition.eof",
    "allow.auto.create.topics",
    "check.crcs",
    "debug",
    "log.queue",
    "statistics.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.propagation.max.ms",
    // Of the producer.
    "enable.idempotence",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "transactional.id",
];

/// Properties that are another name of KAFKA_BROKERS.
const BROKERS: [&str; 2] = ["bootstrap.servers", "metadata.broker.list"];

impl KafkaArgs {
    pub fn settings(
        &self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<KafkaSettings, BadSetting> {
        let brokers = self
            .kafka_brokers
            .clone()
            .filter(|brokers| !brokers.is_empty());
        let brokers = brokers.ok_or_else(|| {
            bad(
                "KAFKA_BROKERS",
                "missing; set it to host:port, comma separated",
            )
        })?;
        let brokers = addresses(&brokers)?;
        let (balance_topics, event_topics) = self.topics()?;
        let read: Vec<&String> = balance_topics
            .iter()
            .chain(event_topics.iter().flatten())
            .collect();
        let names = self.names()?;
        let dlq_topic = written("DLQ_TOPIC", &names.dlq_topic, &read)?;
        let results_topic = written("RESULTS_TOPIC", &self.results_topic, &read)?;
        let properties = properties(environment)?;
        let (client_id, group_id) = (self.kafka_client_id.clone(), names.group_id);
        Ok(KafkaSettings {
            brokers,
            client_id,
            group_id,
            balance_topics,
            awaits_balance_topics: self.balance_topics.is_none(),
            event_topics,
            dlq_topic,
            results_topic,
            results_key: self.results_key,
            properties,
        })
    }

    /// What of the shared Kafka is this installation's own: as it is named, or after the installation.
    fn names(&self) -> Result<Names, BadSetting> {
        let installation = self.installation.as_deref();
        let installation = installation.filter(|name| !name.is_empty());
        if let Some(name) = installation
            && (name.len() > LONGEST_NAME || topics("INSTALLATION", name)? != [name])
        {
            let form = "must have 1 to 200 letters, digits, '.', '_' and '-'";
            return Err(bad("INSTALLATION", form));
        }
        let group_id = self.kafka_group_id.clone();
        let dlq_topic = self.dlq_topic.clone();
        Ok(Names {
            group_id: group_id.unwrap_or_else(|| installation.unwrap_or(GROUP_ID).to_owned()),
            dlq_topic: dlq_topic.unwrap_or_else(|| match installation {
                Some(name) => format!("{name}.dlq"),
                None => DLQ_TOPIC.to_owned(),
            }),
        })
    }

    /// What is read: balance topics, and those of domain events where they are named.
    fn topics(&self) -> Result<(Vec<String>, Option<Vec<String>>), BadSetting> {
        let named = self.balance_topics.as_deref();
        let balance_topics = topics("BALANCE_TOPICS", named.unwrap_or(BALANCE_TOPIC))?;
        let event_topics = self.event_topics.as_deref();
        let event_topics = event_topics
            .map(|list| topics("EVENT_TOPICS", list))
            .transpose()?;
        if balance_topics.is_empty() && event_topics.as_ref().is_some_and(Vec::is_empty) {
            return Err(bad(
                "BALANCE_TOPICS",
                "empty, as EVENT_TOPICS is: there is nothing to read",
            ));
        }
        let mut both = event_topics.iter().flatten();
        if let Some(topic) = both.find(|topic| balance_topics.contains(topic)) {
            return Err(bad(
                "EVENT_TOPICS",
                format!("{topic} is one of BALANCE_TOPICS: a topic is one or the other"),
            ));
        }
        Ok((balance_topics, event_topics))
    }
}

/// Brokers as librdkafka takes them. What cannot be one is counted, not quoted: it may hold a password.
fn addresses(list: &str) -> Result<String, BadSetting> {
    let wrong = |nth: usize, why: &str| {
        let form = "the form is host:port, comma separated";
        Err(bad("KAFKA_BROKERS", format!("address {nth} {why}; {form}")))
    };
    let addresses: Vec<&str> = list.split(',').map(str::trim).collect();
    for (address, nth) in addresses.iter().zip(1..) {
        if address.contains("://") {
            return wrong(
                nth,
                "begins with a protocol, which KAFKA_SECURITY_PROTOCOL names",
            );
        }
        if address.contains(['/', '@', ' ']) {
            return wrong(
                nth,
                "has a sign that no host has; a login is given by KAFKA_SASL_USERNAME",
            );
        }
        // An IPv6 address stands in brackets.
        let behind = address.rsplit_once(']').map_or(*address, |(_, rest)| rest);
        let port = behind.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if address.is_empty() || address.starts_with(':') {
            return wrong(nth, "is empty");
        }
        if matches!(port, Some(Err(_) | Ok(0))) {
            return wrong(nth, "has a port that is none");
        }
    }
    Ok(addresses.join(","))
}

/// The one topic that a setting names, if any; what is read must not be written.
fn written(setting: &str, list: &str, read: &[&String]) -> Result<Option<String>, BadSetting> {
    let mut topics = topics(setting, list)?;
    let topic = topics.pop();
    if !topics.is_empty() {
        return Err(bad(setting, "must be one topic"));
    }
    match read.iter().find(|read| Some(**read) == topic.as_ref()) {
        Some(topic) => Err(bad(
            setting,
            format!("{topic} is read, too: what is produced would come back"),
        )),
        None => Ok(topic),
    }
}

/// librdkafka's properties by their names, each with the variable that gives it and the value.
fn properties(
    environment: impl Iterator<Item = (String, String)>,
) -> Result<BTreeMap<String, (String, String)>, BadSetting> {
    let mut properties = BTreeMap::new();
    for (name, value) in environment.filter(|(name, _)| name.starts_with("KAFKA_")) {
        let (plain, value) = match name.strip_suffix("_FILE") {
            Some(plain) if !value.is_empty() => (plain, read_secret(&name, Path::new(&value))?),
            _ => (name.as_str(), value),
        };
        let property = plain["KAFKA_".len()..].to_lowercase().replace('_', ".");
        if name == "KAFKA_AUTO_COMMIT"
            && !["false", "0", ""].contains(&value.to_lowercase().as_str())
        {
            return Err(bad(
                &name,
                "must be false: offsets are committed by the database, with the money",
            ));
        }
        if OWN_KAFKA.contains(&plain) || value.is_empty() || is_kubernetes(&name) {
            continue;
        }
        if BROKERS.contains(&property.as_str()) {
            return Err(bad(
                &name,
                format!("{property} cannot be set: KAFKA_BROKERS names the brokers"),
            ));
        }
        if FIXED.contains(&property.as_str()) {
            return Err(bad(
                &name,
                format!("{property} cannot be set: Sluice's guarantees rest on its value"),
            ));
        }
        let (file, given) = (format!("{plain}_FILE"), plain.to_owned());
        if properties.insert(property, (name, value)).is_some() {
            return Err(both_set(&file, &given));
        }
    }
    Ok(properties)
}

fn topics(setting: &str, list: &str) -> Result<Vec<String>, BadSetting> {
    let mut topics: Vec<String> = list
        .split(',')
        .map(|topic| topic.trim().to_owned())
        .filter(|t| !t.is_empty())
        .collect();
    topics.sort();
    topics.dedup();
    let well_formed = |topic: &String| {
        topic.len() <= 249
            && topic
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    match topics.iter().find(|topic| !well_formed(topic)) {
        Some(topic) => Err(bad(
            setting,
            format!("{topic:?} is no name of a Kafka topic"),
        )),
        None => Ok(topics),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        kafka: KafkaArgs,
    }

    /// Group and dead letter topic.
    fn names(arguments: &[&str]) -> Result<(String, String), BadSetting> {
        let arguments = ["sluice"].into_iter().chain(arguments.iter().copied());
        let names = Command::parse_from(arguments).kafka.names()?;
        Ok((names.group_id, names.dlq_topic))
    }

    #[test]
    fn two_installations_on_one_kafka_have_groups_and_dead_letter_topics_of_their_own() {
        let pair = |group: &str, topic: &str| Ok((group.to_owned(), topic.to_owned()));
        assert_eq!(names(&[]), pair("db-writer-group", "db-writer.dlq"));
        assert_eq!(
            names(&["--installation", "sluice"]),
            pair("sluice", "sluice.dlq")
        );
        assert_eq!(
            names(&[
                "--installation",
                "bank",
                "--dlq-topic",
                "",
                "--kafka-group-id",
                "g"
            ]),
            pair("g", "")
        );
        for wrong in ["a,b", "a b", "bank/1"] {
            let told = names(&["--installation", wrong]).expect_err(wrong);
            assert!(told.0.starts_with("INSTALLATION: "), "{told}");
        }
    }

    #[test]
    fn brokers_with_a_protocol_or_without_a_port_number_are_refused_and_not_quoted() {
        for (list, why) in [
            ("kafka://b1:9092", "address 1 begins with a protocol"),
            ("b1:9092,SSL://b2:9093", "address 2 begins with a protocol"),
            ("b1:9092,", "address 2 is empty"),
            ("me:canary@b1:9092", "address 1 has a sign"),
            ("b1:canary", "address 1 has a port that is none"),
            ("b1:70000", "address 1 has a port that is none"),
            (":9092", "address 1 is empty"),
        ] {
            let told = addresses(list).expect_err(list).0;
            assert!(told.contains(why), "{told}");
            assert!(!told.contains("canary"), "{told}");
        }
        assert_eq!(
            addresses("b1:9092, b2 ,[::1]:9094"),
            Ok("b1:9092,b2,[::1]:9094".to_owned())
        );
    }
}
