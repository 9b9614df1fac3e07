//! What this process and its box use: CPU time by kind of thread, memory. Read from Linux's `/proc` (proc(5)); elsewhere, or where
//! it cannot be read, the answer is `None`, and what follows from it is called unknown, never guessed.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time that this process has used, ended threads included.
pub fn process_cpu() -> Duration {
    // Starts at 0 with the process, and holds less than a second of nanoseconds.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// What CPU time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Receiving, unpacking and decoding, and all that is not named here: `cam-NAME`, and GStreamer's threads, which it names after its
    /// elements.
    Ingest,
    /// Preprocessing, and the engine if it is the CPU.
    Infer,
    /// Boxes, tracks and events.
    Analyze,
    /// Copies and paint.
    Show,
    /// Encoders of JPEG and video.
    Encode,
    /// Sending video by RTSP.
    Rtsp,
    /// The event log, HTTP and MQTT.
    Net,
}

impl Part {
    /// All, in the order of their numbers.
    pub const ALL: [Part; 7] =
        [Part::Ingest, Part::Infer, Part::Analyze, Part::Show, Part::Encode, Part::Rtsp, Part::Net];

    /// The metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Ingest => "ingest",
            Part::Infer => "infer",
            Part::Analyze => "analyze",
            Part::Show => "show",
            Part::Encode => "encode",
            Part::Rtsp => "rtsp",
            Part::Net => "net",
        }
    }

    /// Of a thread of this name; the engine's pool inherits that of the thread that made it; encoders and senders are named by GStreamer, after the elements that feed them.
    fn of(thread: &str) -> Part {
        match thread {
            "infer" => Part::Infer,
            "analyze" => Part::Analyze,
            "show" => Part::Show,
            "publish" | "net" | "weir" => Part::Net,
            name if name.starts_with("show:") => Part::Encode,
            name if name == "rtsp" || name.starts_with("show-rtp") => Part::Rtsp,
            _ => Part::Ingest,
        }
    }
}

/// Adds up CPU time by part, also of threads that have ended since: what such a one used after the last look counts as ingest.
#[derive(Debug, Default)]
pub struct Meter {
    threads: HashMap<String, Duration>,
    used: [Duration; Part::ALL.len()],
}

impl Meter {
    /// What each part has used until now; never less than before.
    pub fn look(&mut self) -> Option<[(Part, Duration); Part::ALL.len()]> {
        let mut threads = HashMap::new();
        for task in fs::read_dir("/proc/self/task").ok()? {
            let task = task.ok()?;
            let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
            let part = Part::of(name.trim());
            if part == Part::Ingest {
                continue;
            }
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            if let Some(nanos) = nanos {
                let (id, used) =
                    (task.file_name().to_string_lossy().into_owned(), Duration::from_nanos(nanos));
                // Less than before: another thread of the same number.
                let before =
                    self.threads.get(&id).filter(|before| **before <= used).copied().unwrap_or_default();
                self.used[part as usize] += used - before;
                threads.insert(id, used);
            }
        }
        self.threads = threads;
        let others: Duration = self.used.iter().skip(1).sum();
        let ingest = &mut self.used[Part::Ingest as usize];
        *ingest = (*ingest).max(process_cpu().saturating_sub(others));
        Some(Part::ALL.map(|part| (part, self.used[part as usize])))
    }
}

/// Bytes of memory that this process holds.
pub fn resident() -> Option<f64> {
    field("/proc/self/status", "VmRSS:")
}

/// Bytes that processes can still take without swapping.
pub fn available() -> Option<f64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// CPU time that all of the box has used since its start, by anybody, in ticks; and that it had.
pub fn box_cpu() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already.
    let ticks: Vec<f64> = line.split_whitespace().take(8).map_while(|tick| tick.parse().ok()).collect();
    let (all, idle) = (ticks.iter().sum::<f64>(), ticks.get(3)? + ticks.get(4)?);
    Some((all - idle, all))
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

    /// What one meter says of a part, over all tests.
    fn part(part: Part) -> Option<Duration> {
        use std::sync::{Mutex, PoisonError};
        static METER: Mutex<Option<Meter>> = Mutex::new(None);
        let mut meter = METER.lock().unwrap_or_else(PoisonError::into_inner);
        meter.get_or_insert_default().look().map(|parts| parts[part as usize].1)
    }

    #[test]
    fn a_cameras_threads_are_told_from_ours() {
        let most = Duration::from_millis(290);
        assert!(burn("infer", || part(Part::Infer)) >= most);
        assert!(burn("multiqueue0:src", || part(Part::Ingest)) >= most);
        assert!(burn("cam-door", || part(Part::Ingest)) >= most);
    }

    #[test]
    fn what_a_thread_used_stays_counted_when_it_has_ended() {
        let encode = || part(Part::Encode);
        let used = burn("show:src", encode);
        assert!(used >= Duration::from_millis(290), "{used:?}");
        let ended = encode();
        assert!(ended >= Some(used), "{ended:?} after {used:?}");
        assert!(burn("show:src", encode) >= Duration::from_millis(290));
    }

    #[test]
    fn the_box_uses_what_a_thread_of_ours_uses() {
        let (busy, all) = box_cpu().expect("/proc is here");
        let used = burn("infer", || Some(process_cpu()));
        let (later, all_later) = box_cpu().expect("/proc is here");
        // A tick is 10 ms.
        assert!(later - busy >= used.as_secs_f64() * 100.0 - 3.0, "{} ticks for {used:?}", later - busy);
        assert!(all_later - all >= later - busy - 1.0);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let (ours, free) = (resident().expect("/proc is here"), available().expect("/proc is here"));
        assert!(ours > 1e6 && ours < 1e11 && free > 1e6, "{ours} {free}");
    }
}
