//! SQL statements, run by PostgreSQL's server programming interface (SPI).
//!
//! Statements of the hot path are planned once per session, because planning costs a small batch more than its work.
//! Statements that search a growing table are planned at each call instead, for the size that the table has by then.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiTupleTable};

use crate::error::raise;

thread_local! {
    // Kept for the whole session, as PostgreSQL keeps its own plans: it plans again what a DDL command has touched.
    static PLANS: RefCell<HashMap<&'static str, &'static OwnedPreparedStatement>> = RefCell::default();
}

/// Runs a statement that is planned at each call, and answers its rows. It sees what was committed until now.
pub fn query<'c>(
    client: &mut SpiClient<'c>,
    statement: &str,
    args: &[DatumWithOid<'_>],
) -> SpiTupleTable<'c> {
    client
        .update(statement, None, args)
        .unwrap_or_else(internal)
}

/// Runs a statement that is planned at each call, and answers how many rows it returned or changed.
pub fn run(client: &mut SpiClient<'_>, statement: &str, args: &[DatumWithOid<'_>]) -> usize {
    query(client, statement, args).len()
}

/// Runs a statement that this session plans once. Each text must always come with the same types of arguments.
pub fn query_planned<'c>(
    client: &mut SpiClient<'c>,
    statement: &'static str,
    args: &[DatumWithOid<'_>],
) -> SpiTupleTable<'c> {
    let known = PLANS.with_borrow(|plans| plans.get(statement).copied());
    let plan = known.unwrap_or_else(|| {
        let types: Vec<_> = args.iter().map(|arg| arg.oid().into()).collect();
        let plan = client
            .prepare_mut(statement, &types)
            .unwrap_or_else(internal);
        let plan: &'static OwnedPreparedStatement = Box::leak(Box::new(plan.keep()));
        PLANS.with_borrow_mut(|plans| plans.insert(statement, plan));
        plan
    });
    client.update(plan, None, args).unwrap_or_else(internal)
}

/// Runs a statement that this session plans once, and answers how many rows it returned or changed.
pub fn run_planned(
    client: &mut SpiClient<'_>,
    statement: &'static str,
    args: &[DatumWithOid<'_>],
) -> usize {
    query_planned(client, statement, args).len()
}

/// A failure of SPI that PostgreSQL did not raise as an ERROR itself: a defect of this extension.
pub fn internal<T>(error: pgrx::spi::Error) -> T {
    raise(Code::ERRCODE_INTERNAL_ERROR, error.to_string())
}
