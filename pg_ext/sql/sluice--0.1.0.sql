-- The functions of Sluice. Tables belong to `sluice migrate`, so that dropping
-- the extension can never drop money.
\echo Use "CREATE EXTENSION sluice" to load this file. \quit

-- Roles are shared by all databases of a server: another one may have them already.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['sluice_owner', 'sluice_writer', 'sluice_reader', 'sluice_admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database's migration was faster
            END;
        END IF;
    END LOOP;
    -- A successor ends the transaction that a frozen leader left open, and must see whose it is.
    IF NOT pg_catalog.pg_has_role('sluice_owner', 'pg_signal_backend', 'MEMBER')
        OR NOT pg_catalog.pg_has_role('sluice_owner', 'pg_read_all_stats', 'MEMBER') THEN
        GRANT pg_signal_backend, pg_read_all_stats TO sluice_owner;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA sluice TO sluice_owner, sluice_writer, sluice_reader, sluice_admin;

CREATE FUNCTION sluice.acquire_partition_lock(
    topic text, partition integer, service_id text, lease interval)
RETURNS TABLE (
    acquired boolean, fencing_token bigint, lease_id uuid, commit_offset bigint,
    leader_svc_id text, lease_expires_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'acquire_partition_lock_wrapper';
COMMENT ON FUNCTION sluice.acquire_partition_lock(text, integer, text, interval) IS
'Tries to become leader of one Kafka partition for the length of the lease. Always one row: acquired false names the present leader, true brings the fencing token, the lease and the offset of the next record to read. Succeeds if the partition is free, its lease ran out, the leader''s database session is gone, or the leader was this very service_id.';

CREATE FUNCTION sluice.renew_partition_lock(
    topic text, partition integer, fencing_token bigint, lease_id uuid, lease interval)
RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'renew_partition_lock_wrapper';
COMMENT ON FUNCTION sluice.renew_partition_lock(text, integer, bigint, uuid, interval) IS
'Extends a lease and returns when it now ends, or NULL when leadership is lost: then stop writing and acquire anew.';

CREATE FUNCTION sluice.release_partition_lock(
    topic text, partition integer, fencing_token bigint, lease_id uuid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'release_partition_lock_wrapper';
COMMENT ON FUNCTION sluice.release_partition_lock(text, integer, bigint, uuid) IS
'Gives a partition back and wakes waiting standbys (NOTIFY sluice_partition_released). False when it was not yours any more.';

CREATE FUNCTION sluice.apply_balance_batch(
    topic text, partition integer, fencing_token bigint, lease_id uuid,
    from_offset bigint, next_offset bigint, row_count bigint, checksum bigint, last_record uuid)
RETURNS TABLE (
    outcome text, events bigint, applied bigint, rejected bigint, duplicates bigint, dead bigint,
    updated_rows bigint, inserted_rows bigint, error_rows bigint, commit_offset bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'apply_balance_batch_wrapper';
COMMENT ON FUNCTION sluice.apply_balance_batch(text, integer, bigint, uuid, bigint, bigint, bigint, bigint, uuid) IS
'Applies the rows that this transaction copied into ledger.staging_balance_changes: fence, identities, balances, log, verdicts and the offset together. Offsets from from_offset up to, not including, next_offset. outcome is APPLIED, or ALREADY_COMMITTED when the same batch was committed before and only the answer was lost. A stale fencing token raises SQLSTATE 55000, rows that do not match row_count and checksum XX001.';

CREATE FUNCTION sluice.heartbeat(service_id text, topics text[], lease interval)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'heartbeat_wrapper';
COMMENT ON FUNCTION sluice.heartbeat(text, text[], interval) IS
'Says that an ingester lives and which topics it reads, so that live instances share the partitions evenly. False when another live session uses the same service_id.';

CREATE FUNCTION sluice.leave(service_id text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'leave_wrapper';
COMMENT ON FUNCTION sluice.leave(text) IS
'Says that an ingester stops, so that the others take its share at once.';

CREATE FUNCTION sluice.capture_staged_row()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'capture_staged_row';
COMMENT ON FUNCTION sluice.capture_staged_row() IS
'Trigger of the staging table: hands each staged row to the apply of the same transaction and stores nothing, so staging never bloats and never needs a vacuum or a lock.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT d.objid::regprocedure
        FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        WHERE e.extname = 'sluice' AND d.deptype = 'e' AND d.classid = 'pg_catalog.pg_proc'::regclass
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION
    sluice.acquire_partition_lock(text, integer, text, interval),
    sluice.renew_partition_lock(text, integer, bigint, uuid, interval),
    sluice.release_partition_lock(text, integer, bigint, uuid),
    sluice.apply_balance_batch(text, integer, bigint, uuid, bigint, bigint, bigint, bigint, uuid),
    sluice.heartbeat(text, text[], interval),
    sluice.leave(text)
TO sluice_writer;
