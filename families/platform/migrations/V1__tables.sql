-- What the domain events of the platform project into.
SET LOCAL ROLE sluice_owner;

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
    extra jsonb,
    extra_version jsonb,
    CONSTRAINT users_are_whole_once_created CHECK (
        created_version IS NULL OR (created_at IS NOT NULL AND username IS NOT NULL AND email IS NOT NULL AND role IS NOT NULL)),
    CONSTRAINT users_are_bare_once_deleted CHECK (
        deleted_at IS NULL
        OR (username, email, role, display_name, bio, avatar_url, created_at, created_version, username_version,
            email_version, role_version, display_name_version, bio_version, avatar_url_version) IS NULL),
    CONSTRAINT deleted_users_have_no_extra CHECK (deleted_at IS NULL OR (extra, extra_version) IS NULL)
) WITH (fillfactor = 85);
-- Not unique: which of two claims came first is known to the service that sends them. Here it
-- would be the order of arrival that decides.
CREATE INDEX users_by_username ON domain.users (username) WHERE username IS NOT NULL;
CREATE INDEX users_by_email ON domain.users (email) WHERE email IS NOT NULL;
CREATE INDEX users_awaited ON domain.users (seen_at) WHERE created_version IS NULL AND deleted_at IS NULL;
COMMENT ON TABLE domain.users IS 'One row per user that any event named. Placeholder: created_version and deleted_at are NULL. A deleted user keeps user_id and deleted_at and nothing else.';
COMMENT ON COLUMN domain.users.user_id IS 'The user.';
COMMENT ON COLUMN domain.users.username IS 'The name that the user chose.';
COMMENT ON COLUMN domain.users.email IS 'The user''s address.';
COMMENT ON COLUMN domain.users.role IS 'The role, in the platform''s own words.';
COMMENT ON COLUMN domain.users.display_name IS 'The name that others see.';
COMMENT ON COLUMN domain.users.bio IS 'What the user says of themselves.';
COMMENT ON COLUMN domain.users.avatar_url IS 'Address of the picture.';
COMMENT ON COLUMN domain.users.created_at IS 'When the user was created, by the event.';
COMMENT ON COLUMN domain.users.deleted_at IS 'Event time of the earliest deletion.';
COMMENT ON COLUMN domain.users.created_version IS 'Version of the user.created event that wrote the row; every field''s version unless its own is set, which is then later. Likewise in skills, posts and subscriptions.';
COMMENT ON COLUMN domain.users.username_version IS 'Version of username, where later than created_version.';
COMMENT ON COLUMN domain.users.email_version IS 'Version of email, where later than created_version.';
COMMENT ON COLUMN domain.users.role_version IS 'Version of role, where later than created_version.';
COMMENT ON COLUMN domain.users.display_name_version IS 'Version of display_name, where later than created_version.';
COMMENT ON COLUMN domain.users.bio_version IS 'Version of bio, where later than created_version.';
COMMENT ON COLUMN domain.users.avatar_url_version IS 'Version of avatar_url, where later than created_version.';
COMMENT ON COLUMN domain.users.referenced_by IS 'Bookkeeping: type and eventId of the event that first named this row, where that was not the one that creates it. Likewise in the other tables that have it.';
COMMENT ON COLUMN domain.users.seen_at IS 'Bookkeeping: database time of the transaction that first wrote this row. Likewise in the other tables that have it.';
COMMENT ON COLUMN domain.users.extra IS 'Fields of events that have no column here, by their names and as they were sent; NULL: none. Each keeps the value of the newest event that wrote it. Likewise in skills, posts, subscriptions and message_reads; in the other tables the newest event of the row writes all of them.';
COMMENT ON COLUMN domain.users.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than created_version. Likewise in skills, posts, subscriptions and message_reads.';

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
    extra jsonb,
    extra_version jsonb,
    CONSTRAINT skills_are_whole_once_created CHECK (created_version IS NULL OR (created_at IS NOT NULL AND name IS NOT NULL))
) WITH (fillfactor = 85);
CREATE INDEX skills_awaited ON domain.skills (seen_at) WHERE created_version IS NULL;
COMMENT ON TABLE domain.skills IS 'Skills that users can have. Placeholder: created_version is NULL.';
COMMENT ON COLUMN domain.skills.skill_id IS 'The skill.';
COMMENT ON COLUMN domain.skills.name IS 'Its name.';
COMMENT ON COLUMN domain.skills.category IS 'What it belongs to.';
COMMENT ON COLUMN domain.skills.description IS 'What it is.';
COMMENT ON COLUMN domain.skills.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.skills.created_version IS 'Version of the event that created the row; NULL in a placeholder.';
COMMENT ON COLUMN domain.skills.name_version IS 'Version of name, where later than created_version.';
COMMENT ON COLUMN domain.skills.category_version IS 'Version of category, where later than created_version.';
COMMENT ON COLUMN domain.skills.description_version IS 'Version of description, where later than created_version.';
COMMENT ON COLUMN domain.skills.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.skills.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.skills.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.skills.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

CREATE TABLE domain.posts (
    post_id text COLLATE "C" PRIMARY KEY,
    author_id text COLLATE "C",
    content text,
    media_urls text[],
    visibility text COLLATE "C",
    created_at timestamptz,
    deleted_at timestamptz,
    created_version bytea,
    content_version bytea,
    media_urls_version bytea,
    visibility_version bytea,
    referenced_by text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    extra jsonb,
    extra_version jsonb,
    CONSTRAINT posts_are_whole_once_created CHECK (
        created_version IS NULL
        OR (author_id IS NOT NULL AND created_at IS NOT NULL AND content IS NOT NULL AND media_urls IS NOT NULL AND visibility IS NOT NULL)),
    CONSTRAINT posts_are_bare_once_deleted CHECK (
        deleted_at IS NULL
        OR (author_id, content, media_urls, visibility, created_at, created_version,
            content_version, media_urls_version, visibility_version) IS NULL),
    CONSTRAINT deleted_posts_have_no_extra CHECK (deleted_at IS NULL OR (extra, extra_version) IS NULL)
) WITH (fillfactor = 85);
CREATE INDEX posts_by_author ON domain.posts (author_id, created_at DESC, post_id DESC) WHERE author_id IS NOT NULL;
CREATE INDEX posts_awaited ON domain.posts (seen_at) WHERE created_version IS NULL AND deleted_at IS NULL;
COMMENT ON TABLE domain.posts IS 'One row per post that any event named. Placeholder: created_version and deleted_at are NULL. A deleted post keeps post_id and deleted_at and nothing else.';
COMMENT ON COLUMN domain.posts.post_id IS 'The post.';
COMMENT ON COLUMN domain.posts.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.posts.content IS 'The text.';
COMMENT ON COLUMN domain.posts.media_urls IS 'Addresses of its pictures and videos.';
COMMENT ON COLUMN domain.posts.visibility IS 'In the platform''s own words and case. Likewise in stories and videos.';
COMMENT ON COLUMN domain.posts.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.posts.deleted_at IS 'Event time of the earliest deletion.';
COMMENT ON COLUMN domain.posts.created_version IS 'Version of the event that created the row; NULL in a placeholder.';
COMMENT ON COLUMN domain.posts.content_version IS 'Version of content, where later than created_version.';
COMMENT ON COLUMN domain.posts.media_urls_version IS 'Version of media_urls, where later than created_version.';
COMMENT ON COLUMN domain.posts.visibility_version IS 'Version of visibility, where later than created_version.';
COMMENT ON COLUMN domain.posts.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.posts.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.posts.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.posts.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

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
    extra jsonb,
    CONSTRAINT comments_are_whole_once_created CHECK (
        version IS NULL OR (post_id IS NOT NULL AND author_id IS NOT NULL AND content IS NOT NULL AND created_at IS NOT NULL))
);
CREATE INDEX comments_by_post ON domain.comments (post_id, created_at, comment_id) WHERE post_id IS NOT NULL;
CREATE INDEX comments_awaited ON domain.comments (seen_at) WHERE version IS NULL;
CREATE INDEX comments_by_author ON domain.comments (author_id) WHERE author_id IS NOT NULL;
CREATE INDEX comments_by_parent ON domain.comments (parent_comment_id) WHERE parent_comment_id IS NOT NULL;
COMMENT ON TABLE domain.comments IS 'Comments on posts, and replies to them. Placeholder: version is NULL.';
COMMENT ON COLUMN domain.comments.comment_id IS 'The comment.';
COMMENT ON COLUMN domain.comments.post_id IS 'The post.';
COMMENT ON COLUMN domain.comments.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.comments.parent_comment_id IS 'The comment that this one replies to; NULL: it is on the post itself.';
COMMENT ON COLUMN domain.comments.content IS 'The text.';
COMMENT ON COLUMN domain.comments.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.comments.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.comments.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.comments.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.comments.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

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
    extra jsonb,
    CONSTRAINT payments_are_whole_once_completed CHECK (
        version IS NULL OR (user_id IS NOT NULL AND type IS NOT NULL AND amount IS NOT NULL AND completed_at IS NOT NULL))
);
CREATE INDEX payments_by_user ON domain.payments (user_id, completed_at DESC, transaction_id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX payments_awaited ON domain.payments (seen_at) WHERE version IS NULL;
CREATE INDEX payments_by_recipient ON domain.payments (recipient_id) WHERE recipient_id IS NOT NULL;
CREATE INDEX payments_by_reference ON domain.payments (reference_id) WHERE reference_id IS NOT NULL;
COMMENT ON TABLE domain.payments IS 'Completed payments. Placeholder, named by a refund or a tip: version is NULL.';
COMMENT ON COLUMN domain.payments.transaction_id IS 'The payment.';
COMMENT ON COLUMN domain.payments.user_id IS 'The user who paid.';
COMMENT ON COLUMN domain.payments.recipient_id IS 'The user who was paid, if it was one.';
COMMENT ON COLUMN domain.payments.reference_id IS 'What was paid for: a subscription, an item; its kind follows from type.';
COMMENT ON COLUMN domain.payments.type IS 'What kind of payment it is: TIP, PURCHASE or SUBSCRIPTION.';
COMMENT ON COLUMN domain.payments.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.payments.currency IS 'NULL: the platform''s own currency. Likewise in tips, refunds and withdrawals.';
COMMENT ON COLUMN domain.payments.completed_at IS 'When it was completed, by the event.';
COMMENT ON COLUMN domain.payments.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.payments.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.payments.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.payments.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

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
    extra jsonb,
    CONSTRAINT messages_are_whole_once_created CHECK (
        version IS NULL
        OR (conversation_id IS NOT NULL AND sender_id IS NOT NULL AND content IS NOT NULL AND media_urls IS NOT NULL AND created_at IS NOT NULL))
);
CREATE INDEX messages_by_conversation ON domain.messages (conversation_id, created_at DESC, message_id DESC) WHERE conversation_id IS NOT NULL;
CREATE INDEX messages_awaited ON domain.messages (seen_at) WHERE version IS NULL;
CREATE INDEX messages_by_sender ON domain.messages (sender_id) WHERE sender_id IS NOT NULL;
CREATE INDEX messages_by_recipient ON domain.messages (recipient_id) WHERE recipient_id IS NOT NULL;
COMMENT ON TABLE domain.messages IS 'Messages of conversations. Placeholder, named by message.read: version is NULL.';
COMMENT ON COLUMN domain.messages.message_id IS 'The message.';
COMMENT ON COLUMN domain.messages.conversation_id IS 'The conversation.';
COMMENT ON COLUMN domain.messages.sender_id IS 'The user who sent it.';
COMMENT ON COLUMN domain.messages.recipient_id IS 'The other side of a conversation of two; NULL in a group.';
COMMENT ON COLUMN domain.messages.content IS 'The text.';
COMMENT ON COLUMN domain.messages.media_urls IS 'Addresses of its pictures and videos.';
COMMENT ON COLUMN domain.messages.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.messages.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.messages.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.messages.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.messages.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

-- ---------------------------------------------------------------------------
-- Rows of their own: nothing refers to them
-- ---------------------------------------------------------------------------

CREATE TABLE domain.follows (
    follower_id text COLLATE "C",
    followee_id text COLLATE "C",
    following boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb,
    PRIMARY KEY (follower_id, followee_id),
    CONSTRAINT nobody_follows_themselves CHECK (follower_id <> followee_id)
);
CREATE INDEX follows_by_followed ON domain.follows (followee_id, follower_id);
COMMENT ON TABLE domain.follows IS 'Who follows whom, and who did: following says which.';
COMMENT ON COLUMN domain.follows.follower_id IS 'The user who follows.';
COMMENT ON COLUMN domain.follows.followee_id IS 'The user who is followed.';
COMMENT ON COLUMN domain.follows.following IS 'Whether that is so, or was once.';
COMMENT ON COLUMN domain.follows.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.follows.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.follows.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.blocks (
    blocker_id text COLLATE "C",
    blocked_id text COLLATE "C",
    blocking boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb,
    PRIMARY KEY (blocker_id, blocked_id),
    CONSTRAINT nobody_blocks_themselves CHECK (blocker_id <> blocked_id)
);
CREATE INDEX blocks_by_blockee ON domain.blocks (blocked_id, blocker_id);
COMMENT ON TABLE domain.blocks IS 'Who blocks whom, and who did: blocking says which.';
COMMENT ON COLUMN domain.blocks.blocker_id IS 'The user who blocks.';
COMMENT ON COLUMN domain.blocks.blocked_id IS 'The user who is blocked.';
COMMENT ON COLUMN domain.blocks.blocking IS 'Whether that is so, or was once.';
COMMENT ON COLUMN domain.blocks.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.blocks.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.blocks.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.post_likes (
    post_id text COLLATE "C",
    user_id text COLLATE "C",
    liked boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb,
    PRIMARY KEY (post_id, user_id)
);
CREATE INDEX post_likes_by_liker ON domain.post_likes (user_id);
COMMENT ON TABLE domain.post_likes IS 'Who likes which post; liked is false once an event takes it back.';
COMMENT ON COLUMN domain.post_likes.post_id IS 'The post.';
COMMENT ON COLUMN domain.post_likes.user_id IS 'The user who likes the post.';
COMMENT ON COLUMN domain.post_likes.liked IS 'Whether that is so, or was once.';
COMMENT ON COLUMN domain.post_likes.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.post_likes.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.post_likes.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.stories (
    story_id text COLLATE "C" PRIMARY KEY,
    author_id text COLLATE "C" NOT NULL,
    media_url text NOT NULL,
    caption text,
    visibility text COLLATE "C",
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    version bytea NOT NULL,
    extra jsonb
);
CREATE INDEX stories_by_author ON domain.stories (author_id, created_at DESC, story_id DESC);
COMMENT ON TABLE domain.stories IS 'Stories of users.';
COMMENT ON COLUMN domain.stories.story_id IS 'The story.';
COMMENT ON COLUMN domain.stories.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.stories.media_url IS 'Address of its picture or video.';
COMMENT ON COLUMN domain.stories.caption IS 'The text beside it.';
COMMENT ON COLUMN domain.stories.visibility IS 'NULL: the event did not say. Likewise in videos.';
COMMENT ON COLUMN domain.stories.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.stories.expires_at IS 'NULL: never.';
COMMENT ON COLUMN domain.stories.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.stories.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.videos (
    video_id text COLLATE "C" PRIMARY KEY,
    author_id text COLLATE "C" NOT NULL,
    title text,
    description text,
    video_url text NOT NULL,
    thumbnail_url text,
    duration_seconds integer CHECK (duration_seconds >= 0),
    visibility text COLLATE "C",
    created_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb
);
CREATE INDEX videos_by_author ON domain.videos (author_id, created_at DESC, video_id DESC);
COMMENT ON TABLE domain.videos IS 'Videos of users.';
COMMENT ON COLUMN domain.videos.video_id IS 'The video.';
COMMENT ON COLUMN domain.videos.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.videos.title IS 'Its title.';
COMMENT ON COLUMN domain.videos.description IS 'What it shows.';
COMMENT ON COLUMN domain.videos.video_url IS 'Its address.';
COMMENT ON COLUMN domain.videos.thumbnail_url IS 'Address of its still.';
COMMENT ON COLUMN domain.videos.duration_seconds IS 'How long it is.';
COMMENT ON COLUMN domain.videos.visibility IS 'Who may see it, in the platform''s own words; NULL: the event did not say.';
COMMENT ON COLUMN domain.videos.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.videos.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.videos.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

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
    version bytea NOT NULL,
    extra jsonb
);
CREATE INDEX tips_by_recipient ON domain.tips (to_user_id, created_at DESC, tip_id DESC);
CREATE INDEX tips_by_giver ON domain.tips (from_user_id);
CREATE INDEX tips_by_post ON domain.tips (post_id) WHERE post_id IS NOT NULL;
CREATE INDEX tips_by_transaction ON domain.tips (transaction_id) WHERE transaction_id IS NOT NULL;
COMMENT ON TABLE domain.tips IS 'What one user gave another.';
COMMENT ON COLUMN domain.tips.tip_id IS 'The tip.';
COMMENT ON COLUMN domain.tips.from_user_id IS 'The user who gives.';
COMMENT ON COLUMN domain.tips.to_user_id IS 'The user who gets.';
COMMENT ON COLUMN domain.tips.post_id IS 'The post that it is for; NULL: none.';
COMMENT ON COLUMN domain.tips.transaction_id IS 'The payment behind it; NULL: none.';
COMMENT ON COLUMN domain.tips.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.tips.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.tips.message IS 'What the giver says.';
COMMENT ON COLUMN domain.tips.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.tips.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.tips.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.refunds (
    refund_id text COLLATE "C" PRIMARY KEY,
    transaction_id text COLLATE "C" NOT NULL,
    amount numeric(36, 18) NOT NULL CHECK (amount >= 0 AND amount <> 'NaN'),
    currency text COLLATE "C",
    reason text,
    refunded_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb
);
CREATE INDEX refunds_by_transaction ON domain.refunds (transaction_id);
COMMENT ON TABLE domain.refunds IS 'Refunds of payments, whole or in part: several may belong to one payment. See payment_states.';
COMMENT ON COLUMN domain.refunds.refund_id IS 'The refund.';
COMMENT ON COLUMN domain.refunds.transaction_id IS 'The payment that is refunded.';
COMMENT ON COLUMN domain.refunds.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.refunds.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.refunds.reason IS 'Why, in the words of its sender.';
COMMENT ON COLUMN domain.refunds.refunded_at IS 'When it was refunded, by the event.';
COMMENT ON COLUMN domain.refunds.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.refunds.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.wallets (
    user_id text COLLATE "C",
    currency text COLLATE "C",
    available numeric(36, 18) NOT NULL CHECK (available <> 'NaN'),
    pending numeric(36, 18) NOT NULL CHECK (pending <> 'NaN'),
    updated_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb,
    PRIMARY KEY (user_id, currency)
) WITH (fillfactor = 85);
COMMENT ON TABLE domain.wallets IS 'What each user has in each currency, as the wallet''s service last said.';
COMMENT ON COLUMN domain.wallets.user_id IS 'The user.';
COMMENT ON COLUMN domain.wallets.currency IS 'The currency.';
COMMENT ON COLUMN domain.wallets.available IS 'May be negative where the wallet''s service lets it, as after a refund of what was spent.';
COMMENT ON COLUMN domain.wallets.pending IS 'What has come in and cannot be spent yet.';
COMMENT ON COLUMN domain.wallets.updated_at IS 'When the wallet last changed, by the event.';
COMMENT ON COLUMN domain.wallets.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.wallets.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.withdrawals (
    withdrawal_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    amount numeric(36, 18) NOT NULL CHECK (amount >= 0 AND amount <> 'NaN'),
    currency text COLLATE "C",
    destination text,
    requested_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb
);
CREATE INDEX withdrawals_by_user ON domain.withdrawals (user_id, requested_at DESC, withdrawal_id DESC);
COMMENT ON TABLE domain.withdrawals IS 'Withdrawals that users asked for.';
COMMENT ON COLUMN domain.withdrawals.withdrawal_id IS 'The withdrawal.';
COMMENT ON COLUMN domain.withdrawals.user_id IS 'The user.';
COMMENT ON COLUMN domain.withdrawals.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.withdrawals.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.withdrawals.destination IS 'Where the money is to go.';
COMMENT ON COLUMN domain.withdrawals.requested_at IS 'When the user asked, by the event.';
COMMENT ON COLUMN domain.withdrawals.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.withdrawals.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.subscriptions (
    subscription_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C",
    tier_id text COLLATE "C",
    status text COLLATE "C",
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
    extra jsonb,
    extra_version jsonb,
    CONSTRAINT subscriptions_are_whole_once_created CHECK (
        created_version IS NULL OR (user_id IS NOT NULL AND tier_id IS NOT NULL AND status IS NOT NULL AND created_at IS NOT NULL)),
    CONSTRAINT periods_have_a_length CHECK (period_start < period_end)
) WITH (fillfactor = 85);
CREATE INDEX subscriptions_by_user ON domain.subscriptions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX subscriptions_about_to_expire ON domain.subscriptions (period_end) WHERE upper(status) = 'ACTIVE';
CREATE INDEX subscriptions_awaited ON domain.subscriptions (seen_at) WHERE created_version IS NULL;
CREATE INDEX subscriptions_by_tier ON domain.subscriptions (tier_id) WHERE tier_id IS NOT NULL;
COMMENT ON TABLE domain.subscriptions IS 'Subscriptions of users to tiers. Placeholder: created_version is NULL.';
COMMENT ON COLUMN domain.subscriptions.subscription_id IS 'The subscription.';
COMMENT ON COLUMN domain.subscriptions.user_id IS 'The user who subscribes.';
COMMENT ON COLUMN domain.subscriptions.tier_id IS 'What the user subscribes to.';
COMMENT ON COLUMN domain.subscriptions.status IS 'In the platform''s own words and case, as subscription.created gave it; ACTIVE, CANCELED and EXPIRED where a renewal, a cancellation or an expiry wrote it. Compare it without case.';
COMMENT ON COLUMN domain.subscriptions.status_reason IS 'Why it has this status, where the event said.';
COMMENT ON COLUMN domain.subscriptions.status_at IS 'Event time of the event that set the status.';
COMMENT ON COLUMN domain.subscriptions.period_start IS 'When the paid period began.';
COMMENT ON COLUMN domain.subscriptions.period_end IS 'When the paid period ends.';
COMMENT ON COLUMN domain.subscriptions.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.subscriptions.created_version IS 'Version of the event that created the row; NULL in a placeholder.';
COMMENT ON COLUMN domain.subscriptions.status_version IS 'Version of status, status_reason and status_at, where later than created_version.';
COMMENT ON COLUMN domain.subscriptions.period_version IS 'Version of period_start and period_end, where later than created_version.';
COMMENT ON COLUMN domain.subscriptions.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.subscriptions.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.subscriptions.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.subscriptions.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

CREATE TABLE domain.user_skills (
    user_id text COLLATE "C",
    skill_id text COLLATE "C",
    held boolean NOT NULL,
    level text,
    changed_at timestamptz NOT NULL,
    version bytea NOT NULL,
    extra jsonb,
    PRIMARY KEY (user_id, skill_id)
);
CREATE INDEX user_skills_by_any_skill ON domain.user_skills (skill_id, user_id);
COMMENT ON TABLE domain.user_skills IS 'Which user has which skill, or had: held says which.';
COMMENT ON COLUMN domain.user_skills.user_id IS 'The user.';
COMMENT ON COLUMN domain.user_skills.skill_id IS 'The skill.';
COMMENT ON COLUMN domain.user_skills.held IS 'Whether the user has it, or had it once.';
COMMENT ON COLUMN domain.user_skills.level IS 'How well, in the words of its sender.';
COMMENT ON COLUMN domain.user_skills.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.user_skills.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.user_skills.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.notifications (
    notification_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    title text,
    body text,
    data jsonb,
    created_at timestamptz NOT NULL,
    read_at timestamptz,
    version bytea NOT NULL,
    extra jsonb
);
-- Serves the list of all and, by read_at, the count of the unread without a look at the table.
CREATE INDEX notifications_by_user ON domain.notifications (user_id, created_at DESC, notification_id DESC) INCLUDE (read_at);
COMMENT ON TABLE domain.notifications IS 'What users were told.';
COMMENT ON COLUMN domain.notifications.notification_id IS 'The notification.';
COMMENT ON COLUMN domain.notifications.user_id IS 'The user who is told.';
COMMENT ON COLUMN domain.notifications.type IS 'What kind it is, in the words of its sender.';
COMMENT ON COLUMN domain.notifications.title IS 'Its title.';
COMMENT ON COLUMN domain.notifications.body IS 'Its text.';
COMMENT ON COLUMN domain.notifications.data IS 'What the application needs to show it.';
COMMENT ON COLUMN domain.notifications.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.notifications.read_at IS 'When the user read it; NULL: not yet.';
COMMENT ON COLUMN domain.notifications.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.notifications.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE TABLE domain.message_reads (
    message_id text COLLATE "C",
    user_id text COLLATE "C",
    read_at timestamptz NOT NULL,
    extra jsonb,
    extra_version jsonb,
    PRIMARY KEY (message_id, user_id)
);
CREATE INDEX message_reads_by_user ON domain.message_reads (user_id);
COMMENT ON TABLE domain.message_reads IS 'Who read which message, and when first.';
COMMENT ON COLUMN domain.message_reads.message_id IS 'The message.';
COMMENT ON COLUMN domain.message_reads.user_id IS 'The user who read it.';
COMMENT ON COLUMN domain.message_reads.read_at IS 'The earliest that any event said.';
COMMENT ON COLUMN domain.message_reads.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.message_reads.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

-- ---------------------------------------------------------------------------
-- For readers
-- ---------------------------------------------------------------------------

CREATE VIEW domain.live_users AS
SELECT user_id, username, email, role, display_name, bio, avatar_url, created_at, extra
FROM domain.users
WHERE created_version IS NOT NULL;
COMMENT ON VIEW domain.live_users IS 'Users that were created and not deleted.';
COMMENT ON COLUMN domain.live_users.user_id IS 'The user.';
COMMENT ON COLUMN domain.live_users.username IS 'The name that the user chose.';
COMMENT ON COLUMN domain.live_users.email IS 'The user''s address.';
COMMENT ON COLUMN domain.live_users.role IS 'The role, in the platform''s own words.';
COMMENT ON COLUMN domain.live_users.display_name IS 'The name that others see.';
COMMENT ON COLUMN domain.live_users.bio IS 'What the user says of themselves.';
COMMENT ON COLUMN domain.live_users.avatar_url IS 'Address of the picture.';
COMMENT ON COLUMN domain.live_users.created_at IS 'When the user was created, by the event.';
COMMENT ON COLUMN domain.live_users.extra IS 'Fields of events that have no column here, by their names and as they were sent; NULL: none. Each keeps the value of the newest event that wrote it. Likewise in skills, posts, subscriptions and message_reads; in the other tables the newest event of the row writes all of them.';

CREATE VIEW domain.live_posts AS
SELECT p.post_id, p.author_id, p.content, p.media_urls, p.visibility, p.created_at, p.extra
FROM domain.posts p
JOIN domain.users a ON a.user_id = p.author_id
WHERE p.created_version IS NOT NULL AND a.deleted_at IS NULL;
COMMENT ON VIEW domain.live_posts IS 'Posts that were created and not deleted, and whose author was not deleted. Who may see one: visibility, in the platform''s own words and case.';
COMMENT ON COLUMN domain.live_posts.post_id IS 'The post.';
COMMENT ON COLUMN domain.live_posts.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.live_posts.content IS 'The text.';
COMMENT ON COLUMN domain.live_posts.media_urls IS 'Addresses of its pictures and videos.';
COMMENT ON COLUMN domain.live_posts.visibility IS 'In the platform''s own words and case.';
COMMENT ON COLUMN domain.live_posts.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.live_posts.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE VIEW domain.payment_states AS
SELECT
    p.transaction_id, p.user_id, p.recipient_id, p.reference_id, p.type, p.amount, p.currency, p.completed_at,
    coalesce(r.amount, 0) AS refunded_amount,
    CASE
        WHEN r.amount IS NULL THEN 'COMPLETED'
        WHEN r.amount < p.amount THEN 'PARTIALLY_REFUNDED'
        ELSE 'REFUNDED'
    END AS status,
    p.extra
FROM domain.payments p
LEFT JOIN LATERAL (
    SELECT sum(f.amount) AS amount FROM domain.refunds f WHERE f.transaction_id = p.transaction_id
) r ON true
WHERE p.version IS NOT NULL;
COMMENT ON VIEW domain.payment_states IS 'Completed payments with what was refunded of each: COMPLETED, PARTIALLY_REFUNDED or REFUNDED.';
COMMENT ON COLUMN domain.payment_states.transaction_id IS 'The payment.';
COMMENT ON COLUMN domain.payment_states.user_id IS 'The user who paid.';
COMMENT ON COLUMN domain.payment_states.recipient_id IS 'The user who was paid, if it was one.';
COMMENT ON COLUMN domain.payment_states.reference_id IS 'What was paid for: a subscription, an item; its kind follows from type.';
COMMENT ON COLUMN domain.payment_states.type IS 'What kind of payment it is: TIP, PURCHASE or SUBSCRIPTION.';
COMMENT ON COLUMN domain.payment_states.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.payment_states.currency IS 'NULL: the platform''s own currency. Likewise in tips, refunds and withdrawals.';
COMMENT ON COLUMN domain.payment_states.completed_at IS 'When it was completed, by the event.';
COMMENT ON COLUMN domain.payment_states.refunded_amount IS 'What was refunded of it.';
COMMENT ON COLUMN domain.payment_states.status IS 'COMPLETED, PARTIALLY_REFUNDED or REFUNDED.';
COMMENT ON COLUMN domain.payment_states.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

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
COMMENT ON VIEW domain.dangling_references IS 'Rows that events named but none created or deleted yet, with the event that first did. Longer than you like: WHERE age > interval ''1 hour''.';
COMMENT ON COLUMN domain.dangling_references.kind IS 'What kind of row it is: user, skill, post and so on.';
COMMENT ON COLUMN domain.dangling_references.id IS 'Its id.';
COMMENT ON COLUMN domain.dangling_references.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.dangling_references.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.dangling_references.age IS 'How long ago it was first named.';

CREATE VIEW domain.active_subscriptions AS
SELECT subscription_id, user_id, tier_id, status, status_at, period_start, period_end, created_at, extra
FROM domain.subscriptions
WHERE created_version IS NOT NULL AND upper(status) = 'ACTIVE';
COMMENT ON VIEW domain.active_subscriptions IS 'Subscriptions that were created and whose status is ACTIVE, in whatever case its sender writes it: status is compared without case.';
COMMENT ON COLUMN domain.active_subscriptions.subscription_id IS 'The subscription.';
COMMENT ON COLUMN domain.active_subscriptions.user_id IS 'The user who subscribes.';
COMMENT ON COLUMN domain.active_subscriptions.tier_id IS 'What the user subscribes to.';
COMMENT ON COLUMN domain.active_subscriptions.status IS 'In the platform''s own words and case, as subscription.created gave it; ACTIVE, CANCELED and EXPIRED where a renewal, a cancellation or an expiry wrote it. Compare it without case.';
COMMENT ON COLUMN domain.active_subscriptions.status_at IS 'Event time of the event that set the status.';
COMMENT ON COLUMN domain.active_subscriptions.period_start IS 'When the paid period began.';
COMMENT ON COLUMN domain.active_subscriptions.period_end IS 'When the paid period ends.';
COMMENT ON COLUMN domain.active_subscriptions.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.active_subscriptions.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

-- What belongs together and commits apart, once all of it is there.
CREATE VIEW domain.whole_payments AS
SELECT p.transaction_id, p.user_id, p.recipient_id, p.reference_id, p.type, p.amount, p.currency, p.completed_at, p.extra
FROM domain.payments p
WHERE p.version IS NOT NULL
    AND CASE p.type
        WHEN 'TIP' THEN EXISTS (SELECT FROM domain.tips t WHERE t.transaction_id = p.transaction_id)
        WHEN 'SUBSCRIPTION' THEN p.reference_id IS NULL OR EXISTS (
            SELECT FROM domain.subscriptions s WHERE s.subscription_id = p.reference_id AND s.created_version IS NOT NULL)
        ELSE true
    END;
COMMENT ON VIEW domain.whole_payments IS 'Completed payments with what they paid for: of type TIP once a tip names the payment, of type SUBSCRIPTION once the subscription that the payment names was created.';
COMMENT ON COLUMN domain.whole_payments.transaction_id IS 'The payment.';
COMMENT ON COLUMN domain.whole_payments.user_id IS 'The user who paid.';
COMMENT ON COLUMN domain.whole_payments.recipient_id IS 'The user who was paid, if it was one.';
COMMENT ON COLUMN domain.whole_payments.reference_id IS 'What was paid for: a subscription, an item; its kind follows from type.';
COMMENT ON COLUMN domain.whole_payments.type IS 'What kind of payment it is: TIP, PURCHASE or SUBSCRIPTION.';
COMMENT ON COLUMN domain.whole_payments.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.whole_payments.currency IS 'NULL: the platform''s own currency. Likewise in tips, refunds and withdrawals.';
COMMENT ON COLUMN domain.whole_payments.completed_at IS 'When it was completed, by the event.';
COMMENT ON COLUMN domain.whole_payments.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

CREATE VIEW domain.whole_tips AS
SELECT t.tip_id, t.from_user_id, t.to_user_id, t.post_id, t.transaction_id, t.amount, t.currency, t.message, t.created_at, t.extra
FROM domain.tips t
WHERE t.transaction_id IS NULL
    OR EXISTS (SELECT FROM domain.payments p WHERE p.transaction_id = t.transaction_id AND p.version IS NOT NULL);
COMMENT ON VIEW domain.whole_tips IS 'Tips with what paid them: a tip that names a payment is here once that was completed.';
COMMENT ON COLUMN domain.whole_tips.tip_id IS 'The tip.';
COMMENT ON COLUMN domain.whole_tips.from_user_id IS 'The user who gives.';
COMMENT ON COLUMN domain.whole_tips.to_user_id IS 'The user who gets.';
COMMENT ON COLUMN domain.whole_tips.post_id IS 'The post that it is for; NULL: none.';
COMMENT ON COLUMN domain.whole_tips.transaction_id IS 'The payment behind it; NULL: none.';
COMMENT ON COLUMN domain.whole_tips.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.whole_tips.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.whole_tips.message IS 'What the giver says.';
COMMENT ON COLUMN domain.whole_tips.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.whole_tips.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

RESET ROLE;
