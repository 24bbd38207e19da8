-- What handlers of domain events do for every event, natively: reading a field, and asking which references lead nowhere.
\echo Use "ALTER EXTENSION sluice UPDATE" to load this file. \quit

-- These run as their caller.
CREATE FUNCTION sluice.read_id(value jsonb, event_id text, field text, required boolean)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_id';
COMMENT ON FUNCTION sluice.read_id(jsonb, text, text, boolean) IS
'What domain.id answers.';

CREATE FUNCTION sluice.read_text(value jsonb, event_id text, field text, shortest integer, longest integer, required boolean)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_text';
COMMENT ON FUNCTION sluice.read_text(jsonb, text, text, integer, integer, boolean) IS
'What domain.text answers.';

CREATE FUNCTION sluice.read_currency(value jsonb, event_id text, field text, required boolean)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_currency';
COMMENT ON FUNCTION sluice.read_currency(jsonb, text, text, boolean) IS
'What domain.currency answers.';

CREATE FUNCTION sluice.read_amount(value jsonb, event_id text, field text, may_be_negative boolean, required boolean)
RETURNS numeric
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_amount';
COMMENT ON FUNCTION sluice.read_amount(jsonb, text, text, boolean, boolean) IS
'What domain.amount and domain.unsigned_amount answer.';

CREATE FUNCTION sluice.read_plain_instant(value jsonb)
RETURNS timestamptz
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'read_plain_instant';
COMMENT ON FUNCTION sluice.read_plain_instant(jsonb) IS
'What domain.instant answers to most times; NULL for the others, and for what is none.';

CREATE FUNCTION sluice.absent(relation regclass, ids text[], referrers text[])
RETURNS TABLE (id text, referrer text)
LANGUAGE c VOLATILE PARALLEL UNSAFE -- it sees what was committed since its statement began
AS 'MODULE_PATHNAME', 'absent_wrapper';
COMMENT ON FUNCTION sluice.absent(regclass, text[], text[]) IS
'Which of ids are the key of no row that is committed or of this transaction, each once, in the order of their bytes, with the referrer of its first place. The key is the table''s first column, a text; of a table with another one, or with policies, all are answered. Needs SELECT on the table.';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname IN (
            'read_id', 'read_text', 'read_currency', 'read_amount', 'read_plain_instant', 'absent')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO sluice_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO sluice_handler', f);
    END LOOP;
END
$$;
