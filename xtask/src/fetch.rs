//! One file over HTTP(S) to a path. What it should be is [`Cache`](crate::cache::Cache)'s to judge.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// No model is larger.
const MOST_BYTES: u64 = 4 << 30;

/// Writes what `url` answers to `to`. An answer that ends before its Content-Length is an error.
pub fn download(url: &str, to: &Path) -> anyhow::Result<()> {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .build();
    let mut answer = ureq::Agent::new_with_config(config)
        .get(url)
        .header("accept-encoding", "identity")
        .call()
        .with_context(|| format!("cannot fetch {url}"))?;
    let mut file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut body = answer.body_mut().with_config().limit(MOST_BYTES).reader();
    // ureq compares with the Content-Length: a test holds it to that.
    io::copy(&mut body, &mut file).with_context(|| format!("{url} broke off"))?;
    file.flush()?;
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// Answers every request on a loopback port with these bytes, then closes.
    pub fn serve(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for line in lines {
                    if line.unwrap().is_empty() {
                        break;
                    }
                }
                // The client may have given up: that is its test's business.
                let _ = stream.write_all(&answer);
            }
        });
        format!("http://127.0.0.1:{port}/m.onnx")
    }

    pub fn ok(body: &str, length: usize) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into()
    }

    #[test]
    fn a_whole_answer_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("m");
        download(&serve(ok("weights", 7)), &to).unwrap();
        assert_eq!(std::fs::read(to).unwrap(), b"weights");
    }

    #[test]
    fn a_truncated_answer_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = download(&serve(ok("weig", 7)), &dir.path().join("m")).unwrap_err();
        assert!(error.to_string().contains("broke off"), "{error:#}");
    }

    #[test]
    fn not_found_is_an_error_and_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("m");
        let url =
            serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno".to_vec());
        let error = format!("{:#}", download(&url, &to).unwrap_err());
        assert!(error.contains("404") && error.contains("cannot fetch"), "{error}");
        assert!(!to.exists());
    }
}
