//! Rows as a table that fits where it is shown: on a terminal no line is broken, what does not fit ends in `…`, and where that is
//! not enough there are fewer columns. In a file or a pipe nothing is cut, unless `COLUMNS` says how wide it is to be.

use std::io::IsTerminal;

use serde_json::{Map, Value};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::terminal::clean;

/// A column that can be cut keeps so much.
const LEAST: usize = 8;
const GAP: &str = "  ";
/// Longer texts are cut, also where there is room.
const CELL: usize = 100;

type Row = Map<String, Value>;

/// Columns and lines of the terminal, or as `COLUMNS` and `LINES` say; `None`: as many as are wanted.
pub fn size() -> (Option<usize>, Option<usize>) {
    if std::io::stdout().is_terminal()
        && let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout())
        && size.ws_col > 0
    {
        return (Some(size.ws_col.into()), Some(size.ws_row.into()));
    }
    let number = |name: &str| {
        let given = std::env::var(name).ok()?.parse::<usize>().ok();
        given.filter(|number| *number > 0)
    };
    (number("COLUMNS"), number("LINES"))
}

/// A header and a line for each row. `narrow` are the columns where not all of them fit.
pub fn lines(rows: &[&Row], narrow: &[&str], width: Option<usize>) -> Vec<String> {
    let Some(first) = rows.first() else {
        return Vec::new();
    };
    let all: Vec<&str> = first.keys().map(String::as_str).collect();
    let Some(width) = width else {
        return Columns::of(rows, &all).lines();
    };
    let columns = Columns::of(rows, &all);
    if columns.width() <= width {
        return columns.lines();
    }
    let some: Vec<&str> = narrow
        .iter()
        .copied()
        .filter(|name| all.contains(name))
        .collect();
    let mut columns = match some.is_empty() {
        true => columns,
        false => Columns::of(rows, &some),
    };
    columns.fit(width);
    columns.lines()
}

/// Text in a column of this width, cut with `…` where it is longer.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let mut cut: String = text
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used < width
        })
        .collect();
    cut.push('…');
    cut
}

/// Lines of at most this width, broken between words only; a longer word has a line of its own.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

struct Column {
    width: usize,
    is_number: bool,
    /// The name first.
    cells: Vec<String>,
}

struct Columns(Vec<Column>);

impl Columns {
    fn of(rows: &[&Row], names: &[&str]) -> Self {
        let column = |name: &&str| {
            let values = || rows.iter().map(|row| &row[*name]);
            let is_number = values().any(Value::is_number)
                && values().all(|value| value.is_number() || value.is_null());
            let cells = values().map(|value| short(&cell(value)));
            let cells: Vec<String> = std::iter::once((*name).to_owned()).chain(cells).collect();
            Column {
                width: cells.iter().map(|cell| cell.width()).max().unwrap_or(0),
                is_number,
                cells,
            }
        };
        Self(names.iter().map(column).collect())
    }

    fn width(&self) -> usize {
        let gaps = GAP.len() * self.0.len().saturating_sub(1);
        self.0.iter().map(|column| column.width).sum::<usize>() + gaps
    }

    /// Numbers are never cut: half of one is another one.
    fn fit(&mut self, width: usize) {
        while self.width() > width {
            let columns = self.0.iter().enumerate();
            let can_be_cut =
                columns.filter(|(_, column)| !column.is_number && column.width > LEAST);
            let widest = can_be_cut.max_by_key(|(_, column)| column.width);
            match widest.map(|(index, _)| index) {
                Some(index) => self.0[index].width -= 1,
                None if self.0.len() > 1 => drop(self.0.pop()),
                None => return,
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let count = self.0.first().map_or(0, |column| column.cells.len());
        let line = |index: usize| {
            let cells = self.0.iter().map(|column| {
                let text = cut(&column.cells[index], column.width);
                let blanks = " ".repeat(column.width - text.width().min(column.width));
                match column.is_number {
                    true => format!("{blanks}{text}"),
                    false => format!("{text}{blanks}"),
                }
            });
            let line = cells.collect::<Vec<_>>().join(GAP);
            line.trim_end().to_owned()
        };
        (0..count).map(line).collect()
    }
}

pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => time(text).unwrap_or_else(|| text.clone()),
        other => other.to_string(),
    }
}

/// A time as people read it, to the second: PostgreSQL's JSON has `2026-11-21T05:00:00.123456+00:00`.
fn time(text: &str) -> Option<String> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.strip_prefix('T')?.split_at_checked(8)?;
    let is_like = |text: &str, shape: &str| {
        let mut both = text.chars().zip(shape.chars());
        both.all(|(c, s)| c.is_ascii_digit() == (s == '0') && (s == '0' || c == s))
    };
    let fraction = |c: char| c == '.' || c.is_ascii_digit();
    (is_like(date, "0000-00-00") && is_like(time, "00:00:00"))
        .then(|| format!("{date} {time}{}", rest.trim_start_matches(fraction)))
}

/// On one line, and not too long for a table.
pub fn short(text: &str) -> String {
    let text = clean(text);
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = chars.by_ref().take(CELL).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(rows: &[Value], narrow: &[&str], width: Option<usize>) -> Vec<String> {
        let rows: Vec<&Row> = rows.iter().filter_map(Value::as_object).collect();
        lines(&rows, narrow, width)
    }

    #[test]
    fn a_table_fits_its_width_without_a_broken_word() {
        let rows = [
            json!({"partition": "a.topic.with.a.long.name/12", "offset": 123_456_789, "leader": "host-a-1f2e3d4c", "reason": "the handler broke on five events"}),
            json!({"partition": "b/0", "offset": 7, "leader": null, "reason": null}),
        ];
        let all = shown(&rows, &[], None);
        assert_eq!(all.len(), 3);
        assert!(all[1].ends_with("the handler broke on five events"));
        for width in [20, 40, 60] {
            let lines = shown(&rows, &["partition", "offset", "reason"], Some(width));
            assert_eq!(lines.len(), 3, "no row takes two lines");
            assert!(lines.iter().all(|line| line.width() <= width), "{lines:?}");
            assert!(
                lines[1].contains('…') && !lines[0].contains("leader"),
                "{lines:?}"
            );
        }
        let lines = shown(&rows, &["partition", "offset", "reason"], Some(40));
        assert!(
            lines[1].contains(" 123456789 "),
            "no number is cut: {lines:?}"
        );
        assert!(
            lines[2].contains("         7"),
            "numbers stand below each other"
        );
    }

    #[test]
    fn wide_characters_count_as_wide_as_they_are_shown() {
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
    }

    #[test]
    fn a_text_is_broken_between_words_only() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(
            wrapped("a averyverylongword b", 6),
            ["a", "averyverylongword", "b"]
        );
    }
}
