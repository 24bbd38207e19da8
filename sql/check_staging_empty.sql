-- Nothing is left in staging.
SELECT * FROM ledger.staging_balance_changes;
