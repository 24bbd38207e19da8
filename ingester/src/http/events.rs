//! What became of an event, by HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::http::asked::{Answer, Given, bad, parameters, refused};
use crate::http::letters::SHOW_LIMIT;
use crate::http::told::Told;
use crate::operator::dead_letters::{Filter, Query, Start};
use crate::operator::events;
use crate::operator::session::within;

/// Dead letters that are told of beside an event.
const LETTERS: i64 = 20;

/// By its id, and its source where that is given; else without one, and of all that were heard of lately.
pub async fn find(State(told): State<Arc<Told>>, given: Given) -> Answer {
    let given = parameters(given, &["event_id", "source"])?;
    let event_id = given.get("event_id").map(|id| id.trim());
    let Some(event_id) = event_id.filter(|id| !id.is_empty()) else {
        return Err(bad("event_id: say which event".to_owned()));
    };
    let source = given.get("source").filter(|source| !source.is_empty());
    let filter = Filter {
        event_id: Some(event_id.to_owned()),
        ..Filter::default()
    };
    let letters = Query {
        filter: &filter,
        status: None,
        limit: Some(LETTERS),
    };
    let found = within(&told.operator, SHOW_LIMIT, async |client| {
        let sources = match source {
            Some(source) => vec![source.clone()],
            None => events::sources(client).await?,
        };
        let records = events::find_of_any(client, event_id, &sources, source.is_none()).await?;
        // A letter says its event's id also where its payload could not be read as an event.
        let letters = letters.page(client, Start::Latest).await?;
        Ok((sources, records, letters.letters))
    });
    let (sources, mut records, letters) = found.await.map_err(refused)?;
    records.iter_mut().for_each(ids_as_text);
    Ok(Json(json!({
        "event_id": event_id, "sources": sources, "records": records, "dead_letters": letters,
    })))
}

/// An account's id may be greater than what JavaScript takes for a number.
fn ids_as_text(record: &mut Value) {
    for change in record["changes"].as_array_mut().into_iter().flatten() {
        change["account_id"] = Value::from(change["account_id"].to_string());
    }
}
