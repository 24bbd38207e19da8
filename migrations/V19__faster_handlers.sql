-- The same rules, with less work for each event: fields are read and references are looked for natively.

-- A session that loaded the library before it was replaced does not find the new functions in it, and would
-- take that for a fault of the events: it ends here, and its ingester connects again.
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

SET LOCAL ROLE sluice_owner;

-- Each of these is one call now, which refuses in the same words as before.
CREATE OR REPLACE FUNCTION domain.id(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_id(value, event_id, field, required)
$$;

CREATE OR REPLACE FUNCTION domain.text(value jsonb, event_id text, field text, shortest integer, longest integer, required boolean DEFAULT true)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_text(value, event_id, field, shortest, longest, required)
$$;

CREATE OR REPLACE FUNCTION domain.currency(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_currency(value, event_id, field, required)
$$;

CREATE OR REPLACE FUNCTION domain.amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_amount(value, event_id, field, true, required)
$$;

CREATE OR REPLACE FUNCTION domain.unsigned_amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT sluice.read_amount(value, event_id, field, false, required)
$$;

-- Most times are plain ones.
CREATE OR REPLACE FUNCTION domain.instant(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    -- The pattern knows how long months are, February of leap years too: the cast cannot fail.
    SELECT coalesce(sluice.read_plain_instant(value), CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string'
            AND value #>> '{}' ~ '^([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|([0-9][0-9](0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9](\.[0-9]{1,9})?|60(\.0{1,9})?)([Zz]|[+-](0[0-9]|1[0-5]):[0-5][0-9])$'
            AND value #>> '{}' NOT LIKE '0000%'
            THEN (value #>> '{}')::timestamptz
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be an RFC 3339 time')::timestamptz
        WHEN required THEN domain.refuse(event_id, field, 'is required')::timestamptz
    END)
$$;

-- A field that no event named is not compared.
CREATE OR REPLACE FUNCTION domain.is_newer(candidate bytea, created bytea, changed bytea) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT candidate IS NOT NULL AND candidate > coalesce(greatest(created, changed), '\x')
$$;
COMMENT ON FUNCTION domain.is_newer(bytea, bytea, bytea) IS
'Whether candidate is later than the version of a field: that of the row''s creation or that of the field''s last change, whichever is later. Not when there is no candidate.';

-- ---------------------------------------------------------------------------
-- Placeholders. Mostly there is none to create. Every handler that awaits an id reads the same field
-- by domain.id in its own statement, which refuses what is none, and so undoes the whole call.
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

CREATE OR REPLACE FUNCTION domain.await_users(type text, events domain.event[], VARIADIC fields text[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO domain.users (user_id, referenced_by)
    SELECT a.id, type || ' ' || a.referrer
    FROM domain.absent('domain.users', events, VARIADIC fields) a
    ORDER BY a.id COLLATE "C"
    ON CONFLICT (user_id) DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION domain.await_skills(type text, events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO domain.skills (skill_id, referenced_by)
    SELECT a.id, type || ' ' || a.referrer
    FROM domain.absent('domain.skills', events, 'skillId') a
    ORDER BY a.id COLLATE "C"
    ON CONFLICT (skill_id) DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION domain.await_posts(type text, events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO domain.posts (post_id, referenced_by)
    SELECT a.id, type || ' ' || a.referrer
    FROM domain.absent('domain.posts', events, 'postId') a
    ORDER BY a.id COLLATE "C"
    ON CONFLICT (post_id) DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION domain.await_payments(type text, events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO domain.payments (transaction_id, referenced_by)
    SELECT a.id, type || ' ' || a.referrer
    FROM domain.absent('domain.payments', events, 'transactionId') a
    ORDER BY a.id COLLATE "C"
    ON CONFLICT (transaction_id) DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION domain.await_messages(type text, events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO domain.messages (message_id, referenced_by)
    SELECT a.id, type || ' ' || a.referrer
    FROM domain.absent('domain.messages', events, 'messageId') a
    ORDER BY a.id COLLATE "C"
    ON CONFLICT (message_id) DO NOTHING;
END
$$;

-- ---------------------------------------------------------------------------
-- user.updated, of which there are the most
-- ---------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION domain.on_user_updated(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- OFFSET 0 keeps the planner from taking a field out of its object wherever it is used.
    WITH given AS (
        SELECT e.event_id, e.version, e.user_id, domain.object(e.updates, e.event_id, 'updates') AS updates
        FROM (
            SELECT e.event_id, e.version, e.data -> 'userId' AS user_id, e.data -> 'updates' AS updates
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
        OFFSET 0
    ), fields AS (
        SELECT g.event_id, g.version, g.user_id,
            g.updates -> 'username' AS username, g.updates -> 'email' AS email, g.updates -> 'role' AS role,
            g.updates -> 'displayName' AS display_name, g.updates -> 'bio' AS bio, g.updates -> 'avatarUrl' AS avatar_url
        FROM given g OFFSET 0
    ), changes AS MATERIALIZED (
        SELECT f.event_id, f.version, domain.id(f.user_id, f.event_id, 'userId') COLLATE "C" AS user_id,
            f.username IS NOT NULL AS has_username,
            f.email IS NOT NULL AS has_email,
            f.role IS NOT NULL AS has_role,
            f.display_name IS NOT NULL AS has_display_name,
            f.bio IS NOT NULL AS has_bio,
            f.avatar_url IS NOT NULL AS has_avatar_url,
            CASE WHEN f.username IS NOT NULL THEN domain.text(f.username, f.event_id, 'updates.username', 1, 255) END AS username,
            CASE WHEN f.email IS NOT NULL THEN domain.text(f.email, f.event_id, 'updates.email', 1, 320) END AS email,
            CASE WHEN f.role IS NOT NULL THEN domain.text(f.role, f.event_id, 'updates.role', 1, 64) END AS role,
            domain.text(f.display_name, f.event_id, 'updates.displayName', 0, 255, required => false) AS display_name,
            domain.text(f.bio, f.event_id, 'updates.bio', 0, 10000, required => false) AS bio,
            domain.text(f.avatar_url, f.event_id, 'updates.avatarUrl', 1, 2048, required => false) AS avatar_url
        FROM fields f
    )
    INSERT INTO domain.users AS u (
        user_id, username, email, role, display_name, bio, avatar_url,
        username_version, email_version, role_version, display_name_version, bio_version, avatar_url_version, referenced_by)
    -- Aggregates meet their rows in the order of the subquery, so [1] is the newest.
    SELECT c.user_id,
        (pg_catalog.array_agg(c.username) FILTER (WHERE c.has_username))[1],
        (pg_catalog.array_agg(c.email) FILTER (WHERE c.has_email))[1],
        (pg_catalog.array_agg(c.role) FILTER (WHERE c.has_role))[1],
        (pg_catalog.array_agg(c.display_name) FILTER (WHERE c.has_display_name))[1],
        (pg_catalog.array_agg(c.bio) FILTER (WHERE c.has_bio))[1],
        (pg_catalog.array_agg(c.avatar_url) FILTER (WHERE c.has_avatar_url))[1],
        (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_username))[1],
        (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_email))[1],
        (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_role))[1],
        (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_display_name))[1],
        (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_bio))[1],
        (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_avatar_url))[1],
        'user.updated ' || pg_catalog.min(c.event_id)
    FROM (SELECT * FROM changes ORDER BY user_id, version DESC) c
    GROUP BY c.user_id
    ORDER BY c.user_id
    ON CONFLICT (user_id) DO UPDATE SET
        username = CASE WHEN domain.is_newer(excluded.username_version, u.created_version, u.username_version)
            THEN excluded.username ELSE u.username END,
        email = CASE WHEN domain.is_newer(excluded.email_version, u.created_version, u.email_version)
            THEN excluded.email ELSE u.email END,
        role = CASE WHEN domain.is_newer(excluded.role_version, u.created_version, u.role_version)
            THEN excluded.role ELSE u.role END,
        display_name = CASE WHEN domain.is_newer(excluded.display_name_version, u.created_version, u.display_name_version)
            THEN excluded.display_name ELSE u.display_name END,
        bio = CASE WHEN domain.is_newer(excluded.bio_version, u.created_version, u.bio_version)
            THEN excluded.bio ELSE u.bio END,
        avatar_url = CASE WHEN domain.is_newer(excluded.avatar_url_version, u.created_version, u.avatar_url_version)
            THEN excluded.avatar_url ELSE u.avatar_url END,
        username_version = CASE WHEN domain.is_newer(excluded.username_version, u.created_version, u.username_version)
            THEN excluded.username_version ELSE u.username_version END,
        email_version = CASE WHEN domain.is_newer(excluded.email_version, u.created_version, u.email_version)
            THEN excluded.email_version ELSE u.email_version END,
        role_version = CASE WHEN domain.is_newer(excluded.role_version, u.created_version, u.role_version)
            THEN excluded.role_version ELSE u.role_version END,
        display_name_version = CASE WHEN domain.is_newer(excluded.display_name_version, u.created_version, u.display_name_version)
            THEN excluded.display_name_version ELSE u.display_name_version END,
        bio_version = CASE WHEN domain.is_newer(excluded.bio_version, u.created_version, u.bio_version)
            THEN excluded.bio_version ELSE u.bio_version END,
        avatar_url_version = CASE WHEN domain.is_newer(excluded.avatar_url_version, u.created_version, u.avatar_url_version)
            THEN excluded.avatar_url_version ELSE u.avatar_url_version END
    WHERE u.deleted_at IS NULL;
END
$$;

RESET ROLE;
