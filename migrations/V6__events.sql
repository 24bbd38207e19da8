-- Schema domain: what handlers of domain events are made of, and what they write.
-- Every order in which events can arrive ends in the same rows: docs/decisions/0002-convergence.md says by which rule.

CREATE SCHEMA domain AUTHORIZATION sluice_owner;

SET LOCAL ROLE sluice_owner;

COMMENT ON SCHEMA domain IS 'What the domain events of the platform project into: handlers write, everybody else reads.';

-- Before the first object, so that each one gets them.
GRANT USAGE ON SCHEMA domain TO sluice_handler, sluice_reader, sluice_admin;
ALTER DEFAULT PRIVILEGES FOR ROLE sluice_owner IN SCHEMA domain
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO sluice_handler;
ALTER DEFAULT PRIVILEGES FOR ROLE sluice_owner IN SCHEMA domain
    GRANT SELECT ON TABLES TO sluice_reader, sluice_admin;
ALTER DEFAULT PRIVILEGES FOR ROLE sluice_owner IN SCHEMA domain
    GRANT EXECUTE ON FUNCTIONS TO sluice_handler;

-- ---------------------------------------------------------------------------
-- What a handler gets, and how it reads it
-- ---------------------------------------------------------------------------

CREATE TYPE domain.event AS (
    kafka_offset bigint,
    event_id text,
    source text,
    event_time timestamptz,
    version bytea,
    data jsonb
);
REVOKE ALL ON TYPE domain.event FROM PUBLIC;
GRANT USAGE ON TYPE domain.event TO sluice_handler;

COMMENT ON TYPE domain.event IS 'One decoded event, as a handler gets it.';
COMMENT ON COLUMN domain.event.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN domain.event.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN domain.event.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN domain.event.event_time IS 'The envelope''s timestamp, or else the record''s. Never null.';
COMMENT ON COLUMN domain.event.version IS '32 bytes in the order of events: event time in microseconds since 1970 (big-endian, sign bit flipped), then the Kafka offset (big-endian), then the identity.';
COMMENT ON COLUMN domain.event.data IS 'The field data of the envelope.';

-- Each reader is one expression that the planner puts in place of the call, so that a
-- good field costs no function call; refuse is reached by bad ones only. STABLE: an
-- IMMUTABLE refuse of constants would be called while planning, and format(), being
-- STABLE, keeps what is IMMUTABLE from being put in place.
-- An absent field (SQL NULL) and a JSON null are the same.

CREATE FUNCTION domain.refuse(event_id text, field text, rule text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = pg_catalog.format('event %s: field "%s" %s', event_id, field, rule);
END
$$;
COMMENT ON FUNCTION domain.refuse(text, text, text) IS
'Raises 22023 with the message: event <event_id>: field "<field>" <rule>. Returns nothing, ever; the type lets it stand in an expression.';

CREATE FUNCTION domain.id(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_id(value, event_id, field, required)
$$;
COMMENT ON FUNCTION domain.id(jsonb, text, text, boolean) IS
'An id: a JSON string of 1 to 255 bytes, or an integer, which is taken as its text, so that 42 and "42" are one id.';

CREATE FUNCTION domain.text(value jsonb, event_id text, field text, shortest integer, longest integer, required boolean DEFAULT true)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_text(value, event_id, field, shortest, longest, required)
$$;
COMMENT ON FUNCTION domain.text(jsonb, text, text, integer, integer, boolean) IS
'A JSON string of shortest to longest characters.';

CREATE FUNCTION domain.choice(value jsonb, event_id text, field text, choices text[], required boolean DEFAULT true) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string' AND value #>> '{}' = ANY (choices)
            THEN value #>> '{}'
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be one of ' || pg_catalog.array_to_string(choices, ', '))
        WHEN required THEN domain.refuse(event_id, field, 'is required')
    END
$$;
COMMENT ON FUNCTION domain.choice(jsonb, text, text, text[], boolean) IS
'A JSON string that is one of choices, letter case included.';

CREATE FUNCTION domain.currency(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_currency(value, event_id, field, required)
$$;
COMMENT ON FUNCTION domain.currency(jsonb, text, text, boolean) IS
'A currency code, as balance events have it.';

CREATE FUNCTION domain.amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_amount(value, event_id, field, true, required)
$$;
COMMENT ON FUNCTION domain.amount(jsonb, text, text, boolean) IS
'An amount that may be negative: a JSON string or number of the form -?[0-9]{1,18}(\.[0-9]{1,18})?. Numbers of jsonb are exact; no float anywhere.';

CREATE FUNCTION domain.unsigned_amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_amount(value, event_id, field, false, required)
$$;
COMMENT ON FUNCTION domain.unsigned_amount(jsonb, text, text, boolean) IS
'An amount as domain.amount reads it, without a sign.';

CREATE FUNCTION domain.whole(value jsonb, event_id text, field text, lowest integer, highest integer, required boolean DEFAULT true)
RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'number'
            AND value::text ~ '^-?[0-9]{1,10}$' AND value::pg_catalog.numeric BETWEEN lowest AND highest
            THEN value::pg_catalog.int4
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, pg_catalog.format('must be an integer from %s to %s', lowest, highest))::pg_catalog.int4
        WHEN required THEN domain.refuse(event_id, field, 'is required')::pg_catalog.int4
    END
$$;
COMMENT ON FUNCTION domain.whole(jsonb, text, text, integer, integer, boolean) IS
'A JSON integer from lowest to highest.';

CREATE FUNCTION domain.object(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'object' THEN value
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be an object')::pg_catalog.jsonb
        WHEN required THEN domain.refuse(event_id, field, 'is required')::pg_catalog.jsonb
    END
$$;
COMMENT ON FUNCTION domain.object(jsonb, text, text, boolean) IS 'A JSON object, as it is.';

CREATE TYPE domain.text_list AS (items text[]);
REVOKE ALL ON TYPE domain.text_list FROM PUBLIC;
GRANT USAGE ON TYPE domain.text_list TO sluice_handler;
COMMENT ON TYPE domain.text_list IS 'How domain.texts turns a JSON array into text[] without a subquery.';
COMMENT ON COLUMN domain.text_list.items IS 'The texts of the array.';

CREATE FUNCTION domain.texts(value jsonb, event_id text, field text) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'array' AND value -> 64 IS NULL
            AND NOT value @? 'strict $[*] ? (@.type() != "string" || @ == "")'
            THEN (pg_catalog.jsonb_populate_record(NULL::domain.text_list, pg_catalog.jsonb_build_object('items', value))).items
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be an array of at most 64 strings, none empty')::text[]
        ELSE '{}'::text[]
    END
$$;
COMMENT ON FUNCTION domain.texts(jsonb, text, text) IS
'A JSON array of at most 64 strings, none of them empty; {} when absent or null.';

CREATE FUNCTION domain.instant(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT coalesce(sluice.read_plain_instant(value), CASE
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be an RFC 3339 time')::timestamptz
        WHEN required THEN domain.refuse(event_id, field, 'is required')::timestamptz
    END)
$$;
COMMENT ON FUNCTION domain.instant(jsonb, text, text, boolean) IS
'An RFC 3339 time, read as the timestamp of an envelope is: any zone, any number of digits of a second, of which those behind the microsecond are cut off. A leap second ends a month in UTC, and is the second after it.';

CREATE FUNCTION domain.is_newer(candidate bytea, created bytea, changed bytea) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT candidate IS NOT NULL AND candidate > coalesce(greatest(created, changed), '\x')
$$;
COMMENT ON FUNCTION domain.is_newer(bytea, bytea, bytea) IS
'Whether candidate is later than the version of a field: that of the row''s creation or that of the field''s last change, whichever is later. Not when there is no candidate.';

-- ---------------------------------------------------------------------------
-- What an event refers to, and its fields that have no column
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.absent(relation regclass, events domain.event[], VARIADIC fields text[])
RETURNS TABLE (id text, referrer text)
LANGUAGE sql VOLATILE
AS $$
    SELECT a.id, a.referrer
    FROM (
        SELECT pg_catalog.array_agg(e.data ->> f.field) AS ids, pg_catalog.array_agg(e.event_id) AS referrers
        FROM pg_catalog.unnest(events) AS e CROSS JOIN pg_catalog.unnest(fields) AS f (field)
    ) r, LATERAL sluice.absent(relation, r.ids, r.referrers) a
    WHERE pg_catalog.octet_length(a.id) BETWEEN 1 AND 255
$$;
COMMENT ON FUNCTION domain.absent(regclass, domain.event[], text[]) IS
'What the fields of these events name and the table has no row of, each once, with the event that names it first.';

CREATE FUNCTION domain.extra(data jsonb, known text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT nullif(data - known, '{}')
$$;
COMMENT ON FUNCTION domain.extra(jsonb, text[]) IS
'The fields of an object that are none of the known ones; NULL where there are none.';

CREATE FUNCTION domain.with_later_fields(object jsonb, other jsonb, other_versions jsonb, created bytea, versions jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    -- Versions are of one length, so that their digits sort as they do.
    floor text COLLATE "C" := coalesce(pg_catalog.encode(created, 'hex'), '');
    one jsonb := pg_catalog.jsonb_path_query_first(other_versions, '$.*');
BEGIN
    -- Mostly all fields are those of one event, which is later than all there is.
    IF (one #>> '{}') > floor
        AND NOT pg_catalog.jsonb_path_exists(other_versions, '$.* ? (@ != $one)', pg_catalog.jsonb_build_object('one', one))
        AND (versions IS NULL OR NOT pg_catalog.jsonb_path_exists(versions, '$.* ? (@ >= $one)', pg_catalog.jsonb_build_object('one', one)))
    THEN
        RETURN coalesce(object || other, other);
    END IF;
    RETURN nullif(coalesce(object, '{}') || (
        SELECT coalesce(pg_catalog.jsonb_object_agg(v.key, other -> v.key), '{}') FROM pg_catalog.jsonb_each_text(other_versions) AS v
        WHERE v.value > floor AND v.value > coalesce(versions ->> v.key, '') COLLATE "C"), '{}');
END
$$;
COMMENT ON FUNCTION domain.with_later_fields(jsonb, jsonb, jsonb, bytea, jsonb) IS
'The fields of a row with those of an update that are later than the creation of the row and than the versions of the same fields, as domain.is_newer says of a column; NULL where there is no field at all. Every field of the update has a version.';

CREATE FUNCTION domain.with_kept_fields(object jsonb, known jsonb, versions jsonb, created bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    floor text COLLATE "C" := pg_catalog.encode(created, 'hex');
BEGIN
    RETURN nullif(coalesce(object, '{}') || (
        SELECT coalesce(pg_catalog.jsonb_object_agg(v.key, known -> v.key), '{}') FROM pg_catalog.jsonb_each_text(versions) AS v
        WHERE v.value > floor), '{}');
END
$$;
COMMENT ON FUNCTION domain.with_kept_fields(jsonb, jsonb, jsonb, bytea) IS
'The fields of a creation with those that the row has from events later than it; NULL where there is no field at all. Fields of the row without a version are those of an older creation.';

RESET ROLE;
