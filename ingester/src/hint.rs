//! Marks in Redis, `processed:{source}:{eventId}`, for other services that want to know
//! early whether an event was processed. Set after COMMIT, never asked, and done without
//! when Redis is away: the database's identities decide.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::error::back_off;
use crate::status::Status;

/// Batches whose marks may wait; what comes while it is full is not marked.
const QUEUE: usize = 64;
/// How long Redis may take for the marks of one batch.
const ANSWER: Duration = Duration::from_secs(2);
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// How often Redis is looked at while there is nothing to mark.
const PING: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Hint(mpsc::Sender<Vec<String>>);

impl Hint {
    /// Refuses an address that cannot be one; Redis itself may be away.
    pub fn start(url: &str, ttl: Duration, status: Arc<Status>) -> Result<Self, String> {
        let client =
            redis::Client::open(url).map_err(|error| format!("REDIS_URL: {}", error.category()))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(mark(client, ttl, receiver, status));
        Ok(Self(sender))
    }

    /// Never waits.
    pub fn processed(&self, keys: Vec<String>) {
        if !keys.is_empty() {
            let _ = self.0.try_send(keys);
        }
    }
}

/// The mark of an event.
pub fn key(source: Option<&str>, event_id: &str) -> String {
    match source {
        Some(source) => format!("processed:{source}:{event_id}"),
        None => format!("processed:{event_id}"),
    }
}

async fn mark(
    client: redis::Client,
    ttl: Duration,
    mut queue: mpsc::Receiver<Vec<String>>,
    status: Arc<Status>,
) {
    let mut connection: Option<MultiplexedConnection> = None;
    let mut trouble = Trouble::default();
    let mut waits = back_off();
    loop {
        let keys = match tokio::time::timeout(PING, queue.recv()).await {
            Ok(Some(keys)) => keys,
            Ok(None) => return,
            Err(_) => Vec::new(),
        };
        let work = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => client.get_multiplexed_async_connection().await?,
            };
            let mut pipeline = redis::pipe();
            for key in &keys {
                pipeline.set_ex(key, 1, ttl.as_secs()).ignore();
            }
            if keys.is_empty() {
                pipeline.ping().ignore();
            }
            pipeline.query_async::<()>(&mut open).await?;
            Ok::<_, redis::RedisError>(open)
        };
        let outcome = tokio::time::timeout(ANSWER, work).await;
        status.redis_is_connected(matches!(outcome, Ok(Ok(_))));
        match outcome {
            Ok(Ok(open)) => {
                connection = Some(open);
                trouble.over();
                waits = back_off();
                continue;
            }
            Ok(Err(error)) => trouble.say(error.category()),
            Err(_) => trouble.say("no answer in time"),
        }
        tokio::time::sleep(waits.next().unwrap_or(SAY_AGAIN)).await;
    }
}

/// One line when Redis goes, one when it is back, and one a minute between.
#[derive(Default)]
struct Trouble(Option<Instant>);

impl Trouble {
    fn say(&mut self, reason: &str) {
        if self.0.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
            self.0 = Some(Instant::now());
            warn!("REDIS_URL: events are not marked as processed, going on without: {reason}");
        }
    }

    fn over(&mut self) {
        if self.0.take().is_some() {
            info!("Redis is back: events are marked as processed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_the_source_where_there_is_one() {
        assert_eq!(key(None, "e"), "processed:e");
        assert_eq!(key(Some("s"), "e"), "processed:s:e");
    }
}
