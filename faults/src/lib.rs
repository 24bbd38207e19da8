//! Named fault points of test builds: where ingester and extension crash, freeze, raise or wait
//! when a test tells them to. No release binary contains any of it (feature `fault-points`).
//!
//! A test arms a point by a file of its name in a folder: `crash`, `freeze`, `raise` or
//! `delay MILLISECONDS`, optionally followed by `after N`, the number of passes of a process to skip.
//! The process that acts first renames the file to `NAME.hit.PID`. So each armed point acts once,
//! whatever restarts meanwhile, and the test knows that the point was reached, and by which process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// What an armed point does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process ends at once, as if killed.
    Crash,
    /// The process stops until somebody continues it (SIGCONT).
    Freeze,
    /// The step fails.
    Raise,
    Delay(Duration),
}

/// The message of a raised fault, in logs and in errors.
pub const RAISED: &str = "a fault point raised";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    action: Action,
    /// Passes of one process that are skipped before.
    after: u32,
}

impl Order {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let action = match words.next()? {
            "crash" => Action::Crash,
            "freeze" => Action::Freeze,
            "raise" => Action::Raise,
            "delay" => Action::Delay(Duration::from_millis(words.next()?.parse().ok()?)),
            _ => return None,
        };
        let after = match words.next() {
            None => 0,
            Some("after") => words.next()?.parse().ok()?,
            Some(_) => return None,
        };
        words.next().is_none().then_some(Self { action, after })
    }
}

/// Skipped passes of armed points in this process.
static PASSES: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

/// The action of the point of this name, if it is armed in `folder`: each armed point acts once.
pub fn take(folder: &Path, point: &str) -> Option<Action> {
    let armed = folder.join(point);
    let text = std::fs::read_to_string(&armed).ok()?;
    let order = Order::parse(&text)
        .unwrap_or_else(|| panic!("{} holds no order: {text:?}", armed.display()));
    {
        let mut passes = PASSES.lock().expect("no panic while held");
        let passes = passes.get_or_insert_default();
        let passed = passes.entry(point.to_owned()).or_default();
        if *passed < order.after {
            *passed += 1;
            return None;
        }
        passes.remove(point);
    }
    let pid = getpid().as_raw_nonzero();
    // Of several processes that reach it at once, the one that renames the file acts.
    std::fs::rename(&armed, folder.join(format!("{point}.hit.{pid}"))).ok()?;
    Some(order.action)
}

/// Ends this process without any clean-up.
pub fn crash() -> ! {
    std::process::abort()
}

/// Stops this process until it is continued.
pub fn freeze() {
    kill_process(getpid(), Signal::STOP).expect("a process may stop itself");
    // The signal is sent to the process: another thread may receive it, a moment later.
    std::thread::sleep(Duration::from_millis(50));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_its_action_and_the_passes_before_it() {
        let order = |action, after| Some(Order { action, after });
        let delay = Action::Delay(Duration::from_millis(20));
        assert_eq!(Order::parse("crash"), order(Action::Crash, 0));
        assert_eq!(Order::parse("delay 20 after 3\n"), order(delay, 3));
        for wrong in [
            "",
            "explode",
            "delay",
            "raise 3",
            "freeze after",
            "crash after 1 2",
        ] {
            assert_eq!(Order::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_armed_point_acts_once_and_tells_who_did() {
        let folder = std::env::temp_dir().join(format!("faults-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("here"), "raise after 2").unwrap();
        let taken: Vec<_> = (0..5).map(|_| take(&folder, "here")).collect();
        assert_eq!(taken, [None, None, Some(Action::Raise), None, None]);
        let hit = folder.join(format!("here.hit.{}", std::process::id()));
        assert!(hit.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
