//! The circuit breaker of balance topics: where the database refuses most records of a window, the fault is not
//! theirs. Handlers of domain events count their own failures, by the same rule.

use ledger::verdict::DeadReason;
use pgrx::PgSqlErrorCode as Code;
use pgrx::spi::SpiClient;

use crate::error::raise;
use crate::fence::{Fenced, Span};
use crate::leader::internal;
use crate::outcome::DeadLetters;

/// More than so many refused records …
const MAX_FAILURES: usize = 100;
/// … among so many offsets are too much.
const WINDOW: i64 = 200;

// What was refused before somebody resumed the partition does not count any more.
const REFUSED_RECENTLY: &str = "
    SELECT d.kafka_offset FROM ledger.dead_letters d
    WHERE d.topic = $1 AND d.partition = $2 AND d.kafka_offset >= $3 AND d.error_code = 'APPLY_FAILED'
        AND d.first_failed_at > coalesce(
            (SELECT p.resumed_at FROM ledger.partition_progress p WHERE p.partition_id = $4), '-infinity')";

/// Raises when one more letter of a refused record is one too many.
pub fn check(client: &mut SpiClient<'_>, fenced: &Fenced, span: &Span<'_>, letters: &DeadLetters) {
    let is_refused = |place: &usize| letters.codes[*place] == DeadReason::ApplyFailed.as_str();
    let refused: Vec<usize> = (0..letters.codes.len()).filter(is_refused).collect();
    let Some(last) = refused.last().copied() else {
        return;
    };
    let begin = letters.offsets[last] - WINDOW + 1;
    let args = [
        span.name.topic.into(),
        span.name.partition.into(),
        begin.into(),
        fenced.partition_id.into(),
    ];
    let before = client
        .update(REFUSED_RECENTLY, None, &args)
        .unwrap_or_else(internal)
        .len();
    let now = refused
        .iter()
        .filter(|place| letters.offsets[**place] >= begin);
    let count = before + now.count();
    if count > MAX_FAILURES {
        raise(
            Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
            format!(
                "the database refused {count} of the last {WINDOW} records of {}/{}, last: {}",
                span.name.topic, span.name.partition, letters.messages[last]
            ),
        );
    }
}
