//! The head phantom of Shepp and Logan (1974), with the contrasts that Toft (1996) gave it for display.

use crate::data::parallel::{for_each_part, zeros};
use crate::error::{ensure, Result};

/// Level, half axes, centre and the cosine and sine of the tilt of each ellipse, in a square from -1 to 1 with y upwards.
/// The two tilted ones lean by 18 degrees.
const ELLIPSES: [[f32; 7]; 10] = [
    [1.0, 0.69, 0.92, 0.0, 0.0, 1.0, 0.0],
    [-0.8, 0.6624, 0.874, 0.0, -0.0184, 1.0, 0.0],
    [-0.2, 0.11, 0.31, 0.22, 0.0, COS_18, -SIN_18],
    [-0.2, 0.16, 0.41, -0.22, 0.0, COS_18, SIN_18],
    [0.1, 0.21, 0.25, 0.0, 0.35, 1.0, 0.0],
    [0.1, 0.046, 0.046, 0.0, 0.1, 1.0, 0.0],
    [0.1, 0.046, 0.046, 0.0, -0.1, 1.0, 0.0],
    [0.1, 0.046, 0.023, -0.08, -0.605, 1.0, 0.0],
    [0.1, 0.023, 0.023, 0.0, -0.606, 1.0, 0.0],
    [0.1, 0.023, 0.046, 0.06, -0.605, 1.0, 0.0],
];
const COS_18: f32 = 0.951_056_5;
const SIN_18: f32 = 0.309_017;

/// Points per pixel along each axis that are averaged.
const OVERSAMPLING: u32 = 4;

/// The phantom at `size` x `size`, row by row from the top, in [-1, 1]. `tick` is called on this thread with the number of
/// rows done; its error ends the drawing.
///
/// # Errors
/// `Value` for sizes outside 1..=4096; what `tick` returns.
pub fn shepp_logan(size: u32, threads: usize, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<f32>> {
    ensure!((1..=4096).contains(&size), Value, "size: got {size}, takes 1 to 4096");
    let side = size as usize;
    let mut image = zeros(side, side)?;
    for_each_part(&mut image, side, threads, tick, |row, levels| draw_row(size, row as u32, levels))?;
    Ok(image)
}

fn draw_row(size: u32, row: u32, levels: &mut [f32]) {
    let fine = size * OVERSAMPLING;
    let position = |index: u32| (2 * index + 1) as f32 / fine as f32 - 1.0;
    for (column, pixel) in levels.iter_mut().enumerate() {
        let points = (0..OVERSAMPLING * OVERSAMPLING).map(|point| {
            let x = position(column as u32 * OVERSAMPLING + point % OVERSAMPLING);
            let y = -position(row * OVERSAMPLING + point / OVERSAMPLING);
            level(x, y)
        });
        let mean = points.sum::<f32>() / (OVERSAMPLING * OVERSAMPLING) as f32;
        *pixel = mean.clamp(0.0, 1.0) * 2.0 - 1.0;
    }
}

fn level(x: f32, y: f32) -> f32 {
    let inside = |&&[_, a, b, x0, y0, cos, sin]: &&[f32; 7]| {
        let (dx, dy) = (x - x0, y - y0);
        let along = (dx * cos + dy * sin) / a;
        let across = (dy * cos - dx * sin) / b;
        along * along + across * across <= 1.0
    };
    ELLIPSES.iter().filter(inside).map(|ellipse| ellipse[0]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn draw(size: u32) -> Result<Vec<f32>> {
        shepp_logan(size, 0, &mut |_| Ok(()))
    }

    #[test]
    fn known_places_have_their_levels() {
        let size = 64;
        let image = draw(size).unwrap();
        let at = |x: f32, y: f32| {
            let place = |v: f32| ((v + 1.0) / 2.0 * size as f32) as usize;
            (image[place(-y) * size as usize + place(x)] + 1.0) / 2.0
        };
        assert!(at(0.95, 0.95).abs() < 1e-6, "outside the head");
        assert!((at(0.0, 0.9) - 1.0).abs() < 0.2, "skull");
        assert!((at(0.0, 0.35) - 0.3).abs() < 1e-5, "the bright ellipse in front");
        assert!(at(0.22, 0.0).abs() < 1e-5, "a ventricle");
        assert!(image.iter().all(|v| (-1.0..=1.0).contains(v)));
    }

    #[test]
    fn sizes_are_checked() {
        assert!(draw(0).is_err() && draw(5000).is_err());
        assert_eq!(draw(1).unwrap().len(), 1);
    }

    #[test]
    fn the_caller_can_stop_the_drawing() {
        assert!(matches!(shepp_logan(2048, 1, &mut |_| Err(Error::Interrupted)), Err(Error::Interrupted)));
    }
}
