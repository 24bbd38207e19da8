//! A strict pull parser for one JSON text (RFC 8259) that allocates nothing.
//!
//! It is our own because decoding depends on things that a parser into values discards: the
//! exact text of a number, a field given twice, the depth of nesting, a lone surrogate in a
//! field that nobody reads. It finds all of them in one pass.

use std::borrow::Cow;
use std::fmt;

use crate::contract::MAX_DEPTH;

/// Why a text is not acceptable JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub fault: Fault,
    /// The byte at which it was noticed, from 0.
    pub at: usize,
}

/// The possible defects of a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are not UTF-8.
    NotUtf8,
    /// The text ends too early.
    Unfinished,
    /// A character that is not allowed there.
    Unexpected,
    /// A backslash that begins no escape.
    BadEscape,
    /// Half of a surrogate pair.
    LoneSurrogate,
    /// A raw control character in a string.
    ControlCharacter,
    /// More levels than [`MAX_DEPTH`].
    TooDeep,
    /// Something after the end of the text.
    Trailing,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::NotUtf8 => "not UTF-8",
            Fault::Unfinished => "unfinished",
            Fault::Unexpected => "an unexpected character",
            Fault::BadEscape => "an unknown escape",
            Fault::LoneSurrogate => "a lone surrogate",
            Fault::ControlCharacter => "a raw control character in a string",
            Fault::TooDeep => {
                return write!(f, "more than {MAX_DEPTH} levels deep at byte {}", self.at);
            }
            Fault::Trailing => "something behind the end",
        };
        write!(f, "{what} at byte {}", self.at)
    }
}

impl std::error::Error for Malformed {}

/// A JSON string whose escapes are already validated.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// The text of the string; borrowed unless it contains escapes.
    #[inline]
    pub fn value(self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(unescape(self.raw))
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// The text if it is written without escapes.
    pub fn plain(self) -> Option<&'a str> {
        (!self.escaped).then_some(self.raw)
    }
}

/// The beginning of a value. After `Object` and `Array` the caller continues with
/// [`Reader::next_key`] or [`Reader::next_item`] until they return the end.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// `{`
    Object,
    /// `[`
    Array,
    /// A whole string.
    String(Text<'a>),
    /// A whole number, as it is written.
    Number(&'a str),
    /// `true` or `false`
    Bool(bool),
    /// `null`
    Null,
}

/// The length to which names are shortened in messages.
const MAX_NAME_CHARS: usize = 64;

/// A name out of a payload, fit for messages and logs: escaped and shortened.
pub(crate) fn told(name: &str) -> String {
    let mut told: String = name
        .chars()
        .take(MAX_NAME_CHARS)
        .flat_map(char::escape_default)
        .collect();
    if name.chars().nth(MAX_NAME_CHARS).is_some() {
        told.push_str("...");
    }
    told
}

/// Reads one JSON text from left to right.
pub struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Set between an opening bracket and the token after it, where no comma is allowed.
    opened: bool,
}

impl<'a> Reader<'a> {
    /// Starts reading; refuses bytes that are not UTF-8.
    ///
    /// A byte order mark needs no special case: it is a character that cannot begin a value.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|error| Malformed {
            fault: Fault::NotUtf8,
            at: error.valid_up_to(),
        })?;
        Ok(Self {
            text,
            bytes,
            at: 0,
            depth: 0,
            opened: false,
        })
    }

    /// Reads the beginning of a value, or the whole of a simple one.
    pub fn value(&mut self) -> Result<Token<'a>, Malformed> {
        match self.peek_token()? {
            b'{' => self.open().map(|()| Token::Object),
            b'[' => self.open().map(|()| Token::Array),
            b'"' => self.string().map(Token::String),
            b'-' | b'0'..=b'9' => self.number().map(Token::Number),
            b't' => self.word("true", Token::Bool(true)),
            b'f' => self.word("false", Token::Bool(false)),
            b'n' => self.word("null", Token::Null),
            _ => self.fail(Fault::Unexpected),
        }
    }

    /// How many bytes of the text have been read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next key of the innermost object, whose value is read next; `None` at its end.
    pub fn next_key(&mut self) -> Result<Option<Text<'a>>, Malformed> {
        if self.at_end(b'}')? {
            return Ok(None);
        }
        if self.peek_token()? != b'"' {
            return self.fail(Fault::Unexpected);
        }
        let key = self.string()?;
        if self.peek_token()? != b':' {
            return self.fail(Fault::Unexpected);
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether the innermost array has another item, which is read next.
    pub fn next_item(&mut self) -> Result<bool, Malformed> {
        Ok(!self.at_end(b']')?)
    }

    /// Reads the rest of a value that `value` began, and checks all of it.
    pub fn skip(&mut self, token: Token<'a>) -> Result<(), Malformed> {
        // Recursion is bounded: `open` refuses too many levels.
        match token {
            Token::Object => {
                while self.next_key()?.is_some() {
                    self.skip_value()?;
                }
            }
            Token::Array => {
                while self.next_item()? {
                    self.skip_value()?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads a whole value and discards it.
    pub fn skip_value(&mut self) -> Result<(), Malformed> {
        let token = self.value()?;
        self.skip(token)
    }

    /// Checks that nothing but white space is left.
    pub fn finish(mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.at < self.bytes.len() {
            self.fail(Fault::Trailing)
        } else {
            Ok(())
        }
    }

    fn fail<T>(&self, fault: Fault) -> Result<T, Malformed> {
        Err(Malformed { fault, at: self.at })
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[inline]
    fn peek_token(&mut self) -> Result<u8, Malformed> {
        self.skip_space();
        match self.peek() {
            Some(byte) => Ok(byte),
            None => self.fail(Fault::Unfinished),
        }
    }

    #[inline]
    fn open(&mut self) -> Result<(), Malformed> {
        if self.depth == MAX_DEPTH {
            return self.fail(Fault::TooDeep);
        }
        self.depth += 1;
        self.at += 1;
        self.opened = true;
        Ok(())
    }

    /// Consumes the closing bracket and returns true; otherwise consumes the comma before the
    /// next entry, which the first entry does not have.
    #[inline]
    fn at_end(&mut self, bracket: u8) -> Result<bool, Malformed> {
        let next = self.peek_token()?;
        let first = std::mem::take(&mut self.opened);
        if next == bracket {
            self.depth -= 1;
            self.at += 1;
            Ok(true)
        } else if first {
            Ok(false)
        } else if next == b',' {
            self.at += 1;
            Ok(false)
        } else {
            self.fail(Fault::Unexpected)
        }
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>, Malformed> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(token)
        } else {
            self.fail(Fault::Unexpected)
        }
    }

    fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        match self.peek() {
            _ if self.at > start => Ok(()),
            None => self.fail(Fault::Unfinished),
            Some(_) => self.fail(Fault::Unexpected),
        }
    }

    #[inline]
    fn string(&mut self) -> Result<Text<'a>, Malformed> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += ordinary_bytes(&self.bytes[self.at..]);
            match self.peek() {
                None => return self.fail(Fault::Unfinished),
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Text { raw, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail(Fault::ControlCharacter),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        let unit = match self.bytes.get(start + 1) {
            None => return self.fail(Fault::Unfinished),
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                return Ok(());
            }
            Some(b'u') => hex4(self.bytes, start + 2),
            Some(_) => None,
        };
        match unit {
            None => self.fail(Fault::BadEscape),
            Some(HIGH_FIRST..=HIGH_LAST) => {
                let pair = self.bytes.get(start + 6..start + 8) == Some(b"\\u")
                    && hex4(self.bytes, start + 8)
                        .is_some_and(|low| (LOW_FIRST..=LOW_LAST).contains(&low));
                if !pair {
                    return self.fail(Fault::LoneSurrogate);
                }
                self.at += 12;
                Ok(())
            }
            Some(LOW_FIRST..=LOW_LAST) => self.fail(Fault::LoneSurrogate),
            Some(_) => {
                self.at += 6;
                Ok(())
            }
        }
    }
}

/// The number of leading bytes that are neither quote, backslash nor control character.
///
/// Eight at a time: strings are most of an event, and byte by byte costs twice as much.
#[inline]
fn ordinary_bytes(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let is_special = |byte: &u8| matches!(byte, 0..=0x1F | b'"' | b'\\');
    words.len() * 8 + rest.iter().position(is_special).unwrap_or(rest.len())
}

/// Marks bytes that end a run of ordinary ones by their highest bit. The lowest mark is
/// exact; a borrow can only add marks above it. Bytes of 0x80 and more are never marked
/// first, because no wanted byte has that bit.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let below = |limit: u64, word: u64| word.wrapping_sub(limit * ONES) & !word & HIGH;
    let equal = |byte: u64| below(1, word ^ (byte * ONES));
    below(0x20, word) | equal(b'"'.into()) | equal(b'\\'.into())
}

const HIGH_FIRST: u16 = 0xD800;
const HIGH_LAST: u16 = 0xDBFF;
const LOW_FIRST: u16 = 0xDC00;
const LOW_LAST: u16 = 0xDFFF;

/// Four hexadecimal digits.
fn hex4(bytes: &[u8], at: usize) -> Option<u16> {
    let mut unit = 0;
    for byte in bytes.get(at..at + 4)? {
        unit = unit << 4 | char::from(*byte).to_digit(16)? as u16;
    }
    Some(unit)
}

/// Replaces escapes that [`Reader::escape`] has accepted.
fn unescape(raw: &str) -> String {
    let mut value = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        value.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1];
        let mut length = 2;
        value.push(match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = |at| hex4(rest.as_bytes(), at).unwrap_or_default();
                let high = unit(at + 2);
                length = if (HIGH_FIRST..=HIGH_LAST).contains(&high) {
                    12
                } else {
                    6
                };
                let units = [high, if length == 12 { unit(at + 8) } else { 0 }];
                let first = char::decode_utf16(units).next();
                first
                    .and_then(Result::ok)
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            itself => char::from(itself),
        });
        rest = &rest[at + length..];
    }
    value.push_str(rest);
    value
}
