//! Asks Kafka about the topics that are read: which exist, how many partitions each has, and whether one was replaced.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::kafka::client::{Kafka, TopicId};
use crate::leases::topics::Topic;
use crate::partition::Partition;

/// How often Kafka is asked for the partitions of our topics.
const TOPICS_INTERVAL: Duration = Duration::from_secs(2);
/// The same for topics of registered handlers that do not exist yet.
const MISSING_INTERVAL: Duration = Duration::from_secs(5);

/// Kafka's answer about a topic.
pub struct TopicAnswer {
    pub topic: String,
    pub count: Result<Option<i32>, String>,
    /// It was replaced by another topic of the same name.
    pub is_other: bool,
}

/// Asks Kafka for the partitions of each topic at regular intervals.
pub async fn watch_topics(
    kafka: Arc<Kafka>,
    topics: watch::Receiver<BTreeMap<String, Topic>>,
    tell: mpsc::Sender<TopicAnswer>,
) {
    let mut warm = HashSet::new();
    let mut ids: HashMap<String, TopicId> = HashMap::new();
    let mut missing_since: HashMap<String, Instant> = HashMap::new();
    let mut ticks = tokio::time::interval(TOPICS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted = topics.borrow().clone();
        for (topic, wanted) in wanted {
            let missing = missing_since.get(&topic);
            if wanted.setting.is_none()
                && missing.is_some_and(|seen| seen.elapsed() < MISSING_INTERVAL)
            {
                continue;
            }
            let count = kafka.partition_count(&topic).await;
            if count == Ok(None) {
                missing_since.insert(topic.clone(), Instant::now());
            }
            if count == Ok(None) || count.is_err() {
                warm.remove(&topic);
            } else if warm.insert(topic.clone()) {
                missing_since.remove(&topic);
                // So that the first take-over does not have to wait for the connection to brokers.
                let _ = kafka
                    .watermarks(&Partition {
                        topic: topic.clone(),
                        number: 0,
                    })
                    .await;
            }
            let mut is_other = false;
            if matches!(count, Ok(Some(_)))
                && let Ok(Some(id)) = kafka.topic_id(&topic).await
            {
                let before = ids.insert(topic.clone(), id);
                is_other = before.is_some_and(|before| before != id);
            }
            let told = TopicAnswer {
                topic,
                count,
                is_other,
            };
            if tell.send(told).await.is_err() {
                return;
            }
        }
    }
}
