//! One record: as it arrives, and as it is known once it was committed.

/// What the records of a topic are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Balance events, decoded and staged.
    Balance,
    /// Domain events, handed over raw.
    Domain,
}

/// One record, borrowed from where it was read.
pub struct Record<'a> {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    /// As JSON.
    pub headers: Option<String>,
}

/// A record that was committed, to be recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub offset: i64,
    pub fingerprint: [u8; 16],
}
