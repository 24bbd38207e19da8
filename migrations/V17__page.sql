SET LOCAL ROLE sluice_owner;

-- What operators do with partitions is on record, as what they do with dead letters is.
CREATE TABLE ledger.partition_actions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    partition integer NOT NULL,
    action text NOT NULL CHECK (action IN ('PAUSE', 'RESUME', 'STEP_DOWN')),
    by_user text NOT NULL,
    why text,
    acted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ledger.partition_actions IS 'Who paused or resumed which partition, or took it from its leader, when and why.';
COMMENT ON COLUMN ledger.partition_actions.why IS 'The reason of a pause; otherwise what the setting sluice.why of the session said.';

CREATE FUNCTION ledger.record_partition_action() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed jsonb := to_jsonb(NEW);
BEGIN
    INSERT INTO ledger.partition_actions (topic, partition, action, by_user, why)
    SELECT l.topic, l.partition,
        CASE
            WHEN TG_TABLE_NAME = 'partition_leases' THEN 'STEP_DOWN'
            WHEN changed ->> 'paused_at' IS NULL THEN 'RESUME'
            ELSE 'PAUSE'
        END,
        session_user,
        coalesce(changed ->> 'paused_reason', nullif(current_setting('sluice.why', true), ''))
    FROM ledger.partition_leases l WHERE l.partition_id = NEW.partition_id;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION ledger.record_partition_action() FROM PUBLIC;
COMMENT ON FUNCTION ledger.record_partition_action() IS 'Trigger: records a pause, a resume or a step-down in partition_actions.';

-- Batches and leases name neither column in their updates, so they cost nothing more.
CREATE TRIGGER record_pause AFTER UPDATE OF paused_at ON ledger.partition_progress
FOR EACH ROW WHEN (NEW.paused_at IS DISTINCT FROM OLD.paused_at)
EXECUTE FUNCTION ledger.record_partition_action();
CREATE TRIGGER record_step_down AFTER UPDATE OF stepped_down_until ON ledger.partition_leases
FOR EACH ROW WHEN (NEW.stepped_down_until IS NOT NULL)
EXECUTE FUNCTION ledger.record_partition_action();

RESET ROLE;
