-- A rejected change met the balance that its account had then. The balances of a batch are locked when its
-- created_at is taken, so created_at orders the changes of an account across partitions: a rejected change met what the
-- next applied change of the account started from or, without one, the balance as it is.
-- An account that another partition opens meanwhile has no row yet that could be locked. A change may have met nothing as
-- long as the batch before it in its partition was made before the account was changed a second time: from then on the row
-- was there to be found. The first batch of a partition has none before it: it looked for its balances after it had set
-- started_at. Of pruned balances only what came after the last change that was pruned.
WITH log AS (
    SELECT l.*,
        count(*) FILTER (WHERE reject_reason IS NULL) OVER account AS applied_since,
        max(created_at) OVER (PARTITION BY partition_id ORDER BY created_at
            RANGE BETWEEN UNBOUNDED PRECEDING AND interval '1 microsecond' PRECEDING) AS batch_before_at
    FROM ledger.balance_log l
    WINDOW account AS (PARTITION BY account_id, shard_id, currency_code ORDER BY created_at DESC, kafka_offset DESC, change_no DESC)
), met AS (
    SELECT l.*,
        first_value(CASE WHEN reject_reason IS NULL THEN available_after - available_delta END) OVER step AS available_then,
        first_value(CASE WHEN reject_reason IS NULL THEN frozen_after - frozen_delta END) OVER step AS frozen_then
    FROM log l
    WINDOW step AS (
        PARTITION BY account_id, shard_id, currency_code, applied_since ORDER BY created_at DESC, kafka_offset DESC, change_no DESC)
), opened AS (
    SELECT account_id, shard_id, currency_code, min(created_at) FILTER (WHERE batch = 2) AS changed_again_at
    FROM (
        SELECT account_id, shard_id, currency_code, created_at,
            dense_rank() OVER (PARTITION BY account_id, shard_id, currency_code ORDER BY created_at) AS batch
        FROM ledger.balance_log
        WHERE reject_reason IS NULL
    ) applied
    GROUP BY account_id, shard_id, currency_code
)
SELECT account_id, shard_id, currency_code, partition_id, kafka_offset, change_no, reject_reason,
    available_after AS available_met, coalesce(available_then, b.available, 0) AS available_then,
    frozen_after AS frozen_met, coalesce(frozen_then, b.frozen, 0) AS frozen_then
FROM met
LEFT JOIN ledger.account_balances b USING (account_id, shard_id, currency_code)
LEFT JOIN ledger.balance_checkpoints c USING (account_id, shard_id, currency_code)
LEFT JOIN opened o USING (account_id, shard_id, currency_code)
LEFT JOIN ledger.partition_progress p USING (partition_id)
WHERE reject_reason IS NOT NULL
    AND (available_after, frozen_after) IS DISTINCT FROM (coalesce(available_then, b.available, 0), coalesce(frozen_then, b.frozen, 0))
    AND (c.pruned_until IS NULL OR created_at > c.pruned_until)
    AND NOT (available_after = 0 AND frozen_after = 0 AND (coalesce(batch_before_at, p.started_at) < o.changed_again_at) IS NOT FALSE);
