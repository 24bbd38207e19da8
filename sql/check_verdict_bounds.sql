-- No verdict at or above the commit offset, and none inside a hole.
SELECT v.topic, v.partition, v.kafka_offset, v.verdict, p.commit_offset
FROM ledger.event_verdicts v
JOIN ledger.partition_leases l USING (topic, partition)
JOIN ledger.partition_progress p USING (partition_id)
WHERE v.kafka_offset >= p.commit_offset
    OR v.kafka_offset < 0
    OR EXISTS (
        SELECT FROM ledger.offset_holes h
        WHERE h.partition_id = p.partition_id
            AND v.kafka_offset >= h.first_offset AND v.kafka_offset < h.next_offset);
