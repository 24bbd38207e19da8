SET LOCAL ROLE sluice_owner;

-- Whoever knows the lease can write as its leader: it is told to the one that acquires, and to no other login.
REVOKE SELECT ON ledger.partition_leases, ledger.partition_progress FROM sluice_writer;
GRANT SELECT (partition_id, topic, partition) ON ledger.partition_leases TO sluice_writer;
GRANT SELECT (partition_id, commit_offset, started_at, last_record) ON ledger.partition_progress TO sluice_writer;

RESET ROLE;
