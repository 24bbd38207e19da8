-- What people and the ingester read.
SET LOCAL ROLE sluice_owner;

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
    l.lease_expires_at,
    p.paused_reason,
    CASE WHEN l.stepped_down_until > clock_timestamp() THEN l.stepped_down_svc_id END AS stepped_down_svc_id
FROM ledger.partition_leases l
JOIN ledger.partition_progress p USING (partition_id);
COMMENT ON VIEW ledger.partition_leader_locks IS 'Leadership and progress of each partition. leader_svc_id is NULL while nobody leads.';
COMMENT ON COLUMN ledger.partition_leader_locks.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_leader_locks.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_leader_locks.leader_svc_id IS 'The instance that leads the partition, by its SERVICE_ID; NULL while none does.';
COMMENT ON COLUMN ledger.partition_leader_locks.fencing_token IS 'The number of the present leadership: it grows with each acquisition, and a batch with another one is refused.';
COMMENT ON COLUMN ledger.partition_leader_locks.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';
COMMENT ON COLUMN ledger.partition_leader_locks.lease_expires_at IS 'When the lease ends, by the database''s clock.';
COMMENT ON COLUMN ledger.partition_leader_locks.paused_reason IS 'Why no batch is taken; NULL: not paused.';
COMMENT ON COLUMN ledger.partition_leader_locks.stepped_down_svc_id IS 'The instance that stays away since sluice.step_down took the partition from it; NULL: none.';

CREATE VIEW ledger.live_instances AS
SELECT i.service_id, i.topics
FROM ledger.ingester_instances i
WHERE i.expires_at > clock_timestamp()
    AND EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(i.session_pid));
COMMENT ON VIEW ledger.live_instances IS 'Ingesters whose session exists and whose heartbeat is fresh.';
COMMENT ON COLUMN ledger.live_instances.service_id IS 'The instance, by its SERVICE_ID.';
COMMENT ON COLUMN ledger.live_instances.topics IS 'The topics that the instance reads.';

CREATE VIEW ledger.partition_halts AS
SELECT l.topic, l.partition, p.paused_reason AS reason, p.paused_at AS halted_at, p.commit_offset
FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
WHERE p.is_halted;
COMMENT ON VIEW ledger.partition_halts IS 'Partitions whose topic was not recognised, and why; sluice.accept_partition ends such a halt.';
COMMENT ON COLUMN ledger.partition_halts.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_halts.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_halts.reason IS 'Why the topic was not recognised.';
COMMENT ON COLUMN ledger.partition_halts.halted_at IS 'When the partition halted.';
COMMENT ON COLUMN ledger.partition_halts.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';

CREATE VIEW ledger.partition_status AS
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
COMMENT ON VIEW ledger.partition_status IS 'Each partition: who leads it and for how long, whether it runs, records that wait in Kafka, records committed per second, and the last batch by phase in microseconds. What the leader says of it is up to 2 s old, and NULL once it is older than 10 s.';
COMMENT ON COLUMN ledger.partition_status.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_status.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_status.leader_svc_id IS 'The instance that leads the partition, by its SERVICE_ID; NULL while none does.';
COMMENT ON COLUMN ledger.partition_status.lease_left IS 'How long the lease lasts without a renewal.';
COMMENT ON COLUMN ledger.partition_status.state IS 'running, starting, retrying, paused, halted, no leader and so on.';
COMMENT ON COLUMN ledger.partition_status.reason IS 'Why the partition does not run; NULL where it does.';
COMMENT ON COLUMN ledger.partition_status.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';
COMMENT ON COLUMN ledger.partition_status.lag IS 'Records in Kafka that are not committed yet.';
COMMENT ON COLUMN ledger.partition_status.records_per_second IS 'Records committed in a second, lately.';
COMMENT ON COLUMN ledger.partition_status.reported_at IS 'When the leader last reported; NULL: more than 10 s ago.';
COMMENT ON COLUMN ledger.partition_status.last_batch_records IS 'Records of the last batch.';
COMMENT ON COLUMN ledger.partition_status.last_copy_us IS 'Microseconds of staging the last batch.';
COMMENT ON COLUMN ledger.partition_status.last_apply_us IS 'Microseconds of applying the last batch.';
COMMENT ON COLUMN ledger.partition_status.last_commit_us IS 'Microseconds of committing the last batch.';

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
COMMENT ON VIEW ledger.balance_change_logs IS 'One row per balance change. available_after and frozen_after: the balance after it, or, for a rejected one, the balance it met.';
COMMENT ON COLUMN ledger.balance_change_logs.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.balance_change_logs.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.balance_change_logs.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.balance_change_logs.change_no IS 'The place of the change within its event, counted from 0.';
COMMENT ON COLUMN ledger.balance_change_logs.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.balance_change_logs.account_id IS 'The account.';
COMMENT ON COLUMN ledger.balance_change_logs.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.balance_change_logs.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.balance_change_logs.available_delta IS 'What the change adds to available; may be negative.';
COMMENT ON COLUMN ledger.balance_change_logs.frozen_delta IS 'What the change adds to frozen; may be negative.';
COMMENT ON COLUMN ledger.balance_change_logs.available_after IS 'What is available after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_change_logs.frozen_after IS 'What is frozen after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_change_logs.status IS 'APPLIED or REJECTED.';
COMMENT ON COLUMN ledger.balance_change_logs.reject_reason IS 'Why the event was rejected; NULL: it was applied.';
COMMENT ON COLUMN ledger.balance_change_logs.created_at IS 'Database time at which the batch held all its balances locked.';
COMMENT ON COLUMN ledger.balance_change_logs.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.balance_change_logs.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none.';

CREATE VIEW ledger.event_verdicts AS
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
COMMENT ON VIEW ledger.event_verdicts IS 'Exactly one row for every record below the committed offset, and under topic ''manual corrections'' one for each correction by hand.';
COMMENT ON COLUMN ledger.event_verdicts.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.event_verdicts.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.event_verdicts.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.event_verdicts.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.event_verdicts.verdict IS 'APPLIED, REJECTED, DUPLICATE or DEAD.';
COMMENT ON COLUMN ledger.event_verdicts.reason IS 'Why the record was rejected or is dead; NULL otherwise.';
COMMENT ON COLUMN ledger.event_verdicts.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.event_verdicts.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none.';

-- Where the changes before it were pruned, a history begins with the balance brought forward.
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
COMMENT ON COLUMN ledger.account_history.account_id IS 'The account.';
COMMENT ON COLUMN ledger.account_history.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.account_history.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.account_history.nth IS 'Counts back from the last change, which is 1.';
COMMENT ON COLUMN ledger.account_history.created_at IS 'Database time of the change; of a balance brought forward, of the last change that was pruned.';
COMMENT ON COLUMN ledger.account_history.available_delta IS 'What the change adds to available; may be negative.';
COMMENT ON COLUMN ledger.account_history.frozen_delta IS 'What the change adds to frozen; may be negative.';
COMMENT ON COLUMN ledger.account_history.available_after IS 'What is available after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.account_history.frozen_after IS 'What is frozen after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.account_history.event_id IS 'The event''s id; NULL: the balance brought forward.';
COMMENT ON COLUMN ledger.account_history.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.account_history.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.account_history.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.account_history.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.account_history.change_no IS 'The place of the change within its event, counted from 0.';
COMMENT ON COLUMN ledger.account_history.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none.';

CREATE VIEW ledger.hot_accounts AS
SELECT l.account_id, l.shard_id, l.currency_code, count(*) AS changes,
    count(*) FILTER (WHERE l.reject_reason IS NOT NULL) AS rejected, count(DISTINCT l.partition_id) AS partitions,
    max(l.created_at) AS last_change_at
FROM ledger.partition_progress p
JOIN ledger.balance_log l ON l.partition_id = p.partition_id AND l.kafka_offset >= p.commit_offset - 10000
GROUP BY l.account_id, l.shard_id, l.currency_code;
COMMENT ON VIEW ledger.hot_accounts IS 'How often each balance was changed among the last 10,000 offsets of each partition; ORDER BY changes DESC LIMIT 10 shows the hottest. An account that several partitions change makes them wait for each other.';
COMMENT ON COLUMN ledger.hot_accounts.account_id IS 'The account.';
COMMENT ON COLUMN ledger.hot_accounts.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.hot_accounts.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.hot_accounts.changes IS 'How often the balance was changed.';
COMMENT ON COLUMN ledger.hot_accounts.rejected IS 'How many of these changes were rejected.';
COMMENT ON COLUMN ledger.hot_accounts.partitions IS 'How many partitions changed it.';
COMMENT ON COLUMN ledger.hot_accounts.last_change_at IS 'When it was last changed.';

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
COMMENT ON COLUMN ledger.verdict_summary.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.verdict_summary.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.verdict_summary.verdict IS 'APPLIED, REJECTED, DUPLICATE or DEAD.';
COMMENT ON COLUMN ledger.verdict_summary.reason IS 'Why the record was rejected or is dead; NULL otherwise.';
COMMENT ON COLUMN ledger.verdict_summary.records IS 'How many records have this verdict for this reason.';
COMMENT ON COLUMN ledger.verdict_summary.last_offset IS 'The highest offset of these records.';

-- Dead letters that prune must not touch, nor what stands of their records elsewhere.
CREATE VIEW ledger.kept_dead_letters AS
SELECT d.id, d.topic, d.partition, d.kafka_offset, d.status <> 'PARKED' AS by_hand
FROM ledger.dead_letters d
WHERE d.status = 'PARKED' OR EXISTS (
    SELECT FROM ledger.dead_letter_actions a, ledger.record_keeping k
    WHERE a.dead_letter_id = d.id AND greatest(a.acted_at, d.updated_at) > clock_timestamp() - k.keep_by_hand);
COMMENT ON VIEW ledger.kept_dead_letters IS 'Dead letters that sluice.prune leaves alone: those that are open, and those on which somebody acted by hand within record_keeping.keep_by_hand.';
COMMENT ON COLUMN ledger.kept_dead_letters.id IS 'The dead letter.';
COMMENT ON COLUMN ledger.kept_dead_letters.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.kept_dead_letters.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.kept_dead_letters.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.kept_dead_letters.by_hand IS 'Whether it is kept because somebody acted on it, and not because it is open.';

RESET ROLE;
