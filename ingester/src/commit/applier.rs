//! Commits a batch. After a failed transaction it retries the batch, halves it, makes a dead letter, or stops.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ledger::verdict::DeadReason;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::back_off::back_off;
use crate::batch::record::Kind;
use crate::batch::sealed::Sealed;
use crate::batch::slice::{Content, Slice};
use crate::commit::edge::Edge;
use crate::commit::parts::Parts;
use crate::config::run::RetrySettings;
use crate::observe::counts::BatchCounts;
use crate::observe::metrics::Metrics;
use crate::observe::snapshot::State;
use crate::observe::status::Status;
use crate::partition::Partition;
use crate::postgres::error::Consequence;
use crate::throttle::Throttle;

/// A batch that takes longer than this in the database is logged.
pub(super) const SLOW: Duration = Duration::from_secs(5);
/// Lost races in a row before the tries are spaced out and logged.
const RACES: u32 = 5;
/// A lasting problem is logged again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How many times storing headers for results is tried; the records are more important.
const HEADER_TRIES: usize = 3;

/// How long a topic may take to be paused; the next try of a batch does it again.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// Tries that may end in an unclassified error before the record that causes it is searched.
const UNCLASSIFIED: u32 = 2;

/// Why a batch is not committed.
#[derive(Debug)]
pub enum Failure {
    /// Leadership is lost, or the lease has expired.
    Lost(String),
    /// A person has to change something first.
    Halt(String),
    /// The topic's handler fails on too many events, or it or the partition is paused.
    Paused(String),
}

#[cfg(feature = "fault-points")]
impl From<crate::fault::Raised> for Failure {
    fn from(raised: crate::fault::Raised) -> Self {
        Self::Lost(raised.into())
    }
}

/// Applies batches of one partition for one leadership.
#[derive(Clone)]
pub struct Applier<E> {
    /// Where they are committed.
    pub edge: E,
    pub partition: Partition,
    pub retry: RetrySettings,
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
    /// Results are produced, with the headers of their records.
    pub keeps_headers: bool,
}

impl<E: Edge> Applier<E> {
    /// Commits the whole batch, in as few transactions as its records allow; returns its counts.
    pub async fn commit(&self, batch: &Sealed) -> Result<BatchCounts, Failure> {
        fault_point!("batch.taken");
        if self.keeps_headers {
            self.keep_headers(batch).await?;
        }
        let mut counts = BatchCounts::default();
        let mut parts = Parts::whole(batch.records());
        while let Some(part) = parts.earliest() {
            let (slice, place) = (batch.slice(part.clone()), Place::of(batch, &part));
            match self.persist(&slice, place).await? {
                Persisted::Committed(more) => counts += more,
                Persisted::Refused(_) if part.len() > 1 => parts.halve(&part),
                Persisted::Ordered(offset, _) if part.len() > 1 => {
                    let at = part.clone().find(|index| batch.offset_of(*index) == offset);
                    let Some(at) = at else {
                        return Err(Failure::Halt(format!(
                            "no record at offset {offset} to be buried"
                        )));
                    };
                    parts.set_apart(&part, at);
                }
                Persisted::Ordered(_, text) if part.len() == 1 => {
                    counts += self.bury_by_order(batch, part.start, &text).await?;
                }
                Persisted::Refused(text) if part.len() == 1 && batch.kind() == Kind::Balance => {
                    counts += self.bury(batch, part.start, &slice, text).await?;
                }
                // Not even as a dead letter: an owner's trigger there, or a constraint that is checked at COMMIT.
                Persisted::Refused(text) | Persisted::Ordered(_, text) => {
                    return Err(Failure::Halt(self.stands(place, &text)));
                }
            }
        }
        fault_point!("batch.committed");
        Ok(counts)
    }

    /// Stores the headers of a batch for its results, before it is committed. A batch waits for that only for a while.
    async fn keep_headers(&self, batch: &Sealed) -> Result<(), Failure> {
        let (offsets, headers) = batch.headers();
        if offsets.is_empty() {
            return Ok(());
        }
        for wait in back_off().take(HEADER_TRIES) {
            let keeping = self.edge.keep_headers(&offsets, &headers);
            let kept = self.while_leading(timeout(SLOW, keeping)).await?;
            match kept.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    warn!(partition = %self.partition, "headers for the results topic are not stored yet, trying again: {error}");
                    self.while_leading(tokio::time::sleep(wait)).await?;
                }
            }
        }
        Ok(())
    }

    /// The one record that an operator buries: a dead letter, untried. `text` is the database's earlier error.
    async fn bury_by_order(
        &self,
        batch: &Sealed,
        index: usize,
        text: &str,
    ) -> Result<BatchCounts, Failure> {
        let offset = batch.offset_of(index);
        warn!(partition = %self.partition, offset, "record becomes a dead letter: an operator ordered it with `sluice bury`");
        let dead = batch.dead_slice(index, DeadReason::Buried, text, 1);
        match self.persist(&dead, Place::One(offset)).await? {
            Persisted::Committed(counts) => Ok(counts),
            Persisted::Refused(text) | Persisted::Ordered(_, text) => Err(Failure::Halt(format!(
                "stands at offset {offset}, which is to be a dead letter by order, and the database refuses that: {text}; mend that"
            ))),
        }
    }

    /// The one record that the database refuses: it is retried several times, then it becomes a dead letter.
    async fn bury(
        &self,
        batch: &Sealed,
        index: usize,
        slice: &Slice<'_>,
        mut text: String,
    ) -> Result<BatchCounts, Failure> {
        let offset = batch.offset_of(index);
        let mut attempts = 1;
        for wait in self.retry.waits() {
            warn!(partition = %self.partition, offset, attempts, "record refused by the database: {text}");
            self.while_leading(tokio::time::sleep(wait)).await?;
            match self.persist(slice, Place::One(offset)).await? {
                Persisted::Committed(counts) => return Ok(counts),
                Persisted::Refused(again) => text = again,
                Persisted::Ordered(..) => return self.bury_by_order(batch, index, &text).await,
            }
            attempts += 1;
        }
        warn!(partition = %self.partition, offset, attempts, "record becomes a dead letter: {text}");
        let dead = batch.dead_slice(index, DeadReason::ApplyFailed, &text, attempts);
        match self.persist(&dead, Place::One(offset)).await? {
            Persisted::Committed(counts) => Ok(counts),
            Persisted::Refused(text) => Err(Failure::Halt(self.stands(Place::One(offset), &text))),
            Persisted::Ordered(..) => self.bury_by_order(batch, index, &text).await,
        }
    }

    /// Tries until the slice is committed, or refused because of its records.
    async fn persist(&self, slice: &Slice<'_>, place: Place) -> Result<Persisted, Failure> {
        let mut waits = back_off();
        let mut said = Throttle::every(SAY_AGAIN);
        let mut before = String::new();
        let (mut at_once, mut unclassified) = (0, 0);
        loop {
            let refusal = match self.while_leading(self.edge.attempt(slice)).await? {
                Ok(counts) => return Ok(Persisted::Committed(counts)),
                Err(refusal) => refusal,
            };
            let topic = &self.partition.topic;
            self.metrics.failed(topic, refusal.consequence);
            match refusal.consequence {
                Consequence::Reject => return Ok(Persisted::Refused(refusal.text)),
                Consequence::Bury => {
                    let offset = refusal.ordered.unwrap_or(slice.span.from());
                    return Ok(Persisted::Ordered(offset, before));
                }
                Consequence::Reacquire => {
                    self.metrics.fenced();
                    return Err(Failure::Lost(refusal.text));
                }
                Consequence::Halt if refusal.may_be_one && matches!(place, Place::Several) => {
                    return Ok(Persisted::Refused(refusal.text));
                }
                Consequence::Halt if refusal.may_be_one => {
                    return Err(Failure::Halt(self.stands(place, &refusal.text)));
                }
                Consequence::Halt => return Err(Failure::Halt(refusal.text)),
                Consequence::Wait => return Err(Failure::Paused(refusal.text)),
                Consequence::Pause => {
                    self.while_leading(self.pause_topic(slice, &refusal.text))
                        .await?;
                    return Err(Failure::Paused(refusal.text));
                }
                Consequence::RetryAtOnce if at_once < RACES => {
                    at_once += 1;
                    self.metrics.retried(topic);
                    debug!(partition = %self.partition, "again: {}", refusal.text);
                }
                Consequence::Unclassified
                    if unclassified >= UNCLASSIFIED && matches!(place, Place::Several) =>
                {
                    return Ok(Persisted::Refused(refusal.text));
                }
                Consequence::RetryAtOnce | Consequence::Retry | Consequence::Unclassified => {
                    self.metrics.retried(topic);
                    let stands = refusal.consequence == Consequence::Unclassified;
                    unclassified += u32::from(stands);
                    let text = match stands {
                        true => self.stands(place, &refusal.text),
                        false => refusal.text.clone(),
                    };
                    self.status
                        .set_state(&self.partition, State::Retrying, Some(&text));
                    // While the record is searched, the parts of one batch are not logged separately.
                    let is_search = stands && matches!(place, Place::Several);
                    if !is_search && said.is_due() {
                        warn!(partition = %self.partition, "batch not committed yet, trying again: {text}");
                    }
                    before = refusal.text;
                    self.while_leading(tokio::time::sleep(waits.next().unwrap_or(SLOW)))
                        .await?;
                }
            }
        }
    }

    /// What an operator can do if one record causes the error.
    fn stands(&self, place: Place, text: &str) -> String {
        let Place::One(offset) = place else {
            return text.to_owned();
        };
        format!(
            "stands at offset {offset}: {text}; mend that, or where this record alone meets it, give it up: sluice bury {} {offset} --why …",
            self.partition
        )
    }

    /// A request that takes longer than the lease is dropped, with its connection.
    async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.edge.ended() => Err(Failure::Lost("the lease ran out".into())),
            done = work => Ok(done),
        }
    }

    async fn pause_topic(&self, slice: &Slice<'_>, reason: &str) {
        let kind = match slice.content {
            Content::Balance(_) => Kind::Balance,
            Content::Domain(_) => Kind::Domain,
        };
        let paused = timeout(PAUSE_LIMIT, self.edge.pause_topic(kind, reason)).await;
        if let Err(error) = paused.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            warn!(partition = %self.partition, "the topic is not paused yet, trying again: {error}");
        }
    }
}

enum Persisted {
    Committed(BatchCounts),
    /// The database refuses these records, with its message.
    Refused(String),
    /// An operator buries the record at this offset; with the database's earlier error.
    Ordered(i64, String),
}

/// The records of a part.
#[derive(Clone, Copy)]
enum Place {
    /// No record: only offsets without one.
    Nothing,
    /// The record at this offset.
    One(i64),
    Several,
}

impl Place {
    fn of(batch: &Sealed, part: &Range<usize>) -> Self {
        match part.len() {
            0 => Self::Nothing,
            1 => Self::One(batch.offset_of(part.start)),
            _ => Self::Several,
        }
    }
}

#[cfg(test)]
mod tests;
