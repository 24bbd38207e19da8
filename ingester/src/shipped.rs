//! The functions that come with Sluice, as its migrations and the scripts of its extension write them; which of them a
//! database has in another form, because somebody replaced them there; and which of those a migration would undo.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::objects::SCRIPTS;

/// The version of the extension that each of its scripts leads to.
const VERSIONS: [&str; SCRIPTS.len()] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0",
];

/// A function as one text defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition<'t> {
    /// With its schema.
    pub name: &'t str,
    /// From CREATE to the semicolon.
    pub statement: &'t str,
    body: &'t str,
    /// Whether it has settings of its own, such as a search_path.
    has_settings: bool,
}

/// What a text does with functions written in SQL or PL/pgSQL, in its order.
enum Step<'t> {
    Define(Definition<'t>),
    Drop(&'t str),
}

fn steps(text: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let line = rest.lines().next().unwrap_or_default();
        at += line.len() + 1;
        let after = |begin: &str| line.strip_prefix(begin);
        let dropped = after("DROP FUNCTION IF EXISTS ").or_else(|| after("DROP FUNCTION "));
        if let Some(dropped) = dropped {
            steps.push(Step::Drop(name_of(dropped)));
        }
        let defined = after("CREATE FUNCTION ").or_else(|| after("CREATE OR REPLACE FUNCTION "));
        if let Some((defined, found)) = defined.and_then(|defined| Some((defined, define(rest)?))) {
            let (statement, head, body) = found;
            at += statement.len().saturating_sub(line.len() + 1);
            steps.push(Step::Define(Definition {
                name: name_of(defined),
                statement,
                body,
                has_settings: head.contains("\nSET "),
            }));
        }
    }
    steps
}

fn name_of(rest: &str) -> &str {
    rest.split(['(', ' ', ';']).next().unwrap_or_default()
}

/// The statement at the beginning of a text, its part before the body, and the body; `None` where it is written in C.
fn define(text: &str) -> Option<(&str, &str, &str)> {
    const QUOTE: &str = "$$";
    let opens = text.find(QUOTE)?;
    if text.find(';').is_some_and(|end| end < opens) {
        return None;
    }
    let body = opens + QUOTE.len();
    let closes = body + text[body..].find(QUOTE)?;
    let end = closes + text[closes..].find(';')? + 1;
    Some((&text[..end], &text[..opens], &text[body..closes]))
}

/// The scripts of the extension that a database of this version has run, and those that it has not.
pub fn scripts(installed: Option<&str>) -> (&'static [&'static str], &'static [&'static str]) {
    let at = VERSIONS
        .iter()
        .position(|version| Some(*version) == installed);
    SCRIPTS.split_at(at.map_or(0, |at| at + 1))
}

/// The names of the functions that these texts write, whether they leave them behind or not.
pub fn written<'t>(texts: impl IntoIterator<Item = &'t str>) -> BTreeSet<&'t str> {
    let names = texts.into_iter().flat_map(steps).map(|step| match step {
        Step::Define(found) => found.name,
        Step::Drop(name) => name,
    });
    names.collect()
}

/// The functions that these texts leave behind, one after the other, by their names.
pub fn functions<'t>(
    texts: impl IntoIterator<Item = &'t str>,
) -> BTreeMap<&'t str, Definition<'t>> {
    let mut functions = BTreeMap::new();
    for step in texts.into_iter().flat_map(steps) {
        match step {
            Step::Define(found) => functions.insert(found.name, found),
            Step::Drop(name) => functions.remove(name),
        };
    }
    functions
}

/// Which of these the database has in another form. One that it does not have at all is not among them.
pub async fn replaced(
    client: &Client,
    functions: &BTreeMap<&str, Definition<'_>>,
) -> Result<Vec<String>, tokio_postgres::Error> {
    const REPLACED: &str = "
        SELECT w.name
        FROM unnest($1::text[], $2::text[], $3::boolean[]) w(name, body, has_settings)
        JOIN (
            SELECT n.nspname || '.' || p.proname AS name, p.prosrc, p.proconfig
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('domain', 'ledger', 'sluice')
        ) p USING (name)
        GROUP BY 1
        -- Somebody may have added one of the same name and other arguments.
        HAVING NOT bool_or(p.prosrc = w.body AND (p.proconfig IS NOT NULL) = w.has_settings)
        ORDER BY 1";
    let all = functions.values();
    let names: Vec<&str> = all.clone().map(|function| function.name).collect();
    let bodies: Vec<&str> = all.clone().map(|function| function.body).collect();
    let settings: Vec<bool> = all.map(|function| function.has_settings).collect();
    let rows = client
        .query(REPLACED, &[&names, &bodies, &settings])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

impl Definition<'_> {
    /// Puts the function back as it comes with Sluice; owner and grants stay.
    pub fn again(&self) -> String {
        let rest = self.statement.strip_prefix("CREATE FUNCTION ");
        rest.map_or_else(
            || self.statement.to_owned(),
            |rest| format!("CREATE OR REPLACE FUNCTION {rest}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "-- One.
CREATE FUNCTION domain.one(a text DEFAULT 'x') RETURNS text
LANGUAGE sql
SET search_path = pg_catalog
AS $$
    SELECT a || ';'
$$;
COMMENT ON FUNCTION domain.one(text) IS 'CREATE FUNCTION domain.none() is not meant.';
CREATE FUNCTION sluice.native() RETURNS void
AS 'MODULE_PATHNAME', 'native' LANGUAGE c;

CREATE OR REPLACE FUNCTION domain.two() RETURNS void LANGUAGE plpgsql AS $$
CREATE FUNCTION domain.inner() nothing
$$;
CREATE FUNCTION domain.three() RETURNS void LANGUAGE sql AS $$ SELECT $$;
DROP FUNCTION domain.three();
";

    #[test]
    fn a_text_is_taken_apart_into_its_functions() {
        let found = functions([TEXT]);
        assert_eq!(
            found.keys().copied().collect::<Vec<_>>(),
            ["domain.one", "domain.two"]
        );
        let one = &found["domain.one"];
        assert_eq!(one.body, "\n    SELECT a || ';'\n");
        assert!(one.has_settings && !found["domain.two"].has_settings);
        assert!(one.statement.ends_with("\n$$;"), "{}", one.statement);
        assert!(
            one.again()
                .starts_with("CREATE OR REPLACE FUNCTION domain.one(")
        );
        assert_eq!(found["domain.two"].again(), found["domain.two"].statement);
    }

    #[test]
    fn each_script_leads_to_its_version() {
        assert_eq!(VERSIONS.last(), Some(&crate::schema::EXTENSION_VERSION));
        assert_eq!(scripts(None).1.len(), SCRIPTS.len());
        assert_eq!(scripts(Some("0.6.0")).1, &SCRIPTS[6..]);
        assert_eq!(
            scripts(Some(crate::schema::EXTENSION_VERSION)).0.len(),
            SCRIPTS.len()
        );
    }

    #[test]
    fn the_later_definition_counts() {
        let later =
            "CREATE OR REPLACE FUNCTION domain.two() RETURNS void LANGUAGE sql AS $$ SELECT $$;";
        assert_eq!(functions([TEXT, later])["domain.two"].body, " SELECT ");
        assert!(
            !functions([TEXT, "DROP FUNCTION IF EXISTS domain.one(text);"])
                .contains_key("domain.one")
        );
    }
}
