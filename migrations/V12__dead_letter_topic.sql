SET LOCAL ROLE sluice_owner;

-- The outbox of the dead letter topic.
ALTER TABLE ledger.dead_letters ADD published_at timestamptz;
COMMENT ON COLUMN ledger.dead_letters.published_at IS 'When the record was produced to the dead letter topic; NULL while it is not.';
CREATE INDEX dead_letters_unpublished ON ledger.dead_letters (topic, partition, kafka_offset) WHERE status = 'PARKED' AND published_at IS NULL;

RESET ROLE;
