//! The fence: one UPDATE that checks, advances and locks the progress row of a partition.
//!
//! [`Fenced`] is the proof of that lock. Only this module makes one, so no later step can run without it.

use std::collections::HashMap;
use std::rc::Rc;

use ledger::span::Span;
use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::error::{raise, raise_stale};
use crate::partition::{Leadership, PartitionName};
use crate::pg::session;
use crate::spi::{internal, query, query_planned, run};

/// The header of every batch: its sender, and the offsets that it covers.
pub struct BatchHead<'a> {
    pub name: PartitionName<'a>,
    pub leadership: Leadership,
    pub span: Span,
    /// The fingerprint of its last record, if it has one.
    pub last_record: Option<Uuid>,
    /// Whether these are domain events. The kind of a partition never changes.
    pub is_domain: bool,
}

/// Refuses a session that could lose the batch after its COMMIT was answered.
fn check_durability() {
    if !session::commits_durably() {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "synchronous_commit is off: set it to on for the ingester's role",
        );
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

/// Proof that this transaction holds the lock of a partition's progress row. Nothing of that partition commits before it.
pub struct Fenced {
    partition_id: i32,
}

impl Fenced {
    /// The id of the partition in all other tables.
    pub fn partition_id(&self) -> i32 {
        self.partition_id
    }
}

pub enum Fence {
    /// Includes whether an operator has ordered to bury records of this batch.
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

/// Advances the progress row to the end of the batch, or raises SQLSTATE 55000 with the fence's own mark.
pub fn advance(client: &mut SpiClient<'_>, head: &BatchHead<'_>) -> Fence {
    check_durability();
    check_isolation();
    fault_point!("fence.before");
    let args = [
        head.name.topic.into(),
        head.name.partition.into(),
        head.leadership.fencing_token.into(),
        head.leadership.lease_id.into(),
        head.span.from().into(),
        head.span.next().into(),
        head.last_record
            .map_or_else(pgrx::datum::DatumWithOid::null::<Uuid>, Into::into),
        head.is_domain.into(),
    ];
    let rows = query_planned(client, ADVANCE, &args);
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
    let rows = query(client, LOOK, &args[..4]);
    let at = format!("{}/{}", head.name.topic, head.name.partition);
    if rows.is_empty() {
        raise_stale(format!("nobody has acquired {at} yet"));
    }
    let row = rows.first();
    let (mine, commit_offset, paused) = row
        .get_three::<bool, i64, String>()
        .unwrap_or_else(internal);
    let is_domain: Option<bool> = row.get(4).unwrap_or_else(internal);
    match (mine, is_domain) {
        (Some(true), Some(is_domain)) if is_domain != head.is_domain => other_kind(&at, is_domain),
        _ => {}
    }
    match (mine, commit_offset) {
        (Some(true), Some(offset)) if offset == head.span.next() => Fence::AlreadyCommitted {
            partition_id: row.get(5).unwrap_or_else(internal).unwrap_or_default(),
        },
        (Some(true), Some(offset)) if offset == head.span.from() => raise(
            Code::ERRCODE_OBJECT_IN_USE,
            format!("{at} is paused: {}", paused.unwrap_or_default()),
        ),
        (Some(true), Some(offset)) => raise_stale(format!(
            "{at} stands at offset {offset}, but this batch starts at {}",
            head.span.from()
        )),
        _ => raise_stale(format!(
            "fencing token {} of {at} is stale: leadership is lost",
            head.leadership.fencing_token
        )),
    }
}

// Manual corrections have no leader: the lock of the row alone orders them.
const OPEN: &str = "
    WITH lease AS (
        INSERT INTO ledger.partition_leases (topic, partition) VALUES ($1, $2)
        ON CONFLICT (topic, partition) DO NOTHING
        RETURNING partition_id)
    INSERT INTO ledger.partition_progress (partition_id, fencing_token, commit_offset, started_at, is_domain)
    SELECT partition_id, 0, 0, pg_catalog.clock_timestamp(), false FROM lease";

const ADVANCE_BY_ONE: &str = "
    UPDATE ledger.partition_progress p SET commit_offset = p.commit_offset + 1
    FROM ledger.partition_leases l
    WHERE l.topic = $1 AND l.partition = $2 AND p.partition_id = l.partition_id
    RETURNING p.partition_id, p.commit_offset - 1";

/// Advances a partition without a leader by one offset, and creates it if it does not exist; returns the offset.
pub fn advance_by_one(client: &mut SpiClient<'_>, name: PartitionName<'_>) -> (Fenced, i64) {
    let args = [name.topic.into(), name.partition.into()];
    run(client, OPEN, &args);
    let rows = query(client, ADVANCE_BY_ONE, &args);
    let (partition_id, offset) = rows.first().get_two().unwrap_or_else(internal);
    let fenced = Fenced {
        partition_id: partition_id.unwrap_or_default(),
    };
    (fenced, offset.unwrap_or_default())
}

// The progress row is what every batch locks first, so nothing of a partition commits while it is held. All of them are
// locked before any identity or balance, in one order for everybody.
const LOCK_OF_LETTERS: &str = r#"
    SELECT l.topic, l.partition, p.partition_id
    FROM ledger.partition_leases l JOIN ledger.partition_progress p USING (partition_id)
    WHERE (l.topic, l.partition) IN (SELECT d.topic, d.partition FROM ledger.dead_letters d WHERE d.id = ANY ($1))
    ORDER BY l.topic COLLATE "C", l.partition
    FOR UPDATE OF p"#;

/// Locks the progress rows of the partitions that these dead letters came from, without advancing them.
pub fn lock_of_letters(
    client: &mut SpiClient<'_>,
    ids: &[i64],
) -> HashMap<(String, i32), Rc<Fenced>> {
    let rows = query(client, LOCK_OF_LETTERS, &[ids.to_vec().into()]);
    rows.filter_map(|row| {
        let topic: String = row.get(1).unwrap_or_else(internal)?;
        let partition: i32 = row.get(2).unwrap_or_else(internal)?;
        let partition_id = row.get(3).unwrap_or_else(internal)?;
        Some(((topic, partition), Rc::new(Fenced { partition_id })))
    })
    .collect()
}

/// Halts: a handler must never change balances, and the fold never domain events.
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
