-- The single-statement baseline: the batched apply as one SQL statement, which the native apply
-- is measured against. It runs behind a binary COPY into baseline.staging, in the same
-- transaction, and does the same job: fence, identities, balances, log, verdicts, offset.
--
-- It is right only while no two rows of a batch share a balance or an identity, for every
-- part of one statement sees the tables as they were before it. Its caller cuts batches so.
-- It has neither events of several changes nor an order of locks, and would have to gain
-- both, at a price, to be used.
--
-- $1 partition_id, $2 fencing_token, $3 from_offset, $4 next_offset; the answer's `fenced`
-- is 0 where token or offset are stale.
WITH fence AS (
    UPDATE baseline.progress
    SET commit_offset = $4
    WHERE partition_id = $1 AND fencing_token = $2 AND commit_offset = $3
    RETURNING partition_id
), staged AS (
    DELETE FROM baseline.staging
    WHERE (SELECT count(*) FROM fence) = 1
    RETURNING *
), claimed AS (
    INSERT INTO baseline.event_identities (identity, payload_hash)
    SELECT identity, payload_hash FROM staged ORDER BY identity
    ON CONFLICT (identity) DO NOTHING
    RETURNING identity
), fresh AS (
    -- IN, not a join: the planner would expect a join of two CTEs to multiply rows.
    SELECT s.* FROM staged s WHERE s.identity IN (SELECT identity FROM claimed)
), updated AS (
    UPDATE baseline.account_balances b
    SET available = b.available + f.available_delta,
        frozen = b.frozen + f.frozen_delta,
        updated_msec = extract(epoch FROM clock_timestamp()) * 1000
    FROM fresh f
    WHERE b.account_id = f.account_id AND b.shard_id = f.shard_id AND b.currency_code = f.currency_code
        AND b.available + f.available_delta >= 0 AND b.frozen + f.frozen_delta >= 0
        AND b.available + f.available_delta < 1e18 AND b.frozen + f.frozen_delta < 1e18
    RETURNING f.kafka_offset, b.available, b.frozen
), inserted AS (
    -- A balance that exists, but does not allow the change, conflicts and is left alone.
    INSERT INTO baseline.account_balances (account_id, shard_id, currency_code, available, frozen, updated_msec)
    SELECT account_id, shard_id, currency_code, available_delta, frozen_delta, extract(epoch FROM clock_timestamp()) * 1000
    FROM fresh f
    WHERE available_delta >= 0 AND frozen_delta >= 0
        AND NOT EXISTS (SELECT FROM updated u WHERE u.kafka_offset = f.kafka_offset)
    ON CONFLICT (account_id, shard_id, currency_code) DO NOTHING
    RETURNING account_id, shard_id, currency_code, available, frozen
), applied AS (
    SELECT kafka_offset, available, frozen FROM updated
    UNION ALL
    SELECT f.kafka_offset, i.available, i.frozen
    FROM inserted i JOIN fresh f USING (account_id, shard_id, currency_code)
), decided AS (
    SELECT s.*, a.available AS available_after, a.frozen AS frozen_after,
        a.kafka_offset IS NOT NULL AS is_applied,
        -- Looked up only for the few that no claim or no update took.
        CASE WHEN a.kafka_offset IS NULL THEN
            (SELECT o.payload_hash FROM baseline.event_identities o WHERE o.identity = s.identity)
        END AS owner
    FROM staged s LEFT JOIN applied a USING (kafka_offset)
), logged AS (
    INSERT INTO baseline.balance_log (
        kafka_offset, account_id, created_at, partition_id, shard_id, change_no, event_id, currency_code,
        available_delta, frozen_delta, available_after, frozen_after, reject_reason)
    SELECT
        d.kafka_offset, d.account_id, clock_timestamp(), $1, d.shard_id, 0, d.event_id, d.currency_code,
        d.available_delta, d.frozen_delta,
        coalesce(d.available_after, met.available, 0), coalesce(d.frozen_after, met.frozen, 0),
        CASE
            WHEN d.is_applied THEN NULL
            WHEN d.owner IS NOT NULL THEN 'EVENT_ID_CONFLICT'
            WHEN coalesce(met.available, 0) + d.available_delta < 0 THEN 'INSUFFICIENT_BALANCE'
            WHEN coalesce(met.frozen, 0) + d.frozen_delta < 0 THEN 'INSUFFICIENT_FROZEN'
            ELSE 'BALANCE_OVERFLOW'
        END
    FROM decided d
    LEFT JOIN LATERAL (
        SELECT b.available, b.frozen FROM baseline.account_balances b
        WHERE NOT d.is_applied
            AND b.account_id = d.account_id AND b.shard_id = d.shard_id AND b.currency_code = d.currency_code
        OFFSET 0 -- keeps the lookup from being tried for applied rows
    ) met ON true
    WHERE d.owner IS DISTINCT FROM d.payload_hash
    ORDER BY d.kafka_offset
    RETURNING reject_reason
), excepted AS (
    INSERT INTO baseline.verdicts (partition_id, kafka_offset, event_id, verdict)
    SELECT $1, kafka_offset, event_id, 'DUPLICATE' FROM decided WHERE owner = payload_hash
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM fence) AS fenced,
    (SELECT count(*) FROM updated) AS updated_rows,
    (SELECT count(*) FROM inserted) AS inserted_rows,
    (SELECT count(*) FROM logged WHERE reject_reason IS NOT NULL) AS error_rows,
    (SELECT count(*) FROM excepted) AS duplicates
