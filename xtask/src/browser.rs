//! What drives a browser in the dashboard's test: playwright-core from the npm registry, pinned by version and SHA-256. The
//! browser itself is Debian's.

use std::fs;
use std::process::Command;

use anyhow::Context;

use crate::cache::{Cache, with_ending};
use crate::proc::{quiet, say};

const VERSION: &str = "1.65.1";
const SHA256: &str = "6f5a60be62a4fddfbe7d10c448d8fbd54547da3358f2f8a04211440471ee863e";

fn tarball() -> String {
    format!("playwright-core-{VERSION}.tgz")
}

/// Is it there? `tests/dashboard.rs` looks in the same place.
pub fn has(cache: &Cache) -> bool {
    cache.has(&tarball(), SHA256) && cache.path(&format!("playwright-core-{VERSION}/package")).is_dir()
}

/// Fetches and unpacks it.
pub fn fetch(cache: &Cache) -> anyhow::Result<()> {
    if has(cache) {
        return Ok(());
    }
    let tarball = cache.file(&tarball(), SHA256, |to| {
        say(&format!("fetching playwright-core {VERSION} from the npm registry"));
        let scratch = cache.scratch("browser")?;
        let mut pack = Command::new("npm");
        pack.args(["pack", "--silent", &format!("playwright-core@{VERSION}")]);
        quiet(pack.current_dir(scratch.path()))?;
        let found = with_ending(scratch.path(), "tgz").context("npm left no tarball")?;
        Ok(fs::rename(found, to)?)
    })?;
    let home = cache.path(&format!("playwright-core-{VERSION}"));
    fs::remove_dir_all(&home).ok();
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    quiet(Command::new("tar").arg("xzf").arg(tarball).arg("-C").arg(home)).map(drop)
}
