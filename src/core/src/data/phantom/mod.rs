//! Images drawn by rule, for where no data set is at hand: chest-CT-like slices, and the head of Shepp and Logan.
//!
//! [`person`] makes one anatomy from the seed, [`shapes`] gives its organs at a height, [`slice`](self::slice) paints them.
//! Only arithmetic that IEEE 754 fixes to the last bit is used (no sine, no exponential of a system library), so the same
//! seed gives the same slices on every machine, whatever the number of threads.

mod canvas;
mod grain;
mod person;
mod rng;
mod shapes;
mod shepp_logan;
mod slice;
mod vessels;

pub use self::shepp_logan::shepp_logan;

use self::canvas::Canvas;
use self::person::Person;
use self::rng::Rng;
use super::levels::Value;
use super::parallel::{for_each_part, zeros};
use super::picture::{fit, Fit, Picture, Pixels, Size};
use crate::error::{Error, Result};

/// Slices that are cut from one person before the next one comes.
const SLICES_PER_PERSON: u64 = 16;

/// Small images are drawn at least this large and then reduced, as a scanner's slices are.
const SMALLEST_DRAWING: u32 = 128;

/// Streams of random numbers that one seed is divided into.
const PERSON: u64 = 0;
const HEIGHTS: u64 = 1;
const NOISE: u64 = 2;

/// `n` slices of `size` x `size` pixels one after the other. Slice k depends on `seed`, `size` and k alone: a longer run
/// begins with the slices of a shorter one.
///
/// # Errors
/// `Value` for sizes outside 16..=512 and for more slices than memory holds; what `tick` returns.
pub fn phantoms<T: Value>(
    n: usize,
    size: u32,
    seed: u64,
    threads: usize,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<T>> {
    if !(16..=512).contains(&size) {
        return Err(Error::Value(format!("size: got {size}, takes 16 to 512")));
    }
    let per_image = size as usize * size as usize;
    let mut values = zeros(n, per_image)?;
    let outcomes = for_each_part(&mut values, per_image, threads, tick, |index, place| {
        draw(index as u64, size, seed).map(|levels| {
            for (value, level) in place.iter_mut().zip(levels) {
                *value = T::from_u8(level);
            }
        })
    })?;
    outcomes.into_iter().collect::<Result<()>>().map(|()| values)
}

/// Grey levels of slice `index`.
fn draw(index: u64, size: u32, seed: u64) -> Result<Vec<u8>> {
    let person = Person::new(&mut Rng::new(seed, &[PERSON, index / SLICES_PER_PERSON]));
    let canvas = Canvas::new(size.max(SMALLEST_DRAWING), slice::AIR);
    let canvas = slice::paint(canvas, &person, height(index, seed));

    let side = canvas.side();
    let drawn = Picture { width: side, height: side, channels: 1, pixels: Pixels::U16(canvas.into_levels()) };
    let reduced = fit(drawn, Size::square(size), Fit::Stretch).map_err(|error| Error::Runtime(error.to_string()))?;
    let Pixels::U16(levels) = reduced.pixels else {
        return Err(Error::Runtime("resizing changed the depth of a phantom".into()));
    };
    Ok(add_noise(&levels, &mut Rng::new(seed, &[NOISE, index]), person.noise))
}

/// Where slice `index` is cut, from 0 (the tips of the lungs) to 1 (the top of the abdomen). Multiples of the golden ratio
/// spread the slices of a person evenly however many are drawn.
fn height(index: u64, seed: u64) -> f32 {
    let start = Rng::new(seed, &[HEIGHTS, index / SLICES_PER_PERSON]).between(0.0, 1.0);
    let place = start + 0.618_034 * (index % SLICES_PER_PERSON) as f32;
    place - place.floor()
}

/// Rounds to 8 bits after adding noise, of which a scanner leaves more behind dense tissue than in air.
fn add_noise(levels: &[u16], rng: &mut Rng, strength: f32) -> Vec<u8> {
    let noisy = |&level: &u16| {
        let level = f32::from(level) / 257.0;
        let deviation = strength * (0.5 + level * 0.012);
        (level + deviation * rng.normal()).round().clamp(0.0, 255.0) as u8
    };
    levels.iter().map(noisy).collect()
}
