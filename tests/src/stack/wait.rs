//! Waiting for conditions: never for a time.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// Polls until `condition` holds and answers how long that took; panics with `what` after `timeout`.
pub async fn wait_until(
    what: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Duration {
    let start = Instant::now();
    loop {
        if condition().await {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < timeout,
            "waited {:.1} s in vain for {what}",
            timeout.as_secs_f64()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Checks for a while that `condition` never fails: for what must not happen.
pub async fn holds_for(what: &str, time: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(condition().await, "did not hold: {what}");
        tokio::time::sleep(POLL).await;
    }
}
