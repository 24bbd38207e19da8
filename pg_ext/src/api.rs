//! Every function that SQL can call, as pgrx exports it: arguments in, rows out, no decisions. The scripts in
//! `pg_ext/sql/` declare them.
//!
//! Functions that PostgreSQL calls with more than arguments are in `pg/`, because reading that is `unsafe`: the trigger of
//! the staging table (`pg/capture.rs`), the readers of event fields (`pg/json.rs`), the end of a handler's call
//! (`pg/confine.rs`), and what earlier scripts name (`pg/released.rs`).

use ledger::identity::Identity;
use ledger::staging::Promise;
use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::{Array, Interval, TimestampWithTimeZone, Uuid};
use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern};

use crate::answer::{self, Answer};
use crate::arguments::{all_given, given, span};
use crate::balances::{apply, correct};
use crate::domain::events;
use crate::domain::records::Records;
use crate::domain::trial::{self, Tried};
use crate::error::raise;
use crate::memory;
use crate::partition::fence::BatchHead;
use crate::partition::{Leadership, PartitionName, instances, leader};
use crate::pg::holders;
use crate::pg::references::{self, TableId};
use crate::pg::session;
use crate::replay;
use crate::steps;

#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn acquire_partition_lock(
    topic: Option<&str>,
    partition: Option<i32>,
    service_id: Option<&str>,
    lease: Option<Interval>,
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
    let lock = leader::acquire(
        PartitionName::given(topic, partition),
        given("service_id", service_id),
        &given("lease", lease),
    );
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
    topic: Option<&str>,
    partition: Option<i32>,
    fencing_token: Option<i64>,
    lease_id: Option<Uuid>,
    lease: Option<Interval>,
) -> Option<TimestampWithTimeZone> {
    leader::renew(
        PartitionName::given(topic, partition),
        Leadership::given(fencing_token, lease_id),
        &given("lease", lease),
    )
}

#[pg_extern(volatile, parallel_unsafe)]
fn release_partition_lock(
    topic: Option<&str>,
    partition: Option<i32>,
    fencing_token: Option<i64>,
    lease_id: Option<Uuid>,
) -> bool {
    leader::release(
        PartitionName::given(topic, partition),
        Leadership::given(fencing_token, lease_id),
    )
}

#[pg_extern(stable, parallel_unsafe)]
fn partition_row_holders(
    partition_id: Option<i32>,
) -> TableIterator<'static, (name!(what, &'static str), name!(id, String))> {
    let held = partition_id.map(holders::of_partition);
    TableIterator::new(held.unwrap_or_default())
}

#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn apply_balance_batch(
    topic: Option<&str>,
    partition: Option<i32>,
    fencing_token: Option<i64>,
    lease_id: Option<Uuid>,
    from_offset: Option<i64>,
    next_offset: Option<i64>,
    row_count: Option<i64>,
    checksum: Option<i64>,
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
    let head = BatchHead {
        name: PartitionName::given(topic, partition),
        leadership: Leadership::given(fencing_token, lease_id),
        span: span(from_offset, next_offset),
        last_record,
        is_domain: false,
    };
    let promise = Promise {
        rows: given("row_count", row_count),
        checksum: given("checksum", checksum),
    };
    row(&apply::balance_batch(&head, promise), &head)
}

fn carried(values: Option<&Array<'_, &[u8]>>) -> usize {
    values.map_or(0, |values| values.iter().flatten().map(<[u8]>::len).sum())
}

/// The answer of both batches.
type BatchRow = (&'static str, i64, i64, i64, i64, i64, i64, i64, i64, i64);

fn row(answer: &Answer, head: &BatchHead<'_>) -> TableIterator<'static, BatchRow> {
    let counts = &answer.counts;
    TableIterator::once((
        answer.outcome,
        counts.events(),
        counts.applied,
        counts.rejected,
        counts.duplicates,
        counts.dead,
        counts.updated_rows,
        counts.inserted_rows,
        counts.error_rows,
        head.span.next(),
    ))
}

#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn apply_event_batch(
    topic: Option<&str>,
    partition: Option<i32>,
    fencing_token: Option<i64>,
    lease_id: Option<Uuid>,
    from_offset: Option<i64>,
    next_offset: Option<i64>,
    last_record: Option<Uuid>,
    kafka_offsets: Option<Vec<Option<i64>>>,
    record_times_ms: Option<Vec<Option<i64>>>,
    keys: Option<Array<'_, &[u8]>>,
    payloads: Option<Array<'_, &[u8]>>,
    headers: Option<Array<'_, &str>>,
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
    let head = BatchHead {
        name: PartitionName::given(topic, partition),
        leadership: Leadership::given(fencing_token, lease_id),
        span: span(from_offset, next_offset),
        last_record,
        is_domain: true,
    };
    let records = kafka_offsets.as_ref().map_or(0, Vec::len);
    let told = headers.iter().flat_map(|headers| headers.iter().flatten());
    let carried =
        carried(keys.as_ref()) + carried(payloads.as_ref()) + told.map(str::len).sum::<usize>();
    memory::ensure(records * memory::BYTES_PER_ROW + carried * memory::COPIES);
    let (keys, payloads) = (given("keys", keys), given("payloads", payloads));
    let headers = given("headers", headers);
    let records = Records {
        offsets: all_given("kafka_offsets", kafka_offsets),
        times_ms: all_given("record_times_ms", record_times_ms),
        keys: keys.iter().collect(),
        payloads: payloads.iter().collect(),
        headers: headers.iter().collect(),
    };
    row(&events::event_batch(&head, &records), &head)
}

#[pg_extern(volatile, parallel_unsafe)]
fn last_batch_steps()
-> TableIterator<'static, (name!(step, &'static str), name!(microseconds, i64))> {
    let last = steps::last().into_iter();
    TableIterator::new(last.map(|(step, took)| (step, took.as_micros() as i64)))
}

#[pg_extern(volatile, parallel_unsafe)]
fn last_batch_rejections() -> Vec<i64> {
    answer::last_rejections().to_vec()
}

#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn replay_letters_by_id(
    ids: Option<Vec<Option<i64>>>,
    payload: Option<&[u8]>,
) -> TableIterator<
    'static,
    (
        name!(id, i64),
        name!(topic, String),
        name!(partition, i32),
        name!(kafka_offset, i64),
        name!(verdict, &'static str),
        name!(reason, Option<&'static str>),
        name!(message, Option<String>),
    ),
> {
    let ids: Vec<i64> = given("ids", ids).into_iter().flatten().collect();
    let replayed = replay::replay(&ids, payload);
    TableIterator::new(replayed.into_iter().map(|record| {
        (
            record.id,
            record.topic,
            record.partition,
            record.offset,
            record.verdict.as_str(),
            record.reason,
            record.message,
        )
    }))
}

#[pg_extern(volatile, parallel_unsafe)]
fn correct_balances(
    payload: Option<&str>,
    why: Option<&str>,
) -> TableIterator<'static, (name!(partition_id, i32), name!(kafka_offset, i64))> {
    TableIterator::once(correct::correct(
        given("payload", payload),
        given("why", why),
    ))
}

#[pg_extern(volatile, parallel_unsafe)]
fn heartbeat(
    service_id: Option<&str>,
    topics: Option<Vec<Option<String>>>,
    lease: Option<Interval>,
) -> bool {
    instances::heartbeat(
        given("service_id", service_id),
        all_given("topics", topics),
        &given("lease", lease),
    )
}

#[pg_extern(volatile, parallel_unsafe)]
fn leave(service_id: Option<&str>) {
    instances::leave(given("service_id", service_id));
}

#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn try_events(
    event_type: Option<&str>,
    payloads: Option<Array<'_, &[u8]>>,
) -> TableIterator<
    'static,
    (
        name!(nth, i64),
        name!(event_id, Option<String>),
        name!(verdict, &'static str),
        name!(reason, Option<&'static str>),
        name!(message, Option<String>),
    ),
> {
    let (event_type, payloads) = (given("event_type", event_type), given("payloads", payloads));
    let records = payloads.len();
    memory::ensure(records * memory::BYTES_PER_ROW + carried(Some(&payloads)) * memory::COPIES);
    let tried = trial::try_events(event_type, payloads.iter().collect());
    TableIterator::new(tried.into_iter().zip(1..).map(|(tried, nth)| {
        let Tried {
            event_id,
            verdict,
            reason,
            message,
        } = tried;
        (nth, event_id, verdict.as_str(), reason, message)
    }))
}

#[pg_extern(volatile, parallel_unsafe)]
fn is_written_here(xid: Option<i64>) -> bool {
    xid.is_some_and(|xid| session::is_of_this_transaction(xid as u32))
}

#[pg_extern(volatile, parallel_unsafe)]
fn absent(
    relation: Option<TableId>,
    ids: Option<Array<'_, &str>>,
    referrers: Option<Array<'_, &str>>,
) -> TableIterator<'static, (name!(id, String), name!(referrer, Option<String>))> {
    let relation = given("relation", relation);
    let (Some(ids), Some(referrers)) = (ids, referrers) else {
        return TableIterator::empty();
    };
    if ids.len() != referrers.len() {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "ids and referrers must be of one length",
        );
    }
    memory::ensure(ids.len() * memory::BYTES_PER_ROW);
    let mut named: Vec<(&str, Option<&str>)> = ids
        .iter()
        .zip(referrers.iter())
        .filter_map(|(id, referrer)| Some((id?, referrer)))
        .collect();
    named.sort_by_key(|(id, _)| *id);
    named.dedup_by_key(|(id, _)| *id);
    references::retain_absent(relation, &mut named);
    let owned = |(id, referrer): (&str, Option<&str>)| (id.to_owned(), referrer.map(str::to_owned));
    TableIterator::new(named.into_iter().map(owned).collect::<Vec<_>>())
}

#[pg_extern(immutable, parallel_safe)]
fn event_identity(source: Option<&str>, event_id: Option<&str>) -> Uuid {
    let identity = Identity::of(source, given("event_id", event_id));
    Uuid::from_bytes(*identity.as_bytes())
}

#[pg_extern(immutable, parallel_safe)]
fn blames_record(sqlstate: Option<&str>, message: Option<&str>) -> bool {
    let message = message.unwrap_or_default();
    sqlstate.is_some_and(|code| ledger::fault::is_of_the_handled_event(code, message))
}

/// For triggers of tests: a fault point between two statements of a function that is written in SQL. The test that wants
/// it declares it.
#[cfg(feature = "fault-points")]
#[pg_extern(volatile, parallel_unsafe)]
fn fault_point(name: &str) {
    crate::fault::point(name);
}
