//! What the daemon asks of a machine: sources of decoded pictures, and an engine. One trait; the stages are
//! generic over it, so that pixels in one kind of memory cannot reach an engine for another.

pub mod accelerator;
pub mod canvas;
pub mod choose;
pub mod nvidia;
pub mod scripted;
pub mod software;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use self::canvas::{Canvas, Colour};
use crate::clock::{Bell, Pts};
use crate::config;
use crate::event::Video;
use crate::fault::{Fault, Who};
use crate::flow::detect::OutputShape;
use crate::flow::still::Grid;
use crate::flow::thin::{Coded, Pass};
use crate::frame::{Frame, Size, Still};
use crate::model::spec::{Placement, TensorView};

/// A kind of machine.
pub trait Device: Send + Sync + 'static {
    /// A decoded picture, where this device keeps it.
    type Pixels: Send + 'static;
    /// Runs the network. Made and used on the `infer` thread.
    type Engine: Engine<Pixels = Self::Pixels>;
    /// A running source; dropping it stops it and frees what it held.
    type Source: Source;

    /// Opens the model.
    ///
    /// # Errors
    /// A missing library or a bad model, with the remedy.
    fn engine(&self) -> Result<Self::Engine, Fault>;

    /// The picture as a grid of mean luma values, for the motion gate; `None` where there is none: everything passes then.
    fn luma_grid(pixels: &Self::Pixels) -> Option<Grid>;

    /// Starts a fresh source for a camera. Returns at once: pictures and trouble arrive through `sink`.
    ///
    /// # Errors
    /// When the source cannot even be built, for example because a GStreamer element is missing.
    fn open(&self, camera: &config::Camera, sink: Sink<Self::Pixels>) -> Result<Self::Source, Fault>;

    /// A copy of a picture in host memory, for people to look at: at most `width` columns, in the colours of `colour` or in its
    /// own. `None`: this device has no way to make one.
    fn canvas(pixels: &Self::Pixels, width: Option<u32>, colour: Option<Colour>) -> Option<Canvas> {
        let _ = (pixels, width, colour);
        None
    }

    /// Which GPU it is, as CUDA counts; `None`: it is none.
    fn ordinal(&self) -> Option<u32> {
        None
    }

    /// What the accelerator says of itself; `None`: there is none, the CPU does it all.
    fn report(&self) -> Option<accelerator::Report> {
        None
    }

    /// Brings a still picture to where this device keeps its pictures. Called on any thread.
    ///
    /// # Errors
    /// When there is no room for it.
    fn picture(&self, still: Still) -> Result<Self::Pixels, Fault>;
}

/// A running source.
pub trait Source {
    /// Plays a file from its start again.
    ///
    /// # Errors
    /// When the source cannot seek.
    fn rewind(&mut self) -> Result<(), Fault>;

    /// From now on tells `tap` what the camera sends. A source that decodes nothing, or in a way that does not show it, ignores this.
    fn tap(&mut self, tap: Arc<dyn Tap>) {
        let _ = tap;
    }
}

/// Hears each encoded picture as the camera sent it, in decoding order, also those that are not decoded. Called on the source's own
/// thread; must not block.
pub trait Tap: Send + Sync {
    /// An access unit, and what it is.
    fn unit(&self, caps: &gstreamer::Caps, unit: &gstreamer::Buffer);
    /// The source has ended.
    fn ended(&self);
}

/// Where a source delivers to.
pub struct Sink<P> {
    /// Called on the source's own thread for each picture; may block only a lossless source.
    pub picture: Box<dyn FnMut(Picture<P>) + Send>,
    /// Told about everything else.
    pub happening: Sender<Happening>,
    /// Asked about each encoded picture before it is decoded; `None`: all are. A source that cannot tell pictures apart
    /// does not ask.
    pub gate: Option<Gate>,
}

/// Says what is decoded. Called on the source's own thread; must not block.
pub type Gate = Box<dyn FnMut(Coded) -> Pass + Send>;

/// One decoded picture.
#[derive(Debug)]
pub struct Picture<P> {
    /// How large.
    pub size: Size,
    /// What the stream is.
    pub video: Video,
    /// How long ago its data reached this box.
    pub age: Duration,
    /// The stream's own time.
    pub pts: Option<Pts>,
    /// `None`: the decoder could not make a sound picture of it.
    pub pixels: Option<P>,
}

/// What else a source has to say.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The stream ended. For a live source that is a failure: a killed RTSP server looks like this.
    Ended,
    /// The decoder met data that it cannot turn into a picture.
    Undecodable,
    /// The source failed and delivers no more.
    Failed(Fault),
}

/// Runs the network on batches: pictures are loaded, the batch is submitted, its results are collected, in the order of the
/// submissions.
pub trait Engine {
    /// What it reads.
    type Pixels;
    /// What it returns; read on another thread while the next batch runs.
    type Outputs: Outputs + Send + 'static;

    /// The batch sizes that are worth running, ascending, at most the configured maximum.
    fn ladder(&self) -> &[usize];

    /// The network's outputs, batch dimension included.
    fn outputs(&self) -> Vec<OutputShape>;

    /// Batches that may be submitted and not yet collected, at least 1. More than 1 only where another part of the machine does the
    /// work, so that the next batch can wait for it there; elsewhere a second batch would only be older when its turn comes.
    fn depth(&self) -> usize {
        1
    }

    /// Does a batch between two rungs run as the larger one, and take its time?
    fn pads(&self) -> bool {
        false
    }

    /// How long before the end of a batch the next one must be taken for the engine not to pause between them.
    fn lead(&self) -> Duration {
        Duration::ZERO
    }

    /// From now on the end of each submitted batch rings this bell.
    fn ring_when_done(&mut self, bell: Bell) {
        let _ = bell;
    }

    /// Puts a picture into slot `slot` of the next batch.
    ///
    /// # Errors
    /// When this picture cannot be used; the others of the batch still can.
    fn load(&mut self, slot: usize, frame: &Frame<Self::Pixels>) -> Result<Placement, Fault>;

    /// Starts the first `count` slots. Whether it returns at once or when they are done is the engine's affair.
    ///
    /// # Errors
    /// When the engine fails: all frames of the batch are lost, and there is nothing to collect of it.
    fn submit(&mut self, count: usize) -> Result<(), Fault>;

    /// Is the oldest batch that was not collected yet done?
    fn is_done(&self) -> bool {
        true
    }

    /// The results of the oldest batch that was not collected yet. Blocks until they are there.
    ///
    /// # Errors
    /// When the engine failed at it (all frames of the batch are lost), or there is no such batch.
    fn collect(&mut self) -> Result<Self::Outputs, Fault>;

    /// One batch by itself: submits it and waits for it.
    ///
    /// # Errors
    /// When the engine fails.
    fn run(&mut self, count: usize) -> Result<Self::Outputs, Fault> {
        self.submit(count)?;
        self.collect()
    }
}

/// There is no batch to collect.
pub(crate) fn nothing_submitted() -> Fault {
    Fault::new(Who::Bug, "engine", "results are asked for, but no batch was submitted")
}

/// The results of one run.
pub trait Outputs {
    /// How many outputs the network has.
    fn count(&self) -> usize;
    /// Output `index`'s part for slot `slot`.
    fn view(&self, index: usize, slot: usize) -> TensorView<'_>;
}
