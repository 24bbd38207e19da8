-- Heartbeats mean nothing after a crash, and their writes need not wait for the disk.
ALTER TABLE ledger.ingester_instances SET UNLOGGED;
