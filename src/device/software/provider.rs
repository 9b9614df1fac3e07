//! Which execution provider runs the network: the one that was asked for, or the fastest one, measured on this model.
//!
//! | provider | what it is | where it works |
//! |---|---|---|
//! | `cpu` | ONNX Runtime's own kernels (MLAS) | everywhere |
//! | `openvino` | Intel's plugin, PyPI `onnxruntime-ep-openvino` | x86-64; version 1.8 offers Intel processors only |
//!
//! A provider is used only when it computes what `cpu` computes: left alone, the plugin rounds to bf16 where the
//! processor can, which moves the boxes of a small network by several pixels.

use std::time::Duration;

use super::session::{Outputs, Runtime, Session};
use crate::clock::Clock;
use crate::config::{Execution, Provider};
use crate::fault::{Fault, Who};
use crate::model::spec::{Layout, ModelSpec};

/// How far an output may be off `cpu`'s, as a share of its largest value. f32 in another order of summing: 1e-5;
/// bf16: 2e-2 and more.
const TOLERANCE: f32 = 1e-3;

/// Another provider than `cpu` must save this share of the time: it costs some 50 MB of memory.
const WORTH: f64 = 0.95;

/// Timed runs a provider; the median counts.
const RUNS: usize = 5;

/// What a provider can do with the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// The time of one frame: S(1).
    pub service: Duration,
    /// The largest difference from `cpu`'s outputs, as a share of the output's largest value.
    pub deviation: f32,
}

/// A provider and what became of it.
pub type Trial = (Provider, Result<Figures, Fault>);

/// What runs, and why, for the log.
#[derive(Debug)]
pub struct Choice {
    /// What runs.
    pub provider: Provider,
    /// Every provider that was tried, with its figures or what is wrong with it; empty when there was no choice.
    pub why: String,
}

/// What the network is, and with what it is opened.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// The loaded library.
    pub runtime: &'a Runtime,
    /// The manifest.
    pub spec: &'a ModelSpec,
    /// The file.
    pub model: &'a [u8],
    /// Threads in one run.
    pub threads: usize,
}

/// Finds the provider that `asked` means on this machine.
///
/// # Errors
/// When none of those that were asked for can run the model: what is wrong with each.
pub fn choose(asked: &Execution, candidate: Candidate<'_>, clock: &dyn Clock) -> Result<Choice, Fault> {
    let tried: &[Provider] = match asked {
        // There is nothing to compare, and nothing to find out that opening it does not say.
        Execution::Order(order) if order.first() == Some(&Provider::Cpu) => {
            return Ok(Choice { provider: Provider::Cpu, why: String::new() });
        }
        Execution::Order(order) => order,
        Execution::Auto => &[Provider::Cpu, Provider::OpenVino],
    };
    let trials = try_all(tried, candidate, clock)?;
    let why = trials.iter().map(describe).collect::<Vec<_>>().join("; ");
    match decide(asked, &trials) {
        Some(provider) => Ok(Choice { provider, why }),
        None => {
            let remedy = "write execution = [\"openvino\", \"cpu\"] in [infer] to go on without it, or execution = \"auto\"";
            Err(Fault::new(Who::Config, "no_provider", format!("[infer] execution: {why}")).remedy(remedy))
        }
    }
}

/// A provider under trial.
struct Running {
    session: Session,
    deviation: f32,
    times: Vec<Duration>,
}

/// Opens each provider and measures them in turns, so that a noisy moment meets all of them.
fn try_all(tried: &[Provider], candidate: Candidate<'_>, clock: &dyn Clock) -> Result<Vec<Trial>, Fault> {
    let input = Input::new(candidate.spec);
    // Whatever was asked for is compared with it. A model that it cannot run is no model.
    let mut cpu = candidate.open(Provider::Cpu)?;
    let truth = input.run(&mut cpu)?;
    let mut cpu = Some(cpu);
    let mut trials: Vec<(Provider, Result<Running, Fault>)> = Vec::new();
    for &provider in tried {
        let opened = match provider {
            Provider::Cpu => cpu.take().map_or_else(|| candidate.open(provider), Ok),
            Provider::OpenVino => candidate.open(provider),
            Provider::Cuda | Provider::TensorRt | Provider::TensorRtRtx => Err(Fault::new(
                Who::Config,
                "no_provider",
                "its pictures would be on the GPU: only `weir run` can use it",
            )),
        };
        let result = opened.and_then(|mut session| {
            let outputs = input.run(&mut session)?;
            Ok(Running { session, deviation: deviation(&truth, &outputs), times: Vec::with_capacity(RUNS) })
        });
        trials.push((provider, result));
    }
    drop(cpu);
    for _ in 0..RUNS {
        for (_, result) in &mut trials {
            let Ok(running) = result else { continue };
            let before = clock.now();
            let ran = input.run(&mut running.session);
            running.times.push(clock.now().since(before));
            if let Err(fault) = ran {
                *result = Err(fault);
            }
        }
    }
    let figures = |mut running: Running| {
        running.times.sort_unstable();
        Figures { service: running.times[RUNS / 2], deviation: running.deviation }
    };
    Ok(trials.into_iter().map(|(provider, result)| (provider, result.map(figures))).collect())
}

/// The choice itself: the first usable one of a list; of `auto` the fastest, where leaving `cpu` must pay.
fn decide(asked: &Execution, trials: &[Trial]) -> Option<Provider> {
    let usable = trials.iter().filter_map(|(provider, result)| {
        let figures = result.as_ref().ok().filter(|figures| figures.deviation <= TOLERANCE)?;
        Some((*provider, figures.service.as_secs_f64()))
    });
    match asked {
        Execution::Order(_) => usable.map(|(provider, _)| provider).next(),
        Execution::Auto => usable
            .map(|(provider, service)| match provider {
                Provider::Cpu => (provider, service * WORTH),
                _ => (provider, service),
            })
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(provider, _)| provider),
    }
}

fn describe((provider, result): &Trial) -> String {
    match result {
        Ok(f) if f.deviation > TOLERANCE => format!(
            "{provider} is not used: its outputs are {:.1} % off f32 ({:.1} ms a frame)",
            f.deviation * 100.0,
            f.service.as_secs_f64() * 1e3
        ),
        Ok(f) => format!("{provider} {:.1} ms a frame", f.service.as_secs_f64() * 1e3),
        Err(fault) => format!("{provider} cannot be used: {}", fault.message),
    }
}

impl Candidate<'_> {
    fn open(&self, provider: Provider) -> Result<Session, Fault> {
        Session::open_on(self.runtime, &self.spec.name, self.model, self.threads, provider)
    }
}

/// One picture for the network.
struct Input<'a> {
    name: &'a str,
    dims: [usize; 4],
    data: Vec<f32>,
}

impl<'a> Input<'a> {
    /// Coloured squares with a little noise: numbers as a picture has them, the same on every machine.
    fn new(spec: &'a ModelSpec) -> Input<'a> {
        let (w, h) = (spec.input.width as usize, spec.input.height as usize);
        let mut random = fastrand::Rng::with_seed(1);
        let mut pixel = |x: usize, y: usize, c: usize| {
            let square = (x / 32 * 7 + y / 32 * 13 + c * 5) % 11;
            let byte = square as f32 * 20.0 + random.f32() * 32.0;
            (byte - spec.input.mean[c]) / spec.input.std[c]
        };
        let mut data = Vec::with_capacity(3 * w * h);
        let dims = match spec.input.layout {
            Layout::Nchw => {
                for c in 0..3 {
                    (0..w * h).for_each(|i| data.push(pixel(i % w, i / w, c)));
                }
                [1, 3, h, w]
            }
            Layout::Nhwc => {
                (0..3 * w * h).for_each(|i| data.push(pixel(i / 3 % w, i / 3 / w, i % 3)));
                [1, h, w, 3]
            }
        };
        Input { name: &spec.input.name, dims, data }
    }

    fn run(&self, session: &mut Session) -> Result<Outputs, Fault> {
        session.run(self.name, &self.dims, &self.data)
    }
}

/// The largest difference between two runs, over all outputs, each as a share of that output's largest value.
/// Infinite when they differ in shape or hold what is not a number.
fn deviation(truth: &Outputs, outputs: &Outputs) -> f32 {
    if truth.len() != outputs.len() {
        return f32::INFINITY;
    }
    let one = |i: usize| {
        let (a, b) = (truth.view(i, 0), outputs.view(i, 0));
        if a.shape != b.shape || a.data.len() != b.data.len() {
            return f32::INFINITY;
        }
        let largest = a.data.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let worst = a.data.iter().zip(b.data).fold(0.0, |m: f32, (x, y)| {
            let off = (x - y).abs();
            if off.is_nan() { f32::INFINITY } else { m.max(off) }
        });
        worst / largest
    };
    (0..truth.len()).map(one).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(ms: u64) -> Result<Figures, Fault> {
        Ok(Figures { service: Duration::from_millis(ms), deviation: 1e-5 })
    }

    fn rounded(ms: u64) -> Result<Figures, Fault> {
        Ok(Figures { service: Duration::from_millis(ms), deviation: 0.02 })
    }

    fn away() -> Result<Figures, Fault> {
        Err(Fault::new(Who::Device, "no_openvino", "not here"))
    }

    use Provider::{Cpu, OpenVino};

    #[test]
    fn auto_takes_the_faster_one_where_it_pays() {
        for (cpu, openvino, wanted) in [
            (good(100), good(90), Some(OpenVino)),
            (good(100), good(97), Some(Cpu)),
            (good(100), good(150), Some(Cpu)),
            (good(100), rounded(30), Some(Cpu)),
            (good(100), away(), Some(Cpu)),
            (away(), away(), None),
        ] {
            let trials = [(Cpu, cpu), (OpenVino, openvino)];
            assert_eq!(decide(&Execution::Auto, &trials), wanted, "{trials:?}");
        }
    }

    #[test]
    fn a_list_falls_back_only_to_what_it_names() {
        let only = Execution::Order(vec![OpenVino]);
        assert_eq!(decide(&only, &[(OpenVino, good(500))]), Some(OpenVino), "slow, but asked for");
        assert_eq!(decide(&only, &[(OpenVino, away())]), None);
        assert_eq!(decide(&only, &[(OpenVino, rounded(10))]), None, "wrong numbers are no fallback");
        let both = Execution::Order(vec![OpenVino, Cpu]);
        assert_eq!(decide(&both, &[(OpenVino, good(500)), (Cpu, good(1))]), Some(OpenVino));
        assert_eq!(decide(&both, &[(OpenVino, away()), (Cpu, good(1))]), Some(Cpu));
    }
}
