//! Results: the verdict of every record, produced to `RESULTS_TOPIC` for the services that sent
//! them. Read from committed verdicts, at least once, in the order of each partition; the database
//! records the progress of each partition.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tracing::warn;

use crate::back_off::back_off;
use crate::config::kafka::ResultsKey;
use crate::kafka::headers::of_json;
use crate::kafka::producer::{Message, TopicProducer};
use crate::leases::lease::{Held, Leadership, led_among};
use crate::observe::status::Status;
use crate::partition::Partition;
use crate::postgres::pool::{AskError, Object, Pool};
use crate::throttle::Throttle;

/// How often the database is queried for verdicts that a replay has changed.
const LOOK: Duration = Duration::from_secs(5);
const CHUNK: i32 = 2_000;
/// And this many bytes of results and headers.
const CHUNK_BYTES: i64 = 8 << 20;
const SAY_AGAIN: Duration = Duration::from_secs(10);

const PARTITIONS: &str = "SELECT topic, partition FROM sluice.partitions_with_results()";
// A chunk may exceed its bytes by its last result only.
const UNSENT: &str = "
    SELECT u.result, u.next_offset, u.changed_verdict, u.headers FROM (
        SELECT r.*, h.headers,
            sum(coalesce(octet_length(r.result), 0) + coalesce(octet_length(h.headers::text), 0)) OVER (
                ORDER BY r.nth ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
        FROM sluice.unsent_results($1, $2, $3) WITH ORDINALITY
            AS r (result, next_offset, changed_verdict, nth)
        LEFT JOIN sluice.result_headers($1, $2, $3) h ON h.kafka_offset = (r.result::json ->> 'offset')::bigint
    ) u
    WHERE coalesce(u.bytes_before, 0) < $4 ORDER BY u.nth";
const MARK: &str = "SELECT sluice.mark_results($1, $2, $3, $4)";
const DEAD_KEYS: &str = "SELECT kafka_offset, key FROM sluice.dead_letter_keys($1, $2, $3)";
const FORGET_HEADERS: &str = "SELECT sluice.forget_result_headers($1, $2)";

/// What is left out of a result that is too large, in this order, with the header that says so. Topic, partition and
/// offset still identify its record.
const DISPENSABLE: [(&str, &str); 4] = [
    ("balances", "sluice-balances-omitted"),
    ("message", "sluice-message-omitted"),
    ("source", "sluice-source-omitted"),
    ("eventId", "sluice-event-id-omitted"),
];

pub struct Results {
    pub pool: Pool,
    pub producer: TopicProducer,
    pub key: ResultsKey,
    pub status: Arc<Status>,
    /// Partitions of which the database knows that they have results: they are pruned only up to what was produced.
    pub begun: HashSet<Partition>,
}

impl Results {
    /// Runs for as long as the process; `led` returns the partitions that are led now.
    pub async fn keep_producing(mut self, led: impl Fn() -> Vec<Held>) {
        let mut waits = back_off();
        let mut said = Throttle::every(SAY_AGAIN);
        let mut chunk = CHUNK;
        loop {
            match self.look(&led(), &mut chunk).await {
                Ok(true) => waits = back_off(),
                Ok(false) => {
                    waits = back_off();
                    tokio::select! {
                        () = self.status.moved() => {}
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                Err(trouble) => {
                    if said.is_due() {
                        warn!("results wait: {trouble}");
                    }
                    tokio::time::sleep(waits.next().unwrap_or(SAY_AGAIN)).await;
                }
            }
        }
    }

    /// Returns whether there was anything to produce.
    async fn look(&mut self, led: &[Held], chunk: &mut i32) -> Result<bool, String> {
        let (mut told, mut first) = (false, None);
        for (partition, leadership) in &led_among(&self.pool, led, PARTITIONS).await? {
            match self.tell(partition, leadership, chunk).await {
                Ok(()) => told = true,
                // The other partitions need not wait for it.
                Err(trouble) => {
                    self.begun.remove(partition);
                    first.get_or_insert(format!("{partition}: {trouble}"));
                }
            }
        }
        first.map_or(Ok(told), Err)
    }

    /// Produces at most `chunk` results, and sets `chunk` for the next query: the database reads the length of each row
    /// that the query asks for, so it asks for fewer rows while they are large.
    async fn tell(
        &mut self,
        partition: &Partition,
        leadership: &Leadership,
        chunk: &mut i32,
    ) -> Result<(), String> {
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
            // Headers of results that were produced before a crash would displace those still to be produced.
            self.forget_headers(&client, partition).await?;
            self.begun.insert(partition.clone());
        }
        let which: [&(dyn ToSql + Sync); 4] = [topic, number, &*chunk, &CHUNK_BYTES];
        let rows = client
            .answer_over(CHUNK_BYTES as usize, client.query(UNSENT, &which))
            .await;
        let rows = rows.map_err(|failed| failed.describe())?;
        let results = rows
            .iter()
            .filter_map(|row| Some((row, row.get::<_, Option<&str>>("result")?)));
        let results: Vec<(&Row, &str)> = results.collect();
        let keys = self.keys(&client, partition, &results).await?;
        drop(client);
        fault_point!("results.read");
        let mut messages: Vec<Message<'_>> = results
            .iter()
            .zip(&keys)
            .map(|((row, result), key)| Message {
                key: Some(key),
                payload: Some(result.as_bytes().into()),
                headers: Vec::new(),
                original_headers: row
                    .get::<_, Option<Value>>("headers")
                    .map(|headers| of_json(&headers))
                    .unwrap_or_default(),
            })
            .collect();
        let bytes: usize = messages.iter().map(Message::size).sum();
        *chunk = match bytes > CHUNK_BYTES as usize / 2 {
            true => (messages.len() as i32).max(1),
            false => CHUNK,
        };
        let produced = self.producer.produce(&mut messages, shorten, leadership);
        let produced = produced.await;
        produced.map_err(|trouble| format!("RESULTS_TOPIC: {trouble}"))?;
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
        self.forget_headers(&client, partition).await
    }

    /// The key of each result. A dead record has no account; its own key is the sender's word for it. Whatever has nothing of
    /// the kind that is asked for has the key that all results of the partition have otherwise.
    async fn keys(
        &self,
        client: &Object,
        partition: &Partition,
        results: &[(&Row, &str)],
    ) -> Result<Vec<Vec<u8>>, String> {
        let otherwise = partition.to_string().into_bytes();
        if self.key == ResultsKey::Partition {
            return Ok(vec![otherwise; results.len()]);
        }
        let results = results
            .iter()
            .map(|(_, result)| serde_json::from_str(result).unwrap_or_default());
        let results: Vec<Value> = results.collect();
        let offset = |result: &Value| result["offset"].as_i64().unwrap_or_default();
        let dead = results.iter().filter(|result| result["verdict"] == "DEAD");
        let dead: Vec<i64> = dead.map(offset).collect();
        let mut dead_keys: HashMap<i64, Vec<u8>> = HashMap::new();
        if self.key == ResultsKey::Account && !dead.is_empty() {
            let which: [&(dyn ToSql + Sync); 3] = [&partition.topic, &partition.number, &dead];
            let rows = client.answer(client.query(DEAD_KEYS, &which)).await;
            let rows = rows.map_err(|failed| failed.describe())?;
            dead_keys.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
        }
        let keys = results.iter().map(|result| {
            let own = own_key(result, self.key).map(String::into_bytes);
            let own = own.or_else(|| dead_keys.get(&offset(result)).cloned());
            own.unwrap_or_else(|| otherwise.clone())
        });
        Ok(keys.collect())
    }

    async fn forget_headers(&self, client: &Object, partition: &Partition) -> Result<(), String> {
        let told: [&(dyn ToSql + Sync); 2] = [&partition.topic, &partition.number];
        let forgotten = client.answer(client.execute(FORGET_HEADERS, &told)).await;
        forgotten.map(drop).map_err(|failed| failed.describe())
    }

    async fn client(&self) -> Result<Object, String> {
        let client = self.pool.get().await.map_err(AskError::of_pool);
        client.map_err(|failed| failed.describe())
    }
}

/// What a result has of the kind that is asked for. Results of one key keep their order.
fn own_key(result: &Value, key: ResultsKey) -> Option<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match key {
        ResultsKey::Partition => None,
        ResultsKey::Event => text(&result["eventId"]),
        ResultsKey::Source => text(&result["source"]),
        ResultsKey::Account => {
            let account = result["balances"][0]["accountId"].as_i64();
            account.map(|id| id.to_string())
        }
    }
}

/// Leaves out the headers of the original, then parts of the result, and adds the length of each as a header; false
/// where there is nothing left to leave out.
fn shorten(message: &mut Message<'_>) -> bool {
    if message.omit_original_headers() {
        return true;
    }
    let payload = message.payload.as_deref().unwrap_or_default();
    let Ok(Value::Object(mut result)) = serde_json::from_slice(payload) else {
        return false;
    };
    for (field, header) in DISPENSABLE {
        let Some(part) = result.get_mut(field) else {
            continue;
        };
        let bytes = part.to_string().len();
        // Null replaces it; an empty list would look like an event without changes.
        if bytes > "null".len() {
            *part = Value::Null;
            let result = Value::Object(result).to_string();
            message.payload = Some(result.into_bytes().into());
            message.headers.push((header, bytes.to_string()));
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_key_that_is_asked_for() {
        let accounts = serde_json::json!([{"accountId": i64::MIN}, {"accountId": 7}]);
        let whole = serde_json::json!({"eventId": "e-1", "source": "s", "balances": accounts});
        let bare = serde_json::json!({"eventId": null, "source": null, "balances": []});
        for (key, of_whole) in [
            (ResultsKey::Partition, None),
            (ResultsKey::Event, Some("e-1")),
            (ResultsKey::Source, Some("s")),
            (ResultsKey::Account, Some("-9223372036854775808")),
        ] {
            assert_eq!(own_key(&whole, key).as_deref(), of_whole);
            assert_eq!(own_key(&bare, key), None);
        }
    }

    #[test]
    fn a_result_that_is_too_large_loses_its_headers_then_its_balances() {
        let balances = r#"[{"accountId":42,"available":"12.5","currencyCode":"USD","frozen":"0","shardId":1}]"#;
        let result = format!(
            r#"{{"topic":"balance.changed","partition":3,"offset":4711,"eventId":"e\u0001","source":null,"verdict":"APPLIED","message":"too long","balances":{balances}}}"#
        );
        let mut message = Message {
            key: Some(b"balance.changed/3"),
            payload: Some(result.as_bytes().into()),
            headers: Vec::new(),
            original_headers: vec![("traceparent".to_owned(), Some(b"00".to_vec()))],
        };
        assert!(shorten(&mut message));
        assert!(message.original_headers.is_empty());
        assert_eq!(message.payload.as_deref(), Some(result.as_bytes()));
        for _ in ["balances", "message", "eventId"] {
            assert!(shorten(&mut message));
        }
        assert!(!shorten(&mut message));
        let left: Value =
            serde_json::from_slice(message.payload.as_deref().expect("a result")).expect("JSON");
        let expected = serde_json::json!({
            "topic": "balance.changed", "partition": 3, "offset": 4711, "eventId": null, "source": null,
            "verdict": "APPLIED", "message": null, "balances": null,
        });
        assert_eq!(left, expected);
        let headers = [
            ("sluice-headers-omitted", 13),
            ("sluice-balances-omitted", balances.len()),
            ("sluice-message-omitted", r#""too long""#.len()),
            ("sluice-event-id-omitted", r#""e\u0001""#.len()),
        ];
        assert_eq!(
            message.headers,
            headers.map(|(name, bytes)| (name, bytes.to_string()))
        );
    }
}
