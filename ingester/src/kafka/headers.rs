//! Headers of a record as JSON: `[{"key": …, "value": …}]`, in order. A value that is not text is
//! "base64" instead; a name that is not text has its bytes in "keyBase64" besides a legible form.

use serde_json::{Map, Value, json};

/// `None` for a record without headers.
pub fn as_json(headers: &[(&[u8], Option<&[u8]>)]) -> Option<String> {
    let headers: Vec<Value> = headers.iter().map(one_as_json).collect();
    (!headers.is_empty()).then(|| Value::Array(headers).to_string())
}

fn one_as_json((name, value): &(&[u8], Option<&[u8]>)) -> Value {
    let mut header = Map::new();
    header.insert("key".into(), String::from_utf8_lossy(name).into());
    if std::str::from_utf8(name).is_err() {
        header.insert("keyBase64".into(), base64(name).into());
    }
    let text = value.map(std::str::from_utf8);
    match (value, text) {
        (None, _) => header.insert("value".into(), Value::Null),
        // jsonb cannot store U+0000.
        (_, Some(Ok(text))) if !text.contains('\0') => header.insert("value".into(), json!(text)),
        (Some(bytes), _) => header.insert("base64".into(), base64(bytes).into()),
    };
    Value::Object(header)
}

/// Names and values, as [`as_json`] wrote them; a name that was not text is in its legible form.
pub fn of_json(headers: &Value) -> Vec<(String, Option<Vec<u8>>)> {
    let headers = headers.as_array().into_iter().flatten();
    headers
        .filter_map(|header| {
            let text = |field: &str| header.get(field).and_then(Value::as_str);
            let value = match text("base64") {
                Some(encoded) => openssl::base64::decode_block(encoded).ok(),
                None => text("value").map(|value| value.as_bytes().to_vec()),
            };
            Some((text("key")?.to_owned(), value))
        })
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_keeps_its_bytes() {
        let headers: [(&[u8], Option<&[u8]>); 5] = [
            (b"trace", Some(b"4711")),
            (b"none", None),
            (b"empty", Some(b"")),
            (b"zero", Some(b"a\0b")),
            (b"n\xffme", Some(b"\xfe")),
        ];
        let json = as_json(&headers).expect("there are some");
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json[4]["keyBase64"], base64(b"n\xffme"));
        let again = of_json(&json);
        assert_eq!(again.len(), headers.len());
        for ((name, value), (name_again, value_again)) in headers.iter().zip(&again) {
            assert_eq!(*name_again, String::from_utf8_lossy(name));
            assert_eq!(*value, value_again.as_deref());
        }
        assert_eq!(as_json(&[]), None);
    }
}
