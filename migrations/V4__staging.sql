SET LOCAL ROLE sluice_owner;

-- The binary COPY goes here. The trigger hands each row to the apply of the same
-- transaction and keeps it out of the table: nothing to truncate, vacuum or lock.
CREATE UNLOGGED TABLE ledger.staging_balance_changes (
    kafka_offset bigint NOT NULL,
    change_no smallint NOT NULL,
    event_id text,
    identity uuid,
    payload_hash uuid,
    account_id bigint,
    shard_id integer,
    currency_code text,
    available_delta numeric,
    frozen_delta numeric,
    error_code text,
    error_message text,
    attempts integer,
    key bytea,
    payload bytea,
    headers text
);

CREATE TRIGGER capture BEFORE INSERT ON ledger.staging_balance_changes
FOR EACH ROW EXECUTE FUNCTION sluice.capture_staged_row();

COMMENT ON TABLE ledger.staging_balance_changes IS 'Where batches are copied to, for sluice.apply_balance_batch in the same transaction. Always empty.';

RESET ROLE;
