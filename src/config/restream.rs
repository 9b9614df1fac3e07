//! `[cameras.NAME.restream]` over `[rtsp_server]`: a camera's way out by RTSP.

use super::check::Check;
use super::file::Section;
use super::{Codec, Privacy, Restream, Show};

/// What holds for this camera; `server` is `None` where nothing goes out by RTSP.
pub(super) fn check(
    check: &mut Check<'_>,
    camera: &Section,
    server: Option<&Section>,
    privacy: &Privacy,
) -> Restream {
    let own = camera.section("restream");
    let Some(server) = server else {
        if own.is_some() {
            check
                .problems
                .warn(camera.place("restream"), "nothing goes out by RTSP")
                .label("means nothing without [rtsp_server]")
                .help("add a table [rtsp_server]; it may be empty");
        }
        return Restream::default();
    };
    let says = |key: &str| own.filter(|own| own.has(key)).unwrap_or(server);
    let all = says("show").text("show") == Some("all");
    if all && !privacy.hide.is_empty() {
        let at = own.filter(|own| own.has("show")).map_or(camera.place("hide"), |own| own.place("show"));
        check
            .problems
            .warn(at, "frames of this camera that are not analysed are not shown")
            .label("show = \"all\" and `hide`")
            .help("where the network did not look, nothing can be hidden; a mask would hold for every frame");
    }
    Restream {
        codec: if says("codec").text("codec") == Some("h265") { Codec::H265 } else { Codec::H264 },
        bitrate: says("bitrate_kbps").int("bitrate_kbps") as u32,
        width: says("max_width").opt_int("max_width").map(|n| n as u32),
        max_fps: says("max_fps").opt_float("max_fps"),
        always: says("always").bool("always"),
        show: if all && privacy.hide.is_empty() { Show::All } else { Show::Analysed },
        raw: says("raw").bool("raw"),
        raw_shows_hidden: own.is_some_and(|own| own.bool("raw_shows_hidden")),
    }
}
