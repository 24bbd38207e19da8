//! The fence: one UPDATE that checks, advances and locks the partition's progress in one go.

use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::apply::BatchCall;
use crate::error::raise;
use crate::leader::internal;

/// Proof that this transaction holds the partition's progress row, advanced to the batch's end.
pub struct Fenced {
    pub partition_id: i32,
}

pub enum Fence {
    Advanced(Fenced),
    /// The same batch was committed before; only its answer was lost.
    AlreadyCommitted,
}

const ADVANCE: &str = "
    UPDATE ledger.partition_progress p
    SET commit_offset = $6,
        last_record = coalesce($7, p.last_record),
        started_at = coalesce(p.started_at, pg_catalog.clock_timestamp())
    FROM ledger.partition_leases l
    WHERE l.topic = $1 AND l.partition = $2 AND p.partition_id = l.partition_id
        AND p.fencing_token = $3 AND p.lease_id = $4 AND p.commit_offset = $5
    RETURNING p.partition_id";

const LOOK: &str = "
    SELECT p.fencing_token = $3 AND coalesce(p.lease_id = $4, false), p.commit_offset
    FROM ledger.partition_progress p
    JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = $1 AND l.partition = $2";

/// Advances the progress row, or raises SQLSTATE 55000.
pub fn advance(client: &mut SpiClient<'_>, call: &BatchCall<'_>) -> Fence {
    let args = [
        call.name.topic.into(),
        call.name.partition.into(),
        call.leadership.fencing_token.into(),
        call.leadership.lease_id.into(),
        call.from_offset.into(),
        call.next_offset.into(),
        call.last_record
            .map_or_else(pgrx::datum::DatumWithOid::null::<Uuid>, Into::into),
    ];
    let rows = client.update(ADVANCE, None, &args).unwrap_or_else(internal);
    if !rows.is_empty() {
        let partition_id = rows
            .first()
            .get_one()
            .unwrap_or_else(internal)
            .unwrap_or_default();
        return Fence::Advanced(Fenced { partition_id });
    }
    let rows = client
        .update(LOOK, Some(1), &args[..4])
        .unwrap_or_else(internal);
    let at = format!("{}/{}", call.name.topic, call.name.partition);
    if rows.is_empty() {
        stale(format!("nobody has acquired {at} yet"));
    }
    let (mine, commit_offset) = rows.first().get_two::<bool, i64>().unwrap_or_else(internal);
    match (mine, commit_offset) {
        (Some(true), Some(offset)) if offset == call.next_offset => Fence::AlreadyCommitted,
        (Some(true), Some(offset)) => stale(format!(
            "{at} stands at offset {offset}, but this batch starts at {}",
            call.from_offset
        )),
        _ => stale(format!(
            "fencing token {} of {at} is stale: leadership is lost",
            call.leadership.fencing_token
        )),
    }
}

fn stale(message: String) -> ! {
    raise(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}
