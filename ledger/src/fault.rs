//! Whose fault an error of PostgreSQL is. The rule stands here once, for batches, handlers and replays.

/// SQLSTATEs outside classes 22 and 23 that tell of the record, with what raises them.
const LISTED: [&str; 8] = [
    "P0001", // RAISE EXCEPTION in a trigger or handler
    "P0002", // SELECT … INTO STRICT found no row
    "P0003", // … or several
    "P0004", // ASSERT
    "09000", // a trigger changed or skipped a balance
    "21000", // a subquery or an ON CONFLICT met several rows where one may be
    "44000", // WITH CHECK OPTION of a view
    "54000", // a value that is too large for an index
];

/// And what a handler of domain events is refused because it may not do it: the handler breaks on the event.
const REFUSED_TO_HANDLERS: [&str; 4] = [
    "0A000", // what no function may do
    "25001", // … or not within a transaction
    "2D000", // COMMIT
    "42501", // what its role may not do
];

/// The same for an error inside a handler.
pub fn is_of_the_handled_event(sqlstate: &str) -> bool {
    is_of_the_record(sqlstate) || REFUSED_TO_HANDLERS.contains(&sqlstate)
}

/// Whether an error with this SQLSTATE is the fault of the record that met it, so that the record may become a dead letter.
/// Every other error is trouble of the database, and no reason to give up a record.
pub fn is_of_the_record(sqlstate: &str) -> bool {
    matches!(sqlstate.get(..2), Some("22" | "23")) || LISTED.contains(&sqlstate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_trouble_of_the_database() {
        for sqlstate in ["22012", "22P02", "23505", "23514", "P0001", "21000"] {
            assert!(is_of_the_record(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["42501", "2D000"] {
            assert!(!is_of_the_record(sqlstate), "{sqlstate}");
            assert!(is_of_the_handled_event(sqlstate), "{sqlstate}");
        }
        for sqlstate in [
            "XX000", "26000", "72000", "25P02", "55000", "42P01", "38000", "P0000", "HV000",
            "40P01", "", "2",
        ] {
            assert!(!is_of_the_record(sqlstate), "{sqlstate}");
        }
    }
}
