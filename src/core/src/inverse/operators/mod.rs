//! Operators, one file each.

pub mod blur;
pub mod compose;
pub mod ct;
pub mod downscale;
pub mod gradient;
pub mod inpaint;
pub mod matrix;
