-- Every DEAD verdict has its dead letter, and every dead letter its verdict.
SELECT topic, partition, kafka_offset, v.reason, d.error_code
FROM (SELECT * FROM ledger.event_verdicts WHERE verdict = 'DEAD') v
FULL JOIN ledger.dead_letters d USING (topic, partition, kafka_offset)
WHERE v.reason IS DISTINCT FROM d.error_code;
