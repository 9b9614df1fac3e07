//! Load from a tenth of the engine's capacity to three times it, in the simulator: fixed waits against the pacer.
//!
//! `cargo bench --bench load` prints a table; with `-- --csv FILE` it also writes every point, for `tests/simulate/plot.py`.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../simulate/mod.rs"]
mod simulate;

use simulate::{Arrivals, Outcome, Steering, World, cameras, curve, ms};

const LOADS: [f64; 13] = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.3, 1.5, 2.0, 3.0];

fn main() {
    for (name, target, arrivals) in [
        ("gpu", 60.0, Arrivals::Steady),
        ("gpu", 100.0, Arrivals::Steady),
        ("gpu", 100.0, Arrivals::Poisson),
        ("gpu", 200.0, Arrivals::Bursty),
        ("cpu", 120.0, Arrivals::Steady),
    ] {
        let curve = curve(name);
        println!("\n{name}, {:.0} fps, target {target} ms, {arrivals:?}", curve.capacity());
        println!(
            "load | best fixed: Δ slots p95 goodput | paced: p95 goodput ratio fill lost Δ slots reason"
        );
        for load in LOADS {
            let play = |steering| World::new(cameras(load, &curve, arrivals), &curve, steering).play();
            let mut best: Option<(f64, usize, Outcome)> = None;
            for wait in [0.0, 5.0, 10.0, 30.0, 100.0] {
                for rung in curve.rungs() {
                    let outcome = play(Steering::Fixed { wait: ms(wait), slots: rung.frames });
                    if outcome.p95() <= target
                        && best.as_ref().is_none_or(|(.., b)| outcome.goodput() > b.goodput())
                    {
                        best = Some((wait, rung.frames, outcome));
                    }
                }
            }
            let paced = play(Steering::Paced { target: ms(target) });
            let pace = paced.paces.last().expect("looks").1;
            let fixed = best.as_ref().map_or("none".to_owned(), |(wait, slots, o)| {
                format!("{wait:>3} {slots:>2} {:>5.1} {:>6.1}", o.p95(), o.goodput())
            });
            let ratio = best.as_ref().map_or(f64::NAN, |(.., o)| paced.goodput() / o.goodput());
            let flag = if best.is_some() && (paced.p95() > target || ratio < 0.97) { " <<<" } else { "" };
            println!(
                "{load:>4} | {fixed} | {:>5.1} {:>6.1} {ratio:>5.3} {:>4.1} {:>5.2}% {:>4.1} {:>2} {:?}{flag}",
                paced.p95(),
                paced.goodput(),
                paced.fill(),
                100.0 * paced.lost(),
                pace.wait.as_secs_f64() * 1e3,
                pace.slots,
                pace.reason
            );
        }
    }
}
