//! Waiting for a condition with a deadline: the only place of these tests where time passes.

use std::time::{Duration, Instant};

/// Long enough for a loaded machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "tests wait for other processes, which have no clock of ours")]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
