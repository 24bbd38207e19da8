//! Handlers: the SQL function that is registered for a type of domain events, and the search for an event on which it
//! fails.

use std::collections::HashMap;

use ledger::event::Defect;
use ledger::verdict::DeadReason;
use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::spi::SpiClient;

use crate::dead_letters::breaker::{self, Limit};
use crate::domain::records::{DomainEvent, Records};
use crate::error::raise;
use crate::partition::PartitionName;
use crate::pg::confine;
use crate::spi::{internal, query, query_planned};

// A handler that was replaced after it was paused is not paused any more.
const FIND: &str = "
    SELECT h.handler, f.oid IS NOT NULL, h.parks_key, h.max_failures, h.failure_window,
        CASE WHEN h.paused_version IS DISTINCT FROM f.xmin::text THEN greatest(h.resumed_at, h.paused_at) ELSE h.resumed_at END,
        CASE WHEN h.paused_at IS NOT NULL AND h.paused_version IS NOT DISTINCT FROM f.xmin::text THEN h.pause_reason END
    FROM ledger.event_handlers h
    LEFT JOIN pg_catalog.pg_proc f ON f.oid = pg_catalog.to_regprocedure(h.handler || '(domain.event[])')
    WHERE h.event_type = $1";

// As role sluice_handler, in a subtransaction; what is not the events' fault is raised again.
const CALL: &str =
    "SELECT broke_with, message FROM sluice.call_handler($1, $2, $3, $4, $5, $6, $7)";

const CURSORS: &str = "SELECT name FROM pg_catalog.pg_cursors";

const PARKED_KEYS: &str = "
    SELECT d.key, min(d.kafka_offset) FROM ledger.dead_letters d
    WHERE d.topic = $1 AND d.partition = $2 AND d.status = 'PARKED' AND d.key = ANY ($3) AND d.id <> ALL ($4)
    GROUP BY d.key";

/// Why one event was not handled.
pub enum Outcome {
    /// The handler failed on it, with this message.
    Failed(String),
    /// An earlier record with the same key is parked.
    ParkedBehind,
}

/// Why the handler is called.
pub enum Task<'a> {
    /// A batch from this offset on.
    Batch { from_offset: i64 },
    /// These dead letters.
    Replay { ids: &'a [i64] },
}

/// The handler of one event type.
pub struct Handler {
    name: String,
    parks_key: bool,
    limit: Limit,
    resumed_at: Option<TimestampWithTimeZone>,
}

impl Handler {
    /// Finds the handler; raises where there is none, or where it is paused.
    pub fn of(client: &mut SpiClient<'_>, event_type: &str) -> Self {
        let rows = query_planned(client, FIND, &[event_type.into()]);
        if rows.is_empty() {
            raise(
                Code::ERRCODE_UNDEFINED_OBJECT,
                format!(
                    "no handler for events of type {event_type}: register one with sluice.register_handler('{event_type}', …)"
                ),
            );
        }
        let row = rows.first();
        let name: String = row
            .get(1)
            .unwrap_or_else(internal)
            .expect("the column is NOT NULL");
        if row.get(2).unwrap_or_else(internal) != Some(true) {
            raise(
                Code::ERRCODE_UNDEFINED_FUNCTION,
                format!("the handler of {event_type} is gone: create {name}(domain.event[]) again"),
            );
        }
        let pause_reason: Option<String> = row.get(7).unwrap_or_else(internal);
        if let Some(reason) = pause_reason {
            raise(
                Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
                format!(
                    "{event_type} is paused: {reason}; replace {name}, or SELECT sluice.resume_handler('{event_type}')"
                ),
            );
        }
        let count = |column| -> i32 {
            row.get(column)
                .unwrap_or_else(internal)
                .expect("the column is NOT NULL")
        };
        Self {
            name,
            parks_key: row.get(3).unwrap_or_else(internal) == Some(true),
            limit: Limit {
                max: count(4) as usize,
                records: i64::from(count(5)),
            },
            resumed_at: row.get(6).unwrap_or_else(internal),
        }
    }

    /// Calls the handler with the events `news` (indexes in `records`), in order, in calls as large as succeed.
    ///
    /// If a call fails and names the event that it refuses, it is repeated without that event. Otherwise the
    /// longest beginning that succeeds is found by halving, and the next event is tried by itself. The rest is
    /// tried as a whole once, and from the second failure on in parts twice as long as the distance of failures.
    pub fn run(
        &self,
        client: &mut SpiClient<'_>,
        name: PartitionName<'_>,
        task: &Task<'_>,
        records: &Records<'_>,
        decoded: &[Result<DomainEvent, Defect>],
        news: &[usize],
    ) -> HashMap<usize, Outcome> {
        let cursors = open_cursors(client, task);
        let mut outcomes = HashMap::new();
        let mut queue = news.to_vec();
        if self.parks_key {
            let parked = parked_keys(client, name, task, records, decoded, news);
            park(&mut queue, 0, records, &mut outcomes, |key, offset| {
                parked.get(key).is_some_and(|first| *first < offset)
            });
        }
        let mut failures = Failures::default();
        let (mut at, mut length) = (0, queue.len());
        while at < queue.len() {
            let end = queue.len().min(at + length);
            let call = |client: &mut SpiClient<'_>, from: usize, to: usize| {
                self.call(client, records, decoded, &queue[from..to])
            };
            let Err(message) = call(client, at, end) else {
                at = end;
                length = length.saturating_mul(2);
                continue;
            };
            let (culprit, failed) = match named(&message, decoded, &queue[at..end]) {
                Some(place) => (at + place, Err(message)),
                None => {
                    let (culprit, failed) =
                        first_culprit(at, end, message, |from, to| call(client, from, to));
                    at = culprit + 1;
                    (culprit, failed)
                }
            };
            let Err(message) = failed else { continue };
            let record = queue[culprit];
            failures.in_batch += 1;
            if let Task::Batch { from_offset } = task {
                failures.check(self, client, name, *from_offset, record, &message);
            }
            outcomes.insert(record, Outcome::Failed(message));
            if at <= culprit {
                queue.remove(culprit);
            }
            if let (true, Some(key)) = (self.parks_key, records.keys[record]) {
                let later = culprit.max(at);
                park(&mut queue, later, records, &mut outcomes, |other, _| {
                    other == key
                });
            }
            length = match failures.in_batch {
                1 => queue.len(),
                count => (2 * culprit / count).max(1),
            };
        }
        close_new_cursors(client, &cursors);
        outcomes
    }

    fn call(
        &self,
        client: &mut SpiClient<'_>,
        records: &Records<'_>,
        decoded: &[Result<DomainEvent, Defect>],
        part: &[usize],
    ) -> Result<(), String> {
        let events = || {
            part.iter()
                .filter_map(|record| decoded[*record].as_ref().ok())
        };
        let offsets: Vec<i64> = part.iter().map(|record| records.offsets[*record]).collect();
        let versions: Vec<Vec<u8>> = events()
            .zip(&offsets)
            .map(|(event, offset)| event.version(*offset))
            .collect();
        // Only the part of the payload that the handler gets, so that no more than that becomes a jsonb. It is wrapped
        // because sluice.call_handler in every version takes it out of an envelope: a new library may run with the old
        // functions until the extension is updated.
        let payloads: Vec<Vec<u8>> = part
            .iter()
            .filter_map(|record| {
                let (event, payload) = (decoded[*record].as_ref().ok()?, records.payloads[*record]);
                let data = payload?.get(event.data.clone())?;
                Some([br#"{"data":"#, data, b"}"].concat())
            })
            .collect();
        let args = [
            self.name.as_str().into(),
            offsets.into(),
            events()
                .map(|event| event.event_id.as_str())
                .collect::<Vec<_>>()
                .into(),
            events()
                .map(|event| event.source.as_deref())
                .collect::<Vec<_>>()
                .into(),
            events()
                .map(|event| event.time_us)
                .collect::<Vec<_>>()
                .into(),
            versions.into(),
            payloads.into(),
        ];
        let (sqlstate, message) = confine::confined(|| {
            query_planned(client, CALL, &args)
                .first()
                .get_two::<String, String>()
                .unwrap_or_else(internal)
        });
        fault_point!("events.called");
        match sqlstate {
            None => Ok(()),
            Some(sqlstate) => Err(format!(
                "{} (SQLSTATE {sqlstate})",
                message.unwrap_or_default()
            )),
        }
    }
}

/// The cursors that are open before a replay. Those of a batch end with its transaction, in which nobody uses one.
fn open_cursors(client: &SpiClient<'_>, task: &Task<'_>) -> Option<Vec<String>> {
    matches!(task, Task::Replay { .. }).then(|| {
        let rows = client.select(CURSORS, None, &[]).unwrap_or_else(internal);
        rows.filter_map(|row| row.get(1).unwrap_or_else(internal))
            .collect()
    })
}

/// Closes the cursors that a handler has opened: to fetch from one would run its query with the rights of the role that
/// replays.
fn close_new_cursors(client: &SpiClient<'_>, before: &Option<Vec<String>>) {
    let Some(before) = before else { return };
    let rows = client.select(CURSORS, None, &[]).unwrap_or_else(internal);
    let open: Vec<String> = rows
        .filter_map(|row| row.get(1).unwrap_or_else(internal))
        .collect();
    for name in open.iter().filter(|name| !before.contains(name)) {
        confine::close_cursor(name);
    }
}

/// The index in `part` of the event that a handler names as refused, as `domain.refuse` does: "event <id>: …".
fn named(message: &str, decoded: &[Result<DomainEvent, Defect>], part: &[usize]) -> Option<usize> {
    let told = message.strip_prefix("event ")?;
    let is_told = |record: &usize| {
        decoded[*record].as_ref().is_ok_and(|event| {
            told.strip_prefix(event.event_id.as_str())
                .is_some_and(|rest| rest.starts_with(": "))
        })
    };
    let place = part.iter().position(is_told)?;
    // Two sources may use one event id.
    let is_unique = !part[place + 1..].iter().any(is_told);
    is_unique.then_some(place)
}

/// In a part that fails with `message`, the first event that `call` refuses; all events before it are handled.
fn first_culprit(
    from: usize,
    to: usize,
    mut message: String,
    mut call: impl FnMut(usize, usize) -> Result<(), String>,
) -> (usize, Result<(), String>) {
    let (mut good, mut bad, mut was_alone) = (from, to, to - from == 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match call(good, middle) {
            Ok(()) => good = middle,
            Err(words) => {
                was_alone = middle - good == 1;
                (bad, message) = (middle, words);
            }
        }
    }
    // A handler may fail on two events together and accept each by itself.
    let failed = if was_alone {
        Err(message)
    } else {
        call(good, good + 1)
    };
    (good, failed)
}

/// Moves events from `queue[from..]` whose keys are parked to the outcomes.
fn park(
    queue: &mut Vec<usize>,
    from: usize,
    records: &Records<'_>,
    outcomes: &mut HashMap<usize, Outcome>,
    is_parked: impl Fn(&[u8], i64) -> bool,
) {
    let mut index = 0;
    queue.retain(|record| {
        index += 1;
        let key = records.keys[*record];
        let parked =
            index > from && key.is_some_and(|key| is_parked(key, records.offsets[*record]));
        if parked {
            outcomes.insert(*record, Outcome::ParkedBehind);
        }
        !parked
    });
}

/// For each key the first dead record: a parked one, except those that are replayed now, or one of these records that
/// cannot be decoded.
fn parked_keys(
    client: &mut SpiClient<'_>,
    name: PartitionName<'_>,
    task: &Task<'_>,
    records: &Records<'_>,
    decoded: &[Result<DomainEvent, Defect>],
    news: &[usize],
) -> HashMap<Vec<u8>, i64> {
    let replayed = match task {
        Task::Batch { .. } => Vec::new(),
        Task::Replay { ids } => ids.to_vec(),
    };
    let keys = news.iter().filter_map(|record| records.keys[*record]);
    let keys: Vec<&[u8]> = keys.collect();
    let args = [
        name.topic.into(),
        name.partition.into(),
        keys.into(),
        replayed.into(),
    ];
    let parked = query(client, PARKED_KEYS, &args);
    let mut first: HashMap<Vec<u8>, i64> = parked
        .filter_map(|row| {
            row.get::<Vec<u8>>(1)
                .unwrap_or_else(internal)
                .zip(row.get(2).unwrap_or_else(internal))
        })
        .collect();
    let dead = decoded.iter().enumerate();
    for (record, _) in dead.filter(|(_, decoded)| decoded.is_err()) {
        if let Some(key) = records.keys[record] {
            let offset = records.offsets[record];
            let earliest = first.entry(key.to_vec()).or_insert(offset);
            *earliest = offset.min(*earliest);
        }
    }
    first
}

/// The records on which the handler failed, by their indexes.
#[derive(Default)]
struct Failures {
    places: Option<Vec<i64>>,
    in_batch: usize,
}

impl Failures {
    /// Raises if the handler fails on too many events: then the handler is at fault, not the events.
    fn check(
        &mut self,
        handler: &Handler,
        client: &mut SpiClient<'_>,
        name: PartitionName<'_>,
        from_offset: i64,
        record: usize,
        message: &str,
    ) {
        let (limit, reason) = (handler.limit, DeadReason::HandlerFailed);
        let places = self.places.get_or_insert_with(|| {
            let since = handler.resumed_at;
            breaker::broken_before(client, name, from_offset, limit, reason, since)
        });
        // A handler may name a later event before an earlier one.
        let place = record as i64;
        places.insert(places.partition_point(|before| *before < place), place);
        if limit.is_exceeded(places) {
            raise(
                Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
                format!(
                    "{} broke on {} events of {}/{}, last: {message}",
                    handler.name,
                    limit.words(),
                    name.topic,
                    name.partition
                ),
            );
        }
    }
}
