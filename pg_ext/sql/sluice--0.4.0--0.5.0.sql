-- Retention: pruning what Kafka does not hold any more, and audits that go on to hold.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

CREATE FUNCTION sluice.event_identity(source text, event_id text)
RETURNS uuid
LANGUAGE c IMMUTABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'event_identity_wrapper';
COMMENT ON FUNCTION sluice.event_identity(text, text) IS
'What an event is known by in ledger.event_identities.';

CREATE TYPE sluice.pruned AS (
    pruned_below bigint, records bigint, log_rows bigint, identities bigint, dead_letters bigint,
    open_dead_letters bigint, more boolean);
COMMENT ON TYPE sluice.pruned IS 'What sluice.prune has removed, or would remove. pruned_below is the first offset that is left; open_dead_letters below it are kept, more says that there is more to remove.';

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
    RETURN CASE
        WHEN dry_run THEN sluice.count_prunable(topic, partition, place.partition_id, since, horizon, cutoff)
        ELSE sluice.prune_records(topic, partition, place.partition_id, since, horizon, cutoff, max_records)
    END;
END
$$;
COMMENT ON FUNCTION sluice.prune(text, integer, bigint, interval, integer, boolean) IS
'Removes what is known of the records of a partition that Kafka does not hold any more (below log_start_offset, where the partition begins there) and that are older than older_than: their log, verdicts, identities and closed dead letters. By default a dry run that says what would go; dry_run => false removes at most max_records in this transaction and says in more whether to call it again. Never beyond the committed offset. What the removed changes add up to stays in ledger.balance_checkpoints; open dead letters stay whole. An event that is sent again after its identity is gone is a new event.';

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
    SELECT count(*) FILTER (WHERE d.status = 'PARKED'),
        count(*) FILTER (WHERE d.status <> 'PARKED' AND (d.kafka_offset >= since OR d.updated_at <= cutoff))
    INTO answer.open_dead_letters, answer.dead_letters
    FROM ledger.dead_letters d
    WHERE d.topic = count_prunable.topic AND d.partition = count_prunable.partition AND d.kafka_offset < answer.pruned_below;
    WITH gone AS (
        SELECT g.kafka_offset, g.created_at, true AS is_logged, g.change_no = 0 AS is_record,
            g.change_no = 0 AND g.reject_reason IS DISTINCT FROM 'EVENT_ID_CONFLICT' AS is_owner
        FROM ledger.balance_log g
        WHERE g.partition_id = count_prunable.partition_id
        UNION ALL
        SELECT v.kafka_offset, v.created_at, false, true, v.verdict = 'APPLIED' OR coalesce(v.reason IN ('HANDLER_FAILED', 'PARKED_BEHIND'), false)
        FROM ledger.verdicts v
        WHERE v.partition_id = count_prunable.partition_id AND NOT EXISTS (
            SELECT FROM ledger.dead_letters d
            WHERE d.topic = count_prunable.topic AND d.partition = count_prunable.partition AND d.kafka_offset = v.kafka_offset
                AND d.status = 'PARKED')
    )
    SELECT count(*) FILTER (WHERE g.is_record), count(*) FILTER (WHERE g.is_logged), count(*) FILTER (WHERE g.is_owner)
    INTO answer.records, answer.log_rows, answer.identities
    FROM gone g
    WHERE g.kafka_offset < answer.pruned_below AND (g.kafka_offset >= since OR g.created_at <= cutoff);
    RETURN answer;
END
$$;
COMMENT ON FUNCTION sluice.count_prunable(text, integer, integer, bigint, bigint, timestamptz) IS
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
    -- An open dead letter keeps its verdict and its identity. One that was closed since goes after the rest, and
    -- what a replay has changed once RESULTS_TOPIC has it.
    offsets := ARRAY(
        SELECT o FROM unnest(offsets) o WHERE o < answer.pruned_below
        UNION ALL
        (SELECT d.kafka_offset FROM ledger.dead_letters d
        WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset < since
            AND d.status <> 'PARKED' AND d.updated_at <= cutoff
        LIMIT max_records)
        EXCEPT ALL
        SELECT d.kafka_offset FROM ledger.dead_letters d
        WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset < answer.pruned_below
            AND d.status = 'PARKED'
        EXCEPT ALL
        SELECT c.kafka_offset FROM ledger.changed_verdicts c JOIN ledger.results_progress r USING (partition_id)
        WHERE c.partition_id = prune_records.partition_id);

    WITH gone AS (
        DELETE FROM ledger.balance_log g WHERE g.partition_id = prune_records.partition_id AND g.kafka_offset = ANY (offsets)
        RETURNING g.*
    ), carried AS (
        -- In the order of keys, as everybody locks.
        INSERT INTO ledger.balance_checkpoints AS c (account_id, shard_id, currency_code, available, frozen, pruned_until)
        SELECT g.account_id, g.shard_id, g.currency_code, sum(g.available_delta), sum(g.frozen_delta), max(g.created_at)
        FROM gone g
        WHERE g.reject_reason IS NULL
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (account_id, shard_id, currency_code) DO UPDATE
        SET available = c.available + excluded.available, frozen = c.frozen + excluded.frozen,
            pruned_until = greatest(c.pruned_until, excluded.pruned_until)
    ), unlogged AS (
        DELETE FROM ledger.verdicts v WHERE v.partition_id = prune_records.partition_id AND v.kafka_offset = ANY (offsets)
        RETURNING v.*
    ), events AS (
        SELECT g.source, g.event_id, g.reject_reason IS DISTINCT FROM 'EVENT_ID_CONFLICT' AS is_owner FROM gone g WHERE g.change_no = 0
        UNION ALL
        SELECT v.source, v.event_id, v.verdict = 'APPLIED' OR coalesce(v.reason IN ('HANDLER_FAILED', 'PARKED_BEHIND'), false) FROM unlogged v
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
    DELETE FROM ledger.offset_holes h WHERE h.partition_id = prune_records.partition_id AND h.next_offset <= answer.pruned_below;
    UPDATE ledger.retention r SET pruned_below = answer.pruned_below WHERE r.partition_id = prune_records.partition_id;
    SELECT count(*) INTO answer.open_dead_letters FROM ledger.dead_letters d
    WHERE d.topic = prune_records.topic AND d.partition = prune_records.partition AND d.kafka_offset < answer.pruned_below
        AND d.status = 'PARKED';
    RETURN answer;
END
$$;
COMMENT ON FUNCTION sluice.prune_records(text, integer, integer, bigint, bigint, timestamptz, integer) IS
'Removes a chunk; sluice.prune is the one to call.';

CREATE OR REPLACE FUNCTION sluice.verify_balances()
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
COMMENT ON FUNCTION sluice.verify_balances() IS
'Balances that differ from the sum of their logged changes and of the checkpoint that pruned ones left: no row where all is well. Reads the whole log in one snapshot.';

CREATE OR REPLACE FUNCTION sluice.offset_gaps(topic text, partition integer)
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
COMMENT ON FUNCTION sluice.offset_gaps(text, integer) IS
'Half-open spans of offsets below the committed one that have neither a verdict nor a known hole, and were not pruned: no row where all is well.';

CREATE OR REPLACE FUNCTION sluice.balance_as_of(account_id bigint, shard_id integer, currency_code text, at timestamptz)
RETURNS TABLE (available numeric, frozen numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pruned_until timestamptz;
BEGIN
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
    IF FOUND THEN
        RAISE EXCEPTION 'the log of this balance was pruned up to %', pruned_until
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Ask for that moment or a later one.';
    END IF;
END
$$;
COMMENT ON FUNCTION sluice.balance_as_of(bigint, integer, text, timestamptz) IS
'The balance as it was at a moment of the database''s clock: no row before its first change, an error for a moment whose changes were pruned. Walks back through the changes since then.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname IN ('event_identity', 'prune', 'count_prunable', 'prune_records')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION sluice.prune(text, integer, bigint, interval, integer, boolean) TO sluice_admin;
