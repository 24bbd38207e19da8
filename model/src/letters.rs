//! The verdict of a record: first in its batch, then from its dead letter.

use crate::defects::Defect;
use crate::invariants::Violation;
use crate::state::{Claim, Code, Deed, Letter, MOST_ATTEMPTS, Payload, State, Status, Verdict};
use crate::steps::World;

/// What the handler, or a newer version's reader, does with an event: not known before it is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Works,
    Fails,
    /// The reader no longer accepts it.
    Refused,
}

/// The verdict of a record that is read for the first time.
pub fn judge(state: &mut State, offset: u8, outcome: Outcome) -> Result<(), Violation> {
    let payload = state.records[offset as usize];
    let verdict = match payload.identity() {
        None => Verdict::Dead,
        Some(_) => match claim(state, offset, payload)? {
            Some(refused) => refused,
            None if outcome == Outcome::Works => Verdict::Applied,
            None => Verdict::Dead,
        },
    };
    if state.verdicts[offset as usize].is_some() {
        return Err(Violation::SecondVerdict);
    }
    state.verdicts[offset as usize] = Some(verdict);
    match verdict {
        Verdict::Applied => apply(state, offset, payload, state.balance)?,
        Verdict::Duplicate | Verdict::Conflict => {}
        Verdict::Dead => {
            let is_event = payload.identity().is_some();
            state.letters[offset as usize] = Some(Letter {
                status: Status::Parked,
                code: if is_event {
                    Code::HandlerFailed
                } else {
                    Code::Invalid
                },
                attempts: 1,
                owns_identity: is_event,
                retry_payload: None,
                told: Status::Parked,
                declared: None,
            });
        }
    }
    Ok(())
}

/// The first record to carry an identity owns it; returns the verdict of all others.
fn claim(state: &mut State, offset: u8, payload: Payload) -> Result<Option<Verdict>, Violation> {
    let identity = payload.identity().expect("only events claim");
    match *state.claim(identity) {
        None => {
            *state.claim(identity) = Some(Claim {
                payload,
                owner: offset,
            });
            Ok(None)
        }
        Some(known) if known.owner == offset => Err(Violation::RepeatOfItself),
        Some(known) if known.payload == payload => Ok(Some(Verdict::Duplicate)),
        Some(_) => Ok(Some(Verdict::Conflict)),
    }
}

fn apply(state: &mut State, offset: u8, payload: Payload, balance: i8) -> Result<(), Violation> {
    if state.applied[offset as usize].is_some() {
        return Err(Violation::AppliedTwice);
    }
    state.applied[offset as usize] = Some(payload);
    state.balance = balance + payload.delta();
    Ok(())
}

/// A try of a letter, by an operator (`correction` and the `balance` that the session has read) or by the leader.
pub struct Try {
    pub correction: Option<Payload>,
    pub by_leader: bool,
    pub as_balance: bool,
    pub balance: i8,
}

/// Tries a locked letter again. Returns the verdict.
pub fn try_again(
    world: &World,
    state: &mut State,
    offset: u8,
    how: &Try,
    outcome: Outcome,
) -> Result<Verdict, Violation> {
    if how.as_balance {
        return Err(Violation::TriedByAnother);
    }
    let before = state.next_payload(offset);
    let takes_original = how.by_leader && world.has(Defect::RetryTakesOriginal);
    let payload = match how.correction {
        Some(correction) => correction,
        None if takes_original => state.records[offset as usize],
        None => before,
    };
    let letter = state.letter(offset);
    if how.correction.is_some() {
        letter.declared = how.correction;
    }
    let declared = letter.declared;
    if payload == Payload::Garbage || outcome == Outcome::Refused {
        return Ok(stays_dead(letter, Code::Invalid));
    }
    let verdict = match own(world, state, offset, before, payload)? {
        Some(refused) => refused,
        None if outcome == Outcome::Works => {
            if declared.is_some_and(|declared| declared != payload) {
                return Err(Violation::WrongPayloadApplied);
            }
            apply(state, offset, payload, how.balance)?;
            Verdict::Applied
        }
        None => {
            let letter = state.letter(offset);
            if !world.has(Defect::CorrectionForgotten) {
                letter.retry_payload = how.correction.or(letter.retry_payload);
            }
            return Ok(stays_dead(letter, Code::HandlerFailed));
        }
    };
    state.verdicts[offset as usize] = Some(verdict);
    let letter = state.letter(offset);
    letter.status = Status::Replayed;
    letter.owns_identity = verdict == Verdict::Applied;
    Ok(verdict)
}

fn stays_dead(letter: &mut Letter, code: Code) -> Verdict {
    letter.code = code;
    letter.attempts = MOST_ATTEMPTS.min(letter.attempts + 1);
    Verdict::Dead
}

/// Gives the letter the identity of `payload`; returns a verdict if another record owns that identity.
fn own(
    world: &World,
    state: &mut State,
    offset: u8,
    before: Payload,
    payload: Payload,
) -> Result<Option<Verdict>, Violation> {
    let letter = state.letter(offset);
    let is_owner = match world.has(Defect::OwnerByErrorCode) {
        true => letter.code == Code::HandlerFailed,
        false => letter.owns_identity,
    };
    let former = before.identity().filter(|_| is_owner);
    if let Some(former) = former {
        if Some(former) == payload.identity() {
            if let Some(row) = state.claim(former) {
                row.payload = payload;
            }
            return Ok(None);
        }
        if !world.has(Defect::FormerIdentityKept) {
            *state.claim(former) = None;
        }
    }
    let refused = claim(state, offset, payload)?;
    state.letter(offset).owns_identity = refused.is_none();
    Ok(refused)
}

/// Carries out an operator's request, under the letter's lock: reads its status again and records the outcome.
pub fn handle(
    world: &World,
    state: &mut State,
    offset: u8,
    deed: Deed,
    how: Option<&Try>,
    outcome: Outcome,
) -> Result<(), Violation> {
    let fits = state.letter(offset).status == deed.expects();
    let looks = match deed {
        Deed::Replay | Deed::Correct(_) => !world.has(Defect::NoSecondLook),
        Deed::Discard => !world.has(Defect::DiscardUnasked),
        Deed::Restore => !world.has(Defect::RestoreUnasked),
    };
    if !fits && looks {
        // The answer is the actual status; nothing is recorded.
        return match deed.tries() && world.has(Defect::AnswersFromList) {
            true => Err(Violation::RecordedNotDone),
            false => Ok(()),
        };
    }
    let told = match (how, deed) {
        (Some(how), _) => match try_again(world, state, offset, how, outcome)? {
            Verdict::Dead => Status::Parked,
            _ => Status::Replayed,
        },
        (None, Deed::Discard) => Status::Discarded,
        (None, _) => Status::Parked,
    };
    let letter = state.letter(offset);
    if letter.told != deed.expects() {
        return Err(Violation::RecordedNotDone);
    }
    letter.told = told;
    if !deed.tries() {
        letter.status = told;
        if deed == Deed::Discard && world.has(Defect::DiscardFreesIdentity) {
            let own = state.next_payload(offset).identity();
            if let Some(identity) = own.filter(|_| state.letter(offset).owns_identity) {
                *state.claim(identity) = None;
            }
        }
    }
    Ok(())
}
