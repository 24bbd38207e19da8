//! The functions that come with Sluice, as its migrations and the scripts of its extension write them; which of them a
//! database has in another form, because somebody replaced them there; and which of those a migration would undo.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// The extension as this binary wants it.
pub const SCRIPT: &str = include_str!("../../../pg_ext/sql/sluice--1.0.0.sql");
/// The steps that lead to it, each from the version before.
const UPDATES: [(&str, &str); 1] = [(
    "0.6.0",
    include_str!("../../../pg_ext/sql/sluice--0.6.0--1.0.0.sql"),
)];
/// The functions of version 0.6.0, one a line: name, MD5 of the body, volatility, whether it runs as its owner or as its
/// caller, and its settings, separated by semicolons.
const BEFORE_BRIDGE: &str = include_str!("../../../bridge/functions-0.6.0");

/// How a function comes with Sluice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipped<'t> {
    body: Body<'t>,
    /// Settings of its own, as PostgreSQL stores them: one a line, sorted.
    settings: String,
    runs_as_owner: bool,
    /// As in `pg_proc.provolatile`.
    volatility: &'t str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body<'t> {
    Text(&'t str),
    Md5(&'t str),
}

/// A function as one text defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition<'t> {
    /// With its schema.
    pub name: &'t str,
    /// From CREATE to the semicolon.
    pub statement: &'t str,
    form: Shipped<'t>,
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
                form: Shipped {
                    body: Body::Text(body),
                    settings: settings(head),
                    runs_as_owner: head.contains("SECURITY DEFINER"),
                    volatility: volatility(head),
                },
            }));
        }
    }
    steps
}

/// What the part of a statement before the body sets, as in `pg_proc.proconfig`.
fn settings(head: &str) -> String {
    let lines = head.lines().filter_map(|line| line.strip_prefix("SET "));
    let mut settings: Vec<String> = lines
        .map(|line| line.split_once(" --").map_or(line, |(setting, _)| setting))
        .map(|setting| setting.trim_end().replacen(" = ", "=", 1))
        .collect();
    settings.sort_unstable();
    settings.join("\n")
}

fn volatility(head: &str) -> &'static str {
    // Behind the arguments, which may have any names.
    let options = head.rsplit_once("LANGUAGE ").map_or("", |(_, rest)| rest);
    let has = |word: &str| options.split_whitespace().any(|option| option == word);
    if has("IMMUTABLE") {
        "i"
    } else if has("STABLE") {
        "s"
    } else {
        "v"
    }
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

/// The scripts of the extension that a database of this version still has to run.
pub fn scripts_to_run(installed: Option<&str>) -> Vec<&'static str> {
    let Some(installed) = installed else {
        return vec![SCRIPT];
    };
    let behind = UPDATES.iter().skip_while(|(from, _)| *from != installed);
    behind.map(|(_, script)| *script).collect()
}

/// The functions that a database has before these texts are run: those of version 0.6.0 where the bridge leads from there.
pub fn shipped<'t>(
    is_before_bridge: bool,
    texts: impl IntoIterator<Item = &'t str>,
) -> BTreeMap<&'t str, Shipped<'t>> {
    let before = is_before_bridge.then_some(BEFORE_BRIDGE).into_iter();
    let mut shipped: BTreeMap<&'t str, Shipped<'t>> =
        before.flat_map(str::lines).filter_map(listed).collect();
    for step in texts.into_iter().flat_map(steps) {
        match step {
            Step::Define(found) => shipped.insert(found.name, found.form),
            Step::Drop(name) => shipped.remove(name),
        };
    }
    shipped
}

/// A line of `BEFORE_BRIDGE`.
fn listed(line: &str) -> Option<(&str, Shipped<'_>)> {
    let mut parts = line.splitn(5, ' ');
    let mut next = || parts.next();
    let (name, md5, volatility, runs_as) = (next()?, next()?, next()?, next()?);
    let form = Shipped {
        body: Body::Md5(md5),
        settings: next().unwrap_or_default().replace("; ", "\n"),
        runs_as_owner: runs_as == "owner",
        volatility,
    };
    Some((name, form))
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
    functions: &BTreeMap<&str, Shipped<'_>>,
) -> Result<Vec<String>, tokio_postgres::Error> {
    const REPLACED: &str = "
        SELECT w.name
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[])
            w(name, body, md5, settings, runs_as_owner, volatility)
        JOIN (
            SELECT n.nspname || '.' || p.proname AS name, p.prosrc, p.prosecdef, p.provolatile::text,
                array_to_string(ARRAY(SELECT s FROM unnest(p.proconfig) s ORDER BY s COLLATE \"C\"), E'\\n') AS settings
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('domain', 'ledger', 'sluice')
        ) p USING (name)
        GROUP BY 1
        -- Somebody may have added one of the same name and other arguments.
        HAVING NOT bool_or(
            coalesce(md5(p.prosrc) = w.md5, p.prosrc = w.body)
            AND (p.settings, p.prosecdef, p.provolatile) = (w.settings, w.runs_as_owner, w.volatility))
        ORDER BY 1";
    let names: Vec<&str> = functions.keys().copied().collect();
    let all = functions.values();
    let (bodies, md5s): (Vec<Option<&str>>, Vec<Option<&str>>) = all
        .clone()
        .map(|function| match function.body {
            Body::Text(text) => (Some(text), None),
            Body::Md5(md5) => (None, Some(md5)),
        })
        .unzip();
    let settings: Vec<&str> = all.clone().map(|one| one.settings.as_str()).collect();
    let owners: Vec<bool> = all.clone().map(|one| one.runs_as_owner).collect();
    let volatilities: Vec<&str> = all.map(|function| function.volatility).collect();
    let which: [&(dyn ToSql + Sync); 6] =
        [&names, &bodies, &md5s, &settings, &owners, &volatilities];
    let rows = client.query(REPLACED, &which).await?;
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
LANGUAGE sql STABLE SECURITY DEFINER
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
        assert_eq!(one.form.body, Body::Text("\n    SELECT a || ';'\n"));
        assert_eq!(one.form.settings, "search_path=pg_catalog");
        assert_eq!((one.form.runs_as_owner, one.form.volatility), (true, "s"));
        let two = &found["domain.two"].form;
        assert_eq!(
            (two.settings.as_str(), two.runs_as_owner, two.volatility),
            ("", false, "v")
        );
        assert!(one.statement.ends_with("\n$$;"), "{}", one.statement);
        assert!(
            one.again()
                .starts_with("CREATE OR REPLACE FUNCTION domain.one(")
        );
        assert_eq!(found["domain.two"].again(), found["domain.two"].statement);
    }

    #[test]
    fn a_version_runs_the_steps_that_lead_from_it() {
        let wanted = crate::schema::migrations::EXTENSION_VERSION;
        assert_eq!(scripts_to_run(None), [SCRIPT]);
        assert_eq!(scripts_to_run(Some("0.6.0")), [UPDATES[0].1]);
        assert!(scripts_to_run(Some(wanted)).is_empty());
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../pg_ext/sql/sluice--");
        assert!(std::path::Path::new(&format!("{folder}{wanted}.sql")).exists());
    }

    #[test]
    fn what_0_6_0_had_is_known_by_its_md5_until_a_text_defines_it_again() {
        let before = shipped(true, []);
        assert_eq!(before.len(), BEFORE_BRIDGE.lines().count());
        let follows = &before["domain.on_user_followed"];
        assert!(matches!(follows.body, Body::Md5(md5) if md5.len() == 32));
        assert_eq!(
            (follows.settings.as_str(), follows.runs_as_owner),
            ("", false)
        );
        let prune = &before["sluice.prune"];
        assert_eq!(prune.settings, "search_path=pg_catalog, pg_temp");
        assert_eq!((prune.runs_as_owner, prune.volatility), (true, "v"));
        let after = shipped(
            true,
            ["CREATE FUNCTION domain.id() RETURNS void LANGUAGE sql AS $$ SELECT $$;"],
        );
        assert_eq!(after["domain.id"].body, Body::Text(" SELECT "));
        assert!(shipped(false, []).is_empty());
    }

    #[test]
    fn the_later_definition_counts() {
        let later =
            "CREATE OR REPLACE FUNCTION domain.two() RETURNS void LANGUAGE sql AS $$ SELECT $$;";
        assert_eq!(
            shipped(false, [TEXT, later])["domain.two"].body,
            Body::Text(" SELECT ")
        );
        assert!(
            !functions([TEXT, "DROP FUNCTION IF EXISTS domain.one(text);"])
                .contains_key("domain.one")
        );
    }
}
