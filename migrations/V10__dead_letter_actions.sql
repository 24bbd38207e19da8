SET LOCAL ROLE sluice_owner;

CREATE TABLE ledger.dead_letter_actions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dead_letter_id bigint NOT NULL REFERENCES ledger.dead_letters,
    action text NOT NULL CHECK (action IN ('REPLAY', 'DISCARD')),
    by_user text NOT NULL,
    why text,
    verdict text NOT NULL,
    reason text,
    payload bytea,
    acted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX dead_letter_actions_of ON ledger.dead_letter_actions (dead_letter_id);
CREATE INDEX dead_letters_parked ON ledger.dead_letters (topic, partition, kafka_offset) WHERE status = 'PARKED';

COMMENT ON TABLE ledger.dead_letter_actions IS 'Who replayed or discarded which dead letter, when, why, and what it became.';
COMMENT ON COLUMN ledger.dead_letter_actions.payload IS 'The corrected payload, if it was one; the original stays in dead_letters.';

RESET ROLE;
