-- Within a partition, each change of an account meets the balance that the change before it
-- left. Only accounts of a single partition without replayed records, for the others the order of
-- commits decides; and only those of which nothing was pruned, for the others see check_history.sql.
WITH changes AS (
    SELECT account_id, shard_id, currency_code, partition_id, kafka_offset, change_no, reject_reason,
        available_delta, frozen_delta, available_after, frozen_after,
        lag(available_after, 1, 0) OVER account AS available_met,
        lag(frozen_after, 1, 0) OVER account AS frozen_met,
        min(partition_id) OVER everything <> max(partition_id) OVER everything
            OR bool_or(replayed IS NOT NULL) OVER everything AS by_commit
    FROM ledger.balance_log
    LEFT JOIN (
        SELECT p.partition_id, d.kafka_offset, true AS replayed
        FROM ledger.dead_letters d
        JOIN ledger.partition_leases p USING (topic, partition)
        WHERE d.status = 'REPLAYED'
    ) r USING (partition_id, kafka_offset)
    WHERE reject_reason IS NULL
        AND (account_id, shard_id, currency_code) NOT IN (SELECT account_id, shard_id, currency_code FROM ledger.balance_checkpoints)
    WINDOW
        account AS (PARTITION BY account_id, shard_id, currency_code ORDER BY kafka_offset, change_no),
        everything AS (PARTITION BY account_id, shard_id, currency_code)
)
SELECT account_id, shard_id, currency_code, partition_id, kafka_offset, change_no,
    available_met, available_delta, available_after, frozen_met, frozen_delta, frozen_after
FROM changes
WHERE NOT by_commit
    AND (available_met + available_delta <> available_after OR frozen_met + frozen_delta <> frozen_after);
