//! Records that an operator has ordered to bury. The order is a row in the database; it is carried out when the partition
//! reaches the record, in the transaction that moves the offset past it.

use ledger::span::Span;
use ledger::verdict::DeadReason;
use pgrx::PgSqlErrorCode as Code;
use pgrx::spi::SpiClient;

use crate::dead_letters::DeadLetters;
use crate::error::{raise, raise_with};
use crate::partition::PartitionName;
use crate::partition::fence::{BatchHead, Fenced};
use crate::spi::{internal, query, run};

const ORDERED: &str = "
    SELECT b.kafka_offset, b.by_user, b.why FROM ledger.burials b
    WHERE b.partition_id = $1 AND b.kafka_offset >= $2 AND b.kafka_offset < $3 AND b.outcome IS NULL
    ORDER BY b.kafka_offset";

// The letter's own history also names who gave the order.
const SETTLE: &str = "
    WITH settled AS (
        UPDATE ledger.burials b
        SET outcome = CASE WHEN b.kafka_offset = ANY ($5) THEN 'BURIED' ELSE 'NO_RECORD' END,
            settled_at = pg_catalog.clock_timestamp()
        WHERE b.partition_id = $1 AND b.kafka_offset < $2 AND b.outcome IS NULL
        RETURNING b.kafka_offset, b.by_user, b.why
    )
    INSERT INTO ledger.dead_letter_actions (dead_letter_id, action, by_user, why, verdict, reason)
    SELECT d.id, 'BURY', s.by_user, s.why, 'DEAD', d.error_code
    FROM settled s
    JOIN ledger.dead_letters d ON d.topic = $3 AND d.partition = $4 AND d.kafka_offset = s.kafka_offset";

const MOVE_ON: &str = "
    UPDATE ledger.partition_progress p
    SET bury_from = (
        SELECT min(b.kafka_offset) FROM ledger.burials b
        WHERE b.partition_id = $1 AND b.kafka_offset >= $2 AND b.outcome IS NULL)
    WHERE p.partition_id = $1";

struct Burial {
    offset: i64,
    by_user: String,
    why: String,
}

/// The orders within one batch; almost always none.
#[derive(Default)]
pub struct Burials {
    has_any: bool,
    orders: Vec<Burial>,
}

impl Burials {
    /// Reads them if the fence reports that there are any.
    pub fn within(
        client: &mut SpiClient<'_>,
        fenced: &Fenced,
        span: Span,
        has_burials: bool,
    ) -> Self {
        if !has_burials {
            return Self::default();
        }
        let args = [
            fenced.partition_id().into(),
            span.from().into(),
            span.next().into(),
        ];
        let rows = query(client, ORDERED, &args);
        let burial = |row: pgrx::spi::SpiHeapTupleData<'_>| Burial {
            offset: row.get(1).unwrap_or_else(internal).unwrap_or_default(),
            by_user: row.get(2).unwrap_or_else(internal).unwrap_or_default(),
            why: row.get(3).unwrap_or_else(internal).unwrap_or_default(),
        };
        Self {
            has_any: true,
            orders: rows.map(burial).collect(),
        }
    }

    /// The message of the letter, if the record at this offset is to be buried.
    pub fn words(&self, offset: i64) -> Option<String> {
        let burial = self.orders.iter().find(|burial| burial.offset == offset)?;
        Some(format!("buried by {}: {}", burial.by_user, burial.why))
    }

    /// Checks that the ingester sends exactly the ordered balance records as buried: only the ingester has their bytes.
    pub fn demand<'r>(
        &self,
        name: PartitionName<'_>,
        records: impl Iterator<Item = (i64, Option<&'r str>)>,
    ) {
        let at = || format!("{}/{}", name.topic, name.partition);
        for (offset, reason) in records {
            let comes_buried = reason == Some(DeadReason::Buried.as_str());
            match self.words(offset) {
                Some(words) if !comes_buried => raise_with(
                    Code::ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION,
                    format!("the record at offset {offset} of {} is to be {words}", at()),
                    offset.to_string(),
                ),
                None if comes_buried => raise(
                    Code::ERRCODE_INVALID_PARAMETER_VALUE,
                    format!(
                        "nobody has ordered to bury the record at offset {offset} of {}",
                        at()
                    ),
                ),
                _ => {}
            }
        }
    }

    /// Adds to the letters' messages who buried them, and why.
    pub fn sign(&self, letters: &mut DeadLetters) {
        for (offset, message) in letters.offsets.iter().zip(&mut letters.messages) {
            if let Some(words) = self.words(*offset) {
                *message = match message.is_empty() {
                    true => words,
                    false => format!("{words} ({message})"),
                };
            }
        }
    }

    /// Records that the orders are carried out, once the letters are written.
    pub fn settle(
        &self,
        client: &mut SpiClient<'_>,
        fenced: &Fenced,
        head: &BatchHead<'_>,
        records: impl Iterator<Item = i64>,
    ) {
        if !self.has_any {
            return;
        }
        let found: Vec<i64> = records.collect();
        let args = [
            fenced.partition_id().into(),
            head.span.next().into(),
            head.name.topic.into(),
            head.name.partition.into(),
            found.into(),
        ];
        run(client, SETTLE, &args);
        let args = [fenced.partition_id().into(), head.span.next().into()];
        run(client, MOVE_ON, &args);
    }
}
