//! What goes to a terminal. Texts of others (event ids, keys, payloads, error messages, names of topics) must not move
//! its cursor, rename its window, ring its bell or turn a line round: one function cleans all of it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::instance::signed;

/// Characters that a terminal obeys instead of showing them, or that show nothing: as JSON escapes, so that JSON stays
/// JSON. Line breaks and tabs stay.
pub fn clean(text: &str) -> Cow<'_, str> {
    cleaned(text, |c| is_obeyed(c) && !matches!(c, '\n' | '\t'))
}

fn cleaned(text: &str, is_unwanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_unwanted) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unwanted(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(clean, "\\u{unit:04x}");
            }
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean)
}

/// Controls; marks and overrides of the direction of writing; what has no width; separators, tags and annotations.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A line to standard error.
pub fn tell(line: &str) {
    eprintln!("{}", clean(line));
}

/// Standard error for log lines, each with who wrote it. The colours that the formatter adds stay; it escapes ESC in what it is given.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let clean = cleaned(&text, |c| {
            is_obeyed(c) && !matches!(c, '\n' | '\t' | '\u{1b}')
        });
        io::stderr().write_all(signed(&clean).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_all_else_is_left_alone() {
        for (text, expected) in [
            ("e\u{1b}[31m\u{7}", "e\\u001b[31m\\u0007"),
            ("\u{202e}detsart\u{2066}", "\\u202edetsart\\u2066"),
            ("a\u{9b}2J\u{7f}\r", "a\\u009b2J\\u007f\\u000d"),
            (
                "in\u{200b}visible\u{e0041}",
                "in\\u200bvisible\\udb40\\udc41",
            ),
            (
                "zwei\n\tZeilen, Ünïcödé, 漢字, 🙂",
                "zwei\n\tZeilen, Ünïcödé, 漢字, 🙂",
            ),
        ] {
            assert_eq!(clean(text), expected);
        }
    }

    #[test]
    fn json_stays_json_and_says_the_same() {
        let text = "\u{1b}]0;title\u{7}\u{202e}\u{e0041}\u{85}";
        let json = serde_json::to_string(text).expect("a text");
        let read: String = serde_json::from_str(&clean(&json)).expect("JSON");
        assert_eq!(read, text);
    }
}
