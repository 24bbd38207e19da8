-- The history of every balance is one chain through all its applied changes: each is the last change
-- of its balance or the previous one of exactly one other, which started from the balance it left.
WITH pointers AS (
    SELECT account_id, shard_id, currency_code, last_partition_id AS partition_id, last_offset AS kafka_offset,
        last_change_no AS change_no, available AS available_met, frozen AS frozen_met, 'infinity'::timestamptz AS created_at
    FROM ledger.account_balances
    UNION ALL
    SELECT account_id, shard_id, currency_code, previous_partition_id, previous_offset, previous_change_no,
        available_after - available_delta, frozen_after - frozen_delta, created_at
    FROM ledger.balance_log
    WHERE reject_reason IS NULL
), changes AS (
    SELECT * FROM ledger.balance_log WHERE reject_reason IS NULL
)
SELECT account_id, shard_id, currency_code, c.partition_id, c.kafka_offset, c.change_no, count(p.account_id) AS pointed_at
FROM changes c
LEFT JOIN pointers p USING (account_id, shard_id, currency_code, partition_id, kafka_offset, change_no)
GROUP BY 1, 2, 3, 4, 5, 6
HAVING count(p.account_id) <> 1
    OR bool_or(p.available_met <> c.available_after OR p.frozen_met <> c.frozen_after OR p.created_at < c.created_at)
UNION ALL
SELECT account_id, shard_id, currency_code, p.partition_id, p.kafka_offset, p.change_no, -1
FROM pointers p
LEFT JOIN changes c USING (account_id, shard_id, currency_code, partition_id, kafka_offset, change_no)
WHERE p.kafka_offset IS NOT NULL AND c.kafka_offset IS NULL;
