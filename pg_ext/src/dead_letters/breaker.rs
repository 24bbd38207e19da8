//! The circuit breakers. If most records of a window fail, a trigger, a handler or a migration is at fault and not the
//! records. Balance topics and handlers count by the same rule. They count records and not offsets, because some
//! offsets have no record (compacted ones, and transaction markers).

use ledger::verdict::DeadReason;
use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::spi::SpiClient;

use crate::dead_letters::DeadLetters;
use crate::error::raise;
use crate::partition::PartitionName;
use crate::partition::fence::{BatchHead, Fenced};
use crate::spi::{internal, query};

/// More than `max` failed records among `records` neighbours are too many.
#[derive(Clone, Copy)]
pub struct Limit {
    pub max: usize,
    pub records: i64,
}

const BALANCES: Limit = Limit {
    max: 100,
    records: 200,
};

impl Limit {
    /// Whether so many of the broken records are neighbours, the last of them in this batch. `places` rise, and count
    /// records from the first one of the batch; those before it are negative.
    pub fn is_exceeded(self, places: &[i64]) -> bool {
        places
            .windows(self.max + 1)
            .any(|run| run[self.max] >= 0 && run[self.max] - run[0] < self.records)
    }

    /// How many are too many, of how many: for messages.
    pub fn words(self) -> String {
        format!("{} of the last {}", self.max + 1, self.records)
    }
}

// Each record has its verdict in one of two tables. Failures from before the last resume do not count any more.
const BROKEN_BEFORE: &str = "
    SELECT -r.nth
    FROM (
        SELECT u.kafka_offset, row_number() OVER (ORDER BY u.kafka_offset DESC) AS nth
        FROM ledger.partition_leases l
        CROSS JOIN LATERAL (
            (SELECT g.kafka_offset FROM ledger.balance_log g
            WHERE g.partition_id = l.partition_id AND g.kafka_offset < $3 AND g.change_no = 0
            ORDER BY g.kafka_offset DESC LIMIT $4)
            UNION ALL
            (SELECT v.kafka_offset FROM ledger.verdicts v
            WHERE v.partition_id = l.partition_id AND v.kafka_offset < $3
            ORDER BY v.kafka_offset DESC LIMIT $4)
        ) u
        WHERE l.topic = $1 AND l.partition = $2
        ORDER BY u.kafka_offset DESC LIMIT $4
    ) r
    JOIN ledger.dead_letters d ON d.topic = $1 AND d.partition = $2 AND d.kafka_offset = r.kafka_offset
    WHERE d.error_code = $5 AND d.first_failed_at > coalesce($6, '-infinity')
    ORDER BY r.nth DESC";

const RESUMED_AT: &str =
    "SELECT p.resumed_at FROM ledger.partition_progress p WHERE p.partition_id = $1";

/// The positions of the records before `from_offset` that failed for this reason, within the window; -1 is the last
/// record before it. Reads as many rows as the window has records, so it is called only after a failure.
pub fn broken_before(
    client: &mut SpiClient<'_>,
    name: PartitionName<'_>,
    from_offset: i64,
    limit: Limit,
    reason: DeadReason,
    since: Option<TimestampWithTimeZone>,
) -> Vec<i64> {
    let args = [
        name.topic.into(),
        name.partition.into(),
        from_offset.into(),
        (limit.records - 1).into(),
        reason.as_str().into(),
        since.into(),
    ];
    query(client, BROKEN_BEFORE, &args)
        .filter_map(|row| row.get::<i64>(1).unwrap_or_else(internal))
        .collect()
}

/// Raises when one more letter of a refused balance record is one too many; `offsets` are those of all records of the
/// batch, and rise.
pub fn check(
    client: &mut SpiClient<'_>,
    fenced: &Fenced,
    head: &BatchHead<'_>,
    letters: &DeadLetters,
    offsets: impl Iterator<Item = i64>,
) {
    let is_refused = |place: &usize| letters.codes[*place] == DeadReason::ApplyFailed.as_str();
    let refused: Vec<usize> = (0..letters.codes.len()).filter(is_refused).collect();
    let Some(last) = refused.last().copied() else {
        return;
    };
    let resumed_at: Option<TimestampWithTimeZone> =
        query(client, RESUMED_AT, &[fenced.partition_id().into()])
            .first()
            .get_one()
            .unwrap_or_else(internal);
    let (name, from, reason) = (head.name, head.span.from(), DeadReason::ApplyFailed);
    let mut places = broken_before(client, name, from, BALANCES, reason, resumed_at);
    let offsets: Vec<i64> = offsets.collect();
    places.extend(
        refused
            .iter()
            .filter_map(|letter| offsets.binary_search(&letters.offsets[*letter]).ok())
            .map(|place| place as i64),
    );
    if BALANCES.is_exceeded(&places) {
        raise(
            Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
            format!(
                "the database refused {} records of {}/{}, last: {}",
                BALANCES.words(),
                name.topic,
                name.partition,
                letters.messages[last]
            ),
        );
    }
}
