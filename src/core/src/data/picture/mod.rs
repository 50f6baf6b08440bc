//! One picture in memory: its samples, and what is done to them on the way into a set.

pub mod channels;
pub mod fit;
mod window;

pub use channels::to_channels;
pub use fit::{fit, Fit, Size};
pub use window::Window;

/// Samples of one image, row by row, the channels of a pixel together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pixels {
    U8(Vec<u8>),
    U16(Vec<u16>),
}

/// One decoded image. `channels` is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); palettes are already looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub channels: usize,
    pub pixels: Pixels,
}
