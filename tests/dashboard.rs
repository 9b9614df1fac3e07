//! The dashboard: its files by HTTP, and the whole page in a real browser.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::path::PathBuf;
use std::process::Command;

use sha2::{Digest, Sha256};

use daemon::{Daemon, Sim, free_port, ready, root, street};

/// Chromium under the names that Debian and others give it; `None` where there is none.
fn chromium() -> Option<PathBuf> {
    let names = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
}

/// What `cargo xtask setup` fetched from the npm registry for this lock file.
fn packages() -> PathBuf {
    let lock = std::fs::read(root().join("tests/dashboard/package-lock.json")).expect("it is here");
    let hash: String = Sha256::digest(&lock).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    weir::config::cache_dir().join(format!("dashboard-{hash}"))
}

/// The page's script uses no field that the API does not have, and handles those that may be null.
#[test]
fn the_script_agrees_with_the_schema_of_the_api() {
    let packages = packages();
    if !packages.is_dir() {
        println!("skipped: no {} (`cargo xtask setup` fetches it)", packages.display());
        return;
    }
    let path = root().join("assets/weir.api-1.d.ts");
    let mut made = Command::new("node");
    made.arg(root().join("tests/dashboard/types.mjs")).arg(&packages);
    let made = made.arg(root().join("assets/weir.api-1.schema.json")).output().expect("node runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(&path, &made.stdout).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_default();
    assert!(
        stored == made.stdout,
        "stale: run the tests once with WEIR_BLESS=1 and review the diff of {}",
        path.display()
    );
    let mut check = Command::new(packages.join("node_modules/.bin/tsc"));
    let check =
        check.arg("--project").arg(root().join("tests/dashboard/tsconfig.json")).output().expect("it runs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn the_whole_page_is_small_and_asks_no_other_host() {
    let mut bytes = 0;
    for file in std::fs::read_dir(root().join("assets/dashboard")).expect("the page is here") {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).expect("plain text");
        bytes += text.len();
        let foreign = text.match_indices("://").filter(|(at, _)| {
            !text[..*at].ends_with("http") || {
                // The name of a namespace is no address.
                !text[*at..].starts_with("://www.w3.org/2000/svg")
            }
        });
        assert_eq!(foreign.count(), 0, "{}", path.display());
    }
    assert!(bytes <= 150_000, "{bytes} bytes");
}

#[test]
fn the_dashboard_works_in_a_browser() {
    let test = "the_dashboard_works_in_a_browser";
    if !ready(test) {
        return;
    }
    let playwright = packages().join("node_modules/playwright-core");
    let (true, Some(chromium)) = (playwright.is_dir(), chromium()) else {
        println!(
            "skipped: {test}: no Chromium or no {} (`cargo xtask setup` fetches them)",
            playwright.display()
        );
        return;
    };
    let file = street();
    let sim = Sim::start(&["--file", file.to_str().unwrap()]);
    let daemon = Daemon::start(&format!(
        "[events]\nupdate_interval_ms = 500\n[cameras.street]\nsource = {:?}\nmax_fps = 5.0\n[cameras.dead]\nsource = \"rtsp://127.0.0.1:{}/x\"\n",
        sim.url,
        free_port()
    ));
    daemon.wait_state("street", "online");
    let mut check = Command::new("node");
    check.arg(root().join("tests/dashboard/check.mjs")).arg(&playwright).arg(chromium).arg(&daemon.http);
    // A new picture for the README, when it is asked for.
    if let Some(shot) = std::env::var_os("WEIR_SCREENSHOT") {
        check.arg(shot);
    }
    let done = check.output().expect("node runs");
    print!("{}", String::from_utf8_lossy(&done.stdout));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
