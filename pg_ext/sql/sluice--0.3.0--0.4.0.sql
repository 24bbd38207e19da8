-- Staging by bytes; where the time of a batch goes; pausing partitions and taking them from their leader.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

COMMENT ON FUNCTION sluice.capture_staged_row() IS
'Trigger of the staging table: hands each staged piece to the apply of the same transaction and stores nothing, so staging never bloats and never needs a vacuum or a lock.';
COMMENT ON FUNCTION sluice.apply_balance_batch(text, integer, bigint, uuid, bigint, bigint, bigint, bigint, uuid) IS
'Applies the events that this transaction copied into ledger.staging_balance_changes: fence, identities, balances, log, verdicts and the offset together. Offsets from from_offset up to, not including, next_offset. row_count counts changes and dead records, checksum is the XXH3 of the staged bytes, 0 for none. outcome is APPLIED, or ALREADY_COMMITTED when the same batch was committed before and only the answer was lost. A stale fencing token raises SQLSTATE 55000, staged bytes that do not match row_count and checksum XX001.';

CREATE FUNCTION sluice.last_batch_steps()
RETURNS TABLE (step text, microseconds bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'last_batch_steps_wrapper';
COMMENT ON FUNCTION sluice.last_batch_steps() IS
'How long each step of the last apply_balance_batch of this session took, in the order of the steps.';

CREATE FUNCTION sluice.pause_partition(topic text, partition integer, reason text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(reason, '') = '' THEN
        RAISE EXCEPTION 'a pause needs a reason' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE ledger.partition_progress p
    SET paused_at = clock_timestamp(), paused_reason = reason
    FROM ledger.partition_leases l
    WHERE l.topic = pause_partition.topic AND l.partition = pause_partition.partition
        AND p.partition_id = l.partition_id AND p.paused_at IS NULL;
    IF FOUND THEN
        PERFORM pg_notify('sluice_partition_released', topic || '/' || partition);
        RETURN true;
    END IF;
    PERFORM sluice.known_partition(topic, partition);
    RETURN false;
END
$$;
COMMENT ON FUNCTION sluice.pause_partition(text, integer, text) IS
'Pauses a partition: once this is committed nothing of it is, until sluice.resume_partition. Its leader stays, its records wait in Kafka. Waits for the batch in flight. False when it was paused already.';

CREATE FUNCTION sluice.resume_partition(topic text, partition integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.partition_progress p
    SET paused_at = NULL, paused_reason = NULL
    FROM ledger.partition_leases l
    WHERE l.topic = resume_partition.topic AND l.partition = resume_partition.partition
        AND p.partition_id = l.partition_id AND p.paused_at IS NOT NULL;
    IF FOUND THEN
        PERFORM pg_notify('sluice_partition_released', topic || '/' || partition);
        RETURN true;
    END IF;
    PERFORM sluice.known_partition(topic, partition);
    RETURN false;
END
$$;
COMMENT ON FUNCTION sluice.resume_partition(text, integer) IS
'Resumes a paused partition, where it stopped. False when it was not paused.';

CREATE FUNCTION sluice.step_down(topic text, partition integer)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held record;
BEGIN
    SELECT l.partition_id, l.leader_svc_id INTO held FROM ledger.partition_leases l
    WHERE l.topic = step_down.topic AND l.partition = step_down.partition
    FOR UPDATE;
    IF held.leader_svc_id IS NULL THEN
        PERFORM sluice.known_partition(topic, partition);
        RETURN NULL;
    END IF;
    UPDATE ledger.partition_leases l
    SET leader_svc_id = NULL, lease_id = NULL, lease_expires_at = NULL, session_pid = NULL,
        stepped_down_svc_id = held.leader_svc_id, stepped_down_until = clock_timestamp() + interval '10 s'
    WHERE l.partition_id = held.partition_id;
    UPDATE ledger.partition_progress p SET lease_id = NULL WHERE p.partition_id = held.partition_id;
    PERFORM pg_notify('sluice_partition_released', topic || '/' || partition);
    RETURN held.leader_svc_id;
END
$$;
COMMENT ON FUNCTION sluice.step_down(text, integer) IS
'Takes a partition from its leader, whose lease ends at once; another live instance takes over, if there is one. Waits for the batch in flight. Answers who led, NULL when nobody did.';

CREATE FUNCTION sluice.known_partition(topic text, partition integer)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM ledger.partition_leases l
    WHERE l.topic = known_partition.topic AND l.partition = known_partition.partition;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'nobody has read %/% yet', topic, partition USING ERRCODE = 'undefined_object',
            HINT = 'SELECT topic, partition FROM ledger.partition_status shows the partitions that are known.';
    END IF;
END
$$;
COMMENT ON FUNCTION sluice.known_partition(text, integer) IS 'Raises an error for a partition that nobody has read yet.';

CREATE FUNCTION sluice.report_partitions(
    service_id text, topics text[], partitions integer[], states text[], reasons text[], lags bigint[],
    records_per_second double precision[], batch_records bigint[], copy_us bigint[], apply_us bigint[], commit_us bigint[])
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO ledger.partition_reports AS r
    SELECT l.partition_id, $1, pg_catalog.clock_timestamp(), u.state, u.reason, u.lag, u.rate, u.records, u.copy_us, u.apply_us, u.commit_us
    FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        AS u (topic, partition, state, reason, lag, rate, records, copy_us, apply_us, commit_us)
    JOIN ledger.partition_leases l ON l.topic = u.topic AND l.partition = u.partition
    ORDER BY l.partition_id
    ON CONFLICT (partition_id) DO UPDATE
    SET service_id = excluded.service_id, reported_at = excluded.reported_at, state = excluded.state, reason = excluded.reason,
        lag = excluded.lag, records_per_second = excluded.records_per_second, batch_records = excluded.batch_records,
        copy_us = excluded.copy_us, apply_us = excluded.apply_us, commit_us = excluded.commit_us
$$;
COMMENT ON FUNCTION sluice.report_partitions(text, text[], integer[], text[], text[], bigint[], double precision[], bigint[], bigint[], bigint[], bigint[]) IS
'What an ingester says of the partitions that it leads, for ledger.partition_status.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace
            AND p.proname IN ('last_batch_steps', 'pause_partition', 'resume_partition', 'step_down', 'known_partition', 'report_partitions')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION
    sluice.last_batch_steps(),
    sluice.report_partitions(text, text[], integer[], text[], text[], bigint[], double precision[], bigint[], bigint[], bigint[], bigint[])
TO sluice_writer;
GRANT EXECUTE ON FUNCTION
    sluice.pause_partition(text, integer, text), sluice.resume_partition(text, integer), sluice.step_down(text, integer)
TO sluice_admin;
