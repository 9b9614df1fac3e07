//! `publish`: writes events to the outbox, where every sink reads them.

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::clock::Clock;
use crate::event::Draft;
use crate::outbox::Outbox;
use crate::supervise::Beat;

/// Runs until every stage that makes events has gone.
pub fn run(drafts: &Receiver<Draft>, outbox: &Outbox, beat: &Beat, clock: &dyn Clock) {
    loop {
        let draft = drafts.recv_timeout(Beat::EVERY);
        beat.touch(clock.now());
        match draft {
            Ok(draft) => {
                outbox.append(draft);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
