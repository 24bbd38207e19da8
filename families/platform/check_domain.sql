-- Whatever a row of domain refers to has a row, if only a placeholder. No foreign key says
-- so (docs/decisions/0002-convergence.md): handlers create what they refer to, and delete nothing.
SELECT r.referrer, r.id
FROM (
    SELECT 'posts.author_id' AS referrer, 'user' AS kind, author_id AS id FROM domain.posts
    UNION SELECT 'comments.author_id', 'user', author_id FROM domain.comments
    UNION SELECT 'comments.post_id', 'post', post_id FROM domain.comments
    UNION SELECT 'comments.parent_comment_id', 'comment', parent_comment_id FROM domain.comments
    UNION SELECT 'payments.user_id', 'user', user_id FROM domain.payments
    UNION SELECT 'payments.recipient_id', 'user', recipient_id FROM domain.payments
    UNION SELECT 'messages.sender_id', 'user', sender_id FROM domain.messages
    UNION SELECT 'messages.recipient_id', 'user', recipient_id FROM domain.messages
    UNION SELECT 'follows.follower_id', 'user', follower_id FROM domain.follows
    UNION SELECT 'follows.followee_id', 'user', followee_id FROM domain.follows
    UNION SELECT 'blocks.blocker_id', 'user', blocker_id FROM domain.blocks
    UNION SELECT 'blocks.blocked_id', 'user', blocked_id FROM domain.blocks
    UNION SELECT 'post_likes.user_id', 'user', user_id FROM domain.post_likes
    UNION SELECT 'post_likes.post_id', 'post', post_id FROM domain.post_likes
    UNION SELECT 'stories.author_id', 'user', author_id FROM domain.stories
    UNION SELECT 'videos.author_id', 'user', author_id FROM domain.videos
    UNION SELECT 'tips.from_user_id', 'user', from_user_id FROM domain.tips
    UNION SELECT 'tips.to_user_id', 'user', to_user_id FROM domain.tips
    UNION SELECT 'tips.post_id', 'post', post_id FROM domain.tips
    UNION SELECT 'tips.transaction_id', 'payment', transaction_id FROM domain.tips
    UNION SELECT 'refunds.transaction_id', 'payment', transaction_id FROM domain.refunds
    UNION SELECT 'wallets.user_id', 'user', user_id FROM domain.wallets
    UNION SELECT 'withdrawals.user_id', 'user', user_id FROM domain.withdrawals
    UNION SELECT 'subscriptions.user_id', 'user', user_id FROM domain.subscriptions
    UNION SELECT 'user_skills.user_id', 'user', user_id FROM domain.user_skills
    UNION SELECT 'user_skills.skill_id', 'skill', skill_id FROM domain.user_skills
    UNION SELECT 'notifications.user_id', 'user', user_id FROM domain.notifications
    UNION SELECT 'message_reads.user_id', 'user', user_id FROM domain.message_reads
    UNION SELECT 'message_reads.message_id', 'message', message_id FROM domain.message_reads
) r
LEFT JOIN (
    SELECT 'user' AS kind, user_id AS id FROM domain.users
    UNION ALL SELECT 'skill', skill_id FROM domain.skills
    UNION ALL SELECT 'post', post_id FROM domain.posts
    UNION ALL SELECT 'comment', comment_id FROM domain.comments
    UNION ALL SELECT 'payment', transaction_id FROM domain.payments
    UNION ALL SELECT 'message', message_id FROM domain.messages
) there USING (kind, id)
WHERE r.id IS NOT NULL AND there.id IS NULL;
