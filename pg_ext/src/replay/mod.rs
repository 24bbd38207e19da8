//! Dead letters that are tried again: with the same progress rows, identities, fold and handlers as the first time, each
//! at the offset of its record.
//!
//! Locks are taken in the order in which every batch takes them, over all partitions at once: letters, progress rows,
//! identities, balances, and those of the handlers last. What decides is read from the letter's columns, under its lock.

mod letters;

use ledger::event::Defect;
use ledger::fold::Claim;
use ledger::identity::{Identity, PayloadHash};
use ledger::verdict::{DeadReason, RejectReason, Verdict};
use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::balances::again::{self, BalanceEvent, Judged};
use crate::domain::events;
use crate::domain::handlers::{Handler, Outcome, Task};
use crate::domain::records::{DomainEvent, Records};
use crate::error::raise;
use crate::identities::Ownership;
use crate::pg::identities::RecordPlace;
use crate::replay::letters::{Letter, Part, Settled};
use crate::spi::run;
use crate::verdicts::{EventName, Verdicts};

const FORGET_VERDICTS: &str = "
    DELETE FROM ledger.verdicts WHERE partition_id = $1 AND kafka_offset = ANY ($2)";

const DISOWN: &str = "DELETE FROM ledger.event_identities WHERE identity = $1";
const RESTATE: &str = "UPDATE ledger.event_identities SET payload_hash = $2 WHERE identity = $1";

// Consumers who got the result `DEAD` must get the new one.
const TELL: &str = "
    INSERT INTO ledger.changed_verdicts (partition_id, kafka_offset)
    SELECT $1, u.kafka_offset FROM unnest($2::bigint[]) AS u (kafka_offset)";

/// The decoded payloads of a part, by the kind of its letters.
enum Decoded<'p> {
    Balances(Vec<Result<BalanceEvent<'p>, Defect>>),
    Events(Vec<Result<DomainEvent, Defect>>),
}

impl<'p> Decoded<'p> {
    fn of(part: &'p Part) -> Self {
        let letters = part.letters.iter();
        if part.is_domain {
            let decode = |letter: &Letter| {
                events::decode(letter.payload.as_deref(), letter.time_ms, &part.topic)
            };
            Self::Events(letters.map(decode).collect())
        } else {
            let decode = |letter: &'p Letter| BalanceEvent::decode(letter.payload.as_deref());
            Self::Balances(letters.map(decode).collect())
        }
    }

    fn defect(&self, letter: usize) -> Option<&Defect> {
        match self {
            Self::Balances(events) => events[letter].as_ref().err(),
            Self::Events(events) => events[letter].as_ref().err(),
        }
    }

    /// The letter's identity, and its payload's hash; `None` if it cannot be decoded.
    fn carried(&self, letter: usize) -> Option<(Identity, PayloadHash)> {
        match self {
            Self::Balances(events) => events[letter].as_ref().ok().map(BalanceEvent::carried),
            Self::Events(events) => {
                let event = events[letter].as_ref().ok()?;
                Some((event.identity, event.payload_hash))
            }
        }
    }

    fn name(&self, letter: usize) -> EventName {
        match self {
            Self::Events(events) => events::name_of(&events[letter]),
            Self::Balances(events) => match &events[letter] {
                Ok(event) => event.name(),
                Err(defect) => EventName {
                    event_id: defect.event_id.clone(),
                    source: defect.source.clone(),
                    time_us: defect.timestamp_us,
                },
            },
        }
    }

    /// The identity that a letter with this payload owns, even if the payload would not be applied today.
    fn identity(&self, letter: usize) -> Option<Identity> {
        let carried = self.carried(letter).map(|(identity, _)| identity);
        carried.or_else(|| {
            let name = self.name(letter);
            Some(Identity::of(name.source.as_deref(), &name.event_id?))
        })
    }
}

/// Replays those of the letters `ids` that are parked, and returns their outcomes in the order of their partitions and
/// offsets; `correction` is for a single letter.
pub fn replay(ids: &[i64], correction: Option<&[u8]>) -> Vec<Settled> {
    if correction.is_some() && ids.len() > 1 {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "a corrected payload is for one dead letter",
        );
    }
    Spi::connect_mut(|client| {
        fault_point!("replay.locked");
        let mut parts = letters::lock(client, ids);
        fault_point!("replay.letters");
        // Only the handler of its type tries a letter.
        let handlers: Vec<Option<Handler>> = parts
            .iter()
            .map(|part| part.is_domain.then(|| Handler::of(client, &part.topic)))
            .collect();
        let former = correction.and_then(|correction| correct(&mut parts, correction));
        let decoded: Vec<Decoded<'_>> = parts.iter().map(Decoded::of).collect();
        if correction.is_some()
            && let Some(defect) = decoded.first().and_then(|decoded| decoded.defect(0))
        {
            // A correction that changes nothing is a mistake.
            raise(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the corrected payload is not usable: {defect}"),
            );
        }
        let mut ownership = claim(client, &parts, &decoded, former);
        let mut claims: Vec<Vec<Option<Claim>>> = Vec::new();
        for part in &parts {
            claims.push(ownership.split(part.letters.len()).into_claims());
        }
        fault_point!("replay.claimed");
        for part in &parts {
            let args = [part.fenced.partition_id().into(), part.offsets().into()];
            run(client, FORGET_VERDICTS, &args);
        }
        fault_point!("replay.forgotten");
        let judged = apply_balances(client, &parts, &decoded, &claims);
        fault_point!("replay.decided");
        let mut settled = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let tried = Tried {
                part,
                decoded: &decoded[index],
                claims: &claims[index],
                judged: &judged[index],
            };
            let faults = tried.faults(client, handlers[index].as_ref());
            settled.extend(tried.settle(client, faults));
        }
        letters::settle(client, &settled, correction);
        fault_point!("replay.settled");
        // Letters of one partition are in two parts if their kinds differ.
        settled.sort_by(|a, b| {
            let place = |letter: &Settled| (letter.partition, letter.offset);
            a.topic.cmp(&b.topic).then(place(a).cmp(&place(b)))
        });
        settled
    })
}

/// Replaces the payload of the only letter by the correction; returns the identity that the letter owns until now.
fn correct(parts: &mut [Part], correction: &[u8]) -> Option<Identity> {
    let part = parts.first_mut()?;
    let former = part.letters.first().and_then(|letter| {
        let identity = Decoded::of(part).identity(0);
        identity.filter(|_| letter.owns_identity)
    });
    part.letters.first_mut()?.payload = Some(correction.to_vec());
    former
}

/// The relation of each letter to the identity that it carries now, over all parts. `former` is the identity that a
/// corrected letter owned before: if it is the same, the record owns it in its corrected form; otherwise the record is
/// another event now, and its former identity becomes free.
fn claim(
    client: &mut SpiClient<'_>,
    parts: &[Part],
    decoded: &[Decoded<'_>],
    former: Option<Identity>,
) -> Ownership {
    let letters = parts.iter().zip(decoded).flat_map(|(part, decoded)| {
        let letters = part.letters.iter().enumerate();
        letters.map(|(index, letter)| (letter.owns_identity, decoded.carried(index)))
    });
    let (mut own, carried): (Vec<bool>, Vec<_>) = letters.unzip();
    let mut left = None;
    if let (Some(former), Some(Some((identity, payload_hash)))) = (former, carried.first()) {
        if former == *identity {
            let args = [
                uuid(identity.as_bytes()).into(),
                uuid(payload_hash.as_bytes()).into(),
            ];
            run(client, RESTATE, &args);
        } else {
            own[0] = false;
            left = Some((former, former < *identity));
        }
    }
    // Identities in their order, as every batch claims them.
    let disown = |client: &mut SpiClient<'_>, is_first: bool| match left {
        Some((former, goes_first)) if goes_first == is_first => {
            run(client, DISOWN, &[uuid(former.as_bytes()).into()]);
        }
        _ => {}
    };
    disown(client, true);
    let wanted: Vec<_> = carried
        .iter()
        .zip(&own)
        .map(|(carried, owned)| carried.filter(|_| !owned))
        .collect();
    let places = parts.iter().flat_map(|part| {
        part.letters.iter().map(|letter| RecordPlace {
            partition_id: part.fenced.partition_id(),
            kafka_offset: letter.offset,
        })
    });
    let places: Vec<RecordPlace> = places.collect();
    let claimed = Ownership::claim(client, &wanted, |record| places[record]);
    disown(client, false);
    let claims = carried.iter().zip(&own).enumerate();
    let claims = claims.map(|(index, (carried, owned))| {
        let claim = |_| match owned {
            true => Claim::New,
            false => claimed.of(index),
        };
        carried.map(claim)
    });
    Ownership::known(claims.collect())
}

/// Applies the balance events of all parts; returns the verdict of each letter of each part, if the fold gave one.
fn apply_balances(
    client: &mut SpiClient<'_>,
    parts: &[Part],
    decoded: &[Decoded<'_>],
    claims: &[Vec<Option<Claim>>],
) -> Vec<Vec<Option<Judged>>> {
    let (mut again, mut known) = (Vec::new(), Vec::new());
    for ((part, decoded), claims) in parts.iter().zip(decoded).zip(claims) {
        if let Decoded::Balances(events) = decoded {
            let decodable = events.iter().zip(claims).filter(|(event, _)| event.is_ok());
            known.extend(decodable.map(|(_, claim)| *claim));
            let offsets = part.letters.iter().map(|letter| letter.offset);
            let events = offsets
                .zip(events)
                .filter_map(|(offset, event)| Some((offset, event.as_ref().ok()?)));
            again.push(again::Part {
                fenced: &part.fenced,
                events: events.collect(),
            });
        }
    }
    let mut judged = match known.is_empty() {
        true => Vec::new(),
        false => again::apply(client, &again, Ownership::known(known)),
    }
    .into_iter();
    let decoded = decoded.iter().map(|decoded| match decoded {
        Decoded::Balances(events) => events
            .iter()
            .map(|event| event.as_ref().ok().and_then(|_| judged.next()))
            .collect(),
        Decoded::Events(events) => vec![None; events.len()],
    });
    decoded.collect()
}

/// A part, its decoded payloads, and the relation of its letters to their identities.
struct Tried<'p> {
    part: &'p Part,
    decoded: &'p Decoded<'p>,
    claims: &'p [Option<Claim>],
    /// The verdicts of the fold.
    judged: &'p [Option<Judged>],
}

impl Tried<'_> {
    /// Calls the handler of domain events; returns why letters stay dead.
    fn faults(
        &self,
        client: &mut SpiClient<'_>,
        handler: Option<&Handler>,
    ) -> Vec<Option<(DeadReason, String)>> {
        let letters = &self.part.letters;
        let mut faults: Vec<Option<(DeadReason, String)>> = (0..letters.len())
            .map(|letter| {
                let defect = self.decoded.defect(letter)?;
                Some((defect.reason, defect.detail.clone()))
            })
            .collect();
        let (Decoded::Events(events), Some(handler)) = (self.decoded, handler) else {
            return faults;
        };
        let records = Records {
            offsets: self.part.offsets(),
            times_ms: letters.iter().map(|letter| letter.time_ms).collect(),
            keys: letters.iter().map(|letter| letter.key.as_deref()).collect(),
            payloads: letters
                .iter()
                .map(|letter| letter.payload.as_deref())
                .collect(),
            headers: vec![None; letters.len()],
        };
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let news: Vec<usize> = (0..letters.len())
            .filter(|letter| self.claims[*letter] == Some(Claim::New))
            .collect();
        let task = Task::Replay { ids: &ids };
        let handled = handler.run(client, self.part.name(), &task, &records, events, &news);
        fault_point!("replay.handled");
        for (letter, outcome) in handled {
            faults[letter] = Some(match outcome {
                Outcome::Failed(message) => (DeadReason::HandlerFailed, message),
                Outcome::ParkedBehind => (DeadReason::ParkedBehind, events::WAITS.to_owned()),
            });
        }
        faults
    }

    /// Writes the verdicts, and records the changed ones for results.
    fn settle(
        &self,
        client: &mut SpiClient<'_>,
        faults: Vec<Option<(DeadReason, String)>>,
    ) -> Vec<Settled> {
        let (mut verdicts, mut alive) = (Verdicts::default(), Vec::new());
        let mut settled = Vec::new();
        for (index, (letter, fault)) in self.part.letters.iter().zip(faults).enumerate() {
            let claim = self.claims[index];
            let (verdict, reason) = match (&fault, claim, self.judged[index]) {
                (Some((reason, _)), _, _) => (Verdict::Dead, Some(reason.as_str())),
                (None, _, Some((verdict, reason))) => (verdict, reason.map(RejectReason::as_str)),
                (None, Some(Claim::Duplicate), None) => (Verdict::Duplicate, None),
                (None, Some(Claim::Conflict), None) => {
                    let reason = RejectReason::EventIdConflict.as_str();
                    (Verdict::Rejected, Some(reason))
                }
                (None, _, None) => (Verdict::Applied, None),
            };
            // The verdict of an applied or rejected balance event is derived from the log.
            let has_log = self.judged[index].is_some() && verdict != Verdict::Duplicate;
            if !has_log {
                let (name, reason) = (self.decoded.name(index), reason.map(str::to_owned));
                verdicts.push(letter.offset, name, verdict, reason);
            }
            if fault.is_none() {
                alive.push(letter.offset);
            }
            settled.push(Settled {
                id: letter.id,
                topic: self.part.topic.clone(),
                partition: self.part.partition,
                offset: letter.offset,
                verdict,
                reason,
                // A letter that cannot be decoded keeps its identity.
                owns_identity: fault.is_some()
                    && claim.map_or(letter.owns_identity, |claim| claim == Claim::New),
                message: fault.map(|(_, message)| message),
            });
        }
        verdicts.write(&self.part.fenced);
        let args = [self.part.fenced.partition_id().into(), alive.into()];
        run(client, TELL, &args);
        fault_point!("replay.told");
        settled
    }
}

fn uuid(bytes: &[u8; 16]) -> Uuid {
    Uuid::from_bytes(*bytes)
}
