//! Operators that compute nothing: they move values, join and cut them, or ask for a shape.

use super::*;

impl Op<'_> {
    pub(super) fn transpose(&mut self) -> Result<Value, String> {
        let perm: Vec<usize> = self.constant(1)?.integers()?.iter().map(|&p| p as usize).collect();
        match &self.inputs[0] {
            Value::Const(c) => Ok(Value::Const(c.transpose(&perm))),
            Value::Tensor(t) => {
                let order = permute_axes(&t.dims, &perm);
                let dims = perm.iter().map(|&d| t.dims[d]).collect();
                Ok(Value::Tensor(Tensor {
                    dims,
                    perm: order.iter().map(|&a| t.perm[a]).collect(),
                    ..t.clone()
                }))
            }
        }
    }

    pub(super) fn pad(&mut self) -> Result<Value, String> {
        let x = self.tensor(0)?;
        let amounts = self.constant(1)?.integers()?;
        let value = match self.inputs.get(2) {
            Some(_) => self.constant(2)?.f32s()?[0],
            None => 0.0,
        };
        let (mut begin, mut end) = (vec![0; x.perm.len()], vec![0; x.perm.len()]);
        let mut dims = x.dims.clone();
        for (dim, pair) in amounts.chunks(2).enumerate().filter(|(_, pair)| *pair != [0, 0]) {
            let axis = x.axis(dim)?;
            (begin[axis], end[axis]) = (pair[0], pair[1]);
            dims[dim].size += pair[0] + pair[1];
        }
        let both: Vec<i64> = begin.iter().chain(&end).copied().collect();
        let (pads, fill) = (self.build.int64s(&both), self.build.floats(&[], &[value]));
        self.build.node("Pad", vec![x.name.clone(), pads, fill], &self.node.name, Vec::new());
        self.build.note_pad(&self.node.name, Pad { inner: x.name, begin, end, value });
        Ok(Value::Tensor(self.made(dims, x.perm)))
    }

    pub(super) fn concat(&mut self) -> Result<Value, String> {
        let last = self.inputs.len().checked_sub(1).ok_or("has no input")?;
        let axis = self.constant(last)?.integers()?[0];
        self.inputs.truncate(last);
        let Some(first) =
            self.inputs.iter().find_map(|v| if let Value::Tensor(t) = v { Some(t.clone()) } else { None })
        else {
            return Err("concatenating constants is not supported".into());
        };
        let dim = wrap(axis, first.dims.len())?;
        let at = first.axis(dim)?;
        let mut dims = first.dims.clone();
        dims[dim].size = 0;
        let mut names = Vec::new();
        for value in self.inputs.clone() {
            let Value::Tensor(t) = value else {
                return Err("concatenating a constant with a tensor is not supported".into());
            };
            dims[dim].size += t.dims[dim].known()?;
            names.push(self.arrange(&t, &first.perm).name);
        }
        self.build.node("Concat", names, &self.node.name, vec![int("axis", at as i64)]);
        Ok(Value::Tensor(self.made(dims, first.perm)))
    }

    pub(super) fn reshape(&mut self) -> Result<Value, String> {
        let target = self.constant(1)?.dims_in()?.to_vec();
        let dims = self.resolve(&target)?;
        self.reshaped(dims)
    }

    /// A reshape's target with −1, and a baked batch, replaced.
    pub(super) fn resolve(&self, target: &[Dim]) -> Result<Vec<Dim>, String> {
        let from = match &self.inputs[0] {
            Value::Const(c) => &c.dims,
            Value::Tensor(t) => &t.dims,
        };
        let mut dims = target.to_vec();
        if self.baked && from.first() == Some(&Dim::N) && dims.first() == Some(&Dim::fixed(1)) {
            dims[0] = Dim::N;
        }
        let count = |of: &[Dim]| {
            let size = of.iter().filter(|d| d.size != -1).map(|d| d.size).product::<i64>();
            (size, of.iter().filter(|d| d.batch).count())
        };
        let (have, batches) = count(from);
        let (want, used) = count(&dims);
        if let Some(open) = dims.iter_mut().find(|d| d.size == -1) {
            if want == 0 || have % want != 0 || batches < used {
                return Err(format!("cannot reshape {from:?} to {target:?}"));
            }
            *open = Dim { size: have / want, batch: batches > used };
        }
        if count(&dims) != (have, batches) || batches > 1 {
            return Err(format!("cannot reshape {from:?} to {target:?}"));
        }
        Ok(dims)
    }

    /// The first input with another shape of the same size.
    pub(super) fn reshaped(&mut self, dims: Vec<Dim>) -> Result<Value, String> {
        let x = match &self.inputs[0] {
            Value::Const(c) => return Ok(Value::Const(Const { dims, data: c.data.clone() })),
            Value::Tensor(t) => t.clone(),
        };
        let (from, to) = (axes(&x.dims), axes(&dims));
        if from == to {
            return Ok(Value::Tensor(Tensor { dims, ..x }));
        }
        let x = self.plain(&x);
        // 0 copies the axis at the same place.
        let shape: Vec<i64> = to
            .iter()
            .enumerate()
            .map(|(i, d)| {
                if !d.batch {
                    d.size
                } else if from[i] == Dim::N {
                    0
                } else {
                    -1
                }
            })
            .collect();
        let shape = self.build.int64s(&shape);
        self.build.node("Reshape", vec![x.name, shape], &self.node.name, Vec::new());
        let perm = (0..to.len()).collect();
        Ok(Value::Tensor(self.made(dims, perm)))
    }

    pub(super) fn input_dims(&self) -> &[Dim] {
        match &self.inputs[0] {
            Value::Const(c) => &c.dims,
            Value::Tensor(t) => &t.dims,
        }
    }

    pub(super) fn expand_dims(&mut self) -> Result<Value, String> {
        let mut dims = self.input_dims().to_vec();
        let at = wrap(self.constant(1)?.integers()?[0], dims.len() + 1)?;
        dims.insert(at, Dim::fixed(1));
        self.reshaped(dims)
    }

    pub(super) fn squeeze(&mut self) -> Result<Value, String> {
        let dims = self.input_dims();
        let mut drop = vec![false; dims.len()];
        for axis in self.node.ints("squeeze_dims").unwrap_or_default() {
            drop[wrap(axis, dims.len())?] = true;
        }
        if !drop.contains(&true) {
            drop = dims.iter().map(|&d| d == Dim::fixed(1)).collect();
        }
        let kept = dims.iter().zip(&drop).filter(|(_, drop)| !**drop).map(|(d, _)| *d).collect();
        if dims.iter().zip(&drop).any(|(d, drop)| *drop && *d != Dim::fixed(1)) {
            return Err(format!("cannot squeeze {dims:?}"));
        }
        self.reshaped(kept)
    }

    pub(super) fn shape(&self) -> Value {
        let dims = self.input_dims();
        Value::Const(Const::ints(vec![Dim::fixed(dims.len() as i64)], dims.to_vec()))
    }

    /// Of a shape or another list of integers.
    pub(super) fn strided_slice(&mut self) -> Result<Value, String> {
        let x = self.constant(0)?;
        let list = x.dims_in()?.to_vec();
        let bound = |i| self.constant(i).and_then(Const::integers).map(|v| v.first().copied().unwrap_or(0));
        let (begin, end, step) = (bound(1)?, bound(2)?, bound(3)?);
        let mask = |name| self.node.int(name).unwrap_or(0);
        if x.dims.len() != 1 || step != 1 || mask("ellipsis_mask") != 0 || mask("new_axis_mask") != 0 {
            return Err("only a plain range of a list is supported".into());
        }
        let n = list.len() as i64;
        let place = |at: i64| (if at < 0 { at + n } else { at }).clamp(0, n) as usize;
        let begin = if mask("begin_mask") & 1 == 1 { 0 } else { place(begin) };
        if mask("shrink_axis_mask") & 1 == 1 {
            let element = *list.get(begin).ok_or("reads past the end of a list")?;
            return Ok(Value::Const(Const::ints(Vec::new(), vec![element])));
        }
        let end = if mask("end_mask") & 1 == 1 { list.len() } else { place(end) };
        let part = list[begin.min(end)..end].to_vec();
        Ok(Value::Const(Const::ints(vec![Dim::fixed(part.len() as i64)], part)))
    }

    pub(super) fn slice(&mut self) -> Result<Value, String> {
        let x = self.tensor(0)?;
        let (begin, size) = (self.constant(1)?.integers()?, self.constant(2)?.integers()?);
        let (mut starts, mut ends, mut at) = (Vec::new(), Vec::new(), Vec::new());
        let mut dims = x.dims.clone();
        for (dim, (&begin, &size)) in begin.iter().zip(&size).enumerate() {
            let whole = begin == 0 && (size == -1 || dims[dim] == Dim::fixed(size));
            if whole || (self.baked && dim == 0 && dims[0] == Dim::N && (begin, size) == (0, 1)) {
                continue;
            }
            let end = if size == -1 { dims[dim].known()? } else { begin + size };
            starts.push(begin);
            ends.push(end);
            at.push(x.axis(dim)? as i64);
            dims[dim] = Dim::fixed(end - begin);
        }
        let bounds = [&starts, &ends, &at].map(|list| self.build.int64s(list));
        let operands = std::iter::once(x.name).chain(bounds).collect();
        self.build.node("Slice", operands, &self.node.name, Vec::new());
        Ok(Value::Tensor(self.made(dims, x.perm)))
    }

    /// Of a constant, once for each frame.
    pub(super) fn tile(&mut self) -> Result<Value, String> {
        let x = self.constant(0)?;
        let mut dims = x.dims.clone();
        for (dim, &times) in dims.iter_mut().zip(self.constant(1)?.dims_in()?) {
            match (*dim, times) {
                (_, t) if t == Dim::fixed(1) => {}
                (d, t) if d == Dim::fixed(1) && t == Dim::N => *dim = Dim::N,
                (d, t) => return Err(format!("tiling {d:?} by {t:?} is not supported")),
            }
        }
        Ok(Value::Const(Const { dims, data: x.data.clone() }))
    }

    /// Stacks along a new axis.
    pub(super) fn pack(&mut self) -> Result<Value, String> {
        let axis = self.node.int("axis").unwrap_or(0);
        if let Some(numbers) = self.inputs.iter().map(scalar).collect::<Option<Vec<Dim>>>() {
            return Ok(Value::Const(Const::ints(vec![Dim::fixed(numbers.len() as i64)], numbers)));
        }
        let first = self.tensor(0)?;
        let new = first.perm.len();
        let unsqueeze = self.build.int64s(&[new as i64]);
        let mut parts = Vec::new();
        for i in 0..self.inputs.len() {
            let x = self.tensor(i)?;
            if x.dims != first.dims {
                return Err("stacks tensors of different shapes".into());
            }
            let x = self.arrange(&x, &first.perm);
            let part = format!("{}/part_{i}", self.node.name);
            self.build.node("Unsqueeze", vec![x.name, unsqueeze.clone()], &part, Vec::new());
            parts.push(part);
        }
        let count = Dim::fixed(parts.len() as i64);
        self.build.node("Concat", parts, &self.node.name, vec![int("axis", new as i64)]);
        // The new axis is stored last, wherever TensorFlow has it.
        let dim = wrap(axis, first.dims.len() + 1)?;
        let at = first_axes(&first.dims).get(dim).copied().unwrap_or(new);
        let (mut dims, mut perm) = (first.dims, first.perm);
        dims.insert(dim, count);
        perm.insert(at, new);
        Ok(Value::Tensor(self.made(dims, perm)))
    }

    /// Takes one axis apart.
    pub(super) fn unpack(&mut self) -> Values {
        let axis = self.node.int("axis").unwrap_or(0);
        let dim = wrap(axis, self.input_dims().len())?;
        let count = self.input_dims()[dim].known()? as usize;
        let mut dims = self.input_dims().to_vec();
        dims.remove(dim);
        if let Value::Const(c) = &self.inputs[0] {
            return (0..count)
                .map(|i| Ok(Value::Const(Const { dims: dims.clone(), data: c.slice(dim, i, i + 1)?.data })))
                .collect();
        }
        let x = self.tensor(0)?;
        let at = x.axis(dim)?;
        let mut perm = x.perm.clone();
        perm.remove(first_axes(&x.dims)[dim]);
        perm.iter_mut().filter(|p| **p > at).for_each(|p| *p -= 1);
        let parts = (0..count).map(|i| {
            let name = format!("{}:{i}", self.node.name);
            let index = self.build.int64(i as i64);
            self.build.node("Gather", vec![x.name.clone(), index], &name, vec![int("axis", at as i64)]);
            Ok(Value::Tensor(Tensor { name, dims: dims.clone(), perm: perm.clone(), shared: false }))
        });
        parts.collect()
    }

    pub(super) fn split(&mut self) -> Values {
        let x = self.tensor(0)?;
        let mut sizes = self.constant(1)?.integers()?;
        let dim = wrap(self.constant(2)?.integers()?[0], x.dims.len())?;
        let total = x.dims[dim].known()?;
        let known: i64 = sizes.iter().filter(|s| **s != -1).sum();
        sizes.iter_mut().filter(|s| **s == -1).for_each(|s| *s = total - known);
        let names: Vec<String> = (0..sizes.len()).map(|i| format!("{}:{i}", self.node.name)).collect();
        let list = self.build.int64s(&sizes);
        let axis = int("axis", x.axis(dim)? as i64);
        self.build.node_n("Split", vec![x.name.clone(), list], names.clone(), vec![axis]);
        let parts = names.into_iter().zip(sizes).map(|(name, size)| {
            let mut dims = x.dims.clone();
            dims[dim] = Dim::fixed(size);
            Ok(Value::Tensor(Tensor { name, dims, perm: x.perm.clone(), shared: false }))
        });
        parts.collect()
    }

    /// Integers, as exporters use it to patch a shape.
    pub(super) fn sparse_to_dense(&mut self) -> Result<Value, String> {
        let at = self.constant(0)?.integers()?;
        let shape = self.constant(1)?.integers()?;
        let &[length] = &shape[..] else { return Err("only lists are supported".into()) };
        let (values, default) = (self.constant(2)?.dims_in()?, self.constant(3)?.dims_in()?);
        let mut out = vec![*default.first().ok_or("has no default")?; length as usize];
        for (i, &place) in at.iter().enumerate() {
            let value = values.get(i).or(values.first()).ok_or("has no values")?;
            *out.get_mut(place as usize).ok_or("writes past the end")? = *value;
        }
        Ok(Value::Const(Const::ints(vec![Dim::fixed(length)], out)))
    }
}
