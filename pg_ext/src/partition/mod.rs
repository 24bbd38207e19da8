//! One partition of a topic: its leadership, and the fence that every write to it passes.
//!
//! The rows of `ledger.partition_leases` and `ledger.partition_progress` are created, locked and advanced here only.

pub mod fence;
pub mod instances;
pub mod leader;

use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::Uuid;

use crate::arguments::{check_text, given};
use crate::error::raise;

const TOPIC_BYTES_MAX: usize = 249;

/// The name of a partition.
#[derive(Clone, Copy)]
pub struct PartitionName<'a> {
    pub topic: &'a str,
    pub partition: i32,
}

impl<'a> PartitionName<'a> {
    /// Refuses names that Kafka would not accept.
    pub fn given(topic: Option<&'a str>, partition: Option<i32>) -> Self {
        let name = Self {
            topic: given("topic", topic),
            partition: given("partition", partition),
        };
        check_text("topic", name.topic, TOPIC_BYTES_MAX);
        if name.partition < 0 {
            raise(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                "partition must not be negative",
            );
        }
        name
    }
}

/// A leader's credential: fencing token and lease id.
#[derive(Clone, Copy)]
pub struct Leadership {
    pub fencing_token: i64,
    pub lease_id: Uuid,
}

impl Leadership {
    pub fn given(fencing_token: Option<i64>, lease_id: Option<Uuid>) -> Self {
        Self {
            fencing_token: given("fencing_token", fencing_token),
            lease_id: given("lease_id", lease_id),
        }
    }
}
