-- The readers of fields as they were in SQL, before they became native: what the native ones are compared with.

CREATE FUNCTION before.refuse(event_id text, field text, rule text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = pg_catalog.format('event %s: field "%s" %s', event_id, field, rule);
END
$$;

CREATE FUNCTION before.id(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string'
            AND pg_catalog.octet_length(value #>> '{}') BETWEEN 1 AND 255
            THEN value #>> '{}'
        WHEN pg_catalog.jsonb_typeof(value) = 'number' AND value::text ~ '^-?[0-9]{1,254}$'
            THEN value::text
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN before.refuse(event_id, field, 'must be a string of 1 to 255 bytes or an integer')
        WHEN required THEN before.refuse(event_id, field, 'is required')
    END
$$;

CREATE FUNCTION before.text(value jsonb, event_id text, field text, shortest integer, longest integer, required boolean DEFAULT true)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string'
            AND pg_catalog.char_length(value #>> '{}') BETWEEN shortest AND longest
            THEN value #>> '{}'
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN before.refuse(event_id, field, pg_catalog.format('must be a string of %s to %s characters', shortest, longest))
        WHEN required THEN before.refuse(event_id, field, 'is required')
    END
$$;

CREATE FUNCTION before.amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) IN ('string', 'number') AND value #>> '{}' ~ '^-?[0-9]{1,18}(\.[0-9]{1,18})?$'
            THEN (value #>> '{}')::pg_catalog.numeric
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN before.refuse(event_id, field, 'must be a decimal with at most 18 digits before and 18 after the point')::pg_catalog.numeric
        WHEN required THEN before.refuse(event_id, field, 'is required')::pg_catalog.numeric
    END
$$;

CREATE FUNCTION before.unsigned_amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) IN ('string', 'number') AND value #>> '{}' ~ '^[0-9]{1,18}(\.[0-9]{1,18})?$'
            THEN (value #>> '{}')::pg_catalog.numeric
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN before.refuse(event_id, field, 'must be a decimal without sign, with at most 18 digits before and 18 after the point')::pg_catalog.numeric
        WHEN required THEN before.refuse(event_id, field, 'is required')::pg_catalog.numeric
    END
$$;
