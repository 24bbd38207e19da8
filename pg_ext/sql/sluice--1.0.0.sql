-- The functions of Sluice. Tables belong to `sluice migrate`, so that dropping the extension can never drop money.
-- Each function stands with its comment and with who may call it; all belong to sluice_owner, by the last statement.
\echo Use "CREATE EXTENSION sluice" to load this file. \quit

-- Roles are shared by all databases of a server: another one may have them already.
DO $$
DECLARE
    wanted text;
    says text;
BEGIN
    -- Handlers run as sluice_handler: it may write in schema domain, and nowhere else.
    FOR wanted, says IN VALUES
        ('sluice_owner', 'Sluice: owns its schemas, tables and functions. Nobody logs in as it.'),
        ('sluice_writer', 'Sluice: what an ingester may do. Its login is a member.'),
        ('sluice_reader', 'Sluice: reads all tables and views, and runs the audits.'),
        ('sluice_admin', 'Sluice: what operators do by hand, on record: pauses, replays, corrections, pruning. Reads what sluice_reader reads.'),
        ('sluice_handler', 'Sluice: what handlers of domain events run as. It writes schema domain, and nothing else.')
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database's migration was faster
            END;
        END IF;
        IF pg_catalog.shobj_description(wanted::regrole, 'pg_authid') IS DISTINCT FROM says THEN
            BEGIN
                EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', wanted, says);
            EXCEPTION WHEN unique_violation OR internal_error THEN
                NULL; -- likewise, with the same words
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

COMMENT ON SCHEMA sluice IS 'Functions of Sluice: leadership, batches, handlers, dead letters, corrections, audit, retention.';
GRANT USAGE ON SCHEMA sluice TO sluice_owner, sluice_writer, sluice_reader, sluice_admin, sluice_handler;

-- --- Leadership: who reads a partition, and until when ---

CREATE FUNCTION sluice.acquire_partition_lock(
    topic text, partition integer, service_id text, lease interval)
RETURNS TABLE (
    acquired boolean, fencing_token bigint, lease_id uuid, commit_offset bigint,
    leader_svc_id text, lease_expires_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'acquire_partition_lock_wrapper';
COMMENT ON FUNCTION sluice.acquire_partition_lock IS
'Tries to become leader of one Kafka partition for the length of the lease. Always one row: acquired false names the present leader, true brings the fencing token, the lease and the offset of the next record to read. Succeeds if the partition is free, its lease ran out, the leader''s database session is gone, or the leader was this very service_id with the same login. Where a transaction holds the partition''s lease or progress, SQLSTATE 55P03 names it.';
GRANT EXECUTE ON FUNCTION sluice.acquire_partition_lock TO sluice_writer;

CREATE FUNCTION sluice.renew_partition_lock(
    topic text, partition integer, fencing_token bigint, lease_id uuid, lease interval)
RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'renew_partition_lock_wrapper';
COMMENT ON FUNCTION sluice.renew_partition_lock IS
'Extends a lease and returns when it now ends, or NULL when leadership is lost: then stop writing and acquire anew. Never waits: where another transaction holds the lease, it stands as it was, and its end is returned.';
GRANT EXECUTE ON FUNCTION sluice.renew_partition_lock TO sluice_writer;

CREATE FUNCTION sluice.release_partition_lock(
    topic text, partition integer, fencing_token bigint, lease_id uuid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'release_partition_lock_wrapper';
COMMENT ON FUNCTION sluice.release_partition_lock IS
'Gives a partition back and wakes waiting standbys (NOTIFY sluice_partition_released). False when it was not yours any more.';
GRANT EXECUTE ON FUNCTION sluice.release_partition_lock TO sluice_writer;

CREATE FUNCTION sluice.heartbeat(service_id text, topics text[], lease interval)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'heartbeat_wrapper';
COMMENT ON FUNCTION sluice.heartbeat IS
'Says that an instance lives and which topics it reads. A session has one name; false when another live session, or another login, has this one.';
GRANT EXECUTE ON FUNCTION sluice.heartbeat TO sluice_writer;

CREATE FUNCTION sluice.leave(service_id text)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'leave_wrapper';
COMMENT ON FUNCTION sluice.leave IS
'Says that an ingester stops, so that the others take its share at once.';
GRANT EXECUTE ON FUNCTION sluice.leave TO sluice_writer;

CREATE FUNCTION sluice.step_down(topic text, partition integer)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer;
    former text;
    tries integer := 0;
    waits boolean;
BEGIN
    PERFORM sluice.known_partition(topic, partition);
    SELECT l.partition_id INTO id FROM ledger.partition_leases l
    WHERE l.topic = step_down.topic AND l.partition = step_down.partition;
    LOOP
        BEGIN
            -- The batch in flight is waited for with nothing in hand: behind the lease all renewals of its leader would wait.
            waits := true;
            PERFORM FROM ledger.partition_progress p WHERE p.partition_id = id FOR UPDATE;
            waits := false;
            SELECT l.leader_svc_id INTO former FROM ledger.partition_leases l WHERE l.partition_id = id FOR UPDATE NOWAIT;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            -- A renewal has the lease for a moment, or somebody who acquires and wants the progress: let go of it.
            tries := tries + 1;
            IF waits OR tries > 200 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.005);
        END;
    END LOOP;
    IF former IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE ledger.partition_leases l
    SET leader_svc_id = NULL, lease_id = NULL, lease_expires_at = NULL, session_pid = NULL,
        stepped_down_svc_id = former, stepped_down_until = clock_timestamp() + interval '10 s'
    WHERE l.partition_id = id;
    UPDATE ledger.partition_progress p SET lease_id = NULL WHERE p.partition_id = id;
    PERFORM pg_notify('sluice_partition_released', topic || '/' || partition);
    RETURN former;
END
$$;
COMMENT ON FUNCTION sluice.step_down IS
'Takes a partition from its leader, whose lease ends at once; another live instance takes over, if there is one. Waits for the batch in flight. Answers who led, NULL when nobody did.';
GRANT EXECUTE ON FUNCTION sluice.step_down TO sluice_admin;

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
COMMENT ON FUNCTION sluice.known_partition IS
'Raises an error for a partition that nobody has read yet.';

-- --- Leadership: who holds up whom ---

CREATE FUNCTION sluice.partition_row_holders(partition_id integer)
RETURNS TABLE (what text, id text)
LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'partition_row_holders_wrapper';
COMMENT ON FUNCTION sluice.partition_row_holders IS
'The ids of the transactions that lock or change the lease or the progress of a partition, as pg_locks has them. xmax alone does not tell: it may be the number of a MultiXact.';

CREATE FUNCTION sluice.transaction_holder(id xid, OUT pid integer, OUT gid text, OUT age interval, OUT words text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held record;
BEGIN
    SELECT l.pid, l.virtualtransaction INTO held FROM pg_locks l
    WHERE l.locktype = 'transactionid' AND l.transactionid = id AND l.granted LIMIT 1;
    IF NOT FOUND THEN
        RETURN; -- of nobody that lives
    ELSIF held.pid IS NULL THEN
        SELECT p.gid, clock_timestamp() - p.prepared,
            format('prepared transaction %L of %I (since %s): COMMIT PREPARED or ROLLBACK PREPARED it in database %I',
                p.gid, p.owner, p.prepared::timestamptz(0), p.database)
        INTO gid, age, words
        FROM pg_prepared_xacts p
        -- Its own transaction, or the one that a subtransaction belongs to.
        JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = p.transaction
            AND l.pid IS NULL AND l.virtualtransaction = held.virtualtransaction
        LIMIT 1;
    ELSE
        SELECT a.pid, clock_timestamp() - a.xact_start,
            format('process %s of %I (%s, %s, its transaction began at %s)', a.pid, pg_get_userbyid(a.usesysid),
                coalesce(nullif(a.application_name, ''), 'no application_name'), a.state, a.xact_start::timestamptz(0))
        INTO pid, age, words
        FROM pg_stat_get_activity(held.pid) a;
    END IF;
END
$$;
COMMENT ON FUNCTION sluice.transaction_holder IS
'Who runs a transaction that is not over: a process, or a prepared transaction by its gid; of any other number, nobody. For those who wait for a row that it has locked.';

CREATE FUNCTION sluice.lock_holder(waiting integer)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before integer := waiting;
    holder integer;
BEGIN
    -- Whoever waits itself is not the one to ask.
    FOR step IN 1 .. 10 LOOP
        SELECT min(b) INTO holder FROM unnest(pg_blocking_pids(before)) b;
        EXIT WHEN holder IS NULL OR holder = 0;
        before := holder;
    END LOOP;
    IF holder = 0 THEN
        RETURN (SELECT h.words FROM pg_locks l, sluice.transaction_holder(l.transactionid) h
            WHERE l.pid = before AND l.locktype = 'transactionid' AND NOT l.granted LIMIT 1);
    ELSIF before = waiting THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT format('process %s of %I (%s, %s, its transaction began at %s)', a.pid, pg_get_userbyid(a.usesysid),
            coalesce(nullif(a.application_name, ''), 'no application_name'), a.state, a.xact_start::timestamptz(0))
        FROM pg_stat_get_activity(before) a);
END
$$;
COMMENT ON FUNCTION sluice.lock_holder IS
'Who keeps the session with this process id waiting for a lock, in words; NULL when nobody does.';
GRANT EXECUTE ON FUNCTION sluice.lock_holder TO sluice_writer;

CREATE FUNCTION sluice.partition_holder(partition_id integer)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Leading takes both rows for moments only.
    RETURN (
        SELECT format('its %s is held by %s', f.what, h.words)
        FROM sluice.partition_row_holders(partition_holder.partition_id) f, sluice.transaction_holder(f.id::xid) h
        WHERE h.age > interval '1 s'
        ORDER BY f.what, h.age DESC LIMIT 1);
END
$$;
COMMENT ON FUNCTION sluice.partition_holder IS
'Which transaction has held the lease or the progress of a partition for longer than a second, in words; NULL when none does.';
GRANT EXECUTE ON FUNCTION sluice.partition_holder TO sluice_reader, sluice_writer;

-- --- Leadership: pausing and resuming partitions by hand ---

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
COMMENT ON FUNCTION sluice.pause_partition IS
'Pauses a partition: once this is committed nothing of it is, until sluice.resume_partition. Its leader stays, its records wait in Kafka. Waits for the batch in flight. False when it was paused already.';
GRANT EXECUTE ON FUNCTION sluice.pause_partition TO sluice_admin;

CREATE FUNCTION sluice.resume_partition(topic text, partition integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.partition_progress p
    SET paused_at = NULL, paused_reason = NULL, resumed_at = clock_timestamp()
    FROM ledger.partition_leases l
    WHERE l.topic = resume_partition.topic AND l.partition = resume_partition.partition
        AND p.partition_id = l.partition_id AND p.paused_at IS NOT NULL AND NOT p.is_halted;
    IF FOUND THEN
        PERFORM pg_notify('sluice_partition_released', topic || '/' || partition);
        RETURN true;
    END IF;
    PERFORM sluice.known_partition(topic, partition);
    PERFORM FROM ledger.partition_halts h WHERE h.topic = resume_partition.topic AND h.partition = resume_partition.partition;
    IF FOUND THEN
        RAISE EXCEPTION '%/% is halted, not paused', topic, partition USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Look at its reason in ledger.partition_halts, then decide with `sluice accept` or sluice.accept_partition.';
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION sluice.resume_partition IS
'Resumes a paused partition, where it stopped. False when it was not paused; a halted one is for sluice.accept_partition.';
GRANT EXECUTE ON FUNCTION sluice.resume_partition TO sluice_admin;

-- --- Leadership: how a topic is recognised, and what an operator decides where it is not ---

CREATE FUNCTION sluice.start_topics(topics text[], partitions integer[])
RETURNS TABLE (topic text, partitions_at_first integer)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO ledger.topic_starts (topic, partitions)
    SELECT DISTINCT ON (1) u.topic, u.partitions FROM unnest(start_topics.topics, start_topics.partitions) AS u (topic, partitions)
    ORDER BY 1
    ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT s.topic, s.partitions FROM ledger.topic_starts s WHERE s.topic = ANY (start_topics.topics);
END
$$;
COMMENT ON FUNCTION sluice.start_topics IS
'Remembers how many partitions each topic has when Sluice first starts on it, 0 for one that does not exist, and answers what is remembered.';
GRANT EXECUTE ON FUNCTION sluice.start_topics TO sluice_writer;

CREATE FUNCTION sluice.partition_position(topic text, partition integer)
RETURNS TABLE (is_started boolean, last_record uuid, last_offset bigint, topic_id uuid, is_accepted boolean, halt_reason text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Every record below the committed offset has a verdict, the last one too.
    RETURN QUERY
    SELECT p.started_at IS NOT NULL, p.last_record,
        CASE WHEN p.last_record IS NOT NULL AND v.last_offset >= coalesce(r.pruned_below, 0) THEN v.last_offset END,
        p.topic_id, p.accepted_at IS NOT NULL AND p.last_record IS NULL,
        CASE WHEN p.is_halted THEN p.paused_reason END
    FROM ledger.partition_progress p
    JOIN ledger.partition_leases l USING (partition_id)
    LEFT JOIN ledger.retention r USING (partition_id)
    CROSS JOIN LATERAL (
        SELECT greatest(
            (SELECT max(g.kafka_offset) FROM ledger.balance_log g WHERE g.partition_id = p.partition_id),
            (SELECT max(e.kafka_offset) FROM ledger.verdicts e WHERE e.partition_id = p.partition_id)) AS last_offset
    ) v
    WHERE l.topic = partition_position.topic AND l.partition = partition_position.partition;
END
$$;
COMMENT ON FUNCTION sluice.partition_position IS
'What a leader needs to recognise a partition: the fingerprint and the offset of its last committed record, the topic id, whether an operator has accepted what Kafka holds, and why it is halted.';
GRANT EXECUTE ON FUNCTION sluice.partition_position TO sluice_writer;

CREATE FUNCTION sluice.keep_topic_id(topic text, partition integer, fencing_token bigint, lease_id uuid, topic_id uuid)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.partition_progress p SET topic_id = keep_topic_id.topic_id
    FROM ledger.partition_leases l
    WHERE l.topic = keep_topic_id.topic AND l.partition = keep_topic_id.partition AND p.partition_id = l.partition_id
        AND p.fencing_token = keep_topic_id.fencing_token AND p.lease_id = keep_topic_id.lease_id
        AND (p.topic_id IS NULL OR p.topic_id = keep_topic_id.topic_id OR p.commit_offset = 0);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.keep_topic_id IS
'Stores the Kafka topic id of what the leader reads; false when leadership is lost. An id that is stored stays as long as anything was read.';
GRANT EXECUTE ON FUNCTION sluice.keep_topic_id TO sluice_writer;

CREATE FUNCTION sluice.halt_partition(topic text, partition integer, fencing_token bigint, lease_id uuid, reason text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(reason, '') = '' THEN
        RAISE EXCEPTION 'a halt needs a reason' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE ledger.partition_progress p SET is_halted = true, paused_at = clock_timestamp(), paused_reason = reason
    FROM ledger.partition_leases l
    WHERE l.topic = halt_partition.topic AND l.partition = halt_partition.partition AND p.partition_id = l.partition_id
        AND p.fencing_token = halt_partition.fencing_token AND p.lease_id = halt_partition.lease_id;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.halt_partition IS
'Halts a partition whose topic its leader does not recognise: nothing of it is committed until sluice.accept_partition. False when leadership is lost.';
GRANT EXECUTE ON FUNCTION sluice.halt_partition TO sluice_writer;

CREATE FUNCTION sluice.accept_partition(topic text, partition integer, why text, next_offset bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
BEGIN
    IF coalesce(why, '') = '' THEN
        RAISE EXCEPTION 'an acceptance needs a reason' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT p.partition_id, p.commit_offset, p.is_halted INTO place
    FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = accept_partition.topic AND l.partition = accept_partition.partition
    FOR UPDATE OF p;
    IF NOT FOUND THEN
        PERFORM sluice.known_partition(topic, partition);
    END IF;
    IF NOT place.is_halted THEN
        RAISE EXCEPTION '%/% is not halted', topic, partition USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'SELECT * FROM ledger.partition_halts shows the partitions that wait for a decision.';
    END IF;
    IF next_offset < place.commit_offset THEN
        RAISE EXCEPTION '%/% was read up to offset %, and offsets do not go back', topic, partition, place.commit_offset
            USING ERRCODE = 'invalid_parameter_value',
                HINT = 'A topic that begins anew is read from its beginning under a name of its own.';
    END IF;
    IF next_offset > place.commit_offset THEN
        INSERT INTO ledger.offset_holes (partition_id, first_offset, next_offset)
        VALUES (place.partition_id, place.commit_offset, accept_partition.next_offset);
    END IF;
    PERFORM set_config('sluice.why', why, true);
    UPDATE ledger.partition_progress p
    SET is_halted = false, paused_at = NULL, paused_reason = NULL, accepted_at = clock_timestamp(),
        topic_id = NULL, last_record = NULL, commit_offset = greatest(p.commit_offset, accept_partition.next_offset)
    WHERE p.partition_id = place.partition_id;
    PERFORM pg_notify('sluice_partition_released', topic || '/' || partition);
    RETURN greatest(place.commit_offset, next_offset);
END
$$;
COMMENT ON FUNCTION sluice.accept_partition IS
'Ends the halt of a partition whose topic was not recognised: what Kafka holds now is what is read on, from the committed offset, or from next_offset behind it. What lies between is recorded as a hole, the decision in ledger.partition_actions, with the offsets (from, to) in its arguments. Answers where reading goes on.';
GRANT EXECUTE ON FUNCTION sluice.accept_partition TO sluice_admin;

-- --- Batches ---

CREATE FUNCTION sluice.capture_staged_row()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'capture_staged_row';
COMMENT ON FUNCTION sluice.capture_staged_row IS
'Trigger of the staging table: hands each staged piece to the apply of the same transaction and stores nothing, so staging never bloats and never needs a vacuum or a lock.';

CREATE FUNCTION sluice.apply_balance_batch(
    topic text, partition integer, fencing_token bigint, lease_id uuid,
    from_offset bigint, next_offset bigint, row_count bigint, checksum bigint, last_record uuid)
RETURNS TABLE (
    outcome text, events bigint, applied bigint, rejected bigint, duplicates bigint, dead bigint,
    updated_rows bigint, inserted_rows bigint, error_rows bigint, commit_offset bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'apply_balance_batch_wrapper';
COMMENT ON FUNCTION sluice.apply_balance_batch IS
'Applies the events that this transaction copied into ledger.staging_balance_changes: fence, identities, balances, log, verdicts and the offset together. Offsets from from_offset up to, not including, next_offset. row_count counts changes and dead records, checksum is the XXH3 of the staged bytes, 0 for none. outcome is APPLIED, or ALREADY_COMMITTED when the same batch was committed before and only the answer was lost. A stale fencing token raises SQLSTATE 55000, staged bytes that do not match row_count and checksum XX001.';
GRANT EXECUTE ON FUNCTION sluice.apply_balance_batch TO sluice_writer;

CREATE FUNCTION sluice.apply_event_batch(
    topic text, partition integer, fencing_token bigint, lease_id uuid,
    from_offset bigint, next_offset bigint, last_record uuid,
    kafka_offsets bigint[], record_times_ms bigint[], keys bytea[], payloads bytea[], headers text[])
RETURNS TABLE (
    outcome text, events bigint, applied bigint, rejected bigint, duplicates bigint, dead bigint,
    updated_rows bigint, inserted_rows bigint, error_rows bigint, commit_offset bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'apply_event_batch_wrapper';
COMMENT ON FUNCTION sluice.apply_event_batch IS
'Applies raw records of one domain topic: fence, identities, the topic''s handler, verdicts, dead letters and the offset together. The arrays have one entry per record. An event that breaks the handler becomes a dead letter and its neighbours are handled; SQLSTATE 38000 when the handler breaks on too much, or is paused.';
GRANT EXECUTE ON FUNCTION sluice.apply_event_batch TO sluice_writer;

CREATE FUNCTION sluice.last_batch_steps()
RETURNS TABLE (step text, microseconds bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'last_batch_steps_wrapper';
COMMENT ON FUNCTION sluice.last_batch_steps IS
'How long each step of the last apply_balance_batch of this session took, in the order of the steps.';
GRANT EXECUTE ON FUNCTION sluice.last_batch_steps TO sluice_writer;

CREATE FUNCTION sluice.last_batch_rejections()
RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'last_batch_rejections_wrapper';
COMMENT ON FUNCTION sluice.last_batch_rejections IS
'How many records this session''s last batch rejected, by reason: INSUFFICIENT_BALANCE, INSUFFICIENT_FROZEN, BALANCE_OVERFLOW, EVENT_ID_CONFLICT.';
GRANT EXECUTE ON FUNCTION sluice.last_batch_rejections TO sluice_writer;

-- --- Batches: what is given up by hand, and where the database refuses too much ---

CREATE FUNCTION sluice.bury_record(topic text, partition integer, kafka_offset bigint, why text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
BEGIN
    IF coalesce(btrim(why), '') = '' THEN
        RAISE EXCEPTION 'why is missing' USING ERRCODE = 'invalid_parameter_value', HINT = 'Say why, for those who read the record later.';
    END IF;
    -- Behind this lock no batch of the partition is under way: the next one sees the order.
    SELECT p.partition_id, p.commit_offset INTO place
    FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = bury_record.topic AND l.partition = bury_record.partition
    FOR UPDATE OF p;
    IF NOT FOUND THEN
        PERFORM sluice.known_partition(topic, partition);
    END IF;
    IF (kafka_offset >= place.commit_offset) IS NOT TRUE THEN
        RAISE EXCEPTION 'offset % of %/% is committed already: the partition stands at %', kafka_offset, topic, partition, place.commit_offset
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Its verdict is in ledger.event_verdicts.';
    END IF;
    INSERT INTO ledger.burials AS b (partition_id, kafka_offset, by_user, why)
    VALUES (place.partition_id, kafka_offset, session_user, why)
    ON CONFLICT ON CONSTRAINT burials_pkey DO UPDATE
    SET by_user = excluded.by_user, why = excluded.why, ordered_at = excluded.ordered_at, outcome = NULL, settled_at = NULL
    WHERE b.outcome IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE ledger.partition_progress p SET bury_from = least(p.bury_from, kafka_offset) WHERE p.partition_id = place.partition_id;
    RETURN true;
END
$$;
COMMENT ON FUNCTION sluice.bury_record IS
'Orders that the record at this offset becomes a dead letter (BURIED) when its partition comes to it, untried and byte for byte, whatever it holds. For a record that the database cannot take for a reason that is not the record''s. Refuses an offset that is committed. False when it was ordered already. Waits for the batch in flight.';
GRANT EXECUTE ON FUNCTION sluice.bury_record TO sluice_admin;

CREATE FUNCTION sluice.withdraw_burial(topic text, partition integer, kafka_offset bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = withdraw_burial.topic AND l.partition = withdraw_burial.partition
    FOR UPDATE OF p;
    UPDATE ledger.burials b SET outcome = 'WITHDRAWN', settled_at = clock_timestamp()
    FROM ledger.partition_leases l
    WHERE l.topic = withdraw_burial.topic AND l.partition = withdraw_burial.partition AND b.partition_id = l.partition_id
        AND b.kafka_offset = withdraw_burial.kafka_offset AND b.outcome IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.withdraw_burial IS
'Takes back an order of sluice.bury_record that was not carried out yet. False when there is none. Waits for the batch in flight.';
GRANT EXECUTE ON FUNCTION sluice.withdraw_burial TO sluice_admin;

CREATE FUNCTION sluice.trip_breaker(topic text, reason text)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    paused integer := 0;
BEGIN
    FOR one IN
        -- As everybody locks: by topic and partition, so that no replay waits for this while this waits for it.
        SELECT l.partition_id, l.partition FROM ledger.partition_leases l WHERE l.topic = trip_breaker.topic
        ORDER BY l.topic COLLATE "C", l.partition
    LOOP
        UPDATE ledger.partition_progress p
        SET paused_at = clock_timestamp(), paused_reason = 'circuit breaker: ' || coalesce(reason, 'no reason given')
        WHERE p.partition_id = one.partition_id AND p.paused_at IS NULL;
        IF FOUND THEN
            paused := paused + 1;
            PERFORM pg_notify('sluice_partition_released', topic || '/' || one.partition);
        END IF;
    END LOOP;
    RETURN paused;
END
$$;
COMMENT ON FUNCTION sluice.trip_breaker IS
'Pauses all partitions of a balance topic of which the database refuses too much, until sluice.reset_breaker or sluice.resume_partition. How many it paused; those that are paused already stay as they are. Waits for the batches in flight.';
GRANT EXECUTE ON FUNCTION sluice.trip_breaker TO sluice_writer;

CREATE FUNCTION sluice.reset_breaker(topic text)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    resumed integer := 0;
BEGIN
    FOR one IN
        SELECT l.partition FROM ledger.partition_leases l JOIN ledger.partition_progress p USING (partition_id)
        WHERE l.topic = reset_breaker.topic AND p.paused_reason LIKE 'circuit breaker: %'
        -- As everybody locks.
        ORDER BY l.topic COLLATE "C", l.partition
    LOOP
        IF sluice.resume_partition(topic, one.partition) THEN
            resumed := resumed + 1;
        END IF;
    END LOOP;
    RETURN resumed;
END
$$;
COMMENT ON FUNCTION sluice.reset_breaker IS
'Resumes the partitions of a topic that its circuit breaker has paused, where they stopped; those paused by hand stay paused. How many. What the database refused before does not count any more.';
GRANT EXECUTE ON FUNCTION sluice.reset_breaker TO sluice_admin;

-- --- Handlers of domain events ---

CREATE FUNCTION sluice.register_handler(
    event_type text, handler text, parks_key boolean DEFAULT false,
    max_failures integer DEFAULT 100, failure_window integer DEFAULT 200)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    existing text := (SELECT h.handler FROM ledger.event_handlers h WHERE h.event_type = register_handler.event_type);
    plain text := regexp_replace(register_handler.handler, '\s*\(.*\)\s*$', '');
    found regprocedure;
    result regtype;
BEGIN
    IF event_type IS NULL OR event_type !~ '^[a-zA-Z0-9._-]{1,249}$' THEN
        RAISE EXCEPTION 'event type % cannot be the name of a Kafka topic', quote_nullable(event_type)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use letters, digits, dot, underscore and dash, at most 249.';
    END IF;
    IF existing IS NOT NULL THEN
        RAISE EXCEPTION 'event type % has a handler already: %', event_type, existing
            USING ERRCODE = 'duplicate_object',
                HINT = format('To change what it does, CREATE OR REPLACE FUNCTION %s; to bind another, SELECT sluice.unregister_handler(%L) first.', existing, event_type);
    END IF;
    found := to_regprocedure(plain || '(domain.event[])');
    IF found IS NULL AND to_regproc(plain) IS NOT NULL THEN
        RAISE EXCEPTION 'function % does not take (domain.event[])', plain
            USING ERRCODE = 'invalid_function_definition',
                HINT = format('CREATE FUNCTION %s(events domain.event[]) RETURNS void …', plain);
    ELSIF found IS NULL THEN
        RAISE EXCEPTION 'there is no function %(domain.event[])', plain
            USING ERRCODE = 'undefined_function',
                HINT = format('CREATE FUNCTION %s(events domain.event[]) RETURNS void …', plain);
    END IF;
    SELECT p.prorettype, format('%I.%I', n.nspname, p.proname) INTO result, plain
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.oid = found AND p.prokind = 'f' AND NOT p.proretset;
    IF result IS DISTINCT FROM 'void'::regtype THEN
        RAISE EXCEPTION 'function % must return void', found
            USING ERRCODE = 'invalid_function_definition', HINT = format('Drop it and CREATE FUNCTION %s(events domain.event[]) RETURNS void …', plain);
    END IF;
    IF NOT has_function_privilege('sluice_handler', found, 'EXECUTE')
        OR NOT has_schema_privilege('sluice_handler', (SELECT p.pronamespace FROM pg_proc p WHERE p.oid = found), 'USAGE') THEN
        RAISE EXCEPTION 'role sluice_handler may not call %', found
            USING ERRCODE = 'insufficient_privilege',
                HINT = format('GRANT EXECUTE ON FUNCTION %s TO sluice_handler, and USAGE on its schema.', found);
    END IF;
    INSERT INTO ledger.event_handlers (event_type, handler, parks_key, max_failures, failure_window, registered_by)
    VALUES (event_type, plain, parks_key, max_failures, failure_window, session_user);
END
$$;
COMMENT ON FUNCTION sluice.register_handler IS
'Binds an event type to a function (events domain.event[]) RETURNS void: running ingesters read the topic of that name within seconds. parks_key: behind a dead record all later ones of its key are parked too. The topic pauses when the handler breaks on more than max_failures of the last failure_window events of a partition.';
GRANT EXECUTE ON FUNCTION sluice.register_handler TO sluice_admin;

CREATE FUNCTION sluice.unregister_handler(event_type text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM ledger.event_handlers h WHERE h.event_type = unregister_handler.event_type;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.unregister_handler IS
'Unbinds an event type: its topic is read no further and keeps its offset. False when it had no handler.';
GRANT EXECUTE ON FUNCTION sluice.unregister_handler TO sluice_admin;

CREATE FUNCTION sluice.pause_handler(event_type text, reason text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.event_handlers h
    SET paused_at = clock_timestamp(), pause_reason = coalesce(reason, 'no reason given'),
        paused_version = (SELECT f.xmin::text FROM pg_proc f WHERE f.oid = to_regprocedure(h.handler || '(domain.event[])'))
    WHERE h.event_type = pause_handler.event_type AND (
        h.paused_at IS NULL OR h.paused_version IS DISTINCT FROM (
            SELECT f.xmin::text FROM pg_proc f WHERE f.oid = to_regprocedure(h.handler || '(domain.event[])')));
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.pause_handler IS
'Pauses a topic of domain events: nothing of it is committed until sluice.resume_handler, or until its handler is replaced. Nothing is lost.';
GRANT EXECUTE ON FUNCTION sluice.pause_handler TO sluice_admin, sluice_writer;

CREATE FUNCTION sluice.resume_handler(event_type text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.event_handlers h
    SET paused_at = NULL, pause_reason = NULL, paused_version = NULL, resumed_at = clock_timestamp()
    WHERE h.event_type = resume_handler.event_type AND h.paused_at IS NOT NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.resume_handler IS
'Resumes a paused topic. False when it was not paused.';
GRANT EXECUTE ON FUNCTION sluice.resume_handler TO sluice_admin;

CREATE FUNCTION sluice.call_handler(
    handler text, kafka_offsets bigint[], event_ids text[], sources text[], event_times_us bigint[], versions bytea[],
    payloads bytea[], OUT broke_with text, OUT message text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, domain, pg_temp
SET synchronous_commit = on -- so that SET LOCAL in a handler ends with the call
AS $$
BEGIN
    -- Hours and the rest apart: an interval is multiplied by a float8, which holds each of them exactly.
    EXECUTE pg_catalog.format('
        SELECT %s(pg_catalog.array_agg(ROW(
            u.kafka_offset, u.event_id, u.source,
            ''epoch''::timestamptz + u.event_time_us / 3600000000 * interval ''1 hour''
                + u.event_time_us %% 3600000000 * interval ''1 microsecond'', u.version,
            pg_catalog.convert_from(u.payload, ''UTF8'')::jsonb -> ''data'')::domain.event ORDER BY u.n))
        FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY
            AS u (kafka_offset, event_id, source, event_time_us, version, payload, n)', handler)
    USING kafka_offsets, event_ids, sources, event_times_us, versions, payloads;
    -- Otherwise COMMIT would run it, as the role of the session.
    PERFORM sluice.settle_handler();
EXCEPTION WHEN OTHERS THEN
    -- Trouble of the database, a handler that lacks a table: no fault of the events.
    IF NOT sluice.blames_record(SQLSTATE, SQLERRM) THEN
        RAISE;
    END IF;
    GET STACKED DIAGNOSTICS broke_with = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
    message := pg_catalog.left(message, 4000); -- as much as a dead letter keeps
END
$$;
COMMENT ON FUNCTION sluice.call_handler IS
'Calls a handler as role sluice_handler in a subtransaction. NULL when it succeeded, otherwise what it broke with.';

CREATE FUNCTION sluice.settle_handler()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'settle_handler';
COMMENT ON FUNCTION sluice.settle_handler IS
'Runs what a handler has deferred, as its role; sluice.call_handler is the one to call it.';
GRANT EXECUTE ON FUNCTION sluice.settle_handler TO sluice_handler;

CREATE FUNCTION sluice.blames_record(sqlstate text, message text)
RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'blames_record_wrapper';
COMMENT ON FUNCTION sluice.blames_record IS
'Whether an error with this SQLSTATE and message inside a handler is the fault of the event that met it, or of the handler, so that the event may become a dead letter for it. Any other is trouble of the database.';
GRANT EXECUTE ON FUNCTION sluice.blames_record TO sluice_handler;

-- --- Handlers: tried on events before these are sent ---

CREATE FUNCTION sluice.try_handler(event_type text, events jsonb)
RETURNS TABLE (nth bigint, event_id text, verdict text, reason text, message text, relation text, written jsonb)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    payloads bytea[];
    before jsonb;
    verdicts jsonb;
    rows jsonb;
BEGIN
    IF event_type = 'balance.changed' THEN
        RAISE EXCEPTION 'balance.changed has no handler: sluice.apply_balance_changes tries changes on the balances as they are'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_typeof(events) = 'object' THEN
        events := jsonb_build_array(events);
    END IF;
    IF jsonb_typeof(events) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'events must be an event or an array of events' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    payloads := ARRAY(
        SELECT convert_to(e.event::text, 'UTF8') FROM jsonb_array_elements(events) WITH ORDINALITY AS e (event, n) ORDER BY e.n);
    before := sluice.handler_counts();
    BEGIN
        SELECT jsonb_agg(to_jsonb(t) ORDER BY t.nth) INTO verdicts FROM sluice.try_events(event_type, payloads) t;
        rows := sluice.handler_rows(before);
        -- Undoes all that the handler wrote; variables keep their values.
        RAISE EXCEPTION USING ERRCODE = 'SLTRY';
    EXCEPTION WHEN SQLSTATE 'SLTRY' THEN
        -- A handler may raise it, too.
        IF rows IS NULL THEN
            RAISE;
        END IF;
    END;
    RETURN QUERY
    SELECT v.nth, v.event_id, v.verdict, v.reason, v.message, NULL::text, NULL::jsonb
    FROM jsonb_to_recordset(verdicts) AS v (nth bigint, event_id text, verdict text, reason text, message text)
    ORDER BY v.nth;
    RETURN QUERY
    SELECT NULL::bigint, NULL::text, NULL::text, NULL::text, r.message, r.relation, r.written
    FROM jsonb_to_recordset(rows) AS r (relation text, written jsonb, message text)
    ORDER BY r.relation, r.written;
END
$$;
COMMENT ON FUNCTION sluice.try_handler IS
'Calls the handler of a type with events, as sluice_handler and as for a batch, and undoes it: one row for each event with the verdict that it would get, then one for each row that the handler wrote, as it left it. events: one event or an array. Whether an identity was used before is not looked at. Reads the tables that were written from beginning to end, and locks what it writes until the statement ends.';
GRANT EXECUTE ON FUNCTION sluice.try_handler TO sluice_admin;

CREATE FUNCTION sluice.try_events(event_type text, payloads bytea[])
RETURNS TABLE (nth bigint, event_id text, verdict text, reason text, message text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'try_events_wrapper';
COMMENT ON FUNCTION sluice.try_events IS
'Calls the handler of a type with these payloads and answers what each event would come to; sluice.try_handler undoes it.';

CREATE FUNCTION sluice.handler_counts()
RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(s.relid, jsonb_build_array(s.n_tup_ins + s.n_tup_upd, s.n_tup_del)), '{}')
    FROM pg_stat_xact_user_tables s WHERE s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0
$$;
COMMENT ON FUNCTION sluice.handler_counts IS
'How many rows this transaction has written and deleted so far, by table.';
GRANT EXECUTE ON FUNCTION sluice.handler_counts TO sluice_handler;

CREATE FUNCTION sluice.handler_rows(before jsonb)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    touched record;
    of_table jsonb;
    rows jsonb := '[]';
BEGIN
    FOR touched IN
        SELECT c.key::oid::regclass AS relation,
            (c.value ->> 0)::bigint - coalesce((before -> c.key ->> 0)::bigint, 0) AS written,
            (c.value ->> 1)::bigint - coalesce((before -> c.key ->> 1)::bigint, 0) AS deleted
        FROM jsonb_each(sluice.handler_counts()) c
        WHERE has_table_privilege(c.key::oid, 'SELECT')
    LOOP
        IF touched.written > 0 THEN
            EXECUTE format('SELECT jsonb_agg(jsonb_build_object(''relation'', %L, ''written'', to_jsonb(row_of.*)))
                FROM %s row_of WHERE sluice.is_written_here(row_of.xmin::text::bigint)', touched.relation, touched.relation) INTO of_table;
            rows := rows || coalesce(of_table, '[]');
        END IF;
        IF touched.deleted > 0 THEN
            rows := rows || jsonb_build_object('relation', touched.relation, 'message', format('%s rows deleted', touched.deleted));
        END IF;
    END LOOP;
    RETURN rows;
END
$$;
COMMENT ON FUNCTION sluice.handler_rows IS
'The rows that this transaction has written since, as role sluice_handler sees them.';

CREATE FUNCTION sluice.is_written_here(xid bigint)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'is_written_here_wrapper';
COMMENT ON FUNCTION sluice.is_written_here IS
'Whether a row with this xmin was written by the current transaction.';
GRANT EXECUTE ON FUNCTION sluice.is_written_here TO sluice_handler;

-- --- Handlers: how they read fields and look for what is referred to. These run as their caller ---

CREATE FUNCTION sluice.read_id(value jsonb, event_id text, field text, required boolean)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_id';
COMMENT ON FUNCTION sluice.read_id IS
'What domain.id answers.';
GRANT EXECUTE ON FUNCTION sluice.read_id TO sluice_handler;

CREATE FUNCTION sluice.read_text(value jsonb, event_id text, field text, shortest integer, longest integer, required boolean)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_text';
COMMENT ON FUNCTION sluice.read_text IS
'What domain.text answers.';
GRANT EXECUTE ON FUNCTION sluice.read_text TO sluice_handler;

CREATE FUNCTION sluice.read_currency(value jsonb, event_id text, field text, required boolean)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_currency';
COMMENT ON FUNCTION sluice.read_currency IS
'What domain.currency answers.';
GRANT EXECUTE ON FUNCTION sluice.read_currency TO sluice_handler;

CREATE FUNCTION sluice.read_amount(value jsonb, event_id text, field text, may_be_negative boolean, required boolean)
RETURNS numeric
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_amount';
COMMENT ON FUNCTION sluice.read_amount IS
'What domain.amount and domain.unsigned_amount answer.';
GRANT EXECUTE ON FUNCTION sluice.read_amount TO sluice_handler;

CREATE FUNCTION sluice.read_plain_instant(value jsonb)
RETURNS timestamptz
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_plain_instant';
COMMENT ON FUNCTION sluice.read_plain_instant IS
'What domain.instant answers: any RFC 3339 time, read as the envelope''s timestamp is; NULL for all else.';
GRANT EXECUTE ON FUNCTION sluice.read_plain_instant TO sluice_handler;

CREATE FUNCTION sluice.absent(relation regclass, ids text[], referrers text[])
RETURNS TABLE (id text, referrer text)
LANGUAGE c VOLATILE PARALLEL UNSAFE -- it sees what was committed since its statement began
AS 'MODULE_PATHNAME', 'absent_wrapper';
COMMENT ON FUNCTION sluice.absent IS
'Which of ids are the key of no row that is committed or of this transaction, each once, in the order of their bytes, with the referrer of its first place. The key is the table''s first column, a text; of a table with another one, or with policies, all are answered. Needs SELECT on the table.';
GRANT EXECUTE ON FUNCTION sluice.absent TO sluice_handler;

CREATE FUNCTION sluice.dangling_references(older_than interval)
RETURNS TABLE (kind text, rows bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The view belongs to the platform's family; the core alone has no such rows.
    IF to_regclass('domain.dangling_references') IS NOT NULL THEN
        RETURN QUERY SELECT d.kind, count(*) FROM domain.dangling_references d WHERE d.seen_at < now() - older_than GROUP BY 1;
    END IF;
END
$$;
COMMENT ON FUNCTION sluice.dangling_references IS
'How many rows of each kind were named longer ago than that and are not created yet; which ones: domain.dangling_references.';
GRANT EXECUTE ON FUNCTION sluice.dangling_references TO sluice_reader, sluice_writer;

-- --- Dead letters: by hand ---

CREATE TYPE sluice.replayed AS (
    id bigint, topic text, partition integer, kafka_offset bigint, verdict text, reason text, message text);
COMMENT ON TYPE sluice.replayed IS 'What a dead letter became, or would become. message says why it stays dead.';
COMMENT ON COLUMN sluice.replayed.id IS 'The dead letter.';
COMMENT ON COLUMN sluice.replayed.topic IS 'The Kafka topic.';
COMMENT ON COLUMN sluice.replayed.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN sluice.replayed.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN sluice.replayed.verdict IS 'What the letter became, or would become; NULL: it was left out.';
COMMENT ON COLUMN sluice.replayed.reason IS 'Why it stays dead, was rejected or was left out.';
COMMENT ON COLUMN sluice.replayed.message IS 'The error, or why the letter was left out.';

CREATE FUNCTION sluice.replay_dead_letters(
    ids bigint[] DEFAULT NULL, topic text DEFAULT NULL, error_code text DEFAULT NULL, key bytea DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, payload bytea DEFAULT NULL,
    why text DEFAULT NULL, max_rows integer DEFAULT 1000, dry_run boolean DEFAULT true)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found sluice.replayed[];
    chosen bigint[];
    outcomes sluice.replayed[];
BEGIN
    IF payload IS NOT NULL AND cardinality(ids) IS DISTINCT FROM 1 THEN
        RAISE EXCEPTION 'a corrected payload is for one dead letter' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give its id: ids => ARRAY[42].';
    END IF;
    found := ARRAY(SELECT f FROM sluice.find_dead_letters('REPLAY', ids, topic, error_code, key, since, until, max_rows) f);
    chosen := ARRAY(SELECT f.id FROM unnest(found) f WHERE f.verdict IS NOT NULL);
    -- Whoever acquires a partition waits for an operator's session that is at work behind this mark, and ends no such.
    PERFORM pg_try_advisory_xact_lock_shared(1936487784, l.partition_id)
    FROM ledger.partition_leases l
    WHERE (l.topic, l.partition) IN (SELECT f.topic, f.partition FROM unnest(found) f WHERE f.verdict IS NOT NULL);
    BEGIN
        outcomes := ARRAY(
            SELECT (r.id, r.topic, r.partition, r.kafka_offset, r.verdict, r.reason, r.message)::sluice.replayed
            FROM sluice.replay_letters(chosen, payload) r);
        IF dry_run IS DISTINCT FROM false THEN
            RAISE EXCEPTION USING ERRCODE = 'S0DRY';
        END IF;
    EXCEPTION WHEN SQLSTATE 'S0DRY' THEN
        NULL; -- all is as before, but for what was found out
    END;
    IF NOT dry_run THEN
        PERFORM sluice.ask_why(why);
        INSERT INTO ledger.dead_letter_actions (dead_letter_id, action, by_user, why, verdict, reason, payload)
        SELECT o.id, 'REPLAY', session_user, replay_dead_letters.why, o.verdict, o.reason, replay_dead_letters.payload
        FROM unnest(outcomes) o;
    END IF;
    RETURN QUERY SELECT * FROM unnest(outcomes);
    -- Somebody else was faster.
    RETURN QUERY SELECT l.*
    FROM unnest(chosen) AS c (id)
    CROSS JOIN LATERAL sluice.why_left_out('REPLAY', c.id, true, NULL, NULL, NULL, NULL, NULL) l
    WHERE c.id NOT IN (SELECT o.id FROM unnest(outcomes) o);
    RETURN QUERY SELECT * FROM unnest(found) f WHERE f.verdict IS NULL;
END
$$;
COMMENT ON FUNCTION sluice.replay_dead_letters IS
'Tries parked dead letters again: fence, identities and fold or handler as the first time. By default a dry run that says what each would become; dry_run => false does it. payload corrects a single one, and is kept where it fails again. A letter that is left out is answered without a verdict and with the reason. Every replay is recorded in ledger.dead_letter_actions.';
GRANT EXECUTE ON FUNCTION sluice.replay_dead_letters TO sluice_admin;

CREATE FUNCTION sluice.discard_dead_letters(
    ids bigint[] DEFAULT NULL, topic text DEFAULT NULL, error_code text DEFAULT NULL, key bytea DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    why text DEFAULT NULL, max_rows integer DEFAULT 1000, dry_run boolean DEFAULT true)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM sluice.settle_dead_letters('DISCARD', ids, topic, error_code, key, since, until, why, max_rows, dry_run);
END
$$;
COMMENT ON FUNCTION sluice.discard_dead_letters IS
'Gives up parked dead letters: they stay on record, with their verdict, and are not replayed until sluice.restore_dead_letters. By default a dry run; dry_run => false does it. A letter that is left out is answered without a verdict and with the reason.';
GRANT EXECUTE ON FUNCTION sluice.discard_dead_letters TO sluice_admin;

CREATE FUNCTION sluice.restore_dead_letters(
    ids bigint[] DEFAULT NULL, topic text DEFAULT NULL, error_code text DEFAULT NULL, key bytea DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    why text DEFAULT NULL, max_rows integer DEFAULT 1000, dry_run boolean DEFAULT true)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM sluice.settle_dead_letters('RESTORE', ids, topic, error_code, key, since, until, why, max_rows, dry_run);
END
$$;
COMMENT ON FUNCTION sluice.restore_dead_letters IS
'Parks discarded dead letters again, to be replayed. Where keys are parked, later records of its key wait behind it from now on; those that have followed since stay applied. By default a dry run; dry_run => false does it. A letter that is left out is answered without a verdict and with the reason.';
GRANT EXECUTE ON FUNCTION sluice.restore_dead_letters TO sluice_admin;

CREATE FUNCTION sluice.find_dead_letters(
    action text, ids bigint[], topic text, error_code text, key bytea, since timestamptz, until timestamptz, max_rows integer)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted text := CASE action WHEN 'RESTORE' THEN 'DISCARDED' ELSE 'PARKED' END;
    found sluice.replayed[];
BEGIN
    IF num_nonnulls(ids, topic, error_code, key, since, until) = 0 THEN
        RAISE EXCEPTION 'which dead letters?' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give ids, topic, error_code, key, since or until; since => ''-infinity'' means all.';
    END IF;
    found := ARRAY(
        SELECT (d.id, d.topic, d.partition, d.kafka_offset, 'DEAD', d.error_code, d.error_message)::sluice.replayed
        FROM ledger.dead_letters d
        WHERE d.status = wanted
            AND (find_dead_letters.ids IS NULL OR d.id = ANY (find_dead_letters.ids))
            AND (find_dead_letters.topic IS NULL OR d.topic = find_dead_letters.topic)
            AND (find_dead_letters.error_code IS NULL OR d.error_code = find_dead_letters.error_code)
            AND (find_dead_letters.key IS NULL OR d.key = find_dead_letters.key)
            AND (find_dead_letters.since IS NULL OR d.first_failed_at >= find_dead_letters.since)
            AND (find_dead_letters.until IS NULL OR d.first_failed_at < find_dead_letters.until)
            -- A record that failed this often is replayed only by its id: that ends loops.
            AND (find_dead_letters.ids IS NOT NULL OR d.attempts < 20 OR action <> 'REPLAY')
            -- A letter is only ever tried by the handler of its type.
            AND (action <> 'REPLAY' OR NOT d.is_domain OR EXISTS (SELECT FROM ledger.event_handlers h WHERE h.event_type = d.topic))
        -- As everybody locks.
        ORDER BY d.topic COLLATE "C", d.partition, d.kafka_offset
        LIMIT max_rows);
    IF cardinality(found) = 0 AND ids IS NULL THEN
        RAISE NOTICE 'no % dead letter fits', lower(wanted) USING HINT = coalesce((
            SELECT 'There are such of ' || string_agg(format('%s (%s)', t.topic, t.error_code), ', ') || '.'
            FROM (SELECT DISTINCT d.topic, d.error_code FROM ledger.dead_letters d WHERE d.status = wanted
                ORDER BY 1, 2 LIMIT 20) t), 'There is none at all.');
    END IF;
    RETURN QUERY SELECT * FROM unnest(found);
    -- Those that were meant and are left out, with the reason.
    RETURN QUERY
    SELECT l.* FROM (
        SELECT DISTINCT i.id FROM unnest(ids) AS i (id) WHERE i.id IS NOT NULL
        UNION
        SELECT d.id FROM ledger.dead_letters d
        WHERE find_dead_letters.ids IS NULL AND action = 'REPLAY' AND d.status = wanted
            AND (find_dead_letters.topic IS NULL OR d.topic = find_dead_letters.topic)
            AND (find_dead_letters.error_code IS NULL OR d.error_code = find_dead_letters.error_code)
            AND (find_dead_letters.key IS NULL OR d.key = find_dead_letters.key)
            AND (find_dead_letters.since IS NULL OR d.first_failed_at >= find_dead_letters.since)
            AND (find_dead_letters.until IS NULL OR d.first_failed_at < find_dead_letters.until)
            AND (d.attempts >= 20 OR d.is_domain AND NOT EXISTS (SELECT FROM ledger.event_handlers h WHERE h.event_type = d.topic))
        EXCEPT
        SELECT f.id FROM unnest(found) f
    ) meant
    CROSS JOIN LATERAL sluice.why_left_out(action, meant.id, ids IS NOT NULL, topic, error_code, key, since, until) l
    ORDER BY l.id
    LIMIT CASE WHEN ids IS NULL THEN max_rows END;
END
$$;
COMMENT ON FUNCTION sluice.find_dead_letters IS
'The dead letters that a REPLAY, DISCARD or RESTORE means, in the order of their partitions; then those that are left out of it, without a verdict and with the reason.';

CREATE FUNCTION sluice.why_left_out(
    action text, id bigint, by_id boolean, topic text, error_code text, key bytea, since timestamptz, until timestamptz)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    letter ledger.dead_letters;
    answer sluice.replayed;
    wanted text := CASE action WHEN 'RESTORE' THEN 'DISCARDED' ELSE 'PARKED' END;
BEGIN
    SELECT * INTO letter FROM ledger.dead_letters d WHERE d.id = why_left_out.id;
    answer.id := why_left_out.id;
    answer.topic := letter.topic;
    answer.partition := letter.partition;
    answer.kafka_offset := letter.kafka_offset;
    IF letter.id IS NULL THEN
        answer.reason := 'NO_SUCH_LETTER';
        answer.message := 'Left out: there is no dead letter of this id.';
    ELSIF letter.status <> wanted THEN
        answer.reason := 'NOT_' || wanted;
        answer.message := format('Left out: it is %s since %s%s', letter.status, letter.updated_at::timestamptz(0),
            CASE letter.status WHEN 'DISCARDED' THEN ', and sluice.restore_dead_letters parks it again.' ELSE '.' END);
    ELSIF letter.topic IS DISTINCT FROM coalesce(why_left_out.topic, letter.topic)
        OR letter.error_code IS DISTINCT FROM coalesce(why_left_out.error_code, letter.error_code)
        OR letter.key IS DISTINCT FROM coalesce(why_left_out.key, letter.key)
        OR letter.first_failed_at < since OR letter.first_failed_at >= until
    THEN
        answer.reason := 'OTHER_FILTER';
        answer.message := 'Left out: another filter excludes it.';
    ELSIF action = 'REPLAY' AND letter.is_domain AND NOT EXISTS (SELECT FROM ledger.event_handlers h WHERE h.event_type = letter.topic) THEN
        answer.reason := 'NO_HANDLER';
        answer.message := format('Left out: %s has no handler. A letter is only ever tried by the handler of its type: register it with sluice.register_handler.',
            letter.topic);
    ELSIF action = 'REPLAY' AND NOT by_id AND letter.attempts >= 20 THEN
        answer.reason := 'TOO_MANY_ATTEMPTS';
        answer.message := format('Left out: it was tried %s times already. Name it by its id to try it again.', letter.attempts);
    ELSE
        answer.reason := 'MAX_ROWS';
        answer.message := 'Left out: there are more letters than max_rows.';
    END IF;
    RETURN NEXT answer;
END
$$;
COMMENT ON FUNCTION sluice.why_left_out IS
'Why sluice.find_dead_letters leaves a letter out, as a row without a verdict.';

CREATE FUNCTION sluice.settle_dead_letters(
    action text, ids bigint[], topic text, error_code text, key bytea, since timestamptz, until timestamptz,
    why text, max_rows integer, dry_run boolean)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    letter sluice.replayed;
    seen ledger.dead_letters;
    wanted text := CASE action WHEN 'RESTORE' THEN 'DISCARDED' ELSE 'PARKED' END;
BEGIN
    IF NOT dry_run THEN
        PERFORM sluice.ask_why(why);
    END IF;
    FOR letter IN SELECT * FROM sluice.find_dead_letters(action, ids, topic, error_code, key, since, until, max_rows) LOOP
        IF letter.verdict IS NOT NULL THEN
            -- What counts is what stands there under the lock.
            SELECT * INTO seen FROM ledger.dead_letters d WHERE d.id = letter.id FOR UPDATE;
            IF seen.status IS DISTINCT FROM wanted THEN
                SELECT * INTO letter FROM sluice.why_left_out(action, letter.id, true, NULL, NULL, NULL, NULL, NULL);
            ELSE
                letter.reason := seen.error_code;
                letter.message := seen.error_message;
                IF NOT dry_run THEN
                    UPDATE ledger.dead_letters d
                    SET status = CASE action WHEN 'DISCARD' THEN 'DISCARDED' ELSE 'PARKED' END, updated_at = clock_timestamp()
                    WHERE d.id = letter.id;
                    INSERT INTO ledger.dead_letter_actions (dead_letter_id, action, by_user, why, verdict, reason)
                    VALUES (letter.id, action, session_user, settle_dead_letters.why, letter.verdict, letter.reason);
                END IF;
            END IF;
        END IF;
        RETURN NEXT letter;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sluice.settle_dead_letters IS
'What sluice.discard_dead_letters and sluice.restore_dead_letters do; they are the ones to call.';

CREATE FUNCTION sluice.ask_why(why text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(btrim(why), '') = '' THEN
        RAISE NOTICE 'no reason was given' USING HINT = 'why => ''…'' is kept with each dead letter in ledger.dead_letter_actions.';
    END IF;
END
$$;
COMMENT ON FUNCTION sluice.ask_why(text) IS
'Raises a notice where a change by hand is made without its reason.';

CREATE FUNCTION sluice.replay_letters(ids bigint[], payload bytea)
RETURNS TABLE (id bigint, topic text, partition integer, kafka_offset bigint, verdict text, reason text, message text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'replay_letters_by_id_wrapper';
COMMENT ON FUNCTION sluice.replay_letters IS
'Tries those of these dead letters that are parked, under their locks; sluice.replay_dead_letters is the one to call.';

-- --- Dead letters: what the leader does with them ---

CREATE FUNCTION sluice.retry_dead_letters(
    topic text, partition integer, fencing_token bigint, lease_id uuid,
    max_attempts integer, delay_ms bigint, exponential boolean)
RETURNS TABLE (retried bigint, waiting bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    due bigint[];
BEGIN
    PERFORM FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = retry_dead_letters.topic AND l.partition = retry_dead_letters.partition
        AND p.fencing_token = retry_dead_letters.fencing_token AND p.lease_id = retry_dead_letters.lease_id
    FOR UPDATE OF p;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fencing token % of %/% is stale: leadership is lost', fencing_token, topic, partition
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- Behind the progress row no replay is under way: what is found is what the last one left. A letter that somebody
    -- has locked is theirs; the partition does not wait for them.
    due := ARRAY(
        SELECT d.id FROM ledger.dead_letters d
        WHERE d.topic = retry_dead_letters.topic AND d.partition = retry_dead_letters.partition AND d.status = 'PARKED' AND d.is_domain
            AND CASE d.error_code
                WHEN 'HANDLER_FAILED' THEN d.attempts < max_attempts AND clock_timestamp() >= d.updated_at
                    + delay_ms * CASE WHEN exponential THEN 2 ^ least(d.attempts - 1, 16) ELSE 1 END * interval '1 ms'
                -- Those that waited for it follow together, in order.
                WHEN 'PARKED_BEHIND' THEN NOT EXISTS (
                    SELECT FROM ledger.dead_letters e
                    WHERE e.topic = d.topic AND e.partition = d.partition AND e.key = d.key AND e.status = 'PARKED'
                        AND e.error_code <> 'PARKED_BEHIND' AND e.kafka_offset < d.kafka_offset)
            END
        ORDER BY d.kafka_offset LIMIT 500 FOR UPDATE SKIP LOCKED);
    -- The first of them, as many as are 8 MiB together: a backend has each in memory several times.
    due := ARRAY(
        SELECT s.id FROM (
            SELECT d.id, d.kafka_offset, sum(octet_length(coalesce(d.retry_payload, d.payload, ''))) OVER (
                ORDER BY d.kafka_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
            FROM ledger.dead_letters d WHERE d.id = ANY (due)) s
        WHERE s.bytes_before IS NULL OR s.bytes_before < 8 << 20
        ORDER BY s.kafka_offset);
    retried := 0;
    IF cardinality(due) > 0 THEN
        SELECT count(*) INTO retried FROM sluice.replay_letters(due, NULL);
    END IF;
    SELECT count(*) INTO waiting FROM ledger.dead_letters d
    WHERE d.topic = retry_dead_letters.topic AND d.partition = retry_dead_letters.partition
        AND d.status = 'PARKED' AND d.error_code = 'HANDLER_FAILED' AND d.attempts < max_attempts;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sluice.retry_dead_letters IS
'The leader''s own replays: records that broke their handler less than max_attempts times, each after its wait, and those parked behind a key that is free again. waiting: how many have tries left.';
GRANT EXECUTE ON FUNCTION sluice.retry_dead_letters TO sluice_writer;

CREATE FUNCTION sluice.unpublished_dead_letters(topic text, partition integer, max_attempts integer, max_rows integer)
RETURNS TABLE (
    id bigint, kafka_offset bigint, event_id text, key bytea, payload bytea,
    error_code text, error_message text, attempts integer, first_failed_ms bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In order: nothing overtakes a record that may still be handled. What was given up is dead for good.
    RETURN QUERY
    SELECT d.id, d.kafka_offset, d.event_id, d.key, d.payload, d.error_code, d.error_message, d.attempts,
        (extract(epoch FROM d.first_failed_at) * 1000)::bigint
    FROM ledger.dead_letters d
    WHERE d.topic = unpublished_dead_letters.topic AND d.partition = unpublished_dead_letters.partition
        AND d.status <> 'REPLAYED' AND d.published_at IS NULL
        AND d.kafka_offset < coalesce((
            SELECT min(e.kafka_offset) FROM ledger.dead_letters e
            WHERE e.topic = unpublished_dead_letters.topic AND e.partition = unpublished_dead_letters.partition
                AND e.status = 'PARKED' AND e.published_at IS NULL
                AND e.error_code = 'HANDLER_FAILED' AND e.attempts < max_attempts), 9223372036854775807)
    ORDER BY d.kafka_offset LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION sluice.unpublished_dead_letters IS
'Dead letters that are to be produced to the dead letter topic, in order.';
GRANT EXECUTE ON FUNCTION sluice.unpublished_dead_letters TO sluice_writer;

CREATE FUNCTION sluice.dead_letter_headers(topic text, partition integer, max_attempts integer, max_rows integer)
RETURNS TABLE (id bigint, headers jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT d.id, d.headers
    FROM sluice.unpublished_dead_letters(topic, partition, max_attempts, max_rows) u
    JOIN ledger.dead_letters d ON d.id = u.id
    WHERE d.headers IS NOT NULL;
END
$$;
COMMENT ON FUNCTION sluice.dead_letter_headers IS
'The headers of the records behind sluice.unpublished_dead_letters.';
GRANT EXECUTE ON FUNCTION sluice.dead_letter_headers TO sluice_writer;

CREATE FUNCTION sluice.mark_published(ids bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- As everybody locks.
    PERFORM FROM ledger.dead_letters d WHERE d.id = ANY (ids)
    ORDER BY d.topic COLLATE "C", d.partition, d.kafka_offset FOR UPDATE;
    UPDATE ledger.dead_letters d SET published_at = clock_timestamp() WHERE d.id = ANY (ids) AND d.published_at IS NULL;
END
$$;
COMMENT ON FUNCTION sluice.mark_published IS
'Says that these dead letters are in the dead letter topic.';
GRANT EXECUTE ON FUNCTION sluice.mark_published TO sluice_writer;

CREATE FUNCTION sluice.partitions_to_care_for()
RETURNS TABLE (topic text, partition integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT DISTINCT d.topic, d.partition FROM ledger.dead_letters d
    WHERE d.status = 'PARKED' AND d.error_code IN ('HANDLER_FAILED', 'PARKED_BEHIND')
        OR d.status <> 'REPLAYED' AND d.published_at IS NULL;
END
$$;
COMMENT ON FUNCTION sluice.partitions_to_care_for IS
'Partitions with dead letters that may have to be retried or published.';
GRANT EXECUTE ON FUNCTION sluice.partitions_to_care_for TO sluice_writer;

CREATE FUNCTION sluice.parked_dead_letters()
RETURNS TABLE (topic text, error_code text, letters bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT d.topic, d.error_code, count(*) FROM ledger.dead_letters d WHERE d.status = 'PARKED' GROUP BY 1, 2;
END
$$;
COMMENT ON FUNCTION sluice.parked_dead_letters IS
'How many dead letters wait for a person, by topic and error code.';
GRANT EXECUTE ON FUNCTION sluice.parked_dead_letters TO sluice_reader, sluice_writer;

-- --- Corrections of balances by hand ---

CREATE TYPE sluice.corrected AS (
    event_id text, account_id bigint, shard_id integer, currency_code text, available_delta numeric, frozen_delta numeric,
    available_after numeric, frozen_after numeric, status text, reject_reason text);
COMMENT ON TYPE sluice.corrected IS 'One change of a manual correction, as it stands in ledger.balance_change_logs.';
COMMENT ON COLUMN sluice.corrected.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN sluice.corrected.account_id IS 'The account.';
COMMENT ON COLUMN sluice.corrected.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN sluice.corrected.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN sluice.corrected.available_delta IS 'What the change adds to available; may be negative.';
COMMENT ON COLUMN sluice.corrected.frozen_delta IS 'What the change adds to frozen; may be negative.';
COMMENT ON COLUMN sluice.corrected.available_after IS 'What is available after the change; of a rejected one, what it met.';
COMMENT ON COLUMN sluice.corrected.frozen_after IS 'What is frozen after the change; of a rejected one, what it met.';
COMMENT ON COLUMN sluice.corrected.status IS 'APPLIED or REJECTED.';
COMMENT ON COLUMN sluice.corrected.reject_reason IS 'Why the event was rejected; NULL: it was applied.';

CREATE FUNCTION sluice.apply_balance_changes(changes jsonb, reason text, dry_run boolean DEFAULT true)
RETURNS SETOF sluice.corrected
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    event jsonb := jsonb_build_object(
        'eventId', gen_random_uuid(), 'eventType', 'balance.changed', 'source', 'manual:' || session_user,
        'data', jsonb_build_object('changes', changes));
    place record;
    outcomes sluice.corrected[];
BEGIN
    IF coalesce(btrim(reason), '') = '' THEN
        RAISE EXCEPTION 'reason is missing' USING ERRCODE = 'invalid_parameter_value', HINT = 'Say why, for those who read the log later.';
    END IF;
    BEGIN
        SELECT * INTO place FROM sluice.correct_balances(event::text, reason);
        outcomes := ARRAY(
            SELECT (l.event_id, l.account_id, l.shard_id, l.currency_code, trim_scale(l.available_delta), trim_scale(l.frozen_delta),
                trim_scale(l.available_after), trim_scale(l.frozen_after), CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END,
                l.reject_reason)::sluice.corrected
            FROM ledger.balance_log l
            WHERE l.partition_id = place.partition_id AND l.kafka_offset = place.kafka_offset
            ORDER BY l.change_no);
        IF dry_run THEN
            RAISE EXCEPTION USING ERRCODE = 'S0DRY';
        END IF;
    EXCEPTION WHEN SQLSTATE 'S0DRY' THEN
        NULL; -- all is as before, but for what was found out
    END;
    RETURN QUERY SELECT * FROM unnest(outcomes);
END
$$;
COMMENT ON FUNCTION sluice.apply_balance_changes IS
'A manual correction: an array of changes as in a balance event, applied together or not at all, by the same rules and with the same log, attributed to the session user. By default a dry run; dry_run => false does it.';
GRANT EXECUTE ON FUNCTION sluice.apply_balance_changes TO sluice_admin;

CREATE FUNCTION sluice.correct_balances(payload text, why text)
RETURNS TABLE (partition_id integer, kafka_offset bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'correct_balances_wrapper';
COMMENT ON FUNCTION sluice.correct_balances IS
'Applies one balance event by hand; sluice.apply_balance_changes is the one to call.';

-- --- Audit ---

CREATE FUNCTION sluice.verify_balances()
RETURNS TABLE (
    account_id bigint, shard_id integer, currency_code text,
    available numeric, logged_available numeric, frozen numeric, logged_frozen numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT b.account_id, b.shard_id, b.currency_code, trim_scale(b.available), trim_scale(s.available), trim_scale(b.frozen), trim_scale(s.frozen)
    FROM ledger.account_balances b
    FULL JOIN (
        SELECT l.account_id, l.shard_id, l.currency_code, sum(l.available) AS available, sum(l.frozen) AS frozen
        FROM (
            SELECT g.account_id, g.shard_id, g.currency_code, g.available_delta AS available, g.frozen_delta AS frozen
            FROM ledger.balance_log g
            WHERE g.reject_reason IS NULL
            UNION ALL
            SELECT c.account_id, c.shard_id, c.currency_code, c.available, c.frozen FROM ledger.balance_checkpoints c
        ) l
        GROUP BY 1, 2, 3
    ) s ON (s.account_id, s.shard_id, s.currency_code) = (b.account_id, b.shard_id, b.currency_code)
    WHERE b.available IS DISTINCT FROM s.available OR b.frozen IS DISTINCT FROM s.frozen;
END
$$;
COMMENT ON FUNCTION sluice.verify_balances IS
'Balances that differ from the sum of their logged changes and of the checkpoint that pruned ones left: no row where all is well. Reads the whole log in one snapshot.';
GRANT EXECUTE ON FUNCTION sluice.verify_balances TO sluice_reader;

CREATE FUNCTION sluice.offset_gaps(topic text, partition integer)
RETURNS TABLE (first_offset bigint, next_offset bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ledger.partition_leases l
        WHERE l.topic = offset_gaps.topic AND l.partition = offset_gaps.partition)
    THEN
        RAISE NOTICE 'no ingester has read %/% yet', topic, partition
            USING HINT = 'SELECT topic, partition FROM ledger.partition_status shows the partitions that are known.';
    END IF;
    RETURN QUERY
    WITH place AS (
        SELECT p.partition_id, p.commit_offset
        FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
        WHERE l.topic = offset_gaps.topic AND l.partition = offset_gaps.partition
    ), covered AS (
        SELECT l.kafka_offset AS first, l.kafka_offset + 1 AS next
        FROM place JOIN ledger.balance_log l USING (partition_id) WHERE l.change_no = 0
        UNION ALL
        SELECT v.kafka_offset, v.kafka_offset + 1 FROM place JOIN ledger.verdicts v USING (partition_id)
        UNION ALL
        SELECT h.first_offset, h.next_offset FROM place JOIN ledger.offset_holes h USING (partition_id)
        UNION ALL
        SELECT 0, r.pruned_below FROM place JOIN ledger.retention r USING (partition_id)
        UNION ALL
        SELECT commit_offset, commit_offset FROM place
    ), gaps AS (
        SELECT coalesce(max(c.next) OVER (ORDER BY c.first, c.next ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS first,
            c.first AS next
        FROM covered c
    )
    SELECT g.first, g.next FROM gaps g WHERE g.first < g.next ORDER BY 1;
END
$$;
COMMENT ON FUNCTION sluice.offset_gaps IS
'Half-open spans of offsets below the committed one that have neither a verdict nor a known hole, and were not pruned: no row where all is well.';
GRANT EXECUTE ON FUNCTION sluice.offset_gaps TO sluice_reader;

CREATE FUNCTION sluice.account_history(
    account_id bigint, shard_id integer, currency_code text,
    since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT 'infinity', by text DEFAULT 'created_at')
RETURNS TABLE (
    nth bigint, event_time timestamptz, created_at timestamptz, available_delta numeric, frozen_delta numeric,
    available_after numeric, frozen_after numeric, event_id text, source text,
    topic text, partition integer, kafka_offset bigint, change_no smallint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    brought_forward timestamptz;
BEGIN
    PERFORM sluice.check_clock(by);
    IF by = 'created_at' THEN
        RETURN QUERY
        SELECT h.nth, h.event_time, h.created_at, h.available_delta, h.frozen_delta, h.available_after, h.frozen_after,
            h.event_id, h.source, h.topic, h.partition, h.kafka_offset, h.change_no
        FROM ledger.account_history h
        WHERE h.account_id = account_history.account_id AND h.shard_id = account_history.shard_id
            AND h.currency_code = account_history.currency_code AND h.created_at >= since AND h.created_at < until;
        PERFORM sluice.tell_unknown_balance(account_id, shard_id, currency_code) WHERE NOT FOUND;
        RETURN;
    END IF;
    brought_forward := sluice.brought_forward_until(account_id, shard_id, currency_code);
    RETURN QUERY
    WITH changes AS (
        SELECT h.*, h.kafka_offset IS NULL AS is_brought_forward,
            CASE WHEN h.kafka_offset IS NULL THEN brought_forward ELSE coalesce(h.event_time, h.created_at) END AS happened,
            CASE WHEN h.kafka_offset IS NULL THEN h.available_after ELSE h.available_delta END AS available_more,
            CASE WHEN h.kafka_offset IS NULL THEN h.frozen_after ELSE h.frozen_delta END AS frozen_more
        FROM ledger.account_history h
        WHERE h.account_id = account_history.account_id AND h.shard_id = account_history.shard_id
            AND h.currency_code = account_history.currency_code
    ), summed AS (
        SELECT c.*, row_number() OVER newest_first AS place, sum(c.available_more) OVER until_then AS available,
            sum(c.frozen_more) OVER until_then AS frozen
        FROM changes c
        WINDOW newest_first AS (ORDER BY c.happened DESC, c.nth),
            until_then AS (ORDER BY c.happened, c.nth DESC ROWS UNBOUNDED PRECEDING)
    )
    SELECT s.place, CASE WHEN s.is_brought_forward THEN s.happened ELSE s.event_time END, s.created_at, s.available_delta, s.frozen_delta,
        -- Which of the pruned changes happened before one that is left, nobody knows.
        CASE WHEN s.happened < brought_forward THEN NULL ELSE trim_scale(s.available) END,
        CASE WHEN s.happened < brought_forward THEN NULL ELSE trim_scale(s.frozen) END,
        s.event_id, s.source, s.topic, s.partition, s.kafka_offset, s.change_no
    FROM summed s
    WHERE s.happened >= since AND s.happened < until
    ORDER BY s.place;
    PERFORM sluice.tell_unknown_balance(account_id, shard_id, currency_code) WHERE NOT FOUND;
END
$$;
COMMENT ON FUNCTION sluice.account_history IS
'The applied changes of one balance from since on and before until, newest first, by the database''s clock (by => ''created_at''), as ledger.account_history has them, or in the order of the events'' own times (by => ''event_time''; created_at where an event gave none): available_after and frozen_after are then what the changes until that time add up to, which may be negative for a while where events were committed in another order than they happened. By event_time it reads the whole history of the balance. Where changes were pruned, one row without an event is the balance brought forward; of changes that happened before it the balance is NULL.';
GRANT EXECUTE ON FUNCTION sluice.account_history TO sluice_reader;

CREATE FUNCTION sluice.balance_as_of(
    account_id bigint, shard_id integer, currency_code text, at timestamptz, by text DEFAULT 'created_at')
RETURNS TABLE (available numeric, frozen numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pruned_until timestamptz;
BEGIN
    PERFORM sluice.check_clock(by);
    IF by = 'created_at' THEN
        -- Walks back from the last change, and stops at the first that is old enough.
        RETURN QUERY
        SELECT h.available_after, h.frozen_after
        FROM ledger.account_history h
        WHERE h.account_id = balance_as_of.account_id AND h.shard_id = balance_as_of.shard_id
            AND h.currency_code = balance_as_of.currency_code AND h.created_at <= balance_as_of.at
        LIMIT 1;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT c.pruned_until INTO pruned_until FROM ledger.balance_checkpoints c
        WHERE c.account_id = balance_as_of.account_id AND c.shard_id = balance_as_of.shard_id
            AND c.currency_code = balance_as_of.currency_code;
    ELSE
        pruned_until := sluice.brought_forward_until(account_id, shard_id, currency_code);
        IF pruned_until IS NULL OR pruned_until <= at THEN
            -- Events need not have been committed in the order in which they happened: each is looked at.
            RETURN QUERY
            SELECT trim_scale(sum(coalesce(h.available_delta, h.available_after))),
                trim_scale(sum(coalesce(h.frozen_delta, h.frozen_after)))
            FROM ledger.account_history h
            WHERE h.account_id = balance_as_of.account_id AND h.shard_id = balance_as_of.shard_id
                AND h.currency_code = balance_as_of.currency_code
                AND (h.kafka_offset IS NULL OR coalesce(h.event_time, h.created_at) <= balance_as_of.at)
            HAVING count(*) > 0;
            PERFORM sluice.tell_unknown_balance(account_id, shard_id, currency_code) WHERE NOT FOUND;
            RETURN;
        END IF;
    END IF;
    IF pruned_until IS NOT NULL THEN
        RAISE EXCEPTION 'the log of this balance was pruned up to %', pruned_until
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Ask for that moment or a later one.';
    END IF;
    PERFORM sluice.tell_unknown_balance(account_id, shard_id, currency_code);
END
$$;
COMMENT ON FUNCTION sluice.balance_as_of IS
'The balance as it was at a moment of the database''s clock (by => ''created_at''), or what the changes that happened until then add up to by the events'' own times (by => ''event_time''; created_at where an event gave none): no row before its first change, an error for a moment whose changes were pruned. By created_at it walks back through the changes since then, by event_time through all of the balance. By event_time the sum may be negative where events were committed in another order than they happened.';
GRANT EXECUTE ON FUNCTION sluice.balance_as_of TO sluice_reader;

CREATE FUNCTION sluice.check_clock(by text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF by IS NULL OR by NOT IN ('created_at', 'event_time') THEN
        RAISE EXCEPTION 'by is %: it must be created_at or event_time', coalesce(quote_literal(by), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;
COMMENT ON FUNCTION sluice.check_clock IS
'Refuses what is not the name of a clock: created_at, the database''s, or event_time, the sender''s.';

CREATE FUNCTION sluice.tell_unknown_balance(account_id bigint, shard_id integer, currency_code text)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    others text;
BEGIN
    IF EXISTS (SELECT FROM ledger.account_balances b WHERE b.account_id = tell_unknown_balance.account_id
        AND b.shard_id = tell_unknown_balance.shard_id AND b.currency_code = tell_unknown_balance.currency_code)
    THEN
        RETURN;
    END IF;
    SELECT string_agg(format('%s (shard %s)', o.currency_code, o.shard_id), ', ') INTO others
    FROM (SELECT b.currency_code, b.shard_id FROM ledger.account_balances b
        WHERE b.account_id = tell_unknown_balance.account_id ORDER BY 2, 1 LIMIT 20) o;
    RAISE NOTICE 'account % has no balance in % (shard %)', account_id, currency_code, shard_id
        USING HINT = coalesce('It has balances in ' || others || '.', 'It has no balance at all.');
END
$$;
COMMENT ON FUNCTION sluice.tell_unknown_balance(bigint, integer, text) IS
'Raises a notice for a balance that does not exist, and names those that the account has.';

CREATE FUNCTION sluice.brought_forward_until(account_id bigint, shard_id integer, currency_code text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A change that is left behind a pruned one is not found any more; it happened before it was committed.
    RETURN (SELECT greatest(c.pruned_until, c.pruned_event_time_until) FROM ledger.balance_checkpoints c
        WHERE c.account_id = brought_forward_until.account_id AND c.shard_id = brought_forward_until.shard_id
            AND c.currency_code = brought_forward_until.currency_code);
END
$$;
COMMENT ON FUNCTION sluice.brought_forward_until IS
'The latest time, by the events'' own clocks, of the changes of a balance that were pruned; NULL where none was.';

-- --- Audit: what became of an event ---

CREATE FUNCTION sluice.find_event(source text, event_id text)
RETURNS TABLE (
    topic text, partition integer, kafka_offset bigint, is_first boolean, verdict text, reason text,
    event_time timestamptz, created_at timestamptz, changes jsonb, dead_letter jsonb, result_told boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT l.topic, l.partition, e.kafka_offset, e.is_owner, coalesce(v.verdict, c.verdict), coalesce(v.reason, c.reason),
        coalesce(v.event_time, c.event_time), coalesce(v.created_at, c.created_at), coalesce(c.list, '[]'), d.letter,
        -- NULL where nobody is told of this partition.
        (SELECT e.kafka_offset < r.next_offset AND NOT EXISTS (
                SELECT FROM ledger.changed_verdicts k WHERE k.partition_id = e.partition_id AND k.kafka_offset = e.kafka_offset)
            FROM ledger.results_progress r WHERE r.partition_id = e.partition_id)
    FROM sluice.event_places(source, event_id) e
    JOIN ledger.partition_leases l USING (partition_id)
    LEFT JOIN ledger.verdicts v ON v.partition_id = e.partition_id AND v.kafka_offset = e.kafka_offset
    LEFT JOIN LATERAL (
        SELECT CASE WHEN min(g.reject_reason) IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS verdict, min(g.reject_reason) AS reason,
            min(g.event_time) AS event_time, min(g.created_at) AS created_at,
            jsonb_agg(jsonb_build_object(
                'change_no', g.change_no, 'account_id', g.account_id, 'shard_id', g.shard_id, 'currency_code', g.currency_code,
                'available_delta', trim_scale(g.available_delta)::text, 'frozen_delta', trim_scale(g.frozen_delta)::text,
                -- A rejected change has left what it met.
                'available_before', trim_scale(g.available_after
                    - CASE WHEN g.reject_reason IS NULL THEN g.available_delta ELSE 0 END)::text,
                'frozen_before', trim_scale(g.frozen_after - CASE WHEN g.reject_reason IS NULL THEN g.frozen_delta ELSE 0 END)::text,
                'available_after', trim_scale(g.available_after)::text, 'frozen_after', trim_scale(g.frozen_after)::text)
                ORDER BY g.change_no) AS list
        FROM ledger.balance_log g
        WHERE g.partition_id = e.partition_id AND g.kafka_offset = e.kafka_offset
        HAVING count(*) > 0
    ) c ON true
    LEFT JOIN LATERAL (
        SELECT jsonb_build_object(
            'id', d.id, 'status', d.status, 'error_code', d.error_code, 'error_message', d.error_message, 'attempts', d.attempts,
            'first_failed_at', d.first_failed_at, 'updated_at', d.updated_at, 'published_at', d.published_at,
            'actions', coalesce((
                SELECT jsonb_agg(jsonb_build_object(
                    'action', a.action, 'by_user', a.by_user, 'why', a.why, 'verdict', a.verdict, 'reason', a.reason,
                    'acted_at', a.acted_at) ORDER BY a.id)
                FROM ledger.dead_letter_actions a WHERE a.dead_letter_id = d.id), '[]')) AS letter
        FROM ledger.dead_letters d
        WHERE d.topic = l.topic AND d.partition = l.partition AND d.kafka_offset = e.kafka_offset
    ) d ON true
    ORDER BY e.is_owner DESC, coalesce(v.created_at, c.created_at), l.topic, l.partition, e.kafka_offset;
END
$$;
COMMENT ON FUNCTION sluice.find_event IS
'What became of an event: one row for each record that carried it, first the one that owns its identity. topic, partition and kafka_offset; verdict and reason; both times; changes with the balances they met and left; its dead letter with what was done to it; whether RESULTS_TOPIC was told (NULL where it is not told of this partition). No row: no record with this source (NULL or empty: none) and event id is committed, or it was pruned. Of an event from before version 1.0.0 it reads the whole log.';
GRANT EXECUTE ON FUNCTION sluice.find_event TO sluice_reader;

CREATE FUNCTION sluice.event_places(source text, event_id text)
RETURNS TABLE (partition_id integer, kafka_offset bigint, is_owner boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner record;
    sender text := nullif(source, '');
BEGIN
    SELECT i.partition_id, i.kafka_offset INTO owner FROM ledger.event_identities i
    WHERE i.identity = sluice.event_identity(source, event_id);
    IF FOUND AND owner.kafka_offset IS NULL THEN
        -- Claimed before identities had a place: only the rows themselves know it.
        RETURN QUERY
        SELECT g.partition_id, g.kafka_offset, g.reject_reason IS DISTINCT FROM 'EVENT_ID_CONFLICT' FROM ledger.balance_log g
        WHERE g.event_id = event_places.event_id AND g.source IS NOT DISTINCT FROM sender AND g.change_no = 0
        UNION ALL
        SELECT v.partition_id, v.kafka_offset, v.verdict = 'APPLIED' OR EXISTS (
            SELECT FROM ledger.dead_letters d JOIN ledger.partition_leases l USING (topic, partition)
            WHERE l.partition_id = v.partition_id AND d.kafka_offset = v.kafka_offset AND d.owns_identity)
        FROM ledger.verdicts v
        WHERE v.event_id = event_places.event_id AND v.source IS NOT DISTINCT FROM sender;
        RETURN;
    END IF;
    -- The owner by its identity; whoever came with that identity later, or could not be used, as such.
    RETURN QUERY
    SELECT owner.partition_id, owner.kafka_offset, true WHERE owner.kafka_offset IS NOT NULL
    UNION ALL
    SELECT u.partition_id, u.kafka_offset, false
    FROM (
        SELECT k.partition_id, k.kafka_offset FROM ledger.event_conflicts k
        WHERE k.identity = sluice.event_identity(source, event_id)
        UNION
        SELECT v.partition_id, v.kafka_offset FROM ledger.verdicts v
        WHERE v.event_id = event_places.event_id AND v.source IS NOT DISTINCT FROM sender AND v.verdict <> 'APPLIED'
    ) u
    WHERE (u.partition_id, u.kafka_offset) IS DISTINCT FROM (owner.partition_id, owner.kafka_offset);
END
$$;
COMMENT ON FUNCTION sluice.event_places IS
'Where the records are that carried an event, and which of them owns its identity; for sluice.find_event.';

CREATE FUNCTION sluice.event_identity(source text, event_id text)
RETURNS uuid
LANGUAGE c IMMUTABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'event_identity_wrapper';
COMMENT ON FUNCTION sluice.event_identity IS
'What an event is known by in ledger.event_identities.';

-- --- Audit: who else may write ---

CREATE FUNCTION sluice.other_writers()
RETURNS TABLE (kind text, writer text, writes text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- What changes rows, in the text of a function or rule.
    verb constant text := '(insert\s+into|update|delete\s+from|truncate|merge\s+into)\s+(only\s+|table\s+)*';
    statement constant text := verb || '"?(ledger|domain)"?\s*\.';
BEGIN
    RETURN QUERY
    WITH RECURSIVE ours AS (
        SELECT c.oid, c.relacl, c.relowner, c.relkind FROM pg_class c
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.relowner = 'sluice_owner'::regrole
            AND c.relnamespace IN (SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('ledger', 'domain'))
        UNION
        -- Who may write a view that can be written writes what is behind it, as its owner.
        SELECT c.oid, c.relacl, c.relowner, c.relkind
        FROM ours o
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite r ON r.oid = d.objid
        JOIN pg_class c ON c.oid = r.ev_class
        WHERE c.relkind = 'v' AND pg_relation_is_updatable(c.oid, true) & 28 <> 0
    ), grants AS (
        SELECT o.oid AS relation, a.grantee
        FROM ours o CROSS JOIN LATERAL aclexplode(coalesce(o.relacl, acldefault('r', o.relowner))) a
        WHERE a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
        UNION
        SELECT o.oid, a.grantee
        FROM ours o JOIN pg_attribute t ON t.attrelid = o.oid AND t.attacl IS NOT NULL
        CROSS JOIN LATERAL aclexplode(t.attacl) a
        WHERE a.privilege_type IN ('INSERT', 'UPDATE')
        UNION
        SELECT o.oid, w.role FROM ours o
        CROSS JOIN LATERAL (VALUES (o.relowner), ('pg_write_all_data'::regrole::oid)) AS w (role)
    ), logins AS (
        SELECT l.rolname, array_agg(DISTINCT g.relation::regclass::text) AS relations
        FROM pg_roles l
        -- As itself, or as a role that it can become.
        JOIN grants g ON g.grantee = 0 OR pg_has_role(l.oid, g.grantee, 'MEMBER')
        WHERE l.rolcanlogin AND NOT l.rolsuper
        GROUP BY l.rolname
    ), unqualified AS (
        -- The same with names that leave out the schema.
        SELECT n.nspname::text AS schema_name, verb || '"?(' || string_agg(c.relname::text, '|') || ')"?(?![\w."])' AS written
        FROM ours o JOIN pg_class c ON c.oid = o.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('ledger', 'domain')
        GROUP BY n.nspname
    )
    SELECT 'login', l.rolname::text, array_to_string(l.relations[:3], ', ')
        || CASE WHEN cardinality(l.relations) > 3 THEN format(' and %s more', cardinality(l.relations) - 3) ELSE '' END
    FROM logins l
    UNION ALL
    SELECT 'trigger', format('%s on %s', t.tgname, t.tgrelid::regclass), format('by %s', p.oid::regprocedure)
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE NOT t.tgisinternal
        AND (p.prosrc ~* statement OR EXISTS (
            SELECT FROM unqualified u
            -- Where the function sets no search_path, it has the one of whoever writes the table of the trigger.
            WHERE p.prosrc ~* u.written AND coalesce(
                (SELECT s ~ ('\m' || u.schema_name || '\M') FROM unnest(p.proconfig) s WHERE s LIKE 'search\_path=%'),
                t.tgrelid IN (SELECT o.oid FROM ours o))))
        AND NOT (n.nspname IN ('sluice', 'ledger') AND p.proowner = 'sluice_owner'::regrole)
    UNION ALL
    SELECT 'rule', format('%s on %s', r.rulename, r.ev_class::regclass), 'by ' || lower(substring(pg_get_ruledef(r.oid) FROM '(?i)(' || statement || '\s*"?\w+)'))
    FROM pg_rewrite r
    WHERE r.rulename <> '_RETURN' AND pg_get_ruledef(r.oid) ~* statement
    UNION ALL
    SELECT 'foreign key', format('%s of %s', f.conname, f.conrelid::regclass), format('when %s changes', f.confrelid::regclass)
    FROM pg_constraint f JOIN ours o ON o.oid = f.conrelid
    WHERE f.contype = 'f' AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
    ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION sluice.other_writers IS
'Who but Sluice may write its tables in ledger and domain: each login that is no superuser and has the right, itself or by a role that it can become, or through a view; and triggers, rules and foreign keys that do so when another table changes. A trigger is known by the text of its function, which has to name a table of Sluice after the verb: with its schema; or without it where the function''s own search_path has the schema or, where it sets none, the trigger is on a table of Sluice. Not found are triggers whose function builds its statements from parts, calls another function that writes, or takes an unqualified name from the search_path of a session that writes tables of others.';
GRANT EXECUTE ON FUNCTION sluice.other_writers TO sluice_reader, sluice_writer;

-- --- Retention ---

CREATE TYPE sluice.pruned AS (
    pruned_below bigint, records bigint, log_rows bigint, identities bigint, dead_letters bigint,
    open_dead_letters bigint, more boolean, kept_by_hand bigint);
COMMENT ON TYPE sluice.pruned IS 'What sluice.prune has removed, or would remove. pruned_below is the first offset that is left; open_dead_letters below it are kept, and kept_by_hand of those on which somebody acted by hand; more says that there is more to remove.';
COMMENT ON COLUMN sluice.pruned.pruned_below IS 'The first offset that is left.';
COMMENT ON COLUMN sluice.pruned.records IS 'Records that were removed.';
COMMENT ON COLUMN sluice.pruned.log_rows IS 'Rows of the log that were removed.';
COMMENT ON COLUMN sluice.pruned.identities IS 'Identities that were removed.';
COMMENT ON COLUMN sluice.pruned.dead_letters IS 'Closed dead letters that were removed.';
COMMENT ON COLUMN sluice.pruned.open_dead_letters IS 'Open dead letters below pruned_below, which are kept.';
COMMENT ON COLUMN sluice.pruned.more IS 'Whether there is more to remove.';
COMMENT ON COLUMN sluice.pruned.kept_by_hand IS 'Dead letters below pruned_below that are kept because somebody acted on them by hand.';

CREATE FUNCTION sluice.prune(
    topic text, partition integer, log_start_offset bigint, older_than interval DEFAULT '30 days',
    max_records integer DEFAULT 5000, dry_run boolean DEFAULT true)
RETURNS sluice.pruned
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    cutoff timestamptz := clock_timestamp() - older_than;
    place record;
    since bigint;
    horizon bigint;
    answer sluice.pruned;
BEGIN
    IF (log_start_offset >= 0 AND older_than >= interval '0' AND max_records > 0 AND dry_run IS NOT NULL) IS NOT TRUE THEN
        RAISE EXCEPTION 'log_start_offset and older_than must not be negative, max_records must be positive'
            USING ERRCODE = 'invalid_parameter_value',
                HINT = 'log_start_offset is where the partition begins in Kafka; the command `sluice prune` asks Kafka itself.';
    END IF;
    IF topic = 'manual corrections' THEN
        RAISE EXCEPTION 'manual corrections are kept' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT p.partition_id, p.commit_offset, r.next_offset AS told_below INTO place
    FROM ledger.partition_leases l
    JOIN ledger.partition_progress p USING (partition_id)
    LEFT JOIN ledger.results_progress r USING (partition_id)
    WHERE l.topic = prune.topic AND l.partition = prune.partition;
    IF NOT FOUND THEN
        PERFORM sluice.known_partition(topic, partition);
    END IF;
    IF NOT dry_run THEN
        -- One at a time; whoever comes second goes on where the first one stopped.
        INSERT INTO ledger.retention (partition_id, pruned_below, pruned_at, pruned_by)
        VALUES (place.partition_id, 0, clock_timestamp(), session_user)
        ON CONFLICT (partition_id) DO UPDATE SET pruned_at = excluded.pruned_at, pruned_by = excluded.pruned_by;
    END IF;
    since := coalesce((SELECT r.pruned_below FROM ledger.retention r WHERE r.partition_id = place.partition_id), 0);
    -- Never what Kafka may deliver again, nor a verdict that RESULTS_TOPIC is still to tell.
    horizon := greatest(since, least(log_start_offset, place.commit_offset, place.told_below));
    IF dry_run THEN
        RETURN sluice.count_prunable(topic, partition, place.partition_id, since, horizon, cutoff);
    END IF;
    answer := sluice.prune_records(topic, partition, place.partition_id, since, horizon, cutoff, max_records);
    INSERT INTO ledger.partition_actions (topic, partition, action, by_user, why, arguments)
    VALUES (prune.topic, prune.partition, 'PRUNE', session_user, nullif(current_setting('sluice.why', true), ''),
        jsonb_build_object('log_start_offset', log_start_offset, 'older_than', older_than::text, 'max_records', max_records)
        || to_jsonb(answer));
    RETURN answer;
END
$$;
COMMENT ON FUNCTION sluice.prune IS
'Removes what is known of the records of a partition that Kafka does not hold any more (below log_start_offset, where the partition begins there) and that are older than older_than: their log, verdicts, identities and closed dead letters. By default a dry run that says what would go; dry_run => false removes at most max_records in this transaction and says in more whether to call it again. Never beyond the committed offset. What the removed changes add up to stays in ledger.balance_checkpoints; open dead letters stay whole, and so does for ledger.record_keeping.keep_by_hand (400 days) whatever somebody did to a dead letter by hand, with all that it wrote. Each call but a dry run is recorded in ledger.partition_actions with its arguments. An event that is sent again after its identity is gone is a new event.';
GRANT EXECUTE ON FUNCTION sluice.prune TO sluice_admin;

CREATE FUNCTION sluice.count_prunable(
    topic text, partition integer, partition_id integer, since bigint, horizon bigint, cutoff timestamptz)
RETURNS sluice.pruned
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    answer sluice.pruned;
BEGIN
    answer.pruned_below := horizon;
    answer.more := false;
    SELECT least(answer.pruned_below, min(y.kafka_offset)) INTO answer.pruned_below FROM (
        SELECT g.kafka_offset, g.created_at FROM ledger.balance_log g WHERE g.partition_id = count_prunable.partition_id
        UNION ALL
        SELECT v.kafka_offset, v.created_at FROM ledger.verdicts v WHERE v.partition_id = count_prunable.partition_id
    ) y
    WHERE y.kafka_offset >= since AND y.kafka_offset < horizon AND y.created_at > cutoff;
    SELECT count(*) FILTER (WHERE NOT k.by_hand), count(*) FILTER (WHERE k.by_hand),
        count(*) FILTER (WHERE k.id IS NULL AND (d.kafka_offset >= since OR d.updated_at <= cutoff))
    INTO answer.open_dead_letters, answer.kept_by_hand, answer.dead_letters
    FROM ledger.dead_letters d LEFT JOIN ledger.kept_dead_letters k USING (id)
    WHERE d.topic = count_prunable.topic AND d.partition = count_prunable.partition AND d.kafka_offset < answer.pruned_below;
    WITH gone AS (
        SELECT g.kafka_offset, g.created_at, true AS is_logged, g.change_no = 0 AS is_record,
            g.change_no = 0 AND g.reject_reason IS DISTINCT FROM 'EVENT_ID_CONFLICT' AS is_owner
        FROM ledger.balance_log g
        WHERE g.partition_id = count_prunable.partition_id AND NOT EXISTS (
            SELECT FROM ledger.kept_dead_letters k
            WHERE k.topic = count_prunable.topic AND k.partition = count_prunable.partition AND k.kafka_offset = g.kafka_offset)
        UNION ALL
        SELECT v.kafka_offset, v.created_at, false, true, v.verdict = 'APPLIED' OR coalesce(d.owns_identity, false)
        FROM ledger.verdicts v
        LEFT JOIN ledger.dead_letters d ON d.topic = count_prunable.topic AND d.partition = count_prunable.partition
            AND d.kafka_offset = v.kafka_offset
        WHERE v.partition_id = count_prunable.partition_id
            AND NOT EXISTS (SELECT FROM ledger.kept_dead_letters k WHERE k.id = d.id)
    )
    SELECT count(*) FILTER (WHERE g.is_record), count(*) FILTER (WHERE g.is_logged), count(*) FILTER (WHERE g.is_owner)
    INTO answer.records, answer.log_rows, answer.identities
    FROM gone g
    WHERE g.kafka_offset < answer.pruned_below AND (g.kafka_offset >= since OR g.created_at <= cutoff);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION sluice.count_prunable IS
'The dry run of sluice.prune, which is the one to call.';

CREATE FUNCTION sluice.prune_records(
    topic text, partition integer, partition_id integer, since bigint, horizon bigint, cutoff timestamptz, max_records integer)
RETURNS sluice.pruned
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    answer sluice.pruned;
    young bigint; -- the first record that is not old enough
    surplus bigint; -- the first that is one too many
    offsets bigint[];
    kept bigint[];
    claimed uuid[];
BEGIN
    WITH next AS (
        SELECT u.kafka_offset, u.created_at, row_number() OVER (ORDER BY u.kafka_offset) AS nth
        FROM (
            (SELECT g.kafka_offset, g.created_at FROM ledger.balance_log g
            WHERE g.partition_id = prune_records.partition_id AND g.change_no = 0
                AND g.kafka_offset >= since AND g.kafka_offset < horizon
            ORDER BY g.kafka_offset LIMIT max_records + 1)
            UNION ALL
            (SELECT v.kafka_offset, v.created_at FROM ledger.verdicts v
            WHERE v.partition_id = prune_records.partition_id AND v.kafka_offset >= since AND v.kafka_offset < horizon
            ORDER BY v.kafka_offset LIMIT max_records + 1)
        ) u
    )
    SELECT min(n.kafka_offset) FILTER (WHERE n.created_at > cutoff), min(n.kafka_offset) FILTER (WHERE n.nth > max_records),
        array_agg(n.kafka_offset)
    INTO young, surplus, offsets FROM next n;
    answer.pruned_below := least(young, surplus, horizon);
    answer.more := coalesce(surplus < coalesce(young, horizon), false);
    -- A kept dead letter keeps its verdict and its identity. One that was closed since goes after the rest, and
    -- what a replay has changed once RESULTS_TOPIC has it.
    offsets := ARRAY(
        SELECT o FROM unnest(offsets) o WHERE o < answer.pruned_below
        UNION ALL
        (SELECT d.kafka_offset FROM ledger.dead_letters d
        WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset < since
            AND d.updated_at <= cutoff AND NOT EXISTS (SELECT FROM ledger.kept_dead_letters k WHERE k.id = d.id)
        ORDER BY d.kafka_offset LIMIT max_records)
        EXCEPT ALL
        SELECT c.kafka_offset FROM ledger.changed_verdicts c JOIN ledger.results_progress r USING (partition_id)
        WHERE c.partition_id = prune_records.partition_id);
    -- Under their locks, for somebody may restore or replay one at this moment.
    PERFORM FROM ledger.dead_letters d
    WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset = ANY (offsets)
    ORDER BY d.kafka_offset FOR UPDATE;
    kept := ARRAY(
        SELECT k.kafka_offset FROM ledger.kept_dead_letters k
        WHERE k.topic = prune_records.topic AND k.partition = prune_records.partition AND k.kafka_offset = ANY (offsets));
    offsets := ARRAY(SELECT unnest(offsets) EXCEPT ALL SELECT unnest(kept));

    WITH gone AS (
        DELETE FROM ledger.balance_log g WHERE g.partition_id = prune_records.partition_id AND g.kafka_offset = ANY (offsets)
        RETURNING g.*
    ), carried AS (
        -- In the order of keys, as everybody locks.
        INSERT INTO ledger.balance_checkpoints AS c (
            account_id, shard_id, currency_code, available, frozen, pruned_until, pruned_event_time_until)
        SELECT g.account_id, g.shard_id, g.currency_code, sum(g.available_delta), sum(g.frozen_delta), max(g.created_at),
            max(coalesce(g.event_time, g.created_at))
        FROM gone g
        WHERE g.reject_reason IS NULL
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (account_id, shard_id, currency_code) DO UPDATE
        SET available = c.available + excluded.available, frozen = c.frozen + excluded.frozen,
            pruned_until = greatest(c.pruned_until, excluded.pruned_until),
            pruned_event_time_until = greatest(c.pruned_event_time_until, excluded.pruned_event_time_until)
    ), unlogged AS (
        DELETE FROM ledger.verdicts v WHERE v.partition_id = prune_records.partition_id AND v.kafka_offset = ANY (offsets)
        RETURNING v.*
    ), events AS (
        SELECT g.source, g.event_id, g.reject_reason IS DISTINCT FROM 'EVENT_ID_CONFLICT' AS is_owner FROM gone g WHERE g.change_no = 0
        UNION ALL
        SELECT v.source, v.event_id, v.verdict = 'APPLIED' OR EXISTS (
            SELECT FROM ledger.dead_letters d
            WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset = v.kafka_offset
                AND d.owns_identity)
        FROM unlogged v
    )
    SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM gone),
        ARRAY(SELECT sluice.event_identity(e.source, e.event_id) FROM events e WHERE e.is_owner ORDER BY 1)
    INTO answer.records, answer.log_rows, claimed;
    DELETE FROM ledger.event_identities i WHERE i.identity = ANY (claimed);
    GET DIAGNOSTICS answer.identities = ROW_COUNT;
    DELETE FROM ledger.dead_letter_actions a USING ledger.dead_letters d
    WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset = ANY (offsets)
        AND a.dead_letter_id = d.id;
    DELETE FROM ledger.dead_letters d
    WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset = ANY (offsets);
    GET DIAGNOSTICS answer.dead_letters = ROW_COUNT;
    DELETE FROM ledger.changed_verdicts c WHERE c.partition_id = prune_records.partition_id AND c.kafka_offset = ANY (offsets);
    DELETE FROM ledger.event_conflicts k WHERE k.partition_id = prune_records.partition_id AND k.kafka_offset = ANY (offsets);
    DELETE FROM ledger.offset_holes h WHERE h.partition_id = prune_records.partition_id AND h.next_offset <= answer.pruned_below;
    UPDATE ledger.retention r SET pruned_below = answer.pruned_below WHERE r.partition_id = prune_records.partition_id;
    SELECT count(*) FILTER (WHERE NOT k.by_hand), count(*) FILTER (WHERE k.by_hand)
    INTO answer.open_dead_letters, answer.kept_by_hand FROM ledger.kept_dead_letters k
    WHERE k.topic = prune_records.topic AND k.partition = prune_records.partition AND k.kafka_offset < answer.pruned_below;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION sluice.prune_records IS
'Removes a chunk; sluice.prune is the one to call.';

-- --- Reports: what an ingester tells of its partitions ---

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
COMMENT ON FUNCTION sluice.report_partitions IS
'What an ingester says of the partitions that it leads, for ledger.partition_status.';
GRANT EXECUTE ON FUNCTION sluice.report_partitions TO sluice_writer;

-- --- Reports: results for the services that send events ---

CREATE FUNCTION sluice.partitions_with_results()
RETURNS TABLE (topic text, partition integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT l.topic, l.partition
    FROM ledger.partition_progress p
    JOIN ledger.partition_leases l USING (partition_id)
    LEFT JOIN ledger.results_progress r USING (partition_id)
    WHERE p.commit_offset > coalesce(r.next_offset, 0)
    UNION
    SELECT l.topic, l.partition
    FROM ledger.changed_verdicts c
    JOIN ledger.partition_leases l USING (partition_id);
END
$$;
COMMENT ON FUNCTION sluice.partitions_with_results IS
'Partitions with verdicts that are still to be produced to RESULTS_TOPIC.';
GRANT EXECUTE ON FUNCTION sluice.partitions_with_results TO sluice_writer;

CREATE FUNCTION sluice.unsent_results(topic text, partition integer, max_rows integer)
RETURNS TABLE (result text, next_offset bigint, changed_verdict bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
    offsets bigint[];
BEGIN
    SELECT p.partition_id, p.commit_offset, coalesce(r.next_offset, 0) AS next_offset INTO place
    FROM ledger.partition_progress p
    JOIN ledger.partition_leases l USING (partition_id)
    LEFT JOIN ledger.results_progress r USING (partition_id)
    WHERE l.topic = unsent_results.topic AND l.partition = unsent_results.partition;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    offsets := ARRAY(
        SELECT u.kafka_offset FROM (
            (SELECT g.kafka_offset FROM ledger.balance_log g
            WHERE g.partition_id = place.partition_id AND g.change_no = 0
                AND g.kafka_offset >= place.next_offset AND g.kafka_offset < place.commit_offset
            ORDER BY g.kafka_offset LIMIT max_rows)
            UNION ALL
            (SELECT v.kafka_offset FROM ledger.verdicts v
            WHERE v.partition_id = place.partition_id
                AND v.kafka_offset >= place.next_offset AND v.kafka_offset < place.commit_offset
            ORDER BY v.kafka_offset LIMIT max_rows)
        ) u
        ORDER BY u.kafka_offset LIMIT max_rows);
    RETURN QUERY
    SELECT r.result, r.kafka_offset + 1, NULL::bigint
    FROM sluice.results_at(topic, partition, place.partition_id, offsets) r
    ORDER BY r.kafka_offset;
    IF cardinality(offsets) < max_rows THEN
        -- What is left are offsets without a record.
        RETURN QUERY SELECT NULL::text, place.commit_offset, NULL::bigint;
    END IF;
    -- Those ahead are told when their turn comes, as they then are.
    RETURN QUERY
    SELECT r.result, NULL::bigint, c.id
    FROM (
        SELECT c.id, c.kafka_offset FROM ledger.changed_verdicts c
        WHERE c.partition_id = place.partition_id ORDER BY c.id LIMIT max_rows
    ) c
    LEFT JOIN sluice.results_at(topic, partition, place.partition_id, ARRAY(
        SELECT c.kafka_offset FROM ledger.changed_verdicts c
        WHERE c.partition_id = place.partition_id AND c.kafka_offset < place.next_offset ORDER BY c.id LIMIT max_rows)) r
        USING (kafka_offset)
    ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION sluice.unsent_results IS
'The next verdicts of a partition for RESULTS_TOPIC, as JSON, in order; then those that a replay has changed. A row without a result only moves the position.';
GRANT EXECUTE ON FUNCTION sluice.unsent_results TO sluice_writer;

CREATE FUNCTION sluice.results_at(topic text, partition integer, partition_id integer, offsets bigint[])
RETURNS TABLE (kafka_offset bigint, result text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    WITH changes AS (
        SELECT g.* FROM ledger.balance_log g
        WHERE g.partition_id = results_at.partition_id AND g.kafka_offset = ANY (offsets)
    ), told AS (
        SELECT c.kafka_offset, c.event_id, c.source,
            CASE WHEN c.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS verdict, c.reject_reason AS reason,
            c.event_time, c.created_at
        FROM changes c
        WHERE c.change_no = 0
        UNION ALL
        SELECT v.kafka_offset, v.event_id, v.source, v.verdict, v.reason, v.event_time, v.created_at FROM ledger.verdicts v
        WHERE v.partition_id = results_at.partition_id AND v.kafka_offset = ANY (offsets)
    ), balances AS (
        SELECT c.kafka_offset, json_agg(json_build_object(
            'accountId', c.account_id, 'shardId', c.shard_id, 'currencyCode', c.currency_code,
            'available', trim_scale(c.available_after)::text, 'frozen', trim_scale(c.frozen_after)::text)
            ORDER BY c.change_no) AS list
        FROM changes c
        GROUP BY c.kafka_offset
    )
    SELECT t.kafka_offset, json_build_object(
        'topic', topic, 'partition', partition, 'offset', t.kafka_offset, 'eventId', t.event_id, 'source', t.source,
        'eventType', (SELECT CASE WHEN p.is_domain THEN topic ELSE 'balance.changed' END
            FROM ledger.partition_progress p WHERE p.partition_id = results_at.partition_id),
        'verdict', t.verdict, 'reason', t.reason, 'message', d.error_message,
        'eventTime', to_char(t.event_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'createdAt', to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'balances', coalesce(b.list, '[]'))::text
    FROM told t
    LEFT JOIN balances b USING (kafka_offset)
    -- Only of dead records, so that no other is looked up.
    LEFT JOIN LATERAL (
        SELECT l.error_message FROM ledger.dead_letters l
        WHERE t.verdict = 'DEAD' AND l.topic = results_at.topic AND l.partition = results_at.partition
            AND l.kafka_offset = t.kafka_offset
    ) d ON true;
END
$$;
COMMENT ON FUNCTION sluice.results_at IS
'The results of these offsets, as JSON.';

CREATE FUNCTION sluice.dead_letter_keys(topic text, partition integer, kafka_offsets bigint[])
RETURNS TABLE (kafka_offset bigint, key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT d.kafka_offset, d.key FROM ledger.dead_letters d
    WHERE d.topic = dead_letter_keys.topic AND d.partition = dead_letter_keys.partition
        AND d.kafka_offset = ANY (kafka_offsets) AND d.key IS NOT NULL;
END
$$;
COMMENT ON FUNCTION sluice.dead_letter_keys IS
'The keys of dead records, for their results; those without a key are left out.';
GRANT EXECUTE ON FUNCTION sluice.dead_letter_keys TO sluice_writer;

CREATE FUNCTION sluice.mark_results(topic text, partition integer, next_offset bigint, changed_verdicts bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO ledger.results_progress AS r (partition_id, next_offset)
    SELECT l.partition_id, mark_results.next_offset
    FROM ledger.partition_leases l
    JOIN ledger.partition_progress p USING (partition_id)
    WHERE l.topic = mark_results.topic AND l.partition = mark_results.partition AND mark_results.next_offset <= p.commit_offset
    ON CONFLICT (partition_id) DO UPDATE SET next_offset = excluded.next_offset
    WHERE r.next_offset < excluded.next_offset;
    DELETE FROM ledger.changed_verdicts c WHERE c.id = ANY (changed_verdicts);
END
$$;
COMMENT ON FUNCTION sluice.mark_results IS
'Says that the verdicts below next_offset, and these changed ones, are in RESULTS_TOPIC.';
GRANT EXECUTE ON FUNCTION sluice.mark_results TO sluice_writer;

CREATE FUNCTION sluice.keep_result_headers(
    topic text, partition integer, fencing_token bigint, lease_id uuid, kafka_offsets bigint[], headers text[])
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The commit of the batch that follows makes them durable with itself: the log is written in order.
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO ledger.result_headers AS r (partition_id, kafka_offset, headers)
    SELECT p.partition_id, u.kafka_offset, u.headers::jsonb
    FROM unnest(keep_result_headers.kafka_offsets, keep_result_headers.headers) AS u (kafka_offset, headers)
    JOIN ledger.partition_leases l ON l.topic = keep_result_headers.topic AND l.partition = keep_result_headers.partition
    JOIN ledger.partition_progress p ON p.partition_id = l.partition_id
    WHERE p.fencing_token = keep_result_headers.fencing_token AND p.lease_id = keep_result_headers.lease_id
        AND u.kafka_offset >= p.commit_offset
    ON CONFLICT (partition_id, kafka_offset) DO UPDATE SET headers = excluded.headers;
END
$$;
COMMENT ON FUNCTION sluice.keep_result_headers IS
'Keeps the headers of records that are about to be committed, for their results; of nobody but the leader.';
GRANT EXECUTE ON FUNCTION sluice.keep_result_headers TO sluice_writer;

CREATE FUNCTION sluice.result_headers(topic text, partition integer, max_rows integer)
RETURNS TABLE (kafka_offset bigint, headers jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    (SELECT r.kafka_offset, r.headers
    FROM ledger.result_headers r JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = result_headers.topic AND l.partition = result_headers.partition
    ORDER BY r.kafka_offset LIMIT max_rows)
    UNION
    (SELECT d.kafka_offset, d.headers
    FROM ledger.changed_verdicts c
    JOIN ledger.partition_leases l USING (partition_id)
    JOIN ledger.dead_letters d ON d.topic = l.topic AND d.partition = l.partition AND d.kafka_offset = c.kafka_offset
    WHERE l.topic = result_headers.topic AND l.partition = result_headers.partition AND d.headers IS NOT NULL
    ORDER BY c.id LIMIT max_rows);
END
$$;
COMMENT ON FUNCTION sluice.result_headers IS
'The headers of the records behind sluice.unsent_results, those that have any.';
GRANT EXECUTE ON FUNCTION sluice.result_headers TO sluice_writer;

CREATE FUNCTION sluice.forget_result_headers(topic text, partition integer)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM ledger.result_headers r
    USING ledger.partition_leases l, ledger.results_progress p
    WHERE l.topic = forget_result_headers.topic AND l.partition = forget_result_headers.partition
        AND r.partition_id = l.partition_id AND p.partition_id = l.partition_id AND r.kafka_offset < p.next_offset;
END
$$;
COMMENT ON FUNCTION sluice.forget_result_headers IS
'Removes the headers whose results are in RESULTS_TOPIC.';
GRANT EXECUTE ON FUNCTION sluice.forget_result_headers TO sluice_writer;

CREATE FUNCTION sluice.end_results(topic text)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ended integer;
BEGIN
    DELETE FROM ledger.changed_verdicts c USING ledger.partition_leases l
    WHERE l.topic = end_results.topic AND c.partition_id = l.partition_id;
    DELETE FROM ledger.results_progress r USING ledger.partition_leases l
    WHERE l.topic = end_results.topic AND r.partition_id = l.partition_id;
    GET DIAGNOSTICS ended = ROW_COUNT;
    RETURN ended;
END
$$;
COMMENT ON FUNCTION sluice.end_results IS
'Says that the verdicts of a topic are not produced to RESULTS_TOPIC any more, so that sluice.prune does not wait for it. For how many partitions that ended. Where RESULTS_TOPIC is still set, all is produced once more from the beginning.';
GRANT EXECUTE ON FUNCTION sluice.end_results TO sluice_admin;

-- --- Reports: which events Redis is told of ---

CREATE FUNCTION sluice.is_processed(verdict text, source text, event_id text)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF verdict <> 'DUPLICATE' THEN
        RETURN verdict = 'APPLIED';
    END IF;
    -- It says what the record that owns the identity says. Where nobody knows which that is, it was there before.
    RETURN NOT EXISTS (
        SELECT FROM ledger.event_identities i
        WHERE i.identity = sluice.event_identity(source, is_processed.event_id) AND i.kafka_offset IS NOT NULL
            AND NOT EXISTS (
                SELECT FROM ledger.verdicts v
                WHERE v.partition_id = i.partition_id AND v.kafka_offset = i.kafka_offset AND v.verdict = 'APPLIED')
            AND NOT EXISTS (
                SELECT FROM ledger.balance_log g
                WHERE g.partition_id = i.partition_id AND g.kafka_offset = i.kafka_offset AND g.change_no = 0
                    AND g.reject_reason IS NULL));
END
$$;
COMMENT ON FUNCTION sluice.is_processed IS
'Whether Redis is told that an event was processed whose record has this verdict: it is APPLIED, or a DUPLICATE of a record that is.';

CREATE FUNCTION sluice.unprocessed_records(topic text, partition integer, from_offset bigint, next_offset bigint)
RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    id integer := (SELECT l.partition_id FROM ledger.partition_leases l
        WHERE l.topic = unprocessed_records.topic AND l.partition = unprocessed_records.partition);
BEGIN
    RETURN QUERY
    SELECT g.kafka_offset FROM ledger.balance_log g
    WHERE g.partition_id = id AND g.kafka_offset >= from_offset AND g.kafka_offset < next_offset
        AND g.change_no = 0 AND g.reject_reason IS NOT NULL
    UNION ALL
    SELECT v.kafka_offset FROM ledger.verdicts v
    WHERE v.partition_id = id AND v.kafka_offset >= from_offset AND v.kafka_offset < next_offset
        AND v.verdict <> 'APPLIED' AND NOT sluice.is_processed(v.verdict, v.source, v.event_id);
END
$$;
COMMENT ON FUNCTION sluice.unprocessed_records IS
'Offsets of a partition, from from_offset up to next_offset, whose record is REJECTED, DEAD or a DUPLICATE of such a one: Redis is not told that its event was processed.';
GRANT EXECUTE ON FUNCTION sluice.unprocessed_records TO sluice_writer;

CREATE FUNCTION sluice.unmarked_replays(topics text[], partitions integer[], younger_than interval, max_rows integer)
RETURNS TABLE (id bigint, event_id text, source text, is_processed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT d.id, v.event_id, v.source, coalesce(sluice.is_processed(v.verdict, v.source, v.event_id), false)
    FROM ledger.dead_letters d
    JOIN unnest(topics, partitions) AS led (topic, partition) ON d.topic = led.topic AND d.partition = led.partition
    LEFT JOIN ledger.partition_leases l ON l.topic = d.topic AND l.partition = d.partition
    LEFT JOIN LATERAL (
        SELECT w.event_id, w.source, w.verdict FROM ledger.verdicts w
        WHERE w.partition_id = l.partition_id AND w.kafka_offset = d.kafka_offset
        UNION ALL
        SELECT g.event_id, g.source, CASE WHEN g.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END
        FROM ledger.balance_log g
        WHERE g.partition_id = l.partition_id AND g.kafka_offset = d.kafka_offset AND g.change_no = 0
    ) v ON true
    WHERE d.status = 'REPLAYED' AND d.marked_at IS NULL AND d.updated_at > clock_timestamp() - younger_than
    ORDER BY d.updated_at LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION sluice.unmarked_replays IS
'Dead letters of these partitions that were replayed less than younger_than ago and that Redis was not told of, with the event that each became, and whether that was processed.';
GRANT EXECUTE ON FUNCTION sluice.unmarked_replays TO sluice_writer;

CREATE FUNCTION sluice.mark_replays(ids bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In the order in which everybody locks.
    PERFORM FROM ledger.dead_letters d WHERE d.id = ANY (ids)
    ORDER BY d.topic COLLATE "C", d.partition, d.kafka_offset FOR UPDATE;
    UPDATE ledger.dead_letters d SET marked_at = clock_timestamp() WHERE d.id = ANY (ids) AND d.status = 'REPLAYED';
END
$$;
COMMENT ON FUNCTION sluice.mark_replays IS
'Says that Redis was told of these replayed dead letters.';
GRANT EXECUTE ON FUNCTION sluice.mark_replays TO sluice_writer;

-- --- Owners ---

-- Who runs a handler is not who may call it: a handler cannot call the next one.
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
ALTER FUNCTION sluice.call_handler OWNER TO sluice_handler;
REVOKE ALL ON FUNCTION sluice.call_handler FROM sluice_handler;
GRANT EXECUTE ON FUNCTION sluice.call_handler TO sluice_owner;
ALTER FUNCTION sluice.handler_rows OWNER TO sluice_handler;
REVOKE ALL ON FUNCTION sluice.handler_rows FROM sluice_handler;
GRANT EXECUTE ON FUNCTION sluice.handler_rows TO sluice_owner;
