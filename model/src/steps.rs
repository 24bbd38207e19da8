//! The possible steps, and what a world consists of.

use std::fmt;

use crate::defects::Defect;
use crate::invariants::Violation;
use crate::letters::Outcome;
use crate::state::{Deed, Payload, State};
use crate::{instances, operators};

/// What a search covers: who takes part, what may happen to them, and which safeguards are missing.
#[derive(Clone, Default)]
pub struct World {
    /// One search begins with each of these topics.
    pub topics: Vec<Vec<Payload>>,
    pub instances: u8,
    pub operators: u8,
    pub deeds: Vec<Deed>,
    pub faults: Vec<Fault>,
    pub defects: Vec<Defect>,
}

/// The faults that occur around the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A process freezes, and may continue later as if nothing had happened.
    Freeze,
    /// A process ends; its sessions end with it.
    Crash,
    /// A connection breaks, and its client does not know how far PostgreSQL got.
    Cut,
    /// The leader does not renew in time.
    Expiry,
    /// Handlers fail.
    Handler,
    /// A handler is unregistered, and registered again.
    Unregister,
    /// A newer version decodes more strictly, or less strictly again.
    Reader,
}

impl World {
    pub fn has(&self, defect: Defect) -> bool {
        self.defects.contains(&defect)
    }

    pub fn may(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// One step; instances and operators are numbered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Acquire(u8),
    /// The acquirer ends the transaction that has locked the progress row.
    EndHolder(u8),
    Renew(u8),
    Release(u8),
    Send(u8, u8),
    SendRetry(u8),
    AskAgain(u8),
    Guess(u8),
    Commit(u8),
    Hear(u8),
    Freeze(u8),
    Thaw(u8),
    Crash(u8),
    Cut(u8),
    /// PostgreSQL runs the fence, of a session that was given up (`true`) or not.
    Fence(u8, bool),
    Lock(u8, bool),
    /// PostgreSQL commits; the bits say on which records the handler fails.
    Committed(u8, bool, u8),
    Retried(u8, bool, Outcome),
    CommitArrives(u8, bool),
    GhostEnds(u8),
    LeaseEnds,
    Register,
    Unregister,
    List(u8, Deed, u8),
    LockLetter(u8),
    Open(u8),
    Finish(u8, Outcome),
    GiveUp(u8),
}

impl Step {
    /// What happens by itself, given time, without further faults and without an operator who begins anything.
    /// A frozen process does not count.
    pub fn is_progress(self) -> bool {
        !matches!(
            self,
            Self::Freeze(_)
                | Self::Thaw(_)
                | Self::Crash(_)
                | Self::Cut(_)
                | Self::CommitArrives(..)
                | Self::Unregister
                | Self::List(..)
        )
    }
}

/// The possible next states.
pub struct Next<'a> {
    pub world: &'a World,
    found: &'a mut Vec<(Step, Result<State, Violation>)>,
}

impl Next<'_> {
    pub fn add(&mut self, step: Step, state: State) {
        self.found.push((step, Ok(state)));
    }

    /// The state after `change`.
    pub fn try_add(
        &mut self,
        step: Step,
        state: &State,
        change: impl FnOnce(&mut State) -> Result<(), Violation>,
    ) {
        let mut state = *state;
        self.found.push((step, change(&mut state).map(|()| state)));
    }

    /// Every outcome that a try may have, given the handlers and readers that may fail.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> + use<> {
        let breaks = self.world.may(Fault::Handler).then_some(Outcome::Fails);
        let refuses = self.world.may(Fault::Reader).then_some(Outcome::Refused);
        [Outcome::Works].into_iter().chain(breaks).chain(refuses)
    }
}

/// Every step that is possible in `state`.
pub fn next(world: &World, state: &State, found: &mut Vec<(Step, Result<State, Violation>)>) {
    let mut next = Next { world, found };
    for number in 0..world.instances {
        instances::next(&mut next, state, number);
    }
    for number in 0..world.operators {
        operators::next(&mut next, state, number);
    }
    if world.may(Fault::Expiry) && state.leader.is_some() && !state.lease_is_over {
        let lease_is_over = true;
        next.add(
            Step::LeaseEnds,
            State {
                lease_is_over,
                ..*state
            },
        );
    }
    if world.may(Fault::Unregister) {
        let step = match state.handler {
            true => Step::Unregister,
            false => Step::Register,
        };
        let handler = !state.handler;
        next.add(step, State { handler, ..*state });
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number: &u8| ['A', 'B'][*number as usize];
        let of = |ghost: &bool| {
            if *ghost {
                "the given-up session of "
            } else {
                ""
            }
        };
        match self {
            Self::Acquire(i) => write!(f, "{} acquires", name(i)),
            Self::EndHolder(i) => write!(
                f,
                "{} ends the transaction that holds the progress row",
                name(i)
            ),
            Self::Renew(i) => write!(f, "{} renews", name(i)),
            Self::Release(i) => write!(f, "{} releases", name(i)),
            Self::Send(i, next) => write!(f, "{} sends its batch up to offset {next}", name(i)),
            Self::SendRetry(i) => write!(f, "{} sends a retry of dead letters", name(i)),
            Self::AskAgain(i) => write!(f, "{} sends the same batch again", name(i)),
            Self::Guess(i) => write!(f, "{} takes its COMMIT for done", name(i)),
            Self::Commit(i) => write!(f, "{} sends COMMIT", name(i)),
            Self::Hear(i) => write!(f, "{} hears the answer", name(i)),
            Self::Freeze(i) => write!(f, "{} freezes", name(i)),
            Self::Thaw(i) => write!(f, "{} goes on", name(i)),
            Self::Crash(i) => write!(f, "{} crashes", name(i)),
            Self::Cut(i) => write!(f, "the connection of {} breaks", name(i)),
            Self::Fence(i, ghost) => {
                write!(f, "PostgreSQL asks the fence for {}{}", of(ghost), name(i))
            }
            Self::Lock(i, ghost) => write!(
                f,
                "PostgreSQL locks the progress row for {}{}",
                of(ghost),
                name(i)
            ),
            Self::Committed(i, ghost, 0) => {
                write!(f, "PostgreSQL commits for {}{}", of(ghost), name(i))
            }
            Self::Committed(i, ghost, broken) => {
                write!(
                    f,
                    "PostgreSQL commits for {}{}; the handler broke (records {broken:b})",
                    of(ghost),
                    name(i)
                )
            }
            Self::Retried(i, ghost, outcome) => {
                write!(
                    f,
                    "PostgreSQL commits a retry for {}{}: the handler {outcome:?}",
                    of(ghost),
                    name(i)
                )
            }
            Self::CommitArrives(i, ghost) => write!(
                f,
                "COMMIT arrives, sent earlier by {}{}",
                of(ghost),
                name(i)
            ),
            Self::GhostEnds(i) => write!(f, "the given-up session of {} ends", name(i)),
            Self::LeaseEnds => write!(f, "the lease runs out"),
            Self::Register => write!(f, "the handler is registered"),
            Self::Unregister => write!(f, "the handler is unregistered"),
            Self::List(s, deed, letter) => write!(
                f,
                "operator {s} asks for {deed:?} of letter {letter}: it is listed"
            ),
            Self::LockLetter(s) => write!(f, "operator {s} has the lock of the letter"),
            Self::Open(s) => write!(f, "operator {s} has the lock of the progress row"),
            Self::Finish(s, outcome) => write!(f, "operator {s} commits (tried, it {outcome:?})"),
            Self::GiveUp(s) => write!(f, "operator {s} gives up"),
        }
    }
}
