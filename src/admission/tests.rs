use proptest::prelude::*;

use super::*;
use crate::flow::curve::{Curve, Rung};

fn machine() -> Machine {
    Machine {
        curve: Curve::new(&[Rung { frames: 1, service: Duration::from_millis(20) }]),
        batch: 1,
        cores: 2.0,
        engine_cores: 2.0,
        decode: Some(1e-9),
        nvdec: None,
        memory: None,
        gpu_memory: None,
        encoders: None,
    }
}

fn camera(fps: f64, priority: Priority) -> Demand {
    Demand { fps, weight: 1, priority }
}

#[test]
fn what_binds_and_what_each_gets() {
    // 50 fps on idle cores, half of them decode: 25 fps for 30 and 10.
    let demands = [camera(30.0, Priority::Realtime), camera(10.0, Priority::Realtime)];
    let judged = |demands, offered, decode| {
        judge(machine(), &Wanted { demands, offered, decode, nvdec: 0.0 }, 0.05, Standing::Fits)
    };
    let state = judged(&demands, 40.0, 1.0);
    assert!((state.rho - 1.6).abs() < 1e-9, "{}", state.rho);
    assert_eq!((state.standing, state.ceiling), (Standing::Degraded, Ceiling::Engine));
    assert_eq!(state.fair, [15.0, 10.0]);
    // Clients' pictures are load too.
    let state = judged(&demands[1..], 35.0, 0.0);
    assert!((state.rho - 0.7).abs() < 1e-9);
    assert_eq!(state.load.realtime, 35.0);
    // A GPU's decoders that are nearly always busy, beside an engine that is not.
    let asked = Wanted { demands: &demands[1..], offered: 10.0, decode: 0.0, nvdec: 0.9 };
    let state = judge(Machine { engine_cores: 0.0, ..machine() }, &asked, 0.05, Standing::Fits);
    assert_eq!((state.standing, state.ceiling), (Standing::Tight, Ceiling::Nvdec));
    // Decoding needs nearly all cores: it is to blame.
    let state = judged(&demands[1..], 10.0, 1.8);
    assert_eq!((state.standing, state.ceiling), (Standing::Degraded, Ceiling::Decode));
}

#[test]
fn a_pixels_cost_counts_only_what_the_gpu_decodes() {
    let report = |busy, decoders| Report { decoder_utilization_ratio: busy, decoders, ..Report::default() };
    let four = Arriving { cameras: 4, pixels: 1e8, starts: 4 };
    assert_eq!(four.nvdec_cost(&report(Some(0.5), 4)), Some(5e-9));
    // Half of the streams are decoded elsewhere: the other half cost it all.
    assert_eq!(four.nvdec_cost(&report(Some(0.5), 2)), Some(1e-8));
    for (arriving, report) in [
        (four, report(None, 4)),
        (four, report(Some(0.01), 4)),
        (four, report(Some(0.5), 0)),
        (Arriving::default(), report(Some(0.5), 4)),
    ] {
        assert_eq!(arriving.nvdec_cost(&report), None);
    }
    // Only of cameras that were there a while ago too.
    assert!(four.is_like(&Arriving { pixels: 0.95e8, ..four }));
    assert!(!four.is_like(&Arriving { pixels: 0.85e8, ..four }));
    assert!(!four.is_like(&Arriving { cameras: 3, ..four }));
    // Others came and went meanwhile.
    assert!(!four.is_like(&Arriving { starts: 14, ..four }));
}

/// A camera of 320×240, so many frames a second.
fn asked(fps: f64, priority: Priority) -> Asked {
    let stream = Stream { fps, inferred: fps, pixels: 320.0 * 240.0, ring: Duration::from_millis(300) };
    Asked { stream, count: 1, priority, encoded: 0 }
}

#[test]
fn who_was_let_in_counts_until_it_has_been_seen() {
    let board = Board::new(["one".into(), "two".into()]);
    let admission = Admission::default();
    // 35 fps are left, which is one camera of 20.
    let state = judge(
        machine(),
        &Wanted { demands: &[], offered: 0.0, decode: 0.0, nvdec: 0.0 },
        0.05,
        Standing::Fits,
    );
    *admission.lock() = Inner { state: Some(state.clone()), lanes: vec![Some(state)], ..Inner::default() };
    let says = |asked: &Asked| admission.ask(asked, &board).expect("it is warm").0;
    let (realtime, bulk) = (asked(20.0, Priority::Realtime), asked(20.0, Priority::Bulk));
    assert_eq!((says(&realtime), says(&bulk)), (Verdict::Accept, Verdict::Accept));

    admission.let_in(CameraId(0), &realtime, None);
    assert_eq!((says(&realtime), says(&bulk)), (Verdict::AcceptAt(14.9), Verdict::AcceptAt(14.9)));
    // Bulk yields to realtime, but for its share.
    admission.let_in(CameraId(1), &bulk, Some(14.0));
    assert!(matches!(says(&bulk), Verdict::Refuse { .. }));
    assert!(matches!(says(&realtime), Verdict::AcceptAt(fps) if fps > 13.0));

    // The first look after it is online sees a part of its frames in its window, the next one all.
    let look = |came: f64| {
        admission.lock().coming.retain(|id, coming| coming.look(board.camera(*id), came));
    };
    board.camera(CameraId(1)).set_link(Link::Removed);
    look(0.0);
    assert_eq!(says(&bulk), Verdict::AcceptAt(14.9), "one is gone, the other still connects");
    let video = crate::event::Video { width: 320, height: 240, fps: Some(20.0), codec: "h264".to_owned() };
    board.camera(CameraId(0)).set_link(Link::Online { video, since: crate::clock::Wall(0) });
    look(8.0);
    assert!(matches!(says(&bulk), Verdict::Accept), "12 of its 20 frames are still to come");
    assert!(!admission.lock().coming.is_empty());
    look(20.0);
    assert!(admission.lock().coming.is_empty());
}

proptest! {
    /// A load that trembles by less than the hysteresis changes the verdict at most once.
    #[test]
    fn the_verdict_does_not_flap(middle in 0.0f64..1.5, noise in proptest::collection::vec(-0.024f64..0.024, 2..50)) {
        let mut standing = Standing::Fits.next(middle);
        let mut changes = 0;
        for off in noise {
            let next = standing.next(middle + off);
            changes += u32::from(next != standing);
            standing = next;
        }
        prop_assert!(changes <= 1, "{changes} changes around {middle}");
    }

    /// It is never milder than the load, and at most one hysteresis harsher.
    #[test]
    fn the_verdict_follows_the_load(before in 0usize..3, rho in 0.0f64..3.0) {
        let standing = Standing::ALL[before].next(rho);
        let least = if rho <= 0.7 { 0 } else if rho <= 1.0 { 1 } else { 2 };
        let most = if rho <= 0.65 { 0 } else if rho <= 0.95 { 1 } else { 2 };
        prop_assert!((least..=most).contains(&(standing as usize)));
    }
}
