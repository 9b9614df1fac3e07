//! Values of a TensorFlow graph while it is converted: shapes in which the batch is the unknown N, constants that are
//! folded, and tensors whose transposes are put off.
//!
//! Two ideas carry the conversion.
//! - A dimension is `k` or `k·N`. Seen apart, `k·N` is the two axes (N, k): a reshape from [N, 1917, 4] to [1917·N, 4]
//!   and back changes no axis and costs nothing, and a constant that is tiled N times is a constant with a broadcast axis.
//! - A tensor remembers where its axes lie in memory. A `Transpose` only changes that memory; a node is emitted when an
//!   operator insists on an order.

/// `size`, or `size`·N where N is the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dim {
    pub size: i64,
    pub batch: bool,
}

impl Dim {
    pub const N: Dim = Dim { size: 1, batch: true };

    pub const fn fixed(size: i64) -> Dim {
        Dim { size, batch: false }
    }

    /// The size, when it does not depend on N.
    pub fn known(self) -> Result<i64, String> {
        if self.batch {
            Err("depends on the batch where a fixed size is needed".into())
        } else {
            Ok(self.size)
        }
    }

    /// How many axes it is made of.
    fn axes(self) -> usize {
        if self.batch && self.size != 1 { 2 } else { 1 }
    }
}

/// The axes that dimensions are made of: each is N or a fixed size.
pub fn axes(dims: &[Dim]) -> Vec<Dim> {
    let mut out = Vec::with_capacity(dims.len() + 1);
    for &dim in dims {
        if dim.batch {
            out.push(Dim::N);
        }
        if !dim.batch || dim.size != 1 {
            out.push(Dim::fixed(dim.size));
        }
    }
    out
}

/// The first axis of each dimension.
pub fn first_axes(dims: &[Dim]) -> Vec<usize> {
    dims.iter()
        .scan(0, |next, dim| {
            let first = *next;
            *next += dim.axes();
            Some(first)
        })
        .collect()
}

/// A permutation of dimensions as one of axes.
pub fn permute_axes(dims: &[Dim], perm: &[usize]) -> Vec<usize> {
    let first = first_axes(dims);
    perm.iter().flat_map(|&d| first[d]..first[d] + dims[d].axes()).collect()
}

/// The shape after numpy's broadcasting of two shapes.
pub fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, String> {
    let rank = a.len().max(b.len());
    let at = |dims: &[Dim], i: usize| (i + dims.len()).checked_sub(rank).map_or(Dim::fixed(1), |j| dims[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (x, y) if y == Dim::fixed(1) => Ok(x),
            (x, y) if x == Dim::fixed(1) => Ok(y),
            (x, y) => Err(format!("shapes do not fit: {x:?} and {y:?}")),
        })
        .collect()
}

/// Values of a constant. Integers may hold N, because shapes are computed with them.
#[derive(Clone, Debug)]
pub enum Data {
    F32(Vec<f32>),
    Int(Vec<Dim>),
}

/// A constant: row-major over its axes, with one element along N (it is the same for each frame).
#[derive(Clone, Debug)]
pub struct Const {
    pub dims: Vec<Dim>,
    pub data: Data,
}

impl Const {
    pub fn ints(dims: Vec<Dim>, values: Vec<Dim>) -> Const {
        Const { dims, data: Data::Int(values) }
    }

    /// Elements along each axis: 1 along N.
    pub fn shape(&self) -> Vec<usize> {
        sizes(&self.dims)
    }

    pub fn f32s(&self) -> Result<&[f32], String> {
        match &self.data {
            Data::F32(v) => Ok(v),
            Data::Int(_) => Err("has integers where floats are needed".into()),
        }
    }

    pub fn dims_in(&self) -> Result<&[Dim], String> {
        match &self.data {
            Data::Int(v) => Ok(v),
            Data::F32(_) => Err("has floats where integers are needed".into()),
        }
    }

    /// Integers that do not depend on N.
    pub fn integers(&self) -> Result<Vec<i64>, String> {
        self.dims_in()?.iter().map(|d| d.known()).collect()
    }

    fn map(
        &self,
        dims: Vec<Dim>,
        f32s: impl Fn(&[f32]) -> Vec<f32>,
        ints: impl Fn(&[Dim]) -> Vec<Dim>,
    ) -> Const {
        let data = match &self.data {
            Data::F32(v) => Data::F32(f32s(v)),
            Data::Int(v) => Data::Int(ints(v)),
        };
        Const { dims, data }
    }

    pub fn transpose(&self, perm: &[usize]) -> Const {
        let (shape, order) = (self.shape(), permute_axes(&self.dims, perm));
        let dims = perm.iter().map(|&d| self.dims[d]).collect();
        self.map(dims, |v| permute(v, &shape, &order), |v| permute(v, &shape, &order))
    }

    /// The elements `from..to` of one dimension.
    pub fn slice(&self, axis: usize, from: usize, to: usize) -> Result<Const, String> {
        self.dims[axis].known()?;
        let (shape, at) = (self.shape(), first_axes(&self.dims)[axis]);
        let mut dims = self.dims.clone();
        dims[axis] = Dim::fixed((to - from) as i64);
        Ok(self.map(dims, |v| cut(v, &shape, at, from, to), |v| cut(v, &shape, at, from, to)))
    }

    /// The values, repeated as numpy does to fill `dims`, in the order of `dims`' axes along `shape`.
    pub fn broadcast(&self, dims: &[Dim]) -> Const {
        let to = sizes(dims);
        let from = self.sizes_within(dims);
        self.map(dims.to_vec(), |v| repeat(v, &from, &to), |v| repeat(v, &from, &to))
    }

    /// The shape in terms of the axes of the larger `dims`: 1 where this constant is repeated.
    pub fn sizes_within(&self, dims: &[Dim]) -> Vec<usize> {
        let lead = dims.len() - self.dims.len();
        dims.iter()
            .enumerate()
            .flat_map(|(i, dim)| match i.checked_sub(lead).map(|j| self.dims[j]) {
                Some(own) if own == *dim => sizes(&[own]),
                _ => vec![1; dim.axes()],
            })
            .collect()
    }
}

/// A value that is known only when the network runs.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name in the ONNX graph.
    pub name: String,
    /// Its shape in TensorFlow's order.
    pub dims: Vec<Dim>,
    /// Axis i of `axes(dims)` is axis `perm[i]` in the ONNX graph.
    pub perm: Vec<usize>,
    /// More than one node reads it, so that nothing may be folded into what makes it.
    pub shared: bool,
}

impl Tensor {
    /// Its shape in the ONNX graph.
    pub fn physical(&self) -> Vec<Dim> {
        let mut out = vec![Dim::N; self.perm.len()];
        for (axis, dim) in axes(&self.dims).into_iter().enumerate() {
            out[self.perm[axis]] = dim;
        }
        out
    }

    /// Where a dimension lies in the ONNX graph.
    pub fn axis(&self, dim: usize) -> Result<usize, String> {
        self.dims[dim].known()?;
        Ok(self.perm[first_axes(&self.dims)[dim]])
    }
}

/// Any value.
#[derive(Clone, Debug)]
pub enum Value {
    Const(Const),
    Tensor(Tensor),
}

fn sizes(dims: &[Dim]) -> Vec<usize> {
    axes(dims).iter().map(|d| if d.batch { 1 } else { d.size as usize }).collect()
}

/// Row-major strides.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// Reads elements in row-major order of `shape`, with any strides.
fn gather<T: Copy>(data: &[T], shape: &[usize], strides: &[usize]) -> Vec<T> {
    let total: usize = shape.iter().product();
    let mut out = Vec::with_capacity(total);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..total {
        out.push(data[at]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

/// The transpose whose axis i is the axis `perm[i]` of `data`.
pub fn permute<T: Copy>(data: &[T], shape: &[usize], perm: &[usize]) -> Vec<T> {
    let steps = strides(shape);
    let pick = |of: &[usize]| perm.iter().map(|&p| of[p]).collect::<Vec<_>>();
    gather(data, &pick(shape), &pick(&steps))
}

fn repeat<T: Copy>(data: &[T], from: &[usize], to: &[usize]) -> Vec<T> {
    let steps: Vec<_> = strides(from).iter().zip(from).map(|(&s, &n)| if n == 1 { 0 } else { s }).collect();
    gather(data, to, &steps)
}

fn cut<T: Copy>(data: &[T], shape: &[usize], axis: usize, from: usize, to: usize) -> Vec<T> {
    let steps = strides(shape);
    let mut shape = shape.to_vec();
    shape[axis] = to - from;
    if shape.contains(&0) { Vec::new() } else { gather(&data[from * steps[axis]..], &shape, &steps) }
}
