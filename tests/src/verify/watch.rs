//! Watches leadership from outside: when did a successor commit first?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::database::{Database, Progress};
use crate::ingester::Ingester;

/// What one partition needed from the fault to its successor's first COMMIT.
#[derive(Debug, Clone, Copy)]
pub struct Takeover {
    pub partition: i32,
    pub after: Duration,
}

/// Partitions that `service_id` leads now.
pub async fn led_by(database: &Database, topic: &str, service_id: &str) -> BTreeMap<i32, Progress> {
    let mut progress = database.progress(topic).await;
    progress.retain(|_, progress| progress.leader.as_deref() == Some(service_id));
    progress
}

/// The same, once the instance has the answers, too: what it acquires is committed a moment before.
pub async fn led_knowingly(
    database: &Database,
    topic: &str,
    instance: &Ingester,
) -> BTreeMap<i32, Progress> {
    let led = led_by(database, topic, &instance.service_id).await;
    for progress in led.values() {
        let told = format!("fencing_token={}", progress.fencing_token);
        instance.logs(&told, Duration::from_secs(10)).await;
    }
    led
}

/// Polls as fast as the database answers until every partition in `led` was advanced under another
/// fencing token. Needs load on every partition. Answers in the order of the commits.
pub async fn takeovers(
    database: &Database,
    topic: &str,
    led: &BTreeMap<i32, Progress>,
    fault: Instant,
    timeout: Duration,
) -> Vec<Takeover> {
    let mut waiting = led.clone();
    let mut done = Vec::new();
    while !waiting.is_empty() {
        assert!(
            fault.elapsed() < timeout,
            "no successor has committed within {timeout:?} in {waiting:?}"
        );
        let now = database.progress(topic).await;
        waiting.retain(|partition, before| {
            let Some(after) = now.get(partition) else {
                return true;
            };
            let advanced = after.commit_offset > before.commit_offset;
            if after.fencing_token == before.fencing_token {
                // The former leader's last commit may have come after the first look.
                before.commit_offset = after.commit_offset;
                return true;
            }
            if advanced {
                done.push(Takeover {
                    partition: *partition,
                    after: fault.elapsed(),
                });
            }
            !advanced
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    done
}

/// Waits until every partition has a leader among `instances` and the numbers differ by at most one.
pub async fn settled(
    database: &Database,
    topic: &str,
    partitions: i32,
    instances: &[&str],
    timeout: Duration,
) -> Duration {
    let what = format!("{partitions} partitions to be shared evenly by {instances:?}");
    crate::wait::wait_until(&what, timeout, async || {
        let progress = database.progress(topic).await;
        let mut counts: BTreeMap<&str, i32> =
            instances.iter().map(|instance| (*instance, 0)).collect();
        for leader in progress
            .values()
            .filter_map(|progress| progress.leader.as_deref())
        {
            if let Some(count) = counts.get_mut(leader) {
                *count += 1;
            }
        }
        let (low, high) = (
            counts.values().min().copied().unwrap_or(0),
            counts.values().max().copied().unwrap_or(0),
        );
        counts.values().sum::<i32>() == partitions && high - low <= 1
    })
    .await
}
