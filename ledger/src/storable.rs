//! `data` of a domain event: whether it is unambiguous, and whether PostgreSQL's jsonb can store it.
//!
//! A handler gets all of `data`. A value that jsonb cannot store would make every handler fail, whether it reads that
//! field or not, with a message that names neither event nor field. So it is found here, and is the record's fault.

use std::fmt;

use crate::json::{Malformed, Reader, Token, told};

/// The largest size of a jsonb in bytes (`JENTRY_OFFLENMASK` in src/include/utils/jsonb.h).
const MAX_JSONB_BYTES: usize = (1 << 28) - 1;
/// The most that a value or a name takes in a jsonb besides its own text: entry, header of a number, padding.
const BYTES_OF_A_VALUE: usize = 16;
/// How many steps of a field's path are shown.
const MAX_STEPS: usize = 16;

const ZERO_IN_NAME: &str = "has U+0000 in its name, which PostgreSQL cannot store";
const ZERO: &str = "contains U+0000, which PostgreSQL cannot store";
const NUMBER: &str = "is a number that PostgreSQL cannot store: it takes 131,072 digits before and 16,383 behind the point";
const TOO_LARGE: &str = "is larger than a jsonb of PostgreSQL can be";
const TWICE: &str = "is given twice";

/// Where `data` has a defect, and which.
#[derive(Debug)]
pub struct Fault {
    /// The path, from the field outwards.
    steps: Vec<Step>,
    what: &'static str,
}

#[derive(Debug)]
enum Step {
    Field(String),
    Item(usize),
}

impl Fault {
    /// What is wrong with the field.
    pub fn rule(&self) -> &'static str {
        self.what
    }
}

/// The field, as in `data.items[3].price`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("data")?;
        for step in self.steps.iter().rev().take(MAX_STEPS) {
            match step {
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        if self.steps.len() > MAX_STEPS {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// Reads an object to its end; returns its first defect, if any.
///
/// # Errors
/// If the text is not JSON.
pub fn read_data(reader: &mut Reader<'_>) -> Result<Option<Fault>, Malformed> {
    let start = reader.position();
    let mut walk = Walk::default();
    walk.object(reader)?;
    let bytes = walk.values * BYTES_OF_A_VALUE + (reader.position() - start);
    if bytes > MAX_JSONB_BYTES {
        walk.found(TOO_LARGE, None);
    }
    Ok(walk.fault)
}

#[derive(Default)]
struct Walk {
    fault: Option<Fault>,
    /// Names count as well.
    values: usize,
}

impl Walk {
    fn found(&mut self, what: &'static str, step: Option<Step>) {
        self.fault.get_or_insert_with(|| Fault {
            steps: step.into_iter().collect(),
            what,
        });
    }

    /// Reads a value; the path of a defect in it gets one more step.
    fn step(
        &mut self,
        reader: &mut Reader<'_>,
        token: Token<'_>,
        step: impl FnOnce() -> Step,
    ) -> Result<(), Malformed> {
        let is_first = self.fault.is_none();
        self.value(reader, token)?;
        if let (true, Some(fault)) = (is_first, &mut self.fault) {
            fault.steps.push(step());
        }
        Ok(())
    }

    fn object(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut names = Vec::new();
        while let Some(name) = reader.next_key()? {
            let name = name.value();
            let token = reader.value()?;
            if name.contains('\0') {
                self.found(ZERO_IN_NAME, Some(Step::Field(told(&name))));
            }
            self.values += 1;
            self.step(reader, token, || Step::Field(told(&name)))?;
            names.push(name);
        }
        // Two readers could read different values.
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            self.found(TWICE, Some(Step::Field(told(&pair[0]))));
        }
        Ok(())
    }

    fn value(&mut self, reader: &mut Reader<'_>, token: Token<'_>) -> Result<(), Malformed> {
        self.values += 1;
        match token {
            Token::Object => self.object(reader)?,
            Token::Array => {
                let mut index = 0;
                while reader.next_item()? {
                    let token = reader.value()?;
                    self.step(reader, token, || Step::Item(index))?;
                    index += 1;
                }
            }
            // It can only be written as an escape.
            Token::String(text) if text.plain().is_none() && text.value().contains('\0') => {
                self.found(ZERO, None);
            }
            Token::Number(text) if !is_numeric(text) => self.found(NUMBER, None),
            _ => {}
        }
        Ok(())
    }
}

/// The most digits before and after the point that a numeric can have.
const MAX_WHOLE_DIGITS: i64 = 131_072;
const MAX_SCALE: i64 = 16_383;
/// PostgreSQL refuses exponents beyond about this, also of zero.
const MAX_EXPONENT: i64 = 1_000_000_000;
/// A number of at most this length without an exponent always fits a numeric.
const SURELY_NUMERIC: usize = 1_000;

/// Whether PostgreSQL's numeric can store a JSON number.
fn is_numeric(text: &str) -> bool {
    let is_exponent = |byte: u8| matches!(byte, b'e' | b'E');
    let place = text.bytes().position(is_exponent);
    if place.is_none() && text.len() <= SURELY_NUMERIC {
        return true;
    }
    let (mantissa, exponent) = match place {
        None => (text, Some(0)),
        Some(place) => (&text[..place], text[place + 1..].parse::<i64>().ok()),
    };
    let Some(exponent) = exponent.filter(|exponent| exponent.abs() < MAX_EXPONENT) else {
        return false;
    };
    let digits = mantissa.trim_start_matches('-');
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() as i64 - exponent > MAX_SCALE {
        return false;
    }
    let counts = |byte: u8| byte != b'0';
    let first = match whole.bytes().position(counts) {
        Some(place) => (whole.len() - place) as i64,
        None => match fraction.bytes().position(counts) {
            Some(place) => -(place as i64),
            None => return true,
        },
    };
    first + exponent <= MAX_WHOLE_DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_and_rule(text: &str) -> Option<(String, &'static str)> {
        let mut reader = Reader::new(text.as_bytes()).expect("UTF-8");
        assert!(matches!(reader.value(), Ok(Token::Object)));
        let fault = read_data(&mut reader).expect("JSON");
        fault.map(|fault| (fault.to_string(), fault.rule()))
    }

    #[test]
    fn the_first_fault_is_named_with_its_way() {
        for (text, field, rule) in [
            (r#"{"a":1,"a":2}"#, "data.a", TWICE),
            (r#"{"a":[0,{"b":"x\u0000"}]}"#, "data.a[1].b", ZERO),
            (r#"{"a":{"b\u0000":1}}"#, "data.a.b\\u{0}", ZERO_IN_NAME),
            (r#"{"x":"ok","a":[[1e999999999]]}"#, "data.a[0][0]", NUMBER),
            (r#"{"a":"\u0000","b":"\u0000"}"#, "data.a", ZERO),
        ] {
            assert_eq!(
                field_and_rule(text),
                Some((field.to_owned(), rule)),
                "{text}"
            );
        }
        let deep = format!("{}\"\\u0000\"{}", "{\"a\":".repeat(100), "}".repeat(100));
        let (field, _) = field_and_rule(&deep).expect("a fault");
        assert_eq!(field, format!("data{}...", ".a".repeat(16)));
        for good in [r#"{"a":"\\u0000"}"#, r#"{"a":1e100,"A":1}"#, "{}"] {
            assert_eq!(field_and_rule(good), None, "{good}");
        }
    }

    #[test]
    fn what_is_too_large_for_a_jsonb() {
        let list = |values: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(values));
        assert_eq!(field_and_rule(&list(1_000_000)), None);
        let found = field_and_rule(&list(15_000_000));
        assert_eq!(found, Some(("data".to_owned(), TOO_LARGE)));
    }
}
