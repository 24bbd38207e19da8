-- What each account has, every change that led to it, and what is left of changes that were pruned.

-- Event ids are written as they come, which is UTF-8.
DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'the encoding of this database is %: Sluice needs one of UTF8',
            pg_catalog.current_setting('server_encoding');
    END IF;
END $$;

SET LOCAL ROLE sluice_owner;

-- Half-empty pages keep every update a heap-only tuple: no index is touched.
CREATE TABLE ledger.account_balances (
    account_id bigint NOT NULL,
    shard_id integer NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    available numeric(36, 18) NOT NULL,
    frozen numeric(36, 18) NOT NULL,
    updated_msec bigint NOT NULL,
    last_offset bigint,
    last_partition_id integer,
    last_change_no smallint,
    PRIMARY KEY (account_id, shard_id, currency_code),
    -- NaN sorts above every number, so it would pass a bare >= 0.
    CONSTRAINT available_is_never_negative CHECK (available >= 0 AND available <> 'NaN'),
    CONSTRAINT frozen_is_never_negative CHECK (frozen >= 0 AND frozen <> 'NaN')
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE ledger.account_balances IS 'What each account has, per shard and currency.';
COMMENT ON COLUMN ledger.account_balances.account_id IS 'The account.';
COMMENT ON COLUMN ledger.account_balances.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.account_balances.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.account_balances.available IS 'What the account can spend; never negative.';
COMMENT ON COLUMN ledger.account_balances.frozen IS 'What is set aside; never negative.';
COMMENT ON COLUMN ledger.account_balances.updated_msec IS 'When the balance last changed, in milliseconds since 1970, by the database''s clock.';
COMMENT ON COLUMN ledger.account_balances.last_offset IS 'With last_partition_id and last_change_no: the row of balance_log that left the balance as it is.';
COMMENT ON COLUMN ledger.account_balances.last_partition_id IS 'See last_offset.';
COMMENT ON COLUMN ledger.account_balances.last_change_no IS 'See last_offset.';

-- The apply writes this table, verdicts and event_identities natively, by the places of their columns: a later column comes
-- last. The history of a balance needs no index that every insert would have to pay for: each applied change points to the
-- one before it, and the balance to its last.
CREATE TABLE ledger.balance_log (
    kafka_offset bigint NOT NULL,
    account_id bigint NOT NULL,
    created_at timestamptz NOT NULL,
    partition_id integer NOT NULL,
    shard_id integer NOT NULL,
    change_no smallint NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    available_delta numeric(36, 18) NOT NULL,
    frozen_delta numeric(36, 18) NOT NULL,
    available_after numeric(36, 18) NOT NULL,
    frozen_after numeric(36, 18) NOT NULL,
    reject_reason text COLLATE "C",
    source text COLLATE "C",
    previous_offset bigint,
    previous_partition_id integer,
    previous_change_no smallint,
    event_time timestamptz,
    PRIMARY KEY (partition_id, kafka_offset, change_no)
) WITH (fillfactor = 100, autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_freeze_min_age = 0);
COMMENT ON TABLE ledger.balance_log IS 'One row per change of every decodable, non-duplicate balance event; read it through balance_change_logs.';
COMMENT ON COLUMN ledger.balance_log.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.balance_log.account_id IS 'The account.';
COMMENT ON COLUMN ledger.balance_log.created_at IS 'Database time at which the batch held all its balances locked.';
COMMENT ON COLUMN ledger.balance_log.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.balance_log.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.balance_log.change_no IS 'The place of the change within its event, counted from 0.';
COMMENT ON COLUMN ledger.balance_log.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.balance_log.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.balance_log.available_delta IS 'What the change adds to available; may be negative.';
COMMENT ON COLUMN ledger.balance_log.frozen_delta IS 'What the change adds to frozen; may be negative.';
COMMENT ON COLUMN ledger.balance_log.available_after IS 'What is available after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_log.frozen_after IS 'What is frozen after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_log.reject_reason IS 'Why the event was rejected; NULL: it was applied.';
COMMENT ON COLUMN ledger.balance_log.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.balance_log.previous_offset IS 'With previous_partition_id and previous_change_no: the last applied change of the same balance before this one.';
COMMENT ON COLUMN ledger.balance_log.previous_partition_id IS 'See previous_offset.';
COMMENT ON COLUMN ledger.balance_log.previous_change_no IS 'See previous_offset.';
COMMENT ON COLUMN ledger.balance_log.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none, and of what was committed before this column was there.';

-- A batch is copied in pieces of one bytea: taken apart by the apply, at a fraction of what PostgreSQL asks for a row of
-- 17 columns. The trigger hands each piece to the apply of the same transaction and keeps it out of the table: nothing to
-- truncate, vacuum or lock.
CREATE UNLOGGED TABLE ledger.staging_balance_changes (piece bytea NOT NULL);
COMMENT ON TABLE ledger.staging_balance_changes IS 'Where batches are copied to, in pieces, for sluice.apply_balance_batch in the same transaction. Always empty.';
COMMENT ON COLUMN ledger.staging_balance_changes.piece IS 'A piece of the bytes of a batch: docs/internals.md has their format.';
CREATE TRIGGER capture BEFORE INSERT ON ledger.staging_balance_changes
FOR EACH ROW EXECUTE FUNCTION sluice.capture_staged_row();

CREATE TABLE ledger.manual_corrections (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    by_user text NOT NULL,
    why text NOT NULL,
    payload text NOT NULL,
    corrected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (partition_id, kafka_offset)
);
COMMENT ON TABLE ledger.manual_corrections IS 'Who corrected balances by hand, when and why. The changes stand in balance_change_logs, under topic "manual corrections".';
COMMENT ON COLUMN ledger.manual_corrections.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.manual_corrections.kafka_offset IS 'The offset of the correction among all corrections.';
COMMENT ON COLUMN ledger.manual_corrections.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.manual_corrections.why IS 'The reason that was given.';
COMMENT ON COLUMN ledger.manual_corrections.payload IS 'The correction as an event.';
COMMENT ON COLUMN ledger.manual_corrections.corrected_at IS 'When it was made.';

-- How far sluice.prune has come. A row of its own, so that no batch waits for it.
CREATE TABLE ledger.retention (
    partition_id integer PRIMARY KEY,
    pruned_below bigint NOT NULL CHECK (pruned_below >= 0),
    pruned_at timestamptz NOT NULL,
    pruned_by text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE ledger.retention IS 'Per partition, the offset below which records were pruned: nothing is left of them but dead letters that are still open.';
COMMENT ON COLUMN ledger.retention.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.retention.pruned_below IS 'The first offset that is left.';
COMMENT ON COLUMN ledger.retention.pruned_at IS 'When the partition was last pruned.';
COMMENT ON COLUMN ledger.retention.pruned_by IS 'The database login that pruned it.';

-- What the pruned changes of each balance add up to, so that it can still be verified.
CREATE TABLE ledger.balance_checkpoints (
    account_id bigint NOT NULL,
    shard_id integer NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    -- Of one partition alone they may add up to what no balance could be.
    available numeric NOT NULL,
    frozen numeric NOT NULL,
    pruned_until timestamptz NOT NULL,
    pruned_event_time_until timestamptz NOT NULL,
    PRIMARY KEY (account_id, shard_id, currency_code)
);
COMMENT ON TABLE ledger.balance_checkpoints IS 'Sums of the applied changes of each balance that sluice.prune has removed from the log. With the log that is left they make the balance.';
COMMENT ON COLUMN ledger.balance_checkpoints.account_id IS 'The account.';
COMMENT ON COLUMN ledger.balance_checkpoints.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.balance_checkpoints.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.balance_checkpoints.available IS 'What the removed changes add to available.';
COMMENT ON COLUMN ledger.balance_checkpoints.frozen IS 'What the removed changes add to frozen.';
COMMENT ON COLUMN ledger.balance_checkpoints.pruned_until IS 'When the latest of the removed changes was made: from there on the balance is known.';
COMMENT ON COLUMN ledger.balance_checkpoints.pruned_event_time_until IS 'The latest own time of the removed changes (that of its commit where an event gave none): from there on the balance is known by event time.';

-- How long what was done by hand is kept, whoever prunes: only the owner of the tables may change it.
CREATE TABLE ledger.record_keeping (
    is_the_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_the_only_row),
    keep_by_hand interval NOT NULL DEFAULT '400 days' CHECK (keep_by_hand >= interval '0')
);
INSERT INTO ledger.record_keeping DEFAULT VALUES;
COMMENT ON TABLE ledger.record_keeping IS 'What sluice.prune has to leave alone, whoever asks.';
COMMENT ON COLUMN ledger.record_keeping.is_the_only_row IS 'Keeps the table at one row.';
COMMENT ON COLUMN ledger.record_keeping.keep_by_hand IS 'For so long actions by hand on dead letters, their payloads and the rows that they wrote are not pruned.';

RESET ROLE;
