//! Amounts of money: exact decimals with 18 digits after the point, never a float.

use std::fmt;

/// An amount, counted in units of 10^-18.
///
/// A parsed amount lies within ±[`Amount::MAX`], so the sum of a balance and a delta
/// always fits `i128` and can be compared with the limits after the addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// Units in one whole.
const ONE: i128 = 10i128.pow(Amount::SCALE);
/// Digits allowed on each side of the point.
const SIDE_DIGITS: usize = 18;

impl Amount {
    /// Digits after the point.
    pub const SCALE: u32 = 18;
    /// Zero.
    pub const ZERO: Self = Self(0);
    /// The largest balance that fits `numeric(36,18)`: 10^36 - 1 units.
    pub const MAX: Self = Self(10i128.pow(36) - 1);

    /// An amount, from its number of units of 10^-18.
    pub const fn from_units(units: i128) -> Self {
        Self(units)
    }

    /// The amount in units of 10^-18.
    pub const fn units(self) -> i128 {
        self.0
    }

    /// Whether this is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Parses text that matches `-?[0-9]{1,18}(\.[0-9]{1,18})?`; `None` for any other.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_bytes(text.as_bytes())
    }

    /// As [`Amount::parse`], from bytes.
    pub fn parse_bytes(text: &[u8]) -> Option<Self> {
        let (negative, rest) = match text.split_first() {
            Some((b'-', rest)) => (true, rest),
            _ => (false, text),
        };
        let (whole, behind) = digits(rest)?;
        let fraction = match behind.split_first() {
            None => 0,
            Some((b'.', rest)) => {
                let (fraction, end) = digits(rest)?;
                if !end.is_empty() {
                    return None;
                }
                fraction * 10u64.pow((SIDE_DIGITS - rest.len()) as u32)
            }
            Some(_) => return None,
        };
        let units = i128::from(whole) * ONE + i128::from(fraction);
        Some(Self(if negative { -units } else { units }))
    }

    /// The sum; it saturates at the ends of `i128` instead of wrapping around, so a sum out of
    /// range is always detected.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Parses 1 to 18 leading digits, and returns the rest.
fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    let mut count = 0;
    while let Some(digit) = text.get(count).filter(|byte| byte.is_ascii_digit()) {
        if count == SIDE_DIGITS {
            return None;
        }
        value = value * 10 + u64::from(digit - b'0');
        count += 1;
    }
    (count > 0).then(|| (value, &text[count..]))
}

/// Plain decimal without an exponent and without trailing zeros: `-12.5`, `0`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let (whole, fraction) = (magnitude / ONE as u128, magnitude % ONE as u128);
        let mut text = whole.to_string();
        if fraction != 0 {
            let fraction = format!("{fraction:018}");
            text.push('.');
            text.push_str(fraction.trim_end_matches('0'));
        }
        f.pad_integral(self.0 >= 0, "", &text)
    }
}
