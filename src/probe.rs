//! Asks a camera whether it is there. RTSP: a TCP connection and an `OPTIONS` (RFC 2326 §10.1), nothing that needs a password.
//! USB: whether its device can be opened.
//!
//! A camera that is away for a minute is retried every 30 s; this question is cheap enough to be asked
//! each second, and cuts the wait short when the answer changes from silence to life.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
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
pub enum Probe {
    /// Of a camera in the network.
    Rtsp(RtspProbe),
    /// Of a USB camera that could not be opened: its device.
    Device(PathBuf),
}

impl Probe {
    /// A probe for a camera that failed so, when one could hasten its return: only where the link itself failed,
    /// for a camera that refuses us is not asked again and again, and an open USB device belongs to somebody.
    pub fn new(source: &Source, fault: &Fault) -> Option<Probe> {
        match source {
            _ if fault.retry != Retry::Soon => None,
            Source::Rtsp(rtsp) => Some(Probe::Rtsp(RtspProbe::new(&rtsp.url))),
            Source::V4l2 { device } if matches!(fault.reason, "not_found" | "denied") => {
                Some(Probe::Device(device.clone()))
            }
            _ => None,
        }
    }

    /// Asks when it is time, and looks for an answer. Blocks for half a second at most.
    pub fn ask(&mut self, now: Tick) -> Answer {
        match self {
            Probe::Rtsp(probe) => probe.ask(now),
            // Until it opens this costs one system call, so there is no need to wait between two questions.
            Probe::Device(device) if open_device(device).is_ok() => Answer::CameBack,
            Probe::Device(_) => Answer::Nothing,
        }
    }
}

fn open_device(device: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(device)
}

/// The probe of a camera in the network.
#[derive(Debug)]
pub struct RtspProbe {
    url: Url,
    waiting: Option<TcpStream>,
    /// When the open question was asked.
    asked: Option<Tick>,
    /// It was seen dead since the last attempt.
    dead: bool,
}

impl RtspProbe {
    /// A probe that has not asked yet.
    pub fn new(url: &Url) -> RtspProbe {
        RtspProbe { url: url.clone(), waiting: None, asked: None, dead: false }
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
        Source::V4l2 { device } => why_no_device(device, fault),
        _ => fault,
    }
}

/// GStreamer does not tell a device that is gone from one that is not allowed; opening it does.
fn why_no_device(device: &Path, fault: Fault) -> Fault {
    /// No such device or address: the file is there, what it stood for is not.
    const ENXIO: i32 = 6;
    /// No such device: as ENXIO, while a driver is being taken down.
    const ENODEV: i32 = 19;
    let path = device.display();
    let new = |reason, retry, message: String| Fault::new(Who::Camera, reason, message).retry(retry);
    if let Err(e) = open_device(device) {
        if e.kind() == ErrorKind::PermissionDenied {
            return new("denied", Retry::Soon, format!("weir may not open {path}")).remedy(format!(
                "its user must be in the device's group: `ls -l {path}`, then `usermod -aG video USER` and a restart; \
                 a systemd service needs SupplementaryGroups= and DeviceAllow= too, see weir.service"
            ));
        }
        if e.kind() == ErrorKind::NotFound || matches!(e.raw_os_error(), Some(ENXIO | ENODEV)) {
            return new("not_found", Retry::Soon, format!("there is no camera at {path}"))
                .remedy("plug it in; `ls /dev/video* /dev/v4l/by-id` lists the devices");
        }
    }
    match fault.reason {
        "not_found" => new("no_camera", Retry::Slowly, format!("{path} is not a device that delivers video"))
            .remedy("most cameras have several devices, of which one does: `v4l2-ctl --list-devices`, `ls /dev/v4l/by-id`"),
        "busy" => new("busy", Retry::Soon, format!("another program uses {path}"))
            .remedy(format!("`fuser -v {path}` says which; a device serves one program at a time")),
        "settings" => new("settings", Retry::Soon, format!("{path} does not start")).remedy(format!(
            "another program may use it (`fuser -v {path}` says which), or USB has no bandwidth left \
             (`journalctl -k` says so): plug cameras into different host ports, not into one hub"
        )),
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
        let mut probe = RtspProbe::new(&url(port));
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
        let mut probe = RtspProbe::new(&url(port));
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

    fn v4l2(device: PathBuf) -> Source {
        Source::V4l2 { device }
    }

    #[test]
    fn a_device_is_missed_until_it_is_there() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("video0");
        // However GStreamer puts it.
        let lost = Fault::new(Who::Camera, "connection", "the connection failed").retry(Retry::Soon);
        let fault = refine(&v4l2(path.clone()), lost.clone());
        assert_eq!((fault.reason, fault.retry), ("not_found", Retry::Soon));
        let mut probe = Probe::new(&v4l2(path.clone()), &fault).expect("it may be plugged in");
        assert_eq!(probe.ask(Tick::ZERO), Answer::Nothing);
        std::fs::write(&path, "").expect("written");
        assert_eq!(probe.ask(Tick::ZERO), Answer::CameBack);
        // Whatever else went wrong with a device that is there is not for us to explain, and no reason to open it.
        let fault = refine(&v4l2(path.clone()), lost);
        assert_eq!(fault.reason, "connection");
        assert!(Probe::new(&v4l2(path), &fault).is_none());
    }

    #[test]
    fn a_device_that_is_no_camera_is_called_so() {
        let fault =
            Fault::new(Who::Camera, "not_found", "there is nothing at this address").retry(Retry::Slowly);
        let fault = refine(&v4l2("/dev/null".into()), fault);
        assert_eq!((fault.reason, fault.retry), ("no_camera", Retry::Slowly));
        assert_eq!(fault.message, "/dev/null is not a device that delivers video");
    }
}
