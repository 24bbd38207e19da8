//! SQL of the hot path, planned once per session: planning costs a small batch more than its work.
//! Statements that search a table as it grows are planned each time instead, by what it has grown to.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::datum::DatumWithOid;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiTupleTable};

use crate::leader::internal;

thread_local! {
    // Kept for as long as the session, as PostgreSQL keeps plans: it plans anew whatever DDL has touched.
    static PLANS: RefCell<HashMap<&'static str, &'static OwnedPreparedStatement>> = RefCell::default();
}

/// Executes `statement`; each text always comes with the same types of arguments.
pub fn execute<'c>(
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

/// Executes `statement` and answers how many rows it met.
pub fn run(
    client: &mut SpiClient<'_>,
    statement: &'static str,
    args: &[DatumWithOid<'_>],
) -> usize {
    execute(client, statement, args).len()
}
