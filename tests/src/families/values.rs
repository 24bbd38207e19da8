//! Values that fit a field, and values that do not.

use serde_json::{Map, Value, json};

use super::schema::{Field, Kind};
use crate::rng::Rng;

/// A value of this kind; ids are drawn from a pool of so many of each sort.
pub fn good(rng: &mut Rng, field: &Field, pool: u64) -> Value {
    match &field.kind {
        Kind::Id => id(rng, &field.name, pool),
        // Few, for the key of a wallet is to come again.
        Kind::Text { .. } if field.name == "currency" => {
            json!(rng.pick(&["USD", "eur", "₿", "Loyalty points"]))
        }
        Kind::Text { shortest, longest } => {
            let length = rng.between(*shortest, 6.min(*longest));
            let letters = ['a', 'é', '—', 'z', '😀', '\'', '"', '\\', '{', ',', '}'];
            Value::String((0..length).map(|_| *rng.pick(&letters)).collect())
        }
        Kind::Choice(choices) => json!(rng.pick(choices)),
        Kind::Amount { signed: true } => rng
            .pick(&[
                json!("-1.5"),
                json!("0"),
                json!("12.000000000000000001"),
                json!(3),
                json!(-2.5),
                json!("999999999999999999.999999999999999999"),
            ])
            .clone(),
        Kind::Amount { signed: false } => rng
            .pick(&[
                json!("0"),
                json!("1.50"),
                json!("7"),
                json!(12.5),
                json!("0.000000000000000001"),
            ])
            .clone(),
        Kind::Time => {
            let day = rng.between(1, 10);
            let zone = rng.pick(&["Z", "+02:00", ".123456Z"]);
            json!(format!("2026-01-{day:02}T00:00:00{zone}"))
        }
        Kind::Whole { lowest, highest } => {
            json!(*lowest + rng.below(9.min(highest - lowest) as u64) as i64)
        }
        Kind::Texts => {
            let texts = ["a", "b,c", "\"q\"", "{}", "NULL"];
            (0..rng.below(4)).map(|_| *rng.pick(&texts)).collect()
        }
        Kind::Object => json!({ "a": rng.below(4) }),
        Kind::Updates(fields) => {
            let mut updates = Map::new();
            for field in fields {
                if rng.chance(500) {
                    let is_cleared = !field.required && rng.chance(300);
                    let value = if is_cleared {
                        Value::Null
                    } else {
                        good(rng, field, pool)
                    };
                    updates.insert(field.name.clone(), value);
                }
            }
            add_extra(rng, &mut updates);
            Value::Object(updates)
        }
    }
}

/// Now and then fields that Sluice did not choose.
pub fn add_extra(rng: &mut Rng, object: &mut Map<String, Value>) {
    for name in [
        "phone",
        "birthDate",
        "location",
        "",
        "é\"\\",
        "extra_version",
    ] {
        if rng.chance(120) {
            let number = rng.below(1000);
            let values = [
                json!("+31 20 123"),
                json!(number),
                json!(12.5),
                Value::Null,
                json!({ "city": "Delft", "at": [52.01, null] }),
                json!([]),
                json!(true),
            ];
            object.insert(name.to_owned(), rng.pick(&values).clone());
        }
    }
}

fn id(rng: &mut Rng, field: &str, pool: u64) -> Value {
    let entity = entity(field);
    match rng.below(pool) {
        // One id, spelled in two ways.
        0 if entity == "user" => rng.pick(&[json!(7), json!("7")]).clone(),
        number => json!(format!("{entity}{number}")),
    }
}

/// What an id of this name is of.
fn entity(field: &str) -> &str {
    match field {
        "userId" | "authorId" | "followerId" | "followeeId" | "blockerId" | "blockedId"
        | "fromUserId" | "toUserId" | "senderId" | "recipientId" => "user",
        "parentCommentId" => "comment",
        other => other.strip_suffix("Id").expect("the name of an id"),
    }
}

/// Values that a field of this kind must refuse, null apart.
pub fn bad(kind: &Kind) -> Vec<Value> {
    let long = |letters: u64| json!("x".repeat(letters as usize));
    let strings = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<_>>();
    let mut values = match kind {
        Kind::Id => vec![
            json!(""),
            long(256),
            json!("é".repeat(128)),
            json!(1.5),
            json!([]),
            json!(["a"]),
        ],
        Kind::Text { shortest, longest } => {
            let mut values = vec![long(longest + 1), json!(5), json!(["a"])];
            values.extend((*shortest > 0).then(|| json!("")));
            values
        }
        Kind::Choice(choices) => vec![
            json!(""),
            json!(choices[0].to_lowercase()),
            json!(format!("{} ", choices[0])),
            json!(5),
            json!([choices[0]]),
        ],
        Kind::Amount { signed } => {
            let mut values = strings(&[
                "",
                "NaN",
                "Infinity",
                "1e5",
                "+1",
                " 1",
                "1 ",
                "1.",
                ".5",
                "1,5",
                "--1",
                "0x10",
                "1\n",
                "1.0000000000000000000",
                "1111111111111111111",
            ]);
            values.extend([json!([1]), json!(1e300)]);
            if !signed {
                values.extend([json!("-1"), json!("-0"), json!(-1), json!(-0.5)]);
            }
            values
        }
        Kind::Time => {
            let mut values = strings(&[
                "",
                "2026-02-29T00:00:00Z",
                "2026-01-01",
                "2026-01-01T00:00:00",
                "2026-01-01 00:00:00Z",
                "infinity",
                "now",
                "2026-13-01T00:00:00Z",
                "2026-01-01T00:60:00Z",
                "2026-01-01T24:00:00Z",
                "2026-01-01T00:00:00+24:00",
            ]);
            values.push(json!(5));
            values
        }
        Kind::Whole { lowest, highest } => {
            vec![
                json!(lowest - 1),
                json!(highest + 1),
                json!(1.5),
                json!("5"),
            ]
        }
        Kind::Texts => vec![
            json!("a"),
            json!([1]),
            json!([""]),
            json!([["a"]]),
            json!([null]),
            json!(vec!["a"; 65]),
            json!(0),
        ],
        Kind::Object | Kind::Updates(_) => vec![json!("a"), json!([]), json!(5)],
    };
    values.push(json!(true));
    if !matches!(kind, Kind::Object | Kind::Updates(_)) {
        values.push(json!({}));
    }
    values
}
