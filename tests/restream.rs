//! Video out by RTSP, by the whole daemon: real RTSP cameras, the real network, independent clients.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/retina.rs"]
mod other;
#[path = "support/wait.rs"]
mod wait;
#[path = "support/watch.rs"]
mod watch;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use daemon::{Daemon, Sim, ball, free_port, ready};
use serde_json::Value;
use wait::until;
use watch::{Stream, encoded, ffmpeg, gstreamer_plays, memory, metric, rtsp_film, turn, viewer};

/// A daemon with this camera, online, whose viewers need a password.
fn guarded(port: u16, camera: &str, sim: &Sim) -> Daemon {
    let daemon = Daemon::spawn_with(
        &format!(
            "[rtsp_server]\nbind = \"127.0.0.1:{port}\"\nuser = \"viewer\"\npassword_env = \"RTSP_PASSWORD\"\n[cameras.{camera}]\nsource = {:?}\n",
            sim.url
        ),
        "[model]\nname = \"coco-ssd\"\n",
        &[("RTSP_PASSWORD", "s3cret")],
    );
    until("the daemon to be ready", || daemon.get("/readyz").ok());
    daemon.wait_state(camera, "online");
    daemon
}

#[test]
fn rtsp_out_plays_in_ffmpeg_over_tcp_and_udp_with_one_encode_for_all() {
    let _turn = turn();
    let test = "rtsp_out_plays_in_ffmpeg_over_tcp_and_udp_with_one_encode_for_all";
    let Some((mut sim, daemon, server)) = rtsp_film(test, "", "") else { return };
    let devices: Value = serde_json::from_str(&daemon.get("/api/v1/devices").unwrap()).unwrap();
    let chosen = devices["video_encoder"]["chosen"].as_str().expect("an encoder").to_owned();
    println!("encoder: {devices}");
    assert!(daemon.log().contains(&chosen));
    let inferred = || daemon.camera("street")["frames"]["inferred"].as_u64().unwrap();
    assert_eq!(encoded(&daemon, "street", "h264"), 0.0);

    let url = format!("{server}/street");
    let before = inferred();
    let viewers: Vec<_> = ["tcp", "udp", "tcp"]
        .map(|transport| {
            let url = url.clone();
            std::thread::spawn(move || ffmpeg(&url, 20, transport))
        })
        .into();
    for viewer in viewers {
        let luma = viewer.join().unwrap().expect("ffmpeg plays it");
        assert_eq!(luma.len(), 20 * 768 * 576);
        let frames: Vec<&[u8]> = luma.chunks(768 * 576).collect();
        assert!(frames[0] != frames[19], "the picture moves");
    }
    let (count, frames) = (encoded(&daemon, "street", "h264"), inferred() - before);
    println!("3 viewers, {frames} frames analysed, {count} encoded");
    assert!(count >= 20.0 && count <= frames as f64 + 5.0, "{count} of {frames}");
    until("the encoder to rest", || {
        (metric(&daemon, "weir_video_viewers{camera=\"street\"}") == 0.0).then_some(())
    });

    assert_eq!(gstreamer_plays(&url, 10), 10);
    let probed = Command::new("ffprobe")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-show_entries", "stream=codec_name,width,height"])
        .args(["-of", "csv=p=0", &url])
        .output()
        .expect("ffprobe runs");
    assert_eq!(String::from_utf8_lossy(&probed.stdout).trim(), "h264,768,576");

    sim.kill();
    daemon.wait_state("street", "offline");
    let luma = ffmpeg(&url, 3, "tcp").expect("a dead camera's output stays up");
    assert!(luma.iter().filter(|code| **code > 200).count() > 300, "and says so");
    assert!(ffmpeg(&format!("{server}/attic"), 1, "tcp").is_err());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "other processes have no clock of ours")]
fn who_joins_an_rtsp_stream_has_a_picture_at_once() {
    let _turn = turn();
    let test = "who_joins_an_rtsp_stream_has_a_picture_at_once";
    let Some((_sim, daemon, server)) = rtsp_film(test, "", "max_fps = 5.0\n") else { return };
    let url = format!("{server}/street");
    let mut first = viewer(&url);
    until("the stream", || (encoded(&daemon, "street", "h264") > 10.0).then_some(()));
    // At five frames a second the next key frame would come twenty seconds after the last one.
    for _ in 0..2 {
        let start = std::time::Instant::now();
        assert_eq!(gstreamer_plays(&url, 1), 1);
        println!("joined after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn rtsp_out_asks_who_watches() {
    let _turn = turn();
    if !ready("rtsp_out_asks_who_watches") {
        return;
    }
    let port = free_port();
    let sim = Sim::start(&["--pattern", "ball", "--size", "320x240"]);
    let daemon = guarded(port, "ball", &sim);
    let watch = |login: &str| ffmpeg(&format!("rtsp://{login}127.0.0.1:{port}/ball"), 2, "tcp");
    assert!(watch("").unwrap_err().contains("401"));
    assert!(watch("viewer:wrong@").unwrap_err().contains("401"));
    assert_eq!(watch("viewer:s3cret@").expect("it plays").len(), 2 * 320 * 240);
    assert!(!daemon.log().contains("s3cret"));
}

#[test]
fn an_encoder_that_fails_is_replaced_and_one_stream_too_many_is_refused() {
    let _turn = turn();
    if !ready("an_encoder_that_fails_is_replaced_and_one_stream_too_many_is_refused") {
        return;
    }
    let port = free_port();
    let camera = |name: &str, side: u32| ball(name, (side, side), 5, "");
    // OpenH264 takes no picture smaller than 16 pixels; its trial at start is larger.
    let daemon = Daemon::start(&format!(
        "[rtsp_server]\nbind = \"127.0.0.1:{port}\"\nencoders = [\"openh264enc\", \"x264enc\"]\nmax_streams = 1\n{}{}",
        camera("tiny", 14),
        camera("other", 160)
    ));
    daemon.wait_state("tiny", "online");
    assert!(daemon.get("/api/v1/devices").unwrap().contains("\"chosen\":\"openh264enc\""));
    let url = |name: &str| format!("rtsp://127.0.0.1:{port}/{name}");
    let luma =
        ffmpeg(&url("tiny"), 3, "tcp").expect("the next encoder takes over before the viewer has noticed");
    assert_eq!(luma.len(), 3 * 14 * 14);
    let devices = daemon.get("/api/v1/devices").unwrap();
    assert!(devices.contains("\"chosen\":\"x264enc\"") && devices.contains("it failed"), "{devices}");
    assert_eq!(daemon.log().matches("The video encoder failed").count(), 1, "loudly, once");
    let camera = daemon.camera("tiny");
    assert_eq!((&camera["state"], &camera["frames"]["failed"]), (&"online".into(), &0.into()));

    let mut first = viewer(&url("other"));
    until("the first stream", || (encoded(&daemon, "other", "h264") > 5.0).then_some(()));
    assert!(ffmpeg(&url("tiny"), 1, "tcp").unwrap_err().contains("503"));
    // A camera that is watched all the time would need an encoder; one that is not has room.
    let ask = |watched: bool| {
        let body = format!("{{\"fps\": 1, \"width\": 16, \"height\": 16, \"watched\": {watched}}}");
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let request =
            agent.post(format!("{}/api/v1/admission", daemon.http)).content_type("application/json");
        let mut answer = request.send(body).expect("it answers");
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    until("admission knows the machine", || (ask(false).0 == 200).then_some(()));
    let (status, text) = ask(true);
    assert!(status == 503 && text.contains("\"ceiling\":\"encoder\""), "{status}: {text}");
    first.kill().unwrap();
    first.wait().unwrap();
    until("its place", || ffmpeg(&url("tiny"), 1, "tcp").ok());
}

#[test]
fn a_stuck_rtsp_viewer_holds_nobody_up() {
    let _turn = turn();
    let test = "a_stuck_rtsp_viewer_holds_nobody_up";
    let Some((_sim, mut daemon, server)) = rtsp_film(test, "bitrate_kbps = 20000\n", "") else { return };
    let url = format!("{server}/street");
    let mut stuck = viewer(&url);
    until("the stream", || (encoded(&daemon, "street", "h264") > 20.0).then_some(()));
    let stopped = Command::new("kill").args(["-STOP", &stuck.id().to_string()]).status();
    assert!(stopped.is_ok_and(|status| status.success()));
    let before = memory(&daemon);
    let luma = ffmpeg(&url, 150, "tcp").expect("another one plays");
    assert_eq!(luma.len(), 150 * 768 * 576);
    println!("memory: {before} MiB before, {} MiB after", memory(&daemon));
    assert!(memory(&daemon) < before + 64, "{} MiB grew from {before}", memory(&daemon));
    let camera = daemon.camera("street");
    assert_eq!((&camera["state"], &camera["frames"]["failed"]), (&"online".into(), &0.into()));
    // Nor does it hold up the daemon's end, with another viewer on HTTP.
    let _stream = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg");
    daemon.signal("TERM");
    let (code, took) = daemon.wait();
    assert_eq!(code, Some(0), "{}", daemon.log());
    assert!(took < Duration::from_secs(6), "{took:?}");
    stuck.kill().unwrap();
    stuck.wait().unwrap();
}

/// A viewer that asks for the stream (RFC 2326, 10) and never reads it.
fn never_reads(url: &str) -> TcpStream {
    let host = url.trim_start_matches("rtsp://").split('/').next().expect("a host").to_owned();
    let mut socket = TcpStream::connect(host).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut session = String::new();
    let control = format!("{url}/stream=0");
    let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
    for (cseq, (method, target, fields)) in
        [("DESCRIBE", url, ""), ("SETUP", &*control, transport), ("PLAY", url, "")].into_iter().enumerate()
    {
        let request = format!("{method} {target} RTSP/1.0\r\nCSeq: {}\r\n{session}{fields}\r\n", cseq + 1);
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; 8192];
        let read = socket.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("RTSP/1.0 200"), "{method}: {answer}");
        if let Some(line) = answer.lines().find(|line| line.starts_with("Session:")) {
            session = format!("{}\r\n", line.split(';').next().expect("its name"));
        }
    }
    socket
}

#[test]
fn viewers_that_never_read_are_dropped_and_fifty_others_do_not_notice() {
    let _turn = turn();
    let test = "viewers_that_never_read_are_dropped_and_fifty_others_do_not_notice";
    let Some((_sim, daemon, server)) = rtsp_film(test, "bitrate_kbps = 8000\n", "") else { return };
    let url = format!("{server}/street");
    let mut stuck: Vec<TcpStream> = (0..10).map(|_| never_reads(&url)).collect();
    let silent = TcpStream::connect(server.trim_start_matches("rtsp://")).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stuck.push(silent);
    // Longer than a session lives by itself.
    let long = (
        std::thread::spawn({
            let url = url.clone();
            move || ffmpeg(&url, 450, "tcp")
        }),
        std::thread::spawn({
            let url = url.clone();
            move || other::watch(&url, ("", ""), 1, 450).remove(0)
        }),
    );
    let (before, inferred) =
        (memory(&daemon), || daemon.camera("street")["frames"]["inferred"].as_u64().unwrap());
    let analysed = inferred();
    let seen = other::watch(&url, ("", ""), 50, 200);
    let (analysed, grown) = (inferred() - analysed, memory(&daemon).saturating_sub(before));
    println!("50 viewers beside 10 that never read: {analysed} frames analysed, {grown} MiB more");
    for seen in seen {
        let seen = seen.expect("each of the others plays");
        assert!(seen.frames == 200 && seen.times_rise);
    }
    assert!(grown < 64, "{grown} MiB more");
    let camera = daemon.camera("street");
    assert_eq!((&camera["state"], &camera["frames"]["failed"]), (&"online".into(), &0.into()));
    // Before they read: who reads again in time is served again.
    let served = |socket: &TcpStream| {
        let (theirs, ours) = (socket.local_addr().unwrap().port(), socket.peer_addr().unwrap().port());
        connections().iter().any(|(local, remote, state)| (*local, *remote, &**state) == (ours, theirs, "01"))
    };
    until("all of them to be dropped", || (!stuck.iter().any(served)).then_some(()));
    // What the kernel had taken for them is still there; then their connections are at their end.
    for mut socket in stuck {
        let mut rest = Vec::new();
        (&mut socket).take(64 << 20).read_to_end(&mut rest).expect("it was closed");
        assert!(rest.len() < 64 << 20, "it still goes on");
    }
    assert_eq!(long.0.join().unwrap().expect("ffmpeg plays on").len(), 450 * 768 * 576);
    assert_eq!(long.1.join().unwrap().expect("retina plays on").frames, 450);
}

#[test]
fn a_viewer_who_comes_while_the_last_one_goes_is_served() {
    let _turn = turn();
    let test = "a_viewer_who_comes_while_the_last_one_goes_is_served";
    let Some((_sim, daemon, server)) = rtsp_film(test, "", "") else { return };
    for path in ["street", "street/raw"] {
        for turn in 0..30 {
            let seen = other::watch(&format!("{server}/{path}"), ("", ""), 1, 1).remove(0);
            assert!(seen.is_ok(), "{path}, viewer {turn}: {seen:?}");
        }
    }
    until("everybody to be gone", || {
        (metric(&daemon, "weir_video_viewers{camera=\"street\"}") == 0.0).then_some(())
    });
}

/// All connections, as the kernel lists them (proc_net(5)): local port, remote port, state; 01 is an open one.
fn connections() -> Vec<(u16, u16, String)> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = |field: &str| u16::from_str_radix(field.split(':').nth(1)?, 16).ok();
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((port(fields.get(1)?)?, port(fields.get(2)?)?, (*fields.get(3)?).to_owned()))
    };
    table.lines().filter_map(read).collect()
}

/// Those that the camera has.
fn connections_to(sim: &Sim) -> usize {
    let port = url::Url::parse(&sim.url).ok().and_then(|url| url.port()).expect("the url has a port");
    connections().iter().filter(|(local, _, state)| *local == port && state == "01").count()
}

/// The checksums of a video's pictures.
fn checksums(args: &[&str]) -> Result<Vec<String>, String> {
    let done = Command::new("ffmpeg").args(["-v", "error"]).args(args).args(["-f", "framemd5", "-"]).output();
    let done = done.expect("ffmpeg runs");
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.rsplit(',').next()).map(|sum| sum.trim().to_owned()).collect())
}

#[test]
fn raw_is_what_the_camera_sends_without_another_connection_to_it() {
    let _turn = turn();
    let test = "raw_is_what_the_camera_sends_without_another_connection_to_it";
    let Some((mut sim, daemon, server)) = rtsp_film(test, "", "max_fps = 2.0\n") else { return };
    let url = format!("{server}/street/raw");
    let file = daemon::street();
    let original = checksums(&["-i", file.to_str().unwrap()]).expect("the clip");
    let viewers: Vec<_> = ["tcp", "udp", "tcp"]
        .map(|transport| {
            let url = url.clone();
            std::thread::spawn(move || {
                checksums(&["-rtsp_transport", transport, "-i", &url, "-frames:v", "60"])
            })
        })
        .into();
    assert_eq!(connections_to(&sim), 1, "the daemon's own");
    for viewer in viewers {
        let sums = viewer.join().unwrap().expect("it plays");
        assert_eq!(sums.len(), 60);
        let strange = sums.iter().filter(|sum| !original.contains(sum)).count();
        // UDP may lose a packet on a busy machine.
        assert!(strange <= 6, "{strange} pictures are not the camera's");
        let distinct: std::collections::HashSet<_> = sums.iter().collect();
        assert!(distinct.len() > 50, "it moves: {}", distinct.len());
    }
    let tcp = checksums(&["-rtsp_transport", "tcp", "-i", &url, "-frames:v", "60"]).expect("it plays");
    assert!(tcp.iter().all(|sum| original.contains(sum)), "bit for bit");
    assert_eq!(encoded(&daemon, "street", "h264"), 0.0);
    assert_eq!(connections_to(&sim), 1);

    sim.kill();
    daemon.wait_state("street", "offline");
    assert!(ffmpeg(&url, 1, "tcp").unwrap_err().contains("503"), "there is nothing to send");
    assert!(ffmpeg(&format!("{server}/attic/raw"), 1, "tcp").unwrap_err().contains("404"));
    sim.restart();
    daemon.wait_state("street", "online");
    assert!(ffmpeg(&url, 10, "tcp").is_ok());
}

#[test]
fn raw_is_refused_where_something_is_hidden() {
    let _turn = turn();
    let test = "raw_is_refused_where_something_is_hidden";
    if !ready(test) {
        return;
    }
    let port = free_port();
    let sims: Vec<Sim> = (0..4).map(|_| Sim::start(&["--pattern", "ball", "--size", "320x240"])).collect();
    let mask = "masks.left.polygon = [[0, 0], [0.25, 0], [0.25, 1], [0, 1]]\n";
    let camera =
        |name: &str, sim: &Sim, more: &str| format!("[cameras.{name}]\nsource = {:?}\n{more}", sim.url);
    let cameras = [
        camera("masked", &sims[0], mask),
        camera("hiding", &sims[1], "hide = [\"person\"]\n"),
        camera("allowed", &sims[2], &format!("{mask}restream.raw_shows_hidden = true\n")),
        camera("off", &sims[3], "restream.raw = false\n"),
    ];
    let daemon = Daemon::start(&format!("[rtsp_server]\nbind = \"127.0.0.1:{port}\"\n{}", cameras.concat()));
    for camera in ["masked", "hiding", "allowed", "off"] {
        daemon.wait_state(camera, "online");
    }
    let raw = |camera: &str| ffmpeg(&format!("rtsp://127.0.0.1:{port}/{camera}/raw"), 2, "tcp");
    assert!(raw("masked").unwrap_err().contains("403"));
    assert!(raw("hiding").unwrap_err().contains("403"));
    assert!(raw("off").unwrap_err().contains("404"));
    assert_eq!(raw("allowed").expect("its operator says so").len(), 2 * 320 * 240);
    assert!(daemon.log().contains("raw_shows_hidden"), "the log says what would allow it");
    // What is painted is still hidden.
    let luma = ffmpeg(&format!("rtsp://127.0.0.1:{port}/allowed"), 1, "tcp").expect("it plays");
    assert!((60..240).all(|y| luma[y * 320 + 40] < 40), "the mask");
}

#[test]
fn always_encodes_for_nobody_at_its_own_rate_and_size() {
    let _turn = turn();
    let test = "always_encodes_for_nobody_at_its_own_rate_and_size";
    let camera =
        "[cameras.street.restream]\nalways = true\nmax_fps = 4.0\nmax_width = 320\nbitrate_kbps = 300\n";
    let Some((_sim, daemon, server)) = rtsp_film(test, "", camera) else { return };
    let count = || encoded(&daemon, "street", "h264");
    until("pictures without viewers", || (count() > 8.0).then_some(()));
    let (before, inferred) = (count(), || daemon.camera("street")["frames"]["inferred"].as_u64().unwrap());
    let analysed = inferred();
    until("forty frames", || (inferred() >= analysed + 40).then_some(()));
    let part = (count() - before) / (inferred() - analysed) as f64;
    println!("{part:.2} of the analysed frames are encoded");
    let luma = ffmpeg(&format!("{server}/street"), 4, "tcp").expect("it plays");
    assert_eq!(luma.len(), 4 * 320 * 240);
    let fps = daemon.camera("street")["fps_in"].as_f64().unwrap();
    assert!(part < 1.0 || fps < 4.5, "every frame is encoded, at {fps} frames a second");
}

#[test]
fn all_frames_are_shown_to_who_wants_all() {
    let _turn = turn();
    let test = "all_frames_are_shown_to_who_wants_all";
    let camera = "max_fps = 2.0\nrestream.show = \"all\"\n";
    let Some((_sim, daemon, server)) = rtsp_film(test, "", camera) else { return };
    let url = format!("{server}/street");
    let mut watching = viewer(&url);
    until("the stream", || (encoded(&daemon, "street", "h264") > 5.0).then_some(()));
    let counts = || {
        let frames = daemon.camera("street")["frames"].clone();
        let of = |fate: &str| frames[fate].as_u64().unwrap();
        (of("in"), of("inferred"), encoded(&daemon, "street", "h264"))
    };
    let before = counts();
    until("a hundred frames", || (counts().0 >= before.0 + 100).then_some(()));
    let after = counts();
    let (came, analysed, shown) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    println!("{came} frames came, {analysed} were analysed, {shown} shown");
    assert!(analysed * 2 < came, "it cannot be seen: {analysed} of {came}");
    assert!(shown > came as f64 * 0.85, "{shown} of {came}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    // An MJPEG viewer still sees analysed frames only.
    let mut stream = Stream::open(&daemon, "/api/v1/cameras/street/stream.mjpg?width=320");
    let (one, two) = (stream.next().seq.unwrap(), stream.next().seq.unwrap());
    assert!(two > one + 1, "{one} {two}: two frames a second are analysed");
}

#[test]
fn h265_goes_out_where_an_encoder_can_and_h264_elsewhere() {
    let _turn = turn();
    let test = "h265_goes_out_where_an_encoder_can_and_h264_elsewhere";
    let codec = |url: &str| {
        let probed = Command::new("ffprobe")
            .args(["-v", "error", "-rtsp_transport", "tcp", "-show_entries", "stream=codec_name"])
            .args(["-of", "csv=p=0", url])
            .output()
            .expect("ffprobe runs");
        String::from_utf8_lossy(&probed.stdout).trim().to_owned()
    };
    let h265 = "restream.codec = \"h265\"\n";
    let Some((sim, daemon, server)) = rtsp_film(test, "encoders = [\"x264enc\"]\n", h265) else { return };
    assert_eq!(codec(&format!("{server}/street")), "h264");
    assert!(daemon.log().contains("No encoder for H.265 works here: H.264 is sent instead"), "loudly");
    drop((sim, daemon));

    let Some((_sim, daemon, server)) = rtsp_film(test, "", h265) else { return };
    let devices: Value = serde_json::from_str(&daemon.get("/api/v1/devices").unwrap()).unwrap();
    if devices["video_encoder_h265"]["chosen"].is_null() {
        println!("skipped: {test}: no H.265 encoder here (Debian package `gstreamer1.0-plugins-bad`)");
        return;
    }
    assert_eq!(codec(&format!("{server}/street")), "hevc");
    // The probe has just gone: its stream is being taken down.
    let played = ffmpeg(&format!("{server}/street"), 10, "tcp").expect("it plays");
    assert_eq!(played.len(), 10 * 768 * 576);
    assert!(encoded(&daemon, "street", "h265") >= 10.0);
    assert_eq!(encoded(&daemon, "street", "h264"), 0.0);
    println!("H.265 by {}", devices["video_encoder_h265"]["chosen"]);
}

#[test]
fn retina_plays_it_and_fifty_of_its_sessions_cost_one_encode() {
    let _turn = turn();
    let test = "retina_plays_it_and_fifty_of_its_sessions_cost_one_encode";
    if !ready(test) {
        return;
    }
    let port = free_port();
    let file = daemon::street();
    let sim = Sim::start(&["--file", file.to_str().unwrap()]);
    let daemon = guarded(port, "street", &sim);
    let url = format!("rtsp://127.0.0.1:{port}/street");
    assert!(other::watch(&url, ("viewer", "wrong"), 1, 1)[0].is_err());
    let one = other::watch(&url, ("viewer", "s3cret"), 1, 20).remove(0).expect("retina plays it");
    assert_eq!((one.frames, one.size), (20, (768, 576)));
    assert!(one.begins_with_key_frame && one.times_rise && one.key_frames <= 3, "{one:?}");
    let raw = other::watch(&format!("{url}/raw"), ("viewer", "s3cret"), 1, 20).remove(0).expect("and raw");
    assert_eq!((raw.frames, raw.size), (20, (768, 576)));

    until("everybody to be gone", || {
        (metric(&daemon, "weir_video_viewers{camera=\"street\"}") == 0.0).then_some(())
    });
    let inferred = || daemon.camera("street")["frames"]["inferred"].as_u64().unwrap();
    let (before, analysed, held) = (encoded(&daemon, "street", "h264"), inferred(), memory(&daemon));
    let all = other::watch(&url, ("viewer", "s3cret"), 50, 40);
    let (count, frames) = (encoded(&daemon, "street", "h264") - before, inferred() - analysed);
    let grown = memory(&daemon).saturating_sub(held);
    println!("50 viewers, {frames} frames analysed, {count} encoded; memory {held} MiB + {grown}");
    for seen in all {
        let seen = seen.expect("each plays");
        assert!(seen.frames == 40 && seen.times_rise);
    }
    assert!(count >= 40.0 && count <= frames as f64 + 5.0, "{count} of {frames}");
    assert!(grown < 64, "{grown} MiB more");
}
