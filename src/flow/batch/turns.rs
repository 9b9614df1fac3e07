//! Whose turn it is: `realtime` before `bulk`, and within a class each camera by its weight.
//!
//! Within a class this is start-time fair queueing (Goyal, Vin, Cheng 1996) with slots for bytes: a turn moves a
//! camera's virtual time on by 1/weight, and the camera with the lowest goes next; among equals the one whose last
//! turn is longest ago. A camera that was away comes back at most [`CREDIT`] turns behind the others: enough that one whose
//! frames always just miss a batch catches up, too little for a burst to crowd anyone out.
//!
//! Across classes the order is strict, but for one thing: while bulk frames wait, each realtime turn earns bulk its
//! share of a turn, and a whole one goes first. So bulk takes all slack and never less than its share.

use crate::config::Priority;
use crate::flow::agenda::Agenda;
use crate::frame::CameraId;

/// Virtual time of one turn at weight 1.
const TURN: u64 = 1 << 20;

/// Turns that a camera may have missed and still have.
const CREDIT: u64 = 2;

/// Where a camera stands in the order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    priority: Priority,
    stride: u64,
    virtual_time: u64,
    /// The running number of its last turn.
    last: u64,
}

impl Turn {
    pub fn new(priority: Priority, weight: u32) -> Self {
        Turn { priority, stride: TURN / u64::from(weight.max(1)), virtual_time: 0, last: 0 }
    }

    /// Its next turns count by this weight; what it has had stays.
    pub fn set_weight(&mut self, weight: u32) {
        self.stride = Turn::new(self.priority, weight).stride;
    }

    fn key(self) -> (u64, u64) {
        (self.virtual_time, self.last)
    }
}

struct Class {
    order: Agenda<(u64, u64)>,
    /// The virtual time of the last turn.
    now: u64,
}

/// The cameras that wait for a turn.
pub(super) struct Turns {
    realtime: Class,
    bulk: Class,
    given: u64,
    bulk_share: f64,
    /// What bulk has earned, in turns, at most one.
    earned: f64,
}

impl Turns {
    pub fn new(bulk_share: f64) -> Self {
        let class = || Class { order: Agenda::new(), now: 0 };
        Turns {
            realtime: class(),
            bulk: class(),
            given: 0,
            bulk_share: bulk_share.clamp(0.0, 1.0),
            earned: 0.0,
        }
    }

    pub fn admit(&mut self, id: CameraId) {
        self.realtime.order.admit(id);
        self.bulk.order.admit(id);
    }

    /// A camera goes.
    pub fn remove(&mut self, id: CameraId) {
        self.realtime.order.remove(id);
        self.bulk.order.remove(id);
    }

    fn class(&mut self, priority: Priority) -> &mut Class {
        match priority {
            Priority::Realtime => &mut self.realtime,
            Priority::Bulk => &mut self.bulk,
        }
    }

    /// Lists a camera; `back` when it had nothing to send until now.
    pub fn put(&mut self, turn: &mut Turn, back: bool, id: CameraId) {
        let class = self.class(turn.priority);
        if back {
            turn.virtual_time = turn.virtual_time.max(class.now.saturating_sub(CREDIT * TURN));
        }
        class.order.put(turn.key(), id);
    }

    /// Takes the camera whose turn it is off the list. `truth` says where a camera stands, `None` for one with nothing to send.
    pub fn take_next(&mut self, mut truth: impl FnMut(CameraId) -> Option<Turn>) -> Option<CameraId> {
        let mut key = |id| truth(id).map(Turn::key);
        if self.bulk.order.first(&mut key).is_none() {
            return self.realtime.order.take_first(&mut key);
        }
        let realtime = if self.earned < 1.0 { self.realtime.order.take_first(&mut key) } else { None };
        self.earned =
            if realtime.is_some() { self.earned + self.bulk_share } else { (self.earned - 1.0).max(0.0) };
        realtime.or_else(|| self.bulk.order.take_first(&mut key))
    }

    /// Does a realtime camera wait for a turn?
    pub fn realtime_waits(&mut self, mut truth: impl FnMut(CameraId) -> Option<Turn>) -> bool {
        self.realtime.order.first(|id| truth(id).map(Turn::key)).is_some()
    }

    /// The camera was given a slot.
    pub fn dealt(&mut self, turn: &mut Turn) {
        self.given += 1;
        let class = self.class(turn.priority);
        class.now = class.now.max(turn.virtual_time);
        turn.virtual_time += turn.stride;
        turn.last = self.given;
    }
}
