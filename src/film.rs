//! A video, picture by picture, for whatever wants each of them in turn: no ring, no dropping.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::config::Camera;
use crate::device::{Device, Happening, Picture, Sink};
use crate::fault::{Fault, Who};
use crate::probe::refine;

/// The longest that a source may be silent.
const SILENCE: Duration = Duration::from_secs(15);

/// A running source. A file waits for whoever reads it, so no picture is lost.
pub struct Film<'a, D: Device> {
    camera: &'a Camera,
    pictures: Option<Receiver<Picture<D::Pixels>>>,
    happenings: Receiver<Happening>,
    source: Option<D::Source>,
}

impl<'a, D: Device> Film<'a, D> {
    /// Opens the source.
    ///
    /// # Errors
    /// When it cannot even be built.
    pub fn open(device: &D, camera: &'a Camera) -> Result<Self, Fault> {
        let (pictures, taken) = bounded(2);
        let (happening, happenings) = bounded(64);
        let sink = Sink {
            // Blocks when two wait. An error: we have ended.
            picture: Box::new(move |picture| drop(pictures.send(picture))),
            happening,
            gate: None,
        };
        let source = device.open(camera, sink)?;
        Ok(Film { camera, pictures: Some(taken), happenings, source: Some(source) })
    }

    /// The next picture; `None` at the end.
    ///
    /// # Errors
    /// When the source fails, or is silent for 15 s.
    pub fn picture(&mut self) -> Result<Option<Picture<D::Pixels>>, Fault> {
        let Some(pictures) = &self.pictures else { return Ok(None) };
        // A picture first: the end of the stream overtakes the last ones.
        match pictures.try_recv() {
            Ok(picture) => Ok(Some(picture)),
            Err(_) => wait(pictures, &self.happenings).map_err(|fault| refine(&self.camera.source, fault)),
        }
    }
}

impl<D: Device> Drop for Film<'_, D> {
    fn drop(&mut self) {
        // The source's thread may wait in `send`: it must find nobody there before it can be stopped.
        drop(self.pictures.take());
        drop(self.source.take());
    }
}

fn wait<P>(
    taken: &Receiver<Picture<P>>,
    happenings: &Receiver<Happening>,
) -> Result<Option<Picture<P>>, Fault> {
    let silence = || Fault::new(Who::Camera, "stalled", format!("no picture for {} s", SILENCE.as_secs()));
    loop {
        crossbeam_channel::select! {
            recv(taken) -> picture => return Ok(picture.ok()),
            recv(happenings) -> what => match what {
                // Pictures that were delivered before the end are still in the channel.
                Ok(Happening::Ended) => return match taken.recv_timeout(Duration::from_millis(1)) {
                    Ok(picture) => Ok(Some(picture)),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(None),
                },
                Ok(Happening::Failed(fault)) => return Err(fault),
                Ok(Happening::Undecodable) => {}
                Err(_) => return Ok(None),
            },
            default(SILENCE) => return Err(silence()),
        }
    }
}
