-- Every event that could be decoded owns its identity, unless it was a duplicate or in conflict
-- with the owner of its id; so does a dead one whose letter says that it does: as many identities as such events.
SELECT i.identities, e.events
FROM (SELECT count(*) AS identities FROM ledger.event_identities) i,
    (SELECT count(*) AS events FROM ledger.event_verdicts v
     WHERE verdict = 'APPLIED'
        OR verdict = 'REJECTED' AND reason <> 'EVENT_ID_CONFLICT'
        OR verdict = 'DEAD' AND EXISTS (
            SELECT FROM ledger.dead_letters d
            WHERE d.topic = v.topic AND d.partition = v.partition AND d.kafka_offset = v.kafka_offset AND d.owns_identity)) e
WHERE i.identities <> e.events;
