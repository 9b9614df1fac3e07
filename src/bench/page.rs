//! A `/metrics` page as numbers, and percentiles from what two pages differ in.

use std::collections::{BTreeMap, HashMap};

/// A page in the text exposition format 0.0.4: by metric, its labels as written and its value.
#[derive(Debug, Default)]
pub struct Page(HashMap<String, Vec<(String, f64)>>);

impl Page {
    /// Lines that are no samples are left out.
    pub fn parse(text: &str) -> Page {
        let mut samples: HashMap<String, Vec<(String, f64)>> = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((key, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = key.split_once('{').unwrap_or((key, ""));
            samples
                .entry(name.to_owned())
                .or_default()
                .push((labels.trim_end_matches('}').to_owned(), value));
        }
        Page(samples)
    }

    /// All samples of a metric whose labels hold `label`, as `stage="infer"`; an empty one means all.
    pub fn samples<'a>(&'a self, name: &str, label: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let all = self.0.get(name).into_iter().flatten();
        all.filter(move |(labels, _)| labels.contains(label)).map(|(labels, value)| (labels.as_str(), *value))
    }

    /// Their sum.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.samples(name, label).map(|(_, value)| value).sum()
    }

    /// A histogram since `before`: all series whose labels hold `label` together.
    pub fn histogram(&self, before: &Page, name: &str, label: &str) -> Histogram {
        let mut cumulated: BTreeMap<u64, f64> = BTreeMap::new();
        let bucket = format!("{name}_bucket");
        for (page, sign) in [(self, 1.0), (before, -1.0)] {
            for (labels, count) in page.samples(&bucket, label) {
                let le = labels.rsplit_once("le=\"").and_then(|(_, le)| le.split('"').next());
                // Bounds are positive, and so sorted as their bits are; infinity comes last.
                let Some(le) = le.and_then(|le| le.replace("+Inf", "inf").parse::<f64>().ok()) else {
                    continue;
                };
                *cumulated.entry(le.to_bits()).or_default() += sign * count;
            }
        }
        let buckets = cumulated.into_iter().map(|(le, count)| (f64::from_bits(le), count)).collect();
        let since = |suffix: &str| {
            let name = format!("{name}_{suffix}");
            self.sum(&name, label) - before.sum(&name, label)
        };
        Histogram { buckets, sum: since("sum"), count: since("count") }
    }
}

/// Counts by upper bound, each with all that is below.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: Vec<(f64, f64)>,
    /// Of all values.
    pub sum: f64,
    /// How many values.
    pub count: f64,
}

impl Histogram {
    /// The value that the part `q` of all, 0..=1, does not exceed: exact to the width of its bucket, within which values are taken to be
    /// spread evenly. `None`: there are no values.
    pub fn percentile(&self, q: f64) -> Option<f64> {
        let rank = q * self.count;
        let (mut lower, mut below) = (0.0, 0.0);
        for (le, upto) in &self.buckets {
            if *upto > 0.0 && *upto >= rank {
                // Nothing is known of how far beyond the last bound a value is.
                return Some(if le.is_infinite() {
                    lower
                } else {
                    lower + (le - lower) * (rank - below) / (upto - below).max(1.0)
                });
            }
            (lower, below) = (*le, *upto);
        }
        None
    }

    /// The mean; `None`: there are no values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE t histogram\nt_bucket{stage=\"a\",le=\"0.1\"} 5\nt_bucket{stage=\"a\",le=\"0.2\"} 5\nt_bucket{stage=\"a\",le=\"+Inf\"} 5\n\
                          t_sum{stage=\"a\"} 0.5\nt_count{stage=\"a\"} 5\n";
    const AFTER: &str = "t_bucket{stage=\"a\",le=\"0.1\"} 15\nt_bucket{stage=\"a\",le=\"0.2\"} 24\nt_bucket{stage=\"a\",le=\"+Inf\"} 25\n\
                         t_sum{stage=\"a\"} 3.5\nt_count{stage=\"a\"} 25\nt_bucket{stage=\"b\",le=\"0.1\"} 1000\nn 7\n";

    #[test]
    fn percentiles_are_of_what_came_between_two_pages() {
        let (before, after) = (Page::parse(BEFORE), Page::parse(AFTER));
        let t = after.histogram(&before, "t", "stage=\"a\"");
        // 10 up to 0.1, 9 up to 0.2, 1 beyond.
        assert_eq!(t.count, 20.0);
        let near = |q: f64, wanted: f64| {
            let got = t.percentile(q).unwrap();
            assert!((got - wanted).abs() < 1e-9, "{q}: {got} for {wanted}");
        };
        near(0.25, 0.05);
        near(0.5, 0.1);
        near(0.725, 0.15);
        near(0.95, 0.2);
        near(0.99, 0.2);
        assert!((t.mean().unwrap() - 0.15).abs() < 1e-9);
        assert_eq!(before.histogram(&before, "t", "").percentile(0.5), None);
        assert_eq!(after.sum("n", ""), 7.0);
    }
}
