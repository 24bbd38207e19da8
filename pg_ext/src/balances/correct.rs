//! Manual corrections: a balance event by an admin, on a separate partition, with a log and a
//! verdict like any other.

use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;

use crate::balances::again::{self, BalanceEvent, Part};
use crate::error::raise;
use crate::identities::Ownership;
use crate::partition::PartitionName;
use crate::partition::fence;
use crate::pg::identities::RecordPlace;
use crate::spi::run;

/// No Kafka topic can have this name, because it has a blank.
const CORRECTIONS: PartitionName<'static> = PartitionName {
    topic: "manual corrections",
    partition: 0,
};

const RECORD: &str = "
    INSERT INTO ledger.manual_corrections (partition_id, kafka_offset, by_user, why, payload)
    VALUES ($1, $2, session_user, $3, $4)";

/// Applies one event; returns partition and offset of its log rows.
pub fn correct(payload: &str, why: &str) -> (i32, i64) {
    let event = BalanceEvent::decode(Some(payload.as_bytes())).unwrap_or_else(|defect| {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("the changes are not usable: {defect}"),
        )
    });
    Spi::connect_mut(|client| {
        let (fenced, offset) = fence::advance_by_one(client, CORRECTIONS);
        let partition_id = fenced.partition_id();
        fault_point!("correct.numbered");
        // An event id that the caller makes up is no duplicate.
        let ownership = Ownership::claim(client, &[Some(event.carried())], |_| RecordPlace {
            partition_id,
            kafka_offset: offset,
        });
        let part = Part {
            fenced: &fenced,
            events: vec![(offset, &event)],
        };
        again::apply(client, &[part], ownership);
        fault_point!("correct.decided");
        let args = [
            partition_id.into(),
            offset.into(),
            why.into(),
            payload.into(),
        ];
        run(client, RECORD, &args);
        fault_point!("correct.recorded");
        (partition_id, offset)
    })
}
