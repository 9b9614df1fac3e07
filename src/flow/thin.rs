//! Thinning before decode: which encoded pictures of a camera are worth decoding while the engine is the limit.
//!
//! What the engine will not take need not be decoded, as far as the bitstream allows to leave it out ([`Kind`]). Two
//! rules, for each camera on its own:
//!
//! 1. **Just in time.** At its turn a camera gives its newest frame, so only pictures that come shortly before a turn are of use. Turns are
//!    regular when the engine is full; the next one is expected one usual gap after the last. A picture that no other
//!    picture needs is left out when it comes earlier than *lead* = ([frames a turn] + 1) frame intervals before that. A
//!    turn therefore finds the same newest frame as without thinning, and nothing else changes. An engine that is idle takes
//!    everything; turns that come early shorten the gap and so open the gate by themselves: there is no mode to switch, and
//!    nothing saws. A camera that gets at least half of its frames is not thinned.
//! 2. **Key frames only**, when the camera is *far behind*: over [`KEYS`] key-frame intervals it got fewer than [`ENTER`]
//!    frames an interval. It ends when the engine has been idle enough for [`LEAVE`] frames a key-frame interval during a hold
//!    time, or at once when the camera gets fewer frames by it than before; then it is not tried again for that time. The time doubles
//!    when the camera is soon as far behind again. Both changes happen at a key frame.
//!
//! | level | not decoded | costs |
//! |---|---|---|
//! | `all` | nothing | |
//! | `references` | pictures that no other needs and that come too early for the next turn | when a turn comes more than `lead` early, its frame is older by up to one turn |
//! | `key_frames` | all but key frames | at most one frame a key interval is left, up to a fifth fewer than the engine would have taken; a key frame waits for its turn, at which there would have been a newer frame |
//!
//! [`Valve`] keeps a decoder fed in an order that it can decode. Reading a bitstream does not belong here, and neither does the rate
//! cap `max_fps`, which closes the same gate ([`super::cap`]).

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::interval::Interval;
use crate::clock::Tick;

/// Key-frame intervals that are looked back on.
pub const KEYS: usize = 4;
/// Frames a key-frame interval below which a camera is far behind. Decoding what lies between two key frames costs about as much as
/// inferring a quarter of a frame or more, so nothing is lost by giving that up.
pub const ENTER: f64 = 1.25;
/// Frames a key-frame interval that the engine must have room for before all pictures are decoded again.
pub const LEAVE: f64 = 2.0;
/// How long it must have had it, at first and at most.
const HOLD: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(160));
/// A camera that is far behind again within this time left too early.
const SOON: Duration = Duration::from_secs(60);
/// For how long the level says `references` after a picture was left out.
const SHOWN: Duration = Duration::from_secs(2);

/// What other pictures a picture needs, and whether others need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Needs none, and none after it needs one before it.
    Key,
    /// Others need it, or that is not sure.
    Reference,
    /// No other needs it.
    Disposable,
    /// Needs none and no other needs it: each picture of MJPEG.
    Single,
}

impl Kind {
    /// Can be decoded without any other.
    pub const fn stands_alone(self) -> bool {
        matches!(self, Kind::Key | Kind::Single)
    }

    /// Can be left out without harm to any other.
    pub const fn is_free(self) -> bool {
        matches!(self, Kind::Disposable | Kind::Single)
    }
}

/// An access unit, as it comes to a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coded {
    /// Of its picture.
    pub kind: Kind,
    /// False for a further part of a picture that was split.
    pub starts: bool,
    /// It may need pictures from before the last key frame, though it comes after it (H.265: RASL).
    pub leans_back: bool,
}

/// What is decoded of a camera.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything.
    #[default]
    All,
    /// Every picture that others need; of the rest what will be used.
    References,
    /// Key frames.
    KeyFrames,
}

impl Level {
    /// Every level, from the most decoded to the least.
    pub const ALL: [Level; 3] = [Level::All, Level::References, Level::KeyFrames];

    /// The API's word.
    pub const fn name(self) -> &'static str {
        match self {
            Level::All => "all",
            Level::References => "references",
            Level::KeyFrames => "key_frames",
        }
    }
}

/// What the engine could do besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// It is free now and nothing waits.
    pub idle: bool,
    /// Frames a second that it had time for lately and did not get.
    pub fps: f64,
    /// Cameras that are decoded by key frames only, and would share that.
    pub cameras: usize,
}

/// Decides for one camera.
#[derive(Default)]
pub struct Thin {
    /// Pictures as they come, decoded or not.
    pictures: Interval,
    keys: Interval,
    turns: Interval,
    /// The last turn: when, and how many frames it took.
    turn: Option<(Tick, u32)>,
    /// Frames sent in each of the last key-frame intervals, the present one first.
    sent: [u32; KEYS + 1],
    /// Never decoded by key frames only.
    whole: bool,
    /// Key frames since the camera came, and pictures that were lost or left out since the oldest in `sent`.
    known: usize,
    lost: [u64; KEYS + 1],
    far_behind: bool,
    /// Frames sent in the last [`KEYS`] intervals before it was far behind.
    had: u32,
    /// Not far behind again before this.
    again: Tick,
    hold: Option<Duration>,
    /// Since when the engine has had room.
    room_since: Option<Tick>,
    left: Option<Tick>,
    skipped: Option<Tick>,
    level: Level,
}

impl Thin {
    /// Of a camera that may be decoded by key frames only, or (`whole`) not.
    pub fn new(whole: bool) -> Self {
        Thin { whole, ..Thin::default() }
    }

    /// What is decoded now.
    pub fn level(&self) -> Level {
        self.level
    }

    /// A picture comes to the decoder. Is it worth decoding?
    pub fn comes(&mut self, now: Tick, kind: Kind, room: Room) -> bool {
        self.pictures.note(now);
        if kind == Kind::Key {
            self.key(now, room);
        }
        let wanted = match kind {
            Kind::Key => true,
            _ if self.far_behind => false,
            Kind::Reference => true,
            Kind::Disposable | Kind::Single => room.idle || self.opens().is_none_or(|at| now >= at),
        };
        if !wanted {
            self.skipped = Some(now);
            self.lost[0] += 1;
        }
        self.level = match self.skipped {
            _ if self.far_behind => Level::KeyFrames,
            Some(at) if now.since(at) < SHOWN => Level::References,
            _ => Level::All,
        };
        wanted
    }

    /// From when on pictures that no other needs are decoded for the next turn; `None`: all of them are.
    pub fn opens(&self) -> Option<Tick> {
        let (at, frames) = self.turn?;
        let lead = self.pictures.usual()?.saturating_mul(frames + 1);
        let early = self.turns.usual()?.checked_sub(lead)?;
        Some(at + early)
    }

    /// When the camera's next frame may be expected, if that is later than usual.
    pub fn due(&self) -> Option<Tick> {
        if self.far_behind {
            let (at, _) = self.turn?;
            return Some(at + self.keys.usual()?);
        }
        Some(self.opens()? + self.pictures.usual()?)
    }

    /// So many of its frames went to the engine in one batch.
    pub fn sent(&mut self, now: Tick, frames: usize) {
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        self.turns.note(now);
        self.turn = Some((now, frames));
        self.sent[0] = self.sent[0].saturating_add(frames);
    }

    /// So many decoded frames were given up for want of engine time.
    pub fn lost(&mut self, frames: usize) {
        self.lost[0] += frames as u64;
    }

    /// The camera went offline: what comes next is another stream.
    pub fn reset(&mut self) {
        *self = Thin::new(self.whole);
    }

    fn key(&mut self, now: Tick, room: Room) {
        self.keys.note(now);
        self.known += 1;
        if self.far_behind {
            self.leave(now, room);
        } else if now >= self.again && self.is_far_behind() {
            let last = self.left.zip(self.hold).filter(|(left, hold)| now.since(*left) < SOON + *hold);
            self.hold = Some(last.map_or(HOLD.0, |(_, hold)| (2 * hold).min(HOLD.1)));
            (self.far_behind, self.room_since) = (true, None);
            (self.had, self.known) = (self.got(), 0);
        }
        self.sent.rotate_right(1);
        self.lost.rotate_right(1);
        (self.sent[0], self.lost[0]) = (0, 0);
    }

    fn is_far_behind(&self) -> bool {
        // The first key frame after a start closes no whole interval.
        let known = self.known > KEYS + 1;
        let (sent, lost) = (self.got(), self.lost[..KEYS].iter().sum::<u64>());
        // Where every picture is a key frame there is nothing to leave out.
        let between = self.pictures.usual() < self.keys.usual().map(|usual| usual / 2);
        !self.whole && known && between && lost > u64::from(sent) && f64::from(sent) < ENTER * KEYS as f64
    }

    fn got(&self) -> u32 {
        self.sent[..KEYS].iter().sum()
    }

    fn leave(&mut self, now: Tick, room: Room) {
        let hold = self.hold.unwrap_or(HOLD.0);
        // Where the key frames of many cameras come at once, most of them are stale at their turn.
        if self.known > KEYS && 4 * self.got() < 3 * self.had {
            self.again = now + hold;
            return self.all_again(now);
        }
        let interval = self.keys.usual().unwrap_or_default().as_secs_f64();
        let could_have = 1.0 + room.fps * interval / room.cameras.max(1) as f64;
        if could_have < LEAVE {
            self.room_since = None;
            return;
        }
        let since = *self.room_since.get_or_insert(now);
        if now.since(since) >= hold {
            self.all_again(now);
        }
    }

    fn all_again(&mut self, now: Tick) {
        (self.far_behind, self.left, self.known) = (false, Some(now), 0);
        // Turns were as rare as key frames; they will not be.
        (self.turns, self.skipped) = (Interval::default(), None);
    }
}

/// What happens to an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It goes to the decoder.
    Decode,
    /// It does not.
    Skip,
    /// It does not, and nothing will before the next key frame: the decoder can give out what it holds back.
    Drain,
}

/// Lets through what a decoder can decode of what is wanted. One a decoder.
#[derive(Default)]
pub struct Valve {
    last: Option<(Coded, Pass)>,
    /// A reference was left out: until the next key frame nothing can be decoded.
    missing: bool,
    /// References from before the last key frame are missing.
    rootless: bool,
}

impl Valve {
    /// `wanted` is asked about each picture once.
    pub fn pass(&mut self, unit: Coded, wanted: impl FnOnce(Kind) -> bool) -> Pass {
        if let Some((first, pass)) = self.last
            && unit == (Coded { starts: false, ..first })
        {
            return if pass == Pass::Drain { Pass::Skip } else { pass };
        }
        let wanted = wanted(unit.kind);
        if unit.kind == Kind::Key {
            self.rootless = self.missing;
            self.missing = false;
        } else if !unit.leans_back {
            self.rootless = false;
        }
        // No picture that does not lean back itself needs one that does.
        let undecodable = unit.leans_back && self.rootless;
        let decodable = !self.missing && !undecodable;
        let pass = match unit.kind {
            Kind::Key => Pass::Decode,
            Kind::Single if wanted => Pass::Decode,
            Kind::Reference | Kind::Disposable if wanted && decodable => Pass::Decode,
            Kind::Reference if decodable => {
                self.missing = true;
                Pass::Drain
            }
            _ => Pass::Skip,
        };
        self.last = Some((unit, pass));
        pass
    }
}
