-- Every offset below commit_offset has exactly one verdict, or is known to hold no record.
-- Returns the partitions where the numbers do not add up.
SELECT l.topic, l.partition, p.commit_offset, coalesce(v.verdicts, 0) AS verdicts, coalesce(h.holes, 0) AS holes
FROM ledger.partition_progress p
JOIN ledger.partition_leases l USING (partition_id)
LEFT JOIN (
    SELECT topic, partition, count(*) AS verdicts
    FROM ledger.event_verdicts
    GROUP BY topic, partition
) v USING (topic, partition)
LEFT JOIN (
    SELECT partition_id, sum(next_offset - first_offset) AS holes
    FROM ledger.offset_holes
    GROUP BY partition_id
) h USING (partition_id)
WHERE coalesce(v.verdicts, 0) + coalesce(h.holes, 0) <> p.commit_offset;
