//! Cameras in the order of a key, the first one at hand in O(1), a change in O(log cameras).
//!
//! A lazy priority queue: keys only grow while a camera is listed, so an entry may be out of date,
//! and the truth is looked up when the entry comes to the front. Each camera has at most one entry,
//! which bounds the memory, and no entry is ever searched for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::frame::CameraId;

pub(super) struct Agenda<K> {
    heap: BinaryHeap<Reverse<(K, CameraId)>>,
    listed: Vec<bool>,
}

impl<K: Ord + Copy> Agenda<K> {
    pub fn new() -> Self {
        Agenda { heap: BinaryHeap::new(), listed: Vec::new() }
    }

    /// Makes room for this camera, so that listing it later allocates nothing.
    pub fn admit(&mut self, camera: CameraId) {
        if self.listed.len() <= camera.index() {
            self.listed.resize(camera.index() + 1, false);
        }
        self.heap.reserve(self.listed.len() - self.heap.len());
    }

    /// Lists a camera. One that is listed already stays where it is until it comes to the front.
    pub fn put(&mut self, key: K, camera: CameraId) {
        if !std::mem::replace(&mut self.listed[camera.index()], true) {
            self.heap.push(Reverse((key, camera)));
        }
    }

    /// Takes a camera off the list, wherever it stands: O(cameras), for one that goes for good.
    pub fn remove(&mut self, camera: CameraId) {
        if std::mem::take(&mut self.listed[camera.index()]) {
            self.heap.retain(|Reverse((_, other))| *other != camera);
        }
    }

    /// The camera with the lowest key by the `truth`, which is `None` for one that no longer belongs here.
    pub fn first(&mut self, mut truth: impl FnMut(CameraId) -> Option<K>) -> Option<(K, CameraId)> {
        while let Some(mut top) = self.heap.peek_mut() {
            let Reverse((key, camera)) = *top;
            match truth(camera) {
                Some(now) if now <= key => return Some((key, camera)),
                Some(later) => *top = Reverse((later, camera)),
                None => {
                    PeekMut::pop(top);
                    self.listed[camera.index()] = false;
                }
            }
        }
        None
    }

    /// [`Agenda::first`], and takes it off the list.
    pub fn take_first(&mut self, truth: impl FnMut(CameraId) -> Option<K>) -> Option<CameraId> {
        let (_, camera) = self.first(truth)?;
        self.heap.pop();
        self.listed[camera.index()] = false;
        Some(camera)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever keys grew and whichever cameras left since they were listed, the first is the lowest.
        #[test]
        fn the_first_is_the_lowest_by_the_truth(
            steps in prop::collection::vec((0u32..5, 0u64..20, any::<bool>()), 1..80),
        ) {
            let mut agenda = Agenda::<u64>::new();
            let (mut keys, mut truth) = ([0; 5], [None; 5]);
            (0..5).for_each(|id| agenda.admit(CameraId(id)));
            for (id, more, leave) in steps {
                keys[id as usize] += more;
                truth[id as usize] = (!leave).then_some(keys[id as usize]);
                if !leave {
                    agenda.put(keys[id as usize], CameraId(id));
                }
                let lowest = (0..5).filter_map(|id| truth[id as usize].map(|key| (key, CameraId(id)))).min();
                prop_assert_eq!(agenda.first(|camera| truth[camera.index()]), lowest);
                prop_assert!(agenda.heap.len() <= 5);
            }
        }
    }
}
