//! Errors by consequence: one function says what follows from what the database answered.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_postgres::error::SqlState;

use crate::db::TLS_NAMES;
use crate::tls;

/// What an error asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Outside our control and passing: the same again, for as long as it takes.
    Retry,
    /// Lost a race that the next try wins.
    RetryAtOnce,
    /// Leadership is lost.
    Reacquire,
    /// A record breaks the apply: find it.
    Reject,
    /// A handler breaks on too much, or is paused: somebody has to mend it.
    Pause,
    /// The partition is paused by hand: somebody has to resume it.
    Wait,
    /// Configuration, schema or privileges are wrong; trying alone does not mend that.
    Halt,
}

impl Consequence {
    pub const ALL: [Self; 7] = [
        Self::Retry,
        Self::RetryAtOnce,
        Self::Reacquire,
        Self::Reject,
        Self::Pause,
        Self::Wait,
        Self::Halt,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::RetryAtOnce => "retry_at_once",
            Self::Reacquire => "reacquire",
            Self::Reject => "reject",
            Self::Pause => "pause",
            Self::Wait => "wait",
            Self::Halt => "halt",
        }
    }
}

/// Sorts an error of tokio-postgres; what is no answer of the server is a connection that failed.
pub fn consequence(error: &tokio_postgres::Error) -> Consequence {
    match error.as_db_error() {
        Some(answer) => of_sqlstate(answer.code().code(), answer.constraint()),
        None => Consequence::Retry,
    }
}

/// Sorts a SQLSTATE.
pub fn of_sqlstate(code: &str, constraint: Option<&str>) -> Consequence {
    match (code, &code[..2.min(code.len())]) {
        // Another partition opened the same account; now it is there to be found.
        ("23505", _) if constraint == Some("account_balances_pkey") => Consequence::RetryAtOnce,
        ("40001" | "40P01", _) => Consequence::RetryAtOnce,
        (ledger::contract::sqlstate::STALE, _) => Consequence::Reacquire,
        // Read-only: connected to a standby during a failover.
        ("55P03" | "25006" | "25P03" | "XX001" | "XX002", _) => Consequence::Retry,
        (ledger::contract::sqlstate::HANDLER_BROKEN, _) => Consequence::Pause,
        (ledger::contract::sqlstate::PARTITION_PAUSED, _) => Consequence::Wait,
        ("22023" | "22004", _) => Consequence::Halt,
        (_, "08" | "40" | "53" | "57" | "58") => Consequence::Retry,
        (_, "0A" | "28" | "3D" | "3F" | "42" | "54" | "55") => Consequence::Halt,
        _ => Consequence::Reject,
    }
}

/// One line for people: the server's words, or the whole chain of causes, with what to change if that is known.
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
    }
    let text = chain(error);
    match tls::advice(&text, &TLS_NAMES) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// Whether an error at connecting will stay until someone changes the configuration.
pub fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let text = chain(error);
    // A certificate that we refuse, or that the server misses.
    let will_not_heal =
        text.contains("password missing") || tls::advice(&text, &TLS_NAMES).is_some();
    let codes = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
    ];
    will_not_heal
        || error
            .code()
            .is_some_and(|code| codes.contains(code) || *code == SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Waits between tries: doubling from 50 ms to 5 s, jittered so that instances do not march in step.
pub fn back_off() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_has_its_consequence() {
        use Consequence::{Halt, Pause, Reacquire, Reject, Retry, RetryAtOnce, Wait};
        for (code, constraint, expected) in [
            ("08006", None, Retry),
            ("40001", None, RetryAtOnce),
            ("40P01", None, RetryAtOnce),
            ("53100", None, Retry),
            ("53300", None, Retry),
            ("57P01", None, Retry),
            ("57014", None, Retry),
            ("58030", None, Retry),
            ("55P03", None, Retry),
            ("25006", None, Retry),
            ("25P03", None, Retry),
            ("XX001", None, Retry),
            ("23505", Some("account_balances_pkey"), RetryAtOnce),
            ("23505", Some("someone_elses_key"), Reject),
            ("23514", None, Reject),
            ("22003", None, Reject),
            ("P0001", None, Reject),
            ("09000", None, Reject),
            ("XX000", None, Reject),
            ("55000", None, Reacquire),
            ("38000", None, Pause),
            ("55006", None, Wait),
            ("42P01", None, Halt),
            ("42501", None, Halt),
            ("42883", None, Halt),
            ("0A000", None, Halt),
            ("28P01", None, Halt),
            ("3D000", None, Halt),
            ("3F000", None, Halt),
            ("54000", None, Halt),
            ("22023", None, Halt),
        ] {
            assert_eq!(
                of_sqlstate(code, constraint),
                expected,
                "{code} {constraint:?}"
            );
        }
    }

    #[test]
    fn waits_grow_to_a_cap() {
        let waits: Vec<Duration> = back_off().take(20).collect();
        assert!(waits[0] < Duration::from_millis(200));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)));
    }
}
