//! The cheap pass: which anchors can reach a floor at all. Of some thousand anchors a few dozen can, so this is
//! where the time goes; it reads each value once and is written so that the compiler vectorises it.
//!
//! A maximum by `>` ignores NaN. So each scan carries a second value along, Σ v·0: zero while every
//! value is finite, NaN for ever after one that is not. Such anchors are let through, for the exact step to count.

/// Anchors a block in a column-major scan: two rows of 512 floats stay in the first-level cache.
const BLOCK: usize = 512;
const LANES: usize = 16;

/// Calls `hit` with each row of `data` (`width` values a row, the first `skip` and those past `skip + take`
/// are not looked at) whose greatest value is not under `floor`, or that holds a value that is not finite.
pub(super) fn rows(
    data: &[f32],
    width: usize,
    skip: usize,
    take: usize,
    floor: f32,
    mut hit: impl FnMut(usize),
) {
    for (index, row) in data.chunks_exact(width).enumerate() {
        if row_may_reach(&row[skip..skip + take], floor) {
            hit(index);
        }
    }
}

#[inline]
fn row_may_reach(row: &[f32], floor: f32) -> bool {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut taint = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    let (mut rest_max, mut rest_taint) = (f32::NEG_INFINITY, 0.0f32);
    for chunk in chunks {
        for lane in 0..LANES {
            let v = chunk[lane];
            max[lane] = if v > max[lane] { v } else { max[lane] };
            taint[lane] += v * 0.0;
        }
    }
    for &v in rest {
        rest_max = if v > rest_max { v } else { rest_max };
        rest_taint += v * 0.0;
    }
    for lane in 0..LANES {
        rest_max = if max[lane] > rest_max { max[lane] } else { rest_max };
        rest_taint += taint[lane];
    }
    rest_max >= floor || rest_taint.is_nan()
}

/// The same for values that lie by columns: `data` is `classes` rows of `anchors` values. The blocks
/// turn 80 passes over 8400 running maxima into passes over 512 that never leave the first-level cache.
pub(super) fn columns(data: &[f32], anchors: usize, floor: f32, mut hit: impl FnMut(usize)) {
    let mut max = [0.0f32; BLOCK];
    let mut taint = [0.0f32; BLOCK];
    for start in (0..anchors).step_by(BLOCK) {
        let len = BLOCK.min(anchors - start);
        let (max, taint) = (&mut max[..len], &mut taint[..len]);
        max.fill(f32::NEG_INFINITY);
        taint.fill(0.0);
        for row in data.chunks_exact(anchors) {
            let row = &row[start..start + len];
            for ((m, t), &v) in max.iter_mut().zip(taint.iter_mut()).zip(row) {
                *m = if v > *m { v } else { *m };
                *t += v * 0.0;
            }
        }
        for (i, (&m, &t)) in max.iter().zip(taint.iter()).enumerate() {
            if m >= floor || t.is_nan() {
                hit(start + i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both scans find the same anchors as the definition, on widths around the lane count.
    #[test]
    fn scans_agree_with_their_definition() {
        let mut random = fastrand::Rng::with_seed(3);
        for classes in [1, 2, 15, 16, 17, 33, 80] {
            for anchors in [1, 511, 512, 513] {
                let mut values: Vec<f32> = (0..classes * anchors).map(|_| random.f32() * 0.52).collect();
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let at = random.usize(..values.len());
                    values[at] = bad;
                }
                let want: Vec<usize> = (0..anchors)
                    .filter(|&a| values[a * classes..][..classes].iter().any(|v| *v >= 0.5 || !v.is_finite()))
                    .collect();
                let mut by_row = Vec::new();
                rows(&values, classes, 0, classes, 0.5, |i| by_row.push(i));
                assert_eq!(by_row, want, "rows, {classes} × {anchors}");

                let transposed: Vec<f32> =
                    (0..classes * anchors).map(|k| values[(k % anchors) * classes + k / anchors]).collect();
                let mut by_column = Vec::new();
                columns(&transposed, anchors, 0.5, |i| by_column.push(i));
                assert_eq!(by_column, want, "columns, {classes} × {anchors}");
            }
        }
    }

    #[test]
    fn a_window_of_the_row_is_all_that_counts() {
        let data = [9.0, 0.1, 0.2, 9.0, f32::NAN, 0.6, 0.2, f32::NAN];
        let mut hits = Vec::new();
        rows(&data, 4, 1, 2, 0.5, |i| hits.push(i));
        assert_eq!(hits, [1]);
    }
}
