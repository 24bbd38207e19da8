//! Operators in psql: list, lock, check again, act, commit.

use crate::defects::Defect;
use crate::letters::{self, Outcome, Try};
use crate::state::{Deed, Operator, State};
use crate::steps::{Next, Step};

pub fn next(next: &mut Next<'_>, state: &State, number: u8) {
    let set = |operator: Operator| {
        let mut state = *state;
        state.operators[number as usize] = operator;
        state
    };
    match state.operators[number as usize] {
        Operator::Idle => list(next, state, number),
        Operator::Listed {
            deed,
            letter,
            balance,
        } => {
            next.add(Step::GiveUp(number), set(Operator::Idle));
            if state.letter_is_free(letter) {
                let locked = Operator::Locked {
                    deed,
                    letter,
                    balance,
                };
                next.add(Step::LockLetter(number), set(locked));
            }
        }
        Operator::Locked {
            deed,
            letter,
            balance,
        } => {
            next.add(Step::GiveUp(number), set(Operator::Idle));
            if !deed.tries() {
                finish(next, &set(Operator::Idle), number, (deed, letter), None);
                return;
            }
            // Without its handler a letter is not tried: the replay is refused, and nothing changes.
            let as_balance = !state.handler;
            let is_refused = as_balance && !next.world.has(Defect::NoHandlerIsABalance);
            if state.progress_is_free() && !is_refused {
                let open = Operator::Open {
                    deed,
                    letter,
                    balance,
                    as_balance,
                };
                next.add(Step::Open(number), set(open));
            }
        }
        Operator::Open {
            deed,
            letter,
            balance,
            as_balance,
        } => {
            next.add(Step::GiveUp(number), set(Operator::Idle));
            let read_late = !next.world.has(Defect::BalanceReadBeforeLock);
            let how = Try {
                correction: match deed {
                    Deed::Correct(payload) => Some(payload),
                    _ => None,
                },
                by_leader: false,
                as_balance,
                balance: if read_late { state.balance } else { balance },
            };
            let what = (deed, letter);
            finish(next, &set(Operator::Idle), number, what, Some(&how));
        }
    }
}

/// Reads the letter again, acts and commits; `how` is the outcome of a replay.
fn finish(
    next: &mut Next<'_>,
    idle: &State,
    number: u8,
    (deed, letter): (Deed, u8),
    how: Option<&Try>,
) {
    let world = next.world;
    for outcome in next.outcomes() {
        // A corrected payload is decoded before it is accepted; an untried letter has one outcome.
        let is_moot = match deed {
            Deed::Replay => false,
            Deed::Correct(_) => outcome == Outcome::Refused,
            Deed::Discard | Deed::Restore => outcome != Outcome::Works,
        };
        if !is_moot {
            next.try_add(Step::Finish(number, outcome), idle, |state| {
                letters::handle(world, state, letter, deed, how, outcome)
            });
        }
    }
}

fn list(next: &mut Next<'_>, state: &State, number: u8) {
    for letter in 0..state.count {
        let Some(row) = &state.letters[letter as usize] else {
            continue;
        };
        for deed in &next.world.deeds {
            if row.status == deed.expects() {
                let mut state = *state;
                let reads_early = deed.tries() && next.world.has(Defect::BalanceReadBeforeLock);
                state.operators[number as usize] = Operator::Listed {
                    deed: *deed,
                    letter,
                    balance: if reads_early { state.balance } else { 0 },
                };
                next.add(Step::List(number, *deed, letter), state);
            }
        }
    }
}
