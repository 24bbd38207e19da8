-- Every offset below commit_offset has exactly one verdict, is known to hold no record, or was pruned.
-- Returns the partitions where the numbers do not add up.
WITH place AS (
    SELECT l.partition_id, l.topic, l.partition, p.commit_offset, coalesce(r.pruned_below, 0) AS pruned_below
    FROM ledger.partition_progress p
    JOIN ledger.partition_leases l USING (partition_id)
    LEFT JOIN ledger.retention r USING (partition_id)
)
SELECT p.topic, p.partition, p.commit_offset, p.pruned_below, coalesce(v.verdicts, 0) AS verdicts, coalesce(h.holes, 0) AS holes
FROM place p
LEFT JOIN (
    SELECT p.partition_id, count(*) AS verdicts
    FROM ledger.event_verdicts v
    JOIN place p USING (topic, partition)
    WHERE v.kafka_offset >= p.pruned_below
    GROUP BY p.partition_id
) v USING (partition_id)
LEFT JOIN (
    SELECT p.partition_id, sum(h.next_offset - greatest(h.first_offset, p.pruned_below)) AS holes
    FROM ledger.offset_holes h
    JOIN place p USING (partition_id)
    GROUP BY p.partition_id
) h USING (partition_id)
WHERE p.pruned_below + coalesce(v.verdicts, 0) + coalesce(h.holes, 0) <> p.commit_offset;
