//! Manual corrections: a balance event by an admin, on a partition of its own, with a log
//! and a verdict like any other.

use std::borrow::Cow;

use ledger::decode::decode_balance_event;
use ledger::identity::PayloadHash;
use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;

use crate::apply::{self, Anew, Decodable};
use crate::error::raise;
use crate::fence::Fenced;
use crate::identities::Ownership;
use crate::leader::{internal, run};
use crate::pg::identities::RecordPlace;

/// Not the name of a Kafka topic that anybody would create: it has a blank.
const TOPIC: &str = "manual corrections";

const OPEN: &str = "
    WITH lease AS (
        INSERT INTO ledger.partition_leases (topic, partition) VALUES ($1, 0)
        ON CONFLICT (topic, partition) DO NOTHING
        RETURNING partition_id)
    INSERT INTO ledger.partition_progress (partition_id, fencing_token, commit_offset, started_at, is_domain)
    SELECT partition_id, 0, 0, pg_catalog.clock_timestamp(), false FROM lease";

const NEXT: &str = "
    UPDATE ledger.partition_progress p SET commit_offset = p.commit_offset + 1
    FROM ledger.partition_leases l
    WHERE l.topic = $1 AND l.partition = 0 AND p.partition_id = l.partition_id
    RETURNING p.partition_id, p.commit_offset - 1";

const RECORD: &str = "
    INSERT INTO ledger.manual_corrections (partition_id, kafka_offset, by_user, why, payload)
    VALUES ($1, $2, session_user, $3, $4)";

/// Applies one event; answers where its log is to be found.
pub fn correct(payload: &str, why: &str) -> (i32, i64) {
    let mut changes = Vec::new();
    let head =
        decode_balance_event(Some(payload.as_bytes()), &mut changes).unwrap_or_else(|defect| {
            raise(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the changes are not usable: {defect}"),
            )
        });
    Spi::connect_mut(|client| {
        run(client, OPEN, &[TOPIC.into()]);
        let rows = client
            .update(NEXT, Some(1), &[TOPIC.into()])
            .unwrap_or_else(internal);
        let (partition_id, offset) = rows.first().get_two::<i32, i64>().unwrap_or_else(internal);
        let (partition_id, offset) = (partition_id.unwrap_or_default(), offset.unwrap_or_default());
        let event = Decodable {
            offset,
            identity: head.identity(),
            payload_hash: PayloadHash::of(payload.as_bytes()),
            time_us: head.timestamp_us,
            event_id: head.event_id.into_owned(),
            source: head.source.map(Cow::into_owned),
            changes,
        };
        fault_point!("correct.numbered");
        // A fresh event id is never a duplicate.
        let carried = [Some((event.identity, event.payload_hash))];
        let ownership = Ownership::claim(client, &carried, |_| RecordPlace {
            partition_id,
            kafka_offset: offset,
        });
        let part = Anew {
            fenced: Fenced { partition_id },
            events: vec![event],
        };
        apply::decide_anew(client, &[part], ownership);
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
