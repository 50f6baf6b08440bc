//! Filters brought to the points of a scheme, packed as the products read them.

use super::scheme::{Down, DownGradient, Scheme, Up, UpGradient, F2, F4};
use crate::error::{check_len, Error, Result};
use crate::raw::{Line, LANES};

/// What is computed, and in which tiles. All filters are 3 x 3 with zero padding of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Stride 1, by F(2x2, 3x3): 2.25 times fewer multiplications than the definition.
    F2,
    /// Stride 1, by F(4x4, 3x3): 4 times fewer.
    F4,
    /// Nearest-neighbour doubling, then stride 1: 4 times fewer.
    Upsample,
    /// Stride 2: 1.44 times fewer.
    Downsample,
}

/// A method, or the gradient of a method with respect to its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    F2,
    F4,
    Up,
    UpGradient,
    Down,
    DownGradient,
}

/// Evaluates `$body` with `$scheme` standing for the scheme of `$way`.
macro_rules! with_scheme {
    ($way:expr, $scheme:ident => $body:expr) => {
        match $way {
            Way::F2 => {
                type $scheme = crate::winograd::scheme::F2;
                $body
            }
            Way::F4 => {
                type $scheme = crate::winograd::scheme::F4;
                $body
            }
            Way::Up => {
                type $scheme = crate::winograd::scheme::Up;
                $body
            }
            Way::UpGradient => {
                type $scheme = crate::winograd::scheme::UpGradient;
                $body
            }
            Way::Down => {
                type $scheme = crate::winograd::scheme::Down;
                $body
            }
            Way::DownGradient => {
                type $scheme = crate::winograd::scheme::DownGradient;
                $body
            }
        }
    };
}
pub(super) use with_scheme;

/// The one-dimensional numbers of a way.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub points: usize,
    pub outputs: usize,
    pub step: usize,
    pub before: usize,
    pub filter: &'static [[f64; 3]],
}

impl Shape {
    const fn of<T: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>() -> Shape {
        Shape {
            points: P,
            outputs: M,
            step: T::STEP,
            before: T::BEFORE,
            filter: &T::FILTER,
        }
    }
}

impl Way {
    pub fn shape(self) -> Shape {
        match self {
            Way::F2 => const { Shape::of::<F2, 4, 4, 2>() },
            Way::F4 => const { Shape::of::<F4, 6, 6, 4>() },
            Way::Up => const { Shape::of::<Up, 3, 3, 2>() },
            Way::UpGradient => const { Shape::of::<UpGradient, 4, 3, 1>() },
            Way::Down => const { Shape::of::<Down, 5, 5, 2>() },
            Way::DownGradient => const { Shape::of::<DownGradient, 3, 5, 4>() },
        }
    }
}

impl Method {
    pub(super) fn forward(self) -> Way {
        match self {
            Method::F2 => Way::F2,
            Method::F4 => Way::F4,
            Method::Upsample => Way::Up,
            Method::Downsample => Way::Down,
        }
    }

    fn gradient(self) -> Way {
        match self {
            Method::F2 => Way::F2,
            Method::F4 => Way::F4,
            Method::Upsample => Way::UpGradient,
            Method::Downsample => Way::DownGradient,
        }
    }

    /// Height or width of the output for that of the input.
    pub fn output_size(self, size: usize) -> usize {
        match self {
            Method::F2 | Method::F4 => size,
            Method::Upsample => 2 * size,
            Method::Downsample => size.div_ceil(2),
        }
    }
}

/// A filter ready for [`super::convolve`].
pub struct Filter {
    pub(super) method: Method,
    pub(super) way: Way,
    pub(super) inputs: [usize; 2],
    pub(super) outputs: usize,
    /// `[panel][point][input channel]`, input channels padded to whole lines within each part.
    pub(super) lines: Vec<Line>,
}

impl Filter {
    /// From weights (outputs, inputs, 3, 3). `inputs` are the channels of the source's two parts, the second may be 0.
    ///
    /// # Errors
    /// When the weights' length is not that of their shape, or a channel count is 0.
    pub fn new(
        method: Method,
        weights: &[f32],
        outputs: usize,
        inputs: [usize; 2],
    ) -> Result<Self> {
        let total = inputs[0] + inputs[1];
        Self::pack(
            method,
            method.forward(),
            weights,
            outputs,
            inputs,
            |o, i| (o * total + i, false),
        )
    }

    /// From the same weights (outputs, inputs, 3, 3) the filter that takes the gradient of the output to that of the
    /// input (whole, not in parts).
    ///
    /// # Errors
    /// As for `new`.
    pub fn of_input_gradient(
        method: Method,
        weights: &[f32],
        outputs: usize,
        inputs: usize,
    ) -> Result<Self> {
        let flipped = matches!(method, Method::F2 | Method::F4);
        Self::pack(
            method,
            method.gradient(),
            weights,
            inputs,
            [outputs, 0],
            |i, o| (o * inputs + i, flipped),
        )
    }

    /// Whether this filter takes gradients of outputs to gradients of inputs.
    fn pack(
        method: Method,
        way: Way,
        weights: &[f32],
        outputs: usize,
        inputs: [usize; 2],
        place: impl Fn(usize, usize) -> (usize, bool),
    ) -> Result<Self> {
        if outputs == 0 || inputs[0] == 0 {
            return Err(Error(
                "a convolution needs at least one channel on either side".into(),
            ));
        }
        check_len(
            "weights",
            weights.len(),
            outputs * (inputs[0] + inputs[1]) * 9,
        )?;
        let shape = way.shape();
        let squares = shape.points * shape.points;
        let mut filter = Filter {
            method,
            way,
            inputs,
            outputs,
            lines: Vec::new(),
        };
        let depth = filter.blocks() * LANES;
        filter.lines = vec![Line::ZERO; filter.panels() * squares * depth];
        for o in 0..outputs {
            for i in 0..inputs[0] + inputs[1] {
                let (at, flipped) = place(o, i);
                let taps: [f32; 9] =
                    std::array::from_fn(|k| weights[at * 9 + if flipped { 8 - k } else { k }]);
                let row = if i < inputs[0] {
                    i
                } else {
                    inputs[0].next_multiple_of(LANES) + i - inputs[0]
                };
                for (point, value) in at_points(shape.filter, &taps).enumerate() {
                    filter.lines[(o / LANES * squares + point) * depth + row].0[o % LANES] = value;
                }
            }
        }
        Ok(filter)
    }

    /// Lines of input channels.
    pub(super) fn blocks(&self) -> usize {
        self.inputs.iter().map(|c| c.div_ceil(LANES)).sum()
    }

    /// Lines of output channels.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }
}

/// G g G^T, row by row, in f64 and rounded once.
fn at_points<'a>(filter: &'a [[f64; 3]], taps: &'a [f32; 9]) -> impl Iterator<Item = f32> + 'a {
    let columns = move |row: &[f64; 3]| -> [f64; 3] {
        std::array::from_fn(|j| (0..3).map(|i| row[i] * f64::from(taps[3 * i + j])).sum())
    };
    filter.iter().flat_map(move |down| {
        let part = columns(down);
        filter
            .iter()
            .map(move |across| (0..3).map(|j| across[j] * part[j]).sum::<f64>() as f32)
    })
}
