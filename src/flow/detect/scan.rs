//! The cheap pass: which anchors can reach a floor at all. Of some thousand anchors a few dozen can, so this is
//! where the time goes; it reads each value once and is written so that the compiler vectorises it.
//!
//! A maximum by `>` ignores NaN. So each scan carries the sum along: once a value is NaN or infinite, so is the
//! sum. Such anchors are let through, for the exact step to judge (as are sums that overflowed by themselves).

/// Anchors a block in a column-major scan: its maxima and sums stay in the first-level cache.
const BLOCK: usize = 512;
const LANES: usize = 16;

/// Compiles to one instruction where `f32::max`, which must not lose a number to a NaN, does not.
#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

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
    let mut sum = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let (mut rest_max, mut rest_sum) = (f32::NEG_INFINITY, 0.0f32);
    for &v in chunks.remainder() {
        rest_max = greater(v, rest_max);
        rest_sum += v;
    }
    for chunk in chunks {
        for lane in 0..LANES {
            max[lane] = greater(chunk[lane], max[lane]);
            sum[lane] += chunk[lane];
        }
    }
    for lane in 0..LANES {
        rest_max = greater(max[lane], rest_max);
        rest_sum += sum[lane];
    }
    rest_max >= floor || !rest_sum.is_finite()
}

/// The same for values that lie by columns: `data` is `classes` rows of `anchors` values. The blocks
/// turn 80 passes over 8400 running maxima into passes over 512 that never leave the first-level cache, and
/// four rows at a time load and store each maximum a quarter as often.
pub(super) fn columns(data: &[f32], anchors: usize, floor: f32, mut hit: impl FnMut(usize)) {
    let mut max = [0.0f32; BLOCK];
    let mut sum = [0.0f32; BLOCK];
    for start in (0..anchors).step_by(BLOCK) {
        let len = BLOCK.min(anchors - start);
        let (max, sum) = (&mut max[..len], &mut sum[..len]);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let part = |row: usize| &data[row * anchors + start..][..len];
        let classes = data.len() / anchors;
        for row in (0..classes / 4).map(|quad| quad * 4) {
            let (a, b, c, d) = (part(row), part(row + 1), part(row + 2), part(row + 3));
            for i in 0..len {
                max[i] = greater(greater(greater(a[i], b[i]), greater(c[i], d[i])), max[i]);
                sum[i] += (a[i] + b[i]) + (c[i] + d[i]);
            }
        }
        for row in classes / 4 * 4..classes {
            for ((m, s), &v) in max.iter_mut().zip(sum.iter_mut()).zip(part(row)) {
                *m = greater(v, *m);
                *s += v;
            }
        }
        for (i, (&m, &s)) in max.iter().zip(sum.iter()).enumerate() {
            if m >= floor || !s.is_finite() {
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
