//! The answer of a batch: the number of records by verdict, and the reasons of the rejected ones.

use std::cell::Cell;

use ledger::span::Span;
use ledger::verdict::RejectReason;
use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiClient;

use crate::spi::{internal, query};

/// Records by reason, in the order of [`RejectReason::ALL`].
pub type Rejections = [i64; RejectReason::ALL.len()];

thread_local! {
    static LAST: Cell<Rejections> = const { Cell::new([0; RejectReason::ALL.len()]) };
}

/// The rejections of this session's last batch, by reason.
pub fn last_rejections() -> Rejections {
    LAST.get()
}

/// What the batch did, in records, balance rows and log rows.
#[derive(Default)]
pub struct Counts {
    pub applied: i64,
    pub rejected: i64,
    pub duplicates: i64,
    pub dead: i64,
    pub updated_rows: i64,
    pub inserted_rows: i64,
    pub error_rows: i64,
    /// The records in `rejected`, by reason.
    pub rejections: Rejections,
}

impl Counts {
    pub fn events(&self) -> i64 {
        self.applied + self.rejected + self.duplicates + self.dead
    }
}

/// The answer of a batch.
pub struct Answer {
    pub outcome: &'static str,
    pub counts: Counts,
}

const RECORDED: &str = "
    SELECT l.applied + v.applied, l.rejected + v.rejected, v.duplicates, v.dead, l.error_rows
    FROM (
        SELECT count(*) FILTER (WHERE g.change_no = 0 AND g.reject_reason IS NULL) AS applied,
            count(*) FILTER (WHERE g.change_no = 0 AND g.reject_reason IS NOT NULL) AS rejected,
            count(*) FILTER (WHERE g.reject_reason IS NOT NULL) AS error_rows
        FROM ledger.balance_log g WHERE g.partition_id = $1 AND g.kafka_offset >= $2 AND g.kafka_offset < $3
    ) l, (
        SELECT count(*) FILTER (WHERE e.verdict = 'APPLIED') AS applied, count(*) FILTER (WHERE e.verdict = 'REJECTED') AS rejected,
            count(*) FILTER (WHERE e.verdict = 'DUPLICATE') AS duplicates, count(*) FILTER (WHERE e.verdict = 'DEAD') AS dead
        FROM ledger.verdicts e WHERE e.partition_id = $1 AND e.kafka_offset >= $2 AND e.kafka_offset < $3
    ) v";

const RECORDED_REJECTIONS: &str = "
    SELECT r.reason, count(*) FROM (
        SELECT g.reject_reason AS reason FROM ledger.balance_log g
        WHERE g.partition_id = $1 AND g.kafka_offset >= $2 AND g.kafka_offset < $3 AND g.change_no = 0
        UNION ALL
        SELECT v.reason FROM ledger.verdicts v
        WHERE v.partition_id = $1 AND v.kafka_offset >= $2 AND v.kafka_offset < $3 AND v.verdict = 'REJECTED'
    ) r
    WHERE r.reason IS NOT NULL GROUP BY 1";

impl Answer {
    /// The recorded verdicts; the number of balance rows that the batch wrote is not recorded.
    pub fn already_committed(client: &mut SpiClient<'_>, partition_id: i32, span: Span) -> Self {
        let args = [partition_id.into(), span.from().into(), span.next().into()];
        let rows = query(client, RECORDED, &args);
        let row = rows.first();
        let count =
            |column| -> i64 { row.get(column).unwrap_or_else(internal).unwrap_or_default() };
        let mut counts = Counts {
            applied: count(1),
            rejected: count(2),
            duplicates: count(3),
            dead: count(4),
            error_rows: count(5),
            ..Counts::default()
        };
        if counts.rejected > 0 {
            counts.rejections = recorded_rejections(client, &args);
        }
        Self::of("ALREADY_COMMITTED", counts)
    }

    pub fn applied(counts: Counts) -> Self {
        Self::of("APPLIED", counts)
    }

    fn of(outcome: &'static str, counts: Counts) -> Self {
        LAST.set(counts.rejections);
        Self { outcome, counts }
    }
}

/// The rejections among records that were committed before.
fn recorded_rejections(client: &mut SpiClient<'_>, args: &[DatumWithOid<'_>]) -> Rejections {
    let mut rejections = Rejections::default();
    for row in query(client, RECORDED_REJECTIONS, args) {
        let reason: Option<String> = row.get(1).unwrap_or_else(internal);
        let count: Option<i64> = row.get(2).unwrap_or_else(internal);
        if let Some(reason) = reason.as_deref().and_then(RejectReason::parse) {
            rejections[reason as usize] = count.unwrap_or_default();
        }
    }
    rejections
}
