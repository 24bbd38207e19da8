//! The contract's rules for a balance event, written down a second time: what a record means,
//! or every reason for which it may be called dead.

use crate::json::{self, Json};

pub const EMPTY_PAYLOAD: &str = "EMPTY_PAYLOAD";
pub const MALFORMED_JSON: &str = "MALFORMED_JSON";
pub const UNKNOWN_EVENT_TYPE: &str = "UNKNOWN_EVENT_TYPE";
pub const INVALID_AMOUNT: &str = "INVALID_AMOUNT";
pub const INVALID_EVENT: &str = "INVALID_EVENT";

/// 10^18: amounts are whole numbers of the smallest step.
pub const UNIT: i128 = 1_000_000_000_000_000_000;

/// Account, shard and currency; codes shorter than 16 bytes are padded with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    pub id: i64,
    pub shard: i32,
    pub currency: [u8; 16],
}

impl Account {
    pub fn new(id: i64, shard: i32, code: &str) -> Option<Self> {
        let letters = code
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        if !letters || !(2..=16).contains(&code.len()) {
            return None;
        }
        let mut currency = [0; 16];
        currency[..code.len()].copy_from_slice(code.as_bytes());
        Some(Self {
            id,
            shard,
            currency,
        })
    }

    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.currency)
            .expect("only letters and digits are let in")
            .trim_end_matches('\0')
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.id, self.shard, self.code())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub account: Account,
    /// In steps of 10^-18, like every amount here.
    pub available: i128,
    pub frozen: i128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub event_id: String,
    /// Empty when there is none.
    pub source: String,
    /// When it happened, in microseconds since 1970, where it says so.
    pub time_us: Option<i64>,
    pub changes: Vec<Change>,
}

/// Why a record is no event. With several defects any one of the reasons will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dead {
    pub reasons: Vec<&'static str>,
    /// What a reader may take for the event's id, if anything.
    pub event_id: Option<String>,
}

impl Dead {
    fn of(reason: &'static str) -> Self {
        Self {
            reasons: vec![reason],
            event_id: None,
        }
    }
}

pub fn decode(payload: Option<&[u8]>) -> Result<Event, Dead> {
    let payload = payload
        .filter(|bytes| !bytes.is_empty())
        .ok_or_else(|| Dead::of(EMPTY_PAYLOAD))?;
    let json = json::parse(payload).ok_or_else(|| Dead::of(MALFORMED_JSON))?;
    let Json::Object(fields) = &json else {
        return Err(Dead::of(INVALID_EVENT));
    };
    let mut walk = Walk::default();
    let event = walk.event(fields);
    if walk.reasons.is_empty() {
        Ok(event)
    } else {
        let event_id = Some(event.event_id).filter(|id| !id.is_empty());
        Err(Dead {
            reasons: walk.reasons,
            event_id,
        })
    }
}

/// Goes through the whole event, however much of it is wrong, and collects every defect.
#[derive(Default)]
struct Walk {
    reasons: Vec<&'static str>,
}

type Fields = [(String, Json)];

impl Walk {
    fn defect(&mut self, reason: &'static str) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// A known field; JSON null and absence are the same.
    fn field<'j>(&mut self, fields: &'j Fields, name: &str) -> Option<&'j Json> {
        let mut values = fields
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value);
        let first = values.next();
        if values.next().is_some() {
            self.defect(INVALID_EVENT);
        }
        first.filter(|value| **value != Json::Null)
    }

    fn event(&mut self, fields: &Fields) -> Event {
        let event_id = self.name(fields, "eventId");
        if event_id.is_empty() {
            self.defect(INVALID_EVENT);
        }
        let source = self.name(fields, "source");
        match self.field(fields, "eventType") {
            Some(Json::String(kind)) if kind == "balance.changed" => {}
            Some(Json::String(_)) => self.defect(UNKNOWN_EVENT_TYPE),
            _ => self.defect(INVALID_EVENT),
        }
        let time_us = match self.field(fields, "timestamp") {
            Some(Json::String(text)) => rfc3339_us(text),
            _ => None,
        };
        if time_us.is_none() && self.field(fields, "timestamp").is_some() {
            self.defect(INVALID_EVENT);
        }
        let changes = match self.field(fields, "data") {
            Some(Json::Object(data)) => self.data(data),
            _ => {
                self.defect(INVALID_EVENT);
                Vec::new()
            }
        };
        Event {
            event_id,
            source,
            time_us,
            changes,
        }
    }

    /// `eventId` or `source`: up to 255 bytes without U+0000; empty when there is none.
    fn name(&mut self, fields: &Fields, name: &str) -> String {
        match self.field(fields, name) {
            None => String::new(),
            Some(Json::String(text)) if text.len() <= 255 && !text.contains('\0') => text.clone(),
            Some(_) => {
                self.defect(INVALID_EVENT);
                String::new()
            }
        }
    }

    fn data(&mut self, data: &Fields) -> Vec<Change> {
        let account_id = self.account_id(data);
        let shard_id = self.shard_id(data);
        let Some(Json::Array(items)) = self.field(data, "changes") else {
            self.defect(INVALID_EVENT);
            return Vec::new();
        };
        if !(1..=64).contains(&items.len()) {
            self.defect(INVALID_EVENT);
        }
        items
            .iter()
            .filter_map(|item| self.change(item, account_id, shard_id))
            .collect()
    }

    fn change(
        &mut self,
        item: &Json,
        account_id: Option<i64>,
        shard_id: Option<i32>,
    ) -> Option<Change> {
        let Json::Object(fields) = item else {
            self.defect(INVALID_EVENT);
            return None;
        };
        let id = self.account_id(fields).or(account_id);
        let shard = self.shard_id(fields).or(shard_id).unwrap_or(0);
        let account = match self.field(fields, "currencyCode") {
            Some(Json::String(code)) => id.and_then(|id| Account::new(id, shard, code)),
            _ => None,
        };
        if account.is_none() {
            self.defect(INVALID_EVENT);
        }
        let known = [
            "accountId",
            "shardId",
            "currencyCode",
            "availableDelta",
            "frozenDelta",
        ];
        if fields.iter().any(|(name, _)| !known.contains(&&**name)) {
            self.defect(INVALID_EVENT);
        }
        let given = |name| {
            fields
                .iter()
                .any(|(key, value)| key == name && *value != Json::Null)
        };
        if !given("availableDelta") && !given("frozenDelta") {
            self.defect(INVALID_EVENT);
        }
        let available = self.delta(fields, "availableDelta");
        let frozen = self.delta(fields, "frozenDelta");
        Some(Change {
            account: account?,
            available,
            frozen,
        })
    }

    fn account_id(&mut self, fields: &Fields) -> Option<i64> {
        let id = match self.field(fields, "accountId")? {
            Json::Number(text) => integer(text),
            Json::String(text) => integer(text),
            _ => None,
        };
        if id.is_none() {
            self.defect(INVALID_EVENT);
        }
        id
    }

    fn shard_id(&mut self, fields: &Fields) -> Option<i32> {
        let id = match self.field(fields, "shardId")? {
            Json::Number(text) => integer(text).and_then(|id| i32::try_from(id).ok()),
            _ => None,
        };
        if id.is_none() {
            self.defect(INVALID_EVENT);
        }
        id
    }

    fn delta(&mut self, fields: &Fields, name: &str) -> i128 {
        let units = match self.field(fields, name) {
            None => Some(0),
            Some(Json::Number(text) | Json::String(text)) => amount(text),
            Some(_) => None,
        };
        units.unwrap_or_else(|| {
            self.defect(INVALID_AMOUNT);
            0
        })
    }
}

/// Digits with an optional minus in front, in the range of bigint.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// `-?[0-9]{1,18}(\.[0-9]{1,18})?` in steps of 10^-18.
pub fn amount(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let good = |part: &str| {
        (1..=18).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !good(whole) || !good(fraction) {
        return None;
    }
    let number = |part: &str| {
        part.bytes()
            .fold(0i128, |sum, digit| sum * 10 + i128::from(digit - b'0'))
    };
    let units = number(whole) * UNIT + number(fraction) * 10i128.pow(18 - fraction.len() as u32);
    Some(if negative { -units } else { units })
}

/// Microseconds since 1970; what stands behind them is cut off.
fn rfc3339_us(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| -> Option<u32> {
        let digits = bytes.get(from..from + len)?;
        digits.iter().all(u8::is_ascii_digit).then(|| {
            digits
                .iter()
                .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))
        })
    };
    let marks = |list: &[(usize, &[u8])]| {
        list.iter()
            .all(|(at, any)| bytes.get(*at).is_some_and(|byte| any.contains(byte)))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !marks(&[(4, b"-"), (7, b"-"), (10, b"Tt"), (13, b":"), (16, b":")]) {
        return None;
    }
    if !(1..=12).contains(&month)
        || !(1..=days(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut rest = &bytes[19..];
    let mut micros = 0;
    if rest.first() == Some(&b'.') {
        let digits = rest[1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if digits == 0 {
            return None;
        }
        for place in 1..=6 {
            let digit = rest.get(place).filter(|_| place <= digits);
            micros = micros * 10 + digit.map_or(0, |digit| i64::from(digit - b'0'));
        }
        rest = &rest[1 + digits..];
    }
    let zone_minutes = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), a, b, b':', c, d]
            if [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()) =>
        {
            let (hours, minutes) = ((a - b'0') * 10 + (b - b'0'), (c - b'0') * 10 + (d - b'0'));
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = i64::from(hours) * 60 + i64::from(minutes);
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    // Counted day by day, which nobody can get wrong.
    let years = |from, to| {
        (from..to).map(|year| {
            (1..=12)
                .map(|month| i64::from(days(year, month)))
                .sum::<i64>()
        })
    };
    let whole_years = years(1970, year).sum::<i64>() - years(year, 1970).sum::<i64>();
    let months = (1..month).map(|month| i64::from(days(year, month)));
    let day_no = whole_years + months.sum::<i64>() + i64::from(day) - 1;
    let seconds = day_no * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    Some((seconds - zone_minutes * 60) * 1_000_000 + micros)
}

fn days(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole_numbers_of_the_smallest_step() {
        assert_eq!(amount("-12.5"), Some(-25 * UNIT / 2));
        assert_eq!(amount("0.000000000000000001"), Some(1));
        assert_eq!(amount("007"), Some(7 * UNIT));
        for bad in [
            "",
            "-",
            "+1",
            "1.",
            ".1",
            "1e3",
            " 1",
            "1234567890123456789",
            "0.1234567890123456789",
            "١",
        ] {
            assert_eq!(amount(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        for good in [
            "2026-11-21T05:00:00Z",
            "2024-02-29t23:59:60.123456789+23:59",
            "2026-11-21T05:00:00.0-00:00",
        ] {
            assert!(rfc3339_us(good).is_some(), "{good}");
        }
        for (text, time_us) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-21T05:00:00.0405067Z", 1_795_237_200_040_506),
            ("1969-12-31T22:59:59-01:00", -1_000_000),
            ("2024-02-29t23:59:60+23:59", 1_709_164_860_000_000),
        ] {
            assert_eq!(rfc3339_us(text), Some(time_us), "{text}");
        }
        for bad in [
            "2026-11-21",
            "2026-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T05:00:00",
            "2026-11-21T05:00:00.Z",
            "yesterday",
        ] {
            assert_eq!(rfc3339_us(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_change_has_five_fields_and_gives_a_delta() {
        let reasons = |change: &str| {
            let payload = format!(
                r#"{{"eventId":"a","eventType":"balance.changed","data":{{"accountId":1,"changes":[{change}]}}}}"#
            );
            decode(Some(payload.as_bytes()))
                .err()
                .map(|dead| dead.reasons)
        };
        let good = r#"{"currencyCode":"USD","availableDelta":null,"frozenDelta":0}"#;
        assert_eq!(reasons(good), None);
        for bad in [
            r#"{"currencyCode":"USD"}"#,
            r#"{"currencyCode":"USD","availableDelta":null}"#,
            r#"{"currencyCode":"USD","availableDelta":"1","note":null}"#,
        ] {
            assert_eq!(reasons(bad), Some(vec![INVALID_EVENT]), "{bad}");
        }
    }

    #[test]
    fn collects_every_defect() {
        let dead = decode(Some(
            br#"{"eventId":"a","eventType":"x","data":{"changes":[{"availableDelta":"y"}]}}"#,
        ))
        .unwrap_err();
        assert_eq!(
            dead.reasons,
            [UNKNOWN_EVENT_TYPE, INVALID_EVENT, INVALID_AMOUNT]
        );
        assert_eq!(dead.event_id.as_deref(), Some("a"));
    }
}
