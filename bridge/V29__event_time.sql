-- The event's own time, beside the database's; and where the record is that owns an identity, so that an event is found.

-- A session that loaded the library before it was replaced takes further columns of its tables for somebody's addition and
-- halts: it ends here, and its ingester connects again.
DO $$
DECLARE
    old integer[] := ARRAY(
        SELECT a.pid FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
            AND (a.application_name LIKE 'sluice/%' OR NOT r.rolsuper AND (
                pg_catalog.pg_has_role(r.oid, 'sluice_writer', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'sluice_admin', 'MEMBER'))));
BEGIN
    PERFORM pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.unnest(old) AS pid;
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    IF EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY (old)) THEN
        RAISE EXCEPTION 'an ingester''s session does not end: %', old
            USING HINT = 'End it, and run `sluice migrate` again.';
    END IF;
END
$$;

SET LOCAL ROLE sluice_owner;

-- In the order in which batches lock them. Who reads goes on while the index is made.
LOCK TABLE ledger.event_identities, ledger.balance_log, ledger.verdicts IN SHARE ROW EXCLUSIVE MODE;

-- Of one event only the owner is found by its identity. The others are few: duplicates and dead records by an index, and
-- those in conflict by a table, for a partial index of the log would ask each row whether it belongs there.
CREATE TABLE ledger.event_conflicts (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    identity uuid NOT NULL,
    PRIMARY KEY (partition_id, kafka_offset)
);
CREATE INDEX event_conflicts_by_identity ON ledger.event_conflicts (identity);
COMMENT ON TABLE ledger.event_conflicts IS 'Records that were rejected with EVENT_ID_CONFLICT since migration 29, by the identity that another one owns: for sluice.find_event.';
CREATE INDEX verdicts_by_event ON ledger.verdicts (event_id) WHERE verdict <> 'APPLIED';

ALTER TABLE ledger.balance_log ADD event_time timestamptz;
ALTER TABLE ledger.verdicts ADD event_time timestamptz;
COMMENT ON COLUMN ledger.balance_log.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none, and of what was committed before this column was there.';
COMMENT ON COLUMN ledger.verdicts.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none or could not be read, and of what was committed before this column was there.';

-- In this order, for no padding. What was claimed before has no place.
ALTER TABLE ledger.event_identities ADD kafka_offset bigint, ADD partition_id integer;
COMMENT ON COLUMN ledger.event_identities.kafka_offset IS 'With partition_id: the record that owns the identity; NULL of what was claimed before this column was there.';

-- What was pruned until now had no time but that of its commit.
ALTER TABLE ledger.balance_checkpoints ADD pruned_event_time_until timestamptz;
UPDATE ledger.balance_checkpoints SET pruned_event_time_until = pruned_until;
ALTER TABLE ledger.balance_checkpoints ALTER pruned_event_time_until SET NOT NULL;
COMMENT ON COLUMN ledger.balance_checkpoints.pruned_event_time_until IS 'The latest own time of the removed changes (that of its commit where an event gave none): from there on the balance is known by event time.';

-- Amounts without their trailing zeros have another type, so both views are made again.
DROP VIEW ledger.balance_change_logs, ledger.account_history;

CREATE VIEW ledger.balance_change_logs AS
SELECT
    p.topic, p.partition, l.kafka_offset, l.change_no, l.event_id,
    l.account_id, l.shard_id, l.currency_code,
    trim_scale(l.available_delta) AS available_delta, trim_scale(l.frozen_delta) AS frozen_delta,
    trim_scale(l.available_after) AS available_after, trim_scale(l.frozen_after) AS frozen_after,
    CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS status,
    l.reject_reason,
    l.created_at,
    l.source,
    l.event_time
FROM ledger.balance_log l
JOIN ledger.partition_leases p USING (partition_id);

CREATE OR REPLACE VIEW ledger.event_verdicts AS
SELECT p.topic, p.partition, v.kafka_offset, v.event_id, v.verdict, v.reason, v.source, v.event_time
FROM (
    SELECT l.partition_id, l.kafka_offset, l.event_id,
        CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS verdict,
        l.reject_reason AS reason, l.source, l.event_time
    FROM ledger.balance_log l
    WHERE l.change_no = 0
    UNION ALL
    SELECT e.partition_id, e.kafka_offset, e.event_id, e.verdict, e.reason, e.source, e.event_time
    FROM ledger.verdicts e
) v
JOIN ledger.partition_leases p USING (partition_id);

CREATE VIEW ledger.account_history AS
SELECT b.account_id, b.shard_id, b.currency_code, h.nth,
    CASE WHEN h.partition_id IS NOT NULL THEN h.created_at ELSE (
        SELECT c.pruned_until FROM ledger.balance_checkpoints c
        WHERE c.account_id = b.account_id AND c.shard_id = b.shard_id AND c.currency_code = b.currency_code
    ) END AS created_at,
    trim_scale(h.available_delta) AS available_delta, trim_scale(h.frozen_delta) AS frozen_delta,
    trim_scale(h.available_after) AS available_after, trim_scale(h.frozen_after) AS frozen_after,
    h.event_id, h.source,
    (SELECT p.topic FROM ledger.partition_leases p WHERE p.partition_id = h.partition_id) AS topic,
    (SELECT p.partition FROM ledger.partition_leases p WHERE p.partition_id = h.partition_id) AS partition,
    h.kafka_offset, h.change_no, h.event_time
FROM ledger.account_balances b
CROSS JOIN LATERAL (
    WITH RECURSIVE chain AS (
        SELECT l.partition_id, l.kafka_offset, l.change_no, l.created_at, l.event_time, l.event_id, l.source,
            l.available_delta, l.frozen_delta,
            coalesce(l.available_after, b.available) AS available_after, coalesce(l.frozen_after, b.frozen) AS frozen_after,
            l.previous_partition_id, l.previous_offset, l.previous_change_no, 1::bigint AS nth
        FROM (VALUES (b.last_partition_id, b.last_offset, b.last_change_no)) AS last (partition_id, kafka_offset, change_no)
        LEFT JOIN ledger.balance_log l USING (partition_id, kafka_offset, change_no)
        WHERE last.kafka_offset IS NOT NULL
        UNION ALL
        SELECT l.partition_id, l.kafka_offset, l.change_no, l.created_at, l.event_time, l.event_id, l.source,
            l.available_delta, l.frozen_delta,
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
COMMENT ON VIEW ledger.account_history IS 'The applied changes of each balance, newest first by commit (nth counts from 1). Follows pointers, so WHERE account_id = … LIMIT 100 reads a hundred rows of the log, whatever its size. Where older changes were pruned the last row has no event: it is the balance brought forward, as it was at created_at. sluice.account_history(…, by => ''event_time'') has them in the order in which they happened.';

RESET ROLE;
