//! Running other programs.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the project")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The program in `$PATH`, or in the folders of administrators, which a user's `$PATH` may lack.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Runs it with our output; an error names it.
pub fn execute(command: &mut Command) -> anyhow::Result<()> {
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs it in silence; an error shows what it said.
pub fn quiet(command: &mut Command) -> anyhow::Result<String> {
    let done =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", name(command)))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{} failed ({})\n{}", line(command), done.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A program that runs beside us and never outlives us.
pub struct Aside {
    pub name: String,
    pub child: Child,
}

impl Aside {
    /// Its own process group: Ctrl-C reaches only us, and we end it in order. `setpriv` (util-linux, always there
    /// on Debian) has the kernel end it when we are killed.
    pub fn spawn(name: &str, command: &Command, pipes: impl FnOnce(&mut Command)) -> anyhow::Result<Self> {
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        wrapped.stdin(Stdio::null()).process_group(0);
        pipes(&mut wrapped);
        let child = wrapped.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Aside { name: name.into(), child })
    }

    /// `Some` when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGTERM, then `patience`, then SIGKILL; `None` when it had to be killed.
    pub fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        drop(self.child.stdin.take());
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It fails only when the process is gone already.
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.stop(Duration::from_millis(500));
        }
    }
}

/// The first line that a child writes to its piped standard output; it has so long for it.
pub fn first_line(child: &mut Child, patience: Duration) -> anyhow::Result<String> {
    let out = child.stdout.take().context("its output is not piped")?;
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(out).read_line(&mut line);
        // Nobody waits any more when it took too long.
        let _ = send.send(read.map(|_| line));
    });
    match receive.recv_timeout(patience) {
        Ok(line) => match line?.trim_end() {
            "" => bail!("it said nothing"),
            line => Ok(line.to_owned()),
        },
        Err(_) => bail!("it said nothing for {} s", patience.as_secs()),
    }
}

/// A line of progress, seen at once.
pub fn say(text: &str) {
    println!("{text}");
    // Standard output may be closed; the work goes on.
    let _ = std::io::stdout().flush();
}

/// Builds the daemon, and what is used beside it, in one go: cargo unifies features over all that it is asked for, so that asking
/// for less first would compile shared dependencies twice. Says where the daemon is.
pub fn build_weir(build: Build) -> anyhow::Result<PathBuf> {
    let what: &[&str] = match build {
        Build::Release => &["--bin", "weir", "--example", "rtsp-sim"],
        // As `cargo test --workspace` will want it.
        Build::Debug => &["--workspace", "--bins", "--examples", "--tests"],
    };
    execute(cargo().arg("build").args(what).args(build.flag()))?;
    Ok(build.folder().join("weir"))
}

/// How the daemon is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    #[default]
    Release,
    Debug,
}

impl Build {
    /// For cargo.
    pub fn flag(self) -> Option<&'static str> {
        (self == Build::Release).then_some("--release")
    }

    /// Where its programs are.
    pub fn folder(self) -> PathBuf {
        target().join(if self == Build::Release { "release" } else { "debug" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Aside {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Aside::spawn("sh", &command, |command| {
            command.stdout(Stdio::piped());
        })
        .unwrap()
    }

    #[test]
    fn a_child_that_says_nothing_is_not_waited_for() {
        let mut child = shell("sleep 20");
        let error = first_line(&mut child.child, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("said nothing for"), "{error}");
        assert_eq!(
            first_line(&mut shell("exit 3").child, Duration::from_secs(9)).unwrap_err().to_string(),
            "it said nothing"
        );
        assert_eq!(first_line(&mut shell("echo a; echo b").child, Duration::from_secs(9)).unwrap(), "a");
    }

    #[test]
    fn a_child_that_ignores_the_signal_is_killed() {
        let mut deaf = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        first_line(&mut deaf.child, Duration::from_secs(9)).unwrap();
        assert_eq!(deaf.stop(Duration::from_millis(100)), None);
        let mut good = shell("trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done");
        first_line(&mut good.child, Duration::from_secs(9)).unwrap();
        assert_eq!(good.stop(Duration::from_secs(9)).and_then(|status| status.code()), Some(4));
    }
}
