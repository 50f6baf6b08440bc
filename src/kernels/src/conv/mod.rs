//! 3 x 3 convolutions by minimal filtering (Winograd 1980; Lavin and Gray 2016): images to points, one matrix product per
//! point, products to images: for a block of tiles at a time that stays in the caches, or, where there are more channels than
//! tiles, for two panels of channels.

mod convolve;
pub mod correlate;
mod filter;
mod gradient;
mod method;
mod numbers;
#[cfg(test)]
mod reference;
mod scheme;
mod slices;
#[cfg(test)]
mod tests;
mod tile;

pub use convolve::convolve;
pub use filter::Filter;
pub use gradient::weight_gradient;
pub use method::Method;
pub use tile::Addends;

use crate::error::{Error, Result};
use crate::pool::scratch::filled;
use crate::simd::element::Element;
use crate::simd::LANES;
use crate::source::{Images, Source};
use std::ops::Range;

/// Repeats a body for an index known at compile time, below 6: only then do arrays of registers stay in registers.
macro_rules! unroll {
    ($i:ident < $n:ident $body:block) => {
        unroll!($i < $n $body, 0 1 2 3 4 5)
    };
    ($i:ident < $n:ident $body:block, $($value:literal)*) => {
        $(if $value < $n {
            let $i = $value;
            $body
        })*
    };
}
use unroll;

/// The channels of each block: up to 16, of one of the two parts.
fn blocks_of([first, second]: [usize; 2]) -> impl Iterator<Item = Range<usize>> {
    [0..first, first..first + second].into_iter().flat_map(|part| {
        let end = part.end;
        part.step_by(LANES).map(move |start| start..end.min(start + LANES))
    })
}

/// As many zeros as the wider part of the source has channels.
fn zeros_for<T: Element>(x: &Source<T>) -> Result<Vec<T>> {
    filled(T::ZERO, x.parts[0].channels.max(x.parts[1].channels))
}

fn check_sizes(method: Method, from: Images, to: Images) -> Result {
    let [height, width] = [from.height, from.width].map(|size| method.output_size(size));
    if from.batch == to.batch && to.pixels() > 0 && [height, width] == [to.height, to.width] {
        Ok(())
    } else {
        Err(Error::Misfit(format!("a convolution ({method:?}) cannot lead from {from:?} to {to:?}")))
    }
}
