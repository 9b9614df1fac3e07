//! `rtsp-sim`: one RTSP camera as one process, for the demo, the tests and by hand.
//!
//! A process a camera, so that SIGSTOP freezes and SIGKILL removes exactly one. The clip is read into memory once
//! as encoded access units and then sent for ever with fresh timestamps: no re-encoding, no jump in time where it
//! starts over, about 1 % of a core a client. Time goes on while nobody watches, as it does for a real camera.
//!
//! ```text
//! rtsp-sim --file street.mp4                      an H.264, H.265 or MJPEG file, by GStreamer's parsebin
//! rtsp-sim --pattern ball --size 1920x1080        a synthetic clip, encoded once at start
//! ```
//!
//! It prints one line when it listens, `{"port":40123,"url":"rtsp://127.0.0.1:40123/cam"}`, and ends when its
//! standard input closes (so that it never outlives the test that started it) or on SIGTERM.
//! Faults on the wire (loss, reordering, broken bits) do not belong here: they are a proxy's work.

use std::error::Error;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::{Parser, ValueEnum};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as server;
use server::gst_rtsp::{RTSPAuthMethod, RTSPLowerTrans};
use server::prelude::*;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// One RTSP camera that plays a clip for ever.
#[derive(Parser)]
#[command(name = "rtsp-sim")]
struct Args {
    /// TCP port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Path of the stream.
    #[arg(long, default_value = "/cam")]
    path: String,
    /// The clip to play.
    #[arg(long, required_unless_present = "pattern", conflicts_with = "pattern")]
    file: Option<PathBuf>,
    /// Where in the clip to start, in seconds (cameras that share a file then show different scenes).
    #[arg(long, default_value_t = 0.0)]
    start: f64,
    /// A synthetic clip of this videotestsrc pattern, such as ball, smpte or snow.
    #[arg(long)]
    pattern: Option<String>,
    /// Size of the synthetic clip.
    #[arg(long, default_value = "640x360", value_parser = size)]
    size: (i32, i32),
    /// Slices a picture of the synthetic H.264 clip: real cameras often send four.
    #[arg(long, default_value_t = 1)]
    slices: u32,
    /// Codec of the synthetic clip; a file of another codec is refused.
    #[arg(long)]
    codec: Option<Codec>,
    /// Frames a second; a file keeps its own rate unless this is given. Synthetic: 25.
    #[arg(long)]
    fps: Option<u32>,
    /// Asks for this user.
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// The user's password.
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// Digest instead of basic authentication.
    #[arg(long, requires = "user")]
    digest: bool,
    /// Speaks TLS only (rtsps://), with the certificate and key in this PEM file.
    #[arg(long, requires = "user")]
    tls_pem: Option<PathBuf>,
    /// Refuses RTP inside the RTSP connection.
    #[arg(long, conflicts_with = "tcp_only")]
    udp_only: bool,
    /// Refuses RTP in datagrams.
    #[arg(long)]
    tcp_only: bool,
    /// Ends each stream after this many frames.
    #[arg(long)]
    until_frames: Option<u64>,
}

fn size(text: &str) -> Result<(i32, i32)> {
    let (w, h) = text.split_once('x').ok_or("write it as WIDTHxHEIGHT")?;
    Ok((w.parse()?, h.parse()?))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Codec {
    H264,
    H265,
    Mjpeg,
}

impl Codec {
    fn of(caps: &gst::Caps) -> Option<Self> {
        match caps.structure(0)?.name().as_str() {
            "video/x-h264" => Some(Codec::H264),
            "video/x-h265" => Some(Codec::H265),
            "image/jpeg" => Some(Codec::Mjpeg),
            _ => None,
        }
    }

    /// Whole access units with the parameter sets before each key frame. Putting them there, and not leaving it to
    /// the payloader (`config-interval=-1`), keeps them out from between the slices of one picture.
    fn parser(self) -> &'static str {
        match self {
            Codec::H264 => {
                "h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream,alignment=au"
            }
            Codec::H265 => {
                "h265parse config-interval=-1 ! video/x-h265,stream-format=byte-stream,alignment=au"
            }
            Codec::Mjpeg => "jpegparse",
        }
    }

    fn encoder(self, fps: u32, slices: u32) -> String {
        match self {
            Codec::H264 => format!(
                "x264enc speed-preset=ultrafast bframes=0 rc-lookahead=0 bitrate=4096 key-int-max={fps} \
                 sliced-threads=false option-string=slices={slices}:scenecut=0"
            ),
            Codec::H265 => format!(
                "x265enc speed-preset=ultrafast bitrate=4096 key-int-max={fps} \
                 option-string=bframes=0:scenecut=0:log-level=error"
            ),
            Codec::Mjpeg => "jpegenc".into(),
        }
    }

    fn payloader(self) -> &'static str {
        match self {
            Codec::H264 => "rtph264pay",
            Codec::H265 => "rtph265pay",
            Codec::Mjpeg => "rtpjpegpay",
        }
    }
}

/// An encoded clip in memory, sent at an even rate.
struct Clip {
    codec: Codec,
    caps: gst::Caps,
    units: Vec<Unit>,
    /// From one unit to the next.
    interval: gst::ClockTime,
}

/// One access unit, in decoding order.
struct Unit {
    data: gst::Buffer,
    key: bool,
    /// How much later it is shown than sent: more than zero only with B-frames.
    reorder: gst::ClockTime,
}

impl Clip {
    /// Seconds of a synthetic clip before it starts over.
    const SYNTHETIC_SECONDS: u32 = 8;

    fn load(args: &Args) -> Result<Self> {
        let samples = match (&args.file, &args.pattern) {
            (Some(file), _) => demux(file)?,
            (None, Some(pattern)) => encode(pattern, args)?,
            (None, None) => return Err("give --file or --pattern".into()),
        };
        let caps = samples.first().and_then(|s| s.caps_owned()).ok_or("the clip holds no picture")?;
        let codec = Codec::of(&caps).ok_or_else(|| format!("no payloader for {caps}"))?;
        if args.codec.is_some_and(|wanted| wanted != codec) {
            return Err(format!("the file is {codec:?}: make one of the other codec with ffmpeg").into());
        }
        let shown: Vec<u64> = samples
            .iter()
            .map(|s| {
                s.buffer()
                    .and_then(|b| b.pts())
                    .map(gst::ClockTime::nseconds)
                    .ok_or("a unit has no timestamp")
            })
            .collect::<Result<_, _>>()?;
        let (first, last) = (shown.iter().min(), shown.iter().max());
        let span = last.zip(first).map_or(0, |(last, first)| last - first);
        let own = span / (samples.len() as u64 - 1).max(1);
        let interval = args.fps.map_or(own, |fps| 1_000_000_000 / u64::from(fps));
        if interval == 0 {
            return Err("the clip has no frame rate: give --fps".into());
        }
        // How far each picture is shown after its turn in decoding order, made non-negative by a common shift.
        let lag = |i: usize| shown[i] as i64 - (i as u64 * own) as i64;
        let shift = (0..shown.len()).map(lag).min().unwrap_or(0);
        let plain = shown.is_sorted();
        let unit = |(i, sample): (usize, &gst::Sample)| {
            let data = sample.buffer_owned().expect("its timestamp was read above");
            let key = !data.flags().contains(gst::BufferFlags::DELTA_UNIT);
            let late = if plain { 0 } else { (lag(i) - shift) as u64 };
            // Scaled in whole numbers of the clip's own interval, so that --fps keeps the order of B-frames.
            let reorder = gst::ClockTime::from_nseconds(
                (u128::from(late) * u128::from(interval) / u128::from(own.max(1))) as u64,
            );
            Unit { data, key, reorder }
        };
        let units: Vec<Unit> = samples.iter().enumerate().map(unit).collect();
        if !units.first().is_some_and(|u| u.key) {
            return Err("the clip does not start with a key frame".into());
        }
        Ok(Clip { codec, caps, units, interval: gst::ClockTime::from_nseconds(interval) })
    }

    fn unit(&self, n: u64) -> &Unit {
        &self.units[(n % self.units.len() as u64) as usize]
    }

    /// The last key frame at or before unit `n`.
    fn key_before(&self, n: u64) -> u64 {
        (0..=n).rev().find(|&n| self.unit(n).key).unwrap_or(0)
    }
}

/// Reads the video of a file as it is.
fn demux(file: &std::path::Path) -> Result<Vec<gst::Sample>> {
    if !file.is_file() {
        return Err(format!("{}: no such file", file.display()).into());
    }
    let pipeline = gst::Pipeline::new();
    let source = gst::ElementFactory::make("filesrc").property("location", file).build()?;
    let parse = gst::ElementFactory::make("parsebin").build()?;
    pipeline.add_many([&source, &parse])?;
    source.link(&parse)?;
    let samples = Samples::default();
    let (weak, into) = (pipeline.downgrade(), samples.clone());
    parse.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else { return };
        let codec = pad.current_caps().and_then(|caps| Codec::of(&caps));
        let tail = codec.map_or("fakesink sync=false".into(), |codec| {
            format!("{} ! appsink name=out sync=false", codec.parser())
        });
        let branch = gst::parse::bin_from_description(&tail, true).expect("the description is ours");
        if codec.is_some() {
            into.collect(&branch);
        }
        pipeline.add(&branch).expect("a fresh bin has no parent");
        branch.sync_state_with_parent().expect("the elements were made");
        let sink = branch.static_pad("sink").expect("bin_from_description ghosts it");
        // A pad that refuses its parser shows as not-linked on the bus.
        let _ = pad.link(&sink);
    });
    samples.run(&pipeline)
}

/// Encodes a synthetic clip.
fn encode(pattern: &str, args: &Args) -> Result<Vec<gst::Sample>> {
    let (fps, codec) = (args.fps.unwrap_or(25), args.codec.unwrap_or(Codec::H264));
    let (width, height) = args.size;
    let description = format!(
        "videotestsrc num-buffers={} pattern={pattern} \
         ! video/x-raw,format=I420,width={width},height={height},framerate={fps}/1 \
         ! {} ! {} ! appsink name=out sync=false",
        fps * Clip::SYNTHETIC_SECONDS,
        codec.encoder(fps, args.slices),
        codec.parser()
    );
    let pipeline =
        gst::parse::launch(&description)?.downcast::<gst::Pipeline>().map_err(|_| "not a pipeline")?;
    let samples = Samples::default();
    samples.collect(pipeline.upcast_ref());
    samples.run(&pipeline)
}

/// What an appsink named `out` has received.
#[derive(Clone, Default)]
struct Samples(Arc<Mutex<Vec<gst::Sample>>>);

impl Samples {
    fn collect(&self, bin: &gst::Bin) {
        let sink = bin.by_name("out").and_downcast::<gst_app::AppSink>().expect("the description names it");
        let into = self.0.clone();
        let callbacks = gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                into.lock().expect("no holder panics").push(sample);
                Ok(gst::FlowSuccess::Ok)
            })
            .build();
        sink.set_callbacks(callbacks);
    }

    /// Plays to the end.
    fn run(&self, pipeline: &gst::Pipeline) -> Result<Vec<gst::Sample>> {
        let bus = pipeline.bus().expect("a pipeline has a bus");
        pipeline.set_state(gst::State::Playing)?;
        let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]);
        pipeline.set_state(gst::State::Null)?;
        match end.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Error(e)) => Err(format!("the clip cannot be read: {}", e.error()).into()),
            _ => Ok(std::mem::take(&mut *self.0.lock().expect("no holder panics"))),
        }
    }
}

/// Sends one stream; shared by all who watch it.
struct Feeder {
    clip: Arc<Clip>,
    /// The unit that is sent next, counted from the start of the process.
    next: u64,
    /// When unit 0 would have been sent, in running time; negative for a stream that joins late.
    origin: Option<i64>,
    left: Option<u64>,
}

impl Feeder {
    /// A stream that fell behind this far (its process was stopped) goes on with the present, as a camera does.
    const TOO_LATE: i64 = 1_000_000_000;

    fn feed(&mut self, src: &gst_app::AppSrc) {
        if self.left == Some(0) {
            // Refused only by a stream that is over anyway.
            let _ = src.end_of_stream();
            return;
        }
        let interval = self.clip.interval.nseconds() as i64;
        let now = src.current_running_time().map_or(0, |t| t.nseconds() as i64);
        let origin = *self.origin.get_or_insert(now - self.next as i64 * interval);
        if now - (origin + self.next as i64 * interval) > Self::TOO_LATE {
            self.next = self.clip.key_before(((now - origin) / interval) as u64);
            self.origin = Some(now - self.next as i64 * interval);
        }
        let sent = self.origin.unwrap_or(origin) + self.next as i64 * interval;
        let sent = gst::ClockTime::from_nseconds(sent.max(0) as u64);
        let unit = self.clip.unit(self.next);
        let mut buffer = unit.data.copy();
        let fields = buffer.make_mut();
        fields.set_dts(sent);
        fields.set_pts(sent + unit.reorder);
        fields.set_duration(self.clip.interval);
        self.next += 1;
        self.left = self.left.map(|n| n - 1);
        // Refused only by a stream that is being taken down.
        let _ = src.push_buffer(buffer);
    }
}

fn factory(clip: &Arc<Clip>, args: &Args) -> server::RTSPMediaFactory {
    let factory = server::RTSPMediaFactory::new();
    factory.set_launch(&format!(
        "( appsrc name=src is-live=true format=time max-buffers=2 max-bytes=0 max-time=0 ! {} name=pay0 pt=96 )",
        clip.codec.payloader()
    ));
    factory.set_shared(true);
    factory.set_protocols(match (args.udp_only, args.tcp_only) {
        (true, _) => RTSPLowerTrans::UDP,
        (_, true) => RTSPLowerTrans::TCP,
        _ => RTSPLowerTrans::UDP | RTSPLowerTrans::TCP,
    });
    let (clip, left) = (clip.clone(), args.until_frames);
    let start = (args.start.max(0.0) * 1e9) as u64;
    let begin = glib::monotonic_time();
    factory.connect_media_configure(move |_, media| {
        let element = media.element().downcast::<gst::Bin>().expect("a launch line makes a bin");
        let src = element.by_name("src").and_downcast::<gst_app::AppSrc>().expect("the line names it");
        src.set_caps(Some(&clip.caps));
        let elapsed = (glib::monotonic_time() - begin) as u64 * 1000 + start;
        let next = clip.key_before(elapsed / clip.interval.nseconds());
        let mut feeder = Feeder { clip: clip.clone(), next, origin: None, left };
        src.set_callbacks(
            gst_app::AppSrcCallbacks::builder().need_data(move |src, _| feeder.feed(src)).build(),
        );
    });
    factory
}

/// Lets only this user watch.
fn guard(
    server: &server::RTSPServer,
    factory: &server::RTSPMediaFactory,
    user: &str,
    password: &str,
    digest: bool,
) -> server::RTSPAuth {
    let auth = server::RTSPAuth::new();
    let token = server::RTSPToken::builder().field("media.factory.role", "viewer").build();
    if digest {
        auth.set_supported_methods(RTSPAuthMethod::Digest);
        auth.add_digest(user, password, &token);
    } else {
        auth.add_basic(&server::RTSPAuth::make_basic(user, password), &token);
    }
    server.set_auth(Some(&auth));
    factory.add_role_from_structure(
        &gst::Structure::builder("viewer")
            .field("media.factory.access", true)
            .field("media.factory.construct", true)
            .build(),
    );
    auth
}

fn run(args: &Args) -> Result<()> {
    gst::init()?;
    let clip = Arc::new(Clip::load(args)?);
    let server = server::RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service(&args.port.to_string());
    let factory = factory(&clip, args);
    if let (Some(user), Some(password)) = (&args.user, &args.password) {
        let auth = guard(&server, &factory, user, password, args.digest);
        if let Some(pem) = &args.tls_pem {
            auth.set_tls_certificate(Some(&gio::TlsCertificate::from_file(pem)?));
        }
    }
    server.mount_points().ok_or("the server has no mount points")?.add_factory(&args.path, factory);
    let _source = server.attach(None).map_err(|_| format!("port {} is in use", args.port))?;

    let main = glib::MainLoop::new(None, false);
    let stop = main.clone();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
        stop.quit();
    });
    // A UDP client that vanished is noticed only by its session's age.
    let sessions = server.session_pool();
    glib::timeout_add_seconds(2, move || {
        sessions.iter().for_each(|pool| {
            pool.cleanup();
        });
        glib::ControlFlow::Continue
    });
    let (port, path) = (server.bound_port(), &args.path);
    let mut out = io::stdout().lock();
    let scheme = if args.tls_pem.is_some() { "rtsps" } else { "rtsp" };
    writeln!(out, r#"{{"port":{port},"url":"{scheme}://127.0.0.1:{port}{path}"}}"#)?;
    out.flush()?;
    drop(out);
    main.run();
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nothing is left to tell it to when standard error is gone.
            let _ = writeln!(io::stderr(), "rtsp-sim: {e}");
            ExitCode::FAILURE
        }
    }
}
