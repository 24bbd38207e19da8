-- Every event that could be decoded owns its identity, unless it was a duplicate or in conflict
-- with the owner of its id: as many identities as such events.
SELECT i.identities, e.events
FROM (SELECT count(*) AS identities FROM ledger.event_identities) i,
    (SELECT count(*) AS events FROM ledger.event_verdicts
     WHERE verdict = 'APPLIED'
        OR verdict = 'REJECTED' AND reason <> 'EVENT_ID_CONFLICT'
        OR verdict = 'DEAD' AND reason IN ('HANDLER_FAILED', 'PARKED_BEHIND')) e
WHERE i.identities <> e.events;
