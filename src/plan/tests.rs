use super::*;
use crate::flow::curve::{Curve, Rung};

/// 20 ms a frame on four cores, of which the engine has one; a megapixel is decoded in 10 ms.
fn measured(there: &[Sends]) -> Measured {
    let machine = Machine {
        curve: Curve::new(&[Rung { frames: 1, service: Duration::from_millis(20) }]),
        batch: 1,
        cores: 4.0,
        engine_cores: 1.0,
        decode: Some(10e-9),
        nvdec: None,
        memory: None,
        gpu_memory: None,
        encoders: None,
    };
    Measured {
        source: "calibrated",
        model: None,
        engine: None,
        machine,
        decode_from: Some("file"),
        notes: Vec::new(),
        resident: None,
        gpus: 0,
        gpu_resident: None,
        count: there.len() as u32,
        there: there.to_vec(),
    }
}

const LIMITS: Limits =
    Limits { max_batch: 32, target: Duration::from_millis(100), ring: Duration::from_millis(300) };

fn planned(there: &[Sends], wanted: &Wanted) -> Plan {
    plan(measured(there), wanted, LIMITS, None)
}

const LARGE: Sends = Sends { fps: 25.0, inferred: 5.0, width: 2000, height: 1000 };
const SMALL: Sends = Sends { fps: 10.0, inferred: 10.0, width: 500, height: 400 };

#[test]
fn each_camera_counts_as_what_it_is() {
    let plan = planned(&[LARGE, SMALL, SMALL], &Wanted::default());
    // 25 of 50 frames a second are inferred; decoding takes 0.54 of the three cores that the engine leaves.
    let now = plan.outlook.iter().find(|o| o.cameras == 3).expect("what is there");
    assert!((now.rho - 0.5).abs() < 1e-9, "{}", now.rho);
    // 35 are planned for: four of them.
    assert_eq!(plan.fit, (4, Ceiling::Engine));
    let decode = plan.alone.iter().find(|(ceiling, _)| *ceiling == Ceiling::Decode).and_then(|(_, n)| *n);
    // 2.8 of the cores, and 0.18 a camera.
    assert_eq!(decode, Some(15));
    let text = plan.to_text();
    for line in [
        "cameras   2 of 500×400 at 10.0 frames/s\n",
        "          1 of 2000×1000 at 25.0 frames/s, 5.0 are inferred\n",
        "fit       4 cameras of 1.20 megapixels at 8.3 frames/s in the mean; the next one meets the engine ceiling\n",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    let json = plan.to_json();
    assert_eq!(json["cameras"]["width"], serde_json::Value::Null);
    assert_eq!(json["cameras"]["kinds"][1]["inferred_fps"], 5.0);
}

#[test]
fn what_the_command_line_says_goes_before_what_the_cameras_send() {
    let there = [LARGE, SMALL, SMALL];
    let more = planned(&there, &Wanted { count: Some(6), ..Wanted::default() });
    let six = more.outlook.iter().find(|o| o.cameras == 6).expect("what was asked");
    assert!((six.rho - 1.0).abs() < 1e-9, "as many of each kind as there are now: {}", six.rho);
    let all = Wanted { count: None, fps: Some(2.0), size: Some((640, 480)) };
    let alike = planned(&there, &all).cameras;
    assert_eq!(alike.send, [Sends::new(2.0, None, (640, 480))]);
    assert_eq!(alike.count, 3);
    // Of nobody anything is known.
    let usual = planned(&[], &Wanted::default()).cameras;
    assert_eq!((usual.count, usual.send), (1, vec![USUAL]));
}

#[test]
fn latency_is_that_of_the_cameras_whose_frames_count() {
    // One of a hundred frames is large.
    let large = |inferred: f64| Cameras { count: 2, send: vec![SMALL, Sends { inferred, ..LARGE }] };
    assert_eq!((large(0.1).large(), large(1.0).large()), (200_000.0, 2_000_000.0));
}
