//! librdkafka's callbacks: its log, its statistics, and refusals by brokers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;
use tracing::{debug, warn};

use crate::kafka::brokers::Brokers;
use crate::kafka::words;
use crate::observe::snapshot::{Ends, Queue};
use crate::observe::status::Status;
use crate::partition::Partition;
use crate::throttle::Throttle;
use crate::tls::{self, Names};

const TLS_NAMES: Names = Names {
    ca: "KAFKA_SSL_CA_LOCATION",
    certificate: "KAFKA_SSL_CERTIFICATE_LOCATION",
    key: "KAFKA_SSL_KEY_LOCATION",
    host: "KAFKA_BROKERS",
};

/// A refusal by Kafka is logged again after this time.
pub(super) const COMPLAIN_AGAIN: Duration = Duration::from_secs(10);

const OTHER_PROTOCOL: &str =
    "if that goes on, KAFKA_SECURITY_PROTOCOL is not what this port of the broker speaks";

/// How often each topic was replaced while we watched it.
#[derive(Clone, Default)]
pub(super) struct Generations(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Generations {
    pub(super) fn of(&self, topic: &str) -> Arc<AtomicU64> {
        self.0
            .lock()
            .expect("no panic while held")
            .entry(topic.to_owned())
            .or_default()
            .clone()
    }
}

#[derive(Clone)]
pub(super) struct Context {
    pub(super) brokers: Arc<Brokers>,
    pub(super) generations: Generations,
    /// Set by the reader only.
    pub(super) status: Option<Arc<Status>>,
    pub(super) complained: Arc<Mutex<Throttle>>,
    /// Why the brokers refuse us, and what to change.
    pub(super) refusal: Arc<Mutex<Option<String>>>,
}

/// If a topic is deleted and created again between two metadata refreshes, librdkafka continues at
/// the old offset and reports that only in a debug line, before it fetches anything of the new topic.
/// That line is an alarm, not evidence: after it a broker is asked for the topic's id. The first id
/// that librdkafka learns replaces one of zeros.
fn created_anew(message: &str) -> Option<&str> {
    let (before, ids) = message.split_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    let (old, _) = ids.split_once(" to ")?;
    (!old.bytes().all(|byte| byte == b'A')).then_some(topic)
}

impl Context {
    /// `line` is librdkafka's, and names the broker.
    fn rejected(&self, line: &str, reason: &str, advice: &str) {
        let broker = words::broker(line).unwrap_or("a broker");
        let refusal = format!("Kafka rejected the connection ({broker}): {reason}; {advice}");
        // librdkafka repeats the line with every attempt to connect.
        let mut complained = self.complained.lock().expect("no panic while held");
        if complained.is_due() {
            warn!("KAFKA_BROKERS: {refusal}");
        }
        *self.refusal.lock().expect("no panic while held") = Some(refusal);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        if let Some(topic) = created_anew(message) {
            warn!(topic, "the topic was deleted and created again");
            self.generations.of(topic).fetch_add(1, Ordering::SeqCst);
        }
        // A broker that expects TLS closes the connection at the first request, which librdkafka reports only in its log.
        if message.contains("Disconnected") && message.contains("in state APIVERSION_QUERY") {
            self.rejected(
                message,
                "the broker closed it at the first request",
                OTHER_PROTOCOL,
            );
        }
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!("kafka: {message}"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!("the Kafka client library reports: {message}")
            }
            _ => debug!("kafka: {message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.seen(&statistics);
        let Some(status) = &self.status else { return };
        let is_up = statistics
            .brokers
            .values()
            .any(|broker| broker.state == "UP");
        let partitions = || {
            let topics = statistics.topics.values();
            topics.flat_map(|topic| topic.partitions.values())
        };
        let queue = Queue {
            records: partitions().map(|partition| partition.fetchq_cnt).sum(),
            bytes: partitions()
                .map(|partition| partition.fetchq_size as i64)
                .sum(),
        };
        let ends = statistics.topics.into_iter().flat_map(|(topic, found)| {
            let partitions = found.partitions.into_values();
            // A negative value is not known yet.
            partitions.filter_map(move |partition| {
                let (high, stable) = (partition.hi_offset, partition.ls_offset);
                let ends = Ends {
                    high,
                    stable: if stable >= 0 { stable } else { high },
                };
                let (topic, number) = (topic.clone(), partition.partition);
                (high >= 0).then_some((Partition { topic, number }, ends))
            })
        });
        status.kafka_tells(is_up, queue, ends);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(advice) = advice(&error, reason) else {
            debug!("kafka: {error}: {reason}");
            return;
        };
        let said = words::of(&error);
        let said = match reason.contains("error:") {
            true => format!("{said}: {}", tls::words(reason)),
            false => said,
        };
        self.rejected(reason, &said, &advice);
    }
}

/// What to change, if nothing else helps.
fn advice(error: &KafkaError, reason: &str) -> Option<String> {
    if reason.contains("PLAINTEXT broker listener") || reason.contains("security.protocol") {
        return Some(OTHER_PROTOCOL.into());
    }
    if let Some(advice) = tls::advice(reason, &TLS_NAMES) {
        return Some(advice);
    }
    match error.rdkafka_error_code()? {
        Code::SSL => Some("see KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_LOCATION".into()),
        Code::Authentication | Code::SaslAuthenticationFailed => Some(
            "KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must name a login that the brokers let in".into(),
        ),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed => {
            Some("the brokers' ACLs must allow this login what it reads and writes".into())
        }
        _ => None,
    }
}

impl ConsumerContext for Context {}
