-- What became of each record: who owns its identity, its verdict, its dead letter; which handler it goes to; who is told.
SET LOCAL ROLE sluice_owner;

-- The first record to carry (source, eventId) owns it. identity and payload_hash are 128 bits of BLAKE3 each. In this
-- order, for no padding.
CREATE TABLE ledger.event_identities (
    identity uuid PRIMARY KEY,
    payload_hash uuid NOT NULL,
    kafka_offset bigint,
    partition_id integer
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_freeze_min_age = 0);
COMMENT ON TABLE ledger.event_identities IS 'Every event ever accepted or refused, by hash of (source, eventId), with the hash of its payload.';
COMMENT ON COLUMN ledger.event_identities.identity IS '128 bits of BLAKE3 of source and event id.';
COMMENT ON COLUMN ledger.event_identities.payload_hash IS '128 bits of BLAKE3 of the payload: a later event of the same identity with another payload is in conflict.';
COMMENT ON COLUMN ledger.event_identities.kafka_offset IS 'With partition_id: the record that owns the identity; NULL of what was claimed before this column was there.';
COMMENT ON COLUMN ledger.event_identities.partition_id IS 'See kafka_offset.';

-- Of one event only the owner is found by its identity. The others are few: duplicates and dead records by an index, and
-- those in conflict by a table, for a partial index of the log would ask each row whether it belongs there.
CREATE TABLE ledger.event_conflicts (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    identity uuid NOT NULL,
    PRIMARY KEY (partition_id, kafka_offset)
);
CREATE INDEX event_conflicts_by_identity ON ledger.event_conflicts (identity);
COMMENT ON TABLE ledger.event_conflicts IS 'Records that were rejected with EVENT_ID_CONFLICT since version 1.0.0, by the identity that another one owns: for sluice.find_event.';
COMMENT ON COLUMN ledger.event_conflicts.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.event_conflicts.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.event_conflicts.identity IS 'The identity that another record owns.';

-- APPLIED and REJECTED balance events have theirs in balance_log; all others have it here.
CREATE TABLE ledger.verdicts (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    event_id text COLLATE "C",
    verdict text COLLATE "C" NOT NULL CHECK (verdict IN ('APPLIED', 'REJECTED', 'DUPLICATE', 'DEAD')),
    reason text COLLATE "C",
    source text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT now(),
    event_time timestamptz,
    PRIMARY KEY (partition_id, kafka_offset),
    CHECK ((verdict IN ('REJECTED', 'DEAD')) = (reason IS NOT NULL))
);
CREATE INDEX verdicts_by_event ON ledger.verdicts (event_id) WHERE verdict <> 'APPLIED';
COMMENT ON TABLE ledger.verdicts IS 'Verdicts that do not follow from balance_log; read all of them through event_verdicts.';
COMMENT ON COLUMN ledger.verdicts.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.verdicts.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.verdicts.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.verdicts.verdict IS 'APPLIED, REJECTED, DUPLICATE or DEAD.';
COMMENT ON COLUMN ledger.verdicts.reason IS 'Why the record was rejected or is dead; NULL otherwise.';
COMMENT ON COLUMN ledger.verdicts.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.verdicts.created_at IS 'When the verdict was committed; of what was there before version 0.5.0, when that was installed.';
COMMENT ON COLUMN ledger.verdicts.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none or could not be read, and of what was committed before this column was there.';

CREATE TABLE ledger.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    event_id text,
    key bytea,
    payload bytea,
    headers jsonb,
    error_code text NOT NULL,
    error_message text NOT NULL,
    attempts integer NOT NULL CHECK (attempts >= 1),
    status text NOT NULL DEFAULT 'PARKED' CHECK (status IN ('PARKED', 'REPLAYED', 'DISCARDED')),
    first_failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    record_time_ms bigint,
    published_at timestamptz,
    is_domain boolean NOT NULL,
    owns_identity boolean NOT NULL,
    retry_payload bytea,
    marked_at timestamptz,
    UNIQUE (topic, partition, kafka_offset)
);
CREATE INDEX dead_letters_parked ON ledger.dead_letters (topic, partition, kafka_offset) WHERE status = 'PARKED';
CREATE INDEX dead_letters_parked_keys ON ledger.dead_letters (topic, partition, key) WHERE status = 'PARKED' AND key IS NOT NULL;
-- The outbox of the dead letter topic: a letter that is given up before it was published is published, too.
CREATE INDEX dead_letters_unpublished ON ledger.dead_letters (topic, partition, kafka_offset)
WHERE status <> 'REPLAYED' AND published_at IS NULL;
-- Redis is told of a dead letter once its replay has succeeded, whoever replayed it.
CREATE INDEX dead_letters_unmarked ON ledger.dead_letters (updated_at) WHERE status = 'REPLAYED' AND marked_at IS NULL;
COMMENT ON TABLE ledger.dead_letters IS 'Records that could not be used, byte for byte, with the reason.';
COMMENT ON COLUMN ledger.dead_letters.id IS 'Names the letter in sluice dlq and in the functions for dead letters.';
COMMENT ON COLUMN ledger.dead_letters.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.dead_letters.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.dead_letters.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.dead_letters.event_id IS 'The event''s id, where it could be read.';
COMMENT ON COLUMN ledger.dead_letters.key IS 'The record''s key, byte for byte.';
COMMENT ON COLUMN ledger.dead_letters.payload IS 'The record''s payload, byte for byte; NULL: a tombstone.';
COMMENT ON COLUMN ledger.dead_letters.headers IS 'Kafka headers in order: [{"key": ..., "value": text} or {"key": ..., "base64": ...}].';
COMMENT ON COLUMN ledger.dead_letters.error_code IS 'Why it is dead: the reason of its verdict.';
COMMENT ON COLUMN ledger.dead_letters.error_message IS 'The same in words, or the database''s error.';
COMMENT ON COLUMN ledger.dead_letters.attempts IS 'How often it was tried.';
COMMENT ON COLUMN ledger.dead_letters.status IS 'PARKED: open. REPLAYED: its verdict says what it became. DISCARDED: given up by hand.';
COMMENT ON COLUMN ledger.dead_letters.first_failed_at IS 'When it was first refused.';
COMMENT ON COLUMN ledger.dead_letters.updated_at IS 'When it was last tried, replayed, discarded or restored.';
COMMENT ON COLUMN ledger.dead_letters.record_time_ms IS 'Kafka''s timestamp of the record, in milliseconds since 1970.';
COMMENT ON COLUMN ledger.dead_letters.published_at IS 'When the record was produced to the dead letter topic; NULL while it is not.';
COMMENT ON COLUMN ledger.dead_letters.is_domain IS 'Whether the record was read as a domain event, to be tried by the handler of its type, or as a balance event.';
COMMENT ON COLUMN ledger.dead_letters.owns_identity IS 'Whether the record owns its event''s identity although it is dead: the identity of the payload to be tried next. False once it is replayed; then its verdict tells.';
COMMENT ON COLUMN ledger.dead_letters.retry_payload IS 'The payload to be tried next where it was corrected, or the one that was replayed; NULL: the record''s own.';
COMMENT ON COLUMN ledger.dead_letters.marked_at IS 'When Redis was told what the replay of this letter came to; NULL while it was not, or where no Redis is set.';

CREATE TABLE ledger.dead_letter_actions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dead_letter_id bigint NOT NULL REFERENCES ledger.dead_letters,
    action text NOT NULL CHECK (action IN ('REPLAY', 'DISCARD', 'RESTORE', 'BURY')),
    by_user text NOT NULL,
    why text,
    verdict text NOT NULL,
    reason text,
    payload bytea,
    acted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX dead_letter_actions_of ON ledger.dead_letter_actions (dead_letter_id);
COMMENT ON TABLE ledger.dead_letter_actions IS 'Who replayed, discarded or restored which dead letter, when, why, and what it became.';
COMMENT ON COLUMN ledger.dead_letter_actions.id IS 'Counts the actions.';
COMMENT ON COLUMN ledger.dead_letter_actions.dead_letter_id IS 'The letter.';
COMMENT ON COLUMN ledger.dead_letter_actions.action IS 'REPLAY, DISCARD, RESTORE or BURY.';
COMMENT ON COLUMN ledger.dead_letter_actions.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.dead_letter_actions.why IS 'The reason that was given.';
COMMENT ON COLUMN ledger.dead_letter_actions.verdict IS 'What the letter became.';
COMMENT ON COLUMN ledger.dead_letter_actions.reason IS 'Why it stayed dead or was rejected.';
COMMENT ON COLUMN ledger.dead_letter_actions.payload IS 'The corrected payload, if it was one; the original stays in dead_letters.';
COMMENT ON COLUMN ledger.dead_letter_actions.acted_at IS 'When it was done.';

CREATE TABLE ledger.burials (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    by_user text NOT NULL,
    why text NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome text CHECK (outcome IN ('BURIED', 'NO_RECORD', 'WITHDRAWN')),
    settled_at timestamptz,
    PRIMARY KEY (partition_id, kafka_offset),
    CHECK ((outcome IS NULL) = (settled_at IS NULL))
);
COMMENT ON TABLE ledger.burials IS 'Records that an operator gives up by hand (sluice.bury_record): who, why, and what came of it. Kept for good.';
COMMENT ON COLUMN ledger.burials.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.burials.kafka_offset IS 'The offset of the record that is given up.';
COMMENT ON COLUMN ledger.burials.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.burials.why IS 'The reason that was given.';
COMMENT ON COLUMN ledger.burials.ordered_at IS 'When it was ordered.';
COMMENT ON COLUMN ledger.burials.outcome IS 'NULL until the partition comes to the offset; NO_RECORD where it holds none.';
COMMENT ON COLUMN ledger.burials.settled_at IS 'When the order was carried out, found no record or was withdrawn.';

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
COMMENT ON COLUMN ledger.event_handlers.event_type IS 'The type, which is also the name of its topic.';
COMMENT ON COLUMN ledger.event_handlers.handler IS 'The function that gets the events, with its schema.';
COMMENT ON COLUMN ledger.event_handlers.parks_key IS 'Whether later records of a key are parked behind a dead one.';
COMMENT ON COLUMN ledger.event_handlers.max_failures IS 'The topic pauses when the handler breaks on more than these of the last failure_window events of a partition.';
COMMENT ON COLUMN ledger.event_handlers.failure_window IS 'How many of the last events max_failures counts.';
COMMENT ON COLUMN ledger.event_handlers.registered_at IS 'When the handler was registered.';
COMMENT ON COLUMN ledger.event_handlers.registered_by IS 'The database login that registered it.';
COMMENT ON COLUMN ledger.event_handlers.paused_at IS 'Since when the topic is paused; NULL: it is not.';
COMMENT ON COLUMN ledger.event_handlers.pause_reason IS 'Why the topic is paused.';
COMMENT ON COLUMN ledger.event_handlers.paused_version IS 'Which version of the function was paused: a replaced one is not.';
COMMENT ON COLUMN ledger.event_handlers.resumed_at IS 'When it was last resumed.';

CREATE FUNCTION ledger.refuse_balance_topic() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.event_type = 'balance.changed' OR EXISTS (
        SELECT FROM ledger.partition_leases l JOIN ledger.partition_progress p USING (partition_id)
        WHERE l.topic = NEW.event_type AND NOT p.is_domain)
    THEN
        RAISE EXCEPTION '% is a topic of balance events: no handler gets them', NEW.event_type
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Send domain events on a topic of their own.';
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION ledger.refuse_balance_topic() FROM PUBLIC;
COMMENT ON FUNCTION ledger.refuse_balance_topic() IS 'Trigger: a topic of balance events gets no handler.';
CREATE TRIGGER refuse_balance_topic BEFORE INSERT OR UPDATE OF event_type ON ledger.event_handlers
FOR EACH ROW EXECUTE FUNCTION ledger.refuse_balance_topic();

-- How far the verdicts of each partition have been told in the results topic.
CREATE TABLE ledger.results_progress (
    partition_id integer PRIMARY KEY,
    next_offset bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE ledger.results_progress IS 'Per partition, the offset of the next record whose verdict is to be produced to RESULTS_TOPIC.';
COMMENT ON COLUMN ledger.results_progress.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.results_progress.next_offset IS 'The offset of the next record whose verdict is to be produced.';

CREATE TABLE ledger.changed_verdicts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL
);
COMMENT ON TABLE ledger.changed_verdicts IS 'Dead letters that were replayed since, whose new verdict is to be produced to RESULTS_TOPIC.';
COMMENT ON COLUMN ledger.changed_verdicts.id IS 'Gives the changes their order.';
COMMENT ON COLUMN ledger.changed_verdicts.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.changed_verdicts.kafka_offset IS 'The offset of the record in its partition.';

-- Headers of records whose results are still to be told, so that they travel along.
CREATE TABLE ledger.result_headers (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    headers jsonb NOT NULL,
    PRIMARY KEY (partition_id, kafka_offset)
);
COMMENT ON TABLE ledger.result_headers IS 'Kafka headers of records whose result is still to be produced to RESULTS_TOPIC, as in dead_letters.headers; kept only while that is set.';
COMMENT ON COLUMN ledger.result_headers.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.result_headers.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.result_headers.headers IS 'Kafka headers in order, as in dead_letters.headers.';

RESET ROLE;
