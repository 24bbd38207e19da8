//! The readers that handlers use for fields of events: they turn a scalar `jsonb` into an id, a text, a currency, an
//! amount or an instant, or refuse its event.
//!
//! Layout (src/include/utils/jsonb.h): a scalar is an array of one element, marked as such: the container's header, the
//! entry with kind and length, then the bytes of the string, or the number as a numeric.

use std::ffi::CStr;

use ledger::amount::Amount;
use ledger::contract::MAX_ID_BYTES;
use ledger::timestamp;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{FromDatum, direct_function_call, pg_guard, pg_sys};

use super::numeric;
use crate::error::raise;

/// Bytes of header and entry.
const HEAD: usize = 8;
const MAX_DIGITS: usize = 254;

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
const EPOCH_US: i64 = 946_684_800_000_000;

finfo!(pg_finfo_read_id);
finfo!(pg_finfo_read_text);
finfo!(pg_finfo_read_currency);
finfo!(pg_finfo_read_amount);
finfo!(pg_finfo_read_plain_instant);

/// `sluice.read_id(value jsonb, event_id text, field text, required boolean)`.
///
/// # Safety
/// PostgreSQL calls it with the call information of these arguments.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn read_id(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by contract.
    let call = unsafe { Call::of(fcinfo) };
    call.answer(match call.value() {
        Value::String(id) if (1..=MAX_ID_BYTES).contains(&id.len()) => varlena(id.as_bytes()),
        Value::Number(id) if is_whole(id) => varlena(id.as_bytes()),
        Value::Null => call.absent(3),
        _ => call.refuse("must be a string of 1 to 255 bytes or an integer"),
    })
}

/// `sluice.read_text(value jsonb, event_id text, field text, shortest integer, longest integer, required boolean)`.
///
/// # Safety
/// PostgreSQL calls it with the call information of these arguments.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn read_text(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by contract.
    let call = unsafe { Call::of(fcinfo) };
    let [shortest, longest] = [3, 4].map(|at| call.args[at].value.value() as i32);
    call.answer(match call.value() {
        Value::String(text) if (shortest..=longest).contains(&(text.chars().count() as i32)) => {
            varlena(text.as_bytes())
        }
        Value::Null => call.absent(5),
        _ => call.refuse(&format!(
            "must be a string of {shortest} to {longest} characters"
        )),
    })
}

/// `sluice.read_currency(value jsonb, event_id text, field text, required boolean)`.
///
/// # Safety
/// PostgreSQL calls it with the call information of these arguments.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn read_currency(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by contract.
    let call = unsafe { Call::of(fcinfo) };
    call.answer(match call.value() {
        // The platform's own text, in its spelling; only the codes of balance events are checked by Sluice.
        Value::String(code) if (1..=64).contains(&code.chars().count()) => varlena(code.as_bytes()),
        Value::Null => call.absent(3),
        _ => call.refuse("must be a string of 1 to 64 characters"),
    })
}

/// `sluice.read_amount(value jsonb, event_id text, field text, may_be_negative boolean, required boolean)`.
///
/// # Safety
/// PostgreSQL calls it with the call information of these arguments.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn read_amount(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: by contract.
    let call = unsafe { Call::of(fcinfo) };
    let may_be_negative = call.is_set(3);
    let amount = match call.value() {
        Value::Null => return call.answer(call.absent(4)),
        Value::String(text) | Value::Number(text) if may_be_negative || !text.starts_with('-') => {
            Amount::parse(text)
        }
        _ => None,
    };
    let Some(amount) = amount else {
        let sign = if may_be_negative {
            ""
        } else {
            " without sign,"
        };
        call.refuse(&format!(
            "must be a decimal{sign} with at most 18 digits before and 18 after the point"
        ));
    };
    let mut bytes = Vec::with_capacity(32);
    numeric::encode(amount, &mut bytes);
    call.answer(varlena(&bytes))
}

/// `sluice.read_plain_instant(value jsonb)`: any RFC 3339 time, read as the envelope's `timestamp`; NULL for all else.
///
/// # Safety
/// PostgreSQL calls it with the call information of this argument.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn read_plain_instant(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: by contract.
    let call = unsafe { Call::of(fcinfo) };
    let instant = match call.value() {
        Value::String(text) => timestamp::parse_us(text),
        _ => None,
    };
    call.answer(instant.map(|us| (us - EPOCH_US).into()))
}

/// Text and numeric are both bytes after their length.
fn varlena(bytes: &[u8]) -> Option<pg_sys::Datum> {
    // SAFETY: the bytes are copied.
    Some(
        unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32) }
            .into(),
    )
}

fn is_whole(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A value, as far as fields need it.
enum Value<'a> {
    String(&'a str),
    Number(&'a str),
    /// Also if there is no value.
    Null,
    Other,
}

/// One call. Its first argument is a value; if the value may be refused, the next two are the id of its event and the
/// name of the field.
struct Call<'a> {
    fcinfo: pg_sys::FunctionCallInfo,
    args: &'a [pg_sys::NullableDatum],
}

impl<'a> Call<'a> {
    /// # Safety
    /// The arguments are of these types.
    unsafe fn of(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: by contract; the arguments live as long as the call.
        let args = unsafe { (*fcinfo).args.as_slice((*fcinfo).nargs as usize) };
        Self { fcinfo, args }
    }

    fn answer(&self, datum: Option<pg_sys::Datum>) -> pg_sys::Datum {
        // SAFETY: the call is still going on.
        unsafe { (*self.fcinfo).isnull = datum.is_none() };
        datum.unwrap_or(pg_sys::Datum::from(0usize))
    }

    fn is_set(&self, argument: usize) -> bool {
        self.args[argument].value.value() != 0
    }

    fn value(&self) -> Value<'a> {
        if self.args[0].isnull {
            return Value::Null;
        }
        // SAFETY: it is a jsonb; what is copied to make it plain lives as long as the call, and a numeric in it is aligned.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(self.args[0].value.cast_mut_ptr());
            let bytes: &'a [u8] = pgrx::varlena::varlena_to_byte_slice(plain);
            let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
            if word(0) & pg_sys::JB_FSCALAR == 0 {
                return Value::Other;
            }
            let (entry, content) = (word(4), &bytes[HEAD..]);
            match entry & pg_sys::JENTRY_TYPEMASK {
                pg_sys::JENTRY_ISSTRING => {
                    let length = (entry & pg_sys::JENTRY_OFFLENMASK) as usize;
                    std::str::from_utf8(&content[..length]).map_or(Value::Other, Value::String)
                }
                pg_sys::JENTRY_ISNUMERIC => {
                    let number = Some(content.as_ptr().into());
                    let text: Option<&CStr> = direct_function_call(pg_sys::numeric_out, &[number]);
                    Value::Number(text.map_or("", |text| text.to_str().unwrap_or_default()))
                }
                pg_sys::JENTRY_ISNULL => Value::Null,
                _ => Value::Other,
            }
        }
    }

    fn absent(&self, required: usize) -> Option<pg_sys::Datum> {
        if self.is_set(required) {
            self.refuse("is required");
        }
        None
    }

    fn refuse(&self, rule: &str) -> ! {
        let [event_id, field] = [1, 2].map(|at| {
            // SAFETY: these are texts.
            unsafe { <&str>::from_datum(self.args[at].value, self.args[at].isnull) }
                .unwrap_or_default()
        });
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("event {event_id}: field \"{field}\" {rule}"),
        )
    }
}
