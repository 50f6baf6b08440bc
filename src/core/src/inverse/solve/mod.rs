//! Linear systems of images: in closed form where an operator's spectrum is known, by iterations elsewhere.

pub mod cg;
pub mod circulant;
mod closed;
pub mod constant;
pub mod lanczos;
pub mod least;
pub mod nearest;
pub mod spectrum;

pub use closed::{draw, inverse, norm, pinv, prox, way, Gaussian, Iterations};
