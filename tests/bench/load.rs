//! Load from a tenth of the engine's capacity to three times it, in the simulator: fixed waits against the pacer.
//!
//! `cargo bench --bench load` prints a table: at each load the fixed wait and batch with the largest goodput among those that
//! keep the target, found by sweep, beside the pacer. With `-- --csv FILE` it also writes what `tests/simulate/plot.py` draws.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../simulate/mod.rs"]
mod simulate;

use std::fmt::Write as _;

use simulate::{Arrivals, Fixed, Outcome, Steering, World, best, cameras, curve, ms, sweep};

const LOADS: [f64; 15] = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.3, 1.5, 2.0, 2.5, 3.0];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut csv = String::from("curve,target_ms,arrivals,load,steering,p50_ms,p95_ms,goodput_fps,lost\n");
    for (name, target, arrivals) in [
        ("gpu", 60.0, Arrivals::Steady),
        ("gpu", 100.0, Arrivals::Steady),
        ("gpu", 100.0, Arrivals::Poisson),
        ("gpu", 200.0, Arrivals::Bursty),
        ("cpu", 120.0, Arrivals::Steady),
    ] {
        let curve = curve(name);
        println!(
            "\n{name}: {:.0} fps at the most; target {target} ms; {arrivals:?} cameras\n",
            curve.capacity()
        );
        println!(
            "| load | best fixed: Δ ms | batch | p95 ms | fps | paced: p95 ms | fps | of the best | frames a batch | lost |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for load in LOADS {
            let play = |steering| World::new(cameras(load, &curve, arrivals), &curve, steering).play();
            let paced = play(Steering::Paced { target: ms(target) });
            println!(
                "| {load} | {} |",
                row(best(&sweep(&curve, &[0.0, 5.0, 10.0, 30.0, 100.0], play), target), &paced)
            );
            let mut point = |steering: &str, outcome: &Outcome| {
                let _ = writeln!(
                    csv,
                    "{name},{target},{arrivals:?},{load},{steering},{:.2},{:.2},{:.1},{:.5}",
                    outcome.p50(),
                    outcome.p95(),
                    outcome.goodput(),
                    outcome.lost()
                );
            };
            point("paced", &paced);
            for wait in [5.0, 30.0, 100.0] {
                let slots = curve.largest_useful();
                point(&format!("{wait} ms"), &play(Steering::Fixed { wait: ms(wait), slots }));
            }
        }
    }
    if let Some(file) = args.iter().position(|arg| arg == "--csv").and_then(|at| args.get(at + 1)) {
        std::fs::write(file, csv).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

fn row(best: Option<&Fixed>, paced: &Outcome) -> String {
    let fixed = best.map_or("none keeps it | | |".to_owned(), |(wait, slots, outcome)| {
        format!("{wait} | {slots} | {:.0} | {:.0}", outcome.p95(), outcome.goodput())
    });
    let part = best.map_or("–".to_owned(), |(.., best)| format!("{:.3}", paced.goodput() / best.goodput()));
    format!(
        "{fixed} | {:.0} | {:.0} | {part} | {:.1} | {:.1} %",
        paced.p95(),
        paced.goodput(),
        paced.fill(),
        100.0 * paced.lost()
    )
}
