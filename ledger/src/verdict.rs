//! Verdicts and reasons, in the contract's spelling.

use std::fmt;

/// Gives an enum its contract spelling in both directions.
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value, in the order in which the contract lists them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The contract's spelling, as in the tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Parses the contract's spelling; `None` for any other text.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

spelled! {
    /// The verdict; every record below the committed offset has exactly one.
    Verdict {
        /// All its changes are in the balances.
        Applied = "APPLIED",
        /// It changed nothing, because of the balances or another event.
        Rejected = "REJECTED",
        /// The same event was decided earlier.
        Duplicate = "DUPLICATE",
        /// It could not be used, and is kept as a dead letter.
        Dead = "DEAD",
    }
}

spelled! {
    /// Why an event was rejected.
    RejectReason {
        /// `available` would have become negative.
        InsufficientBalance = "INSUFFICIENT_BALANCE",
        /// `frozen` would have become negative.
        InsufficientFrozen = "INSUFFICIENT_FROZEN",
        /// A balance would no longer fit `numeric(36,18)`.
        BalanceOverflow = "BALANCE_OVERFLOW",
        /// An earlier record owns the identity with another payload.
        EventIdConflict = "EVENT_ID_CONFLICT",
    }
}

spelled! {
    /// Why a record is dead.
    DeadReason {
        /// No bytes, or a tombstone.
        EmptyPayload = "EMPTY_PAYLOAD",
        /// Not one JSON text in UTF-8, or nested too deeply.
        MalformedJson = "MALFORMED_JSON",
        /// An event type that does not belong on a balance topic.
        UnknownEventType = "UNKNOWN_EVENT_TYPE",
        /// A delta that is not an amount.
        InvalidAmount = "INVALID_AMOUNT",
        /// JSON, but not a valid event.
        InvalidEvent = "INVALID_EVENT",
        /// Decodable, but the apply failed on it each time it was tried.
        ApplyFailed = "APPLY_FAILED",
        /// Its handler failed on it.
        HandlerFailed = "HANDLER_FAILED",
        /// An earlier record with the same key is parked.
        ParkedBehind = "PARKED_BEHIND",
        /// An operator buried it.
        Buried = "BURIED",
    }
}
