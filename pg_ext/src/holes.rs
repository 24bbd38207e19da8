//! Offsets without a record: compacted ones, transaction markers, and those that an operator accepted to skip.

use ledger::span::Span;
use pgrx::spi::SpiClient;

use crate::partition::fence::Fenced;
use crate::spi::run_planned;

const HOLES: &str = "
    INSERT INTO ledger.offset_holes (partition_id, first_offset, next_offset)
    SELECT $1, u.* FROM unnest($2::bigint[], $3::bigint[]) AS u";

/// Records the parts of a batch's span that none of its `offsets` covers.
pub fn record(
    client: &mut SpiClient<'_>,
    fenced: &Fenced,
    span: Span,
    offsets: impl Iterator<Item = i64>,
) {
    let holes = span.holes(offsets);
    if holes.is_empty() {
        return;
    }
    let (first, next): (Vec<i64>, Vec<i64>) =
        holes.iter().map(|hole| (hole.from(), hole.next())).unzip();
    let args = [fenced.partition_id().into(), first.into(), next.into()];
    run_planned(client, HOLES, &args);
}
