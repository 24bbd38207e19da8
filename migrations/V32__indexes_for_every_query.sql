-- Indexes by reference serve every query of their reference, not only one that also asks for the flag.
SET LOCAL ROLE sluice_owner;

DO $$
DECLARE
    broken text;
BEGIN
    SELECT string_agg(i.indexrelid::pg_catalog.regclass::text, ', ') INTO broken
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = 'domain'::pg_catalog.regnamespace AND NOT i.indisvalid;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'index % is not valid: no query uses it', broken
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'CREATE INDEX CONCURRENTLY left it behind when it failed: DROP INDEX CONCURRENTLY, make it again where you want it made beforehand, and migrate again.';
    END IF;
END
$$;

CREATE INDEX IF NOT EXISTS post_likes_by_liker ON domain.post_likes (user_id);
CREATE INDEX IF NOT EXISTS follows_by_followed ON domain.follows (followee_id, follower_id);
CREATE INDEX IF NOT EXISTS blocks_by_blockee ON domain.blocks (blocked_id, blocker_id);
CREATE INDEX IF NOT EXISTS user_skills_by_any_skill ON domain.user_skills (skill_id, user_id);
DROP INDEX domain.post_likes_by_user, domain.follows_by_followee, domain.blocks_by_blocked, domain.user_skills_by_skill;

RESET ROLE;
