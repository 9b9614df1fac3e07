//! `weir`: arguments → configuration → run → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir::cli::main()
}
