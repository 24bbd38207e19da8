-- The history of every balance is one chain through all its applied changes: each is the last change
-- of its balance or the previous one of exactly one other, which started from the balance it left.
-- Pruning takes whole pieces out of it: a pointer then leads to an offset below pruned_below, and at most
-- one change older than that piece has lost what pointed to it.
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
), pointed AS (
    SELECT account_id, shard_id, currency_code, c.partition_id, c.kafka_offset, c.change_no, c.previous_offset IS NULL AS is_first,
        count(p.account_id) AS pointed_at,
        bool_or(p.available_met <> c.available_after OR p.frozen_met <> c.frozen_after OR p.created_at < c.created_at) AS differs
    FROM changes c
    LEFT JOIN pointers p USING (account_id, shard_id, currency_code, partition_id, kafka_offset, change_no)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
), dangling AS (
    SELECT account_id, shard_id, currency_code, p.partition_id, p.kafka_offset, p.change_no,
        p.kafka_offset < r.pruned_below AS is_pruned
    FROM pointers p
    LEFT JOIN changes c USING (account_id, shard_id, currency_code, partition_id, kafka_offset, change_no)
    LEFT JOIN ledger.retention r ON r.partition_id = p.partition_id
    WHERE p.kafka_offset IS NOT NULL AND c.kafka_offset IS NULL
)
SELECT account_id, shard_id, currency_code, partition_id, kafka_offset, change_no, pointed_at
FROM pointed
WHERE pointed_at > 1 OR differs
UNION ALL
SELECT account_id, shard_id, currency_code, partition_id, kafka_offset, change_no, -1
FROM dangling
WHERE is_pruned IS NOT TRUE
UNION ALL
-- Each piece that was pruned ends one pointer, and frees one change unless it was the oldest piece.
SELECT account_id, shard_id, currency_code, NULL, NULL, NULL, free - pieces
FROM (
    SELECT account_id, shard_id, currency_code, sum(is_free) AS free, sum(is_piece) AS pieces, bool_or(is_first) AS has_first
    FROM (
        SELECT account_id, shard_id, currency_code, (pointed_at = 0)::int AS is_free, 0 AS is_piece, is_first FROM pointed
        UNION ALL
        SELECT account_id, shard_id, currency_code, 0, 1, false FROM dangling
    ) ends
    GROUP BY account_id, shard_id, currency_code
) balance
WHERE pieces - free <> CASE WHEN has_first THEN 0 ELSE 1 END;
