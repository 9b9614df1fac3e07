//! The three times, and the only place that asks the system for any of them.
//!
//! | type | what it counts | who sets it |
//! |---|---|---|
//! | [`Tick`] | nanoseconds on this process's monotonic clock | us |
//! | [`Pts`] | nanoseconds on the stream's own clock | the camera |
//! | [`Wall`] | nanoseconds since 1970 in UTC | the box's real-time clock |
//!
//! There is no arithmetic between them: a camera's clock may jump, and the wall clock may be set
//! back, and neither may stall or flood the daemon. Pure code is *given* a [`Tick`]; clippy's
//! `disallowed-methods` keeps `Instant::now` and its kin out of every other file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};

/// A moment on the monotonic clock, in nanoseconds since the clock was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The moment the clock was made.
    pub const ZERO: Tick = Tick(0);

    /// `nanos` nanoseconds after [`Tick::ZERO`].
    pub const fn from_nanos(nanos: u64) -> Self {
        Tick(nanos)
    }

    /// `millis` milliseconds after [`Tick::ZERO`].
    pub const fn from_millis(millis: u64) -> Self {
        Tick(millis * 1_000_000)
    }

    /// Nanoseconds since [`Tick::ZERO`].
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub const fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, rhs: Duration) -> Tick {
        Tick(self.0.saturating_add(saturating_nanos(rhs)))
    }
}

impl std::ops::Sub<Duration> for Tick {
    type Output = Tick;
    fn sub(self, rhs: Duration) -> Tick {
        Tick(self.0.saturating_sub(saturating_nanos(rhs)))
    }
}

fn saturating_nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// A presentation timestamp of the stream, in nanoseconds. Says nothing about any other clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pts(pub u64);

impl Pts {
    /// Whole milliseconds, as events carry it.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// Real time: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

impl Wall {
    /// The same moment `age` earlier.
    pub fn before(self, age: Duration) -> Wall {
        Wall(self.0.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// RFC 3339 in UTC with milliseconds, for example `2026-11-24T04:52:38.120Z`.
    pub fn rfc3339(self) -> String {
        let nanos = i128::from(self.0).div_euclid(1_000_000) * 1_000_000;
        let t = time::OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        )
    }
}

/// Why a wait came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The bell rang (or a manual clock moved): look again.
    Rung,
    /// The deadline has passed.
    Deadline,
}

/// Wakes the one thread that holds the matching [`Waiter`]. Ringing twice wakes once.
#[derive(Clone, Debug)]
pub struct Bell(Sender<()>);

impl Bell {
    /// Wakes the waiter, now or at its next wait.
    pub fn ring(&self) {
        match self.0.try_send(()) {
            // Full: a ring is already pending, which is all that a ring says.
            Ok(()) | Err(TrySendError::Full(())) => {}
            // The waiter has gone: nobody is left to wake.
            Err(TrySendError::Disconnected(())) => {}
        }
    }
}

/// The waiting end of a [`Bell`].
#[derive(Debug)]
pub struct Waiter {
    bell: Bell,
    rung: Receiver<()>,
}

/// A bell and the end that waits for it.
pub fn bell() -> (Bell, Waiter) {
    let (tx, rung) = crossbeam_channel::bounded(1);
    let bell = Bell(tx);
    (bell.clone(), Waiter { bell, rung })
}

/// Where time comes from. Production uses [`SystemClock`]; tests move a [`ManualClock`] by hand.
pub trait Clock: Send + Sync {
    /// The monotonic present.
    fn now(&self) -> Tick;
    /// The real-time present.
    fn wall(&self) -> Wall;
    /// CPU time that the calling thread has used: unlike [`Clock::now`] it stands still while others run.
    fn thread_cpu(&self) -> Duration;
    /// Parks until the bell rings or `until` is reached; for ever when there is no deadline.
    fn wait(&self, waiter: &Waiter, until: Option<Tick>) -> Woken;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemClock {
    /// A clock whose [`Tick::ZERO`] is now.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
    pub fn new() -> Self {
        SystemClock { start: Instant::now() }
    }

    /// `tick` as a std instant, for channels and condition variables that take one.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.start + Duration::from_nanos(tick.0)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
    fn now(&self) -> Tick {
        Tick(saturating_nanos(Instant::now().duration_since(self.start)))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
    fn wall(&self) -> Wall {
        // A clock before 1970 reads as 1970: events then carry an obviously wrong time, no panic.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Wall(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    fn thread_cpu(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        // Starts at 0 with the thread, and holds less than a second of nanoseconds.
        Duration::try_from(time).unwrap_or_default()
    }

    fn wait(&self, waiter: &Waiter, until: Option<Tick>) -> Woken {
        let Some(until) = until else {
            // Cannot disconnect: the waiter holds a bell of its own.
            let _ = waiter.rung.recv();
            return Woken::Rung;
        };
        match waiter.rung.recv_deadline(self.instant(until)) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Woken::Rung,
            Err(RecvTimeoutError::Timeout) => Woken::Deadline,
        }
    }
}

/// A clock that moves only when a test says so.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

#[derive(Debug, Default)]
struct ManualState {
    now: Tick,
    /// Everybody who waits is woken by each move and looks at the time again.
    parked: Vec<Bell>,
}

impl ManualClock {
    /// A clock that stands at [`Tick::ZERO`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock and wakes whoever waits on it.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = state.now + by;
        for bell in state.parked.drain(..) {
            bell.ring();
        }
    }

    /// How many threads wait now: a test may move on once its daemon has gone to sleep.
    pub fn parked(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).parked.len()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Tick {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    fn wall(&self) -> Wall {
        /// 2026-01-01T00:00:00Z at tick zero, so that stored events are stable.
        const EPOCH_NS: i64 = 1_767_225_600_000_000_000;
        Wall(EPOCH_NS.saturating_add(i64::try_from(self.now().0).unwrap_or(i64::MAX)))
    }

    /// As if every thread worked whenever time passes.
    fn thread_cpu(&self) -> Duration {
        self.now().since(Tick::ZERO)
    }

    fn wait(&self, waiter: &Waiter, until: Option<Tick>) -> Woken {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if until.is_some_and(|t| t <= state.now) {
                return Woken::Deadline;
            }
            state.parked.push(waiter.bell.clone());
        }
        let _ = waiter.rung.recv();
        if until.is_some_and(|t| t <= self.now()) { Woken::Deadline } else { Woken::Rung }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_prints_rfc3339_with_milliseconds() {
        assert_eq!(Wall(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Wall(1_767_225_600_123_999_999).rfc3339(), "2026-01-01T00:00:00.123Z");
        assert_eq!(Wall(-1).rfc3339(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn ticks_saturate_at_both_ends() {
        assert_eq!(Tick::ZERO - Duration::from_secs(1), Tick::ZERO);
        assert_eq!(Tick::from_nanos(u64::MAX) + Duration::from_secs(1), Tick::from_nanos(u64::MAX));
        assert_eq!(Tick::ZERO.since(Tick::from_millis(5)), Duration::ZERO);
    }

    #[test]
    fn a_thread_that_waits_uses_no_cpu_time() {
        let clock = SystemClock::new();
        let (_bell, waiter) = bell();
        let (before, cpu) = (clock.now(), clock.thread_cpu());
        clock.wait(&waiter, Some(before + Duration::from_millis(100)));
        let waiting = clock.thread_cpu() - cpu;
        assert!(waiting < Duration::from_millis(50), "{waiting:?} to wait 100 ms");
        let (before, cpu) = (clock.now(), clock.thread_cpu());
        while clock.thread_cpu() - cpu < Duration::from_millis(20) {}
        assert!(clock.now().since(before) >= Duration::from_millis(20), "more CPU time than time");
    }

    #[test]
    fn a_ring_before_the_wait_is_not_lost() {
        let clock = SystemClock::new();
        let (bell, waiter) = bell();
        bell.ring();
        bell.ring();
        assert_eq!(clock.wait(&waiter, None), Woken::Rung);
        assert_eq!(clock.wait(&waiter, Some(clock.now())), Woken::Deadline);
    }

    #[test]
    fn a_manual_clock_wakes_its_waiter_at_the_deadline() {
        let clock = ManualClock::new();
        let (_bell, waiter) = bell();
        let theirs = clock.clone();
        let thread = std::thread::spawn(move || theirs.wait(&waiter, Some(Tick::from_millis(10))));
        while clock.parked() == 0 {
            std::thread::yield_now();
        }
        clock.advance(Duration::from_millis(10));
        assert_eq!(thread.join().expect("the waiter returns"), Woken::Deadline);
    }
}
