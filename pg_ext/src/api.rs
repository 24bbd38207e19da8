//! Every function that SQL can call. The install script in `pg_ext/sql/` declares them.

use pgrx::datum::{Interval, TimestampWithTimeZone, Uuid};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern};

use crate::apply::{self, BatchCall};
use crate::leader::{self, Leadership, PartitionName};
use crate::instances;

#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn acquire_partition_lock(
    topic: &str,
    partition: i32,
    service_id: &str,
    lease: Interval,
) -> TableIterator<
    'static,
    (
        name!(acquired, bool),
        name!(fencing_token, Option<i64>),
        name!(lease_id, Option<Uuid>),
        name!(commit_offset, Option<i64>),
        name!(leader_svc_id, Option<String>),
        name!(lease_expires_at, Option<TimestampWithTimeZone>),
    ),
> {
    let lock = leader::acquire(PartitionName { topic, partition }, service_id, &lease);
    TableIterator::once((
        lock.acquired,
        lock.fencing_token,
        lock.lease_id,
        lock.commit_offset,
        lock.leader_svc_id,
        lock.lease_expires_at,
    ))
}

#[pg_extern(volatile, parallel_unsafe)]
fn renew_partition_lock(
    topic: &str,
    partition: i32,
    fencing_token: i64,
    lease_id: Uuid,
    lease: Interval,
) -> Option<TimestampWithTimeZone> {
    leader::renew(PartitionName { topic, partition }, Leadership { fencing_token, lease_id }, &lease)
}

#[pg_extern(volatile, parallel_unsafe)]
fn release_partition_lock(topic: &str, partition: i32, fencing_token: i64, lease_id: Uuid) -> bool {
    leader::release(PartitionName { topic, partition }, Leadership { fencing_token, lease_id })
}

#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn apply_balance_batch(
    topic: &str,
    partition: i32,
    fencing_token: i64,
    lease_id: Uuid,
    from_offset: i64,
    next_offset: i64,
    row_count: i64,
    checksum: i64,
    last_record: Option<Uuid>,
) -> TableIterator<
    'static,
    (
        name!(outcome, &'static str),
        name!(events, i64),
        name!(applied, i64),
        name!(rejected, i64),
        name!(duplicates, i64),
        name!(dead, i64),
        name!(updated_rows, i64),
        name!(inserted_rows, i64),
        name!(error_rows, i64),
        name!(commit_offset, i64),
    ),
> {
    let answer = apply::balance_batch(&BatchCall {
        name: PartitionName { topic, partition },
        leadership: Leadership { fencing_token, lease_id },
        from_offset,
        next_offset,
        row_count,
        checksum,
        last_record,
    });
    TableIterator::once((
        answer.outcome,
        answer.counts.events(),
        answer.counts.applied,
        answer.counts.rejected,
        answer.counts.duplicates,
        answer.counts.dead,
        answer.counts.updated_rows,
        answer.counts.inserted_rows,
        answer.counts.error_rows,
        next_offset,
    ))
}

#[pg_extern(volatile, parallel_unsafe)]
fn heartbeat(service_id: &str, topics: Vec<String>, lease: Interval) -> bool {
    instances::heartbeat(service_id, topics, &lease)
}

#[pg_extern(volatile, parallel_unsafe)]
fn leave(service_id: &str) {
    instances::leave(service_id);
}
