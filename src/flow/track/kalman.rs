//! Where a box will be: a constant-velocity Kalman filter on centre, width and height.
//!
//! Kalman, *A New Approach to Linear Filtering and Prediction Problems*, 1960; on (cx, cy, w, h) as in
//! Aharon et al., *BoT-SORT*, 2022. Time is continuous: frames may be missing, so the process noise
//! is that of a white acceleration over the seconds that really passed, not over a frame.
//!
//! All noises are proportional to the box, which cancels out of the gain. So the four axes share one
//! 2×2 covariance in units of (box side)², and the filter has no matrix bigger than that. It is exact
//! while the box keeps its size, and near enough while it grows.

use crate::frame::BBox;

/// Standard deviation of a detected box, in box sides. ByteTrack takes 0.05; the small networks that run on
/// CPUs tremble more.
const MEASURED: f32 = 0.08;
/// Standard deviation of the speed of a box that has been seen once, in box sides per second.
const FIRST_SPEED: f32 = 2.0;
/// Density of the random acceleration: speed wanders by this many box sides per second within a second.
const WANDER: f32 = 0.5;
/// However unsure its place is, a box is not looked for farther away than this, in box sides.
const FARTHEST: f32 = 0.5;
/// No box is smaller than this, in pixels, however fast it seemed to shrink.
const SMALLEST: f32 = 1.0;

/// A box in motion. Pixels, and pixels per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Motion {
    /// Centre x, centre y, width, height.
    mean: [f32; 4],
    /// Their change in a second.
    speed: [f32; 4],
    /// Variance of the mean, covariance, variance of the speed.
    cov: [f32; 3],
}

impl Motion {
    /// A box seen for the first time: it stands still until the second sight.
    pub(super) fn new(seen: &BBox) -> Self {
        Motion {
            mean: centred(seen),
            speed: [0.0; 4],
            cov: [MEASURED * MEASURED, 0.0, FIRST_SPEED * FIRST_SPEED],
        }
    }

    /// Moves on by `dt` seconds. A box that is `hidden` keeps its size: a half-covered box shrinks
    /// fast, and would vanish if that went on.
    pub(super) fn predict(&mut self, dt: f32, hidden: bool) {
        let moving = if hidden { 2 } else { 4 };
        for (mean, speed) in self.mean.iter_mut().zip(self.speed).take(moving) {
            *mean += speed * dt;
        }
        self.mean[2] = self.mean[2].max(SMALLEST);
        self.mean[3] = self.mean[3].max(SMALLEST);
        let [p, c, v] = self.cov;
        let q = WANDER * WANDER;
        self.cov = [
            p + dt * (2.0 * c + dt * v) + q * dt * dt * dt / 3.0,
            c + dt * v + q * dt * dt / 2.0,
            v + q * dt,
        ];
    }

    /// How much farther on each side than a detector's error the object may be, in box sides: two standard
    /// deviations. Close to 0 for a known mover a frame later; large after a gap, or for one seen once.
    pub(super) fn doubt(&self) -> f32 {
        (2.0 * (self.cov[0].sqrt() - MEASURED)).clamp(0.0, FARTHEST)
    }

    /// Takes in what was seen now.
    pub(super) fn correct(&mut self, seen: &BBox) {
        let [p, c, v] = self.cov;
        let noise = MEASURED * MEASURED;
        let (gain, speed_gain) = (p / (p + noise), c / (p + noise));
        for ((mean, speed), z) in self.mean.iter_mut().zip(&mut self.speed).zip(centred(seen)) {
            let surprise = z - *mean;
            *mean += gain * surprise;
            *speed += speed_gain * surprise;
        }
        self.mean[2] = self.mean[2].max(SMALLEST);
        self.mean[3] = self.mean[3].max(SMALLEST);
        self.cov = [gain * noise, speed_gain * noise, (v - speed_gain * c).max(0.0)];
    }

    /// The same motion in a picture of another size.
    pub(super) fn scale(&mut self, x: f32, y: f32) {
        for (i, factor) in [x, y, x, y].into_iter().enumerate() {
            self.mean[i] *= factor;
            self.speed[i] *= factor;
        }
    }

    /// Where it is now.
    pub(super) fn bbox(&self) -> BBox {
        let [cx, cy, w, h] = self.mean;
        BBox { x: cx - w / 2.0, y: cy - h / 2.0, w, h }
    }
}

fn centred(b: &BBox) -> [f32; 4] {
    [b.x + b.w / 2.0, b.y + b.h / 2.0, b.w, b.h]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(x: f32, y: f32) -> BBox {
        BBox { x, y, w: 40.0, h: 80.0 }
    }

    proptest! {
        /// After a few sights of a steady mover the filter knows its speed, whatever the gaps were.
        #[test]
        fn a_steady_mover_is_predicted_through_uneven_gaps(
            vx in -60.0f32..60.0,
            vy in -60.0f32..60.0,
            gaps in prop::collection::vec(0.03f32..0.4, 12..20),
            ahead in 0.0f32..0.8,
        ) {
            let mut motion = Motion::new(&at(300.0, 300.0));
            let mut t = 0.0;
            for dt in gaps {
                t += dt;
                motion.predict(dt, false);
                motion.correct(&at(300.0 + vx * t, 300.0 + vy * t));
            }
            motion.predict(ahead, false);
            t += ahead;
            let off = (motion.bbox().x - (300.0 + vx * t)).hypot(motion.bbox().y - (300.0 + vy * t));
            prop_assert!(off < 4.0, "{off} px off at a box of 40×80");
        }

        /// Whatever is fed, the covariance stays a covariance and the box a box.
        #[test]
        fn no_input_blows_the_filter_up(
            steps in prop::collection::vec((0.0f32..120.0, any::<bool>(), -4e3f32..4e3, 0.1f32..4e3, any::<bool>()), 1..200),
        ) {
            let mut motion = Motion::new(&at(0.0, 0.0));
            for (dt, hidden, x, side, seen) in steps {
                motion.predict(dt, hidden);
                if seen {
                    motion.correct(&BBox { x, y: -x, w: side, h: side });
                }
                let [p, c, v] = motion.cov;
                prop_assert!(p > 0.0 && v >= 0.0 && c * c <= p * v * 1.001, "{p} {c} {v}");
                let b = motion.bbox();
                prop_assert!(b.x.is_finite() && b.y.is_finite() && b.w >= SMALLEST && b.h >= SMALLEST);
            }
        }
    }
}
