//! What `sluice check` found: one line for each look, as a table that fits its width or as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::output::{Output, write_line};
use crate::cli::table::{size, wrapped};
use crate::terminal::clean;

/// How long one look may take.
pub(super) const LIMIT: Duration = Duration::from_secs(8);

/// What one look found.
pub(super) struct Finding {
    what: String,
    found: String,
    verdict: Level,
}

pub(super) enum Level {
    Fits,
    /// What nobody can call right or wrong from here, and what to do where it is wrong.
    Note(String),
    /// Not as it should be, and Sluice works all the same.
    Warns(String),
    Fails(String),
}

impl Level {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Fits => "ok",
            Self::Note(_) => "note",
            Self::Warns(_) => "warn",
            Self::Fails(_) => "fail",
        }
    }

    fn advice(&self) -> &str {
        match self {
            Self::Fits => "",
            Self::Note(advice) | Self::Warns(advice) | Self::Fails(advice) => advice,
        }
    }
}

#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    fn push(&mut self, what: impl Into<String>, found: impl Into<String>, verdict: Level) {
        self.0.push(Finding {
            what: what.into(),
            found: found.into(),
            verdict,
        });
    }

    pub(super) fn fits(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.push(what, found, Level::Fits);
    }

    pub(super) fn note(&mut self, what: impl Into<String>, found: impl Into<String>, advice: &str) {
        self.push(what, found, Level::Note(advice.to_owned()));
    }

    pub(super) fn warns(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        advice: &str,
    ) {
        self.push(what, found, Level::Warns(advice.to_owned()));
    }

    pub(super) fn fails(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        advice: &str,
    ) {
        self.push(what, found, Level::Fails(advice.to_owned()));
    }

    /// `advice` is what to change when `fits` is false.
    pub(super) fn test(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        fits: bool,
        advice: &str,
    ) {
        match fits {
            true => self.fits(what, found),
            false => self.fails(what, found, advice),
        }
    }

    pub(super) fn anything_fails(&self) -> bool {
        let fails = |finding: &Finding| matches!(finding.verdict, Level::Fails(_));
        self.0.iter().any(fails)
    }

    pub(super) fn print(&self, output: Output) -> Result<(), String> {
        let told = || self.0.iter().map(Finding::told);
        match output {
            Output::Json => {
                let all: Vec<Value> = told().collect();
                write_line(&serde_json::to_string_pretty(&all).unwrap_or_default())
            }
            Output::Jsonl => told()
                .map(|row| row.to_string())
                .try_for_each(|row| write_line(&row)),
            Output::Wide => self.write(None),
            Output::Table => self.write(size().0),
        }
    }

    fn write(&self, width: Option<usize>) -> Result<(), String> {
        let mut lines = self.0.iter().flat_map(|finding| finding.lines(width));
        lines.try_for_each(|line| write_line(&line))
    }
}

/// Where the second column of a narrow table begins.
const INDENT: usize = 6;

impl Finding {
    fn told(&self) -> Value {
        json!({
            "check": self.what,
            "verdict": self.verdict.as_str(),
            "found": self.found,
            "advice": Some(self.verdict.advice()).filter(|advice| !advice.is_empty()),
        })
    }

    /// One line where there is room for it; else what to change stands below, broken between words.
    fn lines(&self, width: Option<usize>) -> Vec<String> {
        let (verdict, advice) = (self.verdict.as_str(), self.verdict.advice());
        let head = clean(&format!("{verdict:4}  {}: {}", self.what, self.found)).into_owned();
        let whole = match advice {
            "" => head.clone(),
            advice => format!("{head}; {}", clean(advice)),
        };
        let Some(width) = width.filter(|width| whole.chars().count() > *width) else {
            return vec![whole];
        };
        let room = width.saturating_sub(INDENT).max(20);
        let rest = format!("{}: {}", self.what, self.found);
        let mut lines = wrapped(&clean(&rest), room);
        for line in lines.iter_mut().skip(1) {
            line.insert_str(0, "  ");
        }
        lines.extend(
            wrapped(&clean(advice), room - 2)
                .into_iter()
                .map(|line| format!("  {line}")),
        );
        let indent = |(index, line): (usize, String)| match index {
            0 => format!("{verdict:4}  {line}"),
            _ => format!("{}{line}", " ".repeat(INDENT)),
        };
        lines.into_iter().enumerate().map(indent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_fits_its_width_and_breaks_no_word() {
        let mut findings = Findings::default();
        let advice = "let the ingester log in as a plain member of sluice_writer, which may call functions and write nothing";
        findings.fails("least privilege", "may write ledger.dead_letters", advice);
        findings.fits("fsync", "on");
        let lines: Vec<String> = findings
            .0
            .iter()
            .flat_map(|one| one.lines(Some(60)))
            .collect();
        assert!(
            lines.iter().all(|line| line.chars().count() <= 60),
            "{lines:#?}"
        );
        assert!(
            lines[0].starts_with("fail  least privilege: may write"),
            "{lines:#?}"
        );
        let words: Vec<&str> = lines
            .iter()
            .flat_map(|line| line.split_whitespace())
            .collect();
        assert!(words.join(" ").contains(advice), "{lines:#?}");
        assert_eq!(lines.last().map(String::as_str), Some("ok    fsync: on"));
        assert_eq!(findings.0[0].lines(None).len(), 1);
        let told = findings.0[0].told();
        assert_eq!(
            (&told["verdict"], &told["advice"]),
            (&json!("fail"), &json!(advice))
        );
        assert_eq!(findings.0[1].told()["advice"], Value::Null);
    }
}
