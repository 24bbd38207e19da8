-- Domain events: the batch, and the handlers that it calls. Dead letters: replay and discard.
-- By hand: corrections and audit.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

-- Handlers run as this role: it may write in schema domain, and nowhere else.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'sluice_handler') THEN
        BEGIN
            CREATE ROLE sluice_handler NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database's migration was faster
        END;
    END IF;
END
$$;

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
COMMENT ON FUNCTION sluice.apply_event_batch(text, integer, bigint, uuid, bigint, bigint, uuid, bigint[], bigint[], bytea[], bytea[], text[]) IS
'Applies raw records of one domain topic: fence, identities, the topic''s handler, verdicts, dead letters and the offset together. The arrays have one entry per record. An event that breaks the handler becomes a dead letter and its neighbours are handled; SQLSTATE 38000 when the handler breaks on too much, or is paused.';

CREATE FUNCTION sluice.call_handler(
    handler text, kafka_offsets bigint[], event_ids text[], sources text[], event_times_us bigint[], versions bytea[],
    payloads bytea[], OUT broke_with text, OUT message text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, domain, pg_temp
SET synchronous_commit = on -- so that SET LOCAL in a handler ends with the call
AS $$
BEGIN
    EXECUTE pg_catalog.format('
        SELECT %s(pg_catalog.array_agg(ROW(
            u.kafka_offset, u.event_id, u.source,
            ''epoch''::timestamptz + u.event_time_us * interval ''1 microsecond'', u.version,
            pg_catalog.convert_from(u.payload, ''UTF8'')::jsonb -> ''data'')::domain.event ORDER BY u.n))
        FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY
            AS u (kafka_offset, event_id, source, event_time_us, version, payload, n)', handler)
    USING kafka_offsets, event_ids, sources, event_times_us, versions, payloads;
EXCEPTION WHEN OTHERS THEN
    -- An outage, a deadlock, a full disk: no fault of the events.
    IF SQLSTATE ~ '^(08|40|53|57|58)' OR SQLSTATE IN ('25006', '55P03', 'XX001', 'XX002') THEN
        RAISE;
    END IF;
    GET STACKED DIAGNOSTICS broke_with = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;
COMMENT ON FUNCTION sluice.call_handler(text, bigint[], text[], text[], bigint[], bytea[], bytea[]) IS
'Calls a handler as role sluice_handler in a subtransaction. NULL when it succeeded, otherwise what it broke with.';

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
    NOTIFY sluice_handlers;
END
$$;
COMMENT ON FUNCTION sluice.register_handler(text, text, boolean, integer, integer) IS
'Binds an event type to a function (events domain.event[]) RETURNS void: running ingesters read the topic of that name within seconds. parks_key: behind a dead record all later ones of its key are parked too. The topic pauses when the handler breaks on more than max_failures of the last failure_window events of a partition.';

CREATE FUNCTION sluice.unregister_handler(event_type text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM ledger.event_handlers h WHERE h.event_type = unregister_handler.event_type;
    NOTIFY sluice_handlers;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.unregister_handler(text) IS
'Unbinds an event type: its topic is read no further and keeps its offset. False when it had no handler.';

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
COMMENT ON FUNCTION sluice.pause_handler(text, text) IS
'Pauses a topic of domain events: nothing of it is committed until sluice.resume_handler, or until its handler is replaced. Nothing is lost.';

CREATE FUNCTION sluice.resume_handler(event_type text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.event_handlers h
    SET paused_at = NULL, pause_reason = NULL, paused_version = NULL, resumed_at = clock_timestamp()
    WHERE h.event_type = resume_handler.event_type AND h.paused_at IS NOT NULL;
    NOTIFY sluice_handlers;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sluice.resume_handler(text) IS
'Resumes a paused topic. False when it was not paused.';

CREATE TYPE sluice.replayed AS (
    id bigint, topic text, partition integer, kafka_offset bigint, verdict text, reason text, message text);
COMMENT ON TYPE sluice.replayed IS 'What a dead letter became, or would become. message says why it stays dead.';

CREATE FUNCTION sluice.replay_letters(topic text, partition integer, ids bigint[], payload bytea)
RETURNS TABLE (id bigint, kafka_offset bigint, verdict text, reason text, message text)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'replay_letters_wrapper';
COMMENT ON FUNCTION sluice.replay_letters(text, integer, bigint[], bytea) IS
'Tries parked dead letters of one partition again; sluice.replay_dead_letters is the one to call.';

CREATE FUNCTION sluice.find_dead_letters(
    ids bigint[], topic text, error_code text, key bytea, since timestamptz, until timestamptz, max_rows integer)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nonnulls(ids, topic, error_code, key, since, until) = 0 THEN
        RAISE EXCEPTION 'which dead letters?' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give ids, topic, error_code, key, since or until; since => ''-infinity'' means all.';
    END IF;
    RETURN QUERY SELECT d.id, d.topic, d.partition, d.kafka_offset, 'DEAD', d.error_code, d.error_message FROM ledger.dead_letters d
    WHERE d.status = 'PARKED'
        AND (find_dead_letters.ids IS NULL OR d.id = ANY (find_dead_letters.ids))
        AND (find_dead_letters.topic IS NULL OR d.topic = find_dead_letters.topic)
        AND (find_dead_letters.error_code IS NULL OR d.error_code = find_dead_letters.error_code)
        AND (find_dead_letters.key IS NULL OR d.key = find_dead_letters.key)
        AND (find_dead_letters.since IS NULL OR d.first_failed_at >= find_dead_letters.since)
        AND (find_dead_letters.until IS NULL OR d.first_failed_at < find_dead_letters.until)
        -- A record that failed this often is replayed only by its id: that ends loops.
        AND (find_dead_letters.ids IS NOT NULL OR d.attempts < 20)
    ORDER BY d.topic, d.partition, d.kafka_offset
    LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION sluice.find_dead_letters(bigint[], text, text, bytea, timestamptz, timestamptz, integer) IS
'The parked dead letters that replay_dead_letters and discard_dead_letters mean, in the order of their partitions.';

CREATE FUNCTION sluice.replay_dead_letters(
    ids bigint[] DEFAULT NULL, topic text DEFAULT NULL, error_code text DEFAULT NULL, key bytea DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, payload bytea DEFAULT NULL,
    why text DEFAULT NULL, max_rows integer DEFAULT 1000, dry_run boolean DEFAULT true)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part record;
    outcomes sluice.replayed[];
BEGIN
    IF payload IS NOT NULL AND cardinality(ids) IS DISTINCT FROM 1 THEN
        RAISE EXCEPTION 'a corrected payload is for one dead letter' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give its id: ids => ARRAY[42].';
    END IF;
    FOR part IN
        SELECT d.topic, d.partition, array_agg(d.id ORDER BY d.kafka_offset) AS letters
        FROM sluice.find_dead_letters(ids, topic, error_code, key, since, until, max_rows) d
        GROUP BY d.topic, d.partition ORDER BY d.topic, d.partition
    LOOP
        BEGIN
            outcomes := ARRAY(
                SELECT (r.id, part.topic, part.partition, r.kafka_offset, r.verdict, r.reason, r.message)::sluice.replayed
                FROM sluice.replay_letters(part.topic, part.partition, part.letters, payload) r);
            IF dry_run THEN
                RAISE EXCEPTION USING ERRCODE = 'S0DRY';
            END IF;
        EXCEPTION WHEN SQLSTATE 'S0DRY' THEN
            NULL; -- all is as before, but for what was found out
        END;
        IF NOT dry_run THEN
            INSERT INTO ledger.dead_letter_actions (dead_letter_id, action, by_user, why, verdict, reason, payload)
            SELECT o.id, 'REPLAY', session_user, replay_dead_letters.why, o.verdict, o.reason, replay_dead_letters.payload
            FROM unnest(outcomes) o;
        END IF;
        RETURN QUERY SELECT * FROM unnest(outcomes);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sluice.replay_dead_letters(bigint[], text, text, bytea, timestamptz, timestamptz, bytea, text, integer, boolean) IS
'Tries parked dead letters again: fence, identities and fold or handler as the first time. By default a dry run that says what each would become; dry_run => false does it. payload corrects a single one. Every replay is recorded in ledger.dead_letter_actions.';

CREATE FUNCTION sluice.discard_dead_letters(
    ids bigint[] DEFAULT NULL, topic text DEFAULT NULL, error_code text DEFAULT NULL, key bytea DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    why text DEFAULT NULL, max_rows integer DEFAULT 1000, dry_run boolean DEFAULT true)
RETURNS SETOF sluice.replayed
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    letter sluice.replayed;
BEGIN
    FOR letter IN SELECT * FROM sluice.find_dead_letters(ids, topic, error_code, key, since, until, max_rows) LOOP
        IF NOT dry_run THEN
            UPDATE ledger.dead_letters d SET status = 'DISCARDED', updated_at = clock_timestamp() WHERE d.id = letter.id;
            INSERT INTO ledger.dead_letter_actions (dead_letter_id, action, by_user, why, verdict, reason)
            VALUES (letter.id, 'DISCARD', session_user, discard_dead_letters.why, letter.verdict, letter.reason);
        END IF;
        RETURN NEXT letter;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sluice.discard_dead_letters(bigint[], text, text, bytea, timestamptz, timestamptz, text, integer, boolean) IS
'Gives up parked dead letters: they stay on record, with their verdict, and are not replayed. By default a dry run; dry_run => false does it.';

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
    due := ARRAY(
        SELECT d.id FROM ledger.dead_letters d
        WHERE d.topic = retry_dead_letters.topic AND d.partition = retry_dead_letters.partition AND d.status = 'PARKED'
            AND CASE d.error_code
                WHEN 'HANDLER_FAILED' THEN d.attempts < max_attempts AND clock_timestamp() >= d.updated_at
                    + delay_ms * CASE WHEN exponential THEN 2 ^ least(d.attempts - 1, 16) ELSE 1 END * interval '1 ms'
                -- Those that waited for it follow together, in order.
                WHEN 'PARKED_BEHIND' THEN NOT EXISTS (
                    SELECT FROM ledger.dead_letters e
                    WHERE e.topic = d.topic AND e.partition = d.partition AND e.key = d.key AND e.status = 'PARKED'
                        AND e.error_code <> 'PARKED_BEHIND' AND e.kafka_offset < d.kafka_offset)
            END
        ORDER BY d.kafka_offset LIMIT 500);
    retried := 0;
    IF cardinality(due) > 0 THEN
        SELECT count(*) INTO retried FROM sluice.replay_letters(topic, partition, due, NULL);
    END IF;
    SELECT count(*) INTO waiting FROM ledger.dead_letters d
    WHERE d.topic = retry_dead_letters.topic AND d.partition = retry_dead_letters.partition
        AND d.status = 'PARKED' AND d.error_code = 'HANDLER_FAILED' AND d.attempts < max_attempts;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sluice.retry_dead_letters(text, integer, bigint, uuid, integer, bigint, boolean) IS
'The leader''s own replays: records that broke their handler less than max_attempts times, each after its wait, and those parked behind a key that is free again. waiting: how many have tries left.';

CREATE FUNCTION sluice.unpublished_dead_letters(topic text, partition integer, max_attempts integer, max_rows integer)
RETURNS TABLE (
    id bigint, kafka_offset bigint, event_id text, key bytea, payload bytea,
    error_code text, error_message text, attempts integer, first_failed_ms bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In order: nothing overtakes a record that may still be handled.
    RETURN QUERY
    SELECT d.id, d.kafka_offset, d.event_id, d.key, d.payload, d.error_code, d.error_message, d.attempts,
        (extract(epoch FROM d.first_failed_at) * 1000)::bigint
    FROM ledger.dead_letters d
    WHERE d.topic = unpublished_dead_letters.topic AND d.partition = unpublished_dead_letters.partition
        AND d.status = 'PARKED' AND d.published_at IS NULL
        AND NOT EXISTS (
            SELECT FROM ledger.dead_letters e
            WHERE e.topic = d.topic AND e.partition = d.partition AND e.kafka_offset <= d.kafka_offset
                AND e.status = 'PARKED' AND e.published_at IS NULL
                AND e.error_code = 'HANDLER_FAILED' AND e.attempts < max_attempts)
    ORDER BY d.kafka_offset LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION sluice.unpublished_dead_letters(text, integer, integer, integer) IS
'Dead letters that are to be produced to the dead letter topic, in order.';

CREATE FUNCTION sluice.mark_published(ids bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE ledger.dead_letters d SET published_at = clock_timestamp() WHERE d.id = ANY (ids) AND d.published_at IS NULL;
END
$$;
COMMENT ON FUNCTION sluice.mark_published(bigint[]) IS
'Says that these dead letters are in the dead letter topic.';

CREATE FUNCTION sluice.partitions_to_care_for()
RETURNS TABLE (topic text, partition integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT DISTINCT d.topic, d.partition FROM ledger.dead_letters d
    WHERE d.status = 'PARKED' AND (d.published_at IS NULL OR d.error_code IN ('HANDLER_FAILED', 'PARKED_BEHIND'));
END
$$;
COMMENT ON FUNCTION sluice.partitions_to_care_for() IS
'Partitions with dead letters that may have to be retried or published.';

CREATE TYPE sluice.corrected AS (
    event_id text, account_id bigint, shard_id integer, currency_code text, available_delta numeric, frozen_delta numeric,
    available_after numeric, frozen_after numeric, status text, reject_reason text);
COMMENT ON TYPE sluice.corrected IS 'One change of a manual correction, as it stands in ledger.balance_change_logs.';

CREATE FUNCTION sluice.correct_balances(payload text, why text)
RETURNS TABLE (partition_id integer, kafka_offset bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'correct_balances_wrapper';
COMMENT ON FUNCTION sluice.correct_balances(text, text) IS
'Applies one balance event by hand; sluice.apply_balance_changes is the one to call.';

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
            SELECT (l.event_id, l.account_id, l.shard_id, l.currency_code, l.available_delta, l.frozen_delta,
                l.available_after, l.frozen_after, CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END,
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
COMMENT ON FUNCTION sluice.apply_balance_changes(jsonb, text, boolean) IS
'A manual correction: an array of changes as in a balance event, applied together or not at all, by the same rules and with the same log, attributed to the session user. By default a dry run; dry_run => false does it.';

CREATE FUNCTION sluice.verify_balances()
RETURNS TABLE (
    account_id bigint, shard_id integer, currency_code text,
    available numeric, logged_available numeric, frozen numeric, logged_frozen numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT b.account_id, b.shard_id, b.currency_code, b.available, s.available, b.frozen, s.frozen
    FROM ledger.account_balances b
    FULL JOIN (
        SELECT l.account_id, l.shard_id, l.currency_code, sum(l.available_delta) AS available, sum(l.frozen_delta) AS frozen
        FROM ledger.balance_log l
        WHERE l.reject_reason IS NULL
        GROUP BY 1, 2, 3
    ) s ON (s.account_id, s.shard_id, s.currency_code) = (b.account_id, b.shard_id, b.currency_code)
    WHERE b.available IS DISTINCT FROM s.available OR b.frozen IS DISTINCT FROM s.frozen;
END
$$;
COMMENT ON FUNCTION sluice.verify_balances() IS
'Balances that differ from the sum of their logged changes: no row where all is well. Reads the whole log in one snapshot.';

CREATE FUNCTION sluice.offset_gaps(topic text, partition integer)
RETURNS TABLE (first_offset bigint, next_offset bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
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
        SELECT commit_offset, commit_offset FROM place
    ), gaps AS (
        SELECT coalesce(max(c.next) OVER (ORDER BY c.first, c.next ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS first,
            c.first AS next
        FROM covered c
    )
    SELECT g.first, g.next FROM gaps g WHERE g.first < g.next ORDER BY 1;
END
$$;
COMMENT ON FUNCTION sluice.offset_gaps(text, integer) IS
'Half-open spans of offsets below the committed one that have neither a verdict nor a known hole: no row where all is well.';

CREATE FUNCTION sluice.balance_as_of(account_id bigint, shard_id integer, currency_code text, at timestamptz)
RETURNS TABLE (available numeric, frozen numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT l.available_after, l.frozen_after
    FROM ledger.balance_log l
    WHERE l.account_id = balance_as_of.account_id AND l.shard_id = balance_as_of.shard_id
        AND l.currency_code = balance_as_of.currency_code AND l.created_at <= balance_as_of.at AND l.reject_reason IS NULL
    ORDER BY l.created_at DESC, l.kafka_offset DESC, l.change_no DESC
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION sluice.balance_as_of(bigint, integer, text, timestamptz) IS
'The balance as it was at a moment of the database''s clock: no row before its first change. Reads the log.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname IN (
            'apply_event_batch', 'call_handler', 'register_handler', 'unregister_handler', 'pause_handler', 'resume_handler',
            'replay_letters', 'find_dead_letters', 'replay_dead_letters', 'discard_dead_letters',
            'retry_dead_letters', 'unpublished_dead_letters', 'mark_published', 'partitions_to_care_for',
            'correct_balances', 'apply_balance_changes', 'verify_balances', 'offset_gaps', 'balance_as_of')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA sluice TO sluice_handler;
ALTER FUNCTION sluice.call_handler(text, bigint[], text[], text[], bigint[], bytea[], bytea[]) OWNER TO sluice_handler;
REVOKE ALL ON FUNCTION sluice.call_handler(text, bigint[], text[], text[], bigint[], bytea[], bytea[]) FROM PUBLIC, sluice_handler;

GRANT EXECUTE ON FUNCTION sluice.call_handler(text, bigint[], text[], text[], bigint[], bytea[], bytea[]) TO sluice_owner;
GRANT EXECUTE ON FUNCTION
    sluice.apply_event_batch(text, integer, bigint, uuid, bigint, bigint, uuid, bigint[], bigint[], bytea[], bytea[], text[]),
    sluice.pause_handler(text, text),
    sluice.retry_dead_letters(text, integer, bigint, uuid, integer, bigint, boolean),
    sluice.unpublished_dead_letters(text, integer, integer, integer), sluice.mark_published(bigint[]),
    sluice.partitions_to_care_for()
TO sluice_writer;
GRANT EXECUTE ON FUNCTION
    sluice.register_handler(text, text, boolean, integer, integer), sluice.unregister_handler(text),
    sluice.pause_handler(text, text), sluice.resume_handler(text),
    sluice.replay_dead_letters(bigint[], text, text, bytea, timestamptz, timestamptz, bytea, text, integer, boolean),
    sluice.discard_dead_letters(bigint[], text, text, bytea, timestamptz, timestamptz, text, integer, boolean),
    sluice.apply_balance_changes(jsonb, text, boolean)
TO sluice_admin;
GRANT EXECUTE ON FUNCTION
    sluice.verify_balances(), sluice.offset_gaps(text, integer), sluice.balance_as_of(bigint, integer, text, timestamptz)
TO sluice_reader;
