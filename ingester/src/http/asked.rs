//! What requests carry, and how it is answered where it does not fit or the database does not do it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::http::refusal::Refusal;
use crate::operator::session::{ACTION_LIMIT, OperatorError};

/// Of a request; Kafka's own limit for a record is half of it.
pub const BODY_BYTES: usize = 2 << 20;
const NAME_CHARS: usize = 100;
const WHY_CHARS: usize = 1_000;

pub type Answer = Result<Json<Value>, Refusal>;

pub fn bad(text: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, text)
}

/// Parameters of a query, as they come.
pub type Given = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// By name; one that is not known, or given twice, is refused: a misspelt filter must not look like none.
pub fn parameters(given: Given, known: &[&str]) -> Result<BTreeMap<String, String>, Refusal> {
    let Query(given) = given.map_err(|refused| bad(refused.body_text()))?;
    let mut found = BTreeMap::new();
    for (name, value) in given {
        if !known.contains(&name.as_str()) {
            let known = match known {
                [] => "there is none".to_owned(),
                known => format!("known are {}", known.join(", ")),
            };
            return Err(bad(format!("unknown parameter {name:?}: {known}")));
        }
        if found.contains_key(&name) {
            return Err(bad(format!("parameter {name:?} is given twice")));
        }
        found.insert(name, value);
    }
    Ok(found)
}

/// Who asks for a change, and why: told by whoever has the token, and recorded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub by: String,
    pub why: String,
}

impl Asked {
    /// As it stands in the database, whose own column has the login.
    pub fn recorded(&self) -> Result<String, Refusal> {
        let (by, why) = (self.by.trim(), self.why.trim());
        for (name, text, most) in [("by", by, NAME_CHARS), ("why", why, WHY_CHARS)] {
            let fits = (1..=most).contains(&text.chars().count());
            if !fits || text.chars().any(char::is_control) {
                let text = format!("{name}: must have 1 to {most} characters, on one line");
                return Err(bad(text));
            }
        }
        Ok(format!("{why} ({by})"))
    }
}

pub fn unreadable(refused: JsonRejection) -> Refusal {
    let text = match refused.status() {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body has more than {BODY_BYTES} bytes"),
        _ => refused.body_text(),
    };
    Refusal(refused.status(), text)
}

/// What was to be changed, and is not, or nobody knows.
pub fn not_done(trouble: OperatorError) -> Refusal {
    let is_late = matches!(trouble, OperatorError::Late);
    let Refusal(status, text) = refused(trouble);
    match is_late {
        true => Refusal(
            status,
            format!("{text}: it is done or not, look before you try again"),
        ),
        false => Refusal(status, text),
    }
}

pub fn refused(trouble: OperatorError) -> Refusal {
    let text = trouble.describe();
    let code = match &trouble {
        OperatorError::Refused(error) => error.code().map(|code| code.code()),
        OperatorError::Away(_) => None,
        OperatorError::Late => return Refusal(StatusCode::GATEWAY_TIMEOUT, text),
    };
    match code {
        Some("42704") => Refusal(StatusCode::NOT_FOUND, text),
        // What somebody gave as a number, a time or a key, and is none.
        Some("22023" | "22007" | "22008" | "22P02") => bad(text),
        Some("42501") => {
            let advice = "let OPERATOR_DATABASE_URL name a member of sluice_admin";
            Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("{text}; {advice}"))
        }
        Some("57014") => {
            let limit = ACTION_LIMIT.as_secs();
            let text = format!("not done within {limit} s, nothing is changed");
            Refusal(StatusCode::GATEWAY_TIMEOUT, text)
        }
        _ => Refusal(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_misspelt_or_given_twice_is_refused() {
        let given = |pairs: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Ok(Query(pairs.iter().map(own).collect()))
        };
        let known = ["status", "topic"];
        let found = parameters(given(&[("topic", "t")]), &known).expect("known");
        assert_eq!(found["topic"], "t");
        for (pairs, told) in [
            (
                &[("statsu", "x")][..],
                r#"unknown parameter "statsu": known are status, topic"#,
            ),
            (
                &[("topic", "a"), ("topic", "b")],
                r#"parameter "topic" is given twice"#,
            ),
        ] {
            let refusal = parameters(given(pairs), &known).expect_err("refused");
            assert_eq!((refusal.0.as_u16(), refusal.1.as_str()), (400, told));
        }
        let refusal = parameters(given(&[("a", "")]), &[]).expect_err("refused");
        assert_eq!(refusal.1, r#"unknown parameter "a": there is none"#);
    }
}
