//! The safeguards, each of which can be taken away.

/// One safeguard that is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// The fence does not compare the fencing token and the lease.
    NoTokenCheck,
    /// The fence does not compare the offset at which the batch begins.
    NoOffsetCheck,
    /// The fence reads the progress row, and locks it later without a second look.
    ReadThenWrite,
    /// The leader asks a perfect clock before it sends, and the database asks nothing.
    LeaseByClock,
    /// A COMMIT without an answer is taken for done.
    AnswerGuessed,
    /// Acquiring does not wait for the transaction in flight, nor end it.
    AcquireDoesNotWait,
    /// Releasing leaves `lease_id` in the progress row.
    ReleaseKeepsLease,
    /// The leader's own retry of dead letters asks for no token.
    RetryWithoutFence,
    /// Whoever holds the progress row is never ended: a frozen process holds it for ever.
    NobodyIsEnded,

    /// Under the lock nobody looks whether the letter is still parked, and it is tried again.
    NoSecondLook,
    /// Only what is parked is tried, but answered and recorded is what the list before the lock said.
    AnswersFromList,
    /// A discard does not ask whether the letter is still parked.
    DiscardUnasked,
    /// A restore does not ask whether the letter is discarded.
    RestoreUnasked,
    /// A correction that fails again keeps the changed identity and forgets the payload.
    CorrectionForgotten,
    /// The leader's retry takes the record's own payload, whatever an operator has corrected.
    RetryTakesOriginal,
    /// A correction to another identity keeps the former one, too.
    FormerIdentityKept,
    /// A discard gives the letter's identity back.
    DiscardFreesIdentity,
    /// Without a handler the letter is taken for a balance event.
    NoHandlerIsABalance,
    /// Whether a letter owns its identity is read from its last error code.
    OwnerByErrorCode,
    /// A replay adds to a balance that it read before its lock.
    BalanceReadBeforeLock,
}

impl Defect {
    pub const ALL: [Self; 20] = [
        Self::NoTokenCheck,
        Self::NoOffsetCheck,
        Self::ReadThenWrite,
        Self::LeaseByClock,
        Self::AnswerGuessed,
        Self::AcquireDoesNotWait,
        Self::ReleaseKeepsLease,
        Self::RetryWithoutFence,
        Self::NobodyIsEnded,
        Self::NoSecondLook,
        Self::AnswersFromList,
        Self::DiscardUnasked,
        Self::RestoreUnasked,
        Self::CorrectionForgotten,
        Self::RetryTakesOriginal,
        Self::FormerIdentityKept,
        Self::DiscardFreesIdentity,
        Self::NoHandlerIsABalance,
        Self::OwnerByErrorCode,
        Self::BalanceReadBeforeLock,
    ];
}
