//! What there is to tell by HTTP, and to do.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;

use crate::http::token::Token;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::operator::jobs::Jobs;
use crate::operator::overview::Overview;
use crate::postgres::pool::Pool;

/// How long an answer is told again: many who ask cost hardly more than one.
const FRESH: Duration = Duration::from_millis(200);

/// The last answer to a question that many ask.
#[derive(Default)]
pub struct LastAnswer(Mutex<Option<(Instant, StatusCode, Bytes)>>);

impl LastAnswer {
    pub(super) fn or(&self, render: impl FnOnce() -> (StatusCode, String)) -> (StatusCode, Bytes) {
        let mut last = self.0.lock().expect("no panic while held");
        if let Some((at, status, text)) = &*last
            && at.elapsed() < FRESH
        {
            return (*status, text.clone());
        }
        let (status, text) = render();
        let text = Bytes::from(text);
        *last = Some((Instant::now(), status, text.clone()));
        (status, text)
    }
}

/// What there is to tell, and to do.
pub struct Told {
    pub service_id: String,
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
    pub pool: Pool,
    pub pool_size: usize,
    /// Of an operator: for what the page shows and does.
    pub operator: Pool,
    pub overview: Arc<Overview>,
    pub jobs: Jobs,
    pub admin_token: Option<Token>,
    pub health: LastAnswer,
    pub scrape: LastAnswer,
}
