SET LOCAL ROLE sluice_owner;

-- Who sent an event: with its id, its identity.
ALTER TABLE ledger.staging_balance_changes ADD source text;
ALTER TABLE ledger.balance_log ADD source text COLLATE "C";
ALTER TABLE ledger.verdicts ADD source text COLLATE "C";

-- The history of a balance without an index that every insert would have to pay for: each applied
-- change points to the one before it, and the balance to its last.
ALTER TABLE ledger.balance_log
    ADD previous_offset bigint,
    ADD previous_partition_id integer,
    ADD previous_change_no smallint;
ALTER TABLE ledger.account_balances
    ADD last_offset bigint,
    ADD last_partition_id integer,
    ADD last_change_no smallint;

-- Changes of one balance were made under its lock, so database time orders them.
WITH changes AS (
    SELECT partition_id, kafka_offset, change_no,
        lag(partition_id) OVER history AS previous_partition_id,
        lag(kafka_offset) OVER history AS previous_offset,
        lag(change_no) OVER history AS previous_change_no
    FROM ledger.balance_log
    WHERE reject_reason IS NULL
    WINDOW history AS (
        PARTITION BY account_id, shard_id, currency_code ORDER BY created_at, partition_id, kafka_offset, change_no)
)
UPDATE ledger.balance_log l
SET previous_partition_id = c.previous_partition_id, previous_offset = c.previous_offset, previous_change_no = c.previous_change_no
FROM changes c
WHERE (l.partition_id, l.kafka_offset, l.change_no) = (c.partition_id, c.kafka_offset, c.change_no)
    AND c.previous_offset IS NOT NULL;

UPDATE ledger.account_balances b
SET last_partition_id = l.partition_id, last_offset = l.kafka_offset, last_change_no = l.change_no
FROM (
    SELECT DISTINCT ON (account_id, shard_id, currency_code)
        account_id, shard_id, currency_code, partition_id, kafka_offset, change_no
    FROM ledger.balance_log
    WHERE reject_reason IS NULL
    ORDER BY account_id, shard_id, currency_code, created_at DESC, partition_id DESC, kafka_offset DESC, change_no DESC
) l
WHERE (b.account_id, b.shard_id, b.currency_code) = (l.account_id, l.shard_id, l.currency_code);

COMMENT ON COLUMN ledger.balance_log.previous_offset IS 'With previous_partition_id and previous_change_no: the last applied change of the same balance before this one.';
COMMENT ON COLUMN ledger.account_balances.last_offset IS 'With last_partition_id and last_change_no: the row of balance_log that left the balance as it is.';

CREATE OR REPLACE VIEW ledger.balance_change_logs AS
SELECT
    p.topic, p.partition, l.kafka_offset, l.change_no, l.event_id,
    l.account_id, l.shard_id, l.currency_code,
    l.available_delta, l.frozen_delta, l.available_after, l.frozen_after,
    CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS status,
    l.reject_reason,
    l.created_at,
    l.source
FROM ledger.balance_log l
JOIN ledger.partition_leases p USING (partition_id);

CREATE OR REPLACE VIEW ledger.event_verdicts AS
SELECT p.topic, p.partition, v.kafka_offset, v.event_id, v.verdict, v.reason, v.source
FROM (
    SELECT l.partition_id, l.kafka_offset, l.event_id,
        CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS verdict,
        l.reject_reason AS reason, l.source
    FROM ledger.balance_log l
    WHERE l.change_no = 0
    UNION ALL
    SELECT e.partition_id, e.kafka_offset, e.event_id, e.verdict, e.reason, e.source
    FROM ledger.verdicts e
) v
JOIN ledger.partition_leases p USING (partition_id);

-- Rows come as they are fetched, newest first, so a LIMIT reads no further.
CREATE VIEW ledger.account_history AS
SELECT b.account_id, b.shard_id, b.currency_code, h.nth, h.created_at,
    h.available_delta, h.frozen_delta, h.available_after, h.frozen_after,
    h.event_id, h.source,
    (SELECT p.topic FROM ledger.partition_leases p WHERE p.partition_id = h.partition_id) AS topic,
    (SELECT p.partition FROM ledger.partition_leases p WHERE p.partition_id = h.partition_id) AS partition,
    h.kafka_offset, h.change_no
FROM ledger.account_balances b
CROSS JOIN LATERAL (
    WITH RECURSIVE chain AS (
        SELECT l.*, 1::bigint AS nth
        FROM ledger.balance_log l
        WHERE l.partition_id = b.last_partition_id AND l.kafka_offset = b.last_offset AND l.change_no = b.last_change_no
        UNION ALL
        SELECT l.*, c.nth + 1
        FROM chain c
        JOIN ledger.balance_log l ON l.partition_id = c.previous_partition_id
            AND l.kafka_offset = c.previous_offset AND l.change_no = c.previous_change_no
    )
    SELECT * FROM chain
) h;
COMMENT ON VIEW ledger.account_history IS 'The applied changes of each balance, newest first (nth counts from 1). Follows pointers, so WHERE account_id = … LIMIT 100 reads a hundred rows of the log, whatever its size.';

-- How far the verdicts of each partition have been told in the results topic.
CREATE TABLE ledger.results_progress (
    partition_id integer PRIMARY KEY,
    next_offset bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
CREATE TABLE ledger.changed_verdicts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL
);
COMMENT ON TABLE ledger.results_progress IS 'Per partition, the offset of the next record whose verdict is to be produced to RESULTS_TOPIC.';
COMMENT ON TABLE ledger.changed_verdicts IS 'Dead letters that were replayed since, whose new verdict is to be produced to RESULTS_TOPIC.';

RESET ROLE;
