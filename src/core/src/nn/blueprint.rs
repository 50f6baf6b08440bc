//! The one definition of a network.
//!
//! A network is a time embedding and a list of operations, [`Op`], that one loop runs through ([`super::wiring`]), whatever
//! computes them. Beside it stand the modules that a host builds its own tree from, [`Entry`], in the order in which they are
//! created (the order in which initial weights are drawn). Both come from one builder, which the presets call.

#[derive(Debug, Clone)]
pub struct Blueprint {
    pub time: TimeEmbedding,
    pub ops: Vec<Op>,
    /// Channels of what goes in.
    pub in_channels: i64,
    /// Every module, parents before children, in the order of creation.
    pub entries: Vec<Entry>,
    /// Shapes of all parameters in state-dict order.
    pub shapes: Vec<Vec<i64>>,
}

/// A network's time embedding, operations, and the channels that go in.
pub struct Network {
    pub time: TimeEmbedding,
    pub ops: Vec<Op>,
    pub in_channels: i64,
}

impl Blueprint {
    /// Height and width must be divisible by this, so that every halving comes out even.
    pub fn size_multiple(&self) -> i64 {
        1 << self.ops.iter().filter(|op| matches!(op, Op::Down(_))).count()
    }
}

/// One operation on the current activation.
#[derive(Debug, Clone)]
pub enum Op {
    Conv(Conv),
    ResBlock(ResBlock),
    Attention(Attention),
    /// A convolution of stride 2.
    Down(Conv),
    /// Nearest doubling, then the convolution.
    Up(Conv),
    /// Keeps the activation as a skip.
    Push,
    /// Takes the last skip that is left; the block that follows reads it beside the activation, on channels.
    Pop,
    /// Normalisation, SiLU, convolution: the network's last layers.
    Head(Norm, Conv),
}

/// A square convolution. `param` is the index of the weight in the state dict; the bias follows it.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    pub param: usize,
    pub cin: i64,
    pub cout: i64,
    pub kernel: i64,
    pub stride: i64,
    pub padding: Padding,
}

/// Zeros around an image, in pixels: before the first row and column, and after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    pub before: i64,
    pub after: i64,
}

impl Padding {
    /// One row and one column after, as diffusers' networks of `downsample_padding` 0 have it.
    pub const AFTER: Self = Self { before: 0, after: 1 };

    pub fn even(each: i64) -> Self {
        Self { before: each, after: each }
    }

    pub fn is_even(self) -> bool {
        self.before == self.after
    }
}

/// The bias follows the weight at `param`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    pub param: usize,
    pub cout: i64,
}

/// Group normalisation; the bias follows the weight at `param`.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    pub param: usize,
    pub groups: i64,
    pub channels: i64,
    pub eps: f64,
}

/// conv2(dropout(silu(norm2(h)))) + skip(x) with h = conv1(silu(norm1(x))), the time embedding coming in by `addition`.
#[derive(Debug, Clone)]
pub struct ResBlock {
    pub norm1: Norm,
    pub conv1: Conv,
    pub time: Linear,
    pub addition: TimeAddition,
    pub norm2: Norm,
    pub conv2: Conv,
    /// A 1 x 1 convolution where the number of channels changes.
    pub skip: Option<Conv>,
}

/// What the projected time embedding, one number or two per channel, does in a residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeAddition {
    /// Added before the second normalisation.
    Shift,
    /// norm2(h) (1 + scale) + shift, the scale first in memory (Nichol and Dhariwal 2021).
    ScaleAndShift,
}

/// Self-attention over the positions of an image, plus the image.
#[derive(Debug, Clone)]
pub struct Attention {
    pub norm: Option<Norm>,
    pub projections: Projections,
    /// The output projection's weight; its bias follows.
    pub out: usize,
    pub channels: i64,
    pub heads: i64,
}

/// Where the weights of queries, keys and values stand; each weight's bias follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// One weight (3 C, C), as torch.nn.MultiheadAttention packs them.
    Packed(usize),
    Separate([usize; 3]),
}

/// Sinusoids of t, then linear, SiLU, linear.
#[derive(Debug, Clone)]
pub struct TimeEmbedding {
    /// Length of the sinusoids.
    pub features: i64,
    pub order: Order,
    /// w_k = exp(-ln(10000) k / (features / 2 - shift)).
    pub frequency_shift: f64,
    pub first: Linear,
    pub second: Linear,
}

/// Which of the sinusoids come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    SinCos,
    CosSin,
}

/// One module of the host's tree: its dotted path and what it is.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: String,
    pub layer: Layer,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// Has no weights itself; the name of its class is what the host shows.
    Container(&'static str),
    Conv2d {
        cin: i64,
        cout: i64,
        kernel: i64,
        stride: i64,
        padding: i64,
    },
    Linear {
        cin: i64,
        cout: i64,
    },
    GroupNorm {
        groups: i64,
        channels: i64,
        eps: f64,
    },
    MultiheadAttention {
        channels: i64,
        heads: i64,
    },
    SiLU,
    Dropout {
        p: f64,
    },
    Identity,
}

impl Layer {
    /// Shapes of the parameters, in the order in which the state dict lists them.
    pub fn parameter_shapes(&self) -> Vec<Vec<i64>> {
        match *self {
            Layer::Conv2d { cin, cout, kernel, .. } => vec![vec![cout, cin, kernel, kernel], vec![cout]],
            Layer::Linear { cin, cout } => vec![vec![cout, cin], vec![cout]],
            Layer::GroupNorm { channels, .. } => vec![vec![channels], vec![channels]],
            Layer::MultiheadAttention { channels: c, .. } => {
                vec![vec![3 * c, c], vec![3 * c], vec![c, c], vec![c]]
            }
            Layer::Container(_) | Layer::SiLU | Layer::Dropout { .. } | Layer::Identity => vec![],
        }
    }
}
