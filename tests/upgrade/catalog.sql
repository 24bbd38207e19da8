-- All that the catalogs of a database say of Sluice, one line a fact, in an order of its own: two databases with the same
-- lines are the same but for their rows. Object identifiers and the places of columns are no facts.
WITH schemas AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname IN ('sluice', 'sluice_internal', 'ledger', 'domain')
), relations AS (
    SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace
), functions AS (
    SELECT p.*, p.oid::regprocedure::text AS name FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace
), types AS (
    SELECT t.*, format('%I.%I', s.nspname, t.typname) AS name FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace
    WHERE t.typtype <> 'b' AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
), columns AS (
    SELECT a.*, r.name || '.' || quote_ident(a.attname) AS name, r.relkind
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE r.relkind IN ('r', 'v', 'c')
), acls (what, name, acl) AS (
    SELECT 'schema', nspname::text, coalesce(nspacl, acldefault('n', nspowner)) FROM schemas
    UNION ALL SELECT 'relation', name, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM relations WHERE relkind <> 'i'
    UNION ALL SELECT 'function', name, coalesce(proacl, acldefault('f', proowner)) FROM functions
    UNION ALL SELECT 'type', name, coalesce(typacl, acldefault('T', typowner)) FROM types
    UNION ALL SELECT 'column', name, attacl FROM columns
    UNION ALL SELECT 'default privileges', format('of %s in %s for %s', defaclrole::regrole, coalesce(nspname, 'all schemas'), defaclobjtype), defaclacl
        FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace WHERE defaclrole::regrole::text LIKE 'sluice%'
), facts (what, name, fact) AS (
    SELECT 'extension', extname::text, format('version %s of %s in %s', extversion, extowner::regrole, extnamespace::regnamespace)
    FROM pg_extension WHERE extname = 'sluice'
    UNION ALL SELECT 'member of the extension', pg_describe_object(classid, objid, 0), NULL
    FROM pg_depend WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'sluice')
    UNION ALL SELECT 'role', rolname::text, format('%s %s %s %s %s %s %s', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
        rolreplication, rolbypassrls)
    FROM pg_roles WHERE rolname IN ('sluice_owner', 'sluice_writer', 'sluice_reader', 'sluice_admin', 'sluice_handler')
    UNION ALL SELECT 'membership', member::regrole::text, format('%s, admin %s', roleid::regrole, admin_option)
    FROM pg_auth_members
    WHERE member::regrole::text IN ('sluice_owner', 'sluice_writer', 'sluice_reader', 'sluice_admin', 'sluice_handler')
    UNION ALL SELECT 'schema', nspname::text, 'of ' || nspowner::regrole FROM schemas
    UNION ALL SELECT 'relation', name, format('%s %s of %s with %s', relkind, relpersistence, relowner::regrole, reloptions) FROM relations
    UNION ALL SELECT 'view', name, pg_get_viewdef(oid) FROM relations WHERE relkind = 'v'
    UNION ALL SELECT 'rule', r.name || '.' || w.rulename, pg_get_ruledef(w.oid)
    FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'
    UNION ALL SELECT 'sequence', r.name, format('%s from %s by %s up to %s, cycles %s', q.seqtypid::regtype, q.seqstart, q.seqincrement,
        q.seqmax, q.seqcycle)
    FROM relations r JOIN pg_sequence q ON q.seqrelid = r.oid
    UNION ALL SELECT 'column', c.name, format('%s collate %s not null %s default %s identity %s generated %s storage %s statistics %s options %s',
        format_type(c.atttypid, c.atttypmod), (SELECT collname FROM pg_collation l WHERE l.oid = c.attcollation), c.attnotnull,
        pg_get_expr(d.adbin, d.adrelid), c.attidentity, c.attgenerated, c.attstorage, c.attstattarget, array_to_string(ARRAY(SELECT o FROM unnest(c.attoptions) o WHERE o NOT LIKE 'pg_attver=%'), ' '))
    FROM columns c LEFT JOIN pg_attrdef d ON d.adrelid = c.attrelid AND d.adnum = c.attnum
    UNION ALL SELECT 'constraint', r.name || '.' || quote_ident(k.conname), pg_get_constraintdef(k.oid) || ' valid ' || k.convalidated
    FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
    UNION ALL SELECT 'index', r.name, pg_get_indexdef(r.oid) || ' valid ' || i.indisvalid
    FROM relations r JOIN pg_index i ON i.indexrelid = r.oid
    UNION ALL SELECT 'trigger', r.name || '.' || quote_ident(t.tgname), pg_get_triggerdef(t.oid) || ' enabled ' || t.tgenabled::text
    FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
    UNION ALL SELECT 'function', name, 'of ' || proowner::regrole || ' cost ' || procost || ' rows ' || prorows || E'\n' || pg_get_functiondef(oid)
    FROM functions
    UNION ALL SELECT 'type', name, format('%s of %s', typtype, typowner::regrole) FROM types
    UNION ALL SELECT 'acl of ' || what, name, format('%s to %s by %s, grantable %s', e.privilege_type,
        CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE e.grantee::regrole::text END, e.grantor::regrole, e.is_grantable)
    FROM acls CROSS JOIN LATERAL aclexplode(acl) e
    UNION ALL SELECT 'comment', pg_describe_object(classoid, objoid, objsubid), description
    FROM pg_description d
    WHERE classoid = 'pg_class'::regclass AND objoid IN (SELECT oid FROM relations)
        OR classoid = 'pg_proc'::regclass AND objoid IN (SELECT oid FROM functions)
        OR classoid = 'pg_type'::regclass AND objoid IN (SELECT oid FROM types)
        OR classoid = 'pg_namespace'::regclass AND objoid IN (SELECT oid FROM schemas)
        OR classoid = 'pg_constraint'::regclass AND objoid IN (SELECT k.oid FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid)
        OR classoid = 'pg_trigger'::regclass AND objoid IN (SELECT t.oid FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid)
        OR classoid = 'pg_extension'::regclass AND objoid = (SELECT oid FROM pg_extension WHERE extname = 'sluice')
    UNION ALL SELECT 'comment', 'role ' || objoid::regrole, description FROM pg_shdescription
    WHERE classoid = 'pg_authid'::regclass AND objoid::regrole::text LIKE 'sluice%'
    UNION ALL SELECT 'setting of a role', coalesce(setrole::regrole::text, 'all'), setconfig::text FROM pg_db_role_setting
    WHERE setrole::regrole::text LIKE 'sluice%'
)
SELECT line FROM (SELECT what || ' ' || name || coalesce(': ' || fact, '') AS line FROM facts) f ORDER BY line COLLATE "C"
