//! Tables of figures, on stdout and in `bench/README.md`.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::stack::Result;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const PERFORMANCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");

/// Puts a part's text between its markers, which are in `bench/README.md` unless they are the steps'.
pub fn write(part: &str, text: &str) -> Result<()> {
    let file = if part == "steps" { PERFORMANCE } else { README };
    let readme = std::fs::read_to_string(file)?;
    let begin = format!("<!-- {part}: written by `make bench` -->\n");
    let end = format!("<!-- end of {part} -->");
    let lost = |marker: &str| format!("{file} has lost its marker {marker}");
    let (before, rest) = readme.split_once(&begin).ok_or_else(|| lost(&begin))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| lost(&end))?;
    std::fs::write(file, format!("{before}{begin}\n{text}\n\n{end}{after}"))?;
    Ok(())
}

pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header);
    table
}

/// All columns but the first, which says what is measured.
pub fn right_aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A ratio with three digits that mean something.
pub fn ratio(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A whole number with commas.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
