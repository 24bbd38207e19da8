//! The plain consumer: what a service would write without Sluice, every step awaited.
//!
//! Ten events, or what a second brings, are a batch. For each event Redis is asked whether
//! it was processed; one transaction upserts each in a statement of its own; then each is
//! marked in Redis, and the offset is committed to Kafka.

use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use serde_json::Value;
use tokio_postgres::{Client, Statement};

use crate::kafka::{Found, Reader};
use crate::measure::sample::Sample;
use crate::stack::{Result, Stack};

use super::backlog::Backlog;
use super::event::EventType;
use super::redis_server;

const BATCH: usize = 10;
const BATCH_TIMEOUT: Duration = Duration::from_secs(1);
const MARK_S: u64 = 86_400;
/// The backlog is there, so what does not come in this time does not come.
const STALL: Duration = Duration::from_secs(30);

/// All that a service would keep at hand.
pub struct PlainConsumer {
    stack: Stack,
    reader: Arc<Reader>,
}

/// What the time of all batches went to.
#[derive(Clone, Copy, Default)]
pub struct Steps {
    pub reading: Duration,
    pub look_ups: Duration,
    pub writes: Duration,
    pub marks: Duration,
    pub commits: Duration,
}

impl AddAssign for Steps {
    fn add_assign(&mut self, other: Self) {
        self.reading += other.reading;
        self.look_ups += other.look_ups;
        self.writes += other.writes;
        self.marks += other.marks;
        self.commits += other.commits;
    }
}

/// One event of a batch that was not processed before.
struct News {
    mark: String,
    event_id: String,
    entity_id: String,
    data: Value,
}

impl PlainConsumer {
    pub async fn connect(stack: &Stack) -> Result<Self> {
        stack
            .admin()
            .await?
            .batch_execute(
                "CREATE SCHEMA plain;
                 CREATE TABLE plain.entities (id text PRIMARY KEY, event_id text NOT NULL, data jsonb NOT NULL)",
            )
            .await?;
        let reader = Arc::new(Reader::connect(stack, "plain-consumer")?);
        let stack = stack.clone();
        Ok(Self { stack, reader })
    }

    /// Processes the first `count` events of the backlog.
    pub async fn measure(&self, backlog: &Backlog, count: usize) -> Result<(Sample, Steps)> {
        let starts: Vec<(&'static str, i32, i64)> = backlog
            .spans
            .iter()
            .map(|span| (span.topic, 0, span.from_offset))
            .collect();
        let (stack, reader) = (self.stack.clone(), self.reader.clone());
        // On one thread of its own: handing each answer from thread to thread would slow it.
        tokio::task::spawn_blocking(move || {
            reader.assign(starts)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let sample = runtime.block_on(consume(&stack, &reader, count));
            reader.unassign()?;
            sample
        })
        .await?
    }
}

async fn consume(stack: &Stack, reader: &Reader, count: usize) -> Result<(Sample, Steps)> {
    let mut database = stack.admin().await?;
    let upsert = database
        .prepare(
            "INSERT INTO plain.entities (id, event_id, data) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET event_id = excluded.event_id, data = excluded.data",
        )
        .await?;
    let mut redis = redis_server::connect(stack).await?;
    let (mut entities, mut event_ids) = (HashSet::new(), Vec::new());
    let mut batch = read(reader, STALL, count)?;
    let clock = Instant::now();
    let mut since = clock;
    let mut lap = || {
        let before = std::mem::replace(&mut since, Instant::now());
        since - before
    };
    let (mut sample, mut steps) = (Sample::default(), Steps::default());
    loop {
        let mut news = Vec::with_capacity(batch.len());
        for record in &batch {
            let event = decode(record)?;
            let seen: Option<String> = redis.get(&event.mark).await?;
            if seen.is_none() {
                news.push(event);
            }
        }
        steps.look_ups += lap();
        write(&mut database, &upsert, &news).await?;
        steps.writes += lap();
        for event in &news {
            redis.set_ex::<_, _, ()>(&event.mark, 1, MARK_S).await?;
        }
        steps.marks += lap();
        reader.commit(&batch)?;
        steps.commits += lap();
        sample.events += batch.len();
        sample.batches += 1;
        for event in news {
            entities.insert(event.entity_id);
            event_ids.push(event.event_id);
        }
        if sample.events >= count {
            break;
        }
        batch = read(reader, STALL, count - sample.events)?;
        steps.reading += lap();
    }
    sample.seconds = clock.elapsed().as_secs_f64();
    check(&database, &event_ids, entities.len() as i64).await?;
    Ok((sample, steps))
}

/// Waits for a first record, and at most a second for the rest of the batch.
fn read(reader: &Reader, timeout: Duration, most: usize) -> Result<Vec<Found>> {
    let first = reader.next(timeout)?;
    let mut batch = vec![first.ok_or("the plain consumer gets no records")?];
    let deadline = Instant::now() + BATCH_TIMEOUT;
    while batch.len() < BATCH.min(most) {
        let left = deadline.saturating_duration_since(Instant::now());
        match reader.next(left)? {
            Some(record) => batch.push(record),
            None => break,
        }
    }
    Ok(batch)
}

fn decode(record: &Found) -> Result<News> {
    let mut event: Value = serde_json::from_slice(&record.payload)?;
    let event_id = event["eventId"]
        .as_str()
        .ok_or("an event without eventId")?;
    let event_id = event_id.to_owned();
    let data = event["data"].take();
    Ok(News {
        mark: format!("processed:{event_id}"),
        event_id,
        entity_id: EventType::named(&record.topic)?.entity_id(&data),
        data,
    })
}

async fn write(database: &mut Client, upsert: &Statement, news: &[News]) -> Result<()> {
    let transaction = database.transaction().await?;
    for event in news {
        transaction
            .execute(upsert, &[&event.entity_id, &event.event_id, &event.data])
            .await?;
    }
    Ok(transaction.commit().await?)
}

/// That each entity has a row, left by an event of this round.
async fn check(database: &Client, event_ids: &[String], entities: i64) -> Result<()> {
    let query = "SELECT count(*) FROM plain.entities WHERE event_id = ANY ($1)";
    let found: i64 = database.query_one(query, &[&event_ids]).await?.get(0);
    if found == entities {
        return Ok(());
    }
    Err(format!("the plain consumer's table has {found} rows of {entities} entities").into())
}
