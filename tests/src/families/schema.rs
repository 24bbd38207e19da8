//! The event types, as their JSON Schemas in `families/platform/events/` describe them.

use std::fmt;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use crate::stack::repository;

pub struct EventType {
    pub name: String,
    pub schema: Value,
    /// A whole event.
    pub sample: Value,
    /// Of `data`.
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub kind: Kind,
    /// In an update: not null.
    pub required: bool,
    pub meaning: String,
}

#[derive(Debug)]
pub enum Kind {
    Id,
    Text { shortest: u64, longest: u64 },
    Choice(Vec<String>),
    Amount { signed: bool },
    Time,
    Whole { lowest: i64, highest: i64 },
    Texts,
    Object,
    Updates(Vec<Field>),
}

impl EventType {
    /// All of them, in the order of their samples.
    pub fn all() -> Vec<Self> {
        let folder = repository().join("families/platform/events");
        let mut types: Vec<Self> = std::fs::read_dir(&folder)
            .expect("the folder of schemas")
            .map(|entry| {
                let path = entry.expect("a readable folder").path();
                let text = std::fs::read_to_string(&path).expect("a readable schema");
                let schema: Value = serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let file = path.file_name().expect("a file").to_string_lossy();
                let name = file
                    .strip_suffix(".schema.json")
                    .expect("only schemas lie here");
                Self::of(name, schema)
            })
            .collect();
        types.sort_by_key(|found| found.sample["eventId"].to_string());
        types
    }

    fn of(name: &str, schema: Value) -> Self {
        assert_eq!(schema["properties"]["eventType"]["const"], *name);
        Self {
            name: name.to_owned(),
            sample: schema["examples"][0].clone(),
            fields: fields(&schema["properties"]["data"], false),
            schema,
        }
    }

    pub fn data(&self) -> Value {
        self.sample["data"].clone()
    }

    pub fn validator(&self) -> Validator {
        Validator::of(&self.name, self.schema.clone())
    }
}

pub struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    pub fn of(name: &str, schema: Value) -> Self {
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        compiler.enable_format_assertions();
        compiler
            .add_resource("schema.json", schema)
            .expect("a schema");
        let index = compiler
            .compile("schema.json", &mut schemas)
            .unwrap_or_else(|error| panic!("the schema of {name}: {error}"));
        Self { schemas, index }
    }

    /// What is wrong with an event, if something is.
    pub fn refusal(&self, event: &Value) -> Option<String> {
        self.schemas
            .validate(event, self.index)
            .err()
            .map(|error| error.to_string())
    }
}

fn fields(object: &Value, in_update: bool) -> Vec<Field> {
    let required: Vec<&str> = object["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let properties = object["properties"].as_object().expect("properties");
    properties
        .iter()
        .map(|(name, fragment)| Field {
            name: name.clone(),
            kind: Kind::of(fragment),
            required: if in_update {
                !is_nullable(fragment)
            } else {
                required.contains(&name.as_str())
            },
            meaning: fragment["description"]
                .as_str()
                .expect("a meaning")
                .to_owned(),
        })
        .collect()
}

fn is_nullable(fragment: &Value) -> bool {
    let holds =
        |list: &Value, null: &Value| list.as_array().is_some_and(|list| list.contains(null));
    holds(&fragment["type"], &"null".into())
        || holds(&fragment["enum"], &Value::Null)
        || holds(&fragment["anyOf"], &serde_json::json!({ "type": "null" }))
}

impl Kind {
    fn of(fragment: &Value) -> Self {
        let main = fragment["anyOf"].get(0).unwrap_or(fragment);
        if let Some(choices) = main["enum"].as_array() {
            return Self::Choice(
                choices
                    .iter()
                    .filter_map(|c| Some(c.as_str()?.to_owned()))
                    .collect(),
            );
        }
        let pattern = main["pattern"].as_str();
        match main["type"][0].as_str().or(main["type"].as_str()) {
            Some("string") if main["format"] == "date-time" => Self::Time,
            Some("string") if pattern.is_some() => Self::Amount {
                signed: pattern.is_some_and(|pattern| pattern.starts_with("^-?")),
            },
            Some("string") if fragment["anyOf"].is_array() => Self::Id,
            Some("string") => Self::Text {
                shortest: main["minLength"].as_u64().unwrap_or(0),
                longest: main["maxLength"].as_u64().expect("a text has a limit"),
            },
            Some("integer") => Self::Whole {
                lowest: main["minimum"].as_i64().expect("an integer has limits"),
                highest: main["maximum"].as_i64().expect("an integer has limits"),
            },
            Some("array") => Self::Texts,
            Some("object") if main["properties"].is_object() => Self::Updates(fields(main, true)),
            Some("object") => Self::Object,
            _ => panic!("no kind of field is described by {fragment}"),
        }
    }
}

/// As `docs/events.md` calls them.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("id"),
            Self::Text {
                shortest: 0,
                longest,
            } => write!(f, "text, up to {longest} characters"),
            Self::Text { shortest, longest } => {
                write!(f, "text, {shortest} to {longest} characters")
            }
            Self::Choice(choices) => write!(f, "`{}`", choices.join("`, `")),
            Self::Amount { signed: true } => f.write_str("amount"),
            Self::Amount { signed: false } => f.write_str("amount, no sign"),
            Self::Time => f.write_str("time"),
            Self::Whole { lowest, .. } => write!(f, "integer from {lowest}"),
            Self::Texts => f.write_str("list of texts"),
            Self::Object | Self::Updates(_) => f.write_str("object"),
        }
    }
}
