//! What an event is: its envelope, its changes, or why it is none.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::account::AccountKey;
use crate::amount::Amount;
use crate::fields::text_of_envelope;
use crate::identity::Identity;
use crate::verdict::DeadReason;

/// The one event type of a balance topic.
pub const BALANCE_CHANGED: &str = "balance.changed";

/// What one leg of an event does to one balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The balance.
    pub key: AccountKey,
    /// Added to `available`.
    pub available_delta: Amount,
    /// Added to `frozen`.
    pub frozen_delta: Amount,
}

/// The envelope of an event; texts are borrowed from the payload unless they had escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHead<'a> {
    /// 1 to 255 bytes.
    pub event_id: Cow<'a, str>,
    /// 1 to 255 bytes; absent, null and empty are all `None`.
    pub source: Option<Cow<'a, str>>,
    /// The event's own time in microseconds since 1970.
    pub timestamp_us: Option<i64>,
    /// Where the object `data` stands in the payload, its braces included.
    pub data: Range<usize>,
}

impl EventHead<'_> {
    /// Who this event is.
    pub fn identity(&self) -> Identity {
        Identity::of(self.source.as_deref(), &self.event_id)
    }
}

/// Why a record is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The reason of the verdict.
    pub reason: DeadReason,
    /// One sentence that names the field. Nothing of the payload stands in it but names, escaped
    /// and shortened: of an unknown field, of a field of a domain event, of that event.
    pub detail: String,
    /// The event id, if the text was JSON and had a usable one.
    pub event_id: Option<String>,
    /// The source, likewise.
    pub source: Option<String>,
    /// The event's own time, likewise, in microseconds since 1970.
    pub timestamp_us: Option<i64>,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Defect {}

/// The type that an event gives itself, where its payload can be read as far as there. The topic of a record, not this,
/// decides how it is decoded; who checks an event before it is sent has no topic yet.
pub fn own_type(payload: &[u8]) -> Option<Cow<'_, str>> {
    text_of_envelope(payload, "eventType")
}

/// Refuses a payload that is larger than whoever runs this allows.
///
/// # Errors
/// It is an [`DeadReason::InvalidEvent`], whatever its bytes say.
pub fn check_size(payload: Option<&[u8]>, max_bytes: usize) -> Result<(), Defect> {
    let bytes = payload.map_or(0, <[u8]>::len);
    if bytes <= max_bytes {
        return Ok(());
    }
    Err(defect(
        DeadReason::InvalidEvent,
        format!("The payload has {bytes} bytes; MAX_EVENT_BYTES allows {max_bytes}."),
    ))
}

/// Of a record that names no event.
pub(crate) fn defect(reason: DeadReason, detail: String) -> Defect {
    Defect {
        reason,
        detail,
        event_id: None,
        source: None,
        timestamp_us: None,
    }
}
