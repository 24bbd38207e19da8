//! Why a value of a flag or a setting cannot be meant, in plain words.

use std::error::Error;
use std::net::AddrParseError;
use std::num::{IntErrorKind, ParseIntError};

use crate::words::cause;

/// `value` is what was given, which the reason need not repeat.
pub fn reason(error: &(dyn Error + 'static), value: &str) -> String {
    if let Some(error) = cause::<ParseIntError>(error) {
        let words = match error.kind() {
            IntErrorKind::PosOverflow => "is too large a number",
            IntErrorKind::NegOverflow => "is too small a number",
            _ => "is not a whole number",
        };
        return words.to_owned();
    }
    if cause::<AddrParseError>(error).is_some() {
        return "is not an IP address".to_owned();
    }
    let text = error.to_string();
    // clap repeats the value: `0 is not in 1..=100000`.
    let text = text
        .strip_prefix(value)
        .map_or(text.as_str(), str::trim_start);
    match text
        .strip_prefix("is not in ")
        .and_then(|range| range.split_once(".."))
    {
        Some((least, "")) => format!("must be at least {least}"),
        Some((least, most)) => {
            let most = most.trim_start_matches('=');
            format!("must be from {least} to {most}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_is_refused_without_words_of_a_library() {
        let told = |text: &str, value: &str| reason(&*Box::<dyn Error>::from(text), value);
        assert_eq!(told("0 is not in 1..=100", "0"), "must be from 1 to 100");
        assert_eq!(told("0 is not in 1..", "0"), "must be at least 1");
        assert_eq!(told("not between 0 and 1", "7"), "not between 0 and 1");
        let number = "many".parse::<u32>().expect_err("no number");
        assert_eq!(reason(&number, "many"), "is not a whole number");
        let address = "here".parse::<std::net::IpAddr>().expect_err("no address");
        assert_eq!(reason(&address, "here"), "is not an IP address");
    }
}
