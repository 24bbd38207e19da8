SET LOCAL ROLE sluice_owner;

-- How far sluice.prune has come. A row of its own, so that no batch waits for it.
CREATE TABLE ledger.retention (
    partition_id integer PRIMARY KEY,
    pruned_below bigint NOT NULL CHECK (pruned_below >= 0),
    pruned_at timestamptz NOT NULL,
    pruned_by text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE ledger.retention IS 'Per partition, the offset below which records were pruned: nothing is left of them but dead letters that are still open.';

-- What the pruned changes of each balance add up to, so that it can still be verified.
CREATE TABLE ledger.balance_checkpoints (
    account_id bigint NOT NULL,
    shard_id integer NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    -- Of one partition alone they may add up to what no balance could be.
    available numeric NOT NULL,
    frozen numeric NOT NULL,
    pruned_until timestamptz NOT NULL,
    PRIMARY KEY (account_id, shard_id, currency_code)
);
COMMENT ON TABLE ledger.balance_checkpoints IS 'Sums of the applied changes of each balance that sluice.prune has removed from the log. With the log that is left they make the balance.';
COMMENT ON COLUMN ledger.balance_checkpoints.pruned_until IS 'When the latest of the removed changes was made: from there on the balance is known.';

-- The age of a verdict that has no row in the log. What is there already counts from now on.
ALTER TABLE ledger.verdicts ADD created_at timestamptz NOT NULL DEFAULT now();

-- Where the changes before it were pruned, a history begins with the balance brought forward.
CREATE OR REPLACE VIEW ledger.account_history AS
SELECT b.account_id, b.shard_id, b.currency_code, h.nth,
    CASE WHEN h.partition_id IS NOT NULL THEN h.created_at ELSE (
        SELECT c.pruned_until FROM ledger.balance_checkpoints c
        WHERE c.account_id = b.account_id AND c.shard_id = b.shard_id AND c.currency_code = b.currency_code
    ) END AS created_at,
    h.available_delta, h.frozen_delta, h.available_after, h.frozen_after,
    h.event_id, h.source,
    (SELECT p.topic FROM ledger.partition_leases p WHERE p.partition_id = h.partition_id) AS topic,
    (SELECT p.partition FROM ledger.partition_leases p WHERE p.partition_id = h.partition_id) AS partition,
    h.kafka_offset, h.change_no
FROM ledger.account_balances b
CROSS JOIN LATERAL (
    WITH RECURSIVE chain AS (
        SELECT l.partition_id, l.kafka_offset, l.change_no, l.created_at, l.event_id, l.source, l.available_delta, l.frozen_delta,
            coalesce(l.available_after, b.available) AS available_after, coalesce(l.frozen_after, b.frozen) AS frozen_after,
            l.previous_partition_id, l.previous_offset, l.previous_change_no, 1::bigint AS nth
        FROM (VALUES (b.last_partition_id, b.last_offset, b.last_change_no)) AS last (partition_id, kafka_offset, change_no)
        LEFT JOIN ledger.balance_log l USING (partition_id, kafka_offset, change_no)
        WHERE last.kafka_offset IS NOT NULL
        UNION ALL
        SELECT l.partition_id, l.kafka_offset, l.change_no, l.created_at, l.event_id, l.source, l.available_delta, l.frozen_delta,
            coalesce(l.available_after, (c.available_after - c.available_delta)::numeric(36, 18)),
            coalesce(l.frozen_after, (c.frozen_after - c.frozen_delta)::numeric(36, 18)),
            l.previous_partition_id, l.previous_offset, l.previous_change_no, c.nth + 1
        FROM chain c
        LEFT JOIN ledger.balance_log l ON l.partition_id = c.previous_partition_id
            AND l.kafka_offset = c.previous_offset AND l.change_no = c.previous_change_no
        WHERE c.previous_offset IS NOT NULL
    )
    SELECT * FROM chain
) h;
COMMENT ON VIEW ledger.account_history IS 'The applied changes of each balance, newest first (nth counts from 1). Follows pointers, so WHERE account_id = … LIMIT 100 reads a hundred rows of the log, whatever its size. Where older changes were pruned the last row has no event: it is the balance brought forward, as it was at created_at.';

RESET ROLE;
