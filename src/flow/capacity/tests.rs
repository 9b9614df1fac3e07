use proptest::prelude::*;

use super::*;
use crate::flow::curve::Rung;

fn curve(rungs: &[(usize, f64)]) -> Curve {
    let rung = |&(frames, ms): &(usize, f64)| Rung { frames, service: Duration::from_secs_f64(ms / 1e3) };
    Curve::new(&rungs.iter().map(rung).collect::<Vec<_>>())
}

const FULL_HD: f64 = 1920.0 * 1080.0;

fn stream(fps: f64) -> Stream {
    Stream { fps, inferred: fps, pixels: FULL_HD, ring: Duration::from_millis(300) }
}

/// Two cores, 20 ms a frame, 4.9 ms of decoding a 1080p frame.
fn cpu() -> Machine {
    Machine {
        curve: curve(&[(1, 20.0), (2, 40.0)]),
        batch: 1,
        cores: 2.0,
        engine_cores: 2.0,
        decode: Some(0.0049 / FULL_HD),
        nvdec: None,
        memory: None,
        gpu_memory: None,
        encoders: None,
    }
}

#[test]
fn on_shared_cores_decoding_slows_the_engine() {
    let machine = cpu();
    // 10 fps: 49 ms of 2 cores each second are 2.45 % a camera. n·10 ≤ 0.7·50·(1 − 0.0245 n) → n ≤ 3.2.
    assert_eq!(machine.most(&[stream(10.0)]), (3, Ceiling::Engine));
    assert_eq!(machine.most_by(Ceiling::Engine, &[stream(10.0)]), Some(3));
    assert_eq!(machine.most_by(Ceiling::Decode, &[stream(10.0)]), Some(28));
    // An engine elsewhere leaves the cores to the decoders.
    let gpu = Machine { engine_cores: 0.0, curve: curve(&[(1, 1.0)]), ..machine };
    assert_eq!(gpu.most(&[stream(10.0)]), (28, Ceiling::Decode));
    // One thread of two: the first core's worth of decoding is free.
    let half = Machine { engine_cores: 1.0, ..machine };
    assert_eq!((half.taken(1.0), half.taken(1.5)), (0.0, 0.5));
    assert!((machine.slowed(1.0).service(1).as_secs_f64() - 0.040).abs() < 1e-9);
}

#[test]
fn cameras_that_differ_are_added_up() {
    let machine = cpu();
    let small = Stream { pixels: FULL_HD / 4.0, inferred: 5.0, ..stream(20.0) };
    // A pair of them: 15 frames for the engine, (10 + 5)·4.9 ms of decoding, in a second. 35·(1 − 0.03675 p) ≥ 15 p → p ≤ 2.149.
    assert_eq!(machine.most(&[stream(10.0), small]), (4, Ceiling::Engine));
    assert_eq!(machine.most_by(Ceiling::Engine, &[stream(10.0), small]), Some(4));
    // 2·1.4/0.0735 cores.
    assert_eq!(machine.most_by(Ceiling::Decode, &[stream(10.0), small]), Some(38));
    let both = stream(10.0).memory() + small.memory();
    let full = Machine { memory: Some(3.1 * both), curve: curve(&[(1, 0.01)]), ..machine };
    assert_eq!(full.most(&[stream(10.0), small]), (6, Ceiling::Memory));
}

#[test]
fn memory_and_encoder_bind_where_they_are_short() {
    let fast = Machine { curve: curve(&[(1, 0.01)]), decode: None, ..cpu() };
    let one = stream(10.0).memory();
    assert_eq!(Machine { memory: Some(5.5 * one), ..fast }.most(&[stream(10.0)]), (5, Ceiling::Memory));
    // Pictures on the GPU are not in main memory, and each of the two can be full.
    let pictures = stream(10.0).pictures();
    let gpu = |memory: f64, gpu: f64| Machine {
        engine_cores: 0.0,
        memory: Some(memory),
        gpu_memory: Some(gpu),
        ..fast
    };
    assert_eq!(gpu(5.5 * one, 7.5 * pictures).most(&[stream(10.0)]), (7, Ceiling::Memory));
    assert_eq!(gpu(5.5 * one, 7.5 * pictures).most_by(Ceiling::Memory, &[stream(10.0)]), Some(7));
    assert_eq!(gpu(3.5 * PIPELINE_BYTES, 7.5 * pictures).most(&[stream(10.0)]), (3, Ceiling::Memory));
    // 1010 Full HD pictures a second: 70 cameras of 10 take seven tenths, less the last one for what is there already.
    let chip = Machine { nvdec: Some(0.99e-3 / FULL_HD), ..fast };
    assert_eq!(chip.most(&[stream(10.0)]), (70, Ceiling::Nvdec));
    assert_eq!(chip.most_by(Ceiling::Nvdec, &[stream(10.0)]), Some(70));
    let busy = Load { nvdec: 0.695, ..Load::default() };
    let refused =
        chip.admit(&Asked { stream: stream(10.0), count: 1, priority: Priority::Bulk, encoded: 0 }, &busy);
    assert_eq!(refused, Verdict::Refuse { ceiling: Ceiling::Nvdec, retry_after: SOON });
    let three = Machine { encoders: Some(3), ..fast };
    let four = Asked { stream: stream(10.0), count: 4, priority: Priority::Realtime, encoded: 4 };
    let refused = three.admit(&four, &Load::default());
    assert_eq!(refused, Verdict::Refuse { ceiling: Ceiling::Encoder, retry_after: SOON });
    // Who is not watched all the time needs no encoder.
    assert_eq!(three.admit(&Asked { encoded: 3, ..four }, &Load::default()), Verdict::Accept);
}

#[test]
fn the_recommendation_keeps_the_target_or_says_that_none_does() {
    let gpu = curve(&[(1, 5.0), (2, 6.0), (4, 8.0), (8, 12.0), (16, 20.0), (32, 36.0)]);
    let ms = Duration::from_millis;
    let got = recommend(&gpu, 32, ms(5), ms(60), 30.0);
    // 5 + 2·20 ≤ 54 < 5 + 2·36; 9 ms are left; 9 + 40 + 100 ms, in steps of 50.
    let want = Recommended { max_batch_frames: 16, max_wait: ms(9), ring: ms(150), reachable: true };
    assert_eq!(got, want);
    let none = recommend(&gpu, 32, ms(5), ms(10), 30.0);
    assert_eq!((none.max_batch_frames, none.max_wait, none.reachable), (32, ms(0), false));
}

#[test]
fn what_is_left_is_offered_after_decoding_and_after_bulk_has_yielded() {
    let ask = |fps: f64, machine: Machine, load: Load| {
        machine
            .admit(&Asked { stream: stream(fps), count: 1, priority: Priority::Realtime, encoded: 0 }, &load)
    };
    // Decoding 20 fps takes 4.9 % of both cores: 0.7·50·0.951 − 20 = 13.285.
    let load = Load { realtime: 20.0, bulk_share: 0.05, ..Load::default() };
    assert_eq!(ask(20.0, cpu(), load), Verdict::AcceptAt(13.2));
    assert_eq!(ask(13.0, cpu(), load), Verdict::Accept);
    // Bulk asks for 30, of which a twentieth of realtime's part is guaranteed: 35 − 35/21 = 33.33.
    let load = Load { bulk: 30.0, bulk_share: 0.05, ..Load::default() };
    assert_eq!(ask(40.0, Machine { decode: None, ..cpu() }, load), Verdict::AcceptAt(33.3));
    // Another moment helps against load, and not against a stream that is too much for the machine.
    let full = Load { realtime: 35.0, ..Load::default() };
    let after = |verdict| match verdict {
        Verdict::Refuse { ceiling: Ceiling::Engine, retry_after } => retry_after,
        other => panic!("{other:?}"),
    };
    assert_eq!(after(ask(20.0, cpu(), full)), SOON);
    assert_eq!(after(ask(60.0, cpu(), full)), LATE);
}

#[test]
fn a_price_is_shared() {
    assert_eq!((camera_hour(1.2, 4), camera_hour(1.2, 0)), (Some(0.3), None));
}

// Loads are of the machine's size, so that every kind of answer comes.
prop_compose! {
    fn machine()(
        first in 1.0f64..50.0, more in 0.0f64..20.0, cores in 1.0f64..64.0,
        on_cpu in prop_oneof![Just(0.0), 0.0f64..=1.0],
        cost in proptest::option::of(1e-10f64..3e-9), memory in proptest::option::of(1e7f64..1e10),
        gpu_memory in proptest::option::of(1e7f64..1e10), nvdec in proptest::option::of(1e-11f64..5e-9),
        batch in 1usize..=8,
    ) -> Machine {
        let rungs = [1usize, 2, 4, 8].map(|b| (b, first + more * (b - 1) as f64));
        Machine {
            curve: curve(&rungs), batch, cores, engine_cores: on_cpu * cores, decode: cost, nvdec, memory,
            gpu_memory, encoders: None,
        }
    }
}

prop_compose! {
    fn asked()(fps in 1.0f64..40.0, part in 0.2f64..=1.0, pixels in 1e5f64..4e6, count in 1u32..6, bulk: bool) -> Asked {
        let priority = if bulk { Priority::Bulk } else { Priority::Realtime };
        Asked { stream: Stream { fps, inferred: fps * part, pixels, ring: Duration::from_millis(300) }, count, priority, encoded: 0 }
    }
}

prop_compose! {
    fn load()(realtime in 0.0f64..80.0, bulk in 0.0f64..80.0, decode in 0.0f64..8.0, nvdec in 0.0f64..0.8) -> Load {
        Load { realtime, bulk, bulk_share: 0.05, decode, nvdec }
    }
}

/// Refused 0, accepted at so many frames a second, or all of it.
fn rank(verdict: Verdict) -> f64 {
    match verdict {
        Verdict::Accept => f64::INFINITY,
        Verdict::AcceptAt(fps) => fps,
        Verdict::Refuse { .. } => 0.0,
    }
}

proptest! {
    /// What is let in fits, beside the load that does not yield to it: engine, decoders and memory.
    #[test]
    fn a_verdict_never_exceeds_the_capacity(machine in machine(), asked in asked(), load in load()) {
        let fps = match machine.admit(&asked, &load) {
            Verdict::Accept => asked.stream.inferred,
            Verdict::AcceptAt(fps) => { prop_assert!(fps >= LEAST_FPS && fps < asked.stream.inferred); fps }
            Verdict::Refuse { .. } => return Ok(()),
        };
        let n = f64::from(asked.count);
        let cost = machine.decode.unwrap_or(0.0);
        let cores = load.decode + n * asked.stream.fps * asked.stream.pixels * cost;
        prop_assert!(cores <= 0.7 * machine.cores);
        let free = machine.cores - machine.engine_cores;
        let lost = if machine.engine_cores > 0.0 { ((cores - free) / machine.engine_cores).max(0.0) } else { 0.0 };
        let stays = load.realtime + if asked.priority == Priority::Bulk { load.bulk } else { 0.0 };
        let rate = machine.batch as f64 / machine.curve.service(machine.batch).as_secs_f64();
        prop_assert!(stays + n * fps <= 0.7 * rate * (1.0 - lost) + 1e-6);
        // Where pictures are on the GPU, only the pipeline is in main memory.
        let host = if machine.engine_cores > 0.0 { asked.stream.memory() } else { PIPELINE_BYTES };
        prop_assert!(machine.memory.is_none_or(|free| n * host <= free));
        prop_assert!(machine.gpu_memory.is_none_or(|free| n * asked.stream.pictures() <= free));
    }

    /// More load, of any kind, or more cameras never make an answer better.
    #[test]
    fn more_load_never_makes_a_verdict_better(
        machine in machine(), asked in asked(), load in load(), more in load(), cameras in 0u32..20,
    ) {
        let before = rank(machine.admit(&asked, &load));
        let heavier = Load {
            realtime: load.realtime + more.realtime,
            bulk: load.bulk + more.bulk,
            bulk_share: load.bulk_share,
            decode: load.decode + more.decode,
            nvdec: load.nvdec + more.nvdec,
        };
        let after = rank(machine.admit(&Asked { count: asked.count + cameras, ..asked }, &heavier));
        prop_assert!(after <= before, "{before} became {after}");
    }

    /// The largest number that fits does, and one more does not.
    #[test]
    fn the_most_that_fit_is_the_border(machine in machine(), asked in asked()) {
        let (most, ceiling) = machine.most(&[asked.stream]);
        prop_assert!(most == 0 || machine.fits(most, &[asked.stream]).is_none());
        prop_assert_eq!(machine.fits(most + 1, &[asked.stream]), Some(ceiling));
    }

    /// Nobody gets more than it asks for, the engine is used up where somebody gets less, and of two of a class that both get
    /// less, each gets the same a weight; who gets all it asks for gets no more than those.
    #[test]
    fn an_overload_is_shared_evenly_within_a_class(
        rate in 1.0f64..500.0, of in proptest::collection::vec((0.1f64..60.0, 1u32..4, any::<bool>()), 1..30),
    ) {
        let demands: Vec<Demand> = of.iter().map(|&(fps, weight, bulk)| Demand {
            fps, weight, priority: if bulk { Priority::Bulk } else { Priority::Realtime },
        }).collect();
        let got = fair(rate, &demands, 0.05);
        let short = |i: usize| got[i] < demands[i].fps - 1e-9;
        prop_assert!(got.iter().zip(&demands).all(|(got, d)| *got <= d.fps + 1e-9));
        let sum: f64 = got.iter().sum();
        prop_assert!(sum <= rate + 1e-6);
        prop_assert!(!(0..got.len()).any(short) || sum >= rate - 1e-6, "{sum} of {rate}");
        for i in 0..got.len() {
            for k in 0..got.len() {
                if demands[i].priority == demands[k].priority && short(i) {
                    let level = |n: usize| got[n] / f64::from(demands[n].weight);
                    prop_assert!(level(k) <= level(i) + 1e-9);
                }
            }
        }
        let bulk_short = (0..got.len()).any(|i| demands[i].priority == Priority::Bulk && short(i));
        if bulk_short {
            let bulk: f64 = (0..got.len()).filter(|i| demands[*i].priority == Priority::Bulk).map(|i| got[i]).sum();
            prop_assert!(bulk >= rate * 0.05 / 1.05 - 1e-6);
        }
    }
}
