//! Dead letters tried again: the same fence row, identities, fold and handlers as the first
//! time, at the record's own place in its partition.

use std::borrow::Cow;
use std::collections::HashMap;

use ledger::event::{Change, decode_balance_event};
use ledger::fold::Claim;
use ledger::identity::{Identity, PayloadHash};
use ledger::verdict::{DeadReason, RejectReason, Verdict};
use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::apply::{self, Decodable};
use crate::error::raise;
use crate::events::{self, Records};
use crate::fence::Fenced;
use crate::handlers::{Handler, Outcome, Task};
use crate::identities::Ownership;
use crate::leader::{PartitionName, check_name, internal, run};
use crate::outcome::{EventName, Verdicts};

// The progress row is what every batch locks first: behind it nothing of this partition moves.
const LOCK: &str = "
    SELECT p.partition_id, EXISTS (SELECT FROM ledger.event_handlers h WHERE h.event_type = $1)
    FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = $1 AND l.partition = $2
    FOR UPDATE OF p";

const LETTERS: &str = "
    SELECT d.id, d.kafka_offset, d.error_code, d.record_time_ms, d.key, d.payload
    FROM ledger.dead_letters d
    WHERE d.topic = $1 AND d.partition = $2 AND d.id = ANY ($3) AND d.status = 'PARKED'
    ORDER BY d.kafka_offset
    FOR UPDATE";

const FORGET_VERDICTS: &str = "
    DELETE FROM ledger.verdicts WHERE partition_id = $1 AND kafka_offset = ANY ($2)";

const DISOWN: &str = "DELETE FROM ledger.event_identities WHERE identity = $1";
const RESTATE: &str = "UPDATE ledger.event_identities SET payload_hash = $2 WHERE identity = $1";

// A record that only waits behind another one was not tried.
const SETTLE: &str = "
    UPDATE ledger.dead_letters d
    SET status = CASE WHEN u.code IS NULL THEN 'REPLAYED' ELSE 'PARKED' END,
        error_code = coalesce(u.code, d.error_code), error_message = coalesce(u.message, d.error_message),
        attempts = d.attempts + CASE WHEN u.code = 'PARKED_BEHIND' THEN 0 ELSE 1 END,
        updated_at = pg_catalog.clock_timestamp()
    FROM unnest($1::bigint[], $2::text[], $3::text[]) AS u (id, code, message)
    WHERE d.id = u.id";

// Whoever was told that the event is dead is to hear of it.
const TELL: &str = "
    INSERT INTO ledger.changed_verdicts (partition_id, kafka_offset)
    SELECT $1, u.kafka_offset FROM unnest($2::bigint[]) AS u (kafka_offset)";

const RESULTS: &str = "
    SELECT d.id, d.kafka_offset, v.verdict, v.reason, CASE WHEN d.status = 'PARKED' THEN d.error_message END
    FROM ledger.dead_letters d
    JOIN ledger.event_verdicts v USING (topic, partition, kafka_offset)
    WHERE d.topic = $1 AND d.partition = $2 AND d.id = ANY ($3)
    ORDER BY d.kafka_offset";

struct Letter {
    id: i64,
    offset: i64,
    owned_identity: bool,
    time_ms: i64,
    key: Option<Vec<u8>>,
    original: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

/// What a replayed record came to.
pub struct Replayed {
    pub id: i64,
    pub offset: i64,
    pub verdict: String,
    pub reason: Option<String>,
    pub message: Option<String>,
}

/// Why a letter stays one.
struct Fault {
    code: &'static str,
    message: String,
}

/// Replays the parked letters `ids` of one partition; `payload` corrects a single one.
pub fn replay(name: PartitionName<'_>, ids: &[i64], payload: Option<&[u8]>) -> Vec<Replayed> {
    check_name(name);
    Spi::connect_mut(|client| {
        let at = [name.topic.into(), name.partition.into()];
        let rows = client.update(LOCK, None, &at).unwrap_or_else(internal);
        if rows.is_empty() {
            raise(
                Code::ERRCODE_UNDEFINED_OBJECT,
                format!("nobody has read {}/{} yet", name.topic, name.partition),
            );
        }
        let (partition_id, is_domain) =
            rows.first().get_two::<i32, bool>().unwrap_or_else(internal);
        let fenced = Fenced {
            partition_id: partition_id.unwrap_or_default(),
        };
        fault_point!("replay.locked");
        let letters = letters(client, name, ids, payload);
        fault_point!("replay.letters");
        if let (Some(payload), Some(letter)) = (payload, letters.first()) {
            check_correction(payload, letter.time_ms, name.topic, is_domain == Some(true));
        }
        let faults = if is_domain == Some(true) {
            replay_events(client, name, &fenced, ids, &letters)
        } else {
            replay_balances(client, &fenced, &letters)
        };
        fault_point!("replay.decided");
        settle(client, &letters, &faults);
        fault_point!("replay.settled");
        let alive = letters
            .iter()
            .filter(|letter| !faults.contains_key(&letter.id));
        let alive: Vec<i64> = alive.map(|letter| letter.offset).collect();
        run(client, TELL, &[fenced.partition_id.into(), alive.into()]);
        fault_point!("replay.told");
        results(client, name, ids)
    })
}

/// A correction that corrects nothing is a mistake of whoever sends it.
fn check_correction(payload: &[u8], time_ms: i64, topic: &str, is_domain: bool) {
    let defect = if is_domain {
        events::decode(Some(payload), time_ms, topic).err()
    } else {
        decode_balance_event(Some(payload), &mut Vec::new()).err()
    };
    if let Some(defect) = defect {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("the corrected payload is not usable: {defect}"),
        );
    }
}

fn letters(
    client: &mut SpiClient<'_>,
    name: PartitionName<'_>,
    ids: &[i64],
    payload: Option<&[u8]>,
) -> Vec<Letter> {
    let args = [
        name.topic.into(),
        name.partition.into(),
        ids.to_vec().into(),
    ];
    let rows = client.update(LETTERS, None, &args).unwrap_or_else(internal);
    rows.map(|row| {
        let code: Option<String> = row.get(3).unwrap_or_else(internal);
        let original: Option<Vec<u8>> = row.get(6).unwrap_or_else(internal);
        Letter {
            id: row.get(1).unwrap_or_else(internal).unwrap_or_default(),
            offset: row.get(2).unwrap_or_else(internal).unwrap_or_default(),
            owned_identity: [DeadReason::HandlerFailed, DeadReason::ParkedBehind]
                .iter()
                .any(|reason| code.as_deref() == Some(reason.as_str())),
            time_ms: row.get(4).unwrap_or_else(internal).unwrap_or_default(),
            key: row.get(5).unwrap_or_else(internal),
            payload: payload.map(<[u8]>::to_vec).or_else(|| original.clone()),
            original,
        }
    })
    .collect()
}

fn forget_verdicts(client: &mut SpiClient<'_>, fenced: &Fenced, offsets: Vec<i64>) {
    run(
        client,
        FORGET_VERDICTS,
        &[fenced.partition_id.into(), offsets.into()],
    );
}

fn replay_balances(
    client: &mut SpiClient<'_>,
    fenced: &Fenced,
    letters: &[Letter],
) -> HashMap<i64, Fault> {
    let mut faults = HashMap::new();
    let mut decodable = Vec::new();
    let mut dead = Vec::new();
    for letter in letters {
        let mut changes: Vec<Change> = Vec::new();
        match decode_balance_event(letter.payload.as_deref(), &mut changes) {
            Err(defect) => {
                let (code, message) = (defect.reason.as_str(), defect.detail);
                faults.insert(letter.id, Fault { code, message });
                let event = EventName {
                    event_id: defect.event_id,
                    source: defect.source,
                };
                dead.push((letter.offset, event, code));
            }
            Ok(head) => decodable.push(Decodable {
                offset: letter.offset,
                identity: head.identity(),
                payload_hash: PayloadHash::of(letter.payload.as_deref().unwrap_or_default()),
                event_id: head.event_id.into_owned(),
                source: head.source.map(Cow::into_owned),
                changes,
            }),
        }
    }
    // Those that stay dead may have another reason now.
    forget_verdicts(
        client,
        fenced,
        letters.iter().map(|letter| letter.offset).collect(),
    );
    fault_point!("replay.balances_forgotten");
    let mut verdicts = apply::decide_anew(client, fenced, &decodable);
    for (offset, event, code) in dead {
        verdicts.push(offset, event, Verdict::Dead.as_str(), Some(code.to_owned()));
    }
    verdicts.write(fenced);
    faults
}

fn replay_events(
    client: &mut SpiClient<'_>,
    name: PartitionName<'_>,
    fenced: &Fenced,
    ids: &[i64],
    letters: &[Letter],
) -> HashMap<i64, Fault> {
    let handler = Handler::of(client, name.topic);
    let records = Records {
        offsets: letters.iter().map(|letter| letter.offset).collect(),
        times_ms: letters.iter().map(|letter| letter.time_ms).collect(),
        keys: letters.iter().map(|letter| letter.key.clone()).collect(),
        payloads: letters
            .iter()
            .map(|letter| letter.payload.clone())
            .collect(),
        headers: vec![None; letters.len()],
    };
    let decoded: Vec<_> = letters
        .iter()
        .map(|letter| events::decode(letter.payload.as_deref(), letter.time_ms, name.topic))
        .collect();
    let mut is_owner = vec![false; letters.len()];
    let mut claimed: Vec<Option<(Identity, PayloadHash)>> = Vec::new();
    for ((letter, decoded), is_owner) in letters.iter().zip(&decoded).zip(&mut is_owner) {
        let now = decoded
            .as_ref()
            .ok()
            .map(|event| (event.identity, event.payload_hash));
        let before = events::decode(letter.original.as_deref(), letter.time_ms, name.topic);
        let before = before.ok().filter(|_| letter.owned_identity);
        *is_owner = match (&before, now) {
            (Some(before), Some((identity, payload_hash))) if before.identity == identity => {
                if before.payload_hash != payload_hash {
                    let args = [
                        uuid(identity.as_bytes()).into(),
                        uuid(payload_hash.as_bytes()).into(),
                    ];
                    run(client, RESTATE, &args);
                }
                true
            }
            // The record is another event now, and its former identity is free.
            (Some(before), Some(_)) => {
                run(client, DISOWN, &[uuid(before.identity.as_bytes()).into()]);
                false
            }
            _ => false,
        };
        claimed.push(now.filter(|_| !*is_owner));
    }
    let ownership = Ownership::claim(&claimed);
    let claim_of = |record: usize| {
        if is_owner[record] {
            Claim::New
        } else {
            ownership.of(record)
        }
    };
    let news: Vec<usize> = (0..letters.len())
        .filter(|record| decoded[*record].is_ok() && claim_of(*record) == Claim::New)
        .collect();
    let task = Task::Replay { ids };
    let handled = handler.run(client, name, &task, &records, &decoded, &news);

    fault_point!("replay.handled");
    forget_verdicts(client, fenced, records.offsets.clone());
    fault_point!("replay.events_forgotten");
    let mut verdicts = Verdicts::default();
    let mut faults = HashMap::new();
    for (record, letter) in letters.iter().enumerate() {
        let (verdict, reason) = match (&decoded[record], handled.get(&record)) {
            (Err(defect), _) => {
                let fault = (defect.reason, defect.detail.clone());
                (Verdict::Dead, Err(fault))
            }
            (Ok(_), Some(outcome)) => {
                let fault = match outcome {
                    Outcome::Failed(message) => (DeadReason::HandlerFailed, message.clone()),
                    Outcome::ParkedBehind => (DeadReason::ParkedBehind, events::WAITS.to_owned()),
                };
                (Verdict::Dead, Err(fault))
            }
            (Ok(_), None) => {
                let (verdict, reason) = match claim_of(record) {
                    Claim::New => (Verdict::Applied, None),
                    Claim::Duplicate => (Verdict::Duplicate, None),
                    Claim::Conflict => (
                        Verdict::Rejected,
                        Some(RejectReason::EventIdConflict.as_str()),
                    ),
                };
                (verdict, Ok(reason))
            }
        };
        let reason = match reason {
            Ok(reason) => reason,
            Err((code, message)) => {
                let code = code.as_str();
                faults.insert(letter.id, Fault { code, message });
                Some(code)
            }
        };
        verdicts.push(
            letter.offset,
            events::name_of(&decoded[record]),
            verdict.as_str(),
            reason.map(str::to_owned),
        );
    }
    verdicts.write(fenced);
    faults
}

fn uuid(bytes: &[u8; 16]) -> Uuid {
    Uuid::from_bytes(*bytes)
}

fn settle(client: &mut SpiClient<'_>, letters: &[Letter], faults: &HashMap<i64, Fault>) {
    let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
    let faults = || letters.iter().map(|letter| faults.get(&letter.id));
    let codes: Vec<Option<String>> = faults().map(|fault| Some(fault?.code.to_owned())).collect();
    let messages: Vec<Option<String>> =
        faults().map(|fault| Some(fault?.message.clone())).collect();
    run(client, SETTLE, &[ids.into(), codes.into(), messages.into()]);
}

fn results(client: &mut SpiClient<'_>, name: PartitionName<'_>, ids: &[i64]) -> Vec<Replayed> {
    let args = [
        name.topic.into(),
        name.partition.into(),
        ids.to_vec().into(),
    ];
    let rows = client.update(RESULTS, None, &args).unwrap_or_else(internal);
    rows.map(|row| Replayed {
        id: row.get(1).unwrap_or_else(internal).unwrap_or_default(),
        offset: row.get(2).unwrap_or_else(internal).unwrap_or_default(),
        verdict: row.get(3).unwrap_or_else(internal).unwrap_or_default(),
        reason: row.get(4).unwrap_or_else(internal),
        message: row.get(5).unwrap_or_else(internal),
    })
    .collect()
}
