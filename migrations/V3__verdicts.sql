SET LOCAL ROLE sluice_owner;

-- The first record to carry (source, eventId) owns it. Both columns are 128 bits of BLAKE3.
CREATE TABLE ledger.event_identities (
    identity uuid PRIMARY KEY,
    payload_hash uuid NOT NULL
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_freeze_min_age = 0);

-- APPLIED and REJECTED follow from balance_log; only what has no row there needs one here.
CREATE TABLE ledger.verdict_exceptions (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    event_id text COLLATE "C",
    verdict text COLLATE "C" NOT NULL CHECK (verdict IN ('DUPLICATE', 'DEAD')),
    reason text COLLATE "C",
    PRIMARY KEY (partition_id, kafka_offset),
    CHECK ((verdict = 'DEAD') = (reason IS NOT NULL))
);

CREATE VIEW ledger.event_verdicts AS
SELECT p.topic, p.partition, v.kafka_offset, v.event_id, v.verdict, v.reason
FROM (
    SELECT l.partition_id, l.kafka_offset, l.event_id,
        CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS verdict,
        l.reject_reason AS reason
    FROM ledger.balance_log l
    WHERE l.change_no = 0
    UNION ALL
    SELECT e.partition_id, e.kafka_offset, e.event_id, e.verdict, e.reason
    FROM ledger.verdict_exceptions e
) v
JOIN ledger.partition_leases p USING (partition_id);

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
    UNIQUE (topic, partition, kafka_offset)
);

COMMENT ON TABLE ledger.event_identities IS 'Every event ever accepted or refused, by hash of (source, eventId), with the hash of its payload.';
COMMENT ON TABLE ledger.verdict_exceptions IS 'Verdicts of records that have no row in balance_log; read them through event_verdicts.';
COMMENT ON VIEW ledger.event_verdicts IS 'Exactly one row for every record below the committed offset.';
COMMENT ON TABLE ledger.dead_letters IS 'Records that could not be used, byte for byte, with the reason.';
COMMENT ON COLUMN ledger.dead_letters.headers IS 'Kafka headers in order: [{"key": ..., "value": text} or {"key": ..., "base64": ...}].';

RESET ROLE;
