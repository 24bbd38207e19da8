//! Results: the verdict of every event, produced to `RESULTS_TOPIC` for the services that sent
//! them. Taken from what is committed, at least once, in the order of each partition; the
//! database holds how far each one is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;
use tracing::warn;

use crate::error::back_off;
use crate::lease::{Held, Leadership, led_among};
use crate::outlet::{Message, Outlet};
use crate::partition::Partition;
use crate::pool::{AskError, Object, Pool};
use crate::source::headers::of_json;
use crate::status::Status;

/// How often it is looked whether a replay has changed a verdict.
const LOOK: Duration = Duration::from_secs(5);
const CHUNK: i32 = 2_000;
const SAY_AGAIN: Duration = Duration::from_secs(10);

const PARTITIONS: &str = "SELECT topic, partition FROM sluice.partitions_with_results()";
const UNSENT: &str = "
    SELECT r.result, r.next_offset, r.changed_verdict, h.headers
    FROM sluice.unsent_results($1, $2, $3) WITH ORDINALITY
        AS r (result, next_offset, changed_verdict, nth)
    LEFT JOIN sluice.result_headers($1, $2, $3) h ON h.kafka_offset = (r.result::json ->> 'offset')::bigint
    ORDER BY r.nth";
const MARK: &str = "SELECT sluice.mark_results($1, $2, $3, $4)";
const FORGET_HEADERS: &str = "SELECT sluice.forget_result_headers($1, $2)";

pub struct Results {
    pub pool: Pool,
    pub outlet: Outlet,
    pub status: Arc<Status>,
    /// Partitions that the database knows to have results: nothing of them is pruned before it is told.
    pub begun: HashSet<Partition>,
}

impl Results {
    /// Runs for as long as the process; `led` answers what is led now.
    pub async fn run(mut self, led: impl Fn() -> Vec<Held>) {
        let mut waits = back_off();
        let mut said: Option<Instant> = None;
        loop {
            match self.look(&led()).await {
                Ok(true) => waits = back_off(),
                Ok(false) => {
                    waits = back_off();
                    tokio::select! {
                        () = self.status.moved() => {}
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                Err(trouble) => {
                    if said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
                        said = Some(Instant::now());
                        warn!("results wait: {trouble}");
                    }
                    tokio::time::sleep(waits.next().unwrap_or(SAY_AGAIN)).await;
                }
            }
        }
    }

    /// Whether there was anything to tell.
    async fn look(&mut self, led: &[Held]) -> Result<bool, String> {
        let (mut told, mut first) = (false, None);
        for (partition, leadership) in &led_among(&self.pool, led, PARTITIONS).await? {
            match self.tell(partition, leadership).await {
                Ok(()) => told = true,
                // The others need not wait for it.
                Err(trouble) => {
                    first.get_or_insert(format!("{partition}: {trouble}"));
                }
            }
        }
        first.map_or(Ok(told), Err)
    }

    async fn tell(&mut self, partition: &Partition, leadership: &Leadership) -> Result<(), String> {
        let Partition { topic, number } = partition;
        let client = self.client().await?;
        if !self.begun.contains(partition) {
            let begin = [
                topic as &(dyn ToSql + Sync),
                number,
                &0_i64,
                &[0_i64; 0].as_slice(),
            ];
            let marked = client.answer(client.execute(MARK, &begin)).await;
            marked.map_err(|failed| failed.describe())?;
            self.begun.insert(partition.clone());
        }
        let which: [&(dyn ToSql + Sync); 3] = [topic, number, &CHUNK];
        let rows = client.answer(client.query(UNSENT, &which)).await;
        let rows = rows.map_err(|failed| failed.describe())?;
        drop(client);
        fault_point!("results.read");
        // One key for all results of a partition keeps their order.
        let key = format!("{topic}/{number}");
        let messages: Vec<Message<'_>> = rows
            .iter()
            .filter_map(|row| {
                Some(Message {
                    key: Some(key.as_bytes()),
                    payload: Some(row.get::<_, Option<&str>>("result")?.as_bytes()),
                    headers: Vec::new(),
                    original_headers: row
                        .get::<_, Option<serde_json::Value>>("headers")
                        .map(|headers| of_json(&headers))
                        .unwrap_or_default(),
                })
            })
            .collect();
        let produced = self.outlet.produce(&messages, leadership).await;
        produced.map_err(|refused| format!("RESULTS_TOPIC: {}", refused.text))?;
        fault_point!("results.produced");
        let next_offset: Option<i64> = rows.iter().filter_map(|row| row.get("next_offset")).max();
        let changed: Vec<i64> = rows
            .iter()
            .filter_map(|row| row.get("changed_verdict"))
            .collect();
        let client = self.client().await?;
        let sent: [&(dyn ToSql + Sync); 4] = [topic, number, &next_offset, &changed];
        let marked = client.answer(client.execute(MARK, &sent)).await;
        marked.map_err(|failed| failed.describe())?;
        fault_point!("results.marked");
        let told: [&(dyn ToSql + Sync); 2] = [topic, number];
        let forgotten = client.answer(client.execute(FORGET_HEADERS, &told)).await;
        forgotten.map_err(|failed| failed.describe())?;
        Ok(())
    }

    async fn client(&self) -> Result<Object, String> {
        let client = self.pool.get().await.map_err(AskError::of_pool);
        client.map_err(|failed| failed.describe())
    }
}
