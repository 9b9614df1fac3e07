//! What checks the dashboard: playwright-core drives a browser, typescript and json-schema-to-typescript hold its script to the API's
//! schema. From the npm registry by `npm ci`: tests/dashboard/package-lock.json pins versions and SHA-512. The browser is Debian's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::proc::{quiet, root, say};

const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// The folder of what this lock file says. `tests/dashboard.rs` looks in the same place.
fn home(cache: &Cache) -> anyhow::Result<PathBuf> {
    let lock = root().join("tests/dashboard").join(FILES[1]);
    let text = fs::read(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let hash: String = Sha256::digest(&text).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    Ok(cache.path(&format!("dashboard-{hash}")))
}

/// Is it there?
pub fn has(cache: &Cache) -> bool {
    home(cache).is_ok_and(|home| home.is_dir())
}

/// Fetches it.
pub fn fetch(cache: &Cache) -> anyhow::Result<()> {
    let home = home(cache)?;
    if home.is_dir() {
        return Ok(());
    }
    say("fetching what checks the dashboard from the npm registry");
    let scratch = cache.scratch("npm")?;
    for file in FILES {
        fs::copy(root().join("tests/dashboard").join(file), scratch.path().join(file))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    quiet(npm.current_dir(scratch.path()))?;
    fs::rename(scratch.path(), &home).with_context(|| format!("cannot make {}", home.display()))
}
