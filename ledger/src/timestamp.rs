//! RFC 3339 timestamps, to the microsecond.

use crate::fields::text_of_envelope;
use std::ops::RangeInclusive;

/// What an RFC 3339 timestamp can be, in microseconds since 1970: the years 0 to 9999, a day more on either side for
/// other zones. PostgreSQL's `timestamptz` has them all.
pub const RANGE_US: RangeInclusive<i64> = -62_167_305_600_000_000..=253_402_387_200_000_000;

/// Reads an RFC 3339 timestamp as microseconds since 1970-01-01T00:00:00Z; `None` for any
/// other text. Digits behind the microsecond are cut off.
///
/// A leap second may end the last UTC day of a month, as in `1990-12-31T23:59:60Z`; it
/// counts as the second that follows.
pub fn parse_us(text: &str) -> Option<i64> {
    let mut text = Digits(text.as_bytes());
    let year = i64::from(text.take(4)?);
    text.expect(b"-")?;
    let month = text.take(2)?;
    text.expect(b"-")?;
    let day = text.take(2)?;
    text.expect(b"Tt")?;
    let hour = text.take(2)?;
    text.expect(b":")?;
    let minute = text.take(2)?;
    text.expect(b":")?;
    let second = text.take(2)?;
    let micros = text.fraction_us()?;
    let offset_minutes = text.offset_minutes()?;
    let in_range = text.0.is_empty()
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !in_range {
        return None;
    }
    let day_number = days_since_1970(year, month, day);
    let minutes = day_number * MINUTES_PER_DAY + i64::from(hour * 60 + minute) - offset_minutes;
    if second == 60 && !ends_a_month(minutes) {
        return None;
    }
    Some((minutes * 60 + i64::from(second)) * 1_000_000 + micros)
}

const MINUTES_PER_DAY: i64 = 24 * 60;

/// What is left of the text.
struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |value, byte| {
            byte.is_ascii_digit()
                .then(|| value * 10 + u32::from(byte - b'0'))
        })
    }

    fn expect(&mut self, one_of: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        one_of.contains(first).then_some(*first)
    }

    /// `.` and at least one digit, or nothing.
    fn fraction_us(&mut self) -> Option<i64> {
        let Some((b'.', rest)) = self.0.split_first() else {
            return Some(0);
        };
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = rest.split_at(count);
        self.0 = rest;
        let digit = |at: usize| digits.get(at).map_or(0, |byte| i64::from(byte - b'0'));
        (count > 0).then(|| (0..6).fold(0, |micros, at| micros * 10 + digit(at)))
    }

    /// `Z`, or hours and minutes east of UTC.
    fn offset_minutes(&mut self) -> Option<i64> {
        let sign = match self.expect(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.take(2)?;
        self.expect(b":")?;
        let minutes = self.take(2)?;
        (hours <= 23 && minutes <= 59).then(|| sign * i64::from(hours * 60 + minutes))
    }
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, after Howard Hinnant's
/// `days_from_civil`: years begin in March, so that the leap day is the last of its year.
fn days_since_1970(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Whether this is the last minute of a month in UTC.
fn ends_a_month(minutes_since_1970: i64) -> bool {
    let last_of_day = minutes_since_1970.rem_euclid(MINUTES_PER_DAY) == MINUTES_PER_DAY - 1;
    last_of_day && day_of_month(minutes_since_1970.div_euclid(MINUTES_PER_DAY) + 1) == 1
}

/// The inverse of [`days_since_1970`], as far as it is needed.
fn day_of_month(days_since_1970: i64) -> i64 {
    let day_of_era = (days_since_1970 + 719_468).rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month + 2) / 5 + 1
}

/// The timestamp of an envelope in microseconds since 1970, read no further than that. What is no event may have one, too.
pub fn of_envelope(payload: &[u8]) -> Option<i64> {
    text_of_envelope(payload, "timestamp").and_then(|text| parse_us(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        assert_eq!(
            parse_us("1985-04-12T23:20:50.52Z"),
            Some(482_196_050_520_000)
        );
        assert_eq!(
            parse_us("1996-12-19T16:39:57-08:00"),
            parse_us("1996-12-20T00:39:57Z")
        );
        assert_eq!(
            parse_us("1990-12-31T23:59:60Z"),
            parse_us("1991-01-01T00:00:00Z")
        );
        assert_eq!(
            parse_us("1990-12-31T15:59:60-08:00"),
            parse_us("1991-01-01T00:00:00Z")
        );
        assert_eq!(
            parse_us("1937-01-01T12:00:27.87+00:20"),
            parse_us("1937-01-01T11:40:27.870Z")
        );
        assert_eq!(parse_us("1970-01-01t00:00:00z"), Some(0));
        assert_eq!(
            parse_us("2024-02-29T00:00:00.123456789-00:00"),
            Some(1_709_164_800_123_456)
        );
        assert_eq!(
            parse_us("0000-01-01T00:00:00Z"),
            Some(-62_167_219_200_000_000)
        );
        assert_eq!(
            parse_us("9999-12-31T23:59:59.999Z"),
            Some(253_402_300_799_999_000)
        );
    }

    #[test]
    fn what_is_no_timestamp() {
        for text in [
            "",
            "yesterday",
            "2026-11-21",
            "2026-11-21T05:00:00",
            "2026-11-21 05:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T05:60:00Z",
            "2026-11-21T05:00:61Z",
            "2026-11-21T05:00:60Z",
            "2026-11-21T23:59:60Z",
            "2026-11-21T05:00:00.Z",
            "2026-11-21T05:00:00+0200",
            "2026-11-21T05:00:00+24:00",
            "2026-11-21T05:00:00+01:60",
            "2026-11-21T05:00:00Z ",
            "2026-11-21T05:00Z",
            "+2026-11-21T05:00:00Z",
            "2026-11-21T05:00:00,5Z",
            "２026-11-21T05:00:00Z",
            "2026-1-21T05:00:00Z",
        ] {
            assert_eq!(parse_us(text), None, "{text}");
        }
    }

    #[test]
    fn days_follow_each_other() {
        let mut expected = days_since_1970(0, 1, 1);
        for year in 0..=9999 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    assert_eq!(days_since_1970(year, month, day), expected);
                    assert_eq!(day_of_month(expected), i64::from(day));
                    expected += 1;
                }
            }
        }
        assert_eq!(days_since_1970(1970, 1, 1), 0);
    }

    #[test]
    fn leap_seconds_end_months() {
        for year in [0, 4, 1600, 1969, 1970, 1972, 2026, 2400, 9999] {
            for month in 1..=12 {
                let last = days_in_month(year, month);
                assert!(
                    parse_us(&format!("{year:04}-{month:02}-{last:02}T23:59:60Z")).is_some(),
                    "{year}-{month}"
                );
                let earlier = last - 1;
                assert!(
                    parse_us(&format!("{year:04}-{month:02}-{earlier:02}T23:59:60Z")).is_none(),
                    "{year}-{month}"
                );
            }
        }
    }
}
