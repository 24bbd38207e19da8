GRANT USAGE ON SCHEMA ledger TO sluice_writer, sluice_reader, sluice_admin;

-- The ingester stages rows and looks at leadership; everything else it does through functions.
GRANT INSERT ON ledger.staging_balance_changes TO sluice_writer;
GRANT SELECT ON
    ledger.partition_leases, ledger.partition_progress, ledger.schema_history,
    ledger.partition_leader_locks, ledger.live_instances
TO sluice_writer;

GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO sluice_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE sluice_owner IN SCHEMA ledger GRANT SELECT ON TABLES TO sluice_reader;
GRANT sluice_reader TO sluice_admin;
