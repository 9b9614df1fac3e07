//! Which family's shapes a network's outputs have, and the `model.toml` that goes with it.
//!
//! Shapes tell the family, never how the pictures were normalised: that is the family's usual recipe, and the text says so.

use serde::Serialize;

use super::inspect::{Axis, Port};
use super::onnx::data_type;
use super::spec::{Channels, Family, InputSpec, Layout, OutputSpec, Resize};

/// A family with its reason.
#[derive(Clone, Debug)]
pub struct Guess {
    /// The family.
    pub family: Family,
    /// What in the file speaks for it.
    pub reason: String,
    /// A `model.toml` that loads, with comments on what to check.
    pub toml: String,
}

/// What the shapes say.
struct Head {
    family: Family,
    reason: String,
    /// `None`: the shapes do not tell.
    classes: Option<usize>,
    /// Outputs in the family's order.
    order: Vec<usize>,
}

#[derive(Serialize)]
struct File<'a> {
    model: About<'a>,
    input: InputSpec,
    output: OutputSpec,
}

#[derive(Serialize)]
struct About<'a> {
    name: String,
    licence: &'a str,
    description: &'a str,
    labels: Labels,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Labels {
    Set(&'static str),
    Names(Vec<String>),
}

/// The family of a network called `stem`; an error says what speaks against all of them.
pub fn guess(stem: &str, input: &Port, outputs: &[Port]) -> Result<Guess, String> {
    if input.data_type != data_type::FLOAT {
        return Err(format!("the input is {}, only float32 can be fed", data_type::name(input.data_type)));
    }
    let (layout, height, width) = picture(input)?;
    let head = head(outputs, height, width)?;
    let file = File {
        model: About { name: name(stem), licence: "unknown", description: "", labels: labels(&head) },
        input: InputSpec {
            name: input.name.clone(),
            width: width.unwrap_or(640) as u32,
            height: height.unwrap_or(640) as u32,
            layout,
            ..usual(head.family)
        },
        output: OutputSpec {
            family: head.family,
            names: head.order.iter().map(|&i| outputs[i].name.clone()).collect(),
            score_floor: 0.1,
            nms_iou: 0.5,
        },
    };
    let text = toml::to_string(&file).map_err(|e| e.to_string())?;
    let mut toml = String::from(
        "# A model.toml to start from. Names and sizes are the file's; the family is a guess by shapes; channels, resize,\n\
         # pad, mean and std are what this family usually wants. Check them, the labels and the licence.\n",
    );
    if width.is_none() || height.is_none() {
        toml.push_str("# The file leaves width and height free: choose them.\n");
    }
    toml.push_str(&text);
    Ok(Guess { family: head.family, reason: head.reason, toml })
}

/// Layout, rows and columns of the input; `None` where they are free.
fn picture(input: &Port) -> Result<(Layout, Option<usize>, Option<usize>), String> {
    match &input.dims[..] {
        [_, Axis::Fixed(3), h, w] => Ok((Layout::Nchw, h.fixed(), w.fixed())),
        [_, h, w, Axis::Fixed(3)] => Ok((Layout::Nhwc, h.fixed(), w.fixed())),
        _ => Err(format!("the input {input} is no batch of pictures with three channels")),
    }
}

/// Cells of the grids of these strides over the input.
fn cells(height: usize, width: usize, strides: &[usize]) -> usize {
    strides.iter().map(|s| height.div_ceil(*s) * width.div_ceil(*s)).sum()
}

fn head(outputs: &[Port], height: Option<usize>, width: Option<usize>) -> Result<Head, String> {
    let shapes: Vec<Vec<Option<usize>>> =
        outputs.iter().map(|o| o.dims.iter().skip(1).map(Axis::fixed).collect()).collect();
    let grids = height.zip(width).map(|(h, w)| {
        let (three, four) = (cells(h, w, &[8, 16, 32]), cells(h, w, &[8, 16, 32, 64]));
        (three, four, format!("over {w}×{h}"))
    });
    match &shapes[..] {
        [shape] => single(shape, grids),
        [a, b] => pair(a, b, outputs),
        shapes if shapes.len() == 6 || shapes.len() == 8 => split_head(shapes),
        _ => Err(format!("no family has {} outputs like these", outputs.len())),
    }
}

/// One output.
fn single(shape: &[Option<usize>], grids: Option<(usize, usize, String)>) -> Result<Head, String> {
    let found = |family, reason: String, classes| Ok(Head { family, reason, classes, order: vec![0] });
    if let &[Some(channels), Some(h), Some(w)] = shape
        && channels > 5
    {
        let reason = format!("one grid of {w}×{h} with {channels} = 5 + {} channels", channels - 5);
        return found(Family::FastestDet, reason, Some(channels - 5));
    }
    let Some((three, four, over)) = grids else {
        return Err(
            "the input's size is free, so that rows cannot be told from grids; name the family yourself"
                .into(),
        );
    };
    let on_grid = |n| n == three || n == four;
    let strides = |n| if n == three { "8, 16, 32" } else { "8, 16, 32, 64" };
    match *shape {
        [Some(c), Some(n)] if on_grid(n) && c > 4 && c < n => found(
            Family::Yolov8,
            format!("{c} = 4 + {} rows of {n} = the cells of strides {} {over}", c - 4, strides(n)),
            Some(c - 4),
        ),
        [Some(n), Some(84)] if on_grid(n) => found(
            Family::Yolov8,
            format!(
                "{n} = the cells of strides {} {over}, rows of 84 = 4 + 80, the transpose of the usual",
                strides(n)
            ),
            Some(80),
        ),
        [Some(n), Some(c @ (112 | 124))] if on_grid(n) => found(
            Family::NanoDet,
            format!(
                "{n} = the cells of strides {} {over}, rows of {c} = 80 + 4 × {} bins",
                strides(n),
                (c - 80) / 4
            ),
            Some(80),
        ),
        [Some(n), Some(c)] if on_grid(n) && c > 5 => found(
            Family::Yolox,
            format!("{n} = the cells of strides {} {over}, rows of {c} = 5 + {}", strides(n), c - 5),
            Some(c - 5),
        ),
        [Some(n), Some(c)] if (n == 3 * three || n == 3 * four) && c > 5 => found(
            Family::Yolov5,
            format!(
                "{n} = three anchors a cell of strides {} {over}, rows of {c} = 5 + {}",
                strides(n / 3),
                c - 5
            ),
            Some(c - 5),
        ),
        [n, Some(6)] => {
            let rows = n.map_or("any number of".into(), |n| n.to_string());
            found(Family::EndToEnd, format!("{rows} rows of 6: a box, a score, a class number"), None)
        }
        _ => Err(format!(
            "its shape after the batch is {shape:?}; strides 8, 16, 32 {over} have {three} cells, and 64 with them {four}"
        )),
    }
}

/// Scores and boxes.
fn pair(a: &[Option<usize>], b: &[Option<usize>], outputs: &[Port]) -> Result<Head, String> {
    let is_boxes = |s: &[Option<usize>]| matches!(s, [_, Some(4)] | [_, Some(1), Some(4)]);
    let (scores, order) = match (is_boxes(a), is_boxes(b)) {
        (false, true) => (a, vec![0, 1]),
        (true, false) => (b, vec![1, 0]),
        _ => return Err("of two outputs one must be boxes, [batch, N, 4]".into()),
    };
    let &[n, Some(classes)] = scores else {
        return Err(format!("the scores {} must be [batch, N, classes]", outputs[order[0]]));
    };
    // DETR asks 100 to 900 questions; an SSD has an anchor for each place.
    let named = outputs.iter().any(|o| o.name.contains("logits") || o.name.contains("pred_"));
    let few = n.is_some_and(|n| n <= 900);
    let family = if named || few { Family::Detr } else { Family::Ssd };
    let count = n.map_or("any number of".into(), |n| n.to_string());
    let why = match family {
        Family::Detr if named => "named like DETR's",
        Family::Detr => "few, as DETR's queries are",
        _ => "many, as SSD's anchors are",
    };
    let reason = format!("{classes} scores and a box for each of {count} places, {why}");
    Ok(Head { family, reason, classes: Some(classes), order })
}

/// NanoDet: class and distance outputs for each stride.
fn split_head(shapes: &[Vec<Option<usize>>]) -> Result<Head, String> {
    let mut known = Vec::new();
    for (i, shape) in shapes.iter().enumerate() {
        let &[Some(n), Some(width)] = &shape[..] else {
            return Err(format!("output {i} is not [batch, cells, values] with fixed sizes"));
        };
        known.push((n, width, i));
    }
    // By stride, which is by falling number of cells; two outputs each.
    known.sort_by_key(|&(n, _, i)| (std::cmp::Reverse(n), i));
    let (first, second) = (known[0].1, known[1].1);
    let pairs = known.chunks(2).all(|p| {
        p[0].0 == p[1].0 && [p[0].1.min(p[1].1), p[0].1.max(p[1].1)] == [first.min(second), first.max(second)]
    });
    let distances = [44, 32].into_iter().find(|d| (*d == first) != (*d == second));
    let Some(distances) = distances.filter(|_| pairs) else {
        return Err("the outputs do not pair up as classes and 4 × 8 or 4 × 11 bins by stride".into());
    };
    let classes = if first == distances { second } else { first };
    let of = |width| known.iter().filter(move |k| k.1 == width).map(|k| k.2);
    let order = of(classes).chain(of(distances)).collect();
    let reason =
        format!("{} strides with {classes} scores and 4 × {} bins each", known.len() / 2, distances / 4);
    Ok(Head { family: Family::NanoDet, reason, classes: Some(classes), order })
}

/// How a family's pictures are usually made; name, size and layout are the file's.
fn usual(family: Family) -> InputSpec {
    let plain = InputSpec {
        name: String::new(),
        width: 0,
        height: 0,
        layout: Layout::Nchw,
        channels: Channels::Rgb,
        resize: Resize::Letterbox,
        pad: 114,
        mean: [0.0; 3],
        std: [255.0; 3],
    };
    match family {
        Family::Yolov8 | Family::Yolov5 | Family::EndToEnd => plain,
        Family::Detr => InputSpec { resize: Resize::Stretch, ..plain },
        Family::Yolox => {
            InputSpec { channels: Channels::Bgr, resize: Resize::LetterboxTopLeft, std: [1.0; 3], ..plain }
        }
        Family::FastestDet => InputSpec { channels: Channels::Bgr, resize: Resize::Stretch, ..plain },
        Family::Ssd => InputSpec { resize: Resize::Stretch, mean: [127.5; 3], std: [127.5; 3], ..plain },
        Family::NanoDet => InputSpec {
            channels: Channels::Bgr,
            pad: 0,
            mean: [103.53, 116.28, 123.675],
            std: [57.375, 57.12, 58.395],
            ..plain
        },
    }
}

fn labels(head: &Head) -> Labels {
    match head.classes {
        None | Some(80) => Labels::Set("coco-80"),
        Some(90) => Labels::Set("coco-91"),
        Some(n) => Labels::Names((0..n).map(|i| format!("class-{i}")).collect()),
    }
}

/// A file's stem as a model name.
fn name(stem: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' };
    let name: String = stem.chars().take(64).map(good).collect();
    if name.is_empty() { "model".into() } else { name }
}
