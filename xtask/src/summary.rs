//! Reading what test runners print, so that one line can sum them up.
//!
//! A test that cannot run here returns early and says so with a line that starts with `skipped`. To the runner it has
//! passed; here it counts as skipped. `--show-output` brings those lines out.

use std::fmt;

/// Sums over all runners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Follows the output of `cargo test -- --show-output`.
#[derive(Debug, Default)]
pub struct Reader {
    pub totals: Totals,
    /// Inside the output of tests that passed.
    quiet: bool,
    /// The test whose output it is, until its first `skipped` line.
    test: Option<String>,
    /// Tests of this runner that said `skipped`: its result, which comes last, counts them as passed.
    skips: u64,
}

impl Reader {
    /// Takes one line; what people should see of it.
    pub fn line(&mut self, line: &str) -> Option<String> {
        if let Some(rest) = line.strip_prefix("test result: ") {
            (self.quiet, self.test) = (false, None);
            self.add(rest);
            return Some(line.to_owned());
        }
        match line {
            "successes:" => self.quiet = true,
            "failures:" => (self.quiet, self.test) = (false, None),
            _ => {}
        }
        if !self.quiet {
            return Some(line.to_owned());
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.test = Some(name.to_owned());
        } else if line.trim_start().to_lowercase().starts_with("skip") && !line.starts_with("    ") {
            let test = self.test.take()?;
            self.skips += 1;
            return Some(format!("{test}: {}", line.trim()));
        }
        None
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`
    fn add(&mut self, result: &str) {
        let skips = std::mem::take(&mut self.skips);
        self.totals.skipped += skips;
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(n)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.totals.passed += n.saturating_sub(skips),
                "failed" => self.totals.failed += n,
                "ignored" => self.totals.skipped += n,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Totals, Vec<String>) {
        let mut reader = Reader::default();
        let shown = text.lines().filter_map(|line| reader.line(line)).collect();
        (reader.totals, shown)
    }

    #[test]
    fn results_of_several_runners_add_up() {
        let (totals, _) = read(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             noise 7 passed\n\
             test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n",
        );
        assert_eq!(totals, Totals { passed: 13, failed: 2, skipped: 1 });
        assert_eq!(totals.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    const SKIPPING: &str = "\
running 3 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
skipped: no ../shared/data here
skipped: said twice, counts once

---- b stdout ----
noise that nobody needs

successes:
    a
    skip_is_a_name_too

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn a_test_that_says_skipped_did_not_pass() {
        let (totals, shown) = read(SKIPPING);
        assert_eq!(totals, Totals { passed: 2, failed: 0, skipped: 1 });
        assert!(shown.contains(&"a: skipped: no ../shared/data here".to_owned()), "{shown:?}");
        assert!(!shown.iter().any(|line| line.contains("noise")), "{shown:?}");
    }

    #[test]
    fn the_output_of_a_failed_test_is_shown() {
        let (totals, shown) = read(
            "failures:\n\n---- c stdout ----\nskipped is just a word here\n\nfailures:\n    c\n\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert_eq!(totals, Totals { passed: 0, failed: 1, skipped: 0 });
        assert!(shown.iter().any(|line| line.contains("just a word")));
    }
}
