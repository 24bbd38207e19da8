-- Each identity that knows its place leads to the record that owns it: there, and with this source and event id. And what
-- was rejected for the sake of such an identity is among the conflicts, each of which was.
WITH record AS (
    SELECT g.partition_id, g.kafka_offset, sluice.event_identity(g.source, g.event_id) AS identity,
        g.reject_reason IS NOT DISTINCT FROM 'EVENT_ID_CONFLICT' AS is_conflict
    FROM ledger.balance_log g WHERE g.change_no = 0
    UNION ALL
    SELECT v.partition_id, v.kafka_offset, sluice.event_identity(v.source, v.event_id), v.reason IS NOT DISTINCT FROM 'EVENT_ID_CONFLICT'
    FROM ledger.verdicts v WHERE v.event_id IS NOT NULL
)
SELECT 'place' AS what, i.identity, i.partition_id, i.kafka_offset
FROM ledger.event_identities i
LEFT JOIN record r USING (partition_id, kafka_offset)
WHERE i.kafka_offset IS NOT NULL AND (i.identity IS DISTINCT FROM r.identity OR r.is_conflict)
UNION ALL
SELECT 'conflict that is not known', r.identity, r.partition_id, r.kafka_offset
FROM record r
JOIN ledger.event_identities i USING (identity)
LEFT JOIN ledger.event_conflicts k ON k.partition_id = r.partition_id AND k.kafka_offset = r.kafka_offset AND k.identity = r.identity
WHERE r.is_conflict AND k.identity IS NULL
    -- Not from the time before there were places.
    AND i.kafka_offset IS NOT NULL AND (i.partition_id <> r.partition_id OR i.kafka_offset < r.kafka_offset)
UNION ALL
SELECT 'conflict that is none', k.identity, k.partition_id, k.kafka_offset
FROM ledger.event_conflicts k
LEFT JOIN record r ON k.partition_id = r.partition_id AND k.kafka_offset = r.kafka_offset AND k.identity = r.identity AND r.is_conflict
WHERE r.identity IS NULL;
