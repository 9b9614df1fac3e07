//! The dashboard: its files by HTTP, and the whole page in a real browser.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::path::PathBuf;
use std::process::Command;

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
    let playwright = weir::config::cache_dir().join("playwright-core-1.65.1/package");
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
