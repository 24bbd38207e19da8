//! Whose fault an error of PostgreSQL is: the one rule for batches, handlers and replays.

/// SQLSTATEs outside classes 22 and 23 that are the record's fault, with what raises them.
const LISTED: [&str; 7] = [
    "P0001", // RAISE EXCEPTION in a trigger or handler
    "P0002", // SELECT … INTO STRICT found no row
    "P0003", // … or several
    "P0004", // ASSERT
    "09000", // a trigger changed or skipped a balance
    "21000", // a subquery or an ON CONFLICT met several rows where one may be
    "44000", // WITH CHECK OPTION of a view
];

/// A limit was reached: that of one row, or one of the whole database, as when its transaction ids are used up or its
/// queue of notifications is full.
const LIMIT_REACHED: &str = "54000";

/// The beginnings of those messages of [`LIMIT_REACHED`] that are about one row. Any other message, also one in another
/// language, is the database's fault.
const LIMITS_OF_A_ROW: [&str; 4] = [
    "index row size ",
    "index row requires ",
    "row is too big: ",
    "string is too long for tsvector ",
];

/// SQLSTATEs for actions that a handler of domain events may not do: they count as a failure on the event.
const REFUSED_TO_HANDLERS: [&str; 4] = [
    "0A000", // what no function may do
    "25001", // … or not within a transaction
    "2D000", // COMMIT
    "42501", // what its role may not do
];

/// The same for an error inside a handler.
pub fn is_of_the_handled_event(sqlstate: &str, message: &str) -> bool {
    is_of_the_record(sqlstate, message) || REFUSED_TO_HANDLERS.contains(&sqlstate)
}

/// Whether an error with this SQLSTATE and message is the fault of the record that caused it, so that the record may
/// become a dead letter. Every other error is the database's, and makes no dead letter.
pub fn is_of_the_record(sqlstate: &str, message: &str) -> bool {
    let is_limit_of_a_row = || {
        let mut beginnings = LIMITS_OF_A_ROW.iter();
        sqlstate == LIMIT_REACHED && beginnings.any(|beginning| message.starts_with(beginning))
    };
    matches!(sqlstate.get(..2), Some("22" | "23"))
        || LISTED.contains(&sqlstate)
        || is_limit_of_a_row()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_trouble_of_the_database() {
        for sqlstate in ["22012", "22P02", "23505", "23514", "P0001", "21000"] {
            assert!(is_of_the_record(sqlstate, ""), "{sqlstate}");
        }
        for sqlstate in ["42501", "2D000"] {
            assert!(!is_of_the_record(sqlstate, ""), "{sqlstate}");
            assert!(is_of_the_handled_event(sqlstate, ""), "{sqlstate}");
        }
        for sqlstate in [
            "XX000", "26000", "72000", "25P02", "55000", "42P01", "38000", "P0000", "HV000",
            "40P01", "", "2",
        ] {
            assert!(!is_of_the_record(sqlstate, ""), "{sqlstate}");
        }
    }

    #[test]
    fn a_limit_of_the_database_is_no_fault_of_the_record() {
        for message in [
            "index row size 2800 exceeds btree version 4 maximum 2704 for index \"notes_body_idx\"",
            "index row size 8200 exceeds hash maximum 8152",
            "index row requires 12016 bytes, maximum size is 8191",
            "row is too big: size 8200, maximum size 8160",
            "string is too long for tsvector (2000000 bytes, max 1048575 bytes)",
        ] {
            assert!(is_of_the_record("54000", message), "{message}");
            assert!(is_of_the_handled_event("54000", message), "{message}");
            // The message alone, with another SQLSTATE, does not count.
            assert!(!is_of_the_record("XX000", message), "{message}");
        }
        for message in [
            "multixact \"members\" limit exceeded",
            "database is not accepting commands to avoid wraparound data loss in database \"ledger\"",
            "database is not accepting commands that generate new MultiXactIds to avoid wraparound data loss in database \"ledger\"",
            "too many notifications in the NOTIFY queue",
            "cannot have more than 2^32-2 commands in a transaction",
            "the index row size 1",
            "",
        ] {
            assert!(!is_of_the_record("54000", message), "{message}");
            assert!(!is_of_the_handled_event("54000", message), "{message}");
        }
    }
}
