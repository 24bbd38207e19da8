//! The conditions of every state and every step: the guarantees of docs/contract.md.

use std::fmt;

use crate::state::{Payload, State, Status, Verdict};

/// A guarantee that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    MissingVerdict,
    SecondVerdict,
    AppliedTwice,
    RepeatOfItself,
    BalanceDiffers,
    FormerLeaderWrote,
    BelievedNotCommitted,
    VerdictAndLetterDiffer,
    VerdictAndLogDiffer,
    IdentityAndLetterDiffer,
    IdentityAndVerdictDiffer,
    RecordedNotDone,
    WrongPayloadApplied,
    TriedByAnother,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingVerdict => {
                "a record below the committed offset has no verdict, or one beyond it has"
            }
            Self::SecondVerdict => "a record gets a second verdict",
            Self::AppliedTwice => "an event is applied twice",
            Self::RepeatOfItself => {
                "an event is refused as a repeat of itself: it is lost, for nobody has handled it"
            }
            Self::BalanceDiffers => "the balance is not the sum of the applied changes",
            Self::FormerLeaderWrote => {
                "a former leader changed the partition after another had acquired it, or it was released"
            }
            Self::BelievedNotCommitted => "a leader takes for committed what is not",
            Self::VerdictAndLetterDiffer => "the status of a dead letter and its verdict differ",
            Self::VerdictAndLogDiffer => "the log and the verdicts differ",
            Self::IdentityAndLetterDiffer => {
                "the identities that a dead letter has are not those that its columns say"
            }
            Self::IdentityAndVerdictDiffer => "the identities of a record do not follow from its verdict",
            Self::RecordedNotDone => "an action is answered and recorded that did not happen",
            Self::WrongPayloadApplied => {
                "a payload that an operator had declared wrong is applied"
            }
            Self::TriedByAnother => "a letter is tried by another than the handler of its type",
        })
    }
}

/// The first guarantee that is broken in this state.
pub fn check(state: &State) -> Result<(), Violation> {
    let mut sum = 0;
    for offset in 0..state.count {
        check_record(state, offset)?;
        sum += state.applied[offset as usize].map_or(0, Payload::delta);
    }
    if sum != state.balance {
        return Err(Violation::BalanceDiffers);
    }
    let mut leads = state.instances.iter().filter_map(|instance| instance.lead);
    if leads.any(|lead| lead.offset > state.commit_offset) {
        return Err(Violation::BelievedNotCommitted);
    }
    Ok(())
}

fn check_record(state: &State, offset: u8) -> Result<(), Violation> {
    let at = offset as usize;
    let (verdict, applied, letter) = (
        state.verdicts[at],
        state.applied[at],
        state.letters[at].as_ref(),
    );
    if verdict.is_some() != (offset < state.commit_offset) {
        return Err(Violation::MissingVerdict);
    }
    if applied.is_some() != (verdict == Some(Verdict::Applied)) {
        return Err(Violation::VerdictAndLogDiffer);
    }
    let is_open = letter.is_some_and(|letter| letter.status != Status::Replayed);
    if is_open != (verdict == Some(Verdict::Dead)) {
        return Err(Violation::VerdictAndLetterDiffer);
    }
    if letter.is_some_and(|letter| letter.told != letter.status) {
        return Err(Violation::RecordedNotDone);
    }
    let owned = state.claims.iter().flatten();
    let owned = owned.filter(|claim| claim.owner == offset);
    let owned = owned.map(|claim| claim.payload);
    match letter.filter(|_| is_open) {
        // Its rows, payload hashes included, belong to the payload that will be tried next.
        Some(letter) => {
            let expected = letter.owns_identity.then(|| state.next_payload(offset));
            match owned.eq(expected) {
                true => Ok(()),
                false => Err(Violation::IdentityAndLetterDiffer),
            }
        }
        None => match owned.eq(applied) {
            true => Ok(()),
            false => Err(Violation::IdentityAndVerdictDiffer),
        },
    }
}
