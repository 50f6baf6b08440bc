//! Image sets: folders of slices decoded in parallel, a cache of the decoded set, and phantoms drawn by rule.
//!
//! The way of one image: [`folder`] finds it, [`decode`] reads it, [`picture`] makes it one channel or three and brings it
//! to size, [`levels`] turns its grey levels into values, [`load`] puts it in its place in the [`set`], and [`cache`] keeps
//! the set.

pub mod cache;
pub mod decode;
pub mod folder;
pub mod levels;
pub mod load;
mod parallel;
pub mod phantom;
pub mod picture;
pub mod set;

pub use decode::MAX_PIXELS;
pub use levels::{to_values, Value};
pub use load::load;
pub use phantom::{phantoms, shepp_logan};
pub use picture::{Fit, Size, Window};
pub use set::{Bad, ImageSet, LoadOptions, OnBad, MAX_SIDE};

#[cfg(test)]
mod tests;
