-- What decides about a dead letter is a column: its kind, whether it owns its identity, and what is tried next.

-- A session that loaded the library before it was replaced writes letters without these columns, and would take the
-- refusal for a fault of the records: it ends here, and its ingester connects again.
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

ALTER TABLE ledger.dead_letters
    ADD is_domain boolean,
    ADD owns_identity boolean,
    ADD retry_payload bytea;
ALTER TABLE ledger.partition_progress ADD is_domain boolean;

-- Until now only letters of domain events had the time of their record.
UPDATE ledger.dead_letters d
SET is_domain = d.record_time_ms IS NOT NULL,
    owns_identity = d.record_time_ms IS NOT NULL AND d.status <> 'REPLAYED' AND d.error_code IN ('HANDLER_FAILED', 'PARKED_BEHIND'),
    -- The identity that such a letter owns is that of the last correction that failed.
    retry_payload = CASE WHEN d.status <> 'REPLAYED' AND d.error_code IN ('HANDLER_FAILED', 'PARKED_BEHIND') THEN (
        SELECT a.payload FROM ledger.dead_letter_actions a
        WHERE a.dead_letter_id = d.id AND a.action = 'REPLAY' AND a.payload IS NOT NULL
        ORDER BY a.id DESC LIMIT 1) END;
ALTER TABLE ledger.dead_letters
    ALTER is_domain SET NOT NULL,
    ALTER owns_identity SET NOT NULL;

-- All partitions of a topic are of one kind. What shows it is a letter, or a verdict of a record that never was one: by a
-- replay a letter could become an event of the other kind until now. Last comes who has a handler.
WITH letters AS (
    SELECT l.partition_id, d.kafka_offset, d.is_domain
    FROM ledger.dead_letters d JOIN ledger.partition_leases l USING (topic, partition)
), evidence AS (
    SELECT l.topic,
        bool_or(EXISTS (SELECT FROM letters d WHERE d.partition_id = l.partition_id AND d.is_domain)
            OR EXISTS (
                SELECT FROM ledger.verdicts v LEFT JOIN letters d USING (partition_id, kafka_offset)
                WHERE v.partition_id = l.partition_id AND v.verdict IN ('APPLIED', 'REJECTED') AND d.kafka_offset IS NULL)) AS has_domain,
        bool_or(EXISTS (SELECT FROM letters d WHERE d.partition_id = l.partition_id AND NOT d.is_domain)
            OR EXISTS (
                SELECT FROM ledger.balance_log b LEFT JOIN letters d USING (partition_id, kafka_offset)
                WHERE b.partition_id = l.partition_id AND d.kafka_offset IS NULL)) AS has_balance,
        bool_or(p.started_at IS NOT NULL) AS was_read
    FROM ledger.partition_leases l JOIN ledger.partition_progress p USING (partition_id)
    GROUP BY l.topic
)
UPDATE ledger.partition_progress p
SET is_domain = CASE
    WHEN l.topic IN ('balance.changed', 'manual corrections') THEN false
    WHEN e.has_domain THEN true
    WHEN e.has_balance THEN false
    WHEN e.was_read AND EXISTS (SELECT FROM ledger.event_handlers h WHERE h.event_type = l.topic) THEN true
END
FROM evidence e JOIN ledger.partition_leases l USING (topic)
WHERE p.partition_id = l.partition_id;

COMMENT ON COLUMN ledger.dead_letters.is_domain IS 'Whether the record was read as a domain event, to be tried by the handler of its type, or as a balance event.';
COMMENT ON COLUMN ledger.dead_letters.owns_identity IS 'Whether the record owns its event''s identity although it is dead: the identity of the payload to be tried next. False once it is replayed; then its verdict tells.';
COMMENT ON COLUMN ledger.dead_letters.retry_payload IS 'The payload to be tried next where it was corrected, or the one that was replayed; NULL: the record''s own.';
COMMENT ON COLUMN ledger.partition_progress.is_domain IS 'Whether the partition is read as domain events or as balance events; NULL before its first batch. It never changes.';

-- A letter that is given up before it was published is published, too.
DROP INDEX ledger.dead_letters_unpublished;
CREATE INDEX dead_letters_unpublished ON ledger.dead_letters (topic, partition, kafka_offset)
WHERE status <> 'REPLAYED' AND published_at IS NULL;

ALTER TABLE ledger.dead_letter_actions
    DROP CONSTRAINT dead_letter_actions_action_check,
    ADD CONSTRAINT dead_letter_actions_action_check CHECK (action IN ('REPLAY', 'DISCARD', 'RESTORE'));
COMMENT ON TABLE ledger.dead_letter_actions IS 'Who replayed, discarded or restored which dead letter, when, why, and what it became.';

-- A balance event never goes to a handler.
DELETE FROM ledger.event_handlers WHERE event_type = 'balance.changed';
CREATE FUNCTION ledger.refuse_balance_topic() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.event_type = 'balance.changed' OR EXISTS (
        SELECT FROM ledger.partition_leases l JOIN ledger.partition_progress p USING (partition_id)
        WHERE l.topic = NEW.event_type AND NOT p.is_domain)
    THEN
        RAISE EXCEPTION '% is a topic of balance events: no handler gets them', NEW.event_type
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Send domain events on a topic of their own.';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION ledger.refuse_balance_topic() FROM PUBLIC;
COMMENT ON FUNCTION ledger.refuse_balance_topic() IS 'Trigger: a topic of balance events gets no handler.';
CREATE TRIGGER refuse_balance_topic BEFORE INSERT OR UPDATE OF event_type ON ledger.event_handlers
FOR EACH ROW EXECUTE FUNCTION ledger.refuse_balance_topic();

-- How long what was done by hand is kept, whoever prunes: only the owner of the tables may change it.
CREATE TABLE ledger.record_keeping (
    is_the_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_the_only_row),
    keep_by_hand interval NOT NULL DEFAULT '400 days' CHECK (keep_by_hand >= interval '0')
);
INSERT INTO ledger.record_keeping DEFAULT VALUES;
COMMENT ON TABLE ledger.record_keeping IS 'What sluice.prune has to leave alone, whoever asks.';
COMMENT ON COLUMN ledger.record_keeping.keep_by_hand IS 'For so long actions by hand on dead letters, their payloads and the rows that they wrote are not pruned.';

ALTER TABLE ledger.partition_actions
    ADD arguments jsonb,
    DROP CONSTRAINT partition_actions_action_check,
    ADD CONSTRAINT partition_actions_action_check CHECK (action IN ('PAUSE', 'RESUME', 'STEP_DOWN', 'PRUNE'));
COMMENT ON TABLE ledger.partition_actions IS 'Who paused, resumed or pruned which partition, or took it from its leader, when and why.';
COMMENT ON COLUMN ledger.partition_actions.arguments IS 'What sluice.prune was called with, and how far it came.';

-- Dead letters that prune must not touch, nor what stands of their records elsewhere.
CREATE VIEW ledger.kept_dead_letters AS
SELECT d.id, d.topic, d.partition, d.kafka_offset, d.status <> 'PARKED' AS by_hand
FROM ledger.dead_letters d
WHERE d.status = 'PARKED' OR EXISTS (
    SELECT FROM ledger.dead_letter_actions a, ledger.record_keeping k
    WHERE a.dead_letter_id = d.id AND greatest(a.acted_at, d.updated_at) > clock_timestamp() - k.keep_by_hand);
COMMENT ON VIEW ledger.kept_dead_letters IS 'Dead letters that sluice.prune leaves alone: those that are open, and those on which somebody acted by hand within record_keeping.keep_by_hand.';

RESET ROLE;
