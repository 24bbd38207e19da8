SET LOCAL ROLE sluice_owner;

-- A partition that is paused keeps its leader, and takes no batch.
ALTER TABLE ledger.partition_progress
    ADD paused_at timestamptz,
    ADD paused_reason text,
    ADD CONSTRAINT a_pause_has_a_reason CHECK ((paused_at IS NULL) = (paused_reason IS NULL));
COMMENT ON COLUMN ledger.partition_progress.paused_at IS 'Since when no batch is taken, by sluice.pause_partition.';

-- Who is to stay away from a partition for a moment, so that another instance takes it.
ALTER TABLE ledger.partition_leases
    ADD stepped_down_svc_id text,
    ADD stepped_down_until timestamptz;
COMMENT ON COLUMN ledger.partition_leases.stepped_down_svc_id IS 'The instance that sluice.step_down has taken the partition from; it stays away until stepped_down_until, unless it is the only one.';

CREATE OR REPLACE VIEW ledger.partition_leader_locks AS
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
    l.lease_expires_at,
    p.paused_reason,
    CASE WHEN l.stepped_down_until > clock_timestamp() THEN l.stepped_down_svc_id END AS stepped_down_svc_id
FROM ledger.partition_leases l
JOIN ledger.partition_progress p USING (partition_id);
COMMENT ON VIEW ledger.partition_leader_locks IS 'Leadership and progress of each partition. leader_svc_id is NULL while nobody leads.';

-- What ingesters say of what they lead; it means nothing after a crash.
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

CREATE VIEW ledger.partition_status AS
SELECT l.topic, l.partition, l.leader_svc_id, l.lease_expires_at - clock_timestamp() AS lease_left,
    CASE
        WHEN l.paused_reason IS NOT NULL THEN 'paused'
        WHEN l.leader_svc_id IS NULL THEN 'no leader'
        ELSE coalesce(r.state, 'starting')
    END AS state,
    coalesce('paused by hand: ' || l.paused_reason, r.reason) AS reason,
    l.commit_offset, r.lag, r.records_per_second, r.reported_at,
    r.batch_records AS last_batch_records, r.copy_us AS last_copy_us, r.apply_us AS last_apply_us, r.commit_us AS last_commit_us
FROM ledger.partition_leader_locks l
JOIN ledger.partition_leases i USING (topic, partition)
LEFT JOIN ledger.partition_reports r ON r.partition_id = i.partition_id AND r.service_id = l.leader_svc_id
    AND r.reported_at > clock_timestamp() - interval '10 s';
COMMENT ON VIEW ledger.partition_status IS 'Each partition: who leads it and for how long, whether it runs, records that wait in Kafka, records committed per second, and the last batch by phase in microseconds. What the leader says of it is up to 2 s old, and NULL once it is older than 10 s.';

CREATE VIEW ledger.hot_accounts AS
SELECT l.account_id, l.shard_id, l.currency_code, count(*) AS changes,
    count(*) FILTER (WHERE l.reject_reason IS NOT NULL) AS rejected, count(DISTINCT l.partition_id) AS partitions,
    max(l.created_at) AS last_change_at
FROM ledger.partition_progress p
JOIN ledger.balance_log l ON l.partition_id = p.partition_id AND l.kafka_offset >= p.commit_offset - 10000
GROUP BY l.account_id, l.shard_id, l.currency_code;
COMMENT ON VIEW ledger.hot_accounts IS 'How often each balance was changed among the last 10,000 offsets of each partition; ORDER BY changes DESC LIMIT 10 shows the hottest. An account that several partitions change makes them wait for each other.';

CREATE VIEW ledger.verdict_summary AS
SELECT i.topic, i.partition, v.verdict, v.reason, count(*) AS records, max(v.kafka_offset) AS last_offset
FROM ledger.partition_progress p
JOIN ledger.partition_leases i USING (partition_id)
JOIN LATERAL (
    SELECT b.kafka_offset, CASE WHEN b.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS verdict, b.reject_reason AS reason
    FROM ledger.balance_log b
    WHERE b.partition_id = p.partition_id AND b.kafka_offset >= p.commit_offset - 10000 AND b.change_no = 0
    UNION ALL
    SELECT e.kafka_offset, e.verdict, e.reason
    FROM ledger.verdicts e
    WHERE e.partition_id = p.partition_id AND e.kafka_offset >= p.commit_offset - 10000
) v ON true
GROUP BY i.topic, i.partition, v.verdict, v.reason;
COMMENT ON VIEW ledger.verdict_summary IS 'Verdicts and reasons among the last 10,000 offsets of each partition.';
GRANT SELECT ON ledger.partition_status TO sluice_writer;

RESET ROLE;
