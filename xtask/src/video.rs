//! The demo's street scene: Debian's `opencv-doc` carries vtest.avi, pedestrians before a fixed camera. It is encoded
//! once as a camera would: 25 fps, a key frame a second, no B-frames, one slice a picture.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::cache::{Cache, hash, with_ending};
use crate::proc::{execute, quiet, say};
use crate::setup::Apt;

const SOURCE: &str = "usr/share/doc/opencv-doc/examples/data/vtest.avi";
const SHA256: &str = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf";

/// The clips, by codec.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clip {
    H264,
    H265,
}

impl Clip {
    pub const ALL: [Clip; 2] = [Clip::H264, Clip::H265];

    /// Its place in the cache.
    pub const fn name(self) -> &'static str {
        match self {
            Clip::H264 => "video/vtest-h264.mp4",
            Clip::H265 => "video/vtest-h265.mp4",
        }
    }

    /// For ffmpeg. x265's fastest preset: the others take minutes on two cores.
    const fn encoder(self) -> &'static str {
        match self {
            Clip::H264 => "-c:v libx264 -preset fast -crf 21 -bf 0 -g 25 -keyint_min 25 -sc_threshold 0",
            Clip::H265 => {
                "-c:v libx265 -preset ultrafast -crf 23 -tag:v hvc1 \
                 -x265-params keyint=25:min-keyint=25:scenecut=0:bframes=0:log-level=error"
            }
        }
    }
}

/// The original, in the cache: tests/mot/score.py follows its people.
pub const ORIGINAL: &str = "video/vtest.avi";

/// Are all clips there, and the original?
pub fn has(cache: &Cache) -> bool {
    cache.path(ORIGINAL).is_file() && Clip::ALL.iter().all(|clip| cache.path(clip.name()).is_file())
}

/// Makes the clips that are missing.
pub fn make(cache: &Cache, apt: &mut Apt) -> anyhow::Result<()> {
    if has(cache) {
        return Ok(());
    }
    let scratch = cache.scratch("video")?;
    let source = source(scratch.path(), apt)?;
    cache.unpinned(ORIGINAL, |to| std::fs::copy(&source, to).map(drop).context("cannot copy vtest.avi"))?;
    for clip in Clip::ALL.into_iter().filter(|clip| !cache.path(clip.name()).is_file()) {
        say(&format!("encoding {}: once, under a minute", clip.name()));
        cache.unpinned(clip.name(), |to| {
            let mut ffmpeg = Command::new("ffmpeg");
            ffmpeg
                .args(["-v", "error", "-y", "-i"])
                .arg(&source)
                .args(["-an", "-vf", "fps=25", "-pix_fmt", "yuv420p"]);
            execute(ffmpeg.args(clip.encoder().split_whitespace()).args(["-movflags", "+faststart"]).arg(to))
        })?;
    }
    Ok(())
}

/// The original: installed, or out of the package without installing it (slim images leave /usr/share/doc out).
fn source(scratch: &Path, apt: &mut Apt) -> anyhow::Result<PathBuf> {
    let installed = Path::new("/").join(SOURCE);
    if hash(&installed).is_ok_and(|found| found == SHA256) {
        return Ok(installed);
    }
    say("fetching Debian's opencv-doc: 96 MB, for its street scene vtest.avi");
    apt.download("opencv-doc", scratch)?;
    let package = with_ending(scratch, "deb").context("apt-get download left no opencv-doc package")?;
    let archive = scratch.join("opencv-doc.tar");
    let mut open = Command::new("sh");
    open.args(["-c", r#"dpkg-deb --fsys-tarfile "$1" > "$2""#, "sh"]).arg(package).arg(&archive);
    quiet(&mut open)?;
    quiet(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(scratch).arg(format!("./{SOURCE}")))?;
    let path = scratch.join(SOURCE);
    let found = hash(&path)?;
    if found != SHA256 {
        bail!("vtest.avi of opencv-doc has sha256 {found}, not {SHA256}");
    }
    Ok(path)
}
