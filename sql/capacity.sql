-- What records take on disk, from what this database holds: for `sluice plan`, and for everybody.
-- A row for each part; records are those it is spread over: all that were committed and not pruned, of its kind.
-- 'rows' and 'own rows' are what domain events leave in schema domain and in the platform's own tables; nothing prunes them.
WITH progress AS (
    SELECT p.is_domain, p.commit_offset - coalesce(r.pruned_below, 0) - coalesce((
            SELECT sum(h.next_offset - greatest(h.first_offset, r.pruned_below))
            FROM ledger.offset_holes h
            WHERE h.partition_id = p.partition_id AND h.next_offset > coalesce(r.pruned_below, 0)), 0) AS records
    FROM ledger.partition_progress p
    LEFT JOIN ledger.retention r USING (partition_id)
), counted AS (
    SELECT sum(records) AS records, sum(records) FILTER (WHERE NOT is_domain) AS balance, sum(records) FILTER (WHERE is_domain) AS domain
    FROM progress
), part AS (
    SELECT 'balance' AS kind, 'log' AS part, 'ledger.balance_log'::regclass::oid AS relation
    UNION ALL SELECT 'domain', 'verdicts', 'ledger.verdicts'::regclass
    UNION ALL SELECT 'domain', 'rows', c.oid FROM pg_class c WHERE c.relnamespace = 'domain'::regnamespace AND c.relkind IN ('r', 'm')
    -- Tables elsewhere that handlers may write; of a partitioned table its partitions take the space.
    UNION ALL SELECT 'domain', 'own rows', c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname NOT IN ('domain', 'ledger', 'sluice', 'information_schema') AND n.nspname !~ '^pg_'
        AND has_any_column_privilege('sluice_handler', coalesce(pg_partition_root(c.oid)::oid, c.oid), 'INSERT, UPDATE')
    UNION ALL SELECT 'any', 'identities', 'ledger.event_identities'::regclass
    UNION ALL SELECT 'any', 'dead letters', 'ledger.dead_letters'::regclass
    UNION ALL SELECT 'any', 'conflicts', 'ledger.event_conflicts'::regclass
    UNION ALL SELECT 'any', 'offset holes', 'ledger.offset_holes'::regclass
    UNION ALL SELECT 'account', 'balances', 'ledger.account_balances'::regclass
)
SELECT p.kind, p.part,
    max(CASE p.kind WHEN 'balance' THEN c.balance WHEN 'domain' THEN c.domain WHEN 'any' THEN c.records END)::bigint AS records,
    sum(pg_table_size(p.relation))::bigint AS table_bytes, sum(pg_indexes_size(p.relation))::bigint AS index_bytes
FROM part p, counted c
GROUP BY p.kind, p.part
ORDER BY p.kind, p.part
