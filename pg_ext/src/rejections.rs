//! Why this session's last batch rejected what it rejected.

use std::cell::Cell;

use ledger::verdict::RejectReason;
use pgrx::spi::SpiClient;

use crate::leader::internal;

/// Records by reason, in the order of [`RejectReason::ALL`].
pub type Rejections = [i64; RejectReason::ALL.len()];

thread_local! {
    static LAST: Cell<Rejections> = const { Cell::new([0; RejectReason::ALL.len()]) };
}

/// The batch is done.
pub fn keep(rejections: Rejections) {
    LAST.set(rejections);
}

pub fn last() -> Rejections {
    LAST.get()
}

const RECORDED: &str = "
    SELECT r.reason, count(*) FROM (
        SELECT g.reject_reason AS reason FROM ledger.balance_log g
        WHERE g.partition_id = $1 AND g.kafka_offset >= $2 AND g.kafka_offset < $3 AND g.change_no = 0
        UNION ALL
        SELECT v.reason FROM ledger.verdicts v
        WHERE v.partition_id = $1 AND v.kafka_offset >= $2 AND v.kafka_offset < $3 AND v.verdict = 'REJECTED'
    ) r
    WHERE r.reason IS NOT NULL GROUP BY 1";

/// Those of records that were committed before.
pub fn recorded(
    client: &mut SpiClient<'_>,
    partition_id: i32,
    from_offset: i64,
    next_offset: i64,
) -> Rejections {
    let args = [partition_id.into(), from_offset.into(), next_offset.into()];
    let rows = client
        .update(RECORDED, None, &args)
        .unwrap_or_else(internal);
    let mut rejections = Rejections::default();
    for row in rows {
        let reason: Option<String> = row.get(1).unwrap_or_else(internal);
        let count: Option<i64> = row.get(2).unwrap_or_else(internal);
        if let Some(reason) = reason.as_deref().and_then(RejectReason::parse) {
            rejections[reason as usize] = count.unwrap_or_default();
        }
    }
    rejections
}
