//! Image sets: folders of slices decoded in parallel, a cache of the decoded set, and phantoms drawn by rule.
//!
//! The way of one image: [`folder`] finds it, [`decode`] reads it, [`grey`] makes it one channel or three,
//! [`resize`] brings it to size, [`load`] puts it in its place in the set, and [`cache`] keeps the set.

pub mod cache;
pub mod decode;
#[cfg(feature = "dicom")]
mod dicom;
pub mod folder;
pub mod grey;
mod jpeg;
pub mod load;
mod parallel;
pub mod phantom;
mod png;
pub mod resize;
mod rng;
pub mod sample;
mod shepp_logan;

pub use decode::{Picture, Pixels, Window, MAX_PIXELS};
pub use load::{load, Bad, Cause, ImageSet, OnBad, Options};
pub use phantom::phantoms;
pub use sample::Sample;
pub use shepp_logan::shepp_logan;

#[cfg(test)]
mod tests;
