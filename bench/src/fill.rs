//! Tables as a service has them: accounts that exist, identities that are known, a log.

use tokio_postgres::Client;

use crate::stack::Result;

/// What is sorted in memory at a time.
const PIECE: usize = 5_000_000;
/// As many as the default number of partitions in the other parts.
const PARTITIONS: usize = 8;

/// Empties the ledger, and opens it with accounts numbered from 1.
pub async fn anew(admin: &Client, accounts: usize, known_identities: usize) -> Result<()> {
    admin
        .batch_execute(&format!(
            "TRUNCATE ledger.balance_log, ledger.account_balances, ledger.event_identities;
             INSERT INTO ledger.account_balances (account_id, shard_id, currency_code, available, frozen, updated_msec)
             SELECT n, 0, 'USD', 1000000, 0, 0 FROM generate_series(1, {accounts}) n"
        ))
        .await?;
    identities(admin, known_identities).await?;
    for table in ["account_balances", "event_identities"] {
        let statement = format!("VACUUM (FREEZE, ANALYZE) ledger.{table}");
        admin.batch_execute(&statement).await?;
    }
    Ok(admin.batch_execute("CHECKPOINT").await?)
}

/// Adds random identities, in sorted pieces, as batches bring them.
pub async fn identities(admin: &Client, count: usize) -> Result<()> {
    admin.batch_execute("SET work_mem = '1GB'").await?;
    for from in (0..count).step_by(PIECE) {
        let piece = PIECE.min(count - from);
        admin
            .batch_execute(&format!(
                "INSERT INTO ledger.event_identities
                 SELECT gen_random_uuid() AS identity, gen_random_uuid() FROM generate_series(1, {piece})
                 ORDER BY identity"
            ))
            .await?;
    }
    Ok(())
}

/// Adds rows `from` to `to` of a log of eight partitions, in offset order.
pub async fn log(admin: &Client, from: usize, to: usize) -> Result<()> {
    admin
        .batch_execute(&format!(
            "INSERT INTO ledger.partition_leases (topic, partition)
             SELECT 'bench.log', n FROM generate_series(0, {PARTITIONS} - 1) n ON CONFLICT DO NOTHING;
             INSERT INTO ledger.balance_log (
                kafka_offset, account_id, created_at, partition_id, shard_id, change_no, event_id, currency_code,
                available_delta, frozen_delta, available_after, frozen_after,
                previous_offset, previous_partition_id, previous_change_no)
             SELECT n / {PARTITIONS}, n % 1000000 + 1, now(), l.ids[n % {PARTITIONS} + 1], 0, 0, 'bench-' || lpad(n::text, 30, '0'), 'USD',
                12.5, 0, 1000012.5, 0, n / {PARTITIONS}, l.ids[n % {PARTITIONS} + 1], 0
             FROM generate_series({from}, {to} - 1) n,
                (SELECT array_agg(partition_id ORDER BY partition) AS ids FROM ledger.partition_leases WHERE topic = 'bench.log') l"
        ))
        .await?;
    Ok(())
}
