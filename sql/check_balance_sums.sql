-- The applied deltas of every account, those pruned included, add up to its balance.
SELECT account_id, shard_id, currency_code,
    b.available, s.available AS available_by_log, b.frozen, s.frozen AS frozen_by_log
FROM ledger.account_balances b
FULL JOIN (
    SELECT account_id, shard_id, currency_code, sum(available_delta) AS available, sum(frozen_delta) AS frozen
    FROM (
        SELECT account_id, shard_id, currency_code, available_delta, frozen_delta FROM ledger.balance_log WHERE reject_reason IS NULL
        UNION ALL
        SELECT account_id, shard_id, currency_code, available, frozen FROM ledger.balance_checkpoints
    ) changes
    GROUP BY account_id, shard_id, currency_code
) s USING (account_id, shard_id, currency_code)
WHERE b.available IS DISTINCT FROM s.available OR b.frozen IS DISTINCT FROM s.frozen;
