//! Denoising diffusion implicit models, Song, Meng and Ermon 2021, equations 12 and 16.

use tch::Tensor;

use super::{predict, Denoiser, Noise, Objective, OnStep, Step};
use crate::error::Result;

/// From x_T to an image batch in [-1, 1] along `grid`, a strictly decreasing list of timesteps; each step goes to the
/// next entry. Draws a normal tensor per step except the last if eta > 0, none otherwise.
pub fn ddim(
    model: &mut dyn Denoiser,
    objective: Objective,
    x_t: Tensor,
    alpha_bars: &[f32],
    grid: &[i64],
    eta: f64,
    noise: &mut dyn Noise,
    on_step: &mut OnStep,
) -> Result<Tensor> {
    let total = grid.len();
    let mut x = x_t;
    for (index, k) in grid.iter().enumerate() {
        let alpha_bar = alpha_bars[*k as usize];
        let (x0_hat, eps) = predict(model, objective, &x, *k, alpha_bar)?;
        x = match grid.get(index + 1) {
            None => x0_hat.shallow_clone(),
            Some(next) => {
                let target = alpha_bars[*next as usize];
                let sigma =
                    eta as f32 * ((1.0 - target) / (1.0 - alpha_bar) * (1.0 - alpha_bar / target)).max(0.0).sqrt();
                let direction = (1.0 - target - sigma * sigma).max(0.0).sqrt();
                let mean =
                    x0_hat.f_mul_scalar(f64::from(target.sqrt()))?.f_add(&eps.f_mul_scalar(f64::from(direction))?)?;
                if eta > 0.0 {
                    let z = noise.normal(&x.size(), x.device())?;
                    mean.f_add(&z.f_mul_scalar(f64::from(sigma))?)?
                } else {
                    mean
                }
            }
        };
        on_step(&Step { index, total, timestep: *k, x: &x, x0_hat: &x0_hat })?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::super::fakes::{schedule, Oracle};
    use super::super::{timestep_grid, Spacing, TorchNoise};
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn every_number_of_steps_calls_the_model_that_often_and_reaches_the_image() {
        let schedule = schedule(12);
        for steps in 1..=12 {
            for eta in [0.0, 0.7] {
                let grid = timestep_grid(12, steps, Spacing::Course).expect("a grid");
                let mut model = Oracle { alpha_bars: schedule.alpha_bars.clone(), x0: -0.5, seen: vec![] };
                let start = Tensor::randn([1, 1, 4, 4], (Kind::Float, Device::Cpu));
                let out = ddim(
                    &mut model,
                    Objective::Eps,
                    start,
                    &schedule.alpha_bars,
                    &grid,
                    eta,
                    &mut TorchNoise,
                    &mut |_| Ok(()),
                )
                .expect("images");
                assert_eq!(model.seen, grid);
                assert_eq!(model.seen.len() as i64, steps);
                assert!(f64::try_from((out + 0.5).abs().max()).expect("a number") < 1e-2);
            }
        }
    }
}
