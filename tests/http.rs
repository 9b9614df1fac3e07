//! The HTTP interface, by a real client: what it says, and what it refuses.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "support/net.rs"]
mod net;
#[path = "support/wait.rs"]
mod wait;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use net::{Net, agent, get, get_json, limits, small};
use wait::until;
use weir::board::Link;
use weir::clock::Wall;
use weir::event::Video;
use weir::flow::curve::{Curve, Rung};
use weir::flow::pace::{Objective, Pace, Pacer};
use weir::frame::{CameraId, Fate};

#[test]
fn cameras_and_metrics_tell_the_same_ledger() {
    let net = Net::new(1_000, limits());
    let card = net.board.camera(CameraId(0));
    for _ in 0..10 {
        card.ledger.admit();
    }
    for fate in [Fate::Inferred, Fate::Inferred, Fate::Overrun] {
        card.ledger.settle(fate);
    }
    let video = Video { width: 1280, height: 720, fps: Some(25.0), codec: "h265".into() };
    card.set_link(Link::Online { video, since: Wall(1_767_225_600_000_000_000) });
    card.note_latency(net.clock.now(), Duration::from_millis(40));
    card.set_decode(weir::flow::thin::Level::KeyFrames);

    let (status, door) = get_json(&net.url("/api/v1/cameras/door"));
    assert_eq!(status, 200);
    assert_eq!(door["name"], "door");
    assert_eq!(door["state"], "online");
    assert_eq!(door["since"], "2026-01-01T00:00:00.000Z");
    assert_eq!(door["video"]["codec"], "h265");
    assert_eq!(door["latency_ms"]["p95"], 40.0);
    assert_eq!(door["decode"], "key_frames");
    let frames = serde_json::json!({
        "in": 10, "in_flight": 7, "inferred": 2, "overrun": 1, "stale": 0, "skipped": 0, "decode_error": 0, "failed": 0
    });
    assert_eq!(door["frames"], frames);
    let (_, all) = get_json(&net.url("/api/v1/cameras"));
    assert_eq!(all["cameras"].as_array().unwrap().len(), 2);
    assert_eq!(all["cameras"][1]["state"], "connecting");
    let (status, body) = get_json(&net.url("/api/v1/cameras/attic"));
    assert_eq!((status, &body["error"]["code"]), (404, &"no_such_camera".into()));

    // Frames keep coming; the measured rate appears once there are two readings of the counter.
    until("a frame rate", || {
        card.ledger.admit();
        get_json(&net.url("/api/v1/cameras/door")).1["fps_in"].as_f64().filter(|fps| *fps > 0.0)
    });
    let counted = card.ledger.read().frames_in as f64;
    assert_eq!(net.metric("weir_frames_in_total{camera=\"door\"}"), counted);
    assert_eq!(net.metric("weir_frames_total{camera=\"door\",fate=\"inferred\"}"), 2.0);
    assert_eq!(net.metric("weir_camera_online{camera=\"door\"}"), 1.0);
    assert_eq!(net.metric("weir_decode_level{camera=\"door\"}"), 2.0);
    net.stop();
}

/// Every answer is what `assets/weir.api-1.schema.json` says.
#[test]
fn answers_follow_the_schema_of_the_api() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../assets/weir.api-1.schema.json")).expect("the schema is JSON");
    let net = Net::new(1_000, limits());
    let card = net.board.camera(CameraId(0));
    card.ledger.admit();
    let video = Video { width: 1280, height: 720, fps: None, codec: "h265".into() };
    card.set_link(Link::Online { video, since: Wall(1_767_225_600_000_000_000) });
    card.note_latency(net.clock.now(), Duration::from_millis(40));
    let rungs = [Rung { frames: 1, service: Duration::from_millis(10) }];
    let objective =
        Objective { target: Duration::from_millis(100), max_wait: Duration::from_millis(30), max_batch: 4 };
    let pacer = Pacer::new(objective, Curve::new(&rungs));
    let flow = &net.board.flow;
    let answers = [
        ("/api/v1/cameras", "cameras"),
        ("/api/v1/flow", "flow"),
        ("/api/v1/devices", "devices"),
        ("/api/v1/events", "events"),
        ("/healthz", "healthz"),
        ("/readyz", "readyz"),
        ("/api/v1/cameras/nobody", "error"),
        ("/nowhere", "error"),
    ];
    for warm in [false, true] {
        if warm {
            flow.lane(0).publish(pacer.pace(), *pacer.curve());
        }
        for (path, kind) in answers {
            let (_, answer) = get_json(&net.url(path));
            let part =
                serde_json::json!({ "$ref": schema["properties"][kind]["$ref"], "$defs": schema["$defs"] });
            let validator = jsonschema::validator_for(&part).expect("the schema is one");
            let wrong: Vec<String> =
                validator.iter_errors(&answer).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(wrong.is_empty(), "{path}: {wrong:?} in {answer}");
        }
    }
    net.stop();
}

#[test]
fn health_and_readiness_say_what_is_wrong() {
    let net = Net::new(1_000, limits());
    assert_eq!(get(&net.url("/healthz")).0, 200);
    assert_eq!(get(&net.url("/readyz")).0, 200);
    net.missing.lock().unwrap().push("model".into());
    net.stuck.lock().unwrap().push("infer".into());
    let (status, ready) = get_json(&net.url("/readyz"));
    assert_eq!((status, &ready["missing"]), (503, &serde_json::json!(["model"])));
    let (status, alive) = get_json(&net.url("/healthz"));
    assert_eq!((status, &alive["stuck"]), (503, &serde_json::json!(["infer"])));
    net.stop();
}

#[test]
fn history_pages_through_the_log() {
    let net = Net::new(50, limits());
    for n in 0..80 {
        net.outbox.append(small(n));
    }
    let (_, page) = get_json(&net.url("/api/v1/events?after=10&limit=30"));
    let seqs = |page: &serde_json::Value| -> Vec<u64> {
        page["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(seqs(&page), (31..=60).collect::<Vec<_>>());
    assert_eq!((&page["lost"], &page["next"], &page["last"]), (&20.into(), &60.into(), &80.into()));
    let (_, page) = get_json(&net.url("/api/v1/events?after=60&camera=yard"));
    assert_eq!(seqs(&page), (61..=80).filter(|s| s % 2 == 0).collect::<Vec<_>>());
    assert_eq!((&page["lost"], &page["next"]), (&0.into(), &80.into()));
    let (_, none) = get_json(&net.url("/api/v1/events?kind=zone.dwell"));
    assert_eq!(seqs(&none), [0u64; 0]);
    net.stop();
}

#[test]
fn every_refusal_is_json_that_names_the_mistake() {
    let net = Net::new(1_000, limits());
    for (path, status, code, word) in [
        ("/nothing", 404, "not_found", "/nothing"),
        ("/api/v1/events?limit=0", 400, "bad_query", "1 to 1000"),
        ("/api/v1/events?limit=x", 400, "bad_query", "limit"),
        ("/api/v1/events?aftre=3", 400, "bad_query", "aftre"),
        ("/api/v1/events?camera=attic", 404, "no_such_camera", "attic"),
        ("/api/v1/events/stream?kind=track.exploded", 400, "no_such_kind", "track.started"),
    ] {
        let (got, body) = get_json(&net.url(path));
        assert_eq!((got, &body["error"]["code"]), (status, &code.into()), "{path}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(word), "{path}: {body}");
    }
    let bad = agent().get(net.url("/api/v1/events/stream")).header("Last-Event-ID", "x7").call().unwrap();
    assert_eq!(bad.status(), 400);
    let mut post = agent().post(net.url("/api/v1/cameras")).send_empty().unwrap();
    assert_eq!(post.status(), 405);
    assert!(post.body_mut().read_to_string().unwrap().contains("method_not_allowed"));
    assert!(get(&net.url("/")).1.contains("/api/v1/events/stream"));
    net.stop();
}

/// What the server says to these bytes before it closes; then the time-outs are the server's own.
fn raw(net: &Net, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(net.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = socket.read_to_end(&mut answer) {
        // A reset after the answer is as good as an end.
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection is still held");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn half_a_request_no_request_and_a_huge_one_do_not_hold_a_connection() {
    let net = Net::new(1_000, weir::http::Limits { header_read: Duration::from_millis(300), ..limits() });
    assert_eq!(raw(&net, b""), "", "idle");
    // hyper may say 408 first.
    let half = raw(&net, b"GET /healthz HT");
    assert!(half.is_empty() || half.starts_with("HTTP/1.1 408"), "{half}");
    let idle_after = raw(&net, b"GET /healthz HTTP/1.1\r\nHost: weir\r\n\r\n");
    assert!(idle_after.starts_with("HTTP/1.1 200"), "{idle_after}");
    let huge = format!("GET /healthz HTTP/1.1\r\nHost: weir\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let said = raw(&net, huge.as_bytes());
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    let body =
        raw(&net, b"POST /api/v1/cameras HTTP/1.1\r\nHost: weir\r\nContent-Length: 1000000000\r\n\r\nabc");
    assert!(body.starts_with("HTTP/1.1 405"), "answered without waiting for the body: {body}");
    net.stop();
}

#[test]
fn a_picture_before_the_engine_is_warm_is_asked_to_come_back() {
    let net = Net::new(1_000, limits());
    let post = |query: &str| agent().post(net.url(&format!("/api/v1/infer{query}"))).send(&b"x"[..]).unwrap();
    let mut early = post("");
    assert_eq!((early.status().as_u16(), &early.headers()["retry-after"]), (503, &"5".parse().unwrap()));
    assert!(early.body_mut().read_to_string().unwrap().contains("starting"));
    assert!(early.headers().get("x-slo-hint").is_none());
    assert_eq!(get(&net.url("/api/v1/infer")).0, 405);
    assert_eq!(post("?class=urgent").status(), 400);

    // Once the target is missed, every answer says what helps.
    let target = Duration::from_millis(100);
    let objective = Objective { target, max_wait: Duration::from_millis(30), max_batch: 1 };
    let pacer = Pacer::new(objective, Curve::new(&[Rung { frames: 1, service: Duration::from_millis(20) }]));
    net.board.flow.set_target(target);
    for (p95, hint) in [(99, false), (101, true)] {
        let pace = Pace { p95: Some(Duration::from_millis(p95)), ..pacer.pace() };
        net.board.flow.lane(0).publish(pace, *pacer.curve());
        let answer = post("");
        let said = answer.headers().get("x-slo-hint").map(|value| value.to_str().unwrap());
        assert_eq!(said, hint.then_some("reduce_delta"), "{p95} ms");
    }
    assert_eq!(net.metric("weir_requests_total{class=\"bulk\",outcome=\"unavailable\"}"), 3.0);
    assert_eq!(net.metric("weir_requests_pending{class=\"bulk\"}"), 0.0);
    net.stop();
}

#[test]
fn one_subscriber_too_many_is_asked_to_come_back() {
    let net = Net::new(1_000, weir::http::Limits { sse_clients: 1, ..limits() });
    let hold = agent().get(net.url("/api/v1/events/stream")).call().unwrap();
    assert_eq!(hold.status(), 200);
    let refused = agent().get(net.url("/api/v1/events/stream")).call().unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"5".parse().unwrap()));
    drop(hold);
    // The server notices at its next write.
    until("the freed place", || {
        net.outbox.append(small(0));
        let again = agent().get(net.url("/api/v1/events/stream")).call().unwrap();
        (again.status() == 200).then_some(())
    });
    net.stop();
}

#[test]
fn a_quiet_stream_is_kept_alive() {
    let net = Net::new(1_000, weir::http::Limits { sse_heartbeat: Duration::from_millis(50), ..limits() });
    for n in 0..5 {
        net.outbox.append(small(n));
    }
    let read = |query: &str, end: &str| {
        let mut socket = TcpStream::connect(net.address).unwrap();
        write!(socket, "GET /api/v1/events/stream{query} HTTP/1.1\r\nHost: weir\r\n\r\n").unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 1024]);
        while !text.contains(end) {
            let n = socket.read(&mut buffer).unwrap();
            assert!(n > 0, "the stream ended before {end:?}: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    read("", "\n:\n\n");
    // With a filter, the comment carries how far the log has been searched.
    read("?kind=zone.dwell&after=0", ":\nid: 5\n\n");
    net.stop();
}
