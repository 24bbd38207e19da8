-- Of two events of one time the later record of a partition is the newer news: a version is 32 bytes now, with the offset
-- between time and identity. And fields of events are read as times as the envelope's timestamp is.

-- Handlers wait until the stored versions are new ones too. In the order in which handlers lock tables.
DO $$
DECLARE
    tables text := (
        SELECT pg_catalog.string_agg(c.oid::regclass::text, ', ' ORDER BY c.oid)
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'domain'::regnamespace AND c.relkind = 'r' AND EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = c.oid AND a.atttypid = 'bytea'::regtype AND a.attname ~ 'version$' AND NOT a.attisdropped));
BEGIN
    EXECUTE pg_catalog.format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', tables);
END
$$;

-- A session that loaded the library before it was replaced still makes versions of 24 bytes: it ends here, and its
-- ingester connects again.
DO $$
DECLARE
    old integer[] := ARRAY(
        SELECT a.pid FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
            AND (a.application_name LIKE 'sluice/%' OR NOT r.rolsuper AND (
                pg_catalog.pg_has_role(r.oid, 'sluice_writer', 'MEMBER') OR pg_catalog.pg_has_role(r.oid, 'sluice_admin', 'MEMBER'))));
BEGIN
    PERFORM pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.unnest(old) AS pid;
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    IF EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY (old)) THEN
        RAISE EXCEPTION 'an ingester''s session does not end: %', old
            USING HINT = 'End it, and run `sluice migrate` again.';
    END IF;
END
$$;

-- An event that was applied has its offset in its verdict. Where the verdict was pruned the offset becomes 0, so that
-- every later record of the same time is newer.
CREATE TABLE ledger.applied_identities AS
SELECT DISTINCT ON (1) pg_catalog.uuid_send(sluice.event_identity(v.source, v.event_id)) AS identity, v.kafka_offset
FROM ledger.verdicts v
WHERE v.verdict = 'APPLIED' AND v.event_id IS NOT NULL
ORDER BY 1, 2;
ALTER TABLE ledger.applied_identities ADD PRIMARY KEY (identity);
ANALYZE ledger.applied_identities;

CREATE FUNCTION ledger.with_offset(version bytea) RETURNS bytea
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN pg_catalog.octet_length(version) <> 24 THEN version ELSE
        pg_catalog.substr(version, 1, 8)
        || coalesce(
            (SELECT pg_catalog.int8send(i.kafka_offset) FROM ledger.applied_identities i WHERE i.identity = pg_catalog.substr(version, 9)),
            '\x0000000000000000')
        || pg_catalog.substr(version, 9)
    END
$$;

DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT c.oid::regclass AS relation,
            pg_catalog.string_agg(pg_catalog.format('%1$I = ledger.with_offset(%1$I)', a.attname), ', ') AS columns,
            pg_catalog.string_agg(pg_catalog.format('octet_length(%I) = 24', a.attname), ' OR ') AS old
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'domain'::regnamespace AND c.relkind = 'r'
            AND a.atttypid = 'bytea'::regtype AND a.attname ~ 'version$' AND NOT a.attisdropped
        GROUP BY c.oid ORDER BY c.oid
    LOOP
        EXECUTE pg_catalog.format('UPDATE %s SET %s WHERE %s', part.relation, part.columns, part.old);
    END LOOP;
END
$$;

DROP FUNCTION ledger.with_offset(bytea);
DROP TABLE ledger.applied_identities;

SET LOCAL ROLE sluice_owner;

COMMENT ON COLUMN domain.event.version IS '32 bytes in the order of events: event time in microseconds since 1970 (big-endian, sign bit flipped), then the Kafka offset (big-endian), then the identity.';

CREATE OR REPLACE FUNCTION domain.instant(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS timestamptz
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

RESET ROLE;
