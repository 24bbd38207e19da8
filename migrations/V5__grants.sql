GRANT USAGE ON SCHEMA ledger TO sluice_writer, sluice_reader, sluice_admin;

GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO sluice_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE sluice_owner IN SCHEMA ledger GRANT SELECT ON TABLES TO sluice_reader;
-- PUBLIC's EXECUTE comes with the role, not with a schema, so there it is taken away.
ALTER DEFAULT PRIVILEGES FOR ROLE sluice_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT sluice_reader TO sluice_admin;

-- The ingester stages rows and looks at leadership; everything else it does through functions. Whoever knows a lease can
-- write as its leader: it is told to the one that acquires, and to no other login.
GRANT INSERT ON ledger.staging_balance_changes TO sluice_writer;
GRANT SELECT (partition_id, topic, partition) ON ledger.partition_leases TO sluice_writer;
GRANT SELECT (partition_id, commit_offset, started_at, last_record) ON ledger.partition_progress TO sluice_writer;
GRANT SELECT ON
    ledger.schema_history, ledger.event_handlers,
    ledger.partition_leader_locks, ledger.live_instances, ledger.partition_status, ledger.partition_halts
TO sluice_writer;
