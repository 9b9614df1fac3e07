//! What an accelerator says of itself: how busy and how full it is. What it does not say is `None`, never guessed.

use schemars::JsonSchema;
use serde::Serialize;

/// One reading of a GPU. Ratios are 0..=1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// Which one, as CUDA counts: the metrics' label `gpu`.
    pub gpu: u32,
    /// Its name.
    pub name: String,
    /// Its driver's version.
    pub driver: Option<String>,
    /// Part of the time in which something ran on it.
    pub utilization_ratio: Option<f64>,
    /// The same of its video decoders, all together.
    pub decoder_utilization_ratio: Option<f64>,
    /// The same of its video encoders.
    pub encoder_utilization_ratio: Option<f64>,
    /// Encoder sessions that are open on it, by anybody.
    pub encoder_sessions: Option<u64>,
    /// Bytes of its memory.
    pub memory_total_bytes: Option<u64>,
    /// Of these: in use, by anybody.
    pub memory_used_bytes: Option<u64>,
    /// Clock of its processors.
    pub sm_clock_hertz: Option<f64>,
    /// Bytes that come over the bus, a second.
    pub pcie_received_bytes_per_second: Option<f64>,
    /// Bytes that go over the bus, a second.
    pub pcie_sent_bytes_per_second: Option<f64>,
    /// What it draws.
    pub power_watts: Option<f64>,
    /// How warm it is.
    pub temperature_celsius: Option<f64>,
    /// Why its clocks are lower than they could be, as NVML's bits.
    pub throttle_bits: Option<u64>,
    /// The same in words; empty: nothing holds it back.
    pub throttle: Vec<&'static str>,
    /// Video decoders that this process has on it.
    pub decoders: usize,
    /// Bytes that this process has brought to it since the start: encoded pictures, pictures that were decoded elsewhere, and where in the
    /// batch each one goes. Without model and kernels.
    pub to_device_bytes: u64,
    /// Bytes that it has brought back: boxes or whole outputs, and pictures that somebody looks at.
    pub from_device_bytes: u64,
}

/// The part of an accelerator's memory that is left alone: for other programs, for what a driver keeps, and for a batch that is larger
/// than any before.
pub const HEADROOM: f64 = 0.2;

impl Report {
    /// Bytes that more cameras may take: what is free beyond [`HEADROOM`] of all of it.
    pub fn memory_for_cameras(&self) -> Option<f64> {
        let (total, used) = (self.memory_total_bytes? as f64, self.memory_used_bytes? as f64);
        Some(((1.0 - HEADROOM) * total - used).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_memory_is_nobodys() {
        let report = |used| Report {
            memory_total_bytes: Some(1000),
            memory_used_bytes: Some(used),
            ..Report::default()
        };
        assert_eq!(report(300).memory_for_cameras(), Some(500.0));
        assert_eq!(report(900).memory_for_cameras(), Some(0.0));
        assert_eq!(Report::default().memory_for_cameras(), None);
    }
}
