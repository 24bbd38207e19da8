//! The ingesters: leadership, batches, retries, and the state of their sessions in PostgreSQL.

use crate::defects::Defect;
use crate::invariants::Violation;
use crate::letters::{self, Outcome, Try};
use crate::state::{
    Answer, Call, Credential, Instance, Lead, Operator, Phase, State, Status, Verdict, Work,
};
use crate::steps::{Fault, Next, Step};

/// The largest batch, so that records are divided into batches in more than one way.
const MOST_OF_A_BATCH: u8 = 2;

pub fn next(next: &mut Next<'_>, state: &State, number: u8) {
    if !state.instances[number as usize].frozen {
        lead(next, state, number);
        send(next, state, number);
        hear(next, state, number);
    }
    faults(next, state, number);
    for ghost in [false, true] {
        serve(next, state, number, ghost);
    }
    if state.instances[number as usize].ghost.is_some() {
        let mut state = *state;
        state.instances[number as usize].ghost = None;
        next.add(Step::GhostEnds(number), state);
    }
}

fn lead(next: &mut Next<'_>, state: &State, number: u8) {
    let at = number as usize;
    let world = next.world;
    match state.instances[at].lead {
        None => {
            let is_free = match state.leader {
                None => true,
                Some(leader) => leader == number || state.lease_is_over,
            };
            if !is_free {
                return;
            }
            if state.progress_is_free() || world.has(Defect::AcquireDoesNotWait) {
                next.add(Step::Acquire(number), acquired(state, number));
            } else if !world.has(Defect::NobodyIsEnded) {
                next.add(Step::EndHolder(number), holder_ended(state));
            }
        }
        Some(lead) => {
            let is_mine = lead.credential == Credential::Current;
            if is_mine && state.lease_is_over {
                let mut state = *state;
                state.lease_is_over = false;
                next.add(Step::Renew(number), state);
            }
            // When it learns that leadership is lost, it drops its batch in flight.
            if let (false, Some(mut dropped)) = (is_mine, given_up(state, number)) {
                dropped.instances[at].lead = None;
                dropped.instances[at].call = None;
                next.add(Step::Renew(number), dropped);
            }
            // This locks the progress row. The leader has no batch of its own in flight, as far as it knows.
            let call = state.instances[at].call;
            let is_idle = call.is_none_or(|call| call.phase == Phase::Lost);
            if is_mine && is_idle && state.progress_is_free() {
                next.add(Step::Release(number), released(state, number));
            }
        }
    }
}

fn acquired(state: &State, number: u8) -> State {
    let mut state = *state;
    for instance in &mut state.instances {
        for credential in instance.credentials() {
            *credential = Credential::Stale;
        }
    }
    state.leader = Some(number);
    state.lease_is_over = false;
    state.instances[number as usize].lead = Some(Lead {
        credential: Credential::Current,
        offset: state.commit_offset,
    });
    state
}

/// The session that has locked the progress row is terminated, and its transaction is rolled back.
fn holder_ended(state: &State) -> State {
    let mut state = *state;
    for instance in &mut state.instances {
        if let Some(call) = instance.call.as_mut().filter(|call| call.holds_progress()) {
            call.phase = Phase::Lost;
        }
        if instance.ghost.is_some_and(|ghost| ghost.holds_progress()) {
            instance.ghost = None;
        }
    }
    for operator in &mut state.operators {
        if matches!(operator, Operator::Open { .. }) {
            *operator = Operator::Idle;
        }
    }
    state
}

fn released(state: &State, number: u8) -> State {
    let mut state = *state;
    state.leader = None;
    state.lease_is_over = false;
    state.instances[number as usize].lead = None;
    state.instances[number as usize].call = None;
    for instance in &mut state.instances {
        for credential in instance.credentials() {
            if *credential == Credential::Current {
                *credential = Credential::Released;
            }
        }
    }
    state
}

fn send(next: &mut Next<'_>, state: &State, number: u8) {
    let at = number as usize;
    let (Some(lead), None) = (state.instances[at].lead, state.instances[at].call) else {
        return;
    };
    let is_late = state.leader != Some(number) || state.lease_is_over;
    if is_late && next.world.has(Defect::LeaseByClock) {
        return;
    }
    let call = |work: Work| {
        let mut state = *state;
        state.instances[at].call = Some(Call {
            work,
            credential: lead.credential,
            phase: Phase::Sent,
        });
        state
    };
    let from = lead.offset;
    for to in from + 1..=state.count.min(from + MOST_OF_A_BATCH) {
        next.add(Step::Send(number, to), call(Work::Batch { from, next: to }));
    }
    if state.due().next().is_some() {
        next.add(Step::SendRetry(number), call(Work::Retry { letter: None }));
    }
}

fn hear(next: &mut Next<'_>, state: &State, number: u8) {
    let at = number as usize;
    let Some(call) = state.instances[at].call else {
        return;
    };
    let with = |call: Option<Call>, lead: Option<Lead>| {
        let mut state = *state;
        (state.instances[at].call, state.instances[at].lead) = (call, lead);
        state
    };
    let lead = state.instances[at].lead;
    let moved = || match (call.work, lead) {
        (Work::Batch { next, .. }, Some(lead)) => Some(Lead {
            offset: next,
            ..lead
        }),
        (_, lead) => lead,
    };
    match (call.phase, call.work) {
        (Phase::Open, _) => {
            let phase = Phase::Committing;
            next.add(
                Step::Commit(number),
                with(Some(Call { phase, ..call }), lead),
            );
        }
        (Phase::Answered(Answer::Committed), _) => {
            next.add(Step::Hear(number), with(None, moved()));
        }
        (Phase::Answered(Answer::Stale), _) => next.add(Step::Hear(number), with(None, None)),
        // Letters are simply listed again.
        (Phase::Lost, Work::Retry { .. }) => next.add(Step::Hear(number), with(None, lead)),
        (Phase::Lost, Work::Batch { .. }) if next.world.has(Defect::AnswerGuessed) => {
            next.add(Step::Guess(number), with(None, moved()));
        }
        (Phase::Lost, Work::Batch { .. }) => {
            let phase = Phase::Sent;
            next.add(
                Step::AskAgain(number),
                with(Some(Call { phase, ..call }), lead),
            );
        }
        _ => {}
    }
}

fn faults(next: &mut Next<'_>, state: &State, number: u8) {
    let (at, world) = (number as usize, next.world);
    let instance = state.instances[at];
    if world.may(Fault::Freeze) {
        let step = match instance.frozen {
            true => Step::Thaw(number),
            false => Step::Freeze(number),
        };
        let mut turned = *state;
        turned.instances[at].frozen = !instance.frozen;
        next.add(step, turned);
    }
    let Some(given_up) = given_up(state, number) else {
        return;
    };
    if world.may(Fault::Cut) && instance.call.is_some_and(|call| call.phase != Phase::Lost) {
        let mut cut = given_up;
        if let Some(call) = &mut cut.instances[at].call {
            call.phase = Phase::Lost;
        }
        next.add(Step::Cut(number), cut);
    }
    if world.may(Fault::Crash) && (instance.lead.is_some() || instance.call.is_some()) {
        let mut crashed = given_up;
        crashed.lease_is_over |= state.leader == Some(number);
        crashed.instances[at] = Instance {
            ghost: given_up.instances[at].ghost,
            ..Instance::default()
        };
        next.add(Step::Crash(number), crashed);
    }
}

/// The connection of its call is lost. PostgreSQL may keep the session for a while, with what was sent to it;
/// an instance has one such session at a time.
fn given_up(state: &State, number: u8) -> Option<State> {
    let mut state = *state;
    let instance = &mut state.instances[number as usize];
    let in_server = instance.call.filter(|call| {
        matches!(
            call.phase,
            Phase::Sent | Phase::Looked | Phase::Open | Phase::Committing
        )
    });
    if in_server.is_some() && instance.ghost.is_some() {
        return None;
    }
    instance.ghost = in_server.or(instance.ghost);
    Some(state)
}

/// What PostgreSQL does with a session of this instance.
fn serve(next: &mut Next<'_>, state: &State, number: u8, ghost: bool) {
    let instance = &state.instances[number as usize];
    let Some(call) = (if ghost { instance.ghost } else { instance.call }) else {
        return;
    };
    let session = Session {
        number,
        ghost,
        call,
    };
    match call.phase {
        Phase::Sent => session.fence(next, state),
        Phase::Looked if state.progress_is_free() => {
            next.add(Step::Lock(number, ghost), session.at(state, Phase::Open));
        }
        // Statements and COMMIT may have been sent together, before it froze or lost its connection.
        Phase::Open if ghost || instance.frozen => {
            let committing = session.at(state, Phase::Committing);
            next.add(Step::CommitArrives(number, ghost), committing);
        }
        Phase::Committing => match call.work {
            Work::Batch { from, next: to } => session.commit_batch(next, state, from, to),
            Work::Retry { letter } => {
                let letter = letter.expect("read under the fence");
                session.commit_retry(next, state, letter);
            }
        },
        _ => {}
    }
}

struct Session {
    number: u8,
    ghost: bool,
    call: Call,
}

impl Session {
    /// Nobody receives the answers of a session that was given up.
    fn at(&self, state: &State, phase: Phase) -> State {
        let mut state = *state;
        let instance = &mut state.instances[self.number as usize];
        let call = Call { phase, ..self.call };
        if !self.ghost {
            instance.call = Some(call);
        } else if matches!(phase, Phase::Answered(_)) {
            instance.ghost = None;
        } else {
            instance.ghost = Some(call);
        }
        state
    }

    fn fence(&self, next: &mut Next<'_>, state: &State) {
        let world = next.world;
        let waits = !state.progress_is_free() && !world.has(Defect::ReadThenWrite);
        // Without a handler a batch is refused every time.
        if waits || !state.handler {
            return;
        }
        let is_mine = match self.call.credential {
            Credential::Current => true,
            Credential::Released if world.has(Defect::ReleaseKeepsLease) => true,
            _ => world.has(Defect::NoTokenCheck) || world.has(Defect::LeaseByClock),
        };
        let step = Step::Fence(self.number, self.ghost);
        let open = match world.has(Defect::ReadThenWrite) {
            true => Phase::Looked,
            false => Phase::Open,
        };
        match self.call.work {
            Work::Batch { from, next: to } => {
                let is_next = state.commit_offset == from || world.has(Defect::NoOffsetCheck);
                let phase = match is_mine {
                    true if is_next => open,
                    // The earlier COMMIT had succeeded, and only its answer was lost.
                    true if state.commit_offset == to => Phase::Answered(Answer::Committed),
                    _ => Phase::Answered(Answer::Stale),
                };
                next.add(step, self.at(state, phase));
            }
            Work::Retry { .. } => {
                if !is_mine && !world.has(Defect::RetryWithoutFence) {
                    next.add(step, self.at(state, Phase::Answered(Answer::Stale)));
                    return;
                }
                // A letter that another session has locked is skipped: waiting for it here could deadlock.
                let free = |letter: &u8| state.letter_is_free(*letter);
                let due: Vec<u8> = state.due().filter(free).collect();
                if due.is_empty() {
                    next.add(step, self.at(state, Phase::Answered(Answer::Committed)));
                }
                for letter in due {
                    let letter = Some(letter);
                    let call = Call {
                        work: Work::Retry { letter },
                        ..self.call
                    };
                    next.add(step, Session { call, ..*self }.at(state, open));
                }
            }
        }
    }

    fn is_former(&self) -> bool {
        self.call.credential != Credential::Current
    }

    fn commit_batch(&self, next: &mut Next<'_>, state: &State, from: u8, to: u8) {
        let count = to - from;
        let most = match next.world.may(Fault::Handler) {
            true => 1 << count,
            false => 1,
        };
        let answered = self.at(state, Phase::Answered(Answer::Committed));
        for broken in 0..most {
            let step = Step::Committed(self.number, self.ghost, broken);
            next.try_add(step, &answered, |state| {
                if self.is_former() {
                    return Err(Violation::FormerLeaderWrote);
                }
                for offset in from..to {
                    let outcome = match broken >> (offset - from) & 1 {
                        0 => Outcome::Works,
                        _ => Outcome::Fails,
                    };
                    letters::judge(state, offset, outcome)?;
                }
                state.commit_offset = to;
                Ok(())
            });
        }
    }

    fn commit_retry(&self, next: &mut Next<'_>, state: &State, letter: u8) {
        let world = next.world;
        let answered = self.at(state, Phase::Answered(Answer::Committed));
        for outcome in next.outcomes() {
            let step = Step::Retried(self.number, self.ghost, outcome);
            next.try_add(step, &answered, |state| {
                if self.is_former() {
                    return Err(Violation::FormerLeaderWrote);
                }
                let how = Try {
                    correction: None,
                    by_leader: true,
                    as_balance: false,
                    balance: state.balance,
                };
                if letters::try_again(world, state, letter, &how, outcome)? != Verdict::Dead {
                    state.letter(letter).told = Status::Replayed;
                }
                Ok(())
            });
        }
    }
}
