//! The token of those who may change something by HTTP.

use crate::config::secrets::Secret;

/// Only its hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    pub fn of(secret: &Secret) -> Self {
        Self::new(secret.reveal())
    }

    pub(super) fn new(text: &str) -> Self {
        Self(openssl::sha::sha256(text.as_bytes()))
    }

    /// Takes as long whatever is given.
    pub(super) fn matches(&self, given: &str) -> bool {
        openssl::memcmp::eq(&self.0, &Self::new(given).0)
    }
}
