//! The identity of an event, and the hash of its payload.
//!
//! Both are the first 16 bytes of a BLAKE3 digest: they fit a `uuid` column, and nobody can
//! choose the ids of two events so that they share one.

/// The largest number of bytes of an event id or a source.
pub const MAX_ID_BYTES: usize = 255;
/// Bytes of an identity or a payload hash.
pub const BYTES: usize = 16;

/// Makes a 16-byte digest a type of its own.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; BYTES]);

        impl $name {
            /// The inverse of [`Self::as_bytes`].
            pub const fn from_bytes(bytes: [u8; BYTES]) -> Self {
                Self(bytes)
            }

            /// The digest's bytes, in the order in which a `uuid` column sorts them.
            pub const fn as_bytes(&self) -> &[u8; BYTES] {
                &self.0
            }
        }
    };
}

digest! {
    /// The identity of an event: its source and its event id.
    Identity
}

digest! {
    /// The bytes of a record's payload, hashed.
    PayloadHash
}

impl Identity {
    /// The identity of an event; a missing source and an empty one are the same.
    ///
    /// Neither text may contain U+0000: it separates them.
    pub fn of(source: Option<&str>, event_id: &str) -> Self {
        let source = source.unwrap_or_default();
        // On the stack, because hashing one contiguous piece is what BLAKE3 is fastest at.
        let mut text = [0u8; 2 * MAX_ID_BYTES + 1];
        let length = source.len() + 1 + event_id.len();
        if length <= text.len() {
            text[..source.len()].copy_from_slice(source.as_bytes());
            text[source.len() + 1..length].copy_from_slice(event_id.as_bytes());
            return Self(first_half(&blake3::hash(&text[..length])));
        }
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(source.as_bytes())
            .update(&[0])
            .update(event_id.as_bytes());
        Self(first_half(&hasher.finalize()))
    }
}

impl PayloadHash {
    /// The hash of a record's payload.
    pub fn of(payload: &[u8]) -> Self {
        Self(first_half(&blake3::hash(payload)))
    }
}

/// The first 16 bytes of a digest.
pub(crate) fn first_half(hash: &blake3::Hash) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(&hash.as_bytes()[..BYTES]);
    bytes
}
