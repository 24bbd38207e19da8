//! The fields of an event: what each may hold, and what is said where it does not.

use std::borrow::Cow;
use std::fmt;

use crate::identity::MAX_ID_BYTES;
use crate::json::{Malformed, Reader, Text, Token};

/// A fault in a text that is JSON. Remembered instead of returned, because the rest of the
/// text may still turn out not to be JSON, which comes first.
#[derive(Clone, Copy)]
pub(crate) struct Flaw {
    pub(crate) field: &'static str,
    /// The change that the field stands in, from 0.
    pub(crate) change: Option<usize>,
    pub(crate) what: &'static str,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.change {
            Some(change) if self.field.is_empty() => {
                write!(f, "data.changes[{change}] {}.", self.what)
            }
            Some(change) => write!(f, "data.changes[{change}].{} {}.", self.field, self.what),
            None => write!(f, "{} {}.", self.field, self.what),
        }
    }
}

pub(crate) const TWICE: &str = "is given twice";
pub(crate) const MISSING: &str = "is missing";
pub(crate) const NO_ID: &str = "is not a string of 1 to 255 bytes without U+0000";
pub(crate) const NO_ACCOUNT: &str =
    "is neither an integer in the range of bigint nor a string of its digits";
pub(crate) const NO_SHARD: &str = "is not an integer in the range of int";
pub(crate) const NO_AMOUNT: &str =
    "is not a decimal with 1 to 18 digits before and at most 18 behind the point";
pub(crate) const NO_CURRENCY: &str = "is not a string of 2 to 16 characters A-Z and 0-9";
pub(crate) const NO_DELTA: &str =
    "has neither availableDelta nor frozenDelta: it must give at least one";

/// Fields met so far in one object; each known field is one bit.
#[derive(Default)]
pub(crate) struct Seen(u8);

impl Seen {
    /// Whether this is the first time.
    pub(crate) fn first(&mut self, field: u8) -> bool {
        let first = self.0 & field == 0;
        self.0 |= field;
        first
    }
}

/// A value that is there, but not of the form that its field must have.
pub(crate) struct Unfit;

/// Absent and null are the same.
pub(crate) fn optional<'a, T>(
    token: Token<'a>,
    read: impl Fn(Token<'a>) -> Option<T>,
) -> Result<Option<T>, Unfit> {
    match token {
        Token::Null => Ok(None),
        _ => read(token).map(Some).ok_or(Unfit),
    }
}

pub(crate) fn string(token: Token<'_>) -> Option<Cow<'_, str>> {
    if let Token::String(text) = token {
        Some(Text::value(text))
    } else {
        None
    }
}

/// A text of the envelope, read by itself, where the payload has that field and is JSON as far as there.
pub(crate) fn text_of_envelope<'a>(payload: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let read = || -> Result<Option<Cow<'a, str>>, Malformed> {
        let mut reader = Reader::new(payload)?;
        if !matches!(reader.value()?, Token::Object) {
            return Ok(None);
        }
        while let Some(key) = reader.next_key()? {
            let token = reader.value()?;
            if &*key.value() == name {
                return Ok(string(token));
            }
            reader.skip(token)?;
        }
        Ok(None)
    };
    read().ok().flatten()
}

pub(crate) fn is_id(text: &str) -> bool {
    text.len() <= MAX_ID_BYTES && !text.contains('\0')
}

pub(crate) fn account_id(token: Token<'_>) -> Option<i64> {
    match token {
        Token::Number(text) => integer(text),
        _ => integer(&string(token)?),
    }
}

pub(crate) fn shard_id(token: Token<'_>) -> Option<i32> {
    if let Token::Number(text) = token {
        i32::try_from(integer(text)?).ok()
    } else {
        None
    }
}

/// Digits with an optional `-` in front, and nothing else; `str::parse` alone would also
/// take a `+`.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}
