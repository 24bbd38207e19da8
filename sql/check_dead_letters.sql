-- Every DEAD record has its letter with the same reason, and the other way round; a letter that was
-- replayed has another verdict.
SELECT topic, partition, kafka_offset, v.verdict, v.reason, d.status, d.error_code
FROM (SELECT * FROM ledger.event_verdicts WHERE verdict = 'DEAD') v
FULL JOIN (SELECT * FROM ledger.dead_letters WHERE status <> 'REPLAYED') d USING (topic, partition, kafka_offset)
WHERE v.reason IS DISTINCT FROM d.error_code
UNION ALL
SELECT topic, partition, kafka_offset, v.verdict, v.reason, d.status, d.error_code
FROM ledger.dead_letters d
LEFT JOIN ledger.event_verdicts v USING (topic, partition, kafka_offset)
WHERE d.status = 'REPLAYED' AND (v.verdict = 'DEAD') IS NOT FALSE;
