-- Whoever accepts a partition from a later offset on skips what lies between, money perhaps. The hole goes with the
-- records around it when they are pruned; what says who skipped which offsets, and why, stays.
SET LOCAL ROLE sluice_owner;

CREATE OR REPLACE FUNCTION ledger.record_partition_action() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_is jsonb := to_jsonb(NEW);
    was jsonb := to_jsonb(OLD);
    done text := CASE
        WHEN TG_TABLE_NAME = 'partition_leases' THEN 'STEP_DOWN'
        WHEN (now_is ->> 'is_halted')::boolean THEN 'HALT'
        WHEN (was ->> 'is_halted')::boolean THEN 'ACCEPT'
        WHEN now_is ->> 'paused_at' IS NULL THEN 'RESUME'
        ELSE 'PAUSE'
    END;
BEGIN
    INSERT INTO ledger.partition_actions (topic, partition, action, by_user, why, arguments)
    SELECT l.topic, l.partition, done, session_user,
        coalesce(now_is ->> 'paused_reason', nullif(current_setting('sluice.why', true), '')),
        CASE WHEN done = 'ACCEPT' THEN
            jsonb_build_object('from', was -> 'commit_offset', 'to', now_is -> 'commit_offset') END
    FROM ledger.partition_leases l WHERE l.partition_id = NEW.partition_id;
    RETURN NULL;
END
$$;
COMMENT ON COLUMN ledger.partition_actions.arguments IS 'What sluice.prune was called with, and how far it came; of an acceptance the offsets that it skipped: from the first one, to the one from which the partition is read on.';

RESET ROLE;
