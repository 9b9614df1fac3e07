//! What this process and its box use: CPU time by kind of thread, memory. Read from Linux's `/proc` (proc(5)); elsewhere, or where
//! it cannot be read, the answer is `None`, and what follows from it is called unknown, never guessed.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Threads that do not belong to a camera; the engine's pool inherits the name of the thread that made it. All others receive, unpack
/// and decode: `cam-NAME`, and GStreamer's, which it names after its elements.
const SHARED: [&str; 6] = ["infer", "analyze", "publish", "rtsp", "net", "weir"];

/// So begin the names of threads that paint and encode for people.
const SHOWS: &str = "show";

/// CPU time that this process has used, ended threads included.
pub fn process_cpu() -> Duration {
    // Starts at 0 with the process, and holds less than a second of nanoseconds.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Of that: of everything that receives and decodes. What threads that have ended used counts to it, as cameras' threads are the ones
/// that end.
pub fn ingest_cpu() -> Option<Duration> {
    Some(process_cpu().saturating_sub(shared_cpu()?))
}

/// CPU time of the threads that serve all cameras.
fn shared_cpu() -> Option<Duration> {
    let mut shared = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task").ok()? {
        let task = task.ok()?.path();
        // Gone since it was listed: then it is none of ours, which stay.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        if SHARED.contains(&name.trim()) || name.starts_with(SHOWS) {
            let stat = fs::read_to_string(task.join("schedstat")).ok()?;
            shared += Duration::from_nanos(stat.split_whitespace().next()?.parse().ok()?);
        }
    }
    Some(shared)
}

/// Bytes of memory that this process holds.
pub fn resident() -> Option<f64> {
    field("/proc/self/status", "VmRSS:")
}

/// Bytes that processes can still take without swapping.
pub fn available() -> Option<f64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// CPU cores that this process may use.
pub fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// `NAME  number kB`.
fn field(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much `count` grows while a thread of this name uses 300 ms.
    fn burn(name: &str, count: fn() -> Option<Duration>) -> Duration {
        let before = count().expect("/proc is here");
        // Kept alive until its time has been read, as ours are.
        let ((burnt, done), (end, ended)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let cpu = || clock_gettime(ClockId::ThreadCPUTime);
            while Duration::try_from(cpu()).expect("it counts up from 0") < Duration::from_millis(300) {
                std::hint::spin_loop();
            }
            let _ = burnt.send(());
            let _ = ended.recv();
        });
        let thread = thread.expect("a thread starts");
        done.recv().expect("it burns");
        let used = count().expect("/proc is here").saturating_sub(before);
        drop(end);
        thread.join().expect("it ends");
        used
    }

    #[test]
    fn a_cameras_threads_are_told_from_ours() {
        let most = Duration::from_millis(290);
        assert!(burn("infer", shared_cpu) >= most);
        assert!(burn("multiqueue0:src", ingest_cpu) >= most);
        assert!(burn("cam-door", ingest_cpu) >= most);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let (ours, free) = (resident().expect("/proc is here"), available().expect("/proc is here"));
        assert!(ours > 1e6 && ours < 1e11 && free > 1e6, "{ours} {free}");
    }
}
