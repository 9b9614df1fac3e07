//! A real mosquitto on a free loopback port, a subscriber, and a gate in front of the broker.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "in a test, a panic is the report")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};

use crate::wait::until;

/// A port that nothing used a moment ago, below the range that the kernel takes for outgoing connections:
/// one from it could be gone before mosquitto listens.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(15_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A mosquitto; killed and reaped when dropped.
pub struct Broker {
    pub port: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Broker {
    /// A broker with these lines of mosquitto.conf beside its listener, not yet started.
    pub fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        let port = free_port();
        let conf = format!(
            "listener {port} 127.0.0.1\npersistence false\nuser root\nmax_queued_messages 100000\nlog_type all\n{settings}\n"
        );
        std::fs::write(dir.path().join("mosquitto.conf"), conf).expect("the directory is ours");
        Broker { port, dir, child: None }
    }

    /// One that lets everybody in, started.
    pub fn open() -> Self {
        let mut broker = Broker::new("allow_anonymous true");
        broker.start();
        broker
    }

    /// Where files that the settings name may lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it and waits until it runs.
    pub fn start(&mut self) {
        // Debian keeps daemons out of a user's PATH.
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
        let child = Command::new("mosquitto")
            .env("PATH", path)
            .current_dir(self.dir.path())
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.dir.path().join("log")).expect("the directory is ours"))
            .spawn()
            .expect("mosquitto runs (Debian package `mosquitto`)");
        let child = self.child.insert(child);
        // Said once every listener is open.
        until("mosquitto to run", || {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let ended = child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "mosquitto ended ({ended:?}): {log}");
            log.lines().any(|l| l.ends_with(" running")).then_some(())
        });
    }

    /// SIGKILL: no goodbye, nothing saved.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let newest: Vec<&str> = log.lines().rev().take(40).collect();
            println!("mosquitto's last words, newest first:\n{}", newest.join("\n"));
        }
    }
}

/// A message as the subscriber got it.
#[derive(Clone, Debug)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

impl Message {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("we publish UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).expect("we publish JSON")
    }
}

/// Receives everything under `#`, until its connection is lost.
pub struct Subscriber {
    client: Client,
    messages: Arc<Mutex<Vec<Message>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Subscriber {
    /// Subscribed when this returns.
    pub fn new(port: u16) -> Self {
        Self::with_login(port, None)
    }

    /// The same for a broker that asks who we are.
    pub fn with_login(port: u16, login: Option<(&str, &str)>) -> Self {
        let mut options = MqttOptions::new(format!("test-{port}-{}", fastrand::u32(..)), "127.0.0.1", port);
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        let (client, mut connection) = Client::new(options, 10);
        // QoS 0, so that it never writes: a subscriber that acknowledges fails at its write when the broker is killed, and
        // with it goes what had already arrived. mosquitto hands a message on before it answers the publisher.
        client.subscribe("#", QoS::AtMostOnce).expect("the queue is empty");
        let messages: Arc<Mutex<Vec<Message>>> = Arc::default();
        let ready = Arc::new(AtomicBool::new(false));
        let (theirs, flag) = (Arc::clone(&messages), Arc::clone(&ready));
        let thread = std::thread::spawn(move || {
            let note = |event| match event {
                Event::Incoming(Packet::SubAck(_)) => flag.store(true, SeqCst),
                Event::Incoming(Packet::Publish(p)) => theirs.lock().unwrap().push(Message {
                    topic: String::from_utf8(p.topic.to_vec()).expect("topics are UTF-8"),
                    payload: p.payload.to_vec(),
                    retain: p.retain,
                }),
                _ => {}
            };
            while let Ok(Ok(event)) = connection.recv() {
                note(event);
            }
            // rumqttc reads in batches, and keeps the part before an error to itself.
            connection.eventloop.state.events.drain(..).for_each(note);
        });
        until("the subscription", || ready.load(SeqCst).then_some(()));
        Subscriber { client, messages, thread: Some(thread) }
    }

    /// Everything received so far.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }

    /// Events received so far, as JSON.
    pub fn events(&self) -> Vec<Message> {
        self.messages().into_iter().filter(|m| m.topic.ends_with("/events")).collect()
    }

    /// Waits for the connection's end and returns everything that came before it.
    pub fn finish(mut self) -> Vec<Message> {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the subscriber does not panic");
        }
        self.messages()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A TCP relay that can be shut: lets a test subscribe before the daemon reaches a broker that has just started.
pub struct Gate {
    pub port: u16,
    state: Arc<GateState>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct GateState {
    target: u16,
    open: AtomicBool,
    quit: AtomicBool,
    tried: AtomicUsize,
    swallow: AtomicBool,
    swallowed: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Gate {
    /// A shut gate in front of `target`.
    pub fn shut(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(GateState {
            target,
            open: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            tried: AtomicUsize::new(0),
            swallow: AtomicBool::new(false),
            swallowed: AtomicUsize::new(0),
            sockets: Mutex::default(),
        });
        let theirs = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if theirs.quit.load(SeqCst) {
                    return;
                }
                theirs.tried.fetch_add(1, SeqCst);
                if theirs.open.load(SeqCst)
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", theirs.target))
                {
                    relay(&theirs, &client, &server, true);
                    relay(&theirs, &server, &client, false);
                }
            }
        });
        Gate { port, state, thread: Some(thread) }
    }

    /// Lets new connections through.
    pub fn open(&self) {
        self.state.open.store(true, SeqCst);
    }

    /// Cuts what is connected and lets nothing more through.
    pub fn close(&self) {
        self.state.open.store(false, SeqCst);
        for socket in self.state.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// From now on (or no longer) what goes to the broker is lost on the way.
    pub fn swallow(&self, on: bool) {
        self.state.swallow.store(on, SeqCst);
    }

    /// Bytes lost so.
    pub fn swallowed(&self) -> usize {
        self.state.swallowed.load(SeqCst)
    }

    /// Connections that were asked for, let through or not.
    pub fn tried(&self) -> usize {
        self.state.tried.load(SeqCst)
    }
}

/// Copies one way until either end has gone.
fn relay(state: &Arc<GateState>, from: &TcpStream, to: &TcpStream, towards_broker: bool) {
    let copy = |s: &TcpStream| s.try_clone().expect("there are file descriptors left");
    state.sockets.lock().unwrap().push(copy(from));
    let (state, mut from, mut to) = (Arc::clone(state), copy(from), copy(to));
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if towards_broker && state.swallow.load(SeqCst) {
                state.swallowed.fetch_add(n, SeqCst);
            } else if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
        self.state.quit.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
