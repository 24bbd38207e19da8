-- What the domain events project into, and what their handlers are made of.
-- Every order in which events can arrive ends in the same rows:
-- docs/decisions/0002-convergence.md says by which rule.

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
-- PUBLIC's EXECUTE comes with the role, not with a schema, so there it is taken away.
ALTER DEFAULT PRIVILEGES FOR ROLE sluice_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

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
COMMENT ON COLUMN domain.event.event_time IS 'The envelope''s timestamp, or else the record''s. Never null.';
COMMENT ON COLUMN domain.event.version IS '24 bytes in the order of events: event time in microseconds since 1970 (big-endian, sign bit flipped), then the identity.';

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
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string'
            AND pg_catalog.octet_length(value #>> '{}') BETWEEN 1 AND 255
            THEN value #>> '{}'
        WHEN pg_catalog.jsonb_typeof(value) = 'number' AND value::text ~ '^-?[0-9]{1,254}$'
            THEN value::text
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be a string of 1 to 255 bytes or an integer')
        WHEN required THEN domain.refuse(event_id, field, 'is required')
    END
$$;
COMMENT ON FUNCTION domain.id(jsonb, text, text, boolean) IS
'An id: a JSON string of 1 to 255 bytes, or an integer, which is taken as its text, so that 42 and "42" are one id.';

CREATE FUNCTION domain.text(value jsonb, event_id text, field text, shortest integer, longest integer, required boolean DEFAULT true)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string'
            AND pg_catalog.char_length(value #>> '{}') BETWEEN shortest AND longest
            THEN value #>> '{}'
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, pg_catalog.format('must be a string of %s to %s characters', shortest, longest))
        WHEN required THEN domain.refuse(event_id, field, 'is required')
    END
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
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string' AND value #>> '{}' ~ '^[A-Z0-9]{2,16}$'
            THEN value #>> '{}'
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be 2 to 16 capital letters or digits')
        WHEN required THEN domain.refuse(event_id, field, 'is required')
    END
$$;
COMMENT ON FUNCTION domain.currency(jsonb, text, text, boolean) IS
'A currency code, as balance events have it.';

CREATE FUNCTION domain.amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) IN ('string', 'number') AND value #>> '{}' ~ '^-?[0-9]{1,18}(\.[0-9]{1,18})?$'
            THEN (value #>> '{}')::pg_catalog.numeric
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be a decimal with at most 18 digits before and 18 after the point')::pg_catalog.numeric
        WHEN required THEN domain.refuse(event_id, field, 'is required')::pg_catalog.numeric
    END
$$;
COMMENT ON FUNCTION domain.amount(jsonb, text, text, boolean) IS
'An amount that may be negative: a JSON string or number of the form -?[0-9]{1,18}(\.[0-9]{1,18})?. Numbers of jsonb are exact; no float anywhere.';

CREATE FUNCTION domain.unsigned_amount(value jsonb, event_id text, field text, required boolean DEFAULT true) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) IN ('string', 'number') AND value #>> '{}' ~ '^[0-9]{1,18}(\.[0-9]{1,18})?$'
            THEN (value #>> '{}')::pg_catalog.numeric
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be a decimal without sign, with at most 18 digits before and 18 after the point')::pg_catalog.numeric
        WHEN required THEN domain.refuse(event_id, field, 'is required')::pg_catalog.numeric
    END
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
    -- The pattern knows how long months are, February of leap years too: the cast cannot fail.
    SELECT CASE
        WHEN pg_catalog.jsonb_typeof(value) = 'string'
            AND value #>> '{}' ~ '^([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|([0-9][0-9](0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9](\.[0-9]{1,9})?|60(\.0{1,9})?)([Zz]|[+-](0[0-9]|1[0-5]):[0-5][0-9])$'
            AND value #>> '{}' NOT LIKE '0000%'
            THEN (value #>> '{}')::timestamptz
        WHEN pg_catalog.jsonb_typeof(value) <> 'null'
            THEN domain.refuse(event_id, field, 'must be an RFC 3339 time')::timestamptz
        WHEN required THEN domain.refuse(event_id, field, 'is required')::timestamptz
    END
$$;
COMMENT ON FUNCTION domain.instant(jsonb, text, text, boolean) IS
'An RFC 3339 time with a year from 1, at most 9 digits of a second and less than 16 hours from UTC; rounded to the microsecond. A leap second is the second after it.';

CREATE FUNCTION domain.is_newer(candidate bytea, created bytea, changed bytea) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT candidate > coalesce(greatest(created, changed), '\x')
$$;
COMMENT ON FUNCTION domain.is_newer(bytea, bytea, bytea) IS
'Whether candidate is later than the version of a field: that of the row''s creation or that of the field''s last change, whichever is later. NULL when there is no candidate.';

-- ---------------------------------------------------------------------------
-- Rows that others refer to. They exist from the first event that names them:
-- until the one that creates them has come (created_version or version is NULL)
-- they are placeholders. Handlers lock these tables in this order, each of them
-- in key order, and then the one table below that is their own.
-- ---------------------------------------------------------------------------

CREATE TABLE domain.users (
    user_id text COLLATE "C" PRIMARY KEY,
    username text COLLATE "C",
    email text COLLATE "C",
    role text COLLATE "C",
    display_name text,
    bio text,
    avatar_url text,
    created_at timestamptz,
    deleted_at timestamptz,
    created_version bytea,
    username_version bytea,
    email_version bytea,
    role_version bytea,
    display_name_version bytea,
    bio_version bytea,
    avatar_url_version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_are_whole_once_created CHECK (
        created_version IS NULL OR (created_at IS NOT NULL AND username IS NOT NULL AND email IS NOT NULL AND role IS NOT NULL)),
    CONSTRAINT users_are_bare_once_deleted CHECK (
        deleted_at IS NULL
        OR (username, email, role, display_name, bio, avatar_url, created_at, created_version, username_version,
            email_version, role_version, display_name_version, bio_version, avatar_url_version) IS NULL)
) WITH (fillfactor = 85);
-- Not unique: which of two claims came first is known to the service that sends them. Here it
-- would be the order of arrival that decides.
CREATE INDEX users_by_username ON domain.users (username) WHERE username IS NOT NULL;
CREATE INDEX users_by_email ON domain.users (email) WHERE email IS NOT NULL;
CREATE INDEX users_awaited ON domain.users (seen_at) WHERE created_version IS NULL AND deleted_at IS NULL;

CREATE TABLE domain.skills (
    skill_id text COLLATE "C" PRIMARY KEY,
    name text,
    category text COLLATE "C",
    description text,
    created_at timestamptz,
    created_version bytea,
    name_version bytea,
    category_version bytea,
    description_version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT skills_are_whole_once_created CHECK (created_version IS NULL OR (created_at IS NOT NULL AND name IS NOT NULL))
) WITH (fillfactor = 85);
CREATE INDEX skills_awaited ON domain.skills (seen_at) WHERE created_version IS NULL;

CREATE TABLE domain.posts (
    post_id text COLLATE "C" PRIMARY KEY,
    author_id text COLLATE "C",
    content text,
    media_urls text[],
    visibility text COLLATE "C" CHECK (visibility IN ('PUBLIC', 'FOLLOWERS', 'SUBSCRIBERS', 'PRIVATE')),
    created_at timestamptz,
    deleted_at timestamptz,
    created_version bytea,
    content_version bytea,
    media_urls_version bytea,
    visibility_version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT posts_are_whole_once_created CHECK (
        created_version IS NULL
        OR (author_id IS NOT NULL AND created_at IS NOT NULL AND content IS NOT NULL AND media_urls IS NOT NULL AND visibility IS NOT NULL)),
    CONSTRAINT posts_are_bare_once_deleted CHECK (
        deleted_at IS NULL
        OR (author_id, content, media_urls, visibility, created_at, created_version,
            content_version, media_urls_version, visibility_version) IS NULL)
) WITH (fillfactor = 85);
CREATE INDEX posts_by_author ON domain.posts (author_id, created_at DESC, post_id DESC) WHERE author_id IS NOT NULL;
CREATE INDEX posts_awaited ON domain.posts (seen_at) WHERE created_version IS NULL AND deleted_at IS NULL;

CREATE TABLE domain.comments (
    comment_id text COLLATE "C" PRIMARY KEY,
    post_id text COLLATE "C",
    author_id text COLLATE "C",
    parent_comment_id text COLLATE "C",
    content text,
    created_at timestamptz,
    version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT comments_are_whole_once_created CHECK (
        version IS NULL OR (post_id IS NOT NULL AND author_id IS NOT NULL AND content IS NOT NULL AND created_at IS NOT NULL))
);
CREATE INDEX comments_by_post ON domain.comments (post_id, created_at, comment_id) WHERE post_id IS NOT NULL;
CREATE INDEX comments_awaited ON domain.comments (seen_at) WHERE version IS NULL;

CREATE TABLE domain.payments (
    transaction_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C",
    recipient_id text COLLATE "C",
    reference_id text COLLATE "C",
    type text COLLATE "C" CHECK (type IN ('TIP', 'PURCHASE', 'SUBSCRIPTION')),
    amount numeric(36, 18) CHECK (amount >= 0 AND amount <> 'NaN'),
    currency text COLLATE "C",
    completed_at timestamptz,
    version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payments_are_whole_once_completed CHECK (
        version IS NULL OR (user_id IS NOT NULL AND type IS NOT NULL AND amount IS NOT NULL AND completed_at IS NOT NULL))
);
CREATE INDEX payments_by_user ON domain.payments (user_id, completed_at DESC, transaction_id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX payments_awaited ON domain.payments (seen_at) WHERE version IS NULL;

CREATE TABLE domain.messages (
    message_id text COLLATE "C" PRIMARY KEY,
    conversation_id text COLLATE "C",
    sender_id text COLLATE "C",
    recipient_id text COLLATE "C",
    content text,
    media_urls text[],
    created_at timestamptz,
    version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT messages_are_whole_once_created CHECK (
        version IS NULL
        OR (conversation_id IS NOT NULL AND sender_id IS NOT NULL AND content IS NOT NULL AND media_urls IS NOT NULL AND created_at IS NOT NULL))
);
CREATE INDEX messages_by_conversation ON domain.messages (conversation_id, created_at DESC, message_id DESC) WHERE conversation_id IS NOT NULL;
CREATE INDEX messages_awaited ON domain.messages (seen_at) WHERE version IS NULL;

-- ---------------------------------------------------------------------------
-- Rows of their own: nothing refers to them
-- ---------------------------------------------------------------------------

CREATE TABLE domain.follows (
    follower_id text COLLATE "C",
    followee_id text COLLATE "C",
    following boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    PRIMARY KEY (follower_id, followee_id),
    CONSTRAINT nobody_follows_themselves CHECK (follower_id <> followee_id)
);
CREATE INDEX follows_by_followee ON domain.follows (followee_id, follower_id) WHERE following;

CREATE TABLE domain.blocks (
    blocker_id text COLLATE "C",
    blocked_id text COLLATE "C",
    blocking boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    PRIMARY KEY (blocker_id, blocked_id),
    CONSTRAINT nobody_blocks_themselves CHECK (blocker_id <> blocked_id)
);
CREATE INDEX blocks_by_blocked ON domain.blocks (blocked_id, blocker_id) WHERE blocking;

CREATE TABLE domain.post_likes (
    post_id text COLLATE "C",
    user_id text COLLATE "C",
    liked boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    PRIMARY KEY (post_id, user_id)
);

CREATE TABLE domain.stories (
    story_id text COLLATE "C" PRIMARY KEY,
    author_id text COLLATE "C" NOT NULL,
    media_url text NOT NULL,
    caption text,
    visibility text COLLATE "C" CHECK (visibility IN ('PUBLIC', 'FOLLOWERS', 'SUBSCRIBERS', 'PRIVATE')),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    version bytea NOT NULL
);
CREATE INDEX stories_by_author ON domain.stories (author_id, created_at DESC, story_id DESC);

CREATE TABLE domain.videos (
    video_id text COLLATE "C" PRIMARY KEY,
    author_id text COLLATE "C" NOT NULL,
    title text,
    description text,
    video_url text NOT NULL,
    thumbnail_url text,
    duration_seconds integer CHECK (duration_seconds >= 0),
    visibility text COLLATE "C" CHECK (visibility IN ('PUBLIC', 'FOLLOWERS', 'SUBSCRIBERS', 'PRIVATE')),
    created_at timestamptz NOT NULL,
    version bytea NOT NULL
);
CREATE INDEX videos_by_author ON domain.videos (author_id, created_at DESC, video_id DESC);

CREATE TABLE domain.tips (
    tip_id text COLLATE "C" PRIMARY KEY,
    from_user_id text COLLATE "C" NOT NULL,
    to_user_id text COLLATE "C" NOT NULL,
    post_id text COLLATE "C",
    transaction_id text COLLATE "C",
    amount numeric(36, 18) NOT NULL CHECK (amount >= 0 AND amount <> 'NaN'),
    currency text COLLATE "C",
    message text,
    created_at timestamptz NOT NULL,
    version bytea NOT NULL
);
CREATE INDEX tips_by_recipient ON domain.tips (to_user_id, created_at DESC, tip_id DESC);

CREATE TABLE domain.refunds (
    refund_id text COLLATE "C" PRIMARY KEY,
    transaction_id text COLLATE "C" NOT NULL,
    amount numeric(36, 18) NOT NULL CHECK (amount >= 0 AND amount <> 'NaN'),
    currency text COLLATE "C",
    reason text,
    refunded_at timestamptz NOT NULL,
    version bytea NOT NULL
);
CREATE INDEX refunds_by_transaction ON domain.refunds (transaction_id);

CREATE TABLE domain.wallets (
    user_id text COLLATE "C",
    currency text COLLATE "C",
    available numeric(36, 18) NOT NULL CHECK (available <> 'NaN'),
    pending numeric(36, 18) NOT NULL CHECK (pending <> 'NaN'),
    updated_at timestamptz NOT NULL,
    version bytea NOT NULL,
    PRIMARY KEY (user_id, currency)
) WITH (fillfactor = 85);

CREATE TABLE domain.withdrawals (
    withdrawal_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    amount numeric(36, 18) NOT NULL CHECK (amount >= 0 AND amount <> 'NaN'),
    currency text COLLATE "C",
    destination text,
    requested_at timestamptz NOT NULL,
    version bytea NOT NULL
);
CREATE INDEX withdrawals_by_user ON domain.withdrawals (user_id, requested_at DESC, withdrawal_id DESC);

CREATE TABLE domain.subscriptions (
    subscription_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C",
    tier_id text COLLATE "C",
    status text COLLATE "C" CHECK (status IN ('PENDING', 'TRIALING', 'ACTIVE', 'PAST_DUE', 'CANCELED', 'EXPIRED')),
    status_reason text,
    status_at timestamptz,
    period_start timestamptz,
    period_end timestamptz,
    created_at timestamptz,
    created_version bytea,
    status_version bytea,
    period_version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subscriptions_are_whole_once_created CHECK (
        created_version IS NULL OR (user_id IS NOT NULL AND tier_id IS NOT NULL AND status IS NOT NULL AND created_at IS NOT NULL)),
    CONSTRAINT periods_have_a_length CHECK (period_start < period_end)
) WITH (fillfactor = 85);
CREATE INDEX subscriptions_by_user ON domain.subscriptions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX subscriptions_about_to_expire ON domain.subscriptions (period_end) WHERE status = 'ACTIVE';
CREATE INDEX subscriptions_awaited ON domain.subscriptions (seen_at) WHERE created_version IS NULL;

CREATE TABLE domain.user_skills (
    user_id text COLLATE "C",
    skill_id text COLLATE "C",
    held boolean NOT NULL,
    level text,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    PRIMARY KEY (user_id, skill_id)
);
CREATE INDEX user_skills_by_skill ON domain.user_skills (skill_id, user_id) WHERE held;

CREATE TABLE domain.notifications (
    notification_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    title text,
    body text,
    data jsonb,
    created_at timestamptz NOT NULL,
    read_at timestamptz,
    version bytea NOT NULL
);
-- Serves the list of all and, by read_at, the count of the unread without a look at the table.
CREATE INDEX notifications_by_user ON domain.notifications (user_id, created_at DESC, notification_id DESC) INCLUDE (read_at);

CREATE TABLE domain.message_reads (
    message_id text COLLATE "C",
    user_id text COLLATE "C",
    read_at timestamptz NOT NULL,
    PRIMARY KEY (message_id, user_id)
);

-- ---------------------------------------------------------------------------
-- For readers
-- ---------------------------------------------------------------------------

CREATE VIEW domain.live_users AS
SELECT user_id, username, email, role, display_name, bio, avatar_url, created_at
FROM domain.users
WHERE created_version IS NOT NULL;

CREATE VIEW domain.live_posts AS
SELECT p.post_id, p.author_id, p.content, p.media_urls, p.visibility, p.created_at
FROM domain.posts p
JOIN domain.users a ON a.user_id = p.author_id
WHERE p.created_version IS NOT NULL AND a.deleted_at IS NULL;

CREATE VIEW domain.payment_states AS
SELECT
    p.transaction_id, p.user_id, p.recipient_id, p.reference_id, p.type, p.amount, p.currency, p.completed_at,
    coalesce(r.amount, 0) AS refunded_amount,
    CASE
        WHEN r.amount IS NULL THEN 'COMPLETED'
        WHEN r.amount < p.amount THEN 'PARTIALLY_REFUNDED'
        ELSE 'REFUNDED'
    END AS status
FROM domain.payments p
LEFT JOIN LATERAL (
    SELECT sum(f.amount) AS amount FROM domain.refunds f WHERE f.transaction_id = p.transaction_id
) r ON true
WHERE p.version IS NOT NULL;

CREATE VIEW domain.dangling_references AS
SELECT d.kind, d.id, d.referenced_by, d.seen_at, now() - d.seen_at AS age
FROM (
    SELECT 'user' AS kind, user_id AS id, referenced_by, seen_at
    FROM domain.users WHERE created_version IS NULL AND deleted_at IS NULL
    UNION ALL
    SELECT 'skill', skill_id, referenced_by, seen_at FROM domain.skills WHERE created_version IS NULL
    UNION ALL
    SELECT 'post', post_id, referenced_by, seen_at
    FROM domain.posts WHERE created_version IS NULL AND deleted_at IS NULL
    UNION ALL
    SELECT 'comment', comment_id, referenced_by, seen_at FROM domain.comments WHERE version IS NULL
    UNION ALL
    SELECT 'payment', transaction_id, referenced_by, seen_at FROM domain.payments WHERE version IS NULL
    UNION ALL
    SELECT 'message', message_id, referenced_by, seen_at FROM domain.messages WHERE version IS NULL
    UNION ALL
    SELECT 'subscription', subscription_id, referenced_by, seen_at
    FROM domain.subscriptions WHERE created_version IS NULL
) d;

COMMENT ON TABLE domain.users IS 'One row per user that any event named. Placeholder: created_version and deleted_at are NULL. A deleted user keeps user_id and deleted_at and nothing else.';
COMMENT ON TABLE domain.skills IS 'Skills that users can have. Placeholder: created_version is NULL.';
COMMENT ON TABLE domain.posts IS 'One row per post that any event named. Placeholder: created_version and deleted_at are NULL. A deleted post keeps post_id and deleted_at and nothing else.';
COMMENT ON TABLE domain.comments IS 'Comments on posts, and replies to them. Placeholder: version is NULL.';
COMMENT ON TABLE domain.payments IS 'Completed payments. Placeholder, named by a refund or a tip: version is NULL.';
COMMENT ON TABLE domain.messages IS 'Messages of conversations. Placeholder, named by message.read: version is NULL.';
COMMENT ON TABLE domain.follows IS 'Who follows whom, and who did: following says which.';
COMMENT ON TABLE domain.blocks IS 'Who blocks whom, and who did: blocking says which.';
COMMENT ON TABLE domain.post_likes IS 'Who likes which post; liked is false once an event takes it back.';
COMMENT ON TABLE domain.stories IS 'Stories of users.';
COMMENT ON TABLE domain.videos IS 'Videos of users.';
COMMENT ON TABLE domain.tips IS 'What one user gave another.';
COMMENT ON TABLE domain.refunds IS 'Refunds of payments, whole or in part: several may belong to one payment. See payment_states.';
COMMENT ON TABLE domain.wallets IS 'What each user has in each currency, as the wallet''s service last said.';
COMMENT ON TABLE domain.withdrawals IS 'Withdrawals that users asked for.';
COMMENT ON TABLE domain.subscriptions IS 'Subscriptions of users to tiers. Placeholder: created_version is NULL.';
COMMENT ON TABLE domain.user_skills IS 'Which user has which skill, or had: held says which.';
COMMENT ON TABLE domain.notifications IS 'What users were told.';
COMMENT ON TABLE domain.message_reads IS 'Who read which message, and when first.';

COMMENT ON COLUMN domain.users.created_version IS 'Version of the user.created event that wrote the row; every field''s version unless its own is set, which is then later. Likewise in skills, posts and subscriptions.';
COMMENT ON COLUMN domain.users.referenced_by IS 'Bookkeeping: type and eventId of the event that first named this row, where that was not the one that creates it. Likewise in the other tables that have it.';
COMMENT ON COLUMN domain.users.seen_at IS 'Bookkeeping: database time of the transaction that first wrote this row. Likewise in the other tables that have it.';
COMMENT ON COLUMN domain.users.deleted_at IS 'Event time of the earliest deletion.';
COMMENT ON COLUMN domain.posts.deleted_at IS 'Event time of the earliest deletion.';
COMMENT ON COLUMN domain.payments.currency IS 'NULL: the platform''s own currency. Likewise in tips, refunds and withdrawals.';
COMMENT ON COLUMN domain.payments.recipient_id IS 'The user who was paid, if it was one.';
COMMENT ON COLUMN domain.payments.reference_id IS 'What was paid for: a subscription, an item; its kind follows from type.';
COMMENT ON COLUMN domain.messages.recipient_id IS 'The other side of a conversation of two; NULL in a group.';
COMMENT ON COLUMN domain.stories.visibility IS 'NULL: the event did not say. Likewise in videos.';
COMMENT ON COLUMN domain.stories.expires_at IS 'NULL: never.';
COMMENT ON COLUMN domain.wallets.available IS 'May be negative where the wallet''s service lets it, as after a refund of what was spent.';
COMMENT ON COLUMN domain.subscriptions.status_at IS 'Event time of the event that set the status.';
COMMENT ON COLUMN domain.subscriptions.status_version IS 'Version of status, status_reason and status_at, where later than created_version.';
COMMENT ON COLUMN domain.subscriptions.period_version IS 'Version of period_start and period_end, where later than created_version.';
COMMENT ON COLUMN domain.message_reads.read_at IS 'The earliest that any event said.';

COMMENT ON VIEW domain.live_users IS 'Users that were created and not deleted.';
COMMENT ON VIEW domain.live_posts IS 'Posts that were created and not deleted, and whose author was not deleted. Who may see one: visibility.';
COMMENT ON VIEW domain.payment_states IS 'Completed payments with what was refunded of each: COMPLETED, PARTIALLY_REFUNDED or REFUNDED.';
COMMENT ON VIEW domain.dangling_references IS 'Rows that events named but none created or deleted yet, with the event that first did. Longer than you like: WHERE age > interval ''1 hour''.';

RESET ROLE;
