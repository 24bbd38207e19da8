-- Who leads which partition, and how far each one has come.
-- Two rows, two jobs: the lease is touched by acquire, renew and release, the
-- progress by apply and acquire, so that a long batch never starves the heartbeat.
SET LOCAL ROLE sluice_owner;

CREATE TABLE ledger.partition_leases (
    partition_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL CHECK (octet_length(topic) BETWEEN 1 AND 249),
    partition integer NOT NULL CHECK (partition >= 0),
    leader_svc_id text,
    lease_id uuid,
    lease_expires_at timestamptz,
    session_pid integer,
    UNIQUE (topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE ledger.partition_progress (
    partition_id integer PRIMARY KEY,
    fencing_token bigint NOT NULL,
    lease_id uuid,
    commit_offset bigint NOT NULL CHECK (commit_offset >= 0),
    started_at timestamptz,
    last_record uuid
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Offsets below commit_offset that hold no record: compacted away, aborted,
-- transaction markers, or before the first start.
CREATE TABLE ledger.offset_holes (
    partition_id integer NOT NULL,
    first_offset bigint NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset > first_offset),
    PRIMARY KEY (partition_id, first_offset)
);

CREATE TABLE ledger.ingester_instances (
    service_id text PRIMARY KEY,
    session_pid integer NOT NULL,
    topics text[] NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE VIEW ledger.partition_leader_locks AS
SELECT
    l.topic,
    l.partition,
    CASE
        WHEN l.lease_expires_at > clock_timestamp()
            AND EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(l.session_pid))
        THEN l.leader_svc_id
    END AS leader_svc_id,
    p.fencing_token,
    p.commit_offset,
    l.lease_expires_at
FROM ledger.partition_leases l
JOIN ledger.partition_progress p USING (partition_id);

CREATE VIEW ledger.live_instances AS
SELECT i.service_id, i.topics
FROM ledger.ingester_instances i
WHERE i.expires_at > clock_timestamp()
    AND EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(i.session_pid));

COMMENT ON TABLE ledger.partition_leases IS 'One row per Kafka partition: who leads it, and until when.';
COMMENT ON TABLE ledger.partition_progress IS 'One row per Kafka partition: the fencing token and the offset of the next record to read.';
COMMENT ON COLUMN ledger.partition_progress.started_at IS 'When the first batch was committed; NULL while START_OFFSET still decides where to begin.';
COMMENT ON COLUMN ledger.partition_progress.last_record IS 'Fingerprint of the last committed record, to notice a topic that was created anew.';
COMMENT ON TABLE ledger.offset_holes IS 'Offsets below commit_offset that hold no record, as half-open spans.';
COMMENT ON TABLE ledger.ingester_instances IS 'Ingesters that said they live; see live_instances.';
COMMENT ON VIEW ledger.partition_leader_locks IS 'Leadership and progress of each partition. leader_svc_id is NULL while nobody leads.';
COMMENT ON VIEW ledger.live_instances IS 'Ingesters whose session exists and whose heartbeat is fresh.';

RESET ROLE;
