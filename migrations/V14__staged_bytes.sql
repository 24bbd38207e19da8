SET LOCAL ROLE sluice_owner;

-- Event ids are written as they come, which is UTF-8.
DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'the encoding of this database is %: Sluice needs one of UTF8',
            pg_catalog.current_setting('server_encoding');
    END IF;
END $$;

-- A batch is copied in pieces of one bytea: taken apart by the apply, at a fraction of what
-- PostgreSQL asks for a row of 17 columns. Nothing is ever stored here.
DROP TABLE ledger.staging_balance_changes;
CREATE UNLOGGED TABLE ledger.staging_balance_changes (piece bytea NOT NULL);
CREATE TRIGGER capture BEFORE INSERT ON ledger.staging_balance_changes
FOR EACH ROW EXECUTE FUNCTION sluice.capture_staged_row();
GRANT INSERT ON ledger.staging_balance_changes TO sluice_writer;
COMMENT ON TABLE ledger.staging_balance_changes IS 'Where batches are copied to, in pieces, for sluice.apply_balance_batch in the same transaction. Always empty.';

RESET ROLE;
