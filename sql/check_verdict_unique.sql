-- No record has two verdicts: DUPLICATE and DEAD have no row in the log.
SELECT l.topic, l.partition, e.kafka_offset, e.verdict
FROM ledger.verdicts e
JOIN ledger.balance_log b USING (partition_id, kafka_offset)
JOIN ledger.partition_leases l USING (partition_id)
WHERE b.change_no = 0;
