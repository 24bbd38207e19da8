-- The running balances of every account form one unbroken chain from zero to its balance.
-- Each change starts from the balance that another one left: taken as multisets, what the
-- changes met plus the last balance equals what they left plus zero. Needs no order, so it
-- holds for accounts that several partitions touch. Only balances of which nothing was pruned; for the
-- others check_history.sql follows what is left of the chain.
WITH links AS (
    SELECT account_id, shard_id, currency_code,
        available_after - available_delta AS available, frozen_after - frozen_delta AS frozen, 1 AS met
    FROM ledger.balance_log WHERE reject_reason IS NULL
    UNION ALL
    SELECT account_id, shard_id, currency_code, available_after, frozen_after, -1
    FROM ledger.balance_log WHERE reject_reason IS NULL
    UNION ALL
    SELECT account_id, shard_id, currency_code, available, frozen, 1 FROM ledger.account_balances
    UNION ALL
    SELECT account_id, shard_id, currency_code, 0, 0, -1 FROM ledger.account_balances
)
SELECT account_id, shard_id, currency_code, available, frozen, sum(met) AS surplus
FROM links
WHERE (account_id, shard_id, currency_code) NOT IN (SELECT account_id, shard_id, currency_code FROM ledger.balance_checkpoints)
GROUP BY account_id, shard_id, currency_code, available, frozen
HAVING sum(met) <> 0;
