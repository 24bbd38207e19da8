-- Results for the services that sent the events; history without reading the whole log.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

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
COMMENT ON FUNCTION sluice.partitions_with_results() IS
'Partitions with verdicts that are still to be produced to RESULTS_TOPIC.';

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
COMMENT ON FUNCTION sluice.unsent_results(text, integer, integer) IS
'The next verdicts of a partition for RESULTS_TOPIC, as JSON, in order; then those that a replay has changed. A row without a result only moves the position.';

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
            CASE WHEN c.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS verdict, c.reject_reason AS reason
        FROM changes c
        WHERE c.change_no = 0
        UNION ALL
        SELECT v.kafka_offset, v.event_id, v.source, v.verdict, v.reason FROM ledger.verdicts v
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
        'verdict', t.verdict, 'reason', t.reason, 'balances', coalesce(b.list, '[]'))::text
    FROM told t LEFT JOIN balances b USING (kafka_offset);
END
$$;
COMMENT ON FUNCTION sluice.results_at(text, integer, integer, bigint[]) IS
'The results of these offsets, as JSON.';

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
COMMENT ON FUNCTION sluice.mark_results(text, integer, bigint, bigint[]) IS
'Says that the verdicts below next_offset, and these changed ones, are in RESULTS_TOPIC.';

CREATE OR REPLACE FUNCTION sluice.balance_as_of(account_id bigint, shard_id integer, currency_code text, at timestamptz)
RETURNS TABLE (available numeric, frozen numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Walks back from the last change, and stops at the first that is old enough.
    RETURN QUERY
    WITH RECURSIVE chain AS (
        SELECT l.created_at, l.available_after, l.frozen_after, l.previous_partition_id, l.previous_offset, l.previous_change_no
        FROM ledger.account_balances b
        JOIN ledger.balance_log l ON l.partition_id = b.last_partition_id
            AND l.kafka_offset = b.last_offset AND l.change_no = b.last_change_no
        WHERE b.account_id = balance_as_of.account_id AND b.shard_id = balance_as_of.shard_id
            AND b.currency_code = balance_as_of.currency_code
        UNION ALL
        SELECT l.created_at, l.available_after, l.frozen_after, l.previous_partition_id, l.previous_offset, l.previous_change_no
        FROM chain c
        JOIN ledger.balance_log l ON l.partition_id = c.previous_partition_id
            AND l.kafka_offset = c.previous_offset AND l.change_no = c.previous_change_no
        WHERE c.created_at > balance_as_of.at
    )
    SELECT c.available_after, c.frozen_after FROM chain c WHERE c.created_at <= balance_as_of.at LIMIT 1;
END
$$;
COMMENT ON FUNCTION sluice.balance_as_of(bigint, integer, text, timestamptz) IS
'The balance as it was at a moment of the database''s clock: no row before its first change. Walks back through the changes since then.';

CREATE FUNCTION sluice.parked_dead_letters()
RETURNS TABLE (topic text, error_code text, letters bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT d.topic, d.error_code, count(*) FROM ledger.dead_letters d WHERE d.status = 'PARKED' GROUP BY 1, 2;
END
$$;
COMMENT ON FUNCTION sluice.parked_dead_letters() IS
'How many dead letters wait for a person, by topic and error code.';

CREATE FUNCTION sluice.dangling_references(older_than interval)
RETURNS TABLE (kind text, rows bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT d.kind, count(*) FROM domain.dangling_references d WHERE d.seen_at < now() - older_than GROUP BY 1;
END
$$;
COMMENT ON FUNCTION sluice.dangling_references(interval) IS
'How many rows of each kind were named longer ago than that and are not created yet; which ones: domain.dangling_references.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace
            AND p.proname IN ('partitions_with_results', 'unsent_results', 'results_at', 'mark_results',
                'parked_dead_letters', 'dangling_references')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION
    sluice.partitions_with_results(), sluice.unsent_results(text, integer, integer),
    sluice.mark_results(text, integer, bigint, bigint[]),
    sluice.parked_dead_letters(), sluice.dangling_references(interval)
TO sluice_writer;
GRANT EXECUTE ON FUNCTION sluice.parked_dead_letters(), sluice.dangling_references(interval) TO sluice_reader;
