//! The event families: what their schemas say, values that fit and values that do not, and an
//! independent model of what the handlers make of them.

pub mod domain;
pub mod model;
pub mod partition;
pub mod random;
pub mod schema;
pub mod values;

use serde_json::{Value, json};

/// 2026-01-01T00:00:00Z, in microseconds since 1970: when every generated event happens, or less than a day later.
pub const NEW_YEAR_US: i64 = 1_767_225_600_000_000;

#[derive(Debug, Clone)]
pub struct Event {
    pub event_type: String,
    pub event_id: String,
    pub time_us: i64,
    /// Of its record: between events of one time the later one is the newer.
    pub offset: i64,
    /// Decides between events of one time and offset where handlers are called without the apply, which would take the identity.
    pub tie: u128,
    pub data: Value,
}

impl Event {
    pub fn new(event_type: &str, event_id: &str, time_us: i64, data: Value) -> Self {
        Self {
            event_type: event_type.to_owned(),
            event_id: event_id.to_owned(),
            time_us,
            offset: 0,
            tie: 0,
            data,
        }
    }

    pub fn payload(&self) -> Vec<u8> {
        let envelope = json!({
            "eventId": self.event_id, "eventType": self.event_type,
            "timestamp": timestamp(self.time_us), "data": self.data,
        });
        envelope.to_string().into_bytes()
    }

    /// 32 bytes that sort as events do.
    pub fn version(&self) -> Vec<u8> {
        let time = (self.time_us as u64) ^ (1 << 63);
        let (time, offset) = (time.to_be_bytes(), self.offset.to_be_bytes());
        [&time[..], &offset[..], &self.tie.to_be_bytes()].concat()
    }
}

/// RFC 3339, of a time on New Year's Day 2026.
pub fn timestamp(time_us: i64) -> String {
    let day_us = time_us - NEW_YEAR_US;
    assert!(
        (0..86_400_000_000).contains(&day_us),
        "{time_us} is another day"
    );
    let (second, micros) = (day_us / 1_000_000, day_us % 1_000_000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("2026-01-01T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Microseconds since 1970 of an RFC 3339 time that is known to be one.
pub fn micros(text: &str) -> i64 {
    let number = |from: usize, to: usize| -> i64 { text[from..to].parse().expect(text) };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [
        31,
        28 + i64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ];
    let days = (1970..year)
        .map(|year| 365 + i64::from(is_leap(year)))
        .sum::<i64>()
        + lengths[..month as usize - 1].iter().sum::<i64>()
        + day
        - 1;
    let seconds = days * 86_400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    let zone = text.rfind(['Z', '+', '-']).expect(text);
    let fraction = &text[19..zone];
    let micros: i64 = if fraction.is_empty() {
        0
    } else {
        format!("{:0<6}", &fraction[1..]).parse().expect(text)
    };
    let east = match &text[zone..] {
        "Z" => 0,
        offset => {
            let minutes = number(zone + 1, zone + 3) * 60 + number(zone + 4, zone + 6);
            if offset.starts_with('-') {
                -minutes
            } else {
                minutes
            }
        }
    };
    (seconds - east * 60) * 1_000_000 + micros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for time_us in [NEW_YEAR_US, NEW_YEAR_US + 1, NEW_YEAR_US + 86_399_999_999] {
            assert_eq!(micros(&timestamp(time_us)), time_us);
        }
        assert_eq!(micros("2026-01-01T02:00:00+02:00"), NEW_YEAR_US);
        assert_eq!(micros("2025-12-31T23:30:00.5-00:30"), NEW_YEAR_US + 500_000);
        assert_eq!(micros("2024-03-01T00:00:00Z"), 1_709_251_200_000_000);
    }
}
