//! Accounts and identities that either side knows beforehand, and their logs.

use crate::stack::{Result, Stack};

use super::workload::{ACCOUNTS, OPENING_WHOLE};

/// Unless another part has done so: creates the baseline's tables, and fills both sides alike.
pub async fn open(stack: &Stack) -> Result<()> {
    let admin = stack.admin().await?;
    let exists = "SELECT to_regclass('baseline.progress') IS NOT NULL";
    if admin.query_one(exists, &[]).await?.get(0) {
        return Ok(());
    }
    eprintln!("opening {ACCOUNTS} accounts on either side");
    admin
        .batch_execute(include_str!("../../../sql/baseline_schema.sql"))
        .await?;
    admin
        .batch_execute(&format!(
            "INSERT INTO baseline.progress VALUES (1, 1, 0);
             INSERT INTO ledger.account_balances
             SELECT n, 0, 'USD', {OPENING_WHOLE}, 0, 0 FROM generate_series(1, {ACCOUNTS}) n;
             INSERT INTO baseline.account_balances SELECT * FROM ledger.account_balances ORDER BY account_id;
             INSERT INTO baseline.event_identities SELECT * FROM ledger.event_identities ORDER BY identity;"
        ))
        .await?;
    for table in [
        "ledger.account_balances",
        "baseline.account_balances",
        "baseline.event_identities",
    ] {
        admin
            .batch_execute(&format!("VACUUM (FREEZE, ANALYZE) {table}"))
            .await?;
    }
    admin.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// Lets the next workload begin with empty logs, as the one before it did.
pub async fn empty_logs(stack: &Stack) -> Result<()> {
    let admin = stack.admin().await?;
    admin
        .batch_execute("TRUNCATE ledger.balance_log, baseline.balance_log, baseline.bare_log")
        .await?;
    Ok(())
}

/// That the log has this many changes since it was emptied, none of them rejected.
pub async fn expect_applied(stack: &Stack, changes: usize) -> Result<()> {
    let admin = stack.admin().await?;
    let row = admin
        .query_one(
            "SELECT count(*) FILTER (WHERE reject_reason IS NULL), count(*) FROM ledger.balance_log",
            &[],
        )
        .await?;
    let (applied, logged): (i64, i64) = (row.get(0), row.get(1));
    if (applied, logged) == (changes as i64, changes as i64) {
        Ok(())
    } else {
        Err(
            format!("{logged} changes are logged, {applied} of them applied, expected {changes}")
                .into(),
        )
    }
}
