//! What latency to expect: base + wait + residual + S(b), the sum that [`super::pace`] steers by, as a distribution.
//!
//! Cameras are periodic with unrelated phases. What comes while the engine works goes with the next run, so batches form a chain (a bulk
//! queue as Neuts 1967 has it, with service by batch size): a run of i frames takes S(i); of the cameras that are neither in it nor
//! waiting behind it, each delivers within that time with probability S(i)/(T − S(i)), T being the frame interval, as it had not delivered during
//! the run before. Those that come make the next run; if nobody comes, the engine rests until the next frame, which goes alone. A frame
//! that finds the engine resting takes S(1); one that comes during a run of i takes what is left of it, evenly
//! spread over 0..S(i), and then S(j) of its own.
//!
//! Left out: the wait for company (it happens only where it shortens the mean), jitter of the network, and loss.

use std::time::Duration;

use super::curve::Curve;

/// From this ρ on the answer would be the drop policy's, not a queue's.
const MOST_RHO: f64 = 0.95;
/// Steps towards the steady state; each is a run.
const RUNS: usize = 300;
/// Runs whose worth of frames may wait behind a run.
const DEEP: usize = 4;

/// Latency from frame to event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The median.
    pub p50: Duration,
    /// The 95th percentile.
    pub p95: Duration,
    /// Frames a run.
    pub mean_batch: f64,
}

/// Predicts for `cameras` of `fps` frames a second each, batches of at most `slots`. `base` is the time before the ring and after
/// the engine. `None` beyond a ρ of 0.95, where frames are lost and latency is bounded by their ring.
pub fn predict(curve: &Curve, slots: usize, cameras: u32, fps: f64, base: Duration) -> Option<Prediction> {
    let slots = slots.max(1);
    let lambda = f64::from(cameras) * fps;
    if cameras == 0 || curve.rungs().is_empty() || lambda > MOST_RHO * curve.rate(slots) {
        return None;
    }
    let service: Vec<f64> = (0..=slots).map(|b| curve.service(b.max(1)).as_secs_f64()).collect();
    let states = (DEEP * slots).max(16);
    let comes: Vec<Vec<f64>> =
        (0..=states).map(|x| arrivals(service[x.min(slots)], 1.0 / fps, cameras, x, states)).collect();
    let steady = steady(&comes, slots, states);
    // Frames by how long the run took that they came in, and how long their own takes.
    let mut parts: Vec<(f64, f64, f64)> = Vec::new();
    let (mut runs, mut frames) = (0.0, 0.0);
    for (x, p) in steady.iter().enumerate().skip(1) {
        let (running, left) = (x.min(slots), x - x.min(slots));
        runs += p;
        frames += p * running as f64;
        for (n, q) in comes[x].iter().enumerate().filter(|(_, q)| p * **q > 1e-9) {
            if n == 0 && left == 0 {
                parts.push((p * q, 0.0, service[1]));
            }
            // Frames that come stand behind those that were left, and go with the run that is theirs.
            for run in left / slots..(left + n).div_ceil(slots) {
                let (first, last) = (left.max(run * slots), (left + n).min((run + 1) * slots));
                let before = run as f64 * service[slots];
                let own = service[last - run * slots];
                parts.push((p * q * (last - first) as f64, service[running], before + own));
            }
        }
    }
    let total: f64 = parts.iter().map(|part| part.0).sum();
    let at = |share: f64| {
        let (mut low, mut high) = (0.0, service[slots] * (states / slots + 2 + states) as f64);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            let below: f64 = parts
                .iter()
                .map(|(w, residual, own)| w * ((middle - own) / residual.max(1e-9)).clamp(0.0, 1.0))
                .sum();
            if below < share * total { low = middle } else { high = middle }
        }
        base + Duration::from_secs_f64(high)
    };
    Some(Prediction { p50: at(0.5), p95: at(0.95), mean_batch: frames / runs })
}

/// How many frames come within `time`, of cameras of which `inside` have a frame in or behind the engine: probabilities of 0, 1, 2 ….
fn arrivals(time: f64, interval: f64, cameras: u32, inside: usize, most: usize) -> Vec<f64> {
    let others = f64::from(cameras) - inside as f64;
    let mean = f64::from(cameras) * time / interval;
    let p = (time / (interval - time).max(1e-9)).min(1.0);
    let mut all = vec![0.0; most + 1];
    if time * 2.0 < interval || cameras == 1 && time < interval {
        let others = others.max(0.0);
        // Binomial, by its recurrence.
        let mut term = (1.0 - p).max(0.0).powf(others);
        for (n, slot) in all.iter_mut().enumerate() {
            *slot = term;
            term *= (others - n as f64).max(0.0) / (n as f64 + 1.0) * p / (1.0 - p).max(1e-9);
        }
    } else {
        // A run that outlasts half an interval may see cameras more than once: Poisson.
        let mut term = (-mean).exp();
        for (n, slot) in all.iter_mut().enumerate() {
            *slot = term;
            term *= mean / (n as f64 + 1.0);
        }
    }
    let sum: f64 = all.iter().sum();
    all.iter_mut().for_each(|p| *p /= sum.max(1e-300));
    all
}

/// The chain's steady state over frames in and behind a run, 1..=`states`.
fn steady(comes: &[Vec<f64>], slots: usize, states: usize) -> Vec<f64> {
    let mut now = vec![0.0; states + 1];
    now[1] = 1.0;
    for _ in 0..RUNS {
        let mut next = vec![0.0; states + 1];
        for (x, p) in now.iter().enumerate().filter(|(_, p)| **p > 1e-12) {
            let left = x.saturating_sub(slots);
            for (n, q) in comes[x].iter().enumerate() {
                next[(left + n).clamp(1, states)] += p * q;
            }
        }
        now = next;
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::curve::Rung;

    fn curve(rungs: &[(usize, u64)]) -> Curve {
        let rung = |&(frames, ms)| Rung { frames, service: Duration::from_millis(ms) };
        Curve::new(&rungs.iter().map(rung).collect::<Vec<_>>())
    }

    const BASE: Duration = Duration::from_millis(5);

    #[test]
    fn a_camera_alone_never_waits() {
        let got = predict(&curve(&[(1, 30)]), 1, 1, 20.0, BASE).expect("ρ is 0.6");
        for percentile in [got.p50, got.p95] {
            assert!((percentile.as_secs_f64() - 0.035).abs() < 1e-6, "{got:?}");
        }
        assert_eq!(predict(&curve(&[(1, 30)]), 1, 2, 20.0, BASE), None, "ρ is 1.2");
    }

    #[test]
    fn two_cameras_meet_as_often_as_their_phases_do() {
        // 10 ms of 100: the other one is met in a run of 10 ms with 1/9, and then waits for 5 ms on average.
        let got = predict(&curve(&[(1, 10)]), 1, 2, 10.0, BASE).expect("ρ is 0.2");
        assert!((got.p50.as_secs_f64() - 0.015).abs() < 1e-4, "{got:?}");
        assert!((0.019..0.025).contains(&got.p95.as_secs_f64()), "{got:?}");
    }

    #[test]
    fn more_cameras_take_longer_and_fill_batches() {
        let gpu = curve(&[(1, 5), (2, 6), (4, 8), (8, 12), (16, 20), (32, 36)]);
        let all: Vec<Prediction> =
            [1, 5, 10, 20, 26].map(|n| predict(&gpu, 32, n, 30.0, BASE).expect("ρ below 0.9")).to_vec();
        assert!(all.is_sorted_by(|a, b| a.p95 <= b.p95 && a.mean_batch <= b.mean_batch), "{all:#?}");
    }
}
