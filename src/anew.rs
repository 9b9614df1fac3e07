//! Libraries read some settings from the environment once, when the process begins: where a bundle's plugins are
//! ([`crate::bundle`]), and in how many heaps glibc spreads what threads allocate. So the program starts itself anew with them: same
//! process, same file descriptors, no shell.
//!
//! glibc gives each thread a heap of its own until there are eight a core, and a heap keeps what it once needed. A daemon whose
//! cameras come and go, each with its threads, so ends with 250 of them on 32 cores and grows for a long time: 2.6 to 3.2 GB while
//! 1 200 cameras came and went, 40 at a time (two H200, `tests/nvidia/daemon.py churn 30 40`). With eight it was 2.0 to 2.1 GB. mallopt(3)
//! could say so without a new start, but a call of C belongs to `device/nvidia` here, and a bundle starts anew in any case.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::bundle;
use crate::fault::{Fault, Who};
use crate::usage;

/// Says that the environment is ours already.
const STARTED: &str = "WEIR_STARTED_ANEW";

/// glibc's word for its number of heaps, mallopt(3). An operator's own number is left alone.
const HEAPS: &str = "MALLOC_ARENA_MAX";

/// Starts the program anew with the environment that it needs. Returns where that has been done, or cannot be.
///
/// # Errors
/// When a bundle's program cannot be started again: it would miss its plugins.
pub fn start() -> Result<(), Fault> {
    if std::env::var_os(STARTED).is_some() {
        return Ok(());
    }
    let Ok(program) = std::env::current_exe() else { return Ok(()) };
    let bundle = bundle::libraries(&program);
    let mut variables: Vec<(&str, OsString)> = vec![(STARTED, "1".into())];
    variables.extend(bundle.as_deref().map(bundle::variables).into_iter().flatten());
    if std::env::var_os(HEAPS).is_none() {
        variables.push((HEAPS, heaps(usage::cores()).to_string().into()));
    }
    let error = Command::new(&program).args(std::env::args_os().skip(1)).envs(variables).exec();
    match bundle {
        Some(_) => Err(Fault::new(
            Who::Device,
            "bundle",
            format!("{} cannot be started again: {error}", program.display()),
        )),
        // It runs as well with more heaps.
        None => Ok(()),
    }
}

/// One a core, while that is neither one for all threads nor a heap for each.
fn heaps(cores: f64) -> usize {
    (cores as usize).clamp(2, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_few_heaps_on_any_box() {
        assert_eq!([1.0, 2.0, 4.0, 32.0].map(heaps), [2, 2, 4, 8]);
    }
}
