SET LOCAL ROLE sluice_owner;

-- Redis is told of a dead letter once its replay has succeeded, whoever replayed it.
ALTER TABLE ledger.dead_letters ADD marked_at timestamptz;
COMMENT ON COLUMN ledger.dead_letters.marked_at IS 'When Redis was told what the replay of this letter came to; NULL while it was not, or where no Redis is set.';
CREATE INDEX dead_letters_unmarked ON ledger.dead_letters (updated_at) WHERE status = 'REPLAYED' AND marked_at IS NULL;

RESET ROLE;
