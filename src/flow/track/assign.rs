//! Who is who: the assignment of rows to columns with the largest total gain.
//!
//! Shortest augmenting paths with dual prices (Jonker and Volgenant, *A Shortest Augmenting Path
//! Algorithm for Dense and Sparse Linear Assignment Problems*, 1987). Rectangular; a pair without gain
//! is never made. O(n²·m) at worst for n the smaller side; a row without any gain costs one look.

/// Buffers for [`Assign::solve`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Assign {
    /// The price of each row and column of the smaller-side-first problem.
    row_price: Vec<f32>,
    col_price: Vec<f32>,
    /// Which row holds a column.
    holder: Vec<Option<usize>>,
    /// During one search: the cheapest way to a column, the column before it, and whether it is final.
    cheapest: Vec<f32>,
    before: Vec<Option<usize>>,
    settled: Vec<bool>,
    pairs: Vec<(usize, usize)>,
}

impl Assign {
    /// Pairs (row, column) whose summed `gain[row * cols + col]` is the largest possible. Gains of
    /// zero or less make no pair; none may be NaN.
    pub(super) fn solve(&mut self, rows: usize, cols: usize, gain: &[f32]) -> &[(usize, usize)] {
        debug_assert_eq!(gain.len(), rows * cols);
        self.pairs.clear();
        // The smaller side plays the rows: each of them then finds a column, if need be one without gain.
        let flipped = rows > cols;
        let (n, m) = if flipped { (cols, rows) } else { (rows, cols) };
        let at = |r: usize, c: usize| if flipped { gain[c * cols + r] } else { gain[r * cols + c] }.max(0.0);
        reset(&mut self.row_price, n, 0.0);
        reset(&mut self.col_price, m, 0.0);
        reset(&mut self.holder, m, None);
        for row in 0..n {
            let most = (0..m).map(|col| at(row, col)).fold(0.0, f32::max);
            if most > 0.0 {
                // With this price no reduced cost is negative, which Dijkstra needs.
                self.row_price[row] = -most;
                self.insert(row, m, &at);
            }
        }
        for (col, holder) in self.holder.iter().enumerate() {
            if let Some(row) = holder.filter(|row| at(*row, col) > 0.0) {
                self.pairs.push(if flipped { (col, row) } else { (row, col) });
            }
        }
        &self.pairs
    }

    /// Gives `row` a column along the cheapest path of swaps (Dijkstra on reduced costs).
    fn insert(&mut self, row: usize, m: usize, gain: &impl Fn(usize, usize) -> f32) {
        reset(&mut self.cheapest, m, f32::INFINITY);
        reset(&mut self.before, m, None);
        reset(&mut self.settled, m, false);
        let mut here = row;
        let mut from = None;
        let mut so_far = 0.0;
        let free = loop {
            let mut next = None;
            let mut least = f32::INFINITY;
            for col in 0..m {
                if self.settled[col] {
                    continue;
                }
                // The cost of a pair is its gain turned round. Below zero is only rounding.
                let step = (-gain(here, col) - self.row_price[here] - self.col_price[col]).max(0.0);
                if so_far + step < self.cheapest[col] {
                    self.cheapest[col] = so_far + step;
                    self.before[col] = from;
                }
                if self.cheapest[col] < least {
                    least = self.cheapest[col];
                    next = Some(col);
                }
            }
            let col = next.expect("a row finds a column: there are at least as many columns as rows");
            so_far = least;
            match self.holder[col] {
                None => break col,
                Some(holder) => {
                    self.settled[col] = true;
                    from = Some(col);
                    here = holder;
                }
            }
        };
        self.row_price[row] += so_far;
        for col in 0..m {
            if let (true, Some(holder)) = (self.settled[col], self.holder[col]) {
                let spare = so_far - self.cheapest[col];
                self.row_price[holder] += spare;
                self.col_price[col] -= spare;
            }
        }
        let mut col = free;
        while let Some(previous) = self.before[col] {
            self.holder[col] = self.holder[previous];
            col = previous;
        }
        self.holder[col] = Some(row);
    }
}

fn reset<T: Clone>(buffer: &mut Vec<T>, len: usize, value: T) {
    buffer.clear();
    buffer.resize(len, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The best total by trying everything.
    fn brute(rows: usize, cols: usize, gain: &[f32], row: usize, taken: u32) -> f32 {
        if row == rows {
            return 0.0;
        }
        let mut best = brute(rows, cols, gain, row + 1, taken);
        for col in 0..cols {
            let g = gain[row * cols + col];
            if taken & (1 << col) == 0 && g > 0.0 {
                best = best.max(g + brute(rows, cols, gain, row + 1, taken | (1 << col)));
            }
        }
        best
    }

    fn problem() -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
        (0usize..=6, 0usize..=6).prop_flat_map(|(rows, cols)| {
            let cell = prop_oneof![
                Just(-1.0f32),
                Just(0.0),
                0.01f32..1.0,
                (1u8..5).prop_map(|n| f32::from(n) / 4.0)
            ];
            (Just(rows), Just(cols), prop::collection::vec(cell, rows * cols))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// No other assignment gains more.
        #[test]
        fn the_assignment_is_optimal((rows, cols, gain) in problem()) {
            let mut assign = Assign::default();
            let total: f32 = assign.solve(rows, cols, &gain).iter().map(|(r, c)| gain[r * cols + c]).sum();
            let best = brute(rows, cols, &gain, 0, 0);
            prop_assert!((total - best).abs() < 1e-4, "{total} is not {best}");
        }

        /// Nobody is taken twice, and no pair is made without gain, whatever was solved before.
        #[test]
        fn each_row_and_column_is_taken_once(problems in prop::collection::vec(problem(), 1..4)) {
            let mut assign = Assign::default();
            for (rows, cols, gain) in problems {
                let pairs = assign.solve(rows, cols, &gain);
                for (i, (r, c)) in pairs.iter().enumerate() {
                    prop_assert!(gain[r * cols + c] > 0.0);
                    prop_assert!(pairs[..i].iter().all(|(r2, c2)| r2 != r && c2 != c));
                }
            }
        }
    }
}
