//! Which topics are read, and of which kind their records are: those of the settings and, unless
//! the settings name event topics, of every registered handler. A topic that no setting names is awaited.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::batch::record::Kind;
use crate::config::kafka::KafkaSettings;

/// A topic that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    pub kind: Kind,
    /// The setting that names it; a topic that no setting names need not exist yet.
    pub setting: Option<&'static str>,
}

/// The topics of the settings.
pub struct Topics {
    named: BTreeMap<String, Topic>,
    follows_handlers: bool,
}

impl Topics {
    pub fn new(settings: &KafkaSettings) -> Self {
        let balance = settings.balance_topics.iter().map(|name| {
            let setting = (!settings.awaits_balance_topics).then_some("BALANCE_TOPICS");
            let kind = Kind::Balance;
            (name.clone(), Topic { kind, setting })
        });
        let domain = settings.event_topics.iter().flatten().map(|name| {
            let (kind, setting) = (Kind::Domain, Some("EVENT_TOPICS"));
            (name.clone(), Topic { kind, setting })
        });
        Self {
            named: balance.chain(domain).collect(),
            follows_handlers: settings.event_topics.is_none(),
        }
    }

    /// All topics, if `registered` are the event types with a handler.
    pub fn with(&self, registered: &[String]) -> BTreeMap<String, Topic> {
        let mut topics = self.named.clone();
        for name in registered.iter().filter(|_| self.follows_handlers) {
            topics.entry(name.clone()).or_insert(Topic {
                kind: Kind::Domain,
                setting: None,
            });
        }
        topics
    }
}

/// Event types that have a handler.
pub async fn registered(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let types = "SELECT event_type FROM ledger.event_handlers ORDER BY event_type";
    let rows = client.query_typed(types, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kafka::ResultsKey;

    fn settings(events: Option<&[&str]>) -> KafkaSettings {
        KafkaSettings {
            brokers: String::new(),
            client_id: String::new(),
            group_id: String::new(),
            balance_topics: vec!["b".into()],
            awaits_balance_topics: false,
            event_topics: events.map(|names| names.iter().map(|name| (*name).into()).collect()),
            dlq_topic: None,
            results_topic: None,
            results_key: ResultsKey::Partition,
            properties: BTreeMap::new(),
        }
    }

    fn names(events: Option<&[&str]>, registered: &[&str]) -> Vec<(String, Kind)> {
        let settings = settings(events);
        let registered: Vec<String> = registered.iter().map(|name| (*name).into()).collect();
        let topics = Topics::new(&settings).with(&registered);
        topics
            .into_iter()
            .map(|(name, topic)| (name, topic.kind))
            .collect()
    }

    #[test]
    fn a_balance_topic_that_nobody_named_is_awaited_as_those_of_handlers_are() {
        let mut settings = settings(None);
        let setting = |settings: &KafkaSettings, topic: &str| {
            let topics = Topics::new(settings).with(&["x".to_owned()]);
            topics[topic].setting
        };
        assert_eq!(setting(&settings, "b"), Some("BALANCE_TOPICS"));
        settings.awaits_balance_topics = true;
        assert_eq!(
            (setting(&settings, "b"), setting(&settings, "x")),
            (None, None)
        );
    }

    #[test]
    fn handlers_are_followed_unless_topics_are_named() {
        let (balance, domain) = (("b".into(), Kind::Balance), |name: &str| {
            (name.into(), Kind::Domain)
        });
        assert_eq!(
            names(None, &["x", "y"]),
            [balance.clone(), domain("x"), domain("y")]
        );
        assert_eq!(
            names(Some(&["y"]), &["x", "y"]),
            [balance.clone(), domain("y")]
        );
        assert_eq!(names(Some(&[]), &["x"]), names(None, &[]));
        assert_eq!(names(None, &["b"]), [balance]);
    }
}
