//! The functions, views and triggers that come with Sluice, as its migrations and the scripts of its extension write
//! them; which functions a database has in another form, because somebody replaced them there; and which of those a
//! migration would undo.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// The scripts of the extension: what they create is to be there, called by the ingester or not.
pub const SCRIPTS: [&str; 7] = [
    include_str!("../../../pg_ext/sql/sluice--0.1.0.sql"),
    include_str!("../../../pg_ext/sql/sluice--0.1.0--0.2.0.sql"),
    include_str!("../../../pg_ext/sql/sluice--0.2.0--0.3.0.sql"),
    include_str!("../../../pg_ext/sql/sluice--0.3.0--0.4.0.sql"),
    include_str!("../../../pg_ext/sql/sluice--0.4.0--0.5.0.sql"),
    include_str!("../../../pg_ext/sql/sluice--0.5.0--0.6.0.sql"),
    include_str!("../../../pg_ext/sql/sluice--0.6.0--0.7.0.sql"),
];

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
    /// Settings of its own, as PostgreSQL stores them: one a line, sorted.
    settings: String,
    runs_as_owner: bool,
    /// As in `pg_proc.provolatile`.
    volatility: &'static str,
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
                settings: settings(head),
                runs_as_owner: head.contains("SECURITY DEFINER"),
                volatility: volatility(head),
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
        FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::text[])
            w(name, body, settings, runs_as_owner, volatility)
        JOIN (
            SELECT n.nspname || '.' || p.proname AS name, p.prosrc, p.prosecdef, p.provolatile::text,
                array_to_string(ARRAY(SELECT s FROM unnest(p.proconfig) s ORDER BY s COLLATE \"C\"), E'\\n') AS settings
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('domain', 'ledger', 'sluice')
        ) p USING (name)
        GROUP BY 1
        -- Somebody may have added one of the same name and other arguments.
        HAVING NOT bool_or(
            (p.prosrc, p.settings, p.prosecdef, p.provolatile) = (w.body, w.settings, w.runs_as_owner, w.volatility))
        ORDER BY 1";
    let all = functions.values();
    let names: Vec<&str> = all.clone().map(|function| function.name).collect();
    let bodies: Vec<&str> = all.clone().map(|function| function.body).collect();
    let settings: Vec<&str> = all.clone().map(|one| one.settings.as_str()).collect();
    let owners: Vec<bool> = all.clone().map(|one| one.runs_as_owner).collect();
    let volatilities: Vec<&str> = all.map(|function| function.volatility).collect();
    let which: [&(dyn ToSql + Sync); 5] = [&names, &bodies, &settings, &owners, &volatilities];
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

/// A view as the migrations leave it behind.
pub struct View<'t> {
    /// With its schema.
    pub name: &'t str,
    definition: &'t str,
    comment: Option<&'t str>,
    grants: Vec<String>,
}

impl View<'_> {
    /// Makes the view where there is none, with its comment and its grants.
    pub fn anew(&self) -> String {
        let parts = [self.definition].into_iter().chain(self.comment);
        let parts = parts.chain(self.grants.iter().map(String::as_str));
        parts.collect::<Vec<_>>().join("\n")
    }
}

/// A trigger as the migrations leave it behind.
pub struct Trigger<'t> {
    /// With its schema.
    pub table: &'t str,
    pub name: &'t str,
    /// Makes the trigger where there is none.
    pub anew: &'t str,
}

/// The statements of a text, each up to its semicolon and without the comments before it.
fn statements(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut begins, mut at) = (0, 0);
    while let Some(found) = text[at..].find(['\'', '-', '$', ';']) {
        at += found;
        let rest = &text[at..];
        // What is quoted, and what is a comment, ends no statement.
        at += if let Some(quoted) = rest.strip_prefix('\'') {
            quoted.find('\'').map_or(rest.len(), |end| end + 2)
        } else if let Some(quoted) = rest.strip_prefix("$$") {
            quoted.find("$$").map_or(rest.len(), |end| end + 4)
        } else if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else {
            1
        };
        if rest.starts_with(';') {
            statements.push(without_comments(&text[begins..at]));
            begins = at;
        }
    }
    statements
}

fn without_comments(statement: &str) -> &str {
    let mut rest = statement.trim_start();
    while rest.starts_with("--") {
        rest = rest.find('\n').map_or("", |end| rest[end..].trim_start());
    }
    rest
}

/// The views that these texts leave behind, in the order of their definitions.
pub fn views<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<View<'t>> {
    let mut views: Vec<View<'t>> = Vec::new();
    for statement in texts.into_iter().flat_map(statements) {
        let words: Vec<&'t str> = statement.split_whitespace().collect();
        match words[..] {
            ["CREATE", "VIEW", name, ..] | ["CREATE", "OR", "REPLACE", "VIEW", name, ..] => {
                let former = views.iter().position(|view| view.name == name);
                // Comment and grants outlive a new definition.
                let former = former.map(|at| views.remove(at));
                let (comment, grants) =
                    former.map_or((None, Vec::new()), |view| (view.comment, view.grants));
                views.push(View {
                    name,
                    definition: statement,
                    comment,
                    grants,
                });
            }
            ["DROP", "VIEW", ref names @ ..] => {
                let is_named = |view: &View<'_>| {
                    let mut names = names.iter().map(|name| name.trim_end_matches([',', ';']));
                    names.any(|name| name == view.name)
                };
                views.retain(|view| !is_named(view));
            }
            ["COMMENT", "ON", "VIEW", name, ..] => {
                for view in views.iter_mut().filter(|view| view.name == name) {
                    view.comment = Some(statement);
                }
            }
            ["GRANT", ..] => grant(&mut views, &words.join(" ")),
            _ => {}
        }
    }
    views
}

/// Notes the part of a grant that is about each view: the rest may have been revoked since.
fn grant(views: &mut [View<'_>], statement: &str) {
    let Some((rights, rest)) = statement.split_once(" ON ") else {
        return;
    };
    let Some((names, to)) = rest.split_once(" TO ") else {
        return;
    };
    for view in views {
        if names.split(", ").any(|name| name == view.name) {
            view.grants
                .push(format!("{rights} ON {} TO {to}", view.name));
        }
    }
}

/// The triggers that these texts leave behind.
pub fn triggers<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<Trigger<'t>> {
    let mut triggers: Vec<Trigger<'t>> = Vec::new();
    for statement in texts.into_iter().flat_map(statements) {
        let words: Vec<&'t str> = statement.split_whitespace().collect();
        let (name, rest, is_dropped) = match words[..] {
            ["CREATE", "TRIGGER", name, ref rest @ ..]
            | ["CREATE", "OR", "REPLACE", "TRIGGER", name, ref rest @ ..] => (name, rest, false),
            ["DROP", "TRIGGER", "IF", "EXISTS", name, ref rest @ ..]
            | ["DROP", "TRIGGER", name, ref rest @ ..] => (name, rest, true),
            _ => continue,
        };
        let Some(table) = rest.iter().skip_while(|word| **word != "ON").nth(1) else {
            continue;
        };
        let table = table.trim_end_matches(';');
        triggers.retain(|trigger| (trigger.table, trigger.name) != (table, name));
        if !is_dropped {
            triggers.push(Trigger {
                table,
                name,
                anew: statement,
            });
        }
    }
    triggers
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
        assert_eq!(one.body, "\n    SELECT a || ';'\n");
        assert_eq!(one.settings, "search_path=pg_catalog");
        assert_eq!((one.runs_as_owner, one.volatility), (true, "s"));
        let two = &found["domain.two"];
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
    fn each_script_leads_to_its_version() {
        assert_eq!(
            VERSIONS.last(),
            Some(&crate::schema::migrations::EXTENSION_VERSION)
        );
        assert_eq!(scripts(None).1.len(), SCRIPTS.len());
        assert_eq!(scripts(Some("0.6.0")).1, &SCRIPTS[6..]);
        assert_eq!(
            scripts(Some(crate::schema::migrations::EXTENSION_VERSION))
                .0
                .len(),
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

    const VIEWS: &str = "
-- A view; not the last word.
CREATE VIEW ledger.one AS SELECT ';' AS it; -- It's so.
CREATE VIEW ledger.two AS SELECT 2;
GRANT SELECT ON ledger.a, ledger.one,
    ledger.two TO reader;
COMMENT ON VIEW ledger.one IS 'One; it''s the first.';
CREATE TRIGGER t BEFORE UPDATE OF a ON ledger.a
FOR EACH ROW EXECUTE FUNCTION sluice.t();
CREATE TRIGGER gone AFTER INSERT ON ledger.a EXECUTE FUNCTION sluice.t();
DROP TRIGGER gone ON ledger.a;
CREATE FUNCTION ledger.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE VIEW ledger.none AS SELECT 1; END $$;
CREATE OR REPLACE VIEW ledger.one AS SELECT 1 AS it;
CREATE VIEW ledger.three AS SELECT 3;
DROP VIEW ledger.three;
";

    #[test]
    fn a_text_is_taken_apart_into_its_views_and_triggers() {
        let views = views([VIEWS]);
        let names: Vec<&str> = views.iter().map(|view| view.name).collect();
        assert_eq!(names, ["ledger.two", "ledger.one"]);
        assert_eq!(
            views[1].anew(),
            "CREATE OR REPLACE VIEW ledger.one AS SELECT 1 AS it;\nCOMMENT ON VIEW ledger.one IS 'One; it''s the first.';\n\
             GRANT SELECT ON ledger.one TO reader;"
        );
        let triggers = triggers([VIEWS]);
        assert_eq!(triggers.len(), 1);
        assert_eq!((triggers[0].table, triggers[0].name), ("ledger.a", "t"));
        assert!(triggers[0].anew.ends_with("sluice.t();"));
    }

    #[test]
    fn the_views_and_triggers_of_the_migrations_are_known() {
        let texts = crate::schema::migrations::texts();
        let texts = || texts.iter().map(String::as_str);
        let views = views(texts());
        let status = views
            .iter()
            .find(|view| view.name == "ledger.partition_status");
        let anew = status.expect("migration 24 makes it").anew();
        for part in [
            "CREATE OR REPLACE VIEW",
            "sluice.partition_holder(",
            "COMMENT ON VIEW",
            "GRANT SELECT ON ledger.partition_status TO sluice_writer;",
        ] {
            assert!(anew.contains(part), "{part}: {anew}");
        }
        let triggers = triggers(texts());
        let mut names: Vec<&str> = triggers.iter().map(|trigger| trigger.name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "capture",
                "record_pause",
                "record_step_down",
                "refuse_balance_topic"
            ]
        );
        // What would change a view or take a right from it in another way is not read.
        for statement in texts().flat_map(statements) {
            assert!(!statement.starts_with("ALTER VIEW"), "{statement}");
            let revoked = statement.starts_with("REVOKE")
                && views.iter().any(|view| statement.contains(view.name));
            assert!(!revoked, "{statement}");
        }
    }
}
