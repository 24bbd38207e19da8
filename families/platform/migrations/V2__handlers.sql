-- One handler per event type: domain.on_<type>(events), called as sluice_handler with
-- events of that one type in offset order. How they all work:
--
-- - Every event is read and checked before any is folded away (MATERIALIZED), so that whether
--   an event is refused depends on the event alone, never on its neighbours or on the tables.
-- - What an event refers to is created as a placeholder first; then the newest event of each
--   key is written, in key order, where it is newer than what is there.
-- - Tables are locked in the order in which they were created and rows in key order, so that two
--   batches cannot deadlock.
SET LOCAL ROLE sluice_owner;

-- ---------------------------------------------------------------------------
-- Placeholders. Mostly there is none to create. Every handler that awaits an id reads the same field by domain.id in its
-- own statement, which refuses what is none, and so undoes the whole call.
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.await_users(type text, events domain.event[], VARIADIC fields text[]) RETURNS void
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
COMMENT ON FUNCTION domain.await_users(text, domain.event[], text[]) IS 'Creates a placeholder for each user that one of the fields names and that is not there yet.';

CREATE FUNCTION domain.await_skills(type text, events domain.event[]) RETURNS void
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
COMMENT ON FUNCTION domain.await_skills(text, domain.event[]) IS 'Creates a placeholder for each skill that skillId names and that is not there yet.';

CREATE FUNCTION domain.await_posts(type text, events domain.event[]) RETURNS void
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
COMMENT ON FUNCTION domain.await_posts(text, domain.event[]) IS 'Creates a placeholder for each post that postId names and that is not there yet.';

CREATE FUNCTION domain.await_payments(type text, events domain.event[]) RETURNS void
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
COMMENT ON FUNCTION domain.await_payments(text, domain.event[]) IS 'Creates a placeholder for each payment that transactionId names and that is not there yet.';

CREATE FUNCTION domain.await_messages(type text, events domain.event[]) RETURNS void
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
COMMENT ON FUNCTION domain.await_messages(text, domain.event[]) IS 'Creates a placeholder for each message that messageId names and that is not there yet.';

-- ---------------------------------------------------------------------------
-- user.*
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.on_user_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.user_id, e.event_id, 'userId') COLLATE "C" AS user_id,
            domain.text(e.username, e.event_id, 'username', 1, 255) AS username,
            domain.text(e.email, e.event_id, 'email', 1, 320) AS email,
            domain.text(e.role, e.event_id, 'role', 1, 64) AS role,
            domain.text(e.display_name, e.event_id, 'displayName', 0, 255, required => false) AS display_name,
            domain.text(e.bio, e.event_id, 'bio', 0, 10000, required => false) AS bio,
            domain.text(e.avatar_url, e.event_id, 'avatarUrl', 1, 2048, required => false) AS avatar_url
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'userId' AS user_id, e.data -> 'username' AS username, e.data -> 'email' AS email,
                e.data -> 'role' AS role, e.data -> 'displayName' AS display_name, e.data -> 'bio' AS bio,
                e.data -> 'avatarUrl' AS avatar_url,
                domain.extra(e.data, '{userId,username,email,role,displayName,bio,avatarUrl}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.users AS u (user_id, username, email, role, display_name, bio, avatar_url, created_at, created_version, extra)
    SELECT DISTINCT ON (g.user_id)
        g.user_id, g.username, g.email, g.role, g.display_name, g.bio, g.avatar_url, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.user_id, g.version DESC
    ON CONFLICT (user_id) DO UPDATE SET
        username = CASE WHEN u.username_version > excluded.created_version THEN u.username ELSE excluded.username END,
        email = CASE WHEN u.email_version > excluded.created_version THEN u.email ELSE excluded.email END,
        role = CASE WHEN u.role_version > excluded.created_version THEN u.role ELSE excluded.role END,
        display_name = CASE WHEN u.display_name_version > excluded.created_version THEN u.display_name ELSE excluded.display_name END,
        bio = CASE WHEN u.bio_version > excluded.created_version THEN u.bio ELSE excluded.bio END,
        avatar_url = CASE WHEN u.avatar_url_version > excluded.created_version THEN u.avatar_url ELSE excluded.avatar_url END,
        -- A version of its own is kept only where it is later than the row's.
        username_version = CASE WHEN u.username_version > excluded.created_version THEN u.username_version END,
        email_version = CASE WHEN u.email_version > excluded.created_version THEN u.email_version END,
        role_version = CASE WHEN u.role_version > excluded.created_version THEN u.role_version END,
        display_name_version = CASE WHEN u.display_name_version > excluded.created_version THEN u.display_name_version END,
        bio_version = CASE WHEN u.bio_version > excluded.created_version THEN u.bio_version END,
        avatar_url_version = CASE WHEN u.avatar_url_version > excluded.created_version THEN u.avatar_url_version END,
        extra = CASE WHEN u.extra_version IS NULL THEN excluded.extra ELSE
            domain.with_kept_fields(excluded.extra, u.extra, u.extra_version, excluded.created_version) END,
        extra_version = CASE WHEN u.extra_version IS NOT NULL THEN
            domain.with_kept_fields(NULL, u.extra_version, u.extra_version, excluded.created_version) END,
        created_at = excluded.created_at,
        created_version = excluded.created_version
    WHERE u.deleted_at IS NULL AND domain.is_newer(excluded.created_version, u.created_version, NULL);
END
$$;
COMMENT ON FUNCTION domain.on_user_created(domain.event[]) IS 'user.created: A user was created.';

CREATE FUNCTION domain.on_user_updated(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- OFFSET 0 keeps the planner from taking a field out of its object wherever it is used.
    WITH given AS (
        SELECT e.event_id, e.version, e.user_id, e.beside, domain.object(e.updates, e.event_id, 'updates') AS updates
        FROM (
            SELECT e.event_id, e.version, e.data -> 'userId' AS user_id, e.data -> 'updates' AS updates,
                domain.extra(e.data, '{userId,updates}') AS beside
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
        OFFSET 0
    ), fields AS (
        SELECT g.event_id, g.version, g.user_id, g.beside,
            domain.extra(g.updates, '{username,email,role,displayName,bio,avatarUrl}') AS inside,
            g.updates -> 'username' AS username, g.updates -> 'email' AS email, g.updates -> 'role' AS role,
            g.updates -> 'displayName' AS display_name, g.updates -> 'bio' AS bio, g.updates -> 'avatarUrl' AS avatar_url
        FROM given g OFFSET 0
    ), changes AS MATERIALIZED (
        SELECT f.event_id, f.version, coalesce(f.beside || f.inside, f.beside, f.inside) AS extra,
            domain.id(f.user_id, f.event_id, 'userId') COLLATE "C" AS user_id,
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
    ), newest (
        user_id, username, email, role, display_name, bio, avatar_url, username_version, email_version, role_version,
        display_name_version, bio_version, avatar_url_version, referenced_by) AS (
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
    ), extras AS (
        -- Each field from the newest event that has it.
        SELECT c.user_id,
            pg_catalog.jsonb_object_agg(f.key, f.value ORDER BY c.version) AS extra,
            pg_catalog.jsonb_object_agg(f.key, pg_catalog.encode(c.version, 'hex') ORDER BY c.version) AS extra_version
        FROM changes c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.extra) AS f
        WHERE c.extra IS NOT NULL
        GROUP BY c.user_id
    )
    INSERT INTO domain.users AS u (
        user_id, username, email, role, display_name, bio, avatar_url, username_version, email_version, role_version,
        display_name_version, bio_version, avatar_url_version, referenced_by, extra, extra_version)
    SELECT n.*, x.extra, x.extra_version
    FROM newest n LEFT JOIN extras x USING (user_id)
    ORDER BY n.user_id
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
            THEN excluded.avatar_url_version ELSE u.avatar_url_version END,
        extra = CASE WHEN excluded.extra IS NULL THEN u.extra ELSE
            domain.with_later_fields(u.extra, excluded.extra, excluded.extra_version, u.created_version, u.extra_version) END,
        extra_version = CASE WHEN excluded.extra IS NULL THEN u.extra_version ELSE
            domain.with_later_fields(u.extra_version, excluded.extra_version, excluded.extra_version, u.created_version, u.extra_version) END
    WHERE u.deleted_at IS NULL;
END
$$;
COMMENT ON FUNCTION domain.on_user_updated(domain.event[]) IS 'user.updated: Fields of a user changed.';

CREATE FUNCTION domain.on_user_deleted(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO domain.users AS u (user_id, deleted_at)
    SELECT g.user_id, pg_catalog.min(g.event_time)
    FROM (
        SELECT domain.id(e.data -> 'userId', e.event_id, 'userId') COLLATE "C" AS user_id, e.event_time
        FROM pg_catalog.unnest(events) AS e
    ) g
    GROUP BY g.user_id
    ORDER BY g.user_id
    ON CONFLICT (user_id) DO UPDATE SET
        deleted_at = least(u.deleted_at, excluded.deleted_at),
        username = NULL, email = NULL, role = NULL, display_name = NULL, bio = NULL, avatar_url = NULL,
        created_at = NULL, created_version = NULL, extra = NULL, extra_version = NULL,
        username_version = NULL, email_version = NULL, role_version = NULL,
        display_name_version = NULL, bio_version = NULL, avatar_url_version = NULL
    WHERE u.deleted_at IS NULL OR excluded.deleted_at < u.deleted_at;
END
$$;
COMMENT ON FUNCTION domain.on_user_deleted(domain.event[]) IS 'user.deleted: A user was deleted.';

CREATE FUNCTION domain.write_follows(type text, events domain.event[], following boolean) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users(type, events, 'followerId', 'followeeId');
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version, e.event_time,
            domain.extra(e.data, '{followerId,followeeId}') AS extra,
            domain.id(e.data -> 'followerId', e.event_id, 'followerId') COLLATE "C" AS follower_id,
            domain.id(e.data -> 'followeeId', e.event_id, 'followeeId') COLLATE "C" AS followee_id
        FROM pg_catalog.unnest(events) AS e
    ), checked AS MATERIALIZED (
        SELECT g.version, g.event_time, g.extra, g.follower_id,
            CASE WHEN g.followee_id = g.follower_id
                THEN domain.refuse(g.event_id, 'followeeId', 'must be another user than followerId')
                ELSE g.followee_id
            END COLLATE "C" AS followee_id
        FROM given g
    )
    INSERT INTO domain.follows AS f (follower_id, followee_id, following, changed_at, version, extra)
    SELECT DISTINCT ON (c.follower_id, c.followee_id) c.follower_id, c.followee_id, write_follows.following, c.event_time, c.version, c.extra
    FROM checked c
    ORDER BY c.follower_id, c.followee_id, c.version DESC
    ON CONFLICT (follower_id, followee_id) DO UPDATE SET
        following = excluded.following, changed_at = excluded.changed_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > f.version;
END
$$;
COMMENT ON FUNCTION domain.write_follows(text, domain.event[], boolean) IS 'What user.followed and user.unfollowed have in common.';

CREATE FUNCTION domain.on_user_followed(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.write_follows('user.followed', events, true);
END
$$;
COMMENT ON FUNCTION domain.on_user_followed(domain.event[]) IS 'user.followed: A user began to follow another.';

CREATE FUNCTION domain.on_user_unfollowed(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.write_follows('user.unfollowed', events, false);
END
$$;
COMMENT ON FUNCTION domain.on_user_unfollowed(domain.event[]) IS 'user.unfollowed: A user ceased to follow another.';

CREATE FUNCTION domain.write_blocks(type text, events domain.event[], blocking boolean) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users(type, events, 'blockerId', 'blockedId');
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version, e.event_time,
            domain.extra(e.data, '{blockerId,blockedId}') AS extra,
            domain.id(e.data -> 'blockerId', e.event_id, 'blockerId') COLLATE "C" AS blocker_id,
            domain.id(e.data -> 'blockedId', e.event_id, 'blockedId') COLLATE "C" AS blocked_id
        FROM pg_catalog.unnest(events) AS e
    ), checked AS MATERIALIZED (
        SELECT g.version, g.event_time, g.extra, g.blocker_id,
            CASE WHEN g.blocked_id = g.blocker_id
                THEN domain.refuse(g.event_id, 'blockedId', 'must be another user than blockerId')
                ELSE g.blocked_id
            END COLLATE "C" AS blocked_id
        FROM given g
    )
    INSERT INTO domain.blocks AS b (blocker_id, blocked_id, blocking, changed_at, version, extra)
    SELECT DISTINCT ON (c.blocker_id, c.blocked_id) c.blocker_id, c.blocked_id, write_blocks.blocking, c.event_time, c.version, c.extra
    FROM checked c
    ORDER BY c.blocker_id, c.blocked_id, c.version DESC
    ON CONFLICT (blocker_id, blocked_id) DO UPDATE SET
        blocking = excluded.blocking, changed_at = excluded.changed_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > b.version;
END
$$;
COMMENT ON FUNCTION domain.write_blocks(text, domain.event[], boolean) IS 'What user.blocked and user.unblocked have in common.';

CREATE FUNCTION domain.on_user_blocked(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.write_blocks('user.blocked', events, true);
END
$$;
COMMENT ON FUNCTION domain.on_user_blocked(domain.event[]) IS 'user.blocked: A user blocked another.';

CREATE FUNCTION domain.on_user_unblocked(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.write_blocks('user.unblocked', events, false);
END
$$;
COMMENT ON FUNCTION domain.on_user_unblocked(domain.event[]) IS 'user.unblocked: A user unblocked another.';

-- ---------------------------------------------------------------------------
-- content.*
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.on_content_post_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.post.created', events, 'authorId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.post_id, e.event_id, 'postId') COLLATE "C" AS post_id,
            domain.id(e.author_id, e.event_id, 'authorId') AS author_id,
            domain.text(e.content, e.event_id, 'content', 0, 100000) AS content,
            domain.texts(e.media_urls, e.event_id, 'mediaUrls') AS media_urls,
            domain.text(e.visibility, e.event_id, 'visibility', 1, 64) AS visibility
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'postId' AS post_id, e.data -> 'authorId' AS author_id, e.data -> 'content' AS content,
                e.data -> 'mediaUrls' AS media_urls, e.data -> 'visibility' AS visibility,
                domain.extra(e.data, '{postId,authorId,content,mediaUrls,visibility}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.posts AS p (post_id, author_id, content, media_urls, visibility, created_at, created_version, extra)
    SELECT DISTINCT ON (g.post_id)
        g.post_id, g.author_id, g.content, g.media_urls, g.visibility, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.post_id, g.version DESC
    ON CONFLICT (post_id) DO UPDATE SET
        author_id = excluded.author_id,
        content = CASE WHEN p.content_version > excluded.created_version THEN p.content ELSE excluded.content END,
        media_urls = CASE WHEN p.media_urls_version > excluded.created_version THEN p.media_urls ELSE excluded.media_urls END,
        visibility = CASE WHEN p.visibility_version > excluded.created_version THEN p.visibility ELSE excluded.visibility END,
        content_version = CASE WHEN p.content_version > excluded.created_version THEN p.content_version END,
        media_urls_version = CASE WHEN p.media_urls_version > excluded.created_version THEN p.media_urls_version END,
        visibility_version = CASE WHEN p.visibility_version > excluded.created_version THEN p.visibility_version END,
        extra = CASE WHEN p.extra_version IS NULL THEN excluded.extra ELSE
            domain.with_kept_fields(excluded.extra, p.extra, p.extra_version, excluded.created_version) END,
        extra_version = CASE WHEN p.extra_version IS NOT NULL THEN
            domain.with_kept_fields(NULL, p.extra_version, p.extra_version, excluded.created_version) END,
        created_at = excluded.created_at,
        created_version = excluded.created_version
    WHERE p.deleted_at IS NULL AND domain.is_newer(excluded.created_version, p.created_version, NULL);
END
$$;
COMMENT ON FUNCTION domain.on_content_post_created(domain.event[]) IS 'content.post.created: A post was created.';

CREATE FUNCTION domain.on_content_post_updated(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version,
            domain.id(e.data -> 'postId', e.event_id, 'postId') COLLATE "C" AS post_id,
            domain.object(e.data -> 'updates', e.event_id, 'updates') AS updates,
            domain.extra(e.data, '{postId,updates}') AS beside
        FROM pg_catalog.unnest(events) AS e
    ), changes AS MATERIALIZED (
        SELECT g.post_id, g.event_id, g.version,
            coalesce(g.beside || i.inside, g.beside, i.inside) AS extra,
            g.updates ? 'content' AS has_content,
            g.updates ? 'mediaUrls' AS has_media_urls,
            g.updates ? 'visibility' AS has_visibility,
            CASE WHEN g.updates ? 'content' THEN domain.text(g.updates -> 'content', g.event_id, 'updates.content', 0, 100000) END AS content,
            -- As text, because arrays of arrays are matrices.
            CASE WHEN g.updates ? 'mediaUrls' THEN domain.texts(g.updates -> 'mediaUrls', g.event_id, 'updates.mediaUrls')::text END AS media_urls,
            CASE WHEN g.updates ? 'visibility' THEN
                domain.text(g.updates -> 'visibility', g.event_id, 'updates.visibility', 1, 64)
            END AS visibility
        FROM given g CROSS JOIN LATERAL (SELECT domain.extra(g.updates, '{content,mediaUrls,visibility}') AS inside OFFSET 0) i
    ), newest (
        post_id, content, media_urls, visibility, content_version, media_urls_version, visibility_version, referenced_by) AS (
        -- Aggregates meet their rows in the order of the subquery, so [1] is the newest.
        SELECT c.post_id,
            (pg_catalog.array_agg(c.content) FILTER (WHERE c.has_content))[1],
            (pg_catalog.array_agg(c.media_urls) FILTER (WHERE c.has_media_urls))[1]::text[],
            (pg_catalog.array_agg(c.visibility) FILTER (WHERE c.has_visibility))[1],
            (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_content))[1],
            (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_media_urls))[1],
            (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_visibility))[1],
            'content.post.updated ' || pg_catalog.min(c.event_id)
        FROM (SELECT * FROM changes ORDER BY post_id, version DESC) c
        GROUP BY c.post_id
    ), extras AS (
        -- Each field from the newest event that has it.
        SELECT c.post_id,
            pg_catalog.jsonb_object_agg(f.key, f.value ORDER BY c.version) AS extra,
            pg_catalog.jsonb_object_agg(f.key, pg_catalog.encode(c.version, 'hex') ORDER BY c.version) AS extra_version
        FROM changes c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.extra) AS f
        WHERE c.extra IS NOT NULL
        GROUP BY c.post_id
    )
    INSERT INTO domain.posts AS p (
        post_id, content, media_urls, visibility, content_version, media_urls_version, visibility_version, referenced_by,
        extra, extra_version)
    SELECT n.*, x.extra, x.extra_version
    FROM newest n LEFT JOIN extras x USING (post_id)
    ORDER BY n.post_id
    ON CONFLICT (post_id) DO UPDATE SET
        content = CASE WHEN domain.is_newer(excluded.content_version, p.created_version, p.content_version)
            THEN excluded.content ELSE p.content END,
        media_urls = CASE WHEN domain.is_newer(excluded.media_urls_version, p.created_version, p.media_urls_version)
            THEN excluded.media_urls ELSE p.media_urls END,
        visibility = CASE WHEN domain.is_newer(excluded.visibility_version, p.created_version, p.visibility_version)
            THEN excluded.visibility ELSE p.visibility END,
        content_version = CASE WHEN domain.is_newer(excluded.content_version, p.created_version, p.content_version)
            THEN excluded.content_version ELSE p.content_version END,
        media_urls_version = CASE WHEN domain.is_newer(excluded.media_urls_version, p.created_version, p.media_urls_version)
            THEN excluded.media_urls_version ELSE p.media_urls_version END,
        visibility_version = CASE WHEN domain.is_newer(excluded.visibility_version, p.created_version, p.visibility_version)
            THEN excluded.visibility_version ELSE p.visibility_version END,
        extra = CASE WHEN excluded.extra IS NULL THEN p.extra ELSE
            domain.with_later_fields(p.extra, excluded.extra, excluded.extra_version, p.created_version, p.extra_version) END,
        extra_version = CASE WHEN excluded.extra IS NULL THEN p.extra_version ELSE
            domain.with_later_fields(p.extra_version, excluded.extra_version, excluded.extra_version, p.created_version, p.extra_version) END
    WHERE p.deleted_at IS NULL;
END
$$;
COMMENT ON FUNCTION domain.on_content_post_updated(domain.event[]) IS 'content.post.updated: Fields of a post changed.';

CREATE FUNCTION domain.on_content_post_deleted(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO domain.posts AS p (post_id, deleted_at)
    SELECT g.post_id, pg_catalog.min(g.event_time)
    FROM (
        SELECT domain.id(e.data -> 'postId', e.event_id, 'postId') COLLATE "C" AS post_id, e.event_time
        FROM pg_catalog.unnest(events) AS e
    ) g
    GROUP BY g.post_id
    ORDER BY g.post_id
    ON CONFLICT (post_id) DO UPDATE SET
        deleted_at = least(p.deleted_at, excluded.deleted_at),
        author_id = NULL, content = NULL, media_urls = NULL, visibility = NULL,
        created_at = NULL, created_version = NULL, extra = NULL, extra_version = NULL,
        content_version = NULL, media_urls_version = NULL, visibility_version = NULL
    WHERE p.deleted_at IS NULL OR excluded.deleted_at < p.deleted_at;
END
$$;
COMMENT ON FUNCTION domain.on_content_post_deleted(domain.event[]) IS 'content.post.deleted: A post was deleted.';

CREATE FUNCTION domain.on_content_post_liked(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.post.liked', events, 'userId');
    PERFORM domain.await_posts('content.post.liked', events);
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time,
            domain.extra(e.data, '{postId,userId}') AS extra,
            domain.id(e.data -> 'postId', e.event_id, 'postId') COLLATE "C" AS post_id,
            domain.id(e.data -> 'userId', e.event_id, 'userId') COLLATE "C" AS user_id
        FROM pg_catalog.unnest(events) AS e
    )
    INSERT INTO domain.post_likes AS l (post_id, user_id, liked, changed_at, version, extra)
    SELECT DISTINCT ON (g.post_id, g.user_id) g.post_id, g.user_id, true, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.post_id, g.user_id, g.version DESC
    ON CONFLICT (post_id, user_id) DO UPDATE SET
        liked = excluded.liked, changed_at = excluded.changed_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > l.version;
END
$$;
COMMENT ON FUNCTION domain.on_content_post_liked(domain.event[]) IS 'content.post.liked: A user liked a post.';

CREATE FUNCTION domain.on_content_comment_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.comment.created', events, 'authorId');
    PERFORM domain.await_posts('content.comment.created', events);
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version, e.event_time, e.extra,
            domain.id(e.comment_id, e.event_id, 'commentId') COLLATE "C" AS comment_id,
            domain.id(e.post_id, e.event_id, 'postId') AS post_id,
            domain.id(e.author_id, e.event_id, 'authorId') AS author_id,
            domain.id(e.parent_comment_id, e.event_id, 'parentCommentId', required => false) COLLATE "C" AS parent_comment_id,
            domain.text(e.content, e.event_id, 'content', 0, 100000) AS content
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'commentId' AS comment_id, e.data -> 'postId' AS post_id, e.data -> 'authorId' AS author_id,
                e.data -> 'parentCommentId' AS parent_comment_id, e.data -> 'content' AS content,
                domain.extra(e.data, '{commentId,postId,authorId,content,parentCommentId}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    ), rows AS (
        SELECT g.comment_id, g.post_id, g.author_id, g.parent_comment_id, g.content, g.event_time, g.version, NULL AS referenced_by, g.extra
        FROM given g
        UNION ALL
        -- Placeholders of parents in the same statement as the comments: one table, one key order.
        SELECT g.parent_comment_id, NULL, NULL, NULL, NULL, NULL, NULL, 'content.comment.created ' || g.event_id, NULL
        FROM given g
        WHERE g.parent_comment_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM domain.comments p WHERE p.comment_id = g.parent_comment_id)
    )
    INSERT INTO domain.comments AS c (comment_id, post_id, author_id, parent_comment_id, content, created_at, version, referenced_by, extra)
    SELECT DISTINCT ON (r.comment_id)
        r.comment_id, r.post_id, r.author_id, r.parent_comment_id, r.content, r.event_time, r.version, r.referenced_by, r.extra
    FROM rows r
    ORDER BY r.comment_id, r.version DESC NULLS LAST
    ON CONFLICT (comment_id) DO UPDATE SET
        post_id = excluded.post_id, author_id = excluded.author_id, parent_comment_id = excluded.parent_comment_id,
        content = excluded.content, created_at = excluded.created_at, version = excluded.version, extra = excluded.extra
    WHERE domain.is_newer(excluded.version, c.version, NULL);
END
$$;
COMMENT ON FUNCTION domain.on_content_comment_created(domain.event[]) IS 'content.comment.created: A comment was created.';

CREATE FUNCTION domain.on_content_story_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.story.created', events, 'authorId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.story_id, e.event_id, 'storyId') COLLATE "C" AS story_id,
            domain.id(e.author_id, e.event_id, 'authorId') AS author_id,
            domain.text(e.media_url, e.event_id, 'mediaUrl', 1, 2048) AS media_url,
            domain.text(e.caption, e.event_id, 'caption', 0, 10000, required => false) AS caption,
            domain.text(e.visibility, e.event_id, 'visibility', 1, 64, required => false) AS visibility,
            domain.instant(e.expires_at, e.event_id, 'expiresAt', required => false) AS expires_at
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'storyId' AS story_id, e.data -> 'authorId' AS author_id, e.data -> 'mediaUrl' AS media_url,
                e.data -> 'caption' AS caption, e.data -> 'visibility' AS visibility, e.data -> 'expiresAt' AS expires_at,
                domain.extra(e.data, '{storyId,authorId,mediaUrl,caption,visibility,expiresAt}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.stories AS s (story_id, author_id, media_url, caption, visibility, created_at, expires_at, version, extra)
    SELECT DISTINCT ON (g.story_id)
        g.story_id, g.author_id, g.media_url, g.caption, g.visibility, g.event_time, g.expires_at, g.version, g.extra
    FROM given g
    ORDER BY g.story_id, g.version DESC
    ON CONFLICT (story_id) DO UPDATE SET
        author_id = excluded.author_id, media_url = excluded.media_url, caption = excluded.caption,
        visibility = excluded.visibility, created_at = excluded.created_at, expires_at = excluded.expires_at,
        version = excluded.version, extra = excluded.extra
    WHERE excluded.version > s.version;
END
$$;
COMMENT ON FUNCTION domain.on_content_story_created(domain.event[]) IS 'content.story.created: A story was created.';

CREATE FUNCTION domain.on_content_video_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.video.created', events, 'authorId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.video_id, e.event_id, 'videoId') COLLATE "C" AS video_id,
            domain.id(e.author_id, e.event_id, 'authorId') AS author_id,
            domain.text(e.video_url, e.event_id, 'videoUrl', 1, 2048) AS video_url,
            domain.text(e.title, e.event_id, 'title', 0, 500, required => false) AS title,
            domain.text(e.description, e.event_id, 'description', 0, 100000, required => false) AS description,
            domain.text(e.thumbnail_url, e.event_id, 'thumbnailUrl', 1, 2048, required => false) AS thumbnail_url,
            domain.whole(e.duration_seconds, e.event_id, 'durationSeconds', 0, 2147483647, required => false) AS duration_seconds,
            domain.text(e.visibility, e.event_id, 'visibility', 1, 64, required => false) AS visibility
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'videoId' AS video_id, e.data -> 'authorId' AS author_id, e.data -> 'videoUrl' AS video_url,
                e.data -> 'title' AS title, e.data -> 'description' AS description, e.data -> 'thumbnailUrl' AS thumbnail_url,
                e.data -> 'durationSeconds' AS duration_seconds, e.data -> 'visibility' AS visibility,
                domain.extra(e.data, '{videoId,authorId,videoUrl,title,description,thumbnailUrl,durationSeconds,visibility}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.videos AS v (
        video_id, author_id, title, description, video_url, thumbnail_url, duration_seconds, visibility, created_at, version, extra)
    SELECT DISTINCT ON (g.video_id)
        g.video_id, g.author_id, g.title, g.description, g.video_url, g.thumbnail_url, g.duration_seconds, g.visibility,
        g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.video_id, g.version DESC
    ON CONFLICT (video_id) DO UPDATE SET
        author_id = excluded.author_id, title = excluded.title, description = excluded.description,
        video_url = excluded.video_url, thumbnail_url = excluded.thumbnail_url, duration_seconds = excluded.duration_seconds,
        visibility = excluded.visibility, created_at = excluded.created_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > v.version;
END
$$;
COMMENT ON FUNCTION domain.on_content_video_created(domain.event[]) IS 'content.video.created: A video was created.';

-- ---------------------------------------------------------------------------
-- payment.*, wallet.*, withdrawal.*
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.on_payment_completed(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('payment.completed', events, 'userId', 'recipientId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.transaction_id, e.event_id, 'transactionId') COLLATE "C" AS transaction_id,
            domain.id(e.user_id, e.event_id, 'userId') AS user_id,
            domain.unsigned_amount(e.amount, e.event_id, 'amount') AS amount,
            domain.choice(e.type, e.event_id, 'type', '{TIP,PURCHASE,SUBSCRIPTION}') AS type,
            domain.currency(e.currency, e.event_id, 'currency', required => false) AS currency,
            domain.id(e.recipient_id, e.event_id, 'recipientId', required => false) AS recipient_id,
            domain.id(e.reference_id, e.event_id, 'referenceId', required => false) AS reference_id
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'transactionId' AS transaction_id, e.data -> 'userId' AS user_id, e.data -> 'amount' AS amount,
                e.data -> 'type' AS type, e.data -> 'currency' AS currency, e.data -> 'recipientId' AS recipient_id,
                e.data -> 'referenceId' AS reference_id,
                domain.extra(e.data, '{transactionId,userId,amount,type,currency,recipientId,referenceId}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.payments AS p (
        transaction_id, user_id, recipient_id, reference_id, type, amount, currency, completed_at, version, extra)
    SELECT DISTINCT ON (g.transaction_id)
        g.transaction_id, g.user_id, g.recipient_id, g.reference_id, g.type, g.amount, g.currency, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.transaction_id, g.version DESC
    ON CONFLICT (transaction_id) DO UPDATE SET
        user_id = excluded.user_id, recipient_id = excluded.recipient_id, reference_id = excluded.reference_id,
        type = excluded.type, amount = excluded.amount, currency = excluded.currency,
        completed_at = excluded.completed_at, version = excluded.version, extra = excluded.extra
    WHERE domain.is_newer(excluded.version, p.version, NULL);
END
$$;
COMMENT ON FUNCTION domain.on_payment_completed(domain.event[]) IS 'payment.completed: A payment was completed.';

CREATE FUNCTION domain.on_payment_tip_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('payment.tip.created', events, 'fromUserId', 'toUserId');
    PERFORM domain.await_posts('payment.tip.created', events);
    PERFORM domain.await_payments('payment.tip.created', events);
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.tip_id, e.event_id, 'tipId') COLLATE "C" AS tip_id,
            domain.id(e.from_user_id, e.event_id, 'fromUserId') AS from_user_id,
            domain.id(e.to_user_id, e.event_id, 'toUserId') AS to_user_id,
            domain.unsigned_amount(e.amount, e.event_id, 'amount') AS amount,
            domain.currency(e.currency, e.event_id, 'currency', required => false) AS currency,
            domain.id(e.post_id, e.event_id, 'postId', required => false) AS post_id,
            domain.id(e.transaction_id, e.event_id, 'transactionId', required => false) AS transaction_id,
            domain.text(e.message, e.event_id, 'message', 0, 10000, required => false) AS message
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'tipId' AS tip_id, e.data -> 'fromUserId' AS from_user_id, e.data -> 'toUserId' AS to_user_id,
                e.data -> 'amount' AS amount, e.data -> 'currency' AS currency, e.data -> 'postId' AS post_id,
                e.data -> 'transactionId' AS transaction_id, e.data -> 'message' AS message,
                domain.extra(e.data, '{tipId,fromUserId,toUserId,amount,currency,postId,transactionId,message}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.tips AS t (
        tip_id, from_user_id, to_user_id, post_id, transaction_id, amount, currency, message, created_at, version, extra)
    SELECT DISTINCT ON (g.tip_id)
        g.tip_id, g.from_user_id, g.to_user_id, g.post_id, g.transaction_id, g.amount, g.currency, g.message, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.tip_id, g.version DESC
    ON CONFLICT (tip_id) DO UPDATE SET
        from_user_id = excluded.from_user_id, to_user_id = excluded.to_user_id, post_id = excluded.post_id,
        transaction_id = excluded.transaction_id, amount = excluded.amount, currency = excluded.currency,
        message = excluded.message, created_at = excluded.created_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > t.version;
END
$$;
COMMENT ON FUNCTION domain.on_payment_tip_created(domain.event[]) IS 'payment.tip.created: A user tipped another.';

CREATE FUNCTION domain.on_payment_refunded(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_payments('payment.refunded', events);
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.refund_id, e.event_id, 'refundId') COLLATE "C" AS refund_id,
            domain.id(e.transaction_id, e.event_id, 'transactionId') AS transaction_id,
            domain.unsigned_amount(e.amount, e.event_id, 'amount') AS amount,
            domain.currency(e.currency, e.event_id, 'currency', required => false) AS currency,
            domain.text(e.reason, e.event_id, 'reason', 0, 10000, required => false) AS reason
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'refundId' AS refund_id, e.data -> 'transactionId' AS transaction_id, e.data -> 'amount' AS amount,
                e.data -> 'currency' AS currency, e.data -> 'reason' AS reason,
                domain.extra(e.data, '{refundId,transactionId,amount,currency,reason}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.refunds AS r (refund_id, transaction_id, amount, currency, reason, refunded_at, version, extra)
    SELECT DISTINCT ON (g.refund_id)
        g.refund_id, g.transaction_id, g.amount, g.currency, g.reason, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.refund_id, g.version DESC
    ON CONFLICT (refund_id) DO UPDATE SET
        transaction_id = excluded.transaction_id, amount = excluded.amount, currency = excluded.currency,
        reason = excluded.reason, refunded_at = excluded.refunded_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > r.version;
END
$$;
COMMENT ON FUNCTION domain.on_payment_refunded(domain.event[]) IS 'payment.refunded: A payment was refunded, whole or in part.';

CREATE FUNCTION domain.on_wallet_updated(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('wallet.updated', events, 'userId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.user_id, e.event_id, 'userId') COLLATE "C" AS user_id,
            domain.currency(e.currency, e.event_id, 'currency') COLLATE "C" AS currency,
            domain.amount(e.available, e.event_id, 'available') AS available,
            coalesce(domain.amount(e.pending, e.event_id, 'pending', required => false), 0) AS pending
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'userId' AS user_id, e.data -> 'currency' AS currency,
                e.data -> 'available' AS available, e.data -> 'pending' AS pending,
                domain.extra(e.data, '{userId,currency,available,pending}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.wallets AS w (user_id, currency, available, pending, updated_at, version, extra)
    SELECT DISTINCT ON (g.user_id, g.currency) g.user_id, g.currency, g.available, g.pending, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.user_id, g.currency, g.version DESC
    ON CONFLICT (user_id, currency) DO UPDATE SET
        available = excluded.available, pending = excluded.pending,
        updated_at = excluded.updated_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > w.version;
END
$$;
COMMENT ON FUNCTION domain.on_wallet_updated(domain.event[]) IS 'wallet.updated: What a user has in one currency changed.';

CREATE FUNCTION domain.on_withdrawal_requested(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('withdrawal.requested', events, 'userId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.withdrawal_id, e.event_id, 'withdrawalId') COLLATE "C" AS withdrawal_id,
            domain.id(e.user_id, e.event_id, 'userId') AS user_id,
            domain.unsigned_amount(e.amount, e.event_id, 'amount') AS amount,
            domain.currency(e.currency, e.event_id, 'currency', required => false) AS currency,
            domain.text(e.destination, e.event_id, 'destination', 0, 1000, required => false) AS destination
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'withdrawalId' AS withdrawal_id, e.data -> 'userId' AS user_id, e.data -> 'amount' AS amount,
                e.data -> 'currency' AS currency, e.data -> 'destination' AS destination,
                domain.extra(e.data, '{withdrawalId,userId,amount,currency,destination}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.withdrawals AS w (withdrawal_id, user_id, amount, currency, destination, requested_at, version, extra)
    SELECT DISTINCT ON (g.withdrawal_id)
        g.withdrawal_id, g.user_id, g.amount, g.currency, g.destination, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.withdrawal_id, g.version DESC
    ON CONFLICT (withdrawal_id) DO UPDATE SET
        user_id = excluded.user_id, amount = excluded.amount, currency = excluded.currency,
        destination = excluded.destination, requested_at = excluded.requested_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > w.version;
END
$$;
COMMENT ON FUNCTION domain.on_withdrawal_requested(domain.event[]) IS 'withdrawal.requested: A user asked for money.';

-- ---------------------------------------------------------------------------
-- subscription.*
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.on_subscription_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('subscription.created', events, 'userId');
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version, e.event_time, e.extra,
            domain.id(e.subscription_id, e.event_id, 'subscriptionId') COLLATE "C" AS subscription_id,
            domain.id(e.user_id, e.event_id, 'userId') AS user_id,
            domain.id(e.tier_id, e.event_id, 'tierId') AS tier_id,
            domain.text(e.status, e.event_id, 'status', 1, 64) AS status,
            domain.instant(e.period_start, e.event_id, 'periodStart', required => false) AS period_start,
            domain.instant(e.period_end, e.event_id, 'periodEnd', required => false) AS period_end
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'subscriptionId' AS subscription_id, e.data -> 'userId' AS user_id, e.data -> 'tierId' AS tier_id,
                e.data -> 'status' AS status, e.data -> 'periodStart' AS period_start, e.data -> 'periodEnd' AS period_end,
                domain.extra(e.data, '{subscriptionId,userId,tierId,status,periodStart,periodEnd}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    ), checked AS MATERIALIZED (
        SELECT g.*, CASE WHEN g.period_end <= g.period_start
            THEN domain.refuse(g.event_id, 'periodEnd', 'must be later than periodStart') END AS refused
        FROM given g
    )
    INSERT INTO domain.subscriptions AS s (
        subscription_id, user_id, tier_id, status, status_at, period_start, period_end, created_at, created_version, extra)
    SELECT DISTINCT ON (c.subscription_id)
        c.subscription_id, c.user_id, c.tier_id, c.status, c.event_time, c.period_start, c.period_end, c.event_time, c.version, c.extra
    FROM checked c
    ORDER BY c.subscription_id, c.version DESC
    ON CONFLICT (subscription_id) DO UPDATE SET
        user_id = excluded.user_id,
        tier_id = excluded.tier_id,
        status = CASE WHEN s.status_version > excluded.created_version THEN s.status ELSE excluded.status END,
        status_reason = CASE WHEN s.status_version > excluded.created_version THEN s.status_reason END,
        status_at = CASE WHEN s.status_version > excluded.created_version THEN s.status_at ELSE excluded.status_at END,
        status_version = CASE WHEN s.status_version > excluded.created_version THEN s.status_version END,
        period_start = CASE WHEN s.period_version > excluded.created_version THEN s.period_start ELSE excluded.period_start END,
        period_end = CASE WHEN s.period_version > excluded.created_version THEN s.period_end ELSE excluded.period_end END,
        period_version = CASE WHEN s.period_version > excluded.created_version THEN s.period_version END,
        extra = CASE WHEN s.extra_version IS NULL THEN excluded.extra ELSE
            domain.with_kept_fields(excluded.extra, s.extra, s.extra_version, excluded.created_version) END,
        extra_version = CASE WHEN s.extra_version IS NOT NULL THEN
            domain.with_kept_fields(NULL, s.extra_version, s.extra_version, excluded.created_version) END,
        created_at = excluded.created_at,
        created_version = excluded.created_version
    WHERE domain.is_newer(excluded.created_version, s.created_version, NULL);
END
$$;
COMMENT ON FUNCTION domain.on_subscription_created(domain.event[]) IS 'subscription.created: A user subscribed.';

CREATE FUNCTION domain.on_subscription_renewed(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version, e.event_time,
            domain.extra(e.data, '{subscriptionId,periodEnd,periodStart}') AS extra,
            domain.id(e.data -> 'subscriptionId', e.event_id, 'subscriptionId') COLLATE "C" AS subscription_id,
            domain.instant(e.data -> 'periodStart', e.event_id, 'periodStart', required => false) AS period_start,
            domain.instant(e.data -> 'periodEnd', e.event_id, 'periodEnd') AS period_end
        FROM pg_catalog.unnest(events) AS e
    ), checked AS MATERIALIZED (
        SELECT g.*, CASE WHEN g.period_end <= g.period_start
            THEN domain.refuse(g.event_id, 'periodEnd', 'must be later than periodStart') END AS refused
        FROM given g
    ), extras AS (
        -- Each field from the newest event that has it.
        SELECT c.subscription_id,
            pg_catalog.jsonb_object_agg(f.key, f.value ORDER BY c.version) AS extra,
            pg_catalog.jsonb_object_agg(f.key, pg_catalog.encode(c.version, 'hex') ORDER BY c.version) AS extra_version
        FROM checked c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.extra) AS f
        WHERE c.extra IS NOT NULL
        GROUP BY c.subscription_id
    )
    INSERT INTO domain.subscriptions AS s (
        subscription_id, status, status_at, status_version, period_start, period_end, period_version,
        extra, extra_version, referenced_by)
    SELECT DISTINCT ON (c.subscription_id)
        c.subscription_id, 'ACTIVE', c.event_time, c.version, c.period_start, c.period_end, c.version,
        x.extra, x.extra_version, 'subscription.renewed ' || c.event_id
    FROM checked c LEFT JOIN extras x USING (subscription_id)
    ORDER BY c.subscription_id, c.version DESC
    ON CONFLICT (subscription_id) DO UPDATE SET
        status = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version)
            THEN excluded.status ELSE s.status END,
        status_reason = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version)
            THEN excluded.status_reason ELSE s.status_reason END,
        status_at = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version)
            THEN excluded.status_at ELSE s.status_at END,
        status_version = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version)
            THEN excluded.status_version ELSE s.status_version END,
        period_start = CASE WHEN domain.is_newer(excluded.period_version, s.created_version, s.period_version)
            THEN excluded.period_start ELSE s.period_start END,
        period_end = CASE WHEN domain.is_newer(excluded.period_version, s.created_version, s.period_version)
            THEN excluded.period_end ELSE s.period_end END,
        period_version = CASE WHEN domain.is_newer(excluded.period_version, s.created_version, s.period_version)
            THEN excluded.period_version ELSE s.period_version END,
        extra = CASE WHEN excluded.extra IS NULL THEN s.extra ELSE
            domain.with_later_fields(s.extra, excluded.extra, excluded.extra_version, s.created_version, s.extra_version) END,
        extra_version = CASE WHEN excluded.extra IS NULL THEN s.extra_version ELSE
            domain.with_later_fields(s.extra_version, excluded.extra_version, excluded.extra_version, s.created_version, s.extra_version) END;
END
$$;
COMMENT ON FUNCTION domain.on_subscription_renewed(domain.event[]) IS 'subscription.renewed: A subscription was renewed.';

CREATE FUNCTION domain.end_subscriptions(type text, events domain.event[], status text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version, e.event_time,
            domain.extra(e.data, '{subscriptionId,reason}') AS extra,
            domain.id(e.data -> 'subscriptionId', e.event_id, 'subscriptionId') COLLATE "C" AS subscription_id,
            domain.text(e.data -> 'reason', e.event_id, 'reason', 0, 10000, required => false) AS reason
        FROM pg_catalog.unnest(events) AS e
    ), extras AS (
        -- Each field from the newest event that has it.
        SELECT c.subscription_id,
            pg_catalog.jsonb_object_agg(f.key, f.value ORDER BY c.version) AS extra,
            pg_catalog.jsonb_object_agg(f.key, pg_catalog.encode(c.version, 'hex') ORDER BY c.version) AS extra_version
        FROM given c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.extra) AS f
        WHERE c.extra IS NOT NULL
        GROUP BY c.subscription_id
    )
    INSERT INTO domain.subscriptions AS s (
        subscription_id, status, status_reason, status_at, status_version, extra, extra_version, referenced_by)
    SELECT DISTINCT ON (g.subscription_id)
        g.subscription_id, end_subscriptions.status, g.reason, g.event_time, g.version,
        x.extra, x.extra_version, type || ' ' || g.event_id
    FROM given g LEFT JOIN extras x USING (subscription_id)
    ORDER BY g.subscription_id, g.version DESC
    ON CONFLICT (subscription_id) DO UPDATE SET
        status = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version) THEN excluded.status ELSE s.status END,
        status_reason = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version)
            THEN excluded.status_reason ELSE s.status_reason END,
        status_at = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version)
            THEN excluded.status_at ELSE s.status_at END,
        status_version = CASE WHEN domain.is_newer(excluded.status_version, s.created_version, s.status_version)
            THEN excluded.status_version ELSE s.status_version END,
        extra = CASE WHEN excluded.extra IS NULL THEN s.extra ELSE
            domain.with_later_fields(s.extra, excluded.extra, excluded.extra_version, s.created_version, s.extra_version) END,
        extra_version = CASE WHEN excluded.extra IS NULL THEN s.extra_version ELSE
            domain.with_later_fields(s.extra_version, excluded.extra_version, excluded.extra_version, s.created_version, s.extra_version) END
    WHERE excluded.extra IS NOT NULL OR domain.is_newer(excluded.status_version, s.created_version, s.status_version);
END
$$;
COMMENT ON FUNCTION domain.end_subscriptions(text, domain.event[], text) IS 'What subscription.canceled and subscription.expired have in common.';

CREATE FUNCTION domain.on_subscription_canceled(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.end_subscriptions('subscription.canceled', events, 'CANCELED');
END
$$;
COMMENT ON FUNCTION domain.on_subscription_canceled(domain.event[]) IS 'subscription.canceled: A subscription was canceled.';

CREATE FUNCTION domain.on_subscription_expired(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.end_subscriptions('subscription.expired', events, 'EXPIRED');
END
$$;
COMMENT ON FUNCTION domain.on_subscription_expired(domain.event[]) IS 'subscription.expired: A subscription ran out.';

-- ---------------------------------------------------------------------------
-- skill.*
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.on_skill_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.skill_id, e.event_id, 'skillId') COLLATE "C" AS skill_id,
            domain.text(e.name, e.event_id, 'name', 1, 255) AS name,
            domain.text(e.category, e.event_id, 'category', 0, 255, required => false) AS category,
            domain.text(e.description, e.event_id, 'description', 0, 10000, required => false) AS description
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'skillId' AS skill_id, e.data -> 'name' AS name, e.data -> 'category' AS category,
                e.data -> 'description' AS description,
                domain.extra(e.data, '{skillId,name,category,description}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.skills AS s (skill_id, name, category, description, created_at, created_version, extra)
    SELECT DISTINCT ON (g.skill_id) g.skill_id, g.name, g.category, g.description, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.skill_id, g.version DESC
    ON CONFLICT (skill_id) DO UPDATE SET
        name = CASE WHEN s.name_version > excluded.created_version THEN s.name ELSE excluded.name END,
        category = CASE WHEN s.category_version > excluded.created_version THEN s.category ELSE excluded.category END,
        description = CASE WHEN s.description_version > excluded.created_version THEN s.description ELSE excluded.description END,
        name_version = CASE WHEN s.name_version > excluded.created_version THEN s.name_version END,
        category_version = CASE WHEN s.category_version > excluded.created_version THEN s.category_version END,
        description_version = CASE WHEN s.description_version > excluded.created_version THEN s.description_version END,
        extra = CASE WHEN s.extra_version IS NULL THEN excluded.extra ELSE
            domain.with_kept_fields(excluded.extra, s.extra, s.extra_version, excluded.created_version) END,
        extra_version = CASE WHEN s.extra_version IS NOT NULL THEN
            domain.with_kept_fields(NULL, s.extra_version, s.extra_version, excluded.created_version) END,
        created_at = excluded.created_at,
        created_version = excluded.created_version
    WHERE domain.is_newer(excluded.created_version, s.created_version, NULL);
END
$$;
COMMENT ON FUNCTION domain.on_skill_created(domain.event[]) IS 'skill.created: A skill was created.';

CREATE FUNCTION domain.on_skill_updated(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version,
            domain.id(e.data -> 'skillId', e.event_id, 'skillId') COLLATE "C" AS skill_id,
            domain.object(e.data -> 'updates', e.event_id, 'updates') AS updates,
            domain.extra(e.data, '{skillId,updates}') AS beside
        FROM pg_catalog.unnest(events) AS e
    ), changes AS MATERIALIZED (
        SELECT g.skill_id, g.event_id, g.version,
            coalesce(g.beside || i.inside, g.beside, i.inside) AS extra,
            g.updates ? 'name' AS has_name,
            g.updates ? 'category' AS has_category,
            g.updates ? 'description' AS has_description,
            CASE WHEN g.updates ? 'name' THEN domain.text(g.updates -> 'name', g.event_id, 'updates.name', 1, 255) END AS name,
            domain.text(g.updates -> 'category', g.event_id, 'updates.category', 0, 255, required => false) AS category,
            domain.text(g.updates -> 'description', g.event_id, 'updates.description', 0, 10000, required => false) AS description
        FROM given g CROSS JOIN LATERAL (SELECT domain.extra(g.updates, '{name,category,description}') AS inside OFFSET 0) i
    ), newest (
        skill_id, name, category, description, name_version, category_version, description_version, referenced_by) AS (
        -- Aggregates meet their rows in the order of the subquery, so [1] is the newest.
        SELECT c.skill_id,
            (pg_catalog.array_agg(c.name) FILTER (WHERE c.has_name))[1],
            (pg_catalog.array_agg(c.category) FILTER (WHERE c.has_category))[1],
            (pg_catalog.array_agg(c.description) FILTER (WHERE c.has_description))[1],
            (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_name))[1],
            (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_category))[1],
            (pg_catalog.array_agg(c.version) FILTER (WHERE c.has_description))[1],
            'skill.updated ' || pg_catalog.min(c.event_id)
        FROM (SELECT * FROM changes ORDER BY skill_id, version DESC) c
        GROUP BY c.skill_id
    ), extras AS (
        -- Each field from the newest event that has it.
        SELECT c.skill_id,
            pg_catalog.jsonb_object_agg(f.key, f.value ORDER BY c.version) AS extra,
            pg_catalog.jsonb_object_agg(f.key, pg_catalog.encode(c.version, 'hex') ORDER BY c.version) AS extra_version
        FROM changes c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.extra) AS f
        WHERE c.extra IS NOT NULL
        GROUP BY c.skill_id
    )
    INSERT INTO domain.skills AS s (
        skill_id, name, category, description, name_version, category_version, description_version, referenced_by, extra,
        extra_version)
    SELECT n.*, x.extra, x.extra_version
    FROM newest n LEFT JOIN extras x USING (skill_id)
    ORDER BY n.skill_id
    ON CONFLICT (skill_id) DO UPDATE SET
        name = CASE WHEN domain.is_newer(excluded.name_version, s.created_version, s.name_version)
            THEN excluded.name ELSE s.name END,
        category = CASE WHEN domain.is_newer(excluded.category_version, s.created_version, s.category_version)
            THEN excluded.category ELSE s.category END,
        description = CASE WHEN domain.is_newer(excluded.description_version, s.created_version, s.description_version)
            THEN excluded.description ELSE s.description END,
        name_version = CASE WHEN domain.is_newer(excluded.name_version, s.created_version, s.name_version)
            THEN excluded.name_version ELSE s.name_version END,
        category_version = CASE WHEN domain.is_newer(excluded.category_version, s.created_version, s.category_version)
            THEN excluded.category_version ELSE s.category_version END,
        description_version = CASE WHEN domain.is_newer(excluded.description_version, s.created_version, s.description_version)
            THEN excluded.description_version ELSE s.description_version END,
        extra = CASE WHEN excluded.extra IS NULL THEN s.extra ELSE
            domain.with_later_fields(s.extra, excluded.extra, excluded.extra_version, s.created_version, s.extra_version) END,
        extra_version = CASE WHEN excluded.extra IS NULL THEN s.extra_version ELSE
            domain.with_later_fields(s.extra_version, excluded.extra_version, excluded.extra_version, s.created_version, s.extra_version) END;
END
$$;
COMMENT ON FUNCTION domain.on_skill_updated(domain.event[]) IS 'skill.updated: Fields of a skill changed.';

CREATE FUNCTION domain.write_user_skills(type text, events domain.event[], held boolean) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users(type, events, 'userId');
    PERFORM domain.await_skills(type, events);
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time,
            domain.extra(e.data, CASE WHEN write_user_skills.held THEN '{userId,skillId,level}'::text[] ELSE '{userId,skillId}' END) AS extra,
            domain.id(e.data -> 'userId', e.event_id, 'userId') COLLATE "C" AS user_id,
            domain.id(e.data -> 'skillId', e.event_id, 'skillId') COLLATE "C" AS skill_id,
            CASE WHEN write_user_skills.held THEN
                domain.text(e.data -> 'level', e.event_id, 'level', 1, 64, required => false)
            END AS level
        FROM pg_catalog.unnest(events) AS e
    )
    INSERT INTO domain.user_skills AS s (user_id, skill_id, held, level, changed_at, version, extra)
    SELECT DISTINCT ON (g.user_id, g.skill_id) g.user_id, g.skill_id, write_user_skills.held, g.level, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.user_id, g.skill_id, g.version DESC
    ON CONFLICT (user_id, skill_id) DO UPDATE SET
        held = excluded.held, level = excluded.level, changed_at = excluded.changed_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > s.version;
END
$$;
COMMENT ON FUNCTION domain.write_user_skills(text, domain.event[], boolean) IS 'What skill.user.added and skill.user.removed have in common.';

CREATE FUNCTION domain.on_skill_user_added(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.write_user_skills('skill.user.added', events, true);
END
$$;
COMMENT ON FUNCTION domain.on_skill_user_added(domain.event[]) IS 'skill.user.added: A user has a skill.';

CREATE FUNCTION domain.on_skill_user_removed(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.write_user_skills('skill.user.removed', events, false);
END
$$;
COMMENT ON FUNCTION domain.on_skill_user_removed(domain.event[]) IS 'skill.user.removed: A user has a skill no more.';

-- ---------------------------------------------------------------------------
-- notification.*, message.*
-- ---------------------------------------------------------------------------

CREATE FUNCTION domain.on_notification_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('notification.created', events, 'userId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.notification_id, e.event_id, 'notificationId') COLLATE "C" AS notification_id,
            domain.id(e.user_id, e.event_id, 'userId') AS user_id,
            domain.text(e.type, e.event_id, 'type', 1, 64) AS type,
            domain.text(e.title, e.event_id, 'title', 0, 500, required => false) AS title,
            domain.text(e.body, e.event_id, 'body', 0, 10000, required => false) AS body,
            domain.object(e.data, e.event_id, 'data', required => false) AS data,
            domain.instant(e.read_at, e.event_id, 'readAt', required => false) AS read_at
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'notificationId' AS notification_id, e.data -> 'userId' AS user_id, e.data -> 'type' AS type,
                e.data -> 'title' AS title, e.data -> 'body' AS body, e.data -> 'data' AS data, e.data -> 'readAt' AS read_at,
                domain.extra(e.data, '{notificationId,userId,type,title,body,data,readAt}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.notifications AS n (notification_id, user_id, type, title, body, data, created_at, read_at, version, extra)
    SELECT DISTINCT ON (g.notification_id)
        g.notification_id, g.user_id, g.type, g.title, g.body, g.data, g.event_time, g.read_at, g.version, g.extra
    FROM given g
    ORDER BY g.notification_id, g.version DESC
    ON CONFLICT (notification_id) DO UPDATE SET
        user_id = excluded.user_id, type = excluded.type, title = excluded.title, body = excluded.body,
        data = excluded.data, created_at = excluded.created_at, read_at = excluded.read_at, version = excluded.version, extra = excluded.extra
    WHERE excluded.version > n.version;
END
$$;
COMMENT ON FUNCTION domain.on_notification_created(domain.event[]) IS 'notification.created: A user is told something.';

CREATE FUNCTION domain.on_message_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('message.created', events, 'senderId', 'recipientId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time, e.extra,
            domain.id(e.message_id, e.event_id, 'messageId') COLLATE "C" AS message_id,
            domain.id(e.conversation_id, e.event_id, 'conversationId') AS conversation_id,
            domain.id(e.sender_id, e.event_id, 'senderId') AS sender_id,
            domain.id(e.recipient_id, e.event_id, 'recipientId', required => false) AS recipient_id,
            domain.text(e.content, e.event_id, 'content', 0, 100000) AS content,
            domain.texts(e.media_urls, e.event_id, 'mediaUrls') AS media_urls
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'messageId' AS message_id, e.data -> 'conversationId' AS conversation_id,
                e.data -> 'senderId' AS sender_id, e.data -> 'recipientId' AS recipient_id,
                e.data -> 'content' AS content, e.data -> 'mediaUrls' AS media_urls,
                domain.extra(e.data, '{messageId,conversationId,senderId,content,recipientId,mediaUrls}') AS extra
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.messages AS m (message_id, conversation_id, sender_id, recipient_id, content, media_urls, created_at, version, extra)
    SELECT DISTINCT ON (g.message_id)
        g.message_id, g.conversation_id, g.sender_id, g.recipient_id, g.content, g.media_urls, g.event_time, g.version, g.extra
    FROM given g
    ORDER BY g.message_id, g.version DESC
    ON CONFLICT (message_id) DO UPDATE SET
        conversation_id = excluded.conversation_id, sender_id = excluded.sender_id, recipient_id = excluded.recipient_id,
        content = excluded.content, media_urls = excluded.media_urls, created_at = excluded.created_at, version = excluded.version, extra = excluded.extra
    WHERE domain.is_newer(excluded.version, m.version, NULL);
END
$$;
COMMENT ON FUNCTION domain.on_message_created(domain.event[]) IS 'message.created: A message was sent.';

CREATE FUNCTION domain.on_message_read(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('message.read', events, 'userId');
    PERFORM domain.await_messages('message.read', events);
    WITH given AS MATERIALIZED (
        SELECT e.version, domain.extra(e.data, '{messageId,userId,readAt}') AS extra,
            domain.id(e.data -> 'messageId', e.event_id, 'messageId') COLLATE "C" AS message_id,
            domain.id(e.data -> 'userId', e.event_id, 'userId') COLLATE "C" AS user_id,
            coalesce(domain.instant(e.data -> 'readAt', e.event_id, 'readAt', required => false), e.event_time) AS read_at
        FROM pg_catalog.unnest(events) AS e
    ), earliest AS (
        SELECT g.message_id, g.user_id, pg_catalog.min(g.read_at) AS read_at
        FROM given g
        GROUP BY g.message_id, g.user_id
    ), extras AS (
        -- Each field from the newest event that has it.
        SELECT c.message_id, c.user_id,
            pg_catalog.jsonb_object_agg(f.key, f.value ORDER BY c.version) AS extra,
            pg_catalog.jsonb_object_agg(f.key, pg_catalog.encode(c.version, 'hex') ORDER BY c.version) AS extra_version
        FROM given c CROSS JOIN LATERAL pg_catalog.jsonb_each(c.extra) AS f
        WHERE c.extra IS NOT NULL
        GROUP BY c.message_id, c.user_id
    )
    INSERT INTO domain.message_reads AS r (message_id, user_id, read_at, extra, extra_version)
    SELECT e.message_id, e.user_id, e.read_at, x.extra, x.extra_version
    FROM earliest e LEFT JOIN extras x USING (message_id, user_id)
    ORDER BY e.message_id, e.user_id
    ON CONFLICT (message_id, user_id) DO UPDATE SET
        read_at = least(r.read_at, excluded.read_at),
        extra = CASE WHEN excluded.extra IS NULL THEN r.extra ELSE
            domain.with_later_fields(r.extra, excluded.extra, excluded.extra_version, NULL, r.extra_version) END,
        extra_version = CASE WHEN excluded.extra IS NULL THEN r.extra_version ELSE
            domain.with_later_fields(r.extra_version, excluded.extra_version, excluded.extra_version, NULL, r.extra_version) END
    WHERE excluded.extra IS NOT NULL OR excluded.read_at < r.read_at;
END
$$;
COMMENT ON FUNCTION domain.on_message_read(domain.event[]) IS 'message.read: A user read a message.';

RESET ROLE;

-- The families of the platform.
SELECT sluice.register_handler(t.event_type, 'domain.on_' || replace(t.event_type, '.', '_'))
FROM unnest(ARRAY[
    'user.created', 'user.updated', 'user.deleted', 'user.followed', 'user.unfollowed', 'user.blocked', 'user.unblocked',
    'content.post.created', 'content.post.updated', 'content.post.deleted', 'content.post.liked',
    'content.comment.created', 'content.story.created', 'content.video.created',
    'payment.completed', 'payment.tip.created', 'payment.refunded', 'wallet.updated', 'withdrawal.requested',
    'subscription.created', 'subscription.renewed', 'subscription.canceled', 'subscription.expired',
    'skill.created', 'skill.updated', 'skill.user.added', 'skill.user.removed',
    'notification.created', 'message.created', 'message.read'
]) WITH ORDINALITY AS t (event_type, n) ORDER BY n;
