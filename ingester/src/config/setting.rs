//! What is wrong with a setting, and where settings come from.

use std::fmt;

/// A setting that cannot be meant: one line that names it.
#[derive(Debug, PartialEq, Eq)]
pub struct BadSetting(pub String);

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn bad(name: &str, what: impl fmt::Display) -> BadSetting {
    BadSetting(format!("{name}: {what}"))
}

/// The environment without what is not UTF-8: no setting of ours is.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
