-- A topic is recognised by evidence that is stored with the progress, and what is not recognised halts until
-- an operator decides.
SET LOCAL ROLE sluice_owner;

ALTER TABLE ledger.partition_progress
    ADD topic_id uuid,
    ADD is_halted boolean NOT NULL DEFAULT false,
    ADD accepted_at timestamptz,
    -- A halt is a pause of a kind: whatever refuses a batch of a paused partition refuses one of a halted partition.
    ADD CONSTRAINT a_halt_is_a_pause CHECK (NOT is_halted OR paused_at IS NOT NULL);
COMMENT ON COLUMN ledger.partition_progress.topic_id IS 'The Kafka topic id of what was read; NULL where the broker gives none, or until a version that knows it has read the partition.';
COMMENT ON COLUMN ledger.partition_progress.is_halted IS 'The topic was not recognised; paused_reason says why. sluice.accept_partition ends it.';
COMMENT ON COLUMN ledger.partition_progress.accepted_at IS 'When an operator last took what Kafka holds for what is to be read on.';

-- What exists when Sluice first starts on a topic, for START_OFFSET=latest.
CREATE TABLE ledger.topic_starts (
    topic text PRIMARY KEY CHECK (octet_length(topic) BETWEEN 1 AND 249),
    partitions integer NOT NULL CHECK (partitions >= 0),
    first_started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ledger.topic_starts IS 'How many partitions each topic had when Sluice first started on it, 0 for a topic that did not exist: START_OFFSET=latest is a choice for these; later ones are read from their beginning.';
INSERT INTO ledger.topic_starts (topic, partitions)
SELECT l.topic, max(l.partition) + 1 FROM ledger.partition_leases l WHERE l.topic <> 'manual corrections' GROUP BY l.topic;

CREATE VIEW ledger.partition_halts AS
SELECT l.topic, l.partition, p.paused_reason AS reason, p.paused_at AS halted_at, p.commit_offset
FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
WHERE p.is_halted;
COMMENT ON VIEW ledger.partition_halts IS 'Partitions whose topic was not recognised, and why; sluice.accept_partition ends such a halt.';
GRANT SELECT ON ledger.partition_halts TO sluice_writer;

-- Headers of records whose results are still to be told, so that they travel along.
CREATE TABLE ledger.result_headers (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    headers jsonb NOT NULL,
    PRIMARY KEY (partition_id, kafka_offset)
);
COMMENT ON TABLE ledger.result_headers IS 'Kafka headers of records whose result is still to be produced to RESULTS_TOPIC, as in dead_letters.headers; kept only while that is set.';

ALTER TABLE ledger.partition_actions DROP CONSTRAINT partition_actions_action_check;
ALTER TABLE ledger.partition_actions ADD CONSTRAINT partition_actions_action_check CHECK (action ~ '^[A-Z_]+$');
COMMENT ON TABLE ledger.partition_actions IS 'Who paused, resumed, accepted or pruned which partition, or took it from its leader, when and why; and which partitions halted.';
COMMENT ON COLUMN ledger.partition_actions.why IS 'The reason of a pause, a halt or an acceptance; otherwise what the setting sluice.why of the session said.';

CREATE OR REPLACE FUNCTION ledger.record_partition_action() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_is jsonb := to_jsonb(NEW);
    was jsonb := to_jsonb(OLD);
BEGIN
    INSERT INTO ledger.partition_actions (topic, partition, action, by_user, why)
    SELECT l.topic, l.partition,
        CASE
            WHEN TG_TABLE_NAME = 'partition_leases' THEN 'STEP_DOWN'
            WHEN (now_is ->> 'is_halted')::boolean THEN 'HALT'
            WHEN (was ->> 'is_halted')::boolean THEN 'ACCEPT'
            WHEN now_is ->> 'paused_at' IS NULL THEN 'RESUME'
            ELSE 'PAUSE'
        END,
        session_user,
        coalesce(now_is ->> 'paused_reason', nullif(current_setting('sluice.why', true), ''))
    FROM ledger.partition_leases l WHERE l.partition_id = NEW.partition_id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION ledger.record_partition_action() IS 'Trigger: records a pause, a resume, a halt, an acceptance or a step-down in partition_actions.';

CREATE OR REPLACE VIEW ledger.partition_status AS
SELECT l.topic, l.partition, l.leader_svc_id, l.lease_expires_at - clock_timestamp() AS lease_left,
    CASE
        WHEN h.topic IS NOT NULL THEN 'halted'
        WHEN l.paused_reason IS NOT NULL THEN 'paused'
        WHEN l.leader_svc_id IS NULL THEN 'no leader'
        ELSE coalesce(r.state, 'starting')
    END AS state,
    coalesce(
        h.reason,
        CASE WHEN l.paused_reason LIKE 'circuit breaker: %' THEN l.paused_reason ELSE 'paused by hand: ' || l.paused_reason END,
        -- A partition without a leader says whose transaction keeps it from having one.
        CASE WHEN l.leader_svc_id IS NULL THEN sluice.partition_holder(i.partition_id) END,
        r.reason) AS reason,
    l.commit_offset, r.lag, r.records_per_second, r.reported_at,
    r.batch_records AS last_batch_records, r.copy_us AS last_copy_us, r.apply_us AS last_apply_us, r.commit_us AS last_commit_us
FROM ledger.partition_leader_locks l
JOIN ledger.partition_leases i USING (topic, partition)
LEFT JOIN ledger.partition_halts h USING (topic, partition)
LEFT JOIN ledger.partition_reports r ON r.partition_id = i.partition_id AND r.service_id = l.leader_svc_id
    AND r.reported_at > clock_timestamp() - interval '10 s'
-- Manual corrections are logged as a partition that no instance leads.
WHERE l.topic <> 'manual corrections';

RESET ROLE;
