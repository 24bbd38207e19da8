-- Staging by bytes; where the time of a batch goes.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

COMMENT ON FUNCTION sluice.capture_staged_row() IS
'Trigger of the staging table: hands each staged piece to the apply of the same transaction and stores nothing, so staging never bloats and never needs a vacuum or a lock.';
COMMENT ON FUNCTION sluice.apply_balance_batch(text, integer, bigint, uuid, bigint, bigint, bigint, bigint, uuid) IS
'Applies the events that this transaction copied into ledger.staging_balance_changes: fence, identities, balances, log, verdicts and the offset together. Offsets from from_offset up to, not including, next_offset. row_count counts changes and dead records, checksum is the XXH3 of the staged bytes, 0 for none. outcome is APPLIED, or ALREADY_COMMITTED when the same batch was committed before and only the answer was lost. A stale fencing token raises SQLSTATE 55000, staged bytes that do not match row_count and checksum XX001.';

CREATE FUNCTION sluice.last_batch_steps()
RETURNS TABLE (step text, microseconds bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'last_batch_steps_wrapper';
COMMENT ON FUNCTION sluice.last_batch_steps() IS
'How long each step of the last apply_balance_batch of this session took, in the order of the steps.';
ALTER FUNCTION sluice.last_batch_steps() OWNER TO sluice_owner;
REVOKE ALL ON FUNCTION sluice.last_batch_steps() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sluice.last_batch_steps() TO sluice_writer;
