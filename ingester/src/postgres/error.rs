//! Errors by consequence: one function maps the database's answer to its consequence.

use ledger::contract::{routine, sqlstate};
use ledger::fault;
use tokio_postgres::error::SqlState;

use crate::postgres::database::TLS_NAMES;
use crate::{tls, words};

/// The consequence of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// Outside our control and temporary: retry the same, for as long as it takes.
    Retry,
    /// Lost a race; the next try wins.
    RetryAtOnce,
    /// Leadership is lost.
    Reacquire,
    /// The apply fails on a record: find it.
    Reject,
    /// Unclassified: retry the same, but find the record that causes it.
    Unclassified,
    /// An operator has ordered to bury a record of the batch.
    Bury,
    /// A handler fails on too many events, or is paused: a person has to repair it.
    Pause,
    /// The partition is paused: a person has to resume it.
    Wait,
    /// Configuration, schema or privileges are wrong; retrying does not help.
    Halt,
}

impl Consequence {
    pub const ALL: [Self; 9] = [
        Self::Retry,
        Self::RetryAtOnce,
        Self::Reacquire,
        Self::Reject,
        Self::Unclassified,
        Self::Bury,
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
            Self::Unclassified => "unclassified",
            Self::Bury => "bury",
            Self::Pause => "pause",
            Self::Wait => "wait",
            Self::Halt => "halt",
        }
    }
}

/// Classifies an error of tokio-postgres; an error that is no answer of the server is a failed connection.
pub fn consequence(error: &tokio_postgres::Error) -> Consequence {
    match error.as_db_error() {
        Some(answer) => of_answer(
            answer.code().code(),
            answer.message(),
            answer.constraint(),
            answer.routine(),
        ),
        None => Consequence::Retry,
    }
}

/// Whether the extension raised it itself: then it is not the fault of a trigger, a handler or a record.
pub fn is_ours(error: &tokio_postgres::Error) -> bool {
    let routine = error.as_db_error().and_then(|answer| answer.routine());
    matches!(routine, Some(routine::SLUICE | routine::FENCE))
}

/// The offset of the record to bury.
pub fn ordered_offset(error: &tokio_postgres::Error) -> Option<i64> {
    let detail = error.as_db_error()?.detail()?;
    detail.lines().next()?.trim().parse().ok()
}

/// Classifies a SQLSTATE. `routine` is where it was raised: only the extension reports leadership, pauses and orders.
pub fn of_answer(
    code: &str,
    message: &str,
    constraint: Option<&str>,
    raised_by: Option<&str>,
) -> Consequence {
    let ours = match raised_by {
        Some(routine::FENCE) if code == sqlstate::STALE => Some(Consequence::Reacquire),
        Some(routine::SLUICE) => of_the_extension(code),
        _ => None,
    };
    ours.unwrap_or_else(|| of_sqlstate(code, message, constraint))
}

/// The consequence of a SQLSTATE that the extension raises.
fn of_the_extension(code: &str) -> Option<Consequence> {
    match code {
        sqlstate::HANDLER_BROKEN => Some(Consequence::Pause),
        sqlstate::PARTITION_PAUSED => Some(Consequence::Wait),
        sqlstate::BURIAL_ORDERED => Some(Consequence::Bury),
        sqlstate::STAGING_MISMATCH => Some(Consequence::Retry),
        sqlstate::INVALID_PARAMETER | "22004" | "54000" => Some(Consequence::Halt),
        _ => None,
    }
}

/// The consequence of a SQLSTATE from PostgreSQL, a trigger or a handler. One that is not listed never makes a dead
/// letter.
fn of_sqlstate(code: &str, message: &str, constraint: Option<&str>) -> Consequence {
    match (code, &code[..2.min(code.len())]) {
        // Another partition created the same account; the next try finds it.
        ("23505", _) if constraint == Some("account_balances_pkey") => Consequence::RetryAtOnce,
        ("40001" | "40P01", _) => Consequence::RetryAtOnce,
        // Read-only: connected to a standby during a failover.
        ("55P03" | "25006" | "25P03", _) => Consequence::Retry,
        // No such database: it may be missing for a moment while it is swapped.
        ("3D000", _) => Consequence::Retry,
        (_, "08" | "40" | "53" | "57" | "58") => Consequence::Retry,
        (code, _) if fault::is_of_the_record(code, message) => Consequence::Reject,
        (_, "0A" | "28" | "3F" | "42") => Consequence::Halt,
        _ => Consequence::Unclassified,
    }
}

/// The message for a server that accepts no writes, and what to do.
pub const STANDBY: &str = "it is a standby, or default_transaction_read_only is on; connect to the primary, for example by \
     several hosts in the address with target_session_attrs=read-write";

/// One line for people: what PostgreSQL said, or what became of the connection, with what to change if that is known.
pub fn describe(error: &tokio_postgres::Error) -> String {
    let Some(answer) = error.as_db_error() else {
        return of_connection(error);
    };
    let (message, code) = (cut(answer.message()), answer.code().code());
    match advice(code) {
        Some(advice) => format!("{message} (SQLSTATE {code}); {advice}"),
        None => format!("{message} (SQLSTATE {code})"),
    }
}

/// The same for an attempt to open a session of the server at `address`.
pub fn describe_at(address: &str, error: &tokio_postgres::Error) -> String {
    let told = describe(error);
    match error.as_db_error() {
        Some(_) if is_of_standby(error) => {
            format!("PostgreSQL at {address} is read-only, and said: {told}")
        }
        Some(_) => format!("PostgreSQL at {address} said: {told}"),
        None => format!("cannot reach PostgreSQL at {address}: {told}"),
    }
}

/// Whether a server refused to write: a standby, or a server that is set to read-only.
pub fn is_of_standby(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

/// What to change, if PostgreSQL's message does not tell.
fn advice(code: &str) -> Option<&'static str> {
    match code {
        "25006" => Some(STANDBY),
        "28P01" => Some("the address must name a login of this server and its password"),
        "53300" => Some(
            "raise max_connections of the server or the login's CONNECTION LIMIT, or lower DB_POOL_SIZE",
        ),
        _ => None,
    }
}

/// A connection that failed without an answer of the server.
fn of_connection(error: &tokio_postgres::Error) -> String {
    let raw = words::raw(error);
    let told = if raw.contains("does not allow writes") {
        format!("every host is read-only: {}", STANDBY)
    } else if raw.contains("password missing") {
        "the server asks for a password, and the address has none".to_owned()
    } else if raw.starts_with("error performing TLS handshake") {
        let (_, reason) = raw.split_once(": ").unwrap_or(("", "no reason is given"));
        format!("TLS handshake failed: {}", tls::words(reason))
    } else if let Some(io) = words::cause::<std::io::Error>(error) {
        words::of_io(io)
    } else if error.is_closed() {
        "PostgreSQL closed the connection".to_owned()
    } else if raw.starts_with("timeout") {
        "no answer in time".to_owned()
    } else if let Some(reason) = raw.strip_prefix("authentication error: ") {
        format!("the login failed: {reason}")
    } else {
        format!("the answer cannot be used: {}", raw.replace('`', ""))
    };
    match tls::advice(&raw, &TLS_NAMES) {
        Some(advice) => format!("{told}; {advice}"),
        None => told,
    }
}

/// The length to which a log line and a dead letter shorten the message of a trigger.
fn cut(message: &str) -> &str {
    match message.char_indices().nth(4_000) {
        Some((end, _)) => &message[..end],
        None => message,
    }
}

/// Whether a connection error lasts until someone changes the configuration.
pub fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let text = words::raw(error);
    // A certificate that we refuse, or that the server requires and does not get.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_has_its_consequence() {
        use Consequence::{Halt, Reject, Retry, RetryAtOnce, Unclassified};
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
            ("23505", Some("account_balances_pkey"), RetryAtOnce),
            ("23505", Some("someone_elses_key"), Reject),
            ("23514", None, Reject),
            ("22003", None, Reject),
            ("22023", None, Reject),
            ("22P05", None, Reject),
            ("P0001", None, Reject),
            ("09000", None, Reject),
            ("54000", None, Unclassified),
            ("42P01", None, Halt),
            ("42501", None, Halt),
            ("42883", None, Halt),
            ("0A000", None, Halt),
            ("28P01", None, Halt),
            ("3D000", None, Retry),
            ("3F000", None, Halt),
            ("XX000", None, Unclassified),
            ("XX001", None, Unclassified),
            ("XX002", None, Unclassified),
            ("26000", None, Unclassified),
            ("72000", None, Unclassified),
            ("25P02", None, Unclassified),
            ("25001", None, Unclassified),
            ("2F003", None, Unclassified),
            ("HV000", None, Unclassified),
            ("P0000", None, Unclassified),
            ("ABCDE", None, Unclassified),
            ("", None, Unclassified),
        ] {
            assert_eq!(
                of_answer(code, "", constraint, Some("exec_stmt_raise")),
                expected,
                "{code} {constraint:?}"
            );
        }
    }

    #[test]
    fn what_the_extension_alone_may_say_is_nothing_of_the_kind_from_others() {
        use Consequence::{Bury, Halt, Pause, Reacquire, Reject, Retry, Unclassified, Wait};
        for (code, routine, from_the_extension, from_others) in [
            ("55000", routine::FENCE, Reacquire, Unclassified),
            ("38000", routine::SLUICE, Pause, Unclassified),
            ("55006", routine::SLUICE, Wait, Unclassified),
            ("39000", routine::SLUICE, Bury, Unclassified),
            ("XX001", routine::SLUICE, Retry, Unclassified),
            ("22023", routine::SLUICE, Halt, Reject),
            ("22004", routine::SLUICE, Halt, Reject),
            ("54000", routine::SLUICE, Halt, Unclassified),
            // Raised by the extension, but not by the fence.
            ("55000", routine::SLUICE, Unclassified, Unclassified),
            ("P0001", routine::SLUICE, Reject, Reject),
        ] {
            assert_eq!(
                of_answer(code, "", None, Some(routine)),
                from_the_extension,
                "{code}"
            );
            for other in [
                None,
                Some("exec_stmt_raise"),
                Some("CheckCmdReplicaIdentity"),
            ] {
                assert_eq!(
                    of_answer(code, "", None, other),
                    from_others,
                    "{code} {other:?}"
                );
            }
        }
    }

    #[test]
    fn a_limit_of_the_database_rejects_no_record() {
        for (message, expected) in [
            (
                "index row size 2800 exceeds btree version 4 maximum 2704 for index \"i\"",
                Consequence::Reject,
            ),
            (
                "index row requires 12016 bytes, maximum size is 8191",
                Consequence::Reject,
            ),
            (
                "multixact \"members\" limit exceeded",
                Consequence::Unclassified,
            ),
            (
                "database is not accepting commands to avoid wraparound data loss in database \"d\"",
                Consequence::Unclassified,
            ),
            (
                "too many notifications in the NOTIFY queue",
                Consequence::Unclassified,
            ),
        ] {
            let found = of_answer("54000", message, None, Some("exec_stmt_raise"));
            assert_eq!(found, expected, "{message}");
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(cut("é"), "é");
        assert_eq!(cut(&"é".repeat(5_000)), "é".repeat(4_000));
    }
}
