//! Pace: how long frames may wait for company and how large a batch may be, so that the p95 from frame to event stays
//! inside the target while the engine gives all it can.
//!
//! Batches grow by themselves: what comes while the engine works goes with the next run, so the engine is never idle
//! while frames wait and full rungs form under load without anybody waiting for them. Three things are left to steer:
//!
//! - **The largest batch.** A frame that just misses a batch of b waits for S(b) and then needs S(b) itself. So b is
//!   *promised* when `base + 2·S(b)` fits the target, `base` being the p95 of what frames have behind them when they
//!   reach their ring. The largest promised batch is the start, or, where the load needs a larger one, that, if the target holds for the
//!   batches that the load itself makes. From there the measured p95 decides: above the target for [`MISSES`] looks in a row (more, where
//!   it is near to it), down to the largest batch whose saving, twice the difference of the service times, covers the excess;
//!   below it while frames are lost, one size up if the same sum says that the target would hold. A size that failed is left alone for a
//!   time that doubles while it fails again soon, so that the size does not saw. Where no batch is small enough to reach the target, it is
//!   not aimed at: missing it *and* wasting the engine helps nobody. Then the smallest batch that gives [`ENOUGH_RATE`] of the engine's
//!   rate runs.
//! - **The wait limit** Δ. Waits happen only where they pay ([`Wait::WherePays`]); Δ bounds them by what the target leaves:
//!   `target − base − 2·S(b)` for the batches that run now, never above `max_wait`, halved by a miss. It moves
//!   only when it is off by a fifth.
//! - **The largest batch that bulk frames make** while realtime ones come: the one that takes half the time of the largest. A
//!   realtime frame that finds it running, and then shares one, is later by at most one full run than without bulk.
//!
//! Looks happen every [`EVERY`]; the p95 is that of the last second (of the last [`ENOUGH`] frames where these took longer, of the newest [`Window::MOST`]
//! where there are more), so a load step is answered within two.

use std::time::Duration;

use super::batch::{Tally, Wait};
use super::curve::Curve;
use super::window::Window;
use crate::clock::Tick;

/// The time between two decisions.
pub const EVERY: Duration = Duration::from_millis(250);
/// Looks above the target, one after the other, before a rung is given up.
const MISSES: f64 = 2.0;
/// The p95 of a second is off by a few hundredths by luck. So a look so near to the target counts as [`CLOSE`] of a miss, on both sides of it.
const NEAR: [f64; 2] = [0.99, 1.03];
const CLOSE: f64 = 0.25;
/// Fewer samples than this say nothing about a 95th percentile; the window of latencies keeps as many of an engine that is slow.
pub const ENOUGH: usize = 20;
/// The part of the target that is aimed at.
pub(super) const AIM: f64 = 0.9;
/// The part of the engine's rate that is not given for latency where the target is out of reach.
const ENOUGH_RATE: f64 = 0.97;
/// The part of a run that 95 % of frames do not wait longer for, if they come evenly while it runs; less is left of it for those that were
/// long under way.
const WAITED: f64 = 0.9;
/// How long a failed rung is left alone, at first and at most.
const HOLD: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// A miss within this time after a hold has ended is the same trouble again; a later one is another.
const SOON: Duration = Duration::from_secs(60);

/// What is promised, and the operator's limits.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// p95 of realtime frames from their arrival to their events.
    pub target: Duration,
    /// The longest wait for company.
    pub max_wait: Duration,
    /// The largest batch.
    pub max_batch: usize,
}

/// Why the pace is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The engine takes everything in time.
    Headroom,
    /// Frames are lost, the target holds: the engine gives all it can.
    Saturated,
    /// The target allows no larger batch.
    TargetBound,
    /// The target was missed: less waiting, smaller batches.
    TargetMissed,
    /// No batch is small enough for the target (what frames have behind them at their ring, and their cameras' rhythm, take too
    /// much of it), so it is not aimed at.
    Unreachable,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 5] =
        [Reason::Headroom, Reason::Saturated, Reason::TargetBound, Reason::TargetMissed, Reason::Unreachable];

    /// The metric label and API word.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Headroom => "headroom",
            Reason::Saturated => "saturated",
            Reason::TargetBound => "target_bound",
            Reason::TargetMissed => "target_missed",
            Reason::Unreachable => "unreachable",
        }
    }
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Δ: the longest wait for company.
    pub wait: Duration,
    /// The largest batch.
    pub slots: usize,
    /// The largest batch that bulk frames make, while realtime ones come.
    pub bulk_slots: usize,
    /// Frames are being lost to the engine.
    pub saturated: bool,
    /// Why.
    pub reason: Reason,
    /// p95 of realtime frames over the last second, or of the last 20 frames of up to 8 seconds, frame to event.
    pub p95: Option<Duration>,
    /// Offered load over the engine's rate at the largest useful batch.
    pub rho: f64,
    /// Frames a batch, lately.
    pub fill: f64,
}

/// Steers wait and rung.
pub struct Pacer {
    objective: Objective,
    curve: Curve,
    ages: Window,
    /// p95 of [`Pacer::ages`] at the last look.
    base: Duration,
    pace: Pace,
    looked: Tick,
    misses: f64,
    /// Shrinks the wait after a miss, 0..=1.
    trim: f64,
    failed: Option<Failed>,
    /// The last hold, and when it ends.
    hold: Option<(Duration, Tick)>,
    seen: Seen,
    /// Until when lost frames count as saturation.
    saturated_until: Tick,
    /// Until when the target is not aimed at.
    hopeless_until: Tick,
}

/// A size that missed the target.
#[derive(Clone, Copy)]
struct Failed {
    frames: usize,
    until: Tick,
}

/// What happened since the last look.
#[derive(Clone, Copy, Default)]
struct Seen {
    batches: u64,
    frames: u64,
    full: u64,
}

impl Pacer {
    /// A pacer for an engine with this curve.
    pub fn new(objective: Objective, curve: Curve) -> Self {
        let pace = Pace {
            wait: objective.max_wait,
            slots: 1,
            bulk_slots: 1,
            saturated: false,
            reason: Reason::Headroom,
            p95: None,
            rho: 0.0,
            fill: 1.0,
        };
        let mut pacer = Pacer {
            objective,
            curve,
            ages: Window::new(Duration::from_secs(2)),
            base: Duration::ZERO,
            pace,
            looked: Tick::ZERO,
            misses: 0.0,
            trim: 1.0,
            failed: None,
            hold: None,
            seen: Seen::default(),
            saturated_until: Tick::ZERO,
            hopeless_until: Tick::ZERO,
        };
        pacer.pace.slots = pacer.promised();
        pacer.pace.bulk_slots = pacer.pace.slots;
        pacer
    }

    /// The pace now.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// S(b) now.
    pub fn curve(&self) -> &Curve {
        &self.curve
    }

    /// For [`super::batch::Batcher::steer`].
    pub fn wait(&self) -> Wait {
        Wait::WherePays {
            limit: self.pace.wait,
            curve: self.curve,
            saturated: self.pace.saturated,
            bulk_slots: self.pace.bulk_slots,
        }
    }

    /// A realtime frame reached its ring `age` after it had arrived.
    pub fn came(&mut self, now: Tick, age: Duration) {
        self.ages.note(now, age);
    }

    /// A batch ran.
    pub fn ran(&mut self, frames: usize, took: Duration) {
        self.curve.note(frames, took);
        self.seen.batches += 1;
        self.seen.frames += frames as u64;
        self.seen.full += u64::from(frames >= self.pace.slots);
    }

    /// Is it time for [`Pacer::look`]?
    pub fn is_due(&self, now: Tick) -> bool {
        now.since(self.looked) >= EVERY
    }

    /// Decides anew. `tally` is what came and was lost since the last look; `latency` holds realtime frames' times to their
    /// events over the last second.
    pub fn look(&mut self, now: Tick, tally: Tally, latency: &mut Window) -> Pace {
        let elapsed = now.since(self.looked).as_secs_f64();
        self.looked = now;
        let seen = std::mem::take(&mut self.seen);
        if tally.realtime_lost * 200 > tally.realtime {
            self.saturated_until = now + 4 * EVERY;
        }
        let saturated = now < self.saturated_until;
        if saturated && !self.pace.saturated {
            // Until now a backlog built up; from now on it is cut, so what was measured says nothing of what comes.
            latency.clear();
        }
        let measured = latency.percentiles(now).filter(|p| p.samples >= ENOUGH).map(|p| p.p95);
        if seen.batches > 0 {
            let fill = seen.frames as f64 / seen.batches as f64;
            self.pace.fill += 0.5 * (fill - self.pace.fill);
        }
        if elapsed > 0.0 {
            let rho = tally.came as f64 / elapsed / self.curve.capacity().max(1e-9);
            self.pace.rho += 0.3 * (rho - self.pace.rho);
        }
        (self.pace.p95, self.pace.saturated) = (measured, saturated);
        self.base = self.ages.percentiles(now).map_or(Duration::ZERO, |p| p.p95);
        if self.base + self.curve.service(1) > self.objective.target {
            self.hopeless_until = now + HOLD.0;
        }
        if now < self.hopeless_until {
            self.pace.reason = Reason::Unreachable;
            self.pace.slots = self.ample();
            self.pace.wait = Duration::ZERO;
        } else {
            self.pace.reason = self.size(now, measured, saturated, &seen, latency);
            self.limit_wait(measured);
        }
        let half = self.curve.service(self.pace.slots) / 2;
        let fits = self.sizes().rfind(|frames| self.curve.service(*frames) <= half).unwrap_or(1);
        self.pace.bulk_slots = if tally.realtime == 0 { self.pace.slots } else { fits };
        self.pace
    }

    fn most(&self) -> usize {
        self.curve.largest_useful().min(self.objective.max_batch).max(1)
    }

    /// The smallest size that gives nearly all that the engine has: where no size reaches the target, the last hundredths of the rate would
    /// cost most of the latency.
    fn ample(&self) -> usize {
        let most = self.most();
        let wanted = ENOUGH_RATE * self.curve.rate(most);
        self.sizes().find(|frames| self.curve.rate(*frames) >= wanted).unwrap_or(most)
    }

    /// Batch sizes to choose from, ascending: the rungs, and, unless batches are padded to these, quarters between those that are four or more
    /// apart.
    fn sizes(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let most = self.most();
        let rungs = self.curve;
        let steps = (0..rungs.rungs().len()).flat_map(move |i| {
            let to = rungs.rungs()[i].frames;
            let from = if i == 0 { to - 1 } else { rungs.rungs()[i - 1].frames };
            let step = if rungs.is_padded() { to - from } else { ((to - from) / 4).max(1) };
            (from + 1..=to).filter(move |n| (to - n).is_multiple_of(step))
        });
        steps.filter(move |frames| *frames <= most)
    }

    /// The largest size whose promise fits the target with room to spare, or without it where the offered load needs that size: a
    /// queue that stands costs more than a larger batch. 1 if none does.
    fn promised(&self) -> usize {
        let (base, target) = (self.base, self.objective.target);
        let service = |frames: usize| self.curve.service(frames);
        // If none fits: the largest that takes no more time than one frame alone.
        let alone = || self.sizes().rfind(|n| service(*n) <= service(1).mul_f64(1.02)).unwrap_or(1);
        let safe =
            self.sizes().rfind(|n| base + 2 * service(*n) <= target.mul_f64(AIM)).unwrap_or_else(alone);
        let offered = self.pace.rho * self.curve.capacity();
        let gives = |n: &usize, more: f64| self.curve.rate(*n) >= more * offered;
        // With some to spare, so that what has piled up drains; the largest may do without.
        let needed = self.sizes().find(|n| gives(n, 1.03)).or(self.sizes().last().filter(|n| gives(n, 1.0)));
        let Some(needed) = needed else { return safe };
        // Batches grow to where the engine keeps up, and no further. Who comes while one runs waits for less than all of it.
        let grown = (1..=needed).find(|n| gives(n, 1.0)).unwrap_or(needed);
        if base + service(grown).mul_f64(1.0 + WAITED) <= target { needed.max(safe) } else { safe }
    }

    fn may_use(&self, frames: usize, now: Tick) -> bool {
        self.failed.is_none_or(|failed| frames < failed.frames || now >= failed.until)
    }

    /// When the hold ends that a miss begins.
    fn hold_from(&mut self, now: Tick) -> Tick {
        let last = self.hold.filter(|(_, ended)| now.since(*ended) < SOON);
        let hold = last.map_or(HOLD.0, |(hold, _)| (2 * hold).min(HOLD.1));
        self.hold = Some((hold, now + hold));
        now + hold
    }

    /// Moves the largest batch.
    fn size(
        &mut self,
        now: Tick,
        measured: Option<Duration>,
        saturated: bool,
        seen: &Seen,
        latency: &mut Window,
    ) -> Reason {
        let (target, slots) = (self.objective.target, self.pace.slots);
        let missed = measured.is_some_and(|p95| p95 > target);
        let above = |part: f64| measured.is_some_and(|p95| p95 > target.mul_f64(part));
        let miss = match NEAR.map(above) {
            [false, _] => 0.0,
            [true, false] => CLOSE,
            [true, true] => 1.0,
        };
        // What was counted once is no new miss.
        if miss == 0.0 {
            self.misses = 0.0;
        } else if latency.is_new() {
            self.misses += miss;
            if missed {
                self.trim *= 0.5f64.powf(miss);
            }
        }
        // Batches that are not full are not large because of the limit.
        let full = seen.batches > 0 && seen.full * 2 >= seen.batches;
        if let Some(p95) = measured
            && self.misses >= MISSES
            && full
        {
            self.misses = 0.0;
            // What is measured from here on is the new size's doing.
            latency.clear();
            let saving =
                |frames: usize| 2 * self.curve.service(slots).saturating_sub(self.curve.service(frames));
            let down =
                self.sizes().rfind(|frames| *frames < slots && p95.saturating_sub(saving(*frames)) <= target);
            let Some(down) = down else {
                if !missed {
                    return Reason::TargetBound;
                }
                self.hopeless_until = self.hold_from(now);
                self.pace.slots = self.ample();
                return Reason::Unreachable;
            };
            self.failed = Some(Failed { frames: slots, until: self.hold_from(now) });
            self.pace.slots = down;
            return if missed { Reason::TargetMissed } else { Reason::TargetBound };
        }
        let promised = self.promised();
        if promised > slots && self.may_use(promised, now) {
            self.pace.slots = promised;
        } else if saturated
            && full
            && !missed
            && let (Some(up), Some(p95)) = (self.sizes().find(|frames| *frames > slots), measured)
        {
            let more = self.curve.service(up).saturating_sub(self.curve.service(slots));
            if p95 + 2 * more <= target && self.may_use(up, now) {
                self.pace.slots = up;
                latency.clear();
            }
        }
        match () {
            () if missed => Reason::TargetMissed,
            () if saturated && self.pace.slots < self.most() => Reason::TargetBound,
            () if saturated => Reason::Saturated,
            () => Reason::Headroom,
        }
    }

    /// Bounds the wait by what the target leaves.
    fn limit_wait(&mut self, measured: Option<Duration>) {
        let target = self.objective.target;
        match measured {
            // What a miss takes away of it is decided with the size.
            Some(p95) if p95 > target.mul_f64(0.8) => {}
            _ => self.trim = (self.trim + 0.02).min(1.0),
        }
        let batch = (self.pace.fill.ceil() as usize).clamp(1, self.pace.slots);
        let spent = self.base + 2 * self.curve.service(batch);
        let left = target.mul_f64(AIM).saturating_sub(spent).min(self.objective.max_wait);
        let wait = left.mul_f64(self.trim);
        let (old, new) = (self.pace.wait.as_secs_f64(), wait.as_secs_f64());
        if (new - old).abs() > 0.2 * old.max(1e-3) {
            self.pace.wait = wait;
        }
    }
}

#[cfg(test)]
mod tests;
