SET LOCAL ROLE sluice_owner;

-- Verdicts of domain events follow from no log, so all of them stand here.
ALTER TABLE ledger.verdict_exceptions RENAME TO verdicts;
ALTER TABLE ledger.verdicts
    DROP CONSTRAINT verdict_exceptions_verdict_check,
    DROP CONSTRAINT verdict_exceptions_check,
    ADD CHECK (verdict IN ('APPLIED', 'REJECTED', 'DUPLICATE', 'DEAD')),
    ADD CHECK ((verdict IN ('REJECTED', 'DEAD')) = (reason IS NOT NULL));
COMMENT ON TABLE ledger.verdicts IS 'Verdicts that do not follow from balance_log; read all of them through event_verdicts.';

ALTER TABLE ledger.dead_letters ADD record_time_ms bigint;
COMMENT ON COLUMN ledger.dead_letters.record_time_ms IS 'Kafka''s timestamp of the record, in milliseconds since 1970.';
CREATE INDEX dead_letters_parked_keys ON ledger.dead_letters (topic, partition, key) WHERE status = 'PARKED' AND key IS NOT NULL;

CREATE TABLE ledger.event_handlers (
    event_type text COLLATE "C" PRIMARY KEY,
    handler text NOT NULL,
    parks_key boolean NOT NULL,
    max_failures integer NOT NULL CHECK (max_failures >= 0),
    failure_window integer NOT NULL CHECK (failure_window >= 1),
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    registered_by text NOT NULL,
    paused_at timestamptz,
    pause_reason text,
    paused_version text,
    resumed_at timestamptz,
    CHECK ((paused_at IS NULL) = (pause_reason IS NULL))
);
COMMENT ON TABLE ledger.event_handlers IS 'Which function each type of domain events goes to; change it through sluice.register_handler and its like.';
COMMENT ON COLUMN ledger.event_handlers.paused_version IS 'Which version of the function was paused: a replaced one is not.';

GRANT SELECT ON ledger.event_handlers TO sluice_writer;

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
