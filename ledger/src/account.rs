//! The key of a balance: account, shard and currency.

use std::fmt;

/// A currency code, `[A-Z0-9]{2,16}`, stored inline so that keys are copied and compared
/// without touching the heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    /// The code, followed by zeros. Zero sorts below every character of a code, so the
    /// derived order is the order of the bytes, as in a text column with collation "C".
    bytes: [u8; Self::MAX_BYTES],
    length: u8,
}

impl Currency {
    /// The largest number of characters in a code.
    pub const MAX_BYTES: usize = 16;
    /// The smallest number of characters in a code.
    pub const MIN_BYTES: usize = 2;

    /// `None` unless the code matches `[A-Z0-9]{2,16}`.
    pub fn new(code: &str) -> Option<Self> {
        let code = code.as_bytes();
        let fits = (Self::MIN_BYTES..=Self::MAX_BYTES).contains(&code.len())
            && code
                .iter()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        if !fits {
            return None;
        }
        let mut bytes = [0; Self::MAX_BYTES];
        bytes[..code.len()].copy_from_slice(code);
        Some(Self {
            bytes,
            length: code.len() as u8,
        })
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("a currency code is ASCII")
    }

    /// The code's bytes, without the padding zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The code, followed by zeros up to a fixed width.
    pub fn padded(&self) -> &[u8; Self::MAX_BYTES] {
        &self.bytes
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The key of a balance. Its order is the order in which balances are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey {
    /// The account.
    pub account_id: i64,
    /// The shard, 0 unless the event gives one.
    pub shard_id: i32,
    /// The currency.
    pub currency: Currency,
}
