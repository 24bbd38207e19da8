//! One partition of a topic of domain events, led by a test: its records go straight into the apply.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::Event;

pub struct Partition {
    topic: String,
    number: i32,
    fencing_token: i64,
    lease_id: Uuid,
    next: i64,
}

/// What became of one record.
#[derive(Debug, PartialEq, Eq)]
pub struct Fate {
    pub verdict: String,
    pub reason: Option<String>,
    /// Of the dead letter.
    pub message: Option<String>,
}

impl Partition {
    pub async fn lead(client: &Client, topic: &str, number: i32) -> Self {
        let acquire =
            "SELECT * FROM sluice.acquire_partition_lock($1, $2, 'families', interval '1 hour')";
        let row = client
            .query_one(acquire, &[&topic, &number])
            .await
            .expect("the partition is free");
        Self {
            topic: topic.to_owned(),
            number,
            fencing_token: row.get("fencing_token"),
            lease_id: row.get("lease_id"),
            next: row.get("commit_offset"),
        }
    }

    pub async fn send(&mut self, client: &Client, events: &[&Event]) -> Result<(), Error> {
        let payloads: Vec<Vec<u8>> = events.iter().map(|event| event.payload()).collect();
        self.send_raw(client, &payloads).await
    }

    pub async fn send_raw(&mut self, client: &Client, payloads: &[Vec<u8>]) -> Result<(), Error> {
        let apply = "SELECT * FROM sluice.apply_event_batch($1, $2, $3, $4, $5, $6, NULL, $7, $8, $9, $10, $11)";
        let next = self.next + payloads.len() as i64;
        let offsets: Vec<i64> = (self.next..next).collect();
        let times_ms = vec![0_i64; payloads.len()];
        let keys: Vec<Option<Vec<u8>>> = vec![None; payloads.len()];
        let headers: Vec<Option<String>> = vec![None; payloads.len()];
        client
            .query_one(
                apply,
                &[
                    &self.topic,
                    &self.number,
                    &self.fencing_token,
                    &self.lease_id,
                    &self.next,
                    &next,
                    &offsets,
                    &times_ms,
                    &keys,
                    &payloads,
                    &headers,
                ],
            )
            .await?;
        self.next = next;
        Ok(())
    }

    /// In the order of the records; asked by someone who may read the ledger.
    pub async fn fates(&self, reader: &Client) -> Vec<Fate> {
        let fates = "
            SELECT v.verdict, v.reason, d.error_message
            FROM ledger.event_verdicts v LEFT JOIN ledger.dead_letters d USING (topic, partition, kafka_offset)
            WHERE v.topic = $1 AND v.partition = $2 ORDER BY v.kafka_offset";
        let rows = reader
            .query(fates, &[&self.topic, &self.number])
            .await
            .expect("verdicts");
        rows.iter()
            .map(|row| Fate {
                verdict: row.get(0),
                reason: row.get(1),
                message: row.get(2),
            })
            .collect()
    }
}
