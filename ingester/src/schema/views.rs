//! The views and triggers that come with Sluice, as its migrations leave them behind, each with what makes it anew.

/// A view as the migrations leave it behind.
pub struct View<'t> {
    /// With its schema.
    pub name: &'t str,
    definition: &'t str,
    /// Of the view and of its columns.
    comments: Vec<&'t str>,
    grants: Vec<String>,
}

impl View<'_> {
    /// Makes the view where there is none, with its comments and its grants.
    pub fn anew(&self) -> String {
        let parts = [self.definition]
            .into_iter()
            .chain(self.comments.iter().copied());
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
                // Comments and grants outlive a new definition.
                let former = former.map(|at| views.remove(at));
                let (comments, grants) = former.map_or((Vec::new(), Vec::new()), |view| {
                    (view.comments, view.grants)
                });
                views.push(View {
                    name,
                    definition: statement,
                    comments,
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
            ["COMMENT", "ON", what @ ("VIEW" | "COLUMN"), name, ..] => {
                let of = match what {
                    "COLUMN" => name.rsplit_once('.').map_or(name, |(relation, _)| relation),
                    _ => name,
                };
                for view in views.iter_mut().filter(|view| view.name == of) {
                    view.comments.push(statement);
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
    use crate::schema::lines::Line;

    const VIEWS: &str = "
-- A view; not the last word.
CREATE VIEW ledger.one AS SELECT ';' AS it; -- It's so.
CREATE VIEW ledger.two AS SELECT 2;
GRANT SELECT ON ledger.a, ledger.one,
    ledger.two TO reader;
COMMENT ON VIEW ledger.one IS 'One; it''s the first.';
COMMENT ON COLUMN ledger.one.it IS 'It.';
COMMENT ON COLUMN ledger.a.a IS 'Of a table.';
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
             COMMENT ON COLUMN ledger.one.it IS 'It.';\n\
             GRANT SELECT ON ledger.one TO reader;"
        );
        let triggers = triggers([VIEWS]);
        assert_eq!(triggers.len(), 1);
        assert_eq!((triggers[0].table, triggers[0].name), ("ledger.a", "t"));
        assert!(triggers[0].anew.ends_with("sluice.t();"));
    }

    #[test]
    fn the_views_and_triggers_of_the_migrations_are_known() {
        let lines = [Line::of_tables(), Line::of_platform()];
        let texts = || lines.iter().flat_map(Line::texts);
        let views = views(texts());
        let status = views
            .iter()
            .find(|view| view.name == "ledger.partition_status");
        let anew = status.expect("a migration makes it").anew();
        for part in [
            "CREATE VIEW",
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
