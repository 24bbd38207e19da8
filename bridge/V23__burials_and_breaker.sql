-- A session that loaded the library before it was replaced lacks what handlers call from now on, and marks no error as
-- its own: it ends here, and its ingester connects again.
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

-- The lowest offset that an operator has ordered to be buried stands in the row that the fence reads anyway.
ALTER TABLE ledger.partition_progress
    ADD bury_from bigint,
    ADD resumed_at timestamptz;
COMMENT ON COLUMN ledger.partition_progress.bury_from IS 'No record below it is to be buried by hand; NULL where none is at all. See ledger.burials.';
COMMENT ON COLUMN ledger.partition_progress.resumed_at IS 'When a pause ended last: what the database refused before does not count for the circuit breaker.';

CREATE TABLE ledger.burials (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    by_user text NOT NULL,
    why text NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome text CHECK (outcome IN ('BURIED', 'NO_RECORD', 'WITHDRAWN')),
    settled_at timestamptz,
    PRIMARY KEY (partition_id, kafka_offset),
    CHECK ((outcome IS NULL) = (settled_at IS NULL))
);
COMMENT ON TABLE ledger.burials IS 'Records that an operator gives up by hand (sluice.bury_record): who, why, and what came of it. Kept for good.';
COMMENT ON COLUMN ledger.burials.outcome IS 'NULL until the partition comes to the offset; NO_RECORD where it holds none.';

ALTER TABLE ledger.dead_letter_actions
    DROP CONSTRAINT dead_letter_actions_action_check,
    ADD CONSTRAINT dead_letter_actions_action_check CHECK (action IN ('REPLAY', 'DISCARD', 'RESTORE', 'BURY'));

RESET ROLE;
