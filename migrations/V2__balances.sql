SET LOCAL ROLE sluice_owner;

-- Half-empty pages keep every update a heap-only tuple: no index is touched.
CREATE TABLE ledger.account_balances (
    account_id bigint NOT NULL,
    shard_id integer NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    available numeric(36, 18) NOT NULL,
    frozen numeric(36, 18) NOT NULL,
    updated_msec bigint NOT NULL,
    PRIMARY KEY (account_id, shard_id, currency_code),
    -- NaN sorts above every number, so it would pass a bare >= 0.
    CONSTRAINT available_is_never_negative CHECK (available >= 0 AND available <> 'NaN'),
    CONSTRAINT frozen_is_never_negative CHECK (frozen >= 0 AND frozen <> 'NaN')
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Wide columns first: no padding between them in the widest table of all.
CREATE TABLE ledger.balance_log (
    kafka_offset bigint NOT NULL,
    account_id bigint NOT NULL,
    created_at timestamptz NOT NULL,
    partition_id integer NOT NULL,
    shard_id integer NOT NULL,
    change_no smallint NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    available_delta numeric(36, 18) NOT NULL,
    frozen_delta numeric(36, 18) NOT NULL,
    available_after numeric(36, 18) NOT NULL,
    frozen_after numeric(36, 18) NOT NULL,
    reject_reason text COLLATE "C",
    PRIMARY KEY (partition_id, kafka_offset, change_no)
) WITH (fillfactor = 100, autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_freeze_min_age = 0);

CREATE VIEW ledger.balance_change_logs AS
SELECT
    p.topic, p.partition, l.kafka_offset, l.change_no, l.event_id,
    l.account_id, l.shard_id, l.currency_code,
    l.available_delta, l.frozen_delta, l.available_after, l.frozen_after,
    CASE WHEN l.reject_reason IS NULL THEN 'APPLIED' ELSE 'REJECTED' END AS status,
    l.reject_reason,
    l.created_at
FROM ledger.balance_log l
JOIN ledger.partition_leases p USING (partition_id);

COMMENT ON TABLE ledger.account_balances IS 'What each account has, per shard and currency.';
COMMENT ON TABLE ledger.balance_log IS 'One row per change of every decodable, non-duplicate balance event; read it through balance_change_logs.';
COMMENT ON VIEW ledger.balance_change_logs IS 'One row per balance change. available_after and frozen_after: the balance after it, or, for a rejected one, the balance it met.';
COMMENT ON COLUMN ledger.balance_log.created_at IS 'Database time at which the batch held all its balances locked.';

RESET ROLE;
