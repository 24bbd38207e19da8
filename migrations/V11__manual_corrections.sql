SET LOCAL ROLE sluice_owner;

CREATE TABLE ledger.manual_corrections (
    partition_id integer NOT NULL,
    kafka_offset bigint NOT NULL,
    by_user text NOT NULL,
    why text NOT NULL,
    payload text NOT NULL,
    corrected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (partition_id, kafka_offset)
);
COMMENT ON TABLE ledger.manual_corrections IS 'Who corrected balances by hand, when and why. The changes stand in balance_change_logs, under topic "manual corrections".';

RESET ROLE;
