//! The systemd files are what systemd reads without a complaint, and the service stays locked down.
//!
//! `systemd-analyze verify` only warns of a key that it does not know, and ends well: so any word on standard
//! error is a failure. Whether the service *runs* under these limits needs a systemd as PID 1 and isn't shown here.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says out loud what it skips"
)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Of 10. Networked services start at 9.6; what stays is the network itself.
const MOST_EXPOSURE: f32 = 2.0;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// Runs it; `None`, said out loud, where this systemd tool is not installed.
fn run(test: &str, command: &mut Command) -> Option<(Output, String)> {
    match command.env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some((output, said))
        }
        Err(e) => {
            println!("skipped: {test}: {:?} cannot be run ({e})", command.get_program());
            None
        }
    }
}

/// The unit as installed, but with the program that was just built: `verify` looks whether it can be executed.
fn unit(dir: &Path) -> PathBuf {
    let text = fs::read_to_string(folder().join("weir.service")).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/weir run -c /etc/weir/weir.toml\n"), "{text}");
    let path = dir.join("weir.service");
    fs::write(&path, text.replace("/usr/bin/weir", env!("CARGO_BIN_EXE_weir"))).unwrap();
    path
}

#[test]
fn systemd_reads_the_unit_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(unit(dir.path()));
    let Some((output, said)) = run("unit", &mut verify) else { return };
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
}

/// What the unit's head advises for USB cameras: whoever copies it must get what is meant.
#[test]
fn the_drop_in_for_usb_cameras_is_read_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let path = unit(dir.path());
    let text = fs::read_to_string(&path).unwrap();
    let advice = text.lines().find(|l| l.starts_with("#   USB cameras ")).unwrap();
    let lines: Vec<&str> = advice.split_once('[').unwrap().1.split(" / ").collect();
    assert_eq!(lines[0], "Service]");
    for key in ["PrivateDevices=no", "DeviceAllow=char-video4linux rw", "SupplementaryGroups=video"] {
        assert!(lines.contains(&key), "{key} is missing in {advice}");
    }
    let drop_in = dir.path().join("weir.service.d");
    fs::create_dir(&drop_in).unwrap();
    fs::write(drop_in.join("usb.conf"), format!("[{}\n", lines.join("\n"))).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&path);
    let Some((output, said)) = run("drop-in", &mut verify) else { return };
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
}

#[test]
fn a_misspelt_key_would_be_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = unit(dir.path());
    let text = fs::read_to_string(&path).unwrap().replace("NoNewPrivileges=", "NoNewPrivilege=");
    fs::write(&path, text).unwrap();
    let mut verify = Command::new("systemd-analyze");
    let Some((_, said)) = run("misspelt key", verify.args(["verify", "--man=no"]).arg(path)) else { return };
    assert!(said.contains("NoNewPrivilege"), "{said}");
}

#[test]
fn the_service_is_locked_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager"]).arg(unit(dir.path()));
    let Some((output, said)) = run("exposure", &mut security) else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let level = text.lines().find_map(|line| line.split_once("exposure level for weir.service: "));
    let level =
        level.and_then(|(_, rest)| rest.split_whitespace().next()).and_then(|word| word.parse::<f32>().ok());
    let level = level.unwrap_or_else(|| panic!("no exposure level in:\n{text}\n{said}"));
    println!("exposure level {level} of 10");
    assert!(level <= MOST_EXPOSURE, "exposure {level}:\n{text}");
}

#[test]
fn the_user_is_made() {
    let mut sysusers = Command::new("systemd-sysusers");
    sysusers.arg("--dry-run").arg(folder().join("weir.sysusers"));
    let Some((output, said)) = run("user", &mut sysusers) else { return };
    let text = format!("{}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{text}");
    let fresh = text.contains("Creating user 'weir'");
    // On a machine where weir is installed there is nothing to make.
    assert!(fresh || text.is_empty(), "{text}");
}

/// The protocol of sd_notify(3), with a socket of our own in systemd's place.
#[test]
fn systemd_is_told_ready_alive_and_stopping() {
    if !daemon::ready("systemd_is_told_ready_alive_and_stopping") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut daemon = daemon::Daemon::spawn_with(
        "[cameras.a]\nsource = \"rtsp://127.0.0.1:9/x\"\n",
        "[model]\nname = \"coco-ssd\"\n",
        &[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "400000")],
    );
    let hear = |wanted: &str| {
        let mut heard = [0; 256];
        loop {
            let n = socket.recv(&mut heard).unwrap_or_else(|e| panic!("waited in vain for {wanted}: {e}"));
            let text = String::from_utf8_lossy(&heard[..n]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    hear("READY=1");
    // Twice: fed again and again, not once.
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    daemon.signal("TERM");
    hear("STOPPING=1");
    assert_eq!(daemon.wait().0, Some(0));
}
