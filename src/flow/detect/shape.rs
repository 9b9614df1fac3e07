//! The graph's outputs held against what a family needs: once, when the detector is built.

use crate::fault::{Fault, Who};
use crate::model::spec::{Family, ModelSpec, TensorView};

use super::OutputShape;

/// The outputs in the order that the family wants them, with the shapes that decoding relies on.
#[derive(Debug)]
pub(super) struct Outputs {
    model: String,
    family: Family,
    classes: usize,
    /// In the family's order.
    wanted: Vec<Wanted>,
    /// How many outputs the graph has.
    total: usize,
    named: bool,
}

#[derive(Debug)]
struct Wanted {
    name: String,
    /// Place among the graph's outputs.
    index: usize,
    /// After the batch. `None`: free, and free when decoding too.
    dims: Vec<Option<usize>>,
}

impl Outputs {
    pub fn new(spec: &ModelSpec, outputs: &[OutputShape]) -> Result<Outputs, Fault> {
        let find = |name: &String| {
            outputs.iter().position(|o| o.name == *name).ok_or_else(|| {
                let have: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
                Fault::new(
                    Who::Config,
                    "model",
                    format!(
                        "model {}: [output] names has `{name}`, but the graph has no such output",
                        spec.name
                    ),
                )
                .remedy(format!("its outputs are: {}", have.join(", ")))
            })
        };
        let order: Vec<usize> = match spec.output.names.as_slice() {
            [] => (0..outputs.len()).collect(),
            names => names.iter().map(find).collect::<Result<_, _>>()?,
        };
        let wanted = order
            .into_iter()
            .map(|index| {
                let OutputShape { name, dims, .. } = &outputs[index];
                let dims = dims.get(1..).unwrap_or_default().to_vec();
                Wanted { name: name.clone(), index, dims }
            })
            .collect();
        Ok(Outputs {
            model: spec.name.clone(),
            family: spec.output.family,
            classes: spec.labels.len(),
            wanted,
            total: outputs.len(),
            named: !spec.output.names.is_empty(),
        })
    }

    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Where the family's `k`th output stands among the graph's.
    pub fn index(&self, k: usize) -> usize {
        self.wanted[k].index
    }

    /// Dimensions of the family's `k`th output after the batch.
    pub fn dims(&self, k: usize) -> &[Option<usize>] {
        &self.wanted[k].dims
    }

    /// Settles the shape of output `k`: from now on [`Outputs::fit`] demands it.
    pub fn settle<const D: usize>(&mut self, k: usize, dims: [Option<usize>; D]) {
        self.wanted[k].dims = dims.to_vec();
    }

    /// The graph has this one output.
    pub fn is_alone(&self) -> bool {
        self.total == 1 && self.wanted.len() == 1
    }

    /// The family reads `needs` outputs, for example "2 outputs: scores, boxes".
    pub fn expect_count(&self, count: usize, needs: &str) -> Result<(), Fault> {
        if self.len() == count {
            return Ok(());
        }
        let (model, family, len) = (&self.model, self.family.name(), self.len());
        let have: Vec<&str> = self.wanted.iter().map(|w| w.name.as_str()).collect();
        let (subject, verb) = if self.named { ("[output] names", "has") } else { ("the graph", "has") };
        Err(Fault::new(
            Who::Config,
            "model",
            format!(
                "model {model}: family {family} reads {needs}, but {subject} {verb} {len}: {}",
                have.join(", ")
            ),
        )
        .remedy("list the ones to read in [output] names, in that order"))
    }

    /// Output `k` does not fit; `wanted` says what would, the batch included.
    pub fn unfit(&self, k: usize, wanted: &str) -> Fault {
        let Wanted { name, dims, .. } = &self.wanted[k];
        let (model, family, classes) = (&self.model, self.family.name(), self.classes);
        Fault::new(
            Who::Config,
            "model",
            format!(
                "model {model}: output `{name}` is {}, but family {family} with {classes} labels wants {wanted}",
                show(dims)
            ),
        )
        .remedy("check [output] family and names, the number of labels, and the [input] size")
    }

    /// Whether one frame's tensors are what was settled.
    pub fn fit(&self, views: &[TensorView<'_>]) -> bool {
        views.len() == self.total
            && self.wanted.iter().all(|w| {
                let view = &views[w.index];
                view.shape.len() == w.dims.len()
                    && view
                        .shape
                        .iter()
                        .zip(&w.dims)
                        .all(|(have, want)| want.is_none_or(|want| want == *have))
                    && view.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)) == Some(view.data.len())
            })
    }
}

/// `[batch, 84, N]`.
fn show(dims: &[Option<usize>]) -> String {
    let mut text = String::from("[batch");
    for dim in dims {
        match dim {
            Some(n) => text.push_str(&format!(", {n}")),
            None => text.push_str(", free"),
        }
    }
    text + "]"
}

/// `have` can be `want` when it is equal or free.
pub(super) fn may_be(have: Option<usize>, want: usize) -> bool {
    have.is_none_or(|have| have == want)
}
