-- Who leads which partition, and how far each one has come.
-- Two rows, two jobs: the lease is touched by acquire, renew and release, the progress by apply and acquire, so that a
-- long batch never holds up the heartbeat.
SET LOCAL ROLE sluice_owner;

COMMENT ON SCHEMA ledger IS 'Money, progress and verdicts: written by the functions of schema sluice alone.';

CREATE TABLE ledger.partition_leases (
    partition_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL CHECK (octet_length(topic) BETWEEN 1 AND 249),
    partition integer NOT NULL CHECK (partition >= 0),
    leader_svc_id text,
    lease_id uuid,
    lease_expires_at timestamptz,
    session_pid integer,
    stepped_down_svc_id text,
    stepped_down_until timestamptz,
    UNIQUE (topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE ledger.partition_leases IS 'One row per Kafka partition: who leads it, and until when.';
COMMENT ON COLUMN ledger.partition_leases.partition_id IS 'Stands for topic and partition within this database.';
COMMENT ON COLUMN ledger.partition_leases.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_leases.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_leases.leader_svc_id IS 'The instance that leads, by its SERVICE_ID; NULL while none does. Whether its lease and its session still stand: ledger.partition_leader_locks.';
COMMENT ON COLUMN ledger.partition_leases.lease_id IS 'The present lease, known to its leader alone; NULL while none leads.';
COMMENT ON COLUMN ledger.partition_leases.lease_expires_at IS 'When the lease ends, by the database''s clock.';
COMMENT ON COLUMN ledger.partition_leases.session_pid IS 'The leader''s database session that renews the lease: once it has ended the partition is free.';
COMMENT ON COLUMN ledger.partition_leases.stepped_down_svc_id IS 'The instance that sluice.step_down has taken the partition from; it stays away until stepped_down_until, unless it is the only one.';
COMMENT ON COLUMN ledger.partition_leases.stepped_down_until IS 'Until when stepped_down_svc_id stays away.';

CREATE TABLE ledger.partition_progress (
    partition_id integer PRIMARY KEY,
    fencing_token bigint NOT NULL,
    lease_id uuid,
    commit_offset bigint NOT NULL CHECK (commit_offset >= 0),
    started_at timestamptz,
    last_record uuid,
    paused_at timestamptz,
    paused_reason text,
    is_domain boolean,
    bury_from bigint,
    resumed_at timestamptz,
    topic_id uuid,
    is_halted boolean NOT NULL DEFAULT false,
    accepted_at timestamptz,
    CONSTRAINT a_pause_has_a_reason CHECK ((paused_at IS NULL) = (paused_reason IS NULL)),
    -- A halt is a pause of a kind: whatever refuses a batch of a paused partition refuses one of a halted partition.
    CONSTRAINT a_halt_is_a_pause CHECK (NOT is_halted OR paused_at IS NOT NULL)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE ledger.partition_progress IS 'One row per Kafka partition: the fencing token and the offset of the next record to read.';
COMMENT ON COLUMN ledger.partition_progress.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.partition_progress.fencing_token IS 'The number of the present leadership: it grows with each acquisition, and a batch with another one is refused.';
COMMENT ON COLUMN ledger.partition_progress.lease_id IS 'The lease that the present leadership began with; a batch with another one is refused.';
COMMENT ON COLUMN ledger.partition_progress.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';
COMMENT ON COLUMN ledger.partition_progress.started_at IS 'When the first batch was committed; NULL while START_OFFSET still decides where to begin.';
COMMENT ON COLUMN ledger.partition_progress.last_record IS 'Fingerprint of the last committed record, to notice a topic that was created anew.';
COMMENT ON COLUMN ledger.partition_progress.paused_at IS 'Since when no batch is taken, by sluice.pause_partition.';
COMMENT ON COLUMN ledger.partition_progress.paused_reason IS 'Why no batch is taken; NULL: not paused.';
COMMENT ON COLUMN ledger.partition_progress.is_domain IS 'Whether the partition is read as domain events or as balance events; NULL before its first batch. It never changes.';
COMMENT ON COLUMN ledger.partition_progress.bury_from IS 'No record below it is to be buried by hand; NULL where none is at all. See ledger.burials.';
COMMENT ON COLUMN ledger.partition_progress.resumed_at IS 'When a pause ended last: what the database refused before does not count for the circuit breaker.';
COMMENT ON COLUMN ledger.partition_progress.topic_id IS 'The Kafka topic id of what was read; NULL where the broker gives none, or until a version that knows it has read the partition.';
COMMENT ON COLUMN ledger.partition_progress.is_halted IS 'The topic was not recognised; paused_reason says why. sluice.accept_partition ends it.';
COMMENT ON COLUMN ledger.partition_progress.accepted_at IS 'When an operator last took what Kafka holds for what is to be read on.';

-- Compacted away, aborted, transaction markers, or before the first start.
CREATE TABLE ledger.offset_holes (
    partition_id integer NOT NULL,
    first_offset bigint NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset > first_offset),
    PRIMARY KEY (partition_id, first_offset)
);
COMMENT ON TABLE ledger.offset_holes IS 'Offsets below commit_offset that hold no record, as half-open spans.';
COMMENT ON COLUMN ledger.offset_holes.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.offset_holes.first_offset IS 'The first offset without a record.';
COMMENT ON COLUMN ledger.offset_holes.next_offset IS 'The first offset behind the hole.';

CREATE TABLE ledger.topic_starts (
    topic text PRIMARY KEY CHECK (octet_length(topic) BETWEEN 1 AND 249),
    partitions integer NOT NULL CHECK (partitions >= 0),
    first_started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ledger.topic_starts IS 'How many partitions each topic had when Sluice first started on it, 0 for a topic that did not exist: START_OFFSET=latest is a choice for these; later ones are read from their beginning.';
COMMENT ON COLUMN ledger.topic_starts.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.topic_starts.partitions IS 'How many partitions the topic had then; 0: it did not exist.';
COMMENT ON COLUMN ledger.topic_starts.first_started_at IS 'When Sluice first started on the topic.';

-- Heartbeats and reports mean nothing after a crash, and their writes need not wait for the disk.
CREATE UNLOGGED TABLE ledger.ingester_instances (
    service_id text PRIMARY KEY,
    session_pid integer NOT NULL,
    topics text[] NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE ledger.ingester_instances IS 'Ingesters that said they live; see live_instances.';
COMMENT ON COLUMN ledger.ingester_instances.service_id IS 'The instance, by its SERVICE_ID.';
COMMENT ON COLUMN ledger.ingester_instances.session_pid IS 'The database session that sends the heartbeats.';
COMMENT ON COLUMN ledger.ingester_instances.topics IS 'The topics that the instance reads.';
COMMENT ON COLUMN ledger.ingester_instances.expires_at IS 'When the heartbeat is no longer fresh.';

CREATE UNLOGGED TABLE ledger.partition_reports (
    partition_id integer PRIMARY KEY,
    service_id text NOT NULL,
    reported_at timestamptz NOT NULL,
    state text NOT NULL,
    reason text,
    lag bigint,
    records_per_second double precision,
    batch_records bigint,
    copy_us bigint,
    apply_us bigint,
    commit_us bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE ledger.partition_reports IS 'What the leader of each partition said of it last; read it through partition_status.';
COMMENT ON COLUMN ledger.partition_reports.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.partition_reports.service_id IS 'The leader that reports.';
COMMENT ON COLUMN ledger.partition_reports.reported_at IS 'When it reported.';
COMMENT ON COLUMN ledger.partition_reports.state IS 'What the leader does with the partition: running, retrying, halted and so on.';
COMMENT ON COLUMN ledger.partition_reports.reason IS 'Why it does not run; NULL where it does.';
COMMENT ON COLUMN ledger.partition_reports.lag IS 'Records in Kafka that are not committed yet.';
COMMENT ON COLUMN ledger.partition_reports.records_per_second IS 'Records committed in a second, lately.';
COMMENT ON COLUMN ledger.partition_reports.batch_records IS 'Records of the last batch.';
COMMENT ON COLUMN ledger.partition_reports.copy_us IS 'Microseconds of staging the last batch.';
COMMENT ON COLUMN ledger.partition_reports.apply_us IS 'Microseconds of applying the last batch.';
COMMENT ON COLUMN ledger.partition_reports.commit_us IS 'Microseconds of committing the last batch.';

-- What operators do with partitions is on record, as what they do with dead letters is.
CREATE TABLE ledger.partition_actions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    partition integer NOT NULL,
    action text NOT NULL CHECK (action ~ '^[A-Z_]+$'),
    by_user text NOT NULL,
    why text,
    acted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    arguments jsonb
);
COMMENT ON TABLE ledger.partition_actions IS 'Who paused, resumed, accepted or pruned which partition, or took it from its leader, when and why; and which partitions halted.';
COMMENT ON COLUMN ledger.partition_actions.id IS 'Counts the actions.';
COMMENT ON COLUMN ledger.partition_actions.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_actions.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_actions.action IS 'PAUSE, RESUME, STEP_DOWN, HALT, ACCEPT or PRUNE.';
COMMENT ON COLUMN ledger.partition_actions.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.partition_actions.why IS 'The reason of a pause, a halt or an acceptance; otherwise what the setting sluice.why of the session said.';
COMMENT ON COLUMN ledger.partition_actions.acted_at IS 'When it was done.';
COMMENT ON COLUMN ledger.partition_actions.arguments IS 'What sluice.prune was called with, and how far it came; of an acceptance the offsets that it skipped: from the first one, to the one from which the partition is read on.';

CREATE FUNCTION ledger.record_partition_action() RETURNS trigger
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
REVOKE ALL ON FUNCTION ledger.record_partition_action() FROM PUBLIC;
COMMENT ON FUNCTION ledger.record_partition_action() IS 'Trigger: records a pause, a resume, a halt, an acceptance or a step-down in partition_actions.';

-- Batches and leases name neither column in their updates, so they cost nothing more.
CREATE TRIGGER record_pause AFTER UPDATE OF paused_at ON ledger.partition_progress
FOR EACH ROW WHEN (NEW.paused_at IS DISTINCT FROM OLD.paused_at)
EXECUTE FUNCTION ledger.record_partition_action();
CREATE TRIGGER record_step_down AFTER UPDATE OF stepped_down_until ON ledger.partition_leases
FOR EACH ROW WHEN (NEW.stepped_down_until IS NOT NULL)
EXECUTE FUNCTION ledger.record_partition_action();

RESET ROLE;
