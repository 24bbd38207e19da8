-- The tables of the plain-SQL apply (baseline_apply.sql), in a schema of its own beside the
-- real ones: same columns, constraints and keys, so that both do the same work per event.
CREATE SCHEMA baseline;

CREATE TABLE baseline.progress (
    partition_id integer PRIMARY KEY,
    fencing_token bigint NOT NULL,
    commit_offset bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE baseline.account_balances (
    LIKE ledger.account_balances INCLUDING CONSTRAINTS INCLUDING INDEXES
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE baseline.balance_log (
    LIKE ledger.balance_log INCLUDING CONSTRAINTS INCLUDING INDEXES
) WITH (fillfactor = 100, autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_freeze_min_age = 0);

CREATE TABLE baseline.event_identities (
    LIKE ledger.event_identities INCLUDING INDEXES
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_freeze_min_age = 0);

CREATE TABLE baseline.verdicts (
    LIKE ledger.verdicts INCLUDING CONSTRAINTS INCLUDING INDEXES
);

CREATE UNLOGGED TABLE baseline.staging (
    kafka_offset bigint NOT NULL,
    event_id text NOT NULL,
    identity uuid NOT NULL,
    payload_hash uuid NOT NULL,
    account_id bigint NOT NULL,
    shard_id integer NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    available_delta numeric NOT NULL,
    frozen_delta numeric NOT NULL
) WITH (autovacuum_enabled = off);

-- The floor of the benchmark: the same log rows, with no index to keep.
CREATE TABLE baseline.bare_log (LIKE ledger.balance_log) WITH (autovacuum_enabled = off);
