//! The outside of the applier: the database, or in tests its substitute.

use crate::batch::record::Kind;
use crate::batch::slice::Slice;
use crate::observe::counts::BatchCounts;
use crate::postgres::error::{Consequence, is_ours, ordered_offset};
use crate::postgres::pool::AskError;

/// A try that did not commit.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub consequence: Consequence,
    pub text: String,
    /// One of the records may cause the error, whatever its class.
    pub may_be_one: bool,
    /// The offset of the record to bury.
    pub ordered: Option<i64>,
}

impl From<AskError> for Refusal {
    fn from(failed: AskError) -> Self {
        let answer = failed.answer();
        Self {
            consequence: failed.consequence(),
            text: failed.describe(),
            may_be_one: answer.is_some_and(|error| !is_ours(error)),
            ordered: answer.and_then(ordered_offset),
        }
    }
}

/// Where the batches of one leadership are committed.
pub trait Edge {
    /// Completes once nothing more may be sent.
    fn ended(&self) -> impl Future<Output = ()> + Send;

    /// One try to commit a part of a batch.
    fn attempt(
        &self,
        slice: &Slice<'_>,
    ) -> impl Future<Output = Result<BatchCounts, Refusal>> + Send;

    /// Stores the headers of records for their results, by the records' offsets.
    fn keep_headers(
        &self,
        offsets: &[i64],
        headers: &[&str],
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Pauses the topic on all instances; partitions that are already paused are not changed.
    fn pause_topic(
        &self,
        kind: Kind,
        reason: &str,
    ) -> impl Future<Output = Result<(), String>> + Send;
}
