//! What a network was trained to predict.

use super::schedule::Level;
use crate::choice::Choice;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Objective {
    /// The noise (Ho et al. 2020, section 3.2).
    #[default]
    Eps,
    /// The clean image.
    X0,
    /// sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho 2022, section 4).
    V,
    /// eps - x0, the velocity of a straight path (Lipman et al. 2023; Liu et al. 2023).
    Flow,
}

/// A network for "flow" is shown a thousand times the share of noise, as Stable Diffusion 3 is.
pub const FLOW_TIME: f64 = 1000.0;

impl Objective {
    /// How a network is asked about an image at `level`: the factor of the image, and the time it is shown.
    ///
    /// One for "flow" knows images whose signal and spread add up to 1, and their spread instead of a timestep.
    pub fn question(self, t: f64, level: Level) -> (f64, f64) {
        let whole = level.signal + level.spread;
        match self {
            Self::Flow => (1.0 / whole, FLOW_TIME * level.spread / whole),
            _ => (1.0, t),
        }
    }

    /// The clean image at a level, before any clamp, as (weight of x_t, weight of the network's answer).
    pub fn x0_weights(self, Level { signal, spread }: Level) -> (f64, f64) {
        match self {
            Self::Eps => (1.0 / signal, -spread / signal),
            Self::X0 => (0.0, 1.0),
            Self::V => (signal, -spread),
            Self::Flow => (1.0 / (signal + spread), -spread / (signal + spread)),
        }
    }
}

impl Choice for Objective {
    const WHAT: &'static str = "objective";
    const ALL: &'static [(&'static str, Self)] =
        &[("eps", Self::Eps), ("x0", Self::X0), ("v", Self::V), ("flow", Self::Flow)];
}
