//! Sluice's side: a backlog, a real `sluice run`, and every verdict looked at afterwards.

use std::time::{Duration, Instant};

use crate::ingester::Ingester;
use crate::measure::sample::Sample;
use crate::stack::{Result, Stack};

use super::backlog::Backlog;
use super::redis_server::{self, Frozen};

/// Until the last try of a dead letter and its way to Kafka.
const SETTLED: Duration = Duration::from_secs(60);

/// What Sluice has for a Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    Set,
    NoRedis,
    RedisHangs,
}

pub struct Drained {
    pub sample: Sample,
    /// The share of events that were marked in Redis.
    pub marked: f64,
}

/// Drains the backlog, measured from the first COMMIT to the last.
pub async fn drain(stack: &Stack, backlog: &Backlog, marks: Marks) -> Result<Drained> {
    redis_server::empty(stack).await?;
    let frozen = match marks {
        Marks::RedisHangs => Some(Frozen::new(stack)?),
        Marks::Set | Marks::NoRedis => None,
    };
    let topics = backlog.topics();
    let redis_url = (marks != Marks::NoRedis).then_some(stack.redis_url.as_str());
    let mut ingester = Ingester::start(stack, "", &topics.join(","), redis_url)?;
    let (from, to) = (backlog.first_offset(), backlog.next_offset());
    let sample = ingester.drain(stack, &topics, from, to).await?;
    settle(stack, backlog).await?;
    ingester.stop();
    drop(frozen);
    backlog.check(stack).await?;
    let marked = redis_server::keys(stack).await? as f64 / backlog.events() as f64;
    Ok(Drained { sample, marked })
}

/// Waits until all is done that follows dead letters, or it would disturb what comes next.
async fn settle(stack: &Stack, backlog: &Backlog) -> Result<()> {
    let started = Instant::now();
    loop {
        let unsettled = backlog.unsettled(stack).await?;
        if unsettled == 0 {
            return Ok(());
        }
        if started.elapsed() > SETTLED {
            return Err(
                format!("{unsettled} dead letters were not produced to their topic").into(),
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
