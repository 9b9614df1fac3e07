//! Events over a real broker and a real HTTP client: whole, in order, at least once, whatever dies in between.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/net.rs"]
mod net;
#[path = "support/wait.rs"]
mod wait;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use broker::{Broker, Gate, Message, Subscriber};
use net::{Frame, Net, every_kind, limits, mqtt_config, small};
use wait::until;
use weir::board::Link;
use weir::clock::{ManualClock, Wall};
use weir::config::Login;
use weir::event::{Reason, Video};
use weir::frame::CameraId;

fn schema() -> jsonschema::Validator {
    let text = include_str!("../assets/weir.event-1.schema.json");
    jsonschema::options()
        .should_validate_formats(true)
        .build(&serde_json::from_str(text).expect("the schema is JSON"))
        .expect("the schema is one")
}

fn seq(message: &Message) -> u64 {
    message.json()["seq"].as_u64().expect("every event has a seq")
}

/// Nothing lost, first deliveries in order, and what came twice came with the same id.
fn assert_at_least_once(messages: &[Message], n: u64) {
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    for message in messages {
        let (seq, id) = (seq(message), message.json()["id"].to_string());
        match first.get(&seq) {
            Some(known) => assert_eq!(known, &id, "event {seq} came twice with different ids"),
            None => {
                assert_eq!(seq, first.len() as u64 + 1, "first deliveries are in order");
                first.insert(seq, id);
            }
        }
    }
    assert_eq!(first.len() as u64, n);
}

#[test]
fn every_kind_arrives_alike_over_mqtt_and_sse() {
    let broker = Broker::open();
    let subscriber = Subscriber::new(broker.port);
    let mut net = Net::new(1_000, limits());
    let stream = net.sse("", None);
    net.mqtt(mqtt_config(broker.port));
    for draft in every_kind() {
        net.outbox.append(draft);
    }
    let n = every_kind().len();
    let frames = stream.wait_for(n);
    let messages = until("the MQTT events", || Some(subscriber.events()).filter(|m| m.len() >= n));
    assert_eq!((frames.len(), messages.len()), (n, n), "each once");

    let schema = schema();
    for (place, ((frame, message), draft)) in frames.iter().zip(&messages).zip(every_kind()).enumerate() {
        assert_eq!(frame.data, message.text(), "MQTT and SSE say the same");
        let event = message.json();
        let problems: Vec<String> = schema.iter_errors(&event).map(|e| e.to_string()).collect();
        assert!(problems.is_empty(), "{problems:?} in {event:#}");
        assert_eq!((&frame.id, &*frame.event), (&(place + 1).to_string(), draft.kind.name()));
        assert_eq!(event["seq"], place + 1);
        assert_eq!(event["kind"], draft.kind.name());
        assert_eq!(message.topic, format!("weir/n1/cameras/{}/events", draft.camera));
        assert!(!message.retain);
    }
    // The validator can say no.
    let mut wrong = messages[0].json();
    wrong["kind"] = "track.exploded".into();
    assert!(!schema.is_valid(&wrong));
    net.stop();
    assert!(stream.ended(), "the stream began with its retry time and ended with the daemon");
}

#[test]
fn a_broker_that_comes_late_gets_everything_in_order() {
    let mut broker = Broker::new("allow_anonymous true");
    let gate = Gate::shut(broker.port);
    let mut net = Net::new(10_000, limits());
    net.mqtt(mqtt_config(gate.port));
    for n in 0..500 {
        net.outbox.append(small(n));
    }
    until("a first attempt", || (gate.tried() > 0).then_some(()));
    assert_eq!(net.metric("weir_outbox_backlog_events{sink=\"mqtt\"}"), 500.0);
    broker.start();
    let subscriber = Subscriber::new(broker.port);
    gate.open();
    let messages = until("the backlog", || Some(subscriber.events()).filter(|m| m.len() >= 500));
    assert_eq!(messages.iter().map(seq).collect::<Vec<_>>(), (1..=500).collect::<Vec<_>>());
    until("the last answer", || (net.outbox.backlogs() == [("mqtt", 0)]).then_some(()));
    net.stop();
}

#[test]
fn a_killed_broker_loses_nothing_and_repeats_only_under_the_same_id() {
    const EVENTS: u64 = 3_000;
    let mut broker = Broker::open();
    let gate = Gate::shut(broker.port);
    gate.open();
    let subscriber = Subscriber::new(broker.port);
    let mut net = Net::new(100_000, limits());
    net.mqtt(mqtt_config(gate.port));
    for n in 0..EVENTS / 2 {
        net.outbox.append(small(n));
    }
    until("a part of them", || (subscriber.events().len() > 200).then_some(()));
    gate.close();
    broker.kill();
    for n in EVENTS / 2..EVENTS {
        net.outbox.append(small(n));
    }
    let mut got: Vec<Message> =
        subscriber.finish().into_iter().filter(|m| m.topic.ends_with("/events")).collect();
    broker.start();
    let subscriber = Subscriber::new(broker.port);
    gate.open();
    until("the rest", || subscriber.events().last().filter(|m| seq(m) == EVENTS).map(drop));
    got.extend(subscriber.events());
    assert_at_least_once(&got, EVENTS);
    net.stop();
}

#[test]
fn what_was_sent_and_not_answered_is_sent_again() {
    let broker = Broker::open();
    let gate = Gate::shut(broker.port);
    gate.open();
    let subscriber = Subscriber::new(broker.port);
    let mut net = Net::new(1_000, limits());
    net.mqtt(mqtt_config(gate.port));
    // "online" and the states of two cameras.
    until("the connection", || (subscriber.messages().len() == 3).then_some(()));
    gate.swallow(true);
    for n in 0..200 {
        net.outbox.append(small(n));
    }
    // A whole window of 16 is more than this; none of it reaches the broker.
    until("events on their way", || (gate.swallowed() > 2_000).then_some(()));
    assert_eq!(net.outbox.backlogs(), [("mqtt", 200)], "sent is not delivered");
    gate.close();
    gate.swallow(false);
    gate.open();
    let messages = until("them all", || Some(subscriber.events()).filter(|m| m.len() >= 200));
    assert_eq!(messages.iter().map(seq).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    net.stop();
}

#[test]
fn states_are_retained_and_follow_the_board() {
    let broker = Broker::open();
    let mut net = Net::new(1_000, limits());
    net.mqtt(mqtt_config(broker.port));
    let offline = Link::Offline {
        reason: Reason { code: "refused", message: "nothing listens".into() },
        since: Wall(1_767_225_600_000_000_000),
    };
    net.board.camera(CameraId(1)).set_link(offline);
    let watcher = Subscriber::new(broker.port);
    let newest = |of: &Subscriber, topic: &str| of.messages().into_iter().rfind(|m| m.topic == topic);
    until("the node to be online", || newest(&watcher, "weir/n1/status").filter(|m| m.text() == "online"));
    let state = until("the camera's state", || {
        newest(&watcher, "weir/n1/cameras/yard/status").map(|m| m.json()).filter(|j| j["state"] == "offline")
    });
    assert_eq!(state["reason"]["code"], "refused");
    assert_eq!(state["since"], "2026-01-01T00:00:00.000Z");
    assert!(state["video"].is_null());

    let video = Video { width: 640, height: 480, fps: None, codec: "h264".into() };
    net.board.camera(CameraId(1)).set_link(Link::Online { video, since: Wall(0) });
    until("the change", || {
        newest(&watcher, "weir/n1/cameras/yard/status").filter(|m| m.json()["state"] == "online")
    });

    // A late subscriber sees the truth from the broker's own memory.
    let late = Subscriber::new(broker.port);
    let state = until("the retained state", || newest(&late, "weir/n1/cameras/yard/status"));
    assert!(state.retain);
    assert_eq!(state.json()["video"]["width"], 640);
    net.stop();
    until("the farewell", || newest(&late, "weir/n1/status").filter(|m| m.text() == "offline"));
}

#[test]
fn an_abrupt_death_is_told_by_the_last_will() {
    let broker = Broker::open();
    let mut net = Net::new(1_000, limits());
    net.mqtt(mqtt_config(broker.port));
    let watcher = Subscriber::new(broker.port);
    let status =
        |word: &str| watcher.messages().iter().any(|m| m.topic == "weir/n1/status" && m.text() == word);
    until("the node to be online", || status("online").then_some(()));
    net.die();
    until("the last will", || status("offline").then_some(()));
}

#[test]
fn a_stop_delivers_what_is_left() {
    let broker = Broker::open();
    let subscriber = Subscriber::new(broker.port);
    let mut net = Net::new(10_000, limits());
    net.mqtt(mqtt_config(broker.port));
    for n in 0..1_000 {
        net.outbox.append(small(n));
    }
    let outbox = Arc::clone(&net.outbox);
    net.stop();
    assert_eq!(outbox.backlogs(), [("mqtt", 0)]);
    until("them all, then the farewell", || {
        let messages = subscriber.messages();
        (messages.last()?.text() == "offline").then_some(())
    });
    assert_at_least_once(&subscriber.events(), 1_000);
}

#[test]
fn a_refused_login_is_not_hammered() {
    let mut broker = Broker::new("allow_anonymous false");
    broker.start();
    let gate = Gate::shut(broker.port);
    gate.open();
    let mut net = Net::new(1_000, limits());
    let login = Some(Login { user: "weir".into(), password: "wrong".to_owned().into() });
    net.mqtt(weir::config::Mqtt { login, ..mqtt_config(gate.port) });
    until("the refusal", || (net.metric("weir_mqtt_errors_total{reason=\"auth\"}") >= 1.0).then_some(()));
    assert_eq!(gate.tried(), 1, "the next attempt is seconds away");
    net.stop();
}

#[test]
fn messages_that_an_access_list_refuses_are_counted_and_do_not_block() {
    let mut broker = Broker::new("");
    let dir = broker.dir().to_owned();
    std::fs::write(
        dir.join("acl"),
        "topic readwrite weir/n1/status\ntopic readwrite weir/n1/cameras/door/#\ntopic read #\n",
    )
    .unwrap();
    let conf = dir.join("mosquitto.conf");
    let more = format!("allow_anonymous true\nacl_file {}\n", dir.join("acl").display());
    std::fs::write(&conf, std::fs::read_to_string(&conf).unwrap() + &more).unwrap();
    broker.start();
    let subscriber = Subscriber::new(broker.port);
    let mut net = Net::new(1_000, limits());
    net.mqtt(mqtt_config(broker.port));
    for n in 0..10 {
        net.outbox.append(small(n));
    }
    until("every answer", || (net.outbox.backlogs() == [("mqtt", 0)]).then_some(()));
    let allowed = until("what is allowed", || Some(subscriber.events()).filter(|m| m.len() >= 5));
    assert_eq!(allowed.iter().map(seq).collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
    // Five events and one state of the camera `yard`.
    assert_eq!(net.metric("weir_mqtt_publishes_total{result=\"refused\"}"), 6.0);
    net.stop();
}

#[test]
fn a_broker_that_accepts_and_never_answers_is_left_with_a_bounded_window() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let published = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&published);
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        // CONNACK: success, no properties (MQTT 5 §3.2).
        socket.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = socket.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..n]);
            let needle = b"\"schema\":\"weir.event/1\"";
            counter.store(seen.windows(needle.len()).filter(|w| w == needle).count(), SeqCst);
        }
    });
    let clock = ManualClock::new();
    let mut net = Net::with_clock(1_000, limits(), Arc::new(clock.clone()));
    net.mqtt(mqtt_config(port));
    for n in 0..200 {
        net.outbox.append(small(n));
    }
    // "online" and two camera states take their places too.
    until("a full window", || (published.load(SeqCst) == 16 - 3).then_some(()));
    clock.advance(Duration::from_secs(21));
    until("the verdict", || {
        (net.metric("weir_mqtt_errors_total{reason=\"no_answer\"}") >= 1.0).then_some(())
    });
    assert_eq!(published.load(SeqCst), 16 - 3, "never more than max_inflight");
    net.stop();
}

/// A CA, and a certificate of it for the name `localhost` alone.
fn certificates(dir: &std::path::Path) {
    let run = |args: &str| {
        let args: Vec<&str> = args.split_whitespace().collect();
        let out = std::process::Command::new("openssl")
            .args(&args)
            .current_dir(dir)
            .output()
            .expect("openssl runs");
        assert!(out.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost").unwrap();
    for ca in ["ca", "stranger"] {
        run(&format!("req -x509 {key} -keyout {ca}.key -out {ca}.pem -days 2 -subj /CN={ca}"));
    }
    run(&format!("req {key} -keyout server.key -out server.csr -subj /CN=broker"));
    run(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem",
    );
}

#[test]
fn tls_delivers_to_the_right_broker_and_to_no_other() {
    let plain = broker::free_port();
    let mut broker = Broker::new(&format!(
        "certfile server.pem\nkeyfile server.key\nlistener {plain} 127.0.0.1\nallow_anonymous true"
    ));
    certificates(broker.dir());
    broker.start();
    let subscriber = Subscriber::new(plain);
    let with = |host: &str, ca: &str| weir::config::Mqtt {
        host: host.into(),
        tls: Some(weir::config::MqttTls { ca_file: Some(broker.dir().join(ca)) }),
        ..mqtt_config(broker.port)
    };

    for (host, ca) in [("127.0.0.1", "ca.pem"), ("localhost", "stranger.pem")] {
        let mut net = Net::new(1_000, limits());
        let before = net.metric("weir_mqtt_errors_total{reason=\"tls\"}");
        net.mqtt(with(host, ca));
        net.outbox.append(small(0));
        until("the refusal", || {
            (net.metric("weir_mqtt_errors_total{reason=\"tls\"}") > before).then_some(())
        });
        assert_eq!(net.outbox.backlogs(), [("mqtt", 1)], "{host} with {ca}");
        net.stop();
    }
    assert!(subscriber.messages().is_empty(), "nothing went to a broker that could not prove its name");

    let mut net = Net::new(1_000, limits());
    net.mqtt(with("localhost", "ca.pem"));
    net.outbox.append(small(0));
    until("the event", || Some(subscriber.events()).filter(|m| m.len() == 1));
    net.stop();
}

fn ids(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|f| f.id.parse().expect("ids are numbers")).collect()
}

#[test]
fn replay_by_last_event_id_is_exact() {
    let net = Net::new(100, limits());
    for n in 0..60 {
        net.outbox.append(small(n));
    }
    let from_40 = net.sse("", Some("40"));
    assert_eq!(ids(&from_40.wait_for(20)), (41..=60).collect::<Vec<_>>());
    let live = net.sse("", None);
    let by_query = net.sse("?after=58&camera=door", None);
    for n in 60..150 {
        net.outbox.append(small(n));
    }
    assert_eq!(ids(&from_40.wait_for(110)), (41..=150).collect::<Vec<_>>());
    assert_eq!(ids(&live.wait_for(90)), (61..=150).collect::<Vec<_>>());
    // `door` has the even n, which are the odd seq.
    assert_eq!(ids(&by_query.wait_for(46)), (59..=150).filter(|s| s % 2 == 1).collect::<Vec<_>>());

    // 1..=50 are gone by now: the gap is told, and the rest follows without a hole.
    let late = net.sse("", Some("7")).wait_for(101);
    assert_eq!((&*late[0].event, &*late[0].data), ("weir.gap", "{\"after\":7,\"lost\":43}"));
    assert_eq!(ids(&late), (50..=150).collect::<Vec<_>>());

    // A number from before a restart: everything, with a warning.
    let foreign = net.sse("", Some("9999")).wait_for(2);
    assert_eq!((&*foreign[0].event, &*foreign[0].data), ("weir.gap", "{\"after\":9999,\"lost\":null}"));
    net.stop();
}

#[test]
fn a_client_that_stops_reading_is_dropped_and_the_others_do_not_notice() {
    let impatient = http_limits_with_stall(Duration::from_millis(300));
    let net = Net::new(200_000, impatient);
    let mut slow = TcpStream::connect(net.address).unwrap();
    write!(slow, "GET /api/v1/events/stream HTTP/1.1\r\nHost: weir\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let fast = net.sse("", None);
    until("both clients", || (net.metric("weir_sse_clients") >= 2.0).then_some(()));
    // Enough to fill the kernel's buffers for one socket (4 MiB to send and 6 to receive by default), many times over.
    const EVENTS: u64 = 100_000;
    for n in 0..EVENTS {
        net.outbox.append(small(n));
    }
    until("the drop", || (net.metric("weir_sse_dropped_total") == 1.0).then_some(()));
    assert_eq!(ids(&fast.wait_for(EVENTS as usize)), (1..=EVENTS).collect::<Vec<_>>());
    drop(slow);
    net.stop();
    assert!(fast.ended());
}

fn http_limits_with_stall(write_stall: Duration) -> weir::http::Limits {
    weir::http::Limits { write_stall, ..limits() }
}
