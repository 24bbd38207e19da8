-- The side roads: leadership, batches, handlers, dead letters, corrections, retention.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

-- --- Leadership ---

-- --- Batches ---

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
    -- An outage, a deadlock, a full disk: no fault of the events.
    IF SQLSTATE ~ '^(08|40|53|57|58)' OR SQLSTATE IN ('25006', '55P03', 'XX001', 'XX002') THEN
        RAISE;
    END IF;
    GET STACKED DIAGNOSTICS broke_with = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;

COMMENT ON FUNCTION sluice.read_plain_instant(jsonb) IS
'What domain.instant answers: any RFC 3339 time, read as the envelope''s timestamp is; NULL for all else.';

-- --- Dead letters and corrections ---

-- --- Retention and reports ---
