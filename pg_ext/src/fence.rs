//! The fence: one UPDATE that checks, advances and locks the partition's progress in one go.

use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::error::{raise, raise_stale};
use crate::leader::{Leadership, PartitionName, check_name, internal};
use crate::pg::session;
use crate::statements;

/// What every batch says of itself: whose it is, and from where to where.
pub struct Span<'a> {
    pub name: PartitionName<'a>,
    pub leadership: Leadership,
    pub from_offset: i64,
    pub next_offset: i64,
    pub last_record: Option<Uuid>,
    /// Whether these are domain events; a partition is read as one kind for good.
    pub is_domain: bool,
}

impl Span<'_> {
    /// Refuses what cannot be meant.
    pub fn check(&self) {
        check_name(self.name);
        if self.from_offset < 0 || self.next_offset < self.from_offset {
            raise(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                "offsets must satisfy 0 <= from_offset <= next_offset",
            );
        }
        if !session::commits_durably() {
            raise(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                "synchronous_commit is off: set it to on for the ingester's role",
            );
        }
        check_isolation();
    }
}

/// A statement of a transaction with one snapshot for all would not see what it waited for.
pub fn check_isolation() {
    if !session::reads_committed() {
        raise(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            "balances are changed by READ COMMITTED transactions only: SET default_transaction_isolation TO 'read committed', or BEGIN ISOLATION LEVEL READ COMMITTED",
        );
    }
}

/// Proof that this transaction holds the partition's progress row, advanced to the batch's end.
pub struct Fenced {
    pub partition_id: i32,
}

pub enum Fence {
    /// With whether an operator has ordered to bury records of this batch.
    Advanced(Fenced, bool),
    /// The same batch of this partition was committed before; only its answer was lost.
    AlreadyCommitted { partition_id: i32 },
}

const ADVANCE: &str = "
    UPDATE ledger.partition_progress p
    SET commit_offset = $6,
        last_record = coalesce($7, p.last_record),
        started_at = coalesce(p.started_at, pg_catalog.clock_timestamp()),
        is_domain = $8
    FROM ledger.partition_leases l
    WHERE l.topic = $1 AND l.partition = $2 AND p.partition_id = l.partition_id
        AND p.fencing_token = $3 AND p.lease_id = $4 AND p.commit_offset = $5 AND p.paused_at IS NULL
        AND coalesce(p.is_domain, $8) = $8
    RETURNING p.partition_id, coalesce(p.bury_from < $6, false)";

const LOOK: &str = "
    SELECT p.fencing_token = $3 AND coalesce(p.lease_id = $4, false), p.commit_offset, p.paused_reason, p.is_domain, p.partition_id
    FROM ledger.partition_progress p
    JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = $1 AND l.partition = $2";

/// Advances the progress row, or raises SQLSTATE 55000 with the fence's own mark.
pub fn advance(client: &mut SpiClient<'_>, span: &Span<'_>) -> Fence {
    fault_point!("fence.before");
    let args = [
        span.name.topic.into(),
        span.name.partition.into(),
        span.leadership.fencing_token.into(),
        span.leadership.lease_id.into(),
        span.from_offset.into(),
        span.next_offset.into(),
        span.last_record
            .map_or_else(pgrx::datum::DatumWithOid::null::<Uuid>, Into::into),
        span.is_domain.into(),
    ];
    let rows = statements::execute(client, ADVANCE, &args);
    if !rows.is_empty() {
        let (partition_id, has_burials) = rows.first().get_two().unwrap_or_else(internal);
        let fenced = Fenced {
            partition_id: partition_id.unwrap_or_default(),
        };
        fault_point!("fence.advanced");
        #[cfg(feature = "fault-points")]
        crate::fault::at_commit();
        return Fence::Advanced(fenced, has_burials.unwrap_or_default());
    }
    let rows = client
        .update(LOOK, Some(1), &args[..4])
        .unwrap_or_else(internal);
    let at = format!("{}/{}", span.name.topic, span.name.partition);
    if rows.is_empty() {
        raise_stale(format!("nobody has acquired {at} yet"));
    }
    let row = rows.first();
    let (mine, commit_offset, paused) = row
        .get_three::<bool, i64, String>()
        .unwrap_or_else(internal);
    let is_domain: Option<bool> = row.get(4).unwrap_or_else(internal);
    match (mine, is_domain) {
        (Some(true), Some(is_domain)) if is_domain != span.is_domain => other_kind(&at, is_domain),
        _ => {}
    }
    match (mine, commit_offset) {
        (Some(true), Some(offset)) if offset == span.next_offset => Fence::AlreadyCommitted {
            partition_id: row.get(5).unwrap_or_else(internal).unwrap_or_default(),
        },
        (Some(true), Some(offset)) if offset == span.from_offset => raise(
            Code::ERRCODE_OBJECT_IN_USE,
            format!("{at} is paused: {}", paused.unwrap_or_default()),
        ),
        (Some(true), Some(offset)) => raise_stale(format!(
            "{at} stands at offset {offset}, but this batch starts at {}",
            span.from_offset
        )),
        _ => raise_stale(format!(
            "fencing token {} of {at} is stale: leadership is lost",
            span.leadership.fencing_token
        )),
    }
}

/// Halts: money must not become the business of a handler, nor the other way round.
fn other_kind(at: &str, is_domain: bool) -> ! {
    let (was, advice) = if is_domain {
        ("domain events", "take its topic out of BALANCE_TOPICS")
    } else {
        (
            "balance events",
            "take its topic out of EVENT_TOPICS, and unregister its handler",
        )
    };
    raise(
        Code::ERRCODE_WRONG_OBJECT_TYPE,
        format!(
            "{at} was read as {was} from its first batch on, and is never read as the other kind: {advice}"
        ),
    )
}
