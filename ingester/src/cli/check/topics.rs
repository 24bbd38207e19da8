//! What `sluice check` sees of Kafka: the topics that are read and written, and whether Kafka still has what is to be read next.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::findings::{Findings, LIMIT};
use crate::batch::record::Kind;
use crate::config::kafka::KafkaSettings;
use crate::kafka::client::Kafka;
use crate::leases::topics::{Topic, Topics, registered};
use crate::partition::Partition;

pub(super) async fn brokers(
    settings: &KafkaSettings,
    client: Option<&Client>,
    findings: &mut Findings,
) {
    match Kafka::connect(settings, Arc::default()) {
        Err(error) => findings.fails("Kafka", &settings.brokers, &error),
        Ok(kafka) => {
            let wanted = Topics::new(settings);
            let registered = match client {
                Some(client) => {
                    let asked = tokio::time::timeout(LIMIT, registered(client));
                    asked.await.ok().and_then(Result::ok).unwrap_or_default()
                }
                None => Vec::new(),
            };
            let kafka = Arc::new(kafka);
            // By its callbacks Kafka says why it refuses.
            kafka.serve();
            let look = Look {
                kafka: kafka.clone(),
                brokers: &settings.brokers,
                client,
            };
            let wanted = wanted.with(&registered);
            if let Err(error) = look.topics(&wanted, settings, findings).await {
                let refusal = kafka.refusal();
                let advice = refusal.unwrap_or_else(|| format!("{error}; see KAFKA_BROKERS"));
                findings.fails("Kafka", &settings.brokers, &advice);
            }
        }
    }
}

/// What the topics are looked at with.
struct Look<'c> {
    kafka: Arc<Kafka>,
    brokers: &'c str,
    client: Option<&'c Client>,
}

impl Look<'_> {
    /// An error is one of Kafka as a whole.
    async fn topics(
        &self,
        topics: &BTreeMap<String, Topic>,
        settings: &KafkaSettings,
        findings: &mut Findings,
    ) -> Result<(), String> {
        let mut awaited: Vec<&str> = Vec::new();
        for (topic, wanted) in topics {
            let name = format!("topic {topic}");
            match (self.kafka.partition_count(topic).await?, wanted.setting) {
                (Some(count), _) => {
                    findings.fits(name, self.partitions(count));
                    if let Some(client) = self.client {
                        offsets(&self.kafka, topic, client, findings).await;
                    }
                }
                (None, Some(setting)) => {
                    let advice = format!("create it or change {setting}");
                    findings.fails(name, "missing", &advice);
                }
                (None, None) if wanted.kind == Kind::Balance => {
                    findings.fits(name, "not there yet: read once it is");
                }
                (None, None) => awaited.push(topic),
            }
        }
        if !awaited.is_empty() {
            let first = awaited[..awaited.len().min(3)].join(", ");
            let more = if awaited.len() > 3 { ", …" } else { "" };
            findings.fits(
                "topics of handlers",
                format!("{} not there yet: {first}{more}", awaited.len()),
            );
        }
        if settings.dlq_topic.is_none() {
            findings.fits("dead letter topic", "DLQ_TOPIC is empty: none");
        }
        for (what, setting, topic) in [
            ("dead letter topic", "DLQ_TOPIC", &settings.dlq_topic),
            ("results topic", "RESULTS_TOPIC", &settings.results_topic),
        ] {
            let Some(topic) = topic else { continue };
            let name = format!("{what} {topic}");
            match self.kafka.partition_count(topic).await? {
                Some(count) => findings.fits(name, self.partitions(count)),
                None => findings.warns(
                    name,
                    "missing",
                    &format!(
                        "create it or change {setting}, unless the broker creates topics by itself"
                    ),
                ),
            }
        }
        Ok(())
    }

    fn partitions(&self, count: i32) -> String {
        format!("{count} partitions at {}", self.brokers)
    }
}

/// Whether Kafka still has what the database wants to read next.
async fn offsets(kafka: &Arc<Kafka>, topic: &str, client: &Client, findings: &mut Findings) {
    let committed = "SELECT l.partition, p.commit_offset FROM ledger.partition_progress p
        JOIN ledger.partition_leases l USING (partition_id) WHERE l.topic = $1 AND p.started_at IS NOT NULL ORDER BY 1";
    let which: [&(dyn ToSql + Sync); 1] = [&topic];
    let asked = tokio::time::timeout(LIMIT, client.query(committed, &which)).await;
    let Ok(Ok(rows)) = asked else {
        return;
    };
    let (mut behind, mut faults) = (0, Vec::new());
    for row in &rows {
        let partition = Partition {
            topic: topic.to_owned(),
            number: row.get(0),
        };
        let next: i64 = row.get(1);
        match kafka.watermarks(&partition).await {
            Ok(Some(ends)) if next < ends.low => {
                faults.push(format!(
                    "{partition}: offsets {next} to {} are gone (retention)",
                    ends.low - 1
                ));
            }
            Ok(Some(ends)) if next > ends.high => {
                faults.push(format!(
                    "{partition} ends at {}, before the committed {next}",
                    ends.high
                ));
            }
            Ok(Some(ends)) => behind += ends.high - next,
            Ok(None) => faults.push(format!("{partition} was deleted")),
            Err(error) => faults.push(format!("{partition}: {error}")),
        }
    }
    findings.test(
        format!("offsets of {topic}"),
        format!("{} partitions read, {behind} records behind", rows.len()),
        faults.is_empty(),
        &faults.join("; "),
    );
}
