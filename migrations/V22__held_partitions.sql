SET LOCAL ROLE sluice_owner;

-- A partition without a leader says whose transaction keeps it from having one.
CREATE OR REPLACE VIEW ledger.partition_status AS
SELECT l.topic, l.partition, l.leader_svc_id, l.lease_expires_at - clock_timestamp() AS lease_left,
    CASE
        WHEN l.paused_reason IS NOT NULL THEN 'paused'
        WHEN l.leader_svc_id IS NULL THEN 'no leader'
        ELSE coalesce(r.state, 'starting')
    END AS state,
    coalesce(
        'paused by hand: ' || l.paused_reason,
        CASE WHEN l.leader_svc_id IS NULL THEN sluice.partition_holder(i.partition_id) END,
        r.reason) AS reason,
    l.commit_offset, r.lag, r.records_per_second, r.reported_at,
    r.batch_records AS last_batch_records, r.copy_us AS last_copy_us, r.apply_us AS last_apply_us, r.commit_us AS last_commit_us
FROM ledger.partition_leader_locks l
JOIN ledger.partition_leases i USING (topic, partition)
LEFT JOIN ledger.partition_reports r ON r.partition_id = i.partition_id AND r.service_id = l.leader_svc_id
    AND r.reported_at > clock_timestamp() - interval '10 s';

RESET ROLE;
