//! PostgreSQL's on-disk `numeric`, read and written without converting to text.
//!
//! Layout (src/backend/utils/adt/numeric.c): a 16-bit header, short (`0x8000` set: sign,
//! scale and weight in one word) or long (weight in a second word), then base-10000
//! digits, most significant first. An amount counts units of 10^-18; 18 is no multiple of
//! 4, so the arithmetic here runs in units of 10^-20, which still fits 128 bits.

use ledger::amount::Amount;

const BASE: u64 = 10_000;
/// Units in one whole.
const ONE: u128 = 10u128.pow(Amount::SCALE);
/// Base-10000 digits after the point in units of 10^-20.
const FRACTION_DIGITS: i32 = 5;
const UNITS_PER_AMOUNT_UNIT: u128 = 100;
const MAX_DIGITS: usize = 10;
const SHORT: u16 = 0x8000;
const SHORT_NEGATIVE: u16 = 0x2000;
const LONG_NEGATIVE: u16 = 0x4000;
const KIND_MASK: u16 = 0xC000;
const SCALE_SHIFT: u16 = 7;

/// Reads the data of a numeric, without its varlena header.
///
/// `None` for NaN, the infinities, more than 18 decimals or more than 18 digits in front.
pub fn decode(data: &[u8]) -> Option<Amount> {
    let word = |at: usize| Some(u16::from_ne_bytes([*data.get(at)?, *data.get(at + 1)?]));
    let header = word(0)?;
    let (negative, weight, digits_at) = match header & KIND_MASK {
        SHORT => {
            let low = (header & 0x3F) as i32;
            (
                header & SHORT_NEGATIVE != 0,
                if header & 0x40 != 0 { low - 64 } else { low },
                2,
            )
        }
        KIND_MASK => return None,
        kind => (kind == LONG_NEGATIVE, word(2)? as i16 as i32, 4),
    };
    let mut magnitude: u128 = 0;
    let mut position = weight + FRACTION_DIGITS;
    for pair in data[digits_at..].chunks_exact(2) {
        let digit = u16::from_ne_bytes([pair[0], pair[1]]);
        if digit != 0 && !(0..MAX_DIGITS as i32).contains(&position) {
            return None;
        }
        if position >= 0 {
            let shifted = magnitude.checked_mul(u128::from(BASE))?;
            magnitude = shifted.checked_add(u128::from(digit))?;
        }
        position -= 1;
    }
    // Trailing zeros are not stored.
    for _ in 0..=position {
        magnitude = magnitude.checked_mul(u128::from(BASE))?;
    }
    if !magnitude.is_multiple_of(UNITS_PER_AMOUNT_UNIT) {
        return None;
    }
    let units = (magnitude / UNITS_PER_AMOUNT_UNIT) as i128;
    if units > Amount::MAX.units() {
        return None;
    }
    Some(Amount::from_units(if negative { -units } else { units }))
}

/// Appends the data of `amount` as numeric(36,18), without a varlena header.
pub fn encode(amount: Amount, out: &mut Vec<u8>) {
    // Divided once, and from here on in 64 bits, where divisions by constants are multiplications.
    let magnitude = amount.units().unsigned_abs();
    let whole = magnitude / ONE;
    let fraction = (magnitude - whole * ONE) as u64;
    let mut digits = [0u16; MAX_DIGITS];
    digits[0] = (fraction % 100) as u16 * 100;
    let (behind, before) = digits[1..].split_at_mut(FRACTION_DIGITS as usize - 1);
    for (mut rest, digits) in [(fraction / 100, behind), (whole as u64, before)] {
        for digit in digits {
            *digit = (rest % BASE) as u16;
            rest /= BASE;
        }
    }
    let highest = digits.iter().rposition(|digit| *digit != 0);
    let weight = highest.map_or(0, |highest| highest as i32 - FRACTION_DIGITS);
    let sign = if amount.units() < 0 {
        SHORT_NEGATIVE
    } else {
        0
    };
    let scale = (Amount::SCALE as u16) << SCALE_SHIFT;
    let header = SHORT | sign | scale | (weight as u16 & 0x7F);
    out.extend_from_slice(&header.to_ne_bytes());
    if let Some(highest) = highest {
        let lowest = digits.iter().position(|digit| *digit != 0).unwrap_or(0);
        for digit in digits[lowest..=highest].iter().rev() {
            out.extend_from_slice(&digit.to_ne_bytes());
        }
    }
}
