//! USB cameras where the machine has none: `v4l2-cam.c`, preloaded into the daemon alone, stands in for the kernel's side of V4L2.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::root;

/// Some emulated cameras, made for one test.
pub struct Cameras {
    dir: tempfile::TempDir,
}

impl Cameras {
    /// Compiles the emulation. `None`, said out loud, where a tool or the clip is missing.
    pub fn new(test: &str) -> Option<Cameras> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let made = Command::new("cc")
            .args(["-Wall", "-Wextra", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"])
            .arg("-o")
            .args([dir.path().join("v4l2-cam.so"), root().join("tests/support/v4l2-cam.c")])
            .status();
        match made {
            Err(e) => {
                println!("skipped: {test}: no C compiler `cc` ({e})");
                return None;
            }
            Ok(status) => assert!(status.success(), "cc compiles v4l2-cam.c"),
        }
        if let Err(e) = Command::new("ffmpeg").arg("-version").output() {
            println!("skipped: {test}: no ffmpeg ({e})");
            return None;
        }
        if !clip().is_file() {
            println!("skipped: {test}: no {} (`cargo xtask setup` fetches it)", clip().display());
            return None;
        }
        Some(Cameras { dir })
    }

    /// What makes a process see them.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_str().expect("the path is text").to_owned();
        [("V4L2_CAM", text(self.dir.path())), ("LD_PRELOAD", text(&self.dir.path().join("v4l2-cam.so")))]
    }

    /// A camera, plugged in, with these modes: `FOURCC WIDTH HEIGHT FPS`. It films the street.
    pub fn add(&self, name: &str, modes: &[&str]) -> Usb {
        let folder = self.dir.path().join(name);
        fs::create_dir(&folder).expect("a new name");
        fs::write(folder.join("modes"), modes.join("\n")).expect("written");
        for mode in modes {
            let words: Vec<&str> = mode.split(' ').collect();
            let frames = folder.join(format!("{}-{}x{}", words[0], words[1], words[2]));
            if frames.is_dir() {
                continue;
            }
            fs::create_dir(&frames).expect("made");
            let coding: &[&str] = match words[0] {
                "MJPG" => &["-c:v", "mjpeg", "-pix_fmt", "yuvj422p", "-q:v", "4"],
                _ => &["-c:v", "rawvideo", "-pix_fmt", "yuyv422"],
            };
            let filmed = Command::new("ffmpeg")
                .args(["-v", "error", "-i"])
                .arg(clip())
                .args(["-frames:v", "10", "-s", &format!("{}x{}", words[1], words[2])])
                .args(coding)
                .args(["-start_number", "0", "-f", "image2"])
                .arg(frames.join("%d"))
                .status();
            assert!(filmed.is_ok_and(|s| s.success()), "ffmpeg films {mode}");
        }
        let usb = Usb { folder };
        usb.plug();
        usb
    }
}

/// The street scene, as `cargo xtask setup` keeps it.
fn clip() -> PathBuf {
    weir::config::cache_dir().join("video/vtest.avi")
}

/// One camera.
pub struct Usb {
    folder: PathBuf,
}

impl Usb {
    /// Its device file.
    pub fn device(&self) -> String {
        let name = self.folder.file_name().and_then(OsStr::to_str).expect("its name is text");
        format!("/dev/test-cam/{name}")
    }

    /// Its table in the configuration.
    pub fn config(&self) -> String {
        let device = self.device();
        let name = device.rsplit('/').next().expect("a name");
        format!("[cameras.{name}]\nsource = \"v4l2:{device}\"\n")
    }

    /// Puts it in.
    pub fn plug(&self) {
        fs::write(self.folder.join("plugged"), "").expect("written");
    }

    /// Pulls it out.
    pub fn unplug(&self) {
        fs::remove_file(self.folder.join("plugged")).expect("it was plugged in");
    }

    /// From now on this call ends in this error number.
    pub fn fail(&self, call: &str, error: i32) {
        // Under another name first, for it is read at any moment.
        fs::write(self.folder.join("fault.new"), format!("{call} {error}\n")).expect("written");
        fs::rename(self.folder.join("fault.new"), self.folder.join("fault")).expect("renamed");
    }

    /// No call fails any more.
    pub fn heal(&self) {
        fs::remove_file(self.folder.join("fault")).expect("a call failed");
    }

    /// Half of this frame of this mode gets lost on the wire.
    pub fn tear(&self, mode: &str, frame: u32) {
        let path = self.folder.join(mode).join(frame.to_string());
        let data = fs::read(&path).expect("there is such a frame");
        fs::write(path.with_extension("bad"), &data[..data.len() / 2]).expect("written");
        fs::remove_file(path).expect("it was there");
    }
}
