//! A sampler as a table: what each of its steps makes of x_t, in numbers known before the first.

use tch::{Device, Tensor};

use super::Objective;
use crate::error::Result;

/// What a step adds to the clean image it believes in, besides noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// x_t itself (DDPM).
    Iterate,
    /// The predicted noise (DDIM).
    Eps,
}

/// x_next = clean * x0_hat + beside * (x_t or eps) + noise * z
#[derive(Debug, Clone, Copy)]
pub struct Move {
    pub timestep: i64,
    pub alpha_bar: f32,
    pub clean: f32,
    pub beside: f32,
    pub noise: f32,
}

/// All moves, from x_T down.
#[derive(Debug)]
pub struct Plan {
    pub rule: Rule,
    pub moves: Vec<Move>,
}

/// What is the same in all steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub objective: Objective,
    pub beside: Beside,
    /// Whether each step but the last draws noise.
    pub noisy: bool,
}

/// A move's numbers as single elements on the device.
pub struct Numbers {
    /// sqrt(alpha_bar) and sqrt(1 - alpha_bar).
    pub signal: Tensor,
    pub spread: Tensor,
    pub clean: Tensor,
    pub beside: Tensor,
    pub noise: Tensor,
}

impl Plan {
    /// Each move's numbers as a row.
    pub fn table(&self, device: Device) -> Result<Tensor> {
        let row = |m: &Move| [m.alpha_bar.sqrt(), (1.0 - m.alpha_bar).sqrt(), m.clean, m.beside, m.noise];
        let rows: Vec<[f32; Numbers::COUNT]> = self.moves.iter().map(row).collect();
        let shape = [rows.len() as i64, Numbers::COUNT as i64];
        Ok(Tensor::f_from_slice(rows.as_flattened())?.f_view(shape)?.f_to_device(device)?)
    }
}

impl Numbers {
    pub const COUNT: usize = 5;

    /// Those in a row of the table, still in their place.
    pub fn of(row: &Tensor) -> Result<Self> {
        let number = |place| row.f_get(place);
        Ok(Self { signal: number(0)?, spread: number(1)?, clean: number(2)?, beside: number(3)?, noise: number(4)? })
    }
}
