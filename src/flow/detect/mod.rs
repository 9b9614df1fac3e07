//! Tensors to boxes: what the network said of one frame becomes detections in pixels of the source picture.
//!
//! A [`Detector`] is built once per model, checks every shape then, and decodes without fallible steps:
//!
//! 1. *scan*: find the anchors that can reach the score floor (`scan`), as cheaply as the layout allows;
//! 2. *decode*: the few that can, one file a family, into corners in pixels of the input tensor;
//! 3. *sieve*: the named class with the best score, back through the [`Placement`], clipped to the frame;
//! 4. *suppress*: `nms`, except for networks that were trained to say each thing once.
//!
//! A device may do the first step and the choice of the class itself (`picked`).
//!
//! One anchor gives at most one box, that of its best *named* class: a label without a name is a column
//! that is no class (a background column, the holes in COCO's numbering), and is not read. To ignore
//! a real class, filter what comes out; otherwise its objects would return under their second-best name.
//!
//! Not here: pixels (the network's input is made elsewhere), time, identity over frames (`track`).

mod fastestdet;
mod nanodet;
mod nms;
mod picked;
mod query;
mod scan;
mod shape;
mod sieve;
mod ssd;
#[cfg(test)]
mod tests;
mod yolo;

use crate::fault::{Fault, Who};
use crate::frame::{Detection, Size};
use crate::model::spec::{Family, ModelSpec, Placement, TensorView};

use shape::Outputs;
use sieve::{Candidate, Classes, Sieve};

pub use nms::{MAX_CANDIDATES, MAX_DETECTIONS};
pub use picked::{Anchors, ROW as PICKED_ROW, pick};

/// One output of the graph: its name, and its dimensions with the batch first. `None` is a free dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputShape {
    /// The graph output's name.
    pub name: String,
    /// Dimensions, the batch included.
    pub dims: Vec<Option<usize>>,
    /// What the engine gives of it are not these values but, frame by frame, the rows that [`pick`] describes: [N, [`PICKED_ROW`]].
    pub picked: bool,
}

impl OutputShape {
    /// An output that is given as the graph makes it.
    pub fn whole(name: &str, dims: &[Option<usize>]) -> OutputShape {
        OutputShape { name: name.to_owned(), dims: dims.to_vec(), picked: false }
    }
}

/// What one call of [`Detector::decode`] could not use. All zero on a sound output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeReport {
    /// Anchors (rows, queries) dropped because a value that decides their box is NaN or infinite. Values
    /// that cannot matter are not read: nameless classes, and everything else of an anchor whose
    /// objectness or best class is under the floor.
    pub non_finite: usize,
    /// Rows whose class number is no index into the labels (end-to-end outputs only): the labels of the
    /// manifest belong to another network.
    pub unknown_class: usize,
    /// The tensors are not of the shape that the detector was built for; nothing was decoded. A free
    /// dimension turned out otherwise, or the engine is broken.
    pub wrong_shape: bool,
}

/// Reads one network's outputs.
#[derive(Debug)]
pub struct Detector {
    head: Head,
    outputs: Outputs,
    classes: Classes,
    floor: f32,
    /// `None`: the network says each thing once.
    nms_iou: Option<f32>,
    /// Its one output comes as rows that were picked.
    picked: bool,
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
enum Head {
    Ssd(ssd::Ssd),
    NanoDet(nanodet::NanoDet),
    Yolox(yolo::Yolox),
    Yolov8(yolo::Yolov8),
    Yolov5(yolo::Yolov5),
    EndToEnd(query::EndToEnd),
    Detr(query::Detr),
    FastestDet(fastestdet::FastestDet),
}

impl Detector {
    /// A detector for the model whose graph has these `outputs`.
    ///
    /// # Errors
    /// [`Who::Config`] when the outputs are not what the family needs (names the output, its shape and
    /// the shape wanted), or when a threshold or the input size is out of range.
    pub fn new(spec: &ModelSpec, outputs: &[OutputShape]) -> Result<Detector, Fault> {
        let output = &spec.output;
        for (key, value) in [("score_floor", output.score_floor), ("nms_iou", output.nms_iou)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Fault::new(
                    Who::Config,
                    "model",
                    format!("model {}: [output] {key} = {value} is outside 0..=1", spec.name),
                ));
            }
        }
        let input = Size { width: spec.input.width, height: spec.input.height };
        if input.width == 0 || input.height == 0 {
            return Err(Fault::new(
                Who::Config,
                "model",
                format!("model {}: [input] size {input} is empty", spec.name),
            ));
        }
        let classes = Classes::new(&spec.labels).map_err(|why| {
            Fault::new(Who::Config, "model", format!("model {}: {why}", spec.name))
                .remedy("labels: one name for each class column of the network, in its order")
        })?;

        let picked = outputs.iter().any(|output| output.picked);
        let mut outputs = Outputs::new(spec, outputs)?;
        let count = classes.count();
        let head = match output.family {
            Family::Ssd => Head::Ssd(ssd::Ssd::new(&mut outputs, count, input)?),
            Family::NanoDet => Head::NanoDet(nanodet::NanoDet::new(&mut outputs, count, input)?),
            Family::Yolox => Head::Yolox(yolo::Yolox::new(&mut outputs, count, input)?),
            Family::Yolov8 => Head::Yolov8(yolo::Yolov8::new(&mut outputs, count)?),
            Family::Yolov5 => Head::Yolov5(yolo::Yolov5::new(&mut outputs, count)?),
            Family::EndToEnd => Head::EndToEnd(query::EndToEnd::new(&mut outputs)?),
            Family::Detr => Head::Detr(query::Detr::new(&mut outputs, count, input, output.score_floor)?),
            Family::FastestDet => {
                Head::FastestDet(fastestdet::FastestDet::new(&mut outputs, count, input, output.score_floor)?)
            }
        };
        let says_once = matches!(output.family, Family::EndToEnd | Family::Detr);
        let mut detector = Detector {
            head,
            outputs,
            classes,
            floor: output.score_floor,
            nms_iou: (!says_once).then_some(output.nms_iou),
            picked,
            candidates: Vec::new(),
        };
        if picked {
            detector.anchors().ok_or_else(|| {
                Fault::new(Who::Bug, "detect", format!("model {}: its anchors cannot be picked", spec.name))
            })?;
            detector.outputs.settle(0, [None, Some(PICKED_ROW)]);
        }
        Ok(detector)
    }

    /// Appends the boxes of one frame to `out`, best score first: in pixels of the source picture, clipped
    /// to `frame`, at most [`MAX_DETECTIONS`] of them, after suppression where the family needs it.
    ///
    /// `outputs` holds this frame's part of each graph output, in the order given to [`Detector::new`].
    /// Never fails: what cannot be read is told in the report. Allocates only while its scratch still
    /// grows (bounded by the number of anchors) and when `out` has no room.
    pub fn decode(
        &mut self,
        outputs: &[TensorView<'_>],
        place: &Placement,
        frame: Size,
        out: &mut Vec<Detection>,
    ) -> DecodeReport {
        let mut report = DecodeReport::default();
        if !self.outputs.fit(outputs) {
            report.wrong_shape = true;
            return report;
        }
        self.candidates.clear();
        let mut sieve = Sieve {
            classes: &self.classes,
            floor: self.floor,
            place,
            frame,
            candidates: &mut self.candidates,
            report: &mut report,
        };
        let pick = |k: usize| &outputs[self.outputs.index(k)];
        match &self.head {
            head if self.picked => picked::decode(head, &self.classes, pick(0), &mut sieve),
            Head::Ssd(head) => head.decode(pick(0), pick(1), &mut sieve),
            Head::NanoDet(head) => head.decode(pick, &mut sieve),
            Head::Yolox(head) => head.decode(pick(0), &mut sieve),
            Head::Yolov8(head) => head.decode(pick(0), &mut sieve),
            Head::Yolov5(head) => head.decode(pick(0), &mut sieve),
            Head::EndToEnd(head) => head.decode(pick(0), &mut sieve),
            Head::Detr(head) => head.decode(pick(0), pick(1), &mut sieve),
            Head::FastestDet(head) => head.decode(pick(0), &mut sieve),
        }
        nms::finish(&mut self.candidates, self.nms_iou, out);
        report
    }
}
