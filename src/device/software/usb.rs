//! What USB cameras need beyond their pipeline description: a mode, and no damaged pictures.
//!
//! A camera offers some dozens: each pixel format in several sizes, each size at several rates. Left to itself GStreamer's
//! v4l2src takes the largest picture, and of two formats the raw one, which at 1920×1080 over USB 2 comes 5 times a
//! second while the same camera sends 30 JPEGs. So weir asks for:
//!
//! 1. at least [`SLOWEST`] pictures a second, no larger than [`LARGEST`]; of these
//! 2. the largest picture, then
//! 3. the rate nearest to [`FASTEST`] from below, then
//! 4. raw, which costs no decoding, before JPEG, before H.264 and H.265, whose key frames one has to wait for.
//!
//! Where no mode is so fast, the fastest is taken. A `pipeline:` source can ask for any other.

use std::cmp::Reverse;

use crossbeam_channel::Sender;
use gstreamer as gst;
use gstreamer::prelude::*;

use crate::device::Happening;

/// Pictures a second below which a tracker loses who walks by.
const SLOWEST: f64 = 15.0;
/// Pictures a second beyond which there is only more to decode.
const FASTEST: f64 = 30.0;
/// Width and height, in pixels.
const LARGEST: (i32, i32) = (1920, 1080);

/// Best first.
const MEDIA: [&str; 4] = ["video/x-raw", "image/jpeg", "video/x-h264", "video/x-h265"];

/// Opens the element `source`, sets one of its modes on the element `mode`, and sorts out what arrives damaged.
/// When the camera cannot be opened, its element says so on the bus.
pub fn prepare(pipeline: &gst::Pipeline, happening: Sender<Happening>) {
    let (Some(source), Some(filter)) = (pipeline.by_name("source"), pipeline.by_name("mode")) else { return };
    let Some(pad) = source.static_pad("src") else { return };
    // Packets were lost on the wire, says the driver. JPEG decoders fill what is missing with grey and do not pass the
    // mark on, so the picture must go before them.
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| match info.buffer() {
        Some(buffer) if buffer.flags().contains(gst::BufferFlags::CORRUPTED) => {
            // Full only when the camera's thread is stuck; the watchdog sees the silence.
            let _ = happening.try_send(Happening::Undecodable);
            gst::PadProbeReturn::Drop
        }
        _ => gst::PadProbeReturn::Ok,
    });
    if source.set_state(gst::State::Ready).is_ok()
        && let Some(mode) = choose(&pad.query_caps(None))
    {
        filter.set_property("caps", mode);
    }
}

/// The mode to ask for of those that a device lists; `None` when it lists nothing that can be compared.
pub fn choose(offered: &gst::CapsRef) -> Option<gst::Caps> {
    let system = gst::CapsFeatures::new_empty();
    let modes = offered.iter_with_features().filter(|(_, features)| {
        features.is_equal(&system) || features.is_equal(gst::CAPS_FEATURES_MEMORY_SYSTEM_MEMORY.as_ref())
    });
    let modes = modes.filter_map(|(structure, _)| Mode::of(structure));
    // Of equals the first: the camera's own order.
    let best = modes.min_by(|a, b| a.rank().partial_cmp(&b.rank()).unwrap_or(std::cmp::Ordering::Equal))?;
    let mut chosen = best.structure;
    chosen.set("width", best.width);
    chosen.set("height", best.height);
    chosen.set("framerate", best.rate);
    Some(gst::Caps::builder_full().structure(chosen).build())
}

struct Mode {
    structure: gst::Structure,
    media: usize,
    width: i32,
    height: i32,
    rate: gst::Fraction,
}

impl Mode {
    fn of(structure: &gst::StructureRef) -> Option<Mode> {
        let media = MEDIA.iter().position(|m| *m == structure.name().as_str())?;
        Some(Mode {
            media,
            width: length(structure, "width", LARGEST.0)?,
            height: length(structure, "height", LARGEST.1)?,
            rate: rate(structure)?,
            structure: structure.to_owned(),
        })
    }

    /// The smaller the better.
    fn rank(&self) -> (bool, bool, f64, Reverse<i64>, f64, usize) {
        let fits = self.width <= LARGEST.0 && self.height <= LARGEST.1;
        let fps = per_second(self.rate);
        let slowness = (SLOWEST - fps).max(0.0);
        let area = i64::from(self.width) * i64::from(self.height);
        (!fits, slowness > 0.0, slowness, Reverse(area), (FASTEST - fps).abs(), self.media)
    }
}

/// One number, or the one nearest to `wanted` of a range.
fn length(structure: &gst::StructureRef, field: &str, wanted: i32) -> Option<i32> {
    let mut fixed = structure.to_owned();
    fixed.fixate_field_nearest_int(field, wanted);
    fixed.get(field).ok()
}

/// Of the rates of this size the highest that is not beyond [`FASTEST`], or else the lowest.
fn rate(structure: &gst::StructureRef) -> Option<gst::Fraction> {
    let value = structure.value("framerate").ok()?;
    let rates: Vec<gst::Fraction> = if let Ok(list) = value.get::<gst::List>() {
        list.iter().filter_map(|v| v.get().ok()).collect()
    } else {
        let mut fixed = structure.to_owned();
        fixed.fixate_field_nearest_fraction("framerate", gst::Fraction::new(FASTEST as i32, 1));
        fixed.get("framerate").into_iter().collect()
    };
    let enough = |rate: &gst::Fraction| per_second(*rate) <= FASTEST;
    rates.iter().copied().filter(enough).max().or_else(|| rates.iter().copied().min())
}

fn per_second(rate: gst::Fraction) -> f64 {
    f64::from(rate.numer()) / f64::from(rate.denom())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(offered: &str) -> String {
        gst::init().expect("GStreamer is installed");
        let caps = offered.parse::<gst::Caps>().expect("valid caps");
        choose(&caps).map_or("nothing".to_owned(), |caps| {
            assert!(
                caps.is_fixed() && caps.is_subset(&offered.parse::<gst::Caps>().expect("valid caps")),
                "{caps}"
            );
            let s = caps.structure(0).expect("one mode");
            let number = |field| s.get::<i32>(field).expect("fixed");
            let rate = s.get::<gst::Fraction>("framerate").expect("fixed");
            format!("{} {}x{} {}/{}", s.name(), number("width"), number("height"), rate.numer(), rate.denom())
        })
    }

    fn mode(media: &str, size: (i32, i32), rates: &str) -> String {
        let format = if media == "video/x-raw" { ",format=YUY2" } else { "" };
        format!("{media}{format},width={},height={},framerate={rates}", size.0, size.1)
    }

    #[test]
    fn large_pictures_are_taken_compressed_and_small_ones_raw() {
        let common = [
            mode("video/x-raw", (640, 480), "{ 30/1, 15/1 }"),
            mode("video/x-raw", (1920, 1080), "5/1"),
            mode("image/jpeg", (640, 480), "{ 30/1, 15/1 }"),
            mode("image/jpeg", (1920, 1080), "{ 60/1, 30/1, 24/1 }"),
            mode("image/jpeg", (3840, 2160), "30/1"),
        ];
        assert_eq!(chosen(&common.join(";")), "image/jpeg 1920x1080 30/1");
        assert_eq!(chosen(&common[..3].join(";")), "video/x-raw 640x480 30/1");
    }

    #[test]
    fn the_fastest_is_taken_where_none_is_fast() {
        let slow =
            [mode("video/x-raw", (1280, 960), "{ 15/2, 5/1 }"), mode("video/x-raw", (640, 480), "10/1")];
        assert_eq!(chosen(&slow.join(";")), "video/x-raw 640x480 10/1");
    }

    #[test]
    fn larger_than_wanted_is_better_than_nothing() {
        assert_eq!(chosen(&mode("image/jpeg", (3840, 2160), "{ 60/1, 120/1 }")), "image/jpeg 3840x2160 60/1");
    }

    #[test]
    fn ranges_are_cut() {
        let any = "video/x-raw,format=NV12,width=[32,4096,2],height=[32,4096,2],framerate=[1/1,120/1]";
        assert_eq!(chosen(any), "video/x-raw 1920x1080 30/1");
    }

    #[test]
    fn what_says_no_rate_is_left_to_gstreamer() {
        assert_eq!(chosen("video/x-bayer,format=bggr,width=640,height=480,framerate=30/1"), "nothing");
        assert_eq!(chosen("video/x-raw,format=YUY2,width=640,height=480"), "nothing");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Where a mode fits and is fast enough, so is the chosen one, and no such mode is larger.
        #[test]
        fn no_fit_mode_is_larger_than_the_chosen_one(
            modes in prop::collection::vec((0usize..2, 1i32..20, 1i32..12, 1i32..70), 1..12)
        ) {
            gst::init().expect("GStreamer is installed");
            let modes = modes.into_iter().map(|(media, w, h, fps)| (MEDIA[media], w * 192, h * 180, fps));
            let modes: Vec<_> = modes.collect();
            let fit = |(_, w, h, fps): &(&str, i32, i32, i32)| *w <= 1920 && *h <= 1080 && *fps >= 15;
            let largest = modes.iter().filter(|m| fit(m)).map(|(_, w, h, _)| w * h).max();
            let text: Vec<_> = modes.iter().map(|(m, w, h, fps)| mode(m, (*w, *h), &format!("{fps}/1"))).collect();
            let caps = choose(&text.join(";").parse::<gst::Caps>().expect("valid caps")).expect("something is offered");
            let s = caps.structure(0).expect("one mode");
            let (w, h): (i32, i32) = (s.get("width").expect("fixed"), s.get("height").expect("fixed"));
            let fps = s.get::<gst::Fraction>("framerate").expect("fixed").numer();
            prop_assert!(modes.contains(&(s.name().as_str(), w, h, fps)), "not offered: {caps}");
            if let Some(largest) = largest {
                prop_assert!(fit(&("", w, h, fps)) && w * h == largest, "{caps}");
            }
        }
    }
}
