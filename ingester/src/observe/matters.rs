//! What the database is asked for the metrics: what waits for a person, and who else may write.

use std::time::Duration;

use crate::observe::labels::{Kind, Letters, Writer};
use crate::postgres::pool::{AskError, Pool};

const PARKED: &str = "SELECT topic, error_code, letters FROM sluice.parked_dead_letters()";
/// In rows, so many at most.
const OTHER_WRITERS: &str = "SELECT kind, writer, writes FROM sluice.other_writers() LIMIT 50";
const DANGLING: &str =
    "SELECT kind, rows FROM sluice.dangling_references($1::double precision * interval '1 s')";

/// What waits for a person, as the database last told.
#[derive(Default)]
pub(super) struct Matters {
    pub(super) dead_letters: Vec<(Letters, i64)>,
    pub(super) dangling: Vec<(Kind, i64)>,
}

impl Matters {
    pub(super) async fn of(pool: &Pool, dangling_after: Duration) -> Result<Self, AskError> {
        let client = pool.get().await.map_err(AskError::of_pool)?;
        let seconds = dangling_after.as_secs_f64();
        let letters = client.answer(client.query(PARKED, &[])).await?;
        let dangling = client.answer(client.query(DANGLING, &[&seconds])).await?;
        let letters = letters.iter().map(|row| {
            let (topic, code) = (row.get(0), row.get(1));
            (Letters { topic, code }, row.get(2))
        });
        let dangling = dangling
            .iter()
            .map(|row| (Kind { kind: row.get(0) }, row.get(1)));
        Ok(Self {
            dead_letters: letters.collect(),
            dangling: dangling.collect(),
        })
    }
}

pub(super) async fn other_writers(pool: &Pool) -> Result<Vec<(Writer, String)>, AskError> {
    let client = pool.get().await.map_err(AskError::of_pool)?;
    let rows = client.answer(client.query(OTHER_WRITERS, &[])).await?;
    let writers = rows.iter().map(|row| {
        let (kind, writer) = (row.get(0), row.get(1));
        (Writer { kind, writer }, row.get(2))
    });
    Ok(writers.collect())
}
