//! Asks an RTSP camera whether it is there: a TCP connection and an `OPTIONS` (RFC 2326 §10.1), nothing that needs a password.
//!
//! A camera that is away for a minute is retried every 30 s; this question is cheap enough to be asked
//! each second, and cuts the wait short when the answer changes from silence to life.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use url::Url;

use crate::clock::Tick;
use crate::config::Source;
use crate::fault::{Fault, Retry, Who};

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);
/// For the TCP handshake.
const CONNECT: Duration = Duration::from_millis(500);
/// For the answer, each time somebody looks.
const READ: Duration = Duration::from_millis(50);

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No answer, or it has answered all along: nothing new.
    Nothing,
    /// It was silent and answers now.
    CameBack,
}

/// One camera's probe.
#[derive(Debug)]
pub struct Probe {
    url: Url,
    waiting: Option<TcpStream>,
    /// When the open question was asked.
    asked: Option<Tick>,
    /// It was seen dead since the last attempt.
    dead: bool,
}

impl Probe {
    /// A probe that has not asked yet.
    pub fn new(url: &Url) -> Probe {
        Probe { url: url.clone(), waiting: None, asked: None, dead: false }
    }

    /// Asks when it is time, and looks for an answer. Blocks for half a second at most.
    pub fn ask(&mut self, now: Tick) -> Answer {
        if self.waiting.is_none() {
            if self.asked.is_some_and(|at| now.since(at) < EVERY) {
                return Answer::Nothing;
            }
            self.asked = Some(now);
            match question(&self.url) {
                // A TLS server answers no plain question; that it accepts is answer enough.
                Ok(_) if self.url.scheme() == "rtsps" => return self.alive(),
                Ok(stream) => self.waiting = Some(stream),
                Err(_) => self.dead = true,
            }
            return Answer::Nothing;
        }
        let mut reply = [0; 64];
        let read = self.waiting.as_mut().map_or(Ok(0), |s| s.read(&mut reply));
        match read {
            Ok(n) if n > 0 => {
                self.waiting = None;
                self.alive()
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                // The kernel accepts for a frozen process: silence on an open connection is death too.
                // The question stays open, so that a thawed camera answers at once.
                if self.asked.is_some_and(|at| now.since(at) >= EVERY) {
                    self.dead = true;
                }
                Answer::Nothing
            }
            Ok(_) | Err(_) => {
                self.waiting = None;
                self.dead = true;
                Answer::Nothing
            }
        }
    }

    fn alive(&mut self) -> Answer {
        if std::mem::take(&mut self.dead) { Answer::CameBack } else { Answer::Nothing }
    }
}

fn address(url: &Url) -> std::io::Result<SocketAddr> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port().unwrap_or(if url.scheme() == "rtsps" { 322 } else { 554 });
    (host, port).to_socket_addrs()?.next().ok_or_else(|| ErrorKind::NotFound.into())
}

fn question(url: &Url) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address(url)?, CONNECT)?;
    stream.set_read_timeout(Some(READ))?;
    stream.set_write_timeout(Some(CONNECT))?;
    if url.scheme() != "rtsps" {
        stream
            .write_all(format!("OPTIONS {url} RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: weir\r\n\r\n").as_bytes())?;
    }
    Ok(stream)
}

/// Says more about a source that could not be opened than GStreamer can.
pub fn refine(source: &Source, fault: Fault) -> Fault {
    match source {
        Source::Rtsp(rtsp) if matches!(fault.reason, "unreachable" | "connection") => {
            why_unreachable(&rtsp.url).unwrap_or(fault)
        }
        Source::V4l2 { device } if fault.reason == "not_found" => {
            let message = format!("there is no camera at {}", device.display());
            Fault::new(Who::Camera, "not_found", message)
                .retry(fault.retry)
                .remedy("plug it in; `ls /dev/video*` lists the devices")
        }
        _ => fault,
    }
}

/// Why no connection can be made; `None` when one can.
pub fn why_unreachable(url: &Url) -> Option<Fault> {
    let host = url.host_str().unwrap_or_default();
    let fault = |reason, message: String| Some(Fault::new(Who::Camera, reason, message).retry(Retry::Soon));
    let address = match address(url) {
        Ok(address) => address,
        Err(e) => return fault("unknown_host", format!("the host name {host} cannot be resolved: {e}")),
    };
    match TcpStream::connect_timeout(&address, CONNECT) {
        Ok(_) => None,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            fault("refused", format!("nothing listens at {address}"))
        }
        Err(e) if e.kind() == ErrorKind::TimedOut => fault("timeout", format!("{address} does not answer")),
        Err(e) => fault("unreachable", format!("{address} cannot be reached: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn url(port: u16) -> Url {
        Url::parse(&format!("rtsp://127.0.0.1:{port}/x")).expect("a valid address")
    }

    #[test]
    fn a_camera_that_comes_back_is_noticed_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let mut probe = Probe::new(&url(port));
        assert_eq!(probe.ask(Tick::ZERO), Answer::Nothing);
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the same port again");
        let server = std::thread::spawn(move || {
            let (mut s, _) = listener.accept().expect("the probe connects");
            let mut request = [0; 512];
            let n = s.read(&mut request).expect("the probe asks");
            assert!(request[..n].starts_with(b"OPTIONS rtsp://127.0.0.1"));
            s.write_all(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n").expect("the probe listens");
        });
        assert_eq!(probe.ask(Tick::from_millis(500)), Answer::Nothing, "not yet time to ask");
        assert_eq!(probe.ask(Tick::from_millis(1000)), Answer::Nothing, "asked, not answered");
        let answer = (0..100).map(|_| probe.ask(Tick::from_millis(1001))).find(|a| *a == Answer::CameBack);
        assert_eq!(answer, Some(Answer::CameBack));
        server.join().expect("the server saw what it expected");
    }

    #[test]
    fn a_camera_that_was_never_away_does_not_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let server = std::thread::spawn(move || {
            let (mut s, _) = listener.accept().expect("the probe connects");
            s.write_all(b"RTSP/1.0 200 OK\r\n\r\n").expect("the probe listens");
            let _ = s.read(&mut [0; 512]);
        });
        let mut probe = Probe::new(&url(port));
        for _ in 0..3 {
            assert_eq!(probe.ask(Tick::ZERO), Answer::Nothing);
        }
        server.join().expect("the server ends");
    }

    #[test]
    fn a_closed_port_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        assert_eq!(why_unreachable(&url(port)).map(|f| f.reason), Some("refused"));
    }
}
