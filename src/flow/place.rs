//! Which lane a camera runs on. A lane is a GPU with its engine and its decoders, and frames never cross from one to another, so this is
//! decided for a camera as a whole, when it starts.
//!
//! A camera goes where it fills the smallest part of the lane, everything else on that lane included: list scheduling onto the least
//! loaded machine (Graham, *Bounds on Multiprocessing Timing Anomalies*, 1969). Of lanes that are equally fast none ever has more than
//! the one camera that came last above another. It is **sticky**: a camera that has a lane stays there as long as the lane lives, also
//! when others have gone and another lane has become emptier, since a move costs a reconnect and its pictures meanwhile.

/// How much slower a lane is that still counts as equally fast.
const ALIKE: f64 = 0.1;

/// A lane as a camera finds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Frames a second that its engine can take, as measured.
    pub capacity: f64,
    /// Frames a second that the cameras ask for that run on it.
    pub load: f64,
    /// Does it work?
    pub alive: bool,
}

impl Room {
    /// The part of the lane that is taken when so many frames a second come to it.
    fn filled(&self, more: f64) -> f64 {
        (self.load + more) / self.capacity.max(1e-9)
    }
}

/// The lane for a camera that asks for `fps` frames a second; `home` is the one that it had before. `None`: no lane lives.
pub fn choose(lanes: &[Room], home: Option<usize>, fps: f64) -> Option<usize> {
    if let Some(home) = home.filter(|home| lanes.get(*home).is_some_and(|lane| lane.alive)) {
        return Some(home);
    }
    let living = (0..lanes.len()).filter(|lane| lanes[*lane].alive);
    living.min_by(|a, b| lanes[*a].filled(fps).total_cmp(&lanes[*b].filled(fps)))
}

/// Lanes that were measured to be about as fast are taken for equal: a measurement of the same GPU again differs by as much.
pub fn even_out(lanes: &mut [Room]) {
    let fastest = lanes.iter().filter(|lane| lane.alive).map(|lane| lane.capacity).fold(0.0, f64::max);
    for lane in lanes.iter_mut().filter(|lane| lane.capacity >= (1.0 - ALIKE) * fastest) {
        lane.capacity = fastest;
    }
}

/// The same for many, one after the other; what each asks for is added to its lane.
pub fn spread(
    lanes: &mut [Room],
    cameras: impl IntoIterator<Item = (Option<usize>, f64)>,
) -> Vec<Option<usize>> {
    let place = |(home, fps)| {
        let lane = choose(lanes, home, fps)?;
        lanes[lane].load += fps;
        Some(lane)
    };
    cameras.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lanes(count: usize) -> Vec<Room> {
        vec![Room { capacity: 1000.0, load: 0.0, alive: true }; count]
    }

    /// Places those that have no lane that lives, beside those that have one.
    fn settle(lanes: &[Room], homes: &[Option<usize>], fps: &[f64]) -> (Vec<Option<usize>>, Vec<Room>) {
        let mut lanes = lanes.to_vec();
        let mut homes = homes.to_vec();
        let lives = |home: &Option<usize>, lanes: &[Room]| home.is_some_and(|lane| lanes[lane].alive);
        for (home, fps) in homes.iter().zip(fps) {
            if let Some(lane) = home.filter(|_| lives(home, &lanes)) {
                lanes[lane].load += fps;
            }
        }
        let orphans: Vec<usize> = (0..homes.len()).filter(|i| !lives(&homes[*i], &lanes)).collect();
        let placed = spread(&mut lanes, orphans.iter().map(|i| (homes[*i], fps[*i])));
        for (i, lane) in orphans.into_iter().zip(placed) {
            homes[i] = lane;
        }
        // Counted anew: what `spread` adds up is under test.
        for (number, lane) in lanes.iter_mut().enumerate() {
            let its = homes.iter().zip(fps).filter(|(home, _)| **home == Some(number));
            lane.load = its.map(|(_, fps)| fps).sum();
        }
        (homes, lanes)
    }

    fn gap(lanes: &[Room]) -> f64 {
        let living = || lanes.iter().filter(|lane| lane.alive).map(|lane| lane.load / lane.capacity);
        living().fold(0.0, f64::max) - living().fold(f64::INFINITY, f64::min)
    }

    proptest! {
        /// Equally fast lanes end within one camera of each other, whatever the cameras ask for.
        #[test]
        fn equal_lanes_end_within_one_camera(
            count in 1usize..8, fps in proptest::collection::vec(1.0f64..60.0, 0..100),
        ) {
            let (homes, lanes) = settle(&lanes(count), &vec![None; fps.len()], &fps);
            let largest = fps.iter().copied().fold(0.0, f64::max);
            prop_assert!(homes.iter().all(Option::is_some));
            prop_assert!(gap(&lanes) <= largest / 1000.0 + 1e-9, "{lanes:?}");
        }

        /// A lane that is twice as fast gets twice as much, but for one camera.
        #[test]
        fn a_faster_lane_gets_more(factor in 1.0f64..5.0, cameras in 0usize..100) {
            let mut lanes = lanes(2);
            lanes[1].capacity *= factor;
            let (_, lanes) = settle(&lanes, &vec![None; cameras], &vec![25.0; cameras]);
            prop_assert!(gap(&lanes) <= 25.0 / 1000.0 + 1e-9, "{lanes:?}");
        }

        /// When a lane dies, its cameras move and no other does, however full the lanes are.
        #[test]
        fn nobody_moves_but_the_cameras_of_the_dead_lane(
            count in 2usize..6, dead in 0usize..6,
            cameras in proptest::collection::vec((0usize..6, 1.0f64..60.0), 0..60),
        ) {
            let dead = dead % count;
            let homes: Vec<_> = cameras.iter().map(|(home, _)| Some(home % count)).collect();
            let fps: Vec<_> = cameras.iter().map(|(_, fps)| *fps).collect();
            let mut all = lanes(count);
            all[dead].alive = false;
            let (after, _) = settle(&all, &homes, &fps);
            for (before, after) in homes.iter().zip(&after) {
                prop_assert_eq!(after != before, *before == Some(dead));
                // Asked by itself, as a camera is that changes or comes back, it gets the same answer.
                prop_assert_eq!(choose(&all, *after, 1000.0), *after);
            }
        }

        /// After a death every camera is on a lane that lives, and these are within one camera of each other again.
        #[test]
        fn after_a_death_the_living_are_balanced(
            count in 2usize..6, dead in 0usize..6, fps in proptest::collection::vec(1.0f64..60.0, 0..100),
        ) {
            let (homes, mut after) = settle(&lanes(count), &vec![None; fps.len()], &fps);
            after.iter_mut().for_each(|lane| lane.load = 0.0);
            after[dead % count].alive = false;
            let (homes, after) = settle(&after, &homes, &fps);
            prop_assert!(homes.iter().all(|lane| lane.is_some_and(|lane| after[lane].alive)));
            let largest = fps.iter().copied().fold(0.0, f64::max);
            prop_assert!(gap(&after) <= largest / 1000.0 + 1e-9, "{after:?}");
        }
    }

    #[test]
    fn a_measurement_that_trembles_makes_no_difference() {
        let room = |capacity| Room { capacity, load: 0.0, alive: true };
        let mut rooms = [room(1000.0), room(950.0), room(500.0)];
        even_out(&mut rooms);
        assert_eq!(rooms.map(|r| r.capacity), [1000.0, 1000.0, 500.0]);
    }

    #[test]
    fn where_no_lane_lives_there_is_no_place() {
        let dead = Room { capacity: 10.0, load: 0.0, alive: false };
        assert_eq!((choose(&[dead], Some(0), 1.0), choose(&[], None, 1.0)), (None, None));
    }
}
