//! What can be computed, and by which scheme.

use super::scheme::{Down, DownAfterGradient, DownGradient, Scheme, Up, UpGradient, F4};

/// What is computed, and in which tiles. All filters are 3 x 3, with zero padding of 1 but for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Stride 1, by F(4x4, 3x3): 4 times fewer multiplications than the definition.
    F4,
    /// Nearest-neighbour doubling, then stride 1: 4 times fewer.
    Upsample,
    /// Stride 2: 1.44 times fewer.
    Downsample,
    /// The same with one row and column of zeros after the input instead of zeros around it.
    DownsampleAfter,
}

/// A method, or the gradient of a method with respect to its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    F4,
    Up,
    UpGradient,
    Down,
    DownGradient,
    DownAfter,
    DownAfterGradient,
}

/// Evaluates `$body` with `$scheme` standing for the scheme of `$way`.
macro_rules! with_scheme {
    ($way:expr, $scheme:ident => $body:expr) => {
        match $way {
            Way::F4 => {
                type $scheme = crate::conv::scheme::F4;
                $body
            }
            Way::Up => {
                type $scheme = crate::conv::scheme::Up;
                $body
            }
            Way::UpGradient => {
                type $scheme = crate::conv::scheme::UpGradient;
                $body
            }
            Way::Down => {
                type $scheme = crate::conv::scheme::Down<1>;
                $body
            }
            Way::DownGradient => {
                type $scheme = crate::conv::scheme::DownGradient;
                $body
            }
            Way::DownAfter => {
                type $scheme = crate::conv::scheme::Down<0>;
                $body
            }
            Way::DownAfterGradient => {
                type $scheme = crate::conv::scheme::DownAfterGradient;
                $body
            }
        }
    };
}
pub(super) use with_scheme;

/// The one-dimensional numbers of a way.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    pub points: usize,
    pub outputs: usize,
    pub step: usize,
    pub before: usize,
}

impl Tiling {
    const fn of<T: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>() -> Tiling {
        Tiling { points: P, outputs: M, step: T::STEP, before: T::BEFORE }
    }
}

impl Way {
    pub fn tiling(self) -> Tiling {
        match self {
            Way::F4 => const { Tiling::of::<F4, 6, 6, 4>() },
            Way::Up => const { Tiling::of::<Up, 3, 3, 2>() },
            Way::UpGradient => const { Tiling::of::<UpGradient, 4, 3, 1>() },
            Way::Down => const { Tiling::of::<Down<1>, 5, 5, 2>() },
            Way::DownGradient => const { Tiling::of::<DownGradient, 3, 5, 4>() },
            Way::DownAfter => const { Tiling::of::<Down<0>, 5, 5, 2>() },
            Way::DownAfterGradient => const { Tiling::of::<DownAfterGradient, 3, 5, 4>() },
        }
    }
}

impl Method {
    pub(super) fn forward(self) -> Way {
        match self {
            Method::F4 => Way::F4,
            Method::Upsample => Way::Up,
            Method::Downsample => Way::Down,
            Method::DownsampleAfter => Way::DownAfter,
        }
    }

    pub(super) fn gradient(self) -> Way {
        match self {
            Method::F4 => Way::F4,
            Method::Upsample => Way::UpGradient,
            Method::Downsample => Way::DownGradient,
            Method::DownsampleAfter => Way::DownAfterGradient,
        }
    }

    /// Height or width of the output for that of the input.
    pub fn output_size(self, size: usize) -> usize {
        match self {
            Method::F4 => size,
            Method::Upsample => 2 * size,
            Method::Downsample => size.div_ceil(2),
            Method::DownsampleAfter => size / 2,
        }
    }
}
