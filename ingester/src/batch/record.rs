//! One record: as it arrives, and as it is remembered after it was committed.

/// The kind of a topic's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Balance events, decoded and staged.
    Balance,
    /// Domain events, sent raw.
    Domain,
}

/// One record, borrowed from the reader.
pub struct Record<'a> {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    /// As JSON.
    pub headers: Option<String>,
}

/// A committed record, by which the topic is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub offset: i64,
    pub fingerprint: [u8; 16],
}
