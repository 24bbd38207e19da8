//! Rows in PostgreSQL's binary COPY format, prepared in memory before any clock runs.

use bytes::{BufMut, Bytes, BytesMut};
use ledger::account::AccountKey;
use ledger::amount::Amount;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One COPY, being written.
pub struct Copy(BytesMut);

impl Copy {
    pub fn new() -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_slice(SIGNATURE);
        bytes.put_i32(0); // flags
        bytes.put_i32(0); // length of the header's extension
        Self(bytes)
    }

    pub fn row(&mut self, columns: i16) {
        self.0.put_i16(columns);
    }

    pub fn null(&mut self) {
        self.0.put_i32(-1);
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.0.put_i32(value.len() as i32);
        self.0.put_slice(value);
    }

    pub fn int2(&mut self, value: i16) {
        self.bytes(&value.to_be_bytes());
    }

    pub fn int4(&mut self, value: i32) {
        self.bytes(&value.to_be_bytes());
    }

    pub fn int8(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }

    /// A timestamptz, from microseconds since 1970.
    pub fn time(&mut self, unix_us: i64) {
        self.int8(unix_us - POSTGRES_EPOCH_US);
    }

    pub fn key(&mut self, key: &AccountKey) {
        self.int8(key.account_id);
        self.int4(key.shard_id);
        self.bytes(key.currency.as_bytes());
    }

    /// A numeric: base-10000 digits, most significant first, around a point that lies
    /// between two of them. 18 decimals are no whole number of digits, so the amount is
    /// taken in units of 10^-20.
    pub fn amount(&mut self, amount: Amount) {
        const BASE: u128 = 10_000;
        const DIGITS_BEHIND_POINT: i16 = 5;
        let mut rest = amount.units().unsigned_abs() * 100;
        let mut digits = Vec::with_capacity(10);
        while rest > 0 {
            digits.push((rest % BASE) as i16);
            rest /= BASE;
        }
        let weight = digits.len() as i16 - 1 - DIGITS_BEHIND_POINT;
        let trailing_zeros = digits.iter().take_while(|digit| **digit == 0).count();
        let digits = &digits[trailing_zeros..];
        self.0.put_i32(8 + 2 * digits.len() as i32);
        self.0.put_i16(digits.len() as i16);
        self.0.put_i16(if digits.is_empty() { 0 } else { weight });
        self.0
            .put_u16(if amount.is_negative() { 0x4000 } else { 0 });
        self.0.put_u16(Amount::SCALE as u16);
        digits.iter().rev().for_each(|digit| self.0.put_i16(*digit));
    }

    pub fn finish(mut self) -> Bytes {
        self.0.put_i16(-1);
        self.0.freeze()
    }
}
