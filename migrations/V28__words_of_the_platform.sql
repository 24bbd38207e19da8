-- The words of the platform are the platform's.
SET LOCAL ROLE sluice_owner;

-- In the order in which handlers lock them.
LOCK TABLE domain.posts, domain.stories, domain.videos, domain.subscriptions IN ACCESS EXCLUSIVE MODE;

-- ---------------------------------------------------------------------------
-- visibility and status are texts, like role, level and the type of a notification
-- ---------------------------------------------------------------------------

ALTER TABLE domain.posts DROP CONSTRAINT IF EXISTS posts_visibility_check;
ALTER TABLE domain.stories DROP CONSTRAINT IF EXISTS stories_visibility_check;
ALTER TABLE domain.videos DROP CONSTRAINT IF EXISTS videos_visibility_check;
ALTER TABLE domain.subscriptions DROP CONSTRAINT IF EXISTS subscriptions_status_check;

DROP INDEX IF EXISTS domain.subscriptions_about_to_expire;
CREATE INDEX subscriptions_about_to_expire ON domain.subscriptions (period_end) WHERE upper(status) = 'ACTIVE';

CREATE VIEW domain.active_subscriptions AS
SELECT subscription_id, user_id, tier_id, status, status_at, period_start, period_end, created_at
FROM domain.subscriptions
WHERE created_version IS NOT NULL AND upper(status) = 'ACTIVE';

COMMENT ON VIEW domain.active_subscriptions IS 'Subscriptions that were created and whose status is ACTIVE, in whatever case its sender writes it: status is compared without case.';
COMMENT ON VIEW domain.live_posts IS 'Posts that were created and not deleted, and whose author was not deleted. Who may see one: visibility, in the platform''s own words and case.';
COMMENT ON COLUMN domain.posts.visibility IS 'In the platform''s own words and case. Likewise in stories and videos.';
COMMENT ON COLUMN domain.stories.visibility IS 'NULL: the event did not say. Likewise in videos.';
COMMENT ON COLUMN domain.subscriptions.status IS 'In the platform''s own words and case, as subscription.created gave it; ACTIVE, CANCELED and EXPIRED where a renewal, a cancellation or an expiry wrote it. Compare it without case.';

CREATE OR REPLACE FUNCTION domain.on_content_post_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.post.created', events, 'authorId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time,
            domain.id(e.post_id, e.event_id, 'postId') COLLATE "C" AS post_id,
            domain.id(e.author_id, e.event_id, 'authorId') AS author_id,
            domain.text(e.content, e.event_id, 'content', 0, 100000) AS content,
            domain.texts(e.media_urls, e.event_id, 'mediaUrls') AS media_urls,
            domain.text(e.visibility, e.event_id, 'visibility', 1, 64) AS visibility
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'postId' AS post_id, e.data -> 'authorId' AS author_id, e.data -> 'content' AS content,
                e.data -> 'mediaUrls' AS media_urls, e.data -> 'visibility' AS visibility
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.posts AS p (post_id, author_id, content, media_urls, visibility, created_at, created_version)
    SELECT DISTINCT ON (g.post_id)
        g.post_id, g.author_id, g.content, g.media_urls, g.visibility, g.event_time, g.version
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
        created_at = excluded.created_at,
        created_version = excluded.created_version
    WHERE p.deleted_at IS NULL AND domain.is_newer(excluded.created_version, p.created_version, NULL);
END
$$;

CREATE OR REPLACE FUNCTION domain.on_content_post_updated(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version,
            domain.id(e.data -> 'postId', e.event_id, 'postId') COLLATE "C" AS post_id,
            domain.object(e.data -> 'updates', e.event_id, 'updates') AS updates
        FROM pg_catalog.unnest(events) AS e
    ), changes AS MATERIALIZED (
        SELECT g.post_id, g.event_id, g.version,
            g.updates ? 'content' AS has_content,
            g.updates ? 'mediaUrls' AS has_media_urls,
            g.updates ? 'visibility' AS has_visibility,
            CASE WHEN g.updates ? 'content' THEN domain.text(g.updates -> 'content', g.event_id, 'updates.content', 0, 100000) END AS content,
            -- As text, because arrays of arrays are matrices.
            CASE WHEN g.updates ? 'mediaUrls' THEN domain.texts(g.updates -> 'mediaUrls', g.event_id, 'updates.mediaUrls')::text END AS media_urls,
            CASE WHEN g.updates ? 'visibility' THEN
                domain.text(g.updates -> 'visibility', g.event_id, 'updates.visibility', 1, 64)
            END AS visibility
        FROM given g
    )
    INSERT INTO domain.posts AS p (
        post_id, content, media_urls, visibility, content_version, media_urls_version, visibility_version, referenced_by)
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
    ORDER BY c.post_id
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
            THEN excluded.visibility_version ELSE p.visibility_version END
    WHERE p.deleted_at IS NULL;
END
$$;

CREATE OR REPLACE FUNCTION domain.on_content_story_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.story.created', events, 'authorId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time,
            domain.id(e.story_id, e.event_id, 'storyId') COLLATE "C" AS story_id,
            domain.id(e.author_id, e.event_id, 'authorId') AS author_id,
            domain.text(e.media_url, e.event_id, 'mediaUrl', 1, 2048) AS media_url,
            domain.text(e.caption, e.event_id, 'caption', 0, 10000, required => false) AS caption,
            domain.text(e.visibility, e.event_id, 'visibility', 1, 64, required => false) AS visibility,
            domain.instant(e.expires_at, e.event_id, 'expiresAt', required => false) AS expires_at
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'storyId' AS story_id, e.data -> 'authorId' AS author_id, e.data -> 'mediaUrl' AS media_url,
                e.data -> 'caption' AS caption, e.data -> 'visibility' AS visibility, e.data -> 'expiresAt' AS expires_at
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.stories AS s (story_id, author_id, media_url, caption, visibility, created_at, expires_at, version)
    SELECT DISTINCT ON (g.story_id)
        g.story_id, g.author_id, g.media_url, g.caption, g.visibility, g.event_time, g.expires_at, g.version
    FROM given g
    ORDER BY g.story_id, g.version DESC
    ON CONFLICT (story_id) DO UPDATE SET
        author_id = excluded.author_id, media_url = excluded.media_url, caption = excluded.caption,
        visibility = excluded.visibility, created_at = excluded.created_at, expires_at = excluded.expires_at,
        version = excluded.version
    WHERE excluded.version > s.version;
END
$$;

CREATE OR REPLACE FUNCTION domain.on_content_video_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('content.video.created', events, 'authorId');
    WITH given AS MATERIALIZED (
        SELECT e.version, e.event_time,
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
                e.data -> 'durationSeconds' AS duration_seconds, e.data -> 'visibility' AS visibility
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    )
    INSERT INTO domain.videos AS v (
        video_id, author_id, title, description, video_url, thumbnail_url, duration_seconds, visibility, created_at, version)
    SELECT DISTINCT ON (g.video_id)
        g.video_id, g.author_id, g.title, g.description, g.video_url, g.thumbnail_url, g.duration_seconds, g.visibility,
        g.event_time, g.version
    FROM given g
    ORDER BY g.video_id, g.version DESC
    ON CONFLICT (video_id) DO UPDATE SET
        author_id = excluded.author_id, title = excluded.title, description = excluded.description,
        video_url = excluded.video_url, thumbnail_url = excluded.thumbnail_url, duration_seconds = excluded.duration_seconds,
        visibility = excluded.visibility, created_at = excluded.created_at, version = excluded.version
    WHERE excluded.version > v.version;
END
$$;

CREATE OR REPLACE FUNCTION domain.on_subscription_created(events domain.event[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM domain.await_users('subscription.created', events, 'userId');
    WITH given AS MATERIALIZED (
        SELECT e.event_id, e.version, e.event_time,
            domain.id(e.subscription_id, e.event_id, 'subscriptionId') COLLATE "C" AS subscription_id,
            domain.id(e.user_id, e.event_id, 'userId') AS user_id,
            domain.id(e.tier_id, e.event_id, 'tierId') AS tier_id,
            domain.text(e.status, e.event_id, 'status', 1, 64) AS status,
            domain.instant(e.period_start, e.event_id, 'periodStart', required => false) AS period_start,
            domain.instant(e.period_end, e.event_id, 'periodEnd', required => false) AS period_end
        FROM (
            SELECT e.event_id, e.version, e.event_time,
                e.data -> 'subscriptionId' AS subscription_id, e.data -> 'userId' AS user_id, e.data -> 'tierId' AS tier_id,
                e.data -> 'status' AS status, e.data -> 'periodStart' AS period_start, e.data -> 'periodEnd' AS period_end
            FROM pg_catalog.unnest(events) AS e OFFSET 0
        ) e
    ), checked AS MATERIALIZED (
        SELECT g.*, CASE WHEN g.period_end <= g.period_start
            THEN domain.refuse(g.event_id, 'periodEnd', 'must be later than periodStart') END AS refused
        FROM given g
    )
    INSERT INTO domain.subscriptions AS s (
        subscription_id, user_id, tier_id, status, status_at, period_start, period_end, created_at, created_version)
    SELECT DISTINCT ON (c.subscription_id)
        c.subscription_id, c.user_id, c.tier_id, c.status, c.event_time, c.period_start, c.period_end, c.event_time, c.version
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
        created_at = excluded.created_at,
        created_version = excluded.created_version
    WHERE domain.is_newer(excluded.created_version, s.created_version, NULL);
END
$$;

RESET ROLE;
