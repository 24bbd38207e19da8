//! JSON as the contract reads it (RFC 8259, UTF-8 without byte order mark, at most 128 levels,
//! no lone surrogate), into a tree that keeps what ordinary readers drop: the text of numbers
//! and fields that are given twice.

pub const MAX_DEPTH: usize = 128;

#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// The number's own text: amounts never pass through a float.
    Number(String),
    String(String),
    Array(Vec<Json>),
    /// All fields in the order of the text, also those that repeat a name.
    Object(Vec<(String, Json)>),
}

/// Reads one JSON text; `None` when the bytes are none.
pub fn parse(bytes: &[u8]) -> Option<Json> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.skip_space();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn eat(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        self.skip_space();
        match self.rest.bytes().next()? {
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b'"' => self.string().map(Json::String),
            b't' => self.eat("true").map(|()| Json::Bool(true)),
            b'f' => self.eat("false").map(|()| Json::Bool(false)),
            b'n' => self.eat("null").map(|()| Json::Null),
            _ => self.number().map(Json::Number),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.eat("{")?;
        let mut fields = Vec::new();
        self.skip_space();
        if self.eat("}").is_some() {
            return Some(Json::Object(fields));
        }
        loop {
            self.skip_space();
            let name = self.string()?;
            self.skip_space();
            self.eat(":")?;
            fields.push((name, self.value(depth)?));
            self.skip_space();
            if self.eat(",").is_none() {
                return self.eat("}").map(|()| Json::Object(fields));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<Json> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.eat("[")?;
        let mut items = Vec::new();
        self.skip_space();
        if self.eat("]").is_some() {
            return Some(Json::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.skip_space();
            if self.eat(",").is_none() {
                return self.eat("]").map(|()| Json::Array(items));
            }
        }
    }

    fn number(&mut self) -> Option<String> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)))
            .unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        is_number(text).then(|| text.to_owned())
    }

    fn string(&mut self) -> Option<String> {
        self.eat("\"")?;
        let mut string = String::new();
        loop {
            let end = self.rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            string.push_str(&self.rest[..end]);
            self.rest = &self.rest[end..];
            if self.eat("\"").is_some() {
                return Some(string);
            }
            self.eat("\\")?;
            string.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let escaped = chars.next()?;
        self.rest = chars.as_str();
        Some(match escaped {
            '"' | '\\' | '/' => escaped,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let mut units = vec![self.hex4()?];
                if (0xd800..0xdc00).contains(&units[0]) {
                    self.eat("\\u")?;
                    units.push(self.hex4()?);
                }
                // Decoding fails for a surrogate that stands alone, and a pair is exactly one character.
                let decoded: Vec<char> =
                    char::decode_utf16(units).collect::<Result<_, _>>().ok()?;
                <[char; 1]>::try_from(decoded).ok()?[0]
            }
            _ => return None,
        })
    }

    fn hex4(&mut self) -> Option<u16> {
        let digits = self
            .rest
            .get(..4)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        self.rest = &self.rest[4..];
        u16::from_str_radix(digits, 16).ok()
    }
}

fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent
            .is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_rfc_8259_allows() {
        for good in [
            "0",
            "-0",
            "1.5e+10",
            " [ ] ",
            r#"{"a":{"a":1,"a":2}}"#,
            r#""\ud83d\ude00""#,
            r#""\u0000""#,
            "\"\u{7f}\"",
        ] {
            assert!(parse(good.as_bytes()).is_some(), "{good}");
        }
        assert_eq!(
            parse(br#""\ud83d\ude00\u00e9""#),
            Some(Json::String("😀é".into()))
        );
        assert_eq!(
            parse(b"[1.50]"),
            Some(Json::Array(vec![Json::Number("1.50".into())]))
        );
    }

    #[test]
    fn refuses_everything_else() {
        for bad in [
            "",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "--1",
            "[1,]",
            "{,}",
            "nul",
            "\"\t\"",
            r#""\ud800""#,
            r#""\udc00\ud800""#,
            "{}x",
            "\u{feff}{}",
            r#""\u+123""#,
        ] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn goes_down_128_levels_and_not_129() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(128).as_bytes()).is_some());
        assert!(parse(nested(129).as_bytes()).is_none());
    }
}
