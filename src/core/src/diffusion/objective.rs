//! What a network was trained to predict.

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
}

impl Choice for Objective {
    const WHAT: &'static str = "objective";
    const ALL: &'static [(&'static str, Self)] = &[("eps", Self::Eps), ("x0", Self::X0), ("v", Self::V)];
}
