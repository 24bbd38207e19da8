//! The safeguards, each of which can be removed.

/// One safeguard that is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// The fence does not compare the fencing token and the lease.
    NoTokenCheck,
    /// The fence does not compare the offset at which the batch begins.
    NoOffsetCheck,
    /// The fence reads the progress row, and locks it later without reading it again.
    ReadThenWrite,
    /// The leader checks a perfect clock before it sends, and the database checks nothing.
    LeaseByClock,
    /// A COMMIT without an answer counts as done.
    AnswerGuessed,
    /// Acquiring does not wait for the transaction in flight, nor end it.
    AcquireDoesNotWait,
    /// Releasing leaves `lease_id` in the progress row.
    ReleaseKeepsLease,
    /// The leader's own retry of dead letters checks no token.
    RetryWithoutFence,
    /// A session that has locked the progress row is never ended: a frozen process keeps it locked for ever.
    NobodyIsEnded,

    /// A replay does not check under the lock whether the letter is still parked.
    NoSecondLook,
    /// Only parked letters are tried, but a replay answers and records what the list before the lock showed.
    AnswersFromList,
    /// A discard does not check whether the letter is still parked.
    DiscardUnasked,
    /// A restore does not check whether the letter is discarded.
    RestoreUnasked,
    /// A correction that fails again keeps the changed identity and loses the payload.
    CorrectionForgotten,
    /// The leader's retry uses the record's own payload, whatever an operator has corrected.
    RetryTakesOriginal,
    /// A correction to another identity also keeps the former one.
    FormerIdentityKept,
    /// A discard releases the letter's identity.
    DiscardFreesIdentity,
    /// Without a handler the letter counts as a balance event.
    NoHandlerIsABalance,
    /// Whether a letter owns its identity is derived from its last error code.
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
