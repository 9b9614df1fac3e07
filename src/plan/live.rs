//! Reads what a running daemon has measured: `/api/v1/flow` and `/api/v1/cameras`.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::{Limits, Measured, Sends};
use crate::fault::{Fault, Retry, Who};
use crate::flow::capacity::Machine;
use crate::flow::curve::{Curve, Rung};

/// For each step of a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any answer of ours: 2,000 cameras are 2 MB, and with fine histograms 30 MB.
const MOST_BYTES: u64 = 64 << 20;

/// Measurements of the daemon at `url`, and its limits as far as it tells them.
///
/// # Errors
/// When it cannot be reached, is not a weir, or its engine is not warm.
pub fn read(url: &str) -> Result<(Measured, Limits), Fault> {
    let base =
        Url::parse(url).ok().filter(|u| u.scheme() == "http" && u.host_str().is_some()).ok_or_else(|| {
            Fault::new(Who::Config, "url", format!("{url} is not an address of the form http://HOST:PORT"))
        })?;
    let flow = get(&base, "/api/v1/flow")?;
    let cameras = get(&base, "/api/v1/cameras")?;
    of(&flow, &cameras).map_err(|missing| {
        Fault::new(Who::Device, "not_ready", format!("{url} does not say {missing} yet"))
            .retry(Retry::Soon)
            .remedy("its engine must be warm and its cameras have run for ten seconds: ask again soon")
    })
}

/// What is missing is named.
fn of(flow: &Value, cameras: &Value) -> Result<(Measured, Limits), &'static str> {
    let number = |value: &Value, what: &'static str| value.as_f64().ok_or(what);
    let ms = |value: f64| Duration::from_secs_f64((value / 1e3).max(0.0));
    let rungs = flow["service"].as_array().ok_or("S(b)")?;
    let rungs = rungs.iter().map(|rung| {
        let frames = rung["frames"].as_u64().filter(|n| *n > 0).ok_or("S(b)")? as usize;
        Ok(Rung { frames, service: ms(number(&rung["ms"], "S(b)")?) })
    });
    let mut rungs = rungs.collect::<Result<Vec<Rung>, &str>>()?;
    rungs.sort_by_key(|rung| rung.frames);
    rungs.dedup_by_key(|rung| rung.frames);
    let admission = &flow["admission"];
    let decode_load = number(&admission["decode_cores"], "what decoding costs")?;
    // One of the GPUs with its part of what all share.
    let gpus =
        flow["lanes"].as_array().into_iter().flatten().filter(|lane| lane["gpu"].is_u64()).count() as u32;
    let share = f64::from(gpus.max(1));
    let machine = Machine {
        // A GPU's engine runs its batch sizes and none between.
        curve: if gpus > 0 { Curve::new(&rungs).padded() } else { Curve::new(&rungs) },
        batch: rungs.last().map_or(1, |rung| rung.frames),
        cores: number(&admission["cores"], "how many cores it has")? / share,
        engine_cores: number(&admission["engine_cores"], "how many cores it has")?,
        decode: admission["decode_ns_per_pixel"].as_f64().map(|ns| ns * 1e-9),
        nvdec: admission["nvdec_ns_per_pixel"].as_f64().map(|ns| ns * 1e-9),
        memory: admission["memory_available_mb"].as_f64().map(|mb| mb * 1e6 / share),
        gpu_memory: admission["gpu_memory_available_mb"].as_f64().map(|mb| mb * 1e6 / share),
        encoders: None,
    };
    // It measures S(b) beside the decoding that it does.
    let machine = Machine { curve: machine.curve.scaled(1.0 - machine.taken(decode_load)), ..machine };
    let all: Vec<&Value> = cameras["cameras"].as_array().into_iter().flatten().collect();
    let sends = |camera: &&Value| {
        // As exact as five seconds can be, so that cameras that are alike look alike.
        let fps = camera["fps_in"]
            .as_f64()
            .filter(|fps| *fps > 0.0)
            .map(|fps| (2.0 * fps).round().max(1.0) / 2.0)?;
        let side = |name: &str| camera["video"][name].as_u64().and_then(|n| u32::try_from(n).ok());
        Some(Sends::new(fps, camera["max_fps"].as_f64(), (side("width")?, side("height")?)))
    };
    let there: Vec<Sends> = all.iter().filter_map(sends).collect();
    let mut notes = vec![format!(
        "the daemon's load is {:.2} now; its verdict: {}",
        admission["rho"].as_f64().unwrap_or(0.0),
        admission["verdict"].as_str().unwrap_or("unknown")
    )];
    if there.len() < all.len() {
        let (silent, all) = (all.len() - there.len(), all.len());
        let sends = if there.is_empty() { "1920×1080 at 25 frames/s" } else { "what the others do" };
        notes.push(format!(
            "{silent} of {all} cameras sent nothing lately, and count as if they sent {sends}"
        ));
    }
    if machine.decode.is_none() {
        notes.push("no camera delivers, so the cost of decoding is not known".to_owned());
    }
    let measured = Measured {
        source: "live",
        model: None,
        engine: None,
        decode_from: machine.decode.map(|_| "live"),
        machine,
        notes,
        resident: None,
        gpus,
        gpu_resident: None,
        count: all.len() as u32,
        there,
    };
    let target = ms(number(&flow["slo_p95_ms"], "its target")?);
    let ring = all.iter().filter_map(|camera| camera["ring_ms"].as_f64()).fold(0.0, f64::max);
    Ok((
        measured,
        Limits { max_batch: machine.batch, target, ring: ms(if ring > 0.0 { ring } else { 300.0 }) },
    ))
}

fn get(base: &Url, path: &str) -> Result<Value, Fault> {
    let not_weir = || {
        Fault::new(
            Who::Device,
            "unreachable",
            format!("{base}{path}: that is no weir: its answer is not JSON"),
        )
    };
    serde_json::from_str(&fetch(base, path)?).map_err(|_| not_weir())
}

/// The body of one GET (RFC 9112), without TLS, proxies or redirects: a daemon is asked directly.
///
/// # Errors
/// When nobody answers, or with another status than 200.
pub(crate) fn fetch(base: &Url, path: &str) -> Result<String, Fault> {
    let host = base.host_str().unwrap_or_default();
    let port = base.port_or_known_default().unwrap_or(80);
    let fault = |what: String| {
        Fault::new(Who::Device, "unreachable", format!("{host}:{port}{path}: {what}"))
            .remedy("is weir running there? `[http] bind` of its configuration says where it listens")
    };
    let io = |e: std::io::Error| fault(e.to_string());
    let address = (host.trim_matches(['[', ']']), port).to_socket_addrs().map_err(io)?.next();
    let address = address.ok_or_else(|| fault("no such host".to_owned()))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(io)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .map_err(io)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).map_err(io)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| fault("that is no HTTP".to_owned()))?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(fault(format!("it answered {}", head.lines().next().unwrap_or_default())));
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_daemons_curve_is_freed_of_the_decoding_beside_it() {
        let flow = json!({
            "slo_p95_ms": 80.0,
            "service": [{ "frames": 1, "ms": 40.0 }, { "frames": 2, "ms": 70.0 }],
            "admission": {
                "rho": 0.4, "verdict": "fits", "cores": 4.0, "engine_cores": 4.0, "decode_cores": 1.0,
                "decode_ns_per_pixel": 2.5, "memory_available_mb": 1000.0,
            },
        });
        let camera = |fps: f64, max: Option<f64>| json!({ "fps_in": fps, "max_fps": max, "ring_ms": 10.0 * fps, "video": { "width": 640, "height": 480 } });
        let silent = json!({ "fps_in": null, "video": null });
        let cameras = json!({ "cameras": [camera(10.0, None), camera(20.0, Some(5.0)), silent] });
        let (measured, limits) = of(&flow, &cameras).unwrap();
        // A quarter of the cores decodes: S(b) on idle cores is three quarters.
        assert_eq!(measured.machine.curve.service(1), Duration::from_millis(30));
        let sends = |fps: f64, max: Option<f64>| Sends::new(fps, max, (640, 480));
        assert_eq!(measured.count, 3);
        assert_eq!(measured.there, [sends(10.0, None), sends(20.0, Some(5.0))]);
        assert_eq!(measured.notes.len(), 2, "a third sends nothing: {:?}", measured.notes);
        assert_eq!((limits.max_batch, limits.target), (2, Duration::from_millis(80)));
        assert_eq!(limits.ring, Duration::from_millis(200));
        let mut cold = flow;
        cold["admission"] = Value::Null;
        assert!(of(&cold, &cameras).is_err());
    }
}
