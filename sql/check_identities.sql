-- Every accepted or refused event owns its identity: as many identities as events that are
-- neither dead, duplicate nor in conflict with the owner of their id.
SELECT i.identities, e.events
FROM (SELECT count(*) AS identities FROM ledger.event_identities) i,
    (SELECT count(*) AS events FROM ledger.balance_log
     WHERE change_no = 0 AND reject_reason IS DISTINCT FROM 'EVENT_ID_CONFLICT') e
WHERE i.identities <> e.events;
