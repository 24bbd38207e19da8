//! Whether the topic is still the one that was read: by its id and by the last committed record.
//! If either differs or is missing, the partition halts, in the database, until an operator decides.

use std::time::Duration;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::kafka::client::TopicId;
use crate::leases::lease::Leadership;
use crate::partition::Partition;
use crate::postgres::pool::{AskError, Pool};

/// How long PostgreSQL may take to store the result.
const LIMIT: Duration = Duration::from_secs(5);

const HALT: &str = "SELECT sluice.halt_partition($1, $2, $3, $4, $5)";
const KEEP: &str = "SELECT sluice.keep_topic_id($1, $2, $3, $4, $5)";

/// What the reader has seen of the last committed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No known record is expected.
    Nothing,
    /// It exists.
    Known,
    /// Another record, or the end, arrived instead of the record at this offset.
    Missing(i64),
}

/// Everything that distinguishes a topic from another one of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// The id stored with the progress.
    pub stored: Option<Uuid>,
    /// The id from the broker now.
    pub found: TopicId,
    pub seen: Seen,
    /// An operator has accepted the topic, and no record was committed since.
    pub is_accepted: bool,
}

/// Why the topic may be another one.
#[derive(Debug, PartialEq, Eq)]
pub enum Doubt {
    Certain(String),
    /// Unless Kafka has removed the record at `missing`, or everything below the committed offset, by itself.
    Unless {
        reason: String,
        missing: Option<i64>,
    },
}

impl Evidence {
    pub fn is_same_id(&self) -> bool {
        self.stored.is_some() && self.stored == self.found
    }

    /// Decides everything that does not need the log's bounds.
    pub fn judge(&self, partition: &Partition, next_offset: i64) -> Result<(), Doubt> {
        if next_offset == 0 {
            // Nothing was read yet, so there is nothing to compare.
            return Ok(());
        }
        if let (Some(stored), Some(found)) = (self.stored, self.found)
            && stored != found
        {
            return Err(Doubt::Certain(format!(
                "the topic of {partition} was created anew: its id is {found}, and {stored} was read up to offset {next_offset}"
            )));
        }
        match self.seen {
            Seen::Known => Ok(()),
            Seen::Nothing if self.is_same_id() || self.is_accepted => Ok(()),
            Seen::Nothing => Err(Doubt::Unless {
                reason: format!(
                    "nothing tells whether {partition} is still the one that was read up to offset {next_offset}: no topic id \
                     is stored, or the broker gives none, and no committed record is left"
                ),
                missing: None,
            }),
            Seen::Missing(offset) => Err(Doubt::Unless {
                reason: format!(
                    "the record at offset {offset} of {partition}, which was committed last, is not there any more: the \
                     topic was created anew, or its log was cut off and written again"
                ),
                missing: Some(offset),
            }),
        }
    }
}

/// Stores the halt; false when leadership is lost.
pub async fn halt(
    pool: &Pool,
    partition: &Partition,
    leadership: &Leadership,
    reason: &str,
) -> Result<bool, String> {
    fenced(pool, HALT, partition, leadership, &reason).await
}

/// Stores the topic's id; false when leadership is lost.
pub async fn keep(
    pool: &Pool,
    partition: &Partition,
    leadership: &Leadership,
    id: Uuid,
) -> Result<bool, String> {
    fenced(pool, KEEP, partition, leadership, &id).await
}

async fn fenced(
    pool: &Pool,
    statement: &str,
    partition: &Partition,
    leadership: &Leadership,
    value: &(dyn ToSql + Sync),
) -> Result<bool, String> {
    let work = async {
        let client = pool.get().await.map_err(AskError::of_pool)?;
        let Partition { topic, number } = partition;
        let (token, lease_id) = (&leadership.fencing_token, &leadership.lease_id);
        let arguments: [&(dyn ToSql + Sync); 5] = [topic, number, token, lease_id, value];
        let row = client
            .answer(client.query_one(statement, &arguments))
            .await?;
        Ok(row.get(0))
    };
    let done = tokio::time::timeout(LIMIT, work).await;
    let done = done.unwrap_or_else(|_| Err(AskError::Silent("none in time".to_owned())));
    done.map_err(|failed| failed.describe())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<Uuid> = Some(Uuid::from_u128(1));
    const OTHER: Option<Uuid> = Some(Uuid::from_u128(2));

    fn judge(stored: Option<Uuid>, found: TopicId, seen: Seen, next_offset: i64) -> &'static str {
        let partition = Partition {
            topic: "t".into(),
            number: 0,
        };
        let evidence = Evidence {
            stored,
            found,
            seen,
            is_accepted: false,
        };
        match evidence.judge(&partition, next_offset) {
            Ok(()) => "same",
            Err(Doubt::Certain(_)) => "other",
            Err(Doubt::Unless { missing: None, .. }) => "nothing tells",
            Err(Doubt::Unless { .. }) => "missing",
        }
    }

    #[test]
    fn another_id_is_another_topic_whatever_else_fits() {
        for seen in [Seen::Known, Seen::Nothing, Seen::Missing(8)] {
            assert_eq!(judge(ONE, OTHER, seen, 9), "other");
        }
        assert_eq!(judge(ONE, OTHER, Seen::Nothing, 0), "same", "nothing read");
    }

    #[test]
    fn the_record_alone_is_evidence_where_no_ids_can_be_compared() {
        for (stored, found) in [(None, None), (None, ONE), (ONE, None)] {
            assert_eq!(judge(stored, found, Seen::Known, 9), "same");
            assert_eq!(judge(stored, found, Seen::Nothing, 9), "nothing tells");
            assert_eq!(judge(stored, found, Seen::Missing(8), 9), "missing");
        }
    }

    #[test]
    fn an_equal_id_is_enough_where_no_record_can_be_expected() {
        assert_eq!(judge(ONE, ONE, Seen::Nothing, 9), "same");
        assert_eq!(
            judge(ONE, ONE, Seen::Missing(8), 9),
            "missing",
            "look at the log"
        );
    }
}
