//! Rows of the database as JSON, for people and programs.

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

pub type Parameter<'a> = &'a (dyn ToSql + Sync);

/// Rows as JSON objects, columns in order; of two columns with one name the later one stands.
pub async fn rows(
    client: &Client,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Value>, tokio_postgres::Error> {
    let statement = format!("SELECT row_to_json(r) FROM ({statement}) r");
    let rows = client.query(&statement, parameters).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
