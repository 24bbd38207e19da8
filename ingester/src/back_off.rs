//! How long to wait before the next try.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Waits between tries: doubling from 50 ms to 5 s, jittered so that instances do not retry at the same moments.
pub fn back_off() -> ExponentialBackoff {
    back_off_up_to(Duration::from_secs(5))
}

/// The same with another cap.
pub fn back_off_up_to(longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_cap() {
        let waits: Vec<Duration> = back_off().take(20).collect();
        assert!(waits[0] < Duration::from_millis(200));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)));
    }
}
