//! From which offset a lane reads, and whether the topic is still the one that was read. Never skips a record.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, warn};

use crate::batch::record::Known;
use crate::config::run::StartOffset;
use crate::kafka::client::{Kafka, TopicId, Watermarks};
use crate::lanes::flow::ends_before;
use crate::lanes::lane::{ADVICE, CONTRADICTION, End, Lane, Pause, RECHECK, ending};
use crate::lanes::recognise::{self, Doubt, Evidence, Seen};
use crate::observe::snapshot::State;
use crate::partition::Partition;

/// So many checks must agree that this is not the topic that was read.
const DOUBTS: u32 = 4;
/// How often Kafka is asked for a partition that it does not have yet.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// From which offset to read, and what must be found there.
pub(super) struct Start {
    pub(super) next_offset: i64,
    /// The last committed record, read once more to recognise the topic.
    pub(super) known: Option<Known>,
}

impl Start {
    pub(super) fn first_offset(&self) -> i64 {
        let known = self.known.as_ref();
        known.map_or(self.next_offset, |known| known.offset)
    }
}

impl Lane {
    /// One check that did not recognise the topic. Kafka may contradict itself for a moment; once several checks
    /// agree the halt is stored, and only an operator ends it.
    pub(super) async fn doubt(&mut self, reason: &str) -> Option<End> {
        self.doubts += 1;
        if self.doubts < DOUBTS {
            debug!(partition = %self.partition, looks = self.doubts, "not recognised: {reason}");
            return self.wait(CONTRADICTION).await;
        }
        let mut looks = 0;
        loop {
            self.stops(State::Halted, reason, false);
            match recognise::halt(
                &self.applier.edge.pool,
                &self.partition,
                &self.leadership,
                reason,
            )
            .await
            {
                Ok(true) => break,
                Ok(false) => return Some(End::not_renewed()),
                Err(error) => {
                    if looks % 60 == 0 {
                        warn!(partition = %self.partition, "the halt is not stored in the database yet, trying again: {error}");
                    }
                    looks += 1;
                    if let Some(end) = self.wait(Duration::from_secs(1)).await {
                        return Some(end);
                    }
                }
            }
        }
        // The next survey of all partitions reads the halt from the database.
        tokio::select! {
            biased;
            end = ending(&self.leadership, &self.stop) => Some(end),
            _ = self.barrier.changed() => None,
            // An operator may have decided before our check: the next leader reads the decision again.
            () = sleep(RECHECK) => Some(End::Drained),
        }
    }

    /// The database's offset, before Kafka is queried; `None` if there is no record to read again.
    pub(super) fn resume(&self, next_offset: i64) -> Option<Start> {
        let known = self.position.last_record.clone()?;
        (self.position.started && known.offset < next_offset).then_some(Start {
            next_offset,
            known: Some(known),
        })
    }

    /// Compares the database's offset with what Kafka has. Never skips a record.
    pub(super) async fn validate(&mut self, next_offset: i64) -> Result<Start, Pause> {
        let Watermarks { low, high } = self.watermarks().await?;
        if !self.position.started {
            return self.begin(next_offset, low).await;
        }
        let ids = Evidence {
            stored: self.position.topic_id,
            found: self.topic_id().await?,
            seen: Seen::Known,
            is_accepted: false,
        };
        let partition = &self.partition;
        if let Err(Doubt::Certain(reason)) = ids.judge(partition, next_offset) {
            return Err(Pause::Unrecognised(format!("{reason}; {ADVICE}")));
        }
        if next_offset < low {
            return Err(Pause::Unrecognised(format!(
                "offsets {next_offset} to {} of {partition} are no longer in Kafka (retention, or the topic was created anew), \
                 which begins at {low}: to accept the loss, `sluice accept {partition} --offset {low} --why …`; {ADVICE}",
                low - 1
            )));
        }
        if next_offset > high {
            return Err(Pause::Unrecognised(ends_before(
                partition,
                high,
                next_offset,
            )));
        }
        let known = self.position.last_record.clone();
        Ok(Start {
            next_offset,
            known: known.filter(|known| (low..next_offset).contains(&known.offset)),
        })
    }

    /// The first start on a partition: `START_OFFSET` decides.
    async fn begin(&mut self, next_offset: i64, low: i64) -> Result<Start, Pause> {
        let begin = match self.start {
            StartOffset::Earliest => low,
            StartOffset::Latest => {
                let asked = self.kafka.stable_end(&self.partition).await;
                asked.map_err(|error| {
                    debug!(partition = %self.partition, "{error}");
                    Pause::Revalidate
                })?
            }
        };
        let found = self.topic_id().await?;
        self.keep(found).await?;
        let mut empty = self.batch(next_offset);
        empty.extend_to(begin);
        self.commit(&empty.seal()).await?;
        self.position.started = true;
        // Here the topic was chosen, and not recognised.
        self.position.is_accepted = true;
        Ok(Start {
            next_offset: begin.max(next_offset),
            known: None,
        })
    }

    /// Queries a broker until it answers.
    async fn topic_id(&self) -> Result<TopicId, Pause> {
        self.insist(|kafka, partition| async move { kafka.topic_id(&partition.topic).await })
            .await
    }

    async fn watermarks(&self) -> Result<Watermarks, Pause> {
        self.insist(|kafka, partition| async move { kafka.watermarks(&partition).await })
            .await
    }

    /// Queries Kafka until it answers and has the partition.
    async fn insist<T, Answer>(
        &self,
        ask: impl Fn(Arc<Kafka>, Partition) -> Answer,
    ) -> Result<T, Pause>
    where
        Answer: Future<Output = Result<Option<T>, String>>,
    {
        let mut looks = 0;
        loop {
            let asked = tokio::select! {
                biased;
                end = ending(&self.leadership, &self.stop) => return Err(Pause::End(end)),
                asked = ask(self.kafka.clone(), self.partition.clone()) => asked,
            };
            let trouble = match asked {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if self.position.started => {
                    format!("{} does not exist in Kafka, or was deleted", self.partition)
                }
                Ok(None) => format!("{} is new, and no broker serves it yet", self.partition),
                Err(error) => format!("Kafka gave no answer, trying again: {error}"),
            };
            if looks % 20 == 2 {
                self.status
                    .set_state(&self.partition, State::Retrying, Some(&trouble));
                warn!(partition = %self.partition, "{trouble}");
            }
            looks += 1;
            if let Some(end) = self.wait(ASK_AGAIN).await {
                return Err(Pause::End(end));
            }
        }
    }

    /// Whether this is the topic that was read, according to what the reader has seen. Checked after the first
    /// arrival: from then on the reader itself notices if the topic is replaced.
    pub(super) async fn recognise(&mut self, seen: Seen, next_offset: i64) -> Result<(), Pause> {
        let found = self.topic_id().await?;
        let evidence = Evidence {
            stored: self.position.topic_id,
            found,
            seen,
            is_accepted: self.position.is_accepted,
        };
        let refused = match evidence.judge(&self.partition, next_offset) {
            Ok(()) => None,
            Err(Doubt::Certain(reason)) => Some(reason),
            // The log's bounds are needed: below its beginning no record can be expected.
            Err(Doubt::Unless { reason, missing }) => {
                let low = self.watermarks().await?.low;
                let is_lost = match missing {
                    Some(missing) if missing >= low && evidence.is_same_id() => {
                        let asked = self.kafka.is_compacted(&self.partition.topic).await;
                        let compacted = asked.unwrap_or_else(|error| {
                            warn!(partition = %self.partition, "the brokers did not say whether the topic is compacted: {error}");
                            false
                        });
                        !compacted
                    }
                    Some(missing) if missing >= low => true,
                    _ => !evidence.is_same_id() && next_offset > low,
                };
                is_lost.then_some(reason)
            }
        };
        if let Some(reason) = refused {
            return Err(Pause::Unrecognised(format!("{reason}; {ADVICE}")));
        }
        self.doubts = 0;
        self.keep(found).await
    }

    /// Stores the topic's id with the progress.
    async fn keep(&mut self, found: TopicId) -> Result<(), Pause> {
        let Some(id) = found.filter(|_| found != self.position.topic_id) else {
            return Ok(());
        };
        loop {
            let pool = &self.applier.edge.pool;
            match recognise::keep(pool, &self.partition, &self.leadership, id).await {
                Ok(true) => {
                    self.position.topic_id = found;
                    return Ok(());
                }
                Ok(false) => return Err(Pause::End(End::not_renewed())),
                Err(error) => {
                    warn!(partition = %self.partition, "the topic's id is not stored in the database yet, trying again: {error}")
                }
            }
            if let Some(end) = self.wait(Duration::from_secs(1)).await {
                return Err(Pause::End(end));
            }
        }
    }
}
