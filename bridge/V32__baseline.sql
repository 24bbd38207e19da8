-- What differs from a new database otherwise: the name of an index, and words that named a migration.
SET LOCAL ROLE sluice_owner;

ALTER INDEX ledger.verdict_exceptions_pkey RENAME TO verdicts_pkey;
COMMENT ON TABLE ledger.event_conflicts IS 'Records that were rejected with EVENT_ID_CONFLICT since version 1.0.0, by the identity that another one owns: for sluice.find_event.';

RESET ROLE;
