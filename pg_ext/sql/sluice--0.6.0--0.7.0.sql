-- The side roads: leadership, batches, handlers, dead letters, corrections, retention.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

-- --- Leadership ---

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
        -- Several may have locked the row: then it is the number of a list of transactions.
        BEGIN
            SELECT l.pid, l.virtualtransaction INTO held
            FROM pg_get_multixact_members(id) m
            JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = m.xid AND l.granted LIMIT 1;
        EXCEPTION WHEN OTHERS THEN
            RETURN; -- of nobody that lives
        END;
    END IF;
    IF held.virtualtransaction IS NULL THEN
        RETURN;
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
COMMENT ON FUNCTION sluice.transaction_holder(xid) IS
'Who runs a transaction that is not over: a process, or a prepared transaction by its gid. For those who wait for a row that it has locked.';

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
COMMENT ON FUNCTION sluice.lock_holder(integer) IS
'Who keeps the session with this process id waiting for a lock, in words; NULL when nobody does.';

CREATE FUNCTION sluice.partition_holder(partition_id integer)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Leading takes both rows for moments only.
    RETURN (
        SELECT format('its %s is held by %s', f.what, h.words)
        FROM (
            SELECT 1 AS n, 'lease' AS what, l.xmax AS id FROM ledger.partition_leases l
            WHERE l.partition_id = partition_holder.partition_id
            UNION ALL
            SELECT 2, 'progress', p.xmax FROM ledger.partition_progress p
            WHERE p.partition_id = partition_holder.partition_id
        ) f, sluice.transaction_holder(f.id) h
        WHERE h.age > interval '1 s'
        ORDER BY f.n LIMIT 1);
END
$$;
COMMENT ON FUNCTION sluice.partition_holder(integer) IS
'Which transaction has held the lease or the progress of a partition for longer than a second, in words; NULL when none does.';

CREATE OR REPLACE FUNCTION sluice.step_down(topic text, partition integer)
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

COMMENT ON FUNCTION sluice.acquire_partition_lock(text, integer, text, interval) IS
'Tries to become leader of one Kafka partition for the length of the lease. Always one row: acquired false names the present leader, true brings the fencing token, the lease and the offset of the next record to read. Succeeds if the partition is free, its lease ran out, the leader''s database session is gone, or the leader was this very service_id with the same login. Where a transaction holds the partition''s lease or progress, SQLSTATE 55P03 names it.';
COMMENT ON FUNCTION sluice.renew_partition_lock(text, integer, bigint, uuid, interval) IS
'Extends a lease and returns when it now ends, or NULL when leadership is lost: then stop writing and acquire anew. Never waits: where another transaction holds the lease, it stands as it was, and its end is returned.';
COMMENT ON FUNCTION sluice.heartbeat(text, text[], interval) IS
'Says that an instance lives and which topics it reads. A session has one name; false when another live session, or another login, has this one.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY['sluice.transaction_holder(xid)', 'sluice.lock_holder(integer)', 'sluice.partition_holder(integer)']::regprocedure[] LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION sluice.lock_holder(integer) TO sluice_writer;
GRANT EXECUTE ON FUNCTION sluice.partition_holder(integer) TO sluice_writer, sluice_reader;

-- --- Topics that are recognised, and what an operator decides where they are not ---

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
COMMENT ON FUNCTION sluice.partition_position(text, integer) IS
'What a leader needs to recognise a partition: the fingerprint and the offset of its last committed record, the topic id, whether an operator has accepted what Kafka holds, and why it is halted.';

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
COMMENT ON FUNCTION sluice.keep_topic_id(text, integer, bigint, uuid, uuid) IS
'Stores the Kafka topic id of what the leader reads; false when leadership is lost. An id that is stored stays as long as anything was read.';

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
COMMENT ON FUNCTION sluice.halt_partition(text, integer, bigint, uuid, text) IS
'Halts a partition whose topic its leader does not recognise: nothing of it is committed until sluice.accept_partition. False when leadership is lost.';

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
COMMENT ON FUNCTION sluice.accept_partition(text, integer, text, bigint) IS
'Ends the halt of a partition whose topic was not recognised: what Kafka holds now is what is read on, from the committed offset, or from next_offset behind it. What lies between is recorded as a hole, the decision in ledger.partition_actions. Answers where reading goes on.';

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
COMMENT ON FUNCTION sluice.dead_letter_headers(text, integer, integer, integer) IS
'The headers of the records behind sluice.unpublished_dead_letters.';

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
COMMENT ON FUNCTION sluice.keep_result_headers(text, integer, bigint, uuid, bigint[], text[]) IS
'Keeps the headers of records that are about to be committed, for their results; of nobody but the leader.';

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
COMMENT ON FUNCTION sluice.result_headers(text, integer, integer) IS
'The headers of the records behind sluice.unsent_results, those that have any.';

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
COMMENT ON FUNCTION sluice.forget_result_headers(text, integer) IS
'Removes the headers whose results are in RESULTS_TOPIC.';

CREATE OR REPLACE FUNCTION sluice.resume_partition(topic text, partition integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.partition_progress p
    SET paused_at = NULL, paused_reason = NULL
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
COMMENT ON FUNCTION sluice.resume_partition(text, integer) IS
'Resumes a paused partition, where it stopped. False when it was not paused; a halted one is for sluice.accept_partition.';

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
COMMENT ON FUNCTION sluice.start_topics(text[], integer[]) IS
'Remembers how many partitions each topic has when Sluice first starts on it, 0 for one that does not exist, and answers what is remembered.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname IN (
            'partition_position', 'keep_topic_id', 'halt_partition', 'accept_partition', 'start_topics', 'dead_letter_headers',
            'keep_result_headers', 'result_headers', 'forget_result_headers')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION
    sluice.partition_position(text, integer), sluice.keep_topic_id(text, integer, bigint, uuid, uuid),
    sluice.halt_partition(text, integer, bigint, uuid, text), sluice.start_topics(text[], integer[]), sluice.dead_letter_headers(text, integer, integer, integer),
    sluice.keep_result_headers(text, integer, bigint, uuid, bigint[], text[]), sluice.result_headers(text, integer, integer),
    sluice.forget_result_headers(text, integer)
TO sluice_writer;
GRANT EXECUTE ON FUNCTION sluice.accept_partition(text, integer, text, bigint) TO sluice_admin;

-- --- Batches ---

CREATE FUNCTION sluice.blames_record(sqlstate text)
RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'blames_record_wrapper';
COMMENT ON FUNCTION sluice.blames_record(text) IS
'Whether an error with this SQLSTATE inside a handler is the fault of the event that met it, or of the handler, so that the event may become a dead letter for it. Any other is trouble of the database.';

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
COMMENT ON FUNCTION sluice.bury_record(text, integer, bigint, text) IS
'Orders that the record at this offset becomes a dead letter (BURIED) when its partition comes to it, untried and byte for byte, whatever it holds. For a record that the database cannot take for a reason that is not the record''s. Refuses an offset that is committed. False when it was ordered already. Waits for the batch in flight.';

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
COMMENT ON FUNCTION sluice.withdraw_burial(text, integer, bigint) IS
'Takes back an order of sluice.bury_record that was not carried out yet. False when there is none. Waits for the batch in flight.';

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
        SELECT l.partition_id, l.partition FROM ledger.partition_leases l WHERE l.topic = trip_breaker.topic ORDER BY l.partition_id
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
COMMENT ON FUNCTION sluice.trip_breaker(text, text) IS
'Pauses all partitions of a balance topic of which the database refuses too much, until sluice.reset_breaker or sluice.resume_partition. How many it paused; those that are paused already stay as they are. Waits for the batches in flight.';

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
        ORDER BY l.partition_id
    LOOP
        IF sluice.resume_partition(topic, one.partition) THEN
            resumed := resumed + 1;
        END IF;
    END LOOP;
    RETURN resumed;
END
$$;
COMMENT ON FUNCTION sluice.reset_breaker(text) IS
'Resumes the partitions of a topic that its circuit breaker has paused, where they stopped; those paused by hand stay paused. How many. What the database refused before does not count any more.';

CREATE OR REPLACE FUNCTION sluice.resume_partition(topic text, partition integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.partition_progress p
    SET paused_at = NULL, paused_reason = NULL, resumed_at = clock_timestamp()
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

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace
            AND p.proname IN ('blames_record', 'bury_record', 'withdraw_burial', 'trip_breaker', 'reset_breaker')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION sluice.blames_record(text) TO sluice_handler;
GRANT EXECUTE ON FUNCTION sluice.trip_breaker(text, text) TO sluice_writer;
GRANT EXECUTE ON FUNCTION
    sluice.bury_record(text, integer, bigint, text), sluice.withdraw_burial(text, integer, bigint), sluice.reset_breaker(text)
TO sluice_admin;

-- --- Handlers of domain events ---

CREATE FUNCTION sluice.settle_handler()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'settle_handler';
COMMENT ON FUNCTION sluice.settle_handler() IS
'Runs what a handler has deferred, as its role; sluice.call_handler is the one to call it.';
ALTER FUNCTION sluice.settle_handler() OWNER TO sluice_owner;
REVOKE ALL ON FUNCTION sluice.settle_handler() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sluice.settle_handler() TO sluice_handler;

CREATE OR REPLACE FUNCTION sluice.call_handler(
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
    IF NOT sluice.blames_record(SQLSTATE) THEN
        RAISE;
    END IF;
    GET STACKED DIAGNOSTICS broke_with = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;

COMMENT ON FUNCTION sluice.read_plain_instant(jsonb) IS
'What domain.instant answers: any RFC 3339 time, read as the envelope''s timestamp is; NULL for all else.';

-- --- Dead letters and corrections ---

-- --- Retention and reports ---

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
COMMENT ON FUNCTION sluice.end_results(text) IS
'Says that the verdicts of a topic are not produced to RESULTS_TOPIC any more, so that sluice.prune does not wait for it. For how many partitions that ended. Where RESULTS_TOPIC is still set, all is produced once more from the beginning.';
ALTER FUNCTION sluice.end_results(text) OWNER TO sluice_owner;
REVOKE ALL ON FUNCTION sluice.end_results(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sluice.end_results(text) TO sluice_admin;
