//! Work on dead letters, separate from reading: retries of records on which their handler failed,
//! producing letters to the dead letter topic, and the Redis mark of a replayed one, whoever
//! replayed it. The database records what remains to be done.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ledger::contract::sqlstate::STALE;
use tokio::sync::Notify;
use tokio_postgres::types::ToSql;
use tracing::{debug, info, warn};

use crate::config::run::RetrySettings;
use crate::kafka::headers::of_json;
use crate::kafka::producer::{HEADERS_OMITTED, Message, TopicProducer};
use crate::leases::lease::{Held, led_among};
use crate::observe::metrics::Metrics;
use crate::postgres::error::Consequence;
use crate::postgres::pool::{AskError, Object, Pool};
use crate::redis_marks::{self, Hint};
use crate::throttle::Throttle;

/// How often the database is queried for keys that an operator freed, and for work that another instance left.
const LOOK: Duration = Duration::from_secs(10);
/// The same while work is in progress.
const BUSY_LOOK: Duration = Duration::from_millis(250);
const CHUNK: i32 = 500;
/// And this many bytes of payloads, keys and headers.
const CHUNK_BYTES: i64 = 8 << 20;
const SAY_AGAIN: Duration = Duration::from_secs(10);

const TO_CARE_FOR: &str = "SELECT topic, partition FROM sluice.partitions_to_care_for()";
const RETRY: &str =
    "SELECT retried, waiting FROM sluice.retry_dead_letters($1, $2, $3, $4, $5, $6, $7)";
// Only its last letter may take a chunk beyond its bytes.
const UNPUBLISHED: &str = "
    SELECT * FROM (
        SELECT d.*, h.headers,
            sum(coalesce(octet_length(d.payload), 0) + coalesce(octet_length(d.key), 0)
                + coalesce(octet_length(h.headers::text), 0)) OVER (
                ORDER BY d.kafka_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
        FROM sluice.unpublished_dead_letters($1, $2, $3, $4) d
        LEFT JOIN sluice.dead_letter_headers($1, $2, $3, $4) h ON h.id = d.id
    ) u
    WHERE coalesce(u.bytes_before, 0) < $5 ORDER BY u.kafka_offset";
const MARK: &str = "SELECT sluice.mark_published($1)";
const UNMARKED: &str = "SELECT id, event_id, source, is_processed
    FROM sluice.unmarked_replays($1, $2, $3::double precision * interval '1 s', $4)";
const MARK_REPLAYS: &str = "SELECT sluice.mark_replays($1)";

const PAYLOAD_OMITTED: &str = "sluice-payload-omitted";
const KEY_OMITTED: &str = "sluice-key-omitted";
const ERROR_MESSAGE: &str = "sluice-error-message";
/// Header with the full length of the message, in bytes.
const ERROR_MESSAGE_SHORTENED: &str = "sluice-error-message-shortened";

pub struct DeadLetterWork {
    pub pool: Pool,
    pub retry: RetrySettings,
    pub producer: Option<TopicProducer>,
    /// Where replayed events are marked, and how long a mark stays.
    pub hint: Option<(Hint, Duration)>,
    /// Notified when there may be work.
    pub wake: Arc<Notify>,
    pub metrics: Arc<Metrics>,
}

/// Why some work was not done now.
struct NotDone {
    text: String,
    passes: bool,
}

impl NotDone {
    fn of(failed: AskError) -> Self {
        Self {
            text: failed.describe(),
            // Lost leadership and paused handlers are reported elsewhere. The retry function is SQL, so its refusals do not
            // have the fence's routine.
            passes: matches!(
                failed.consequence(),
                Consequence::Reacquire | Consequence::Pause
            ) || failed
                .answer()
                .and_then(tokio_postgres::Error::code)
                .is_some_and(|code| code.code() == STALE),
        }
    }
}

#[cfg(feature = "fault-points")]
impl From<crate::fault::Raised> for NotDone {
    fn from(raised: crate::fault::Raised) -> Self {
        Self {
            text: raised.into(),
            passes: false,
        }
    }
}

impl DeadLetterWork {
    /// Runs for as long as the process; `led` returns the partitions that are led now.
    pub async fn keep_working(self, led: impl Fn() -> Vec<Held>) {
        let mut said = Throttle::every(SAY_AGAIN);
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            loop {
                match self.look(&led()).await {
                    Ok(false) => break,
                    Ok(true) => {}
                    Err(trouble) => {
                        if said.is_due() {
                            warn!("dead letters wait: {trouble}");
                        }
                    }
                }
                tokio::time::sleep(BUSY_LOOK).await;
            }
        }
    }

    /// Returns whether there is more work soon.
    async fn look(&self, led: &[Held]) -> Result<bool, String> {
        let (mut more, mut first) = (false, None);
        for held in &led_among(&self.pool, led, TO_CARE_FOR).await? {
            let partition = &held.0;
            for work in [self.retry(held).await, self.publish(held).await] {
                match work {
                    Ok(again) => more |= again,
                    Err(trouble) if trouble.passes => debug!(%partition, "{}", trouble.text),
                    // The other partitions need not wait for it.
                    Err(trouble) => {
                        first.get_or_insert(format!("{partition}: {}", trouble.text));
                    }
                }
            }
        }
        match self.mark(led).await {
            Ok(again) => more |= again,
            Err(trouble) => {
                first.get_or_insert(format!("marks in Redis: {}", trouble.text));
            }
        }
        first.map_or(Ok(more), Err)
    }

    /// Has replayed letters marked in Redis. Letters older than the lifetime of a mark are left out.
    async fn mark(&self, led: &[Held]) -> Result<bool, NotDone> {
        let Some((hint, ttl)) = self.hint.as_ref().filter(|_| !led.is_empty()) else {
            return Ok(false);
        };
        let partitions = led.iter().map(|(partition, _)| partition);
        let (topics, numbers): (Vec<&str>, Vec<i32>) = partitions
            .map(|partition| (partition.topic.as_str(), partition.number))
            .unzip();
        let client = self.client().await?;
        let which: [&(dyn ToSql + Sync); 4] = [&topics, &numbers, &ttl.as_secs_f64(), &CHUNK];
        let letters = client.answer(client.query(UNMARKED, &which)).await;
        let letters = letters.map_err(NotDone::of)?;
        drop(client);
        if letters.is_empty() {
            return Ok(false);
        }
        let processed = letters.iter().filter(|letter| letter.get("is_processed"));
        let keys: Vec<String> = processed
            .filter_map(|letter| {
                let event_id: Option<&str> = letter.get("event_id");
                Some(redis_marks::key(letter.get("source"), event_id?))
            })
            .collect();
        // Redis may be away for long: the next round is soon enough.
        if !keys.is_empty() && !hint.replayed(keys).await {
            return Ok(false);
        }
        let ids: Vec<i64> = letters.iter().map(|letter| letter.get("id")).collect();
        let client = self.client().await?;
        let marked = client.answer(client.execute(MARK_REPLAYS, &[&ids])).await;
        marked.map_err(NotDone::of)?;
        Ok(letters.len() >= CHUNK as usize)
    }

    async fn client(&self) -> Result<Object, NotDone> {
        let client = self.pool.get().await.map_err(AskError::of_pool);
        client.map_err(NotDone::of)
    }

    async fn retry(&self, (partition, leadership): &Held) -> Result<bool, NotDone> {
        let max_attempts = self.retry.max_attempts as i32;
        let delay_ms = self.retry.delay.as_millis() as i64;
        let client = self.client().await?;
        let retry: [&(dyn ToSql + Sync); 7] = [
            &partition.topic,
            &partition.number,
            &leadership.fencing_token,
            &leadership.lease_id,
            &max_attempts,
            &delay_ms,
            &self.retry.exponential,
        ];
        let row = client.answer(client.query_one(RETRY, &retry)).await;
        let row = row.map_err(NotDone::of)?;
        fault_point!("letters.retried");
        let (retried, waiting): (i64, i64) = (row.get(0), row.get(1));
        self.metrics.dead_letters_retried(retried);
        if retried > 0 {
            info!(%partition, retried, waiting, "dead letters tried again");
        }
        Ok(retried > 0 || waiting > 0)
    }

    /// At least once: a letter that was produced but not recorded as published is produced again.
    async fn publish(&self, (partition, leadership): &Held) -> Result<bool, NotDone> {
        let Some(producer) = &self.producer else {
            return Ok(false);
        };
        let max_attempts = self.retry.max_attempts as i32;
        let client = self.client().await?;
        let (topic, number) = (&partition.topic, &partition.number);
        let which: [&(dyn ToSql + Sync); 5] = [topic, number, &max_attempts, &CHUNK, &CHUNK_BYTES];
        let letters = client
            .answer_over(CHUNK_BYTES as usize, client.query(UNPUBLISHED, &which))
            .await;
        let letters = letters.map_err(NotDone::of)?;
        if letters.is_empty() {
            return Ok(false);
        }
        fault_point!("letters.read");
        let mut messages: Vec<Message<'_>> = letters
            .iter()
            .map(|letter| Message {
                key: letter.get("key"),
                payload: letter.get::<_, Option<&[u8]>>("payload").map(Cow::Borrowed),
                headers: vec![
                    ("sluice-topic", topic.clone()),
                    ("sluice-partition", number.to_string()),
                    (
                        "sluice-offset",
                        letter.get::<_, i64>("kafka_offset").to_string(),
                    ),
                    ("sluice-error-code", letter.get("error_code")),
                    (ERROR_MESSAGE, letter.get("error_message")),
                    (
                        "sluice-attempts",
                        letter.get::<_, i32>("attempts").to_string(),
                    ),
                    (
                        "sluice-first-failed-ms",
                        letter.get::<_, i64>("first_failed_ms").to_string(),
                    ),
                ],
                original_headers: letter
                    .get::<_, Option<serde_json::Value>>("headers")
                    .map(|headers| of_json(&headers))
                    .unwrap_or_default(),
            })
            .collect();
        let produced = producer.produce(&mut messages, shorten, leadership).await;
        produced.map_err(|trouble| NotDone {
            text: format!("DLQ_TOPIC: {trouble}"),
            passes: false,
        })?;
        fault_point!("letters.produced");
        let ids: Vec<i64> = letters.iter().map(|letter| letter.get("id")).collect();
        let marked = client.answer(client.execute(MARK, &[&ids])).await;
        marked.map_err(NotDone::of)?;
        fault_point!("letters.marked");
        Ok(true)
    }
}

/// Leaves out the largest of payload, key and headers, or, without these, halves the error's message, and adds a header
/// that says so; false where there is nothing left to leave out.
fn shorten(message: &mut Message<'_>) -> bool {
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let parts = [
        (length(message.payload.as_deref()), PAYLOAD_OMITTED),
        (length(message.key), KEY_OMITTED),
        (message.original_bytes(), HEADERS_OMITTED),
    ];
    // Of equally large ones the first.
    let largest = parts.into_iter().rev().max_by_key(|(bytes, _)| *bytes);
    let Some((bytes @ 1.., header)) = largest else {
        return halve_error_message(message);
    };
    match header {
        PAYLOAD_OMITTED => message.payload = None,
        KEY_OMITTED => message.key = None,
        _ => return message.omit_original_headers(),
    }
    message.headers.push((header, bytes.to_string()));
    true
}

fn halve_error_message(message: &mut Message<'_>) -> bool {
    let mut headers = message.headers.iter_mut();
    let Some((_, text)) = headers.find(|(name, _)| *name == ERROR_MESSAGE) else {
        return false;
    };
    let bytes = text.len();
    let half = (0..=bytes / 2)
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(half.unwrap_or_default());
    let said = ERROR_MESSAGE_SHORTENED;
    if bytes > 0 && message.headers.iter().all(|(name, _)| *name != said) {
        message.headers.push((said, bytes.to_string()));
    }
    bytes > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_loses_its_largest_part_first() {
        let mut message = Message {
            key: Some(b"key"),
            payload: Some(b"payload".as_slice().into()),
            headers: Vec::new(),
            original_headers: vec![("traceparent".to_owned(), Some(b"00".to_vec()))],
        };
        assert!(shorten(&mut message));
        assert!(message.original_headers.is_empty() && message.payload.is_some());
        assert!(shorten(&mut message));
        assert!(message.key == Some(&b"key"[..]) && message.payload.is_none());
        assert!(shorten(&mut message));
        assert!(!shorten(&mut message));
        let headers = [
            ("sluice-headers-omitted", "13"),
            ("sluice-payload-omitted", "7"),
            ("sluice-key-omitted", "3"),
        ];
        assert_eq!(
            message.headers,
            headers.map(|(name, bytes)| (name, bytes.to_owned()))
        );
    }

    #[test]
    fn a_letter_that_is_too_large_has_its_message_shortened_last() {
        let mut message = Message {
            key: None,
            payload: Some(b"{".as_slice().into()),
            headers: vec![
                ("sluice-offset", "7".to_owned()),
                (ERROR_MESSAGE, "éééa".to_owned()),
            ],
            original_headers: Vec::new(),
        };
        assert!(shorten(&mut message));
        assert!(message.payload.is_none());
        for left in ["é", ""] {
            assert!(shorten(&mut message));
            assert_eq!(message.headers[1].1, left);
        }
        assert!(!shorten(&mut message));
        let headers = [
            ("sluice-offset", "7"),
            (ERROR_MESSAGE, ""),
            ("sluice-payload-omitted", "1"),
            (ERROR_MESSAGE_SHORTENED, "7"),
        ];
        assert_eq!(
            message.headers,
            headers.map(|(name, text)| (name, text.to_owned()))
        );
    }
}
