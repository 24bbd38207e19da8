//! The state of a world: what the database has committed, and what processes and sessions are doing.

pub const MOST_RECORDS: usize = 3;
/// Tries of a record on which its handler fails, the first one included.
pub const MOST_ATTEMPTS: u8 = 3;

/// The identity of an event: (source, event id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    A,
    B,
}

/// The bytes of a record; two payloads are the same if their bytes are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Payload {
    /// Not decodable.
    Garbage,
    Event {
        identity: Identity,
        delta: i8,
    },
}

impl Payload {
    pub const fn new(identity: Identity, delta: i8) -> Self {
        Self::Event { identity, delta }
    }

    pub fn identity(self) -> Option<Identity> {
        match self {
            Self::Garbage => None,
            Self::Event { identity, .. } => Some(identity),
        }
    }

    pub fn delta(self) -> i8 {
        match self {
            Self::Garbage => 0,
            Self::Event { delta, .. } => delta,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    Applied,
    Duplicate,
    Conflict,
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    Parked,
    Replayed,
    Discarded,
}

/// The reason of a dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Code {
    Invalid,
    HandlerFailed,
}

/// A row of `dead_letters`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Letter {
    pub status: Status,
    pub code: Code,
    pub attempts: u8,
    pub owns_identity: bool,
    /// The payload to try next, if it is not the record's own.
    pub retry_payload: Option<Payload>,
    /// The outcome according to all answers to operators and all retries of the leader.
    pub told: Status,
    /// The last payload that an operator declared to be the right one.
    pub declared: Option<Payload>,
}

/// A row of `event_identities`, and its owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    pub payload: Payload,
    pub owner: u8,
}

/// Fencing token and lease of a call, compared with those of the progress row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Credential {
    Current,
    /// The token is current, the lease was released.
    Released,
    Stale,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Work {
    Batch {
        from: u8,
        next: u8,
    },
    /// The letter that the list under the fence names, once it was read.
    Retry {
        letter: Option<u8>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    Committed,
    Stale,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// On its way to PostgreSQL.
    Sent,
    /// Only with [`ReadThenWrite`](crate::defects::Defect::ReadThenWrite): read, not locked.
    Looked,
    /// After the fence: the transaction is open and has locked the progress row.
    Open,
    /// COMMIT is on its way.
    Committing,
    Answered(Answer),
    /// The connection broke; the leader does not know the outcome.
    Lost,
}

/// A transaction of an instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Call {
    pub work: Work,
    pub credential: Credential,
    pub phase: Phase,
}

impl Call {
    pub fn holds_progress(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Committing)
    }
}

/// What an instance believes to lead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lead {
    pub credential: Credential,
    pub offset: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Instance {
    pub frozen: bool,
    pub lead: Option<Lead>,
    pub call: Option<Call>,
    /// A session that it has given up, and that may still exist in PostgreSQL.
    pub ghost: Option<Call>,
}

impl Instance {
    pub fn credentials(&mut self) -> impl Iterator<Item = &mut Credential> {
        let lead = self.lead.as_mut().map(|lead| &mut lead.credential);
        let call = self.call.as_mut().map(|call| &mut call.credential);
        let ghost = self.ghost.as_mut().map(|call| &mut call.credential);
        lead.into_iter().chain(call).chain(ghost)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Deed {
    Replay,
    Correct(Payload),
    Discard,
    Restore,
}

impl Deed {
    /// The status that a letter must have for this action.
    pub fn expects(self) -> Status {
        match self {
            Self::Restore => Status::Discarded,
            Self::Replay | Self::Correct(_) | Self::Discard => Status::Parked,
        }
    }

    pub fn tries(self) -> bool {
        matches!(self, Self::Replay | Self::Correct(_))
    }
}

/// A session of an operator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Operator {
    #[default]
    Idle,
    /// The list was read, without a lock.
    Listed {
        deed: Deed,
        letter: u8,
        /// Only with [`BalanceReadBeforeLock`](crate::defects::Defect::BalanceReadBeforeLock).
        balance: i8,
    },
    /// Has locked the letter's row.
    Locked { deed: Deed, letter: u8, balance: i8 },
    /// A replay that has locked the progress row as well.
    Open {
        deed: Deed,
        letter: u8,
        balance: i8,
        /// Only with [`NoHandlerIsABalance`](crate::defects::Defect::NoHandlerIsABalance).
        as_balance: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The records in Kafka; they do not change.
    pub records: [Payload; MOST_RECORDS],
    pub count: u8,
    pub commit_offset: u8,
    pub leader: Option<u8>,
    /// The lease has expired by the database's clock, or the leader's session no longer exists.
    pub lease_is_over: bool,
    pub verdicts: [Option<Verdict>; MOST_RECORDS],
    /// The log: the payload that was applied at this offset.
    pub applied: [Option<Payload>; MOST_RECORDS],
    pub balance: i8,
    pub claims: [Option<Claim>; 2],
    pub letters: [Option<Letter>; MOST_RECORDS],
    pub handler: bool,
    pub instances: [Instance; 2],
    pub operators: [Operator; 2],
}

impl State {
    pub fn new(given: &[Payload]) -> Self {
        let mut records = [Payload::Garbage; MOST_RECORDS];
        records[..given.len()].copy_from_slice(given);
        Self {
            records,
            count: given.len() as u8,
            commit_offset: 0,
            leader: None,
            lease_is_over: false,
            verdicts: [None; MOST_RECORDS],
            applied: [None; MOST_RECORDS],
            balance: 0,
            claims: [None; 2],
            letters: [None; MOST_RECORDS],
            handler: true,
            instances: [Instance::default(); 2],
            operators: [Operator::Idle; 2],
        }
    }

    pub fn claim(&mut self, identity: Identity) -> &mut Option<Claim> {
        &mut self.claims[identity as usize]
    }

    pub fn letter(&mut self, offset: u8) -> &mut Letter {
        self.letters[offset as usize]
            .as_mut()
            .expect("only letters that exist are named")
    }

    /// The payload that will be tried next at this offset.
    pub fn next_payload(&self, offset: u8) -> Payload {
        self.letters[offset as usize]
            .and_then(|letter| letter.retry_payload)
            .unwrap_or(self.records[offset as usize])
    }

    /// A letter that the leader retries by itself.
    pub fn is_due(&self, offset: u8) -> bool {
        self.letters[offset as usize].is_some_and(|letter| {
            letter.status == Status::Parked
                && letter.code == Code::HandlerFailed
                && letter.attempts < MOST_ATTEMPTS
        })
    }

    pub fn due(&self) -> impl Iterator<Item = u8> + '_ {
        (0..self.count).filter(|offset| self.is_due(*offset))
    }

    fn calls(&self) -> impl Iterator<Item = &Call> {
        let calls = self.instances.iter();
        let calls = calls.flat_map(|instance| instance.call.iter().chain(&instance.ghost));
        calls.filter(|call| call.holds_progress())
    }

    pub fn progress_is_free(&self) -> bool {
        let is_open = |operator: &Operator| matches!(operator, Operator::Open { .. });
        self.calls().next().is_none() && !self.operators.iter().any(is_open)
    }

    pub fn letter_is_free(&self, offset: u8) -> bool {
        let by_leader = Work::Retry {
            letter: Some(offset),
        };
        let holds = |operator: &Operator| match operator {
            Operator::Locked { letter, .. } | Operator::Open { letter, .. } => *letter == offset,
            _ => false,
        };
        !self.calls().any(|call| call.work == by_leader) && !self.operators.iter().any(holds)
    }

    /// Nothing is left to do without an operator.
    pub fn is_drained(&self) -> bool {
        self.commit_offset == self.count && self.due().next().is_none()
    }
}
