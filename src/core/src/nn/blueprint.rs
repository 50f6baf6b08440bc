//! The one definition of the architecture.
//!
//! [`Blueprint`] says which layers the UNet has, in the order in which they are created (the order in which initial
//! weights are drawn), and where each layer's weights stand in the state dict. Python builds its `nn.Module` tree from
//! [`Blueprint::entries`]; the forward pass in [`super::wiring`] walks [`Blueprint::net`]. Both come from one builder.

use std::collections::HashMap;

use crate::error::{ensure, Result};

/// Group normalisation uses the largest number of groups up to this that divides the channels.
const MAX_GROUPS: i64 = 32;
pub const NORM_EPS: f64 = 1e-5;
/// More channels than this in one layer is a mistyped argument.
const MAX_CHANNELS: i64 = 65_536;

/// What a student chooses about the network.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetConfig {
    /// Channels of the images.
    pub in_ch: i64,
    /// Width of the first level.
    pub base_ch: i64,
    /// Width of level i is `base_ch * channel_mults[i]`; their number is the number of levels.
    pub channel_mults: Vec<i64>,
    /// Length of the time embedding.
    pub time_dim: i64,
    /// Probability of dropping an activation before the second convolution of a residual block.
    pub dropout: f64,
    /// Levels with self-attention (the middle always has it).
    pub attn_levels: Vec<i64>,
    pub num_heads: i64,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            in_ch: 1,
            base_ch: 64,
            channel_mults: vec![1, 2, 4],
            time_dim: 256,
            dropout: 0.1,
            attn_levels: vec![1, 2],
            num_heads: 4,
        }
    }
}

impl UNetConfig {
    pub fn levels(&self) -> usize {
        self.channel_mults.len()
    }

    pub fn width(&self, level: usize) -> i64 {
        self.base_ch * self.channel_mults[level]
    }

    fn has_attention(&self, level: usize) -> bool {
        self.attn_levels.contains(&(level as i64))
    }

    /// Check every value; the message names the argument, what it got and what it takes.
    pub fn validate(&self) -> Result<()> {
        let counts = [("in_ch", self.in_ch), ("base_ch", self.base_ch), ("num_heads", self.num_heads)];
        for (name, value) in counts {
            ensure!(
                (1..=MAX_CHANNELS).contains(&value),
                Value,
                "{name} must be between 1 and {MAX_CHANNELS}, got {value}"
            );
        }
        ensure!(
            (2..=MAX_CHANNELS).contains(&self.time_dim),
            Value,
            "time_dim must be between 2 and {MAX_CHANNELS}, got {}",
            self.time_dim
        );
        ensure!(
            self.dropout >= 0.0 && self.dropout <= 1.0,
            Value,
            "dropout must be a probability between 0 and 1, got {}",
            self.dropout
        );
        let levels = self.levels();
        ensure!(
            (1..=16).contains(&levels),
            Value,
            "channel_mults must have 1 to 16 entries, got {:?}",
            self.channel_mults
        );
        for mult in &self.channel_mults {
            let fits = *mult >= 1 && self.base_ch.checked_mul(*mult).is_some_and(|width| width <= MAX_CHANNELS);
            ensure!(
                fits,
                Value,
                "channel_mults must be positive integers with base_ch * mult <= {MAX_CHANNELS}, got {:?} (base_ch {})",
                self.channel_mults,
                self.base_ch
            );
        }
        for level in &self.attn_levels {
            ensure!(
                *level >= 0 && (*level as usize) < levels,
                Value,
                "attn_levels must lie in 0..{}, got {:?}",
                levels - 1,
                self.attn_levels
            );
        }
        for level in (0..levels).filter(|l| self.has_attention(*l) || l + 1 == levels) {
            ensure!(
                self.width(level) % self.num_heads == 0,
                Value,
                "num_heads must divide the channels wherever there is attention: level {level} has {} channels, num_heads is {}",
                self.width(level),
                self.num_heads
            );
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// A container, by the class name that `print(model)` shows.
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
    fn parameter_shapes(&self) -> Vec<Vec<i64>> {
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

/// One module of the tree: its dotted path and what it is.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: String,
    pub layer: Layer,
}

/// `param` is the index of the weight in the state dict; the bias follows it.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    pub param: usize,
    pub cin: i64,
    pub cout: i64,
    pub kernel: i64,
    pub stride: i64,
    pub padding: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct Linear {
    pub param: usize,
    pub cout: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct Norm {
    pub param: usize,
    pub groups: i64,
    pub channels: i64,
}

#[derive(Debug, Clone)]
pub struct ResBlock {
    pub norm1: Norm,
    pub conv1: Conv,
    pub time: Linear,
    pub norm2: Norm,
    pub conv2: Conv,
    pub skip: Option<Conv>,
}

/// `param` is in_proj_weight; in_proj_bias, out_proj.weight and out_proj.bias follow it.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    pub norm: Norm,
    pub param: usize,
    pub channels: i64,
    pub heads: i64,
}

#[derive(Debug, Clone)]
pub struct Level {
    pub block1: ResBlock,
    pub block2: ResBlock,
    pub attention: Option<Attention>,
    /// To the next level of the path (down: strided convolution; up: convolution after doubling), if there is one.
    pub resample: Option<Conv>,
}

/// The network as the forward pass walks it.
#[derive(Debug, Clone)]
pub struct UNet {
    pub init: Conv,
    pub time1: Linear,
    pub time2: Linear,
    pub down: Vec<Level>,
    pub mid1: ResBlock,
    pub mid_attention: Attention,
    pub mid2: ResBlock,
    /// From the deepest level to the first.
    pub up: Vec<Level>,
    pub out_norm: Norm,
    pub out_conv: Conv,
}

#[derive(Debug, Clone)]
pub struct Blueprint {
    pub config: UNetConfig,
    /// Every module, parents before children, in the order of creation.
    pub entries: Vec<Entry>,
    /// Shapes of all parameters in state-dict order.
    pub shapes: Vec<Vec<i64>>,
    pub net: UNet,
}

impl Blueprint {
    pub fn new(config: UNetConfig) -> Result<Self> {
        config.validate()?;
        // First pass: which modules there are. Second pass: the same with each layer's place in the state dict known.
        let mut draft = Builder::default();
        draft.unet(&config);
        let (places, shapes) = state_dict_layout(&draft.entries);
        let mut builder = Builder { entries: Vec::new(), places };
        let net = builder.unet(&config);
        Ok(Self { config, entries: builder.entries, shapes, net })
    }

    /// Height and width must be divisible by this, so that every level can be halved.
    pub fn size_multiple(&self) -> i64 {
        1 << (self.config.levels() - 1)
    }
}

/// The state dict lists modules depth first, children in the order of registration.
fn state_dict_layout(entries: &[Entry]) -> (HashMap<String, usize>, Vec<Vec<i64>>) {
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    for (id, entry) in entries.iter().enumerate() {
        let parent = entry.path.rsplit_once('.').map_or("", |(parent, _)| parent);
        children.entry(parent).or_default().push(id);
    }
    let (mut places, mut shapes) = (HashMap::new(), Vec::new());
    let mut pending: Vec<usize> = children.get("").into_iter().flatten().rev().copied().collect();
    while let Some(id) = pending.pop() {
        let entry = &entries[id];
        places.insert(entry.path.clone(), shapes.len());
        shapes.extend(entry.layer.parameter_shapes());
        pending.extend(children.get(entry.path.as_str()).into_iter().flatten().rev());
    }
    (places, shapes)
}

#[derive(Default)]
struct Builder {
    entries: Vec<Entry>,
    places: HashMap<String, usize>,
}

impl Builder {
    fn add(&mut self, path: &str, layer: Layer) -> usize {
        self.entries.push(Entry { path: path.to_owned(), layer });
        self.places.get(path).copied().unwrap_or_default()
    }

    fn container(&mut self, path: &str, class: &'static str) {
        self.add(path, Layer::Container(class));
    }

    fn conv(&mut self, path: &str, cin: i64, cout: i64, kernel: i64, stride: i64) -> Conv {
        let padding = kernel / 2;
        let param = self.add(path, Layer::Conv2d { cin, cout, kernel, stride, padding });
        Conv { param, cin, cout, kernel, stride, padding }
    }

    fn linear(&mut self, path: &str, cin: i64, cout: i64) -> Linear {
        Linear { param: self.add(path, Layer::Linear { cin, cout }), cout }
    }

    fn norm(&mut self, path: &str, channels: i64) -> Norm {
        let groups = (1..=MAX_GROUPS.min(channels)).rev().find(|g| channels % g == 0).unwrap_or(1);
        Norm { param: self.add(path, Layer::GroupNorm { groups, channels }), groups, channels }
    }

    fn res_block(&mut self, path: &str, cin: i64, cout: i64, config: &UNetConfig) -> ResBlock {
        self.container(path, "ResBlock");
        let norm1 = self.norm(&format!("{path}.norm1"), cin);
        self.add(&format!("{path}.act1"), Layer::SiLU);
        let conv1 = self.conv(&format!("{path}.conv1"), cin, cout, 3, 1);
        self.container(&format!("{path}.time_proj"), "Sequential");
        self.add(&format!("{path}.time_proj.0"), Layer::SiLU);
        let time = self.linear(&format!("{path}.time_proj.1"), config.time_dim, cout);
        let norm2 = self.norm(&format!("{path}.norm2"), cout);
        self.add(&format!("{path}.act2"), Layer::SiLU);
        self.add(&format!("{path}.dropout"), Layer::Dropout { p: config.dropout });
        let conv2 = self.conv(&format!("{path}.conv2"), cout, cout, 3, 1);
        let skip_path = format!("{path}.skip");
        let skip = if cin == cout {
            self.add(&skip_path, Layer::Identity);
            None
        } else {
            Some(self.conv(&skip_path, cin, cout, 1, 1))
        };
        ResBlock { norm1, conv1, time, norm2, conv2, skip }
    }

    fn attention(&mut self, path: &str, channels: i64, heads: i64) -> Attention {
        self.container(path, "SelfAttention2d");
        let norm = self.norm(&format!("{path}.norm"), channels);
        let param = self.add(&format!("{path}.attn"), Layer::MultiheadAttention { channels, heads });
        Attention { norm, param, channels, heads }
    }

    /// Two residual blocks, and attention where the level has it.
    fn level(&mut self, path: &str, level: usize, cin: i64, config: &UNetConfig) -> Level {
        let width = config.width(level);
        self.container(path, "ModuleList");
        let block1 = self.res_block(&format!("{path}.0"), cin, width, config);
        let block2 = self.res_block(&format!("{path}.1"), width, width, config);
        let attention = if config.has_attention(level) {
            Some(self.attention(&format!("{path}.2"), width, config.num_heads))
        } else {
            self.add(&format!("{path}.2"), Layer::Identity);
            None
        };
        Level { block1, block2, attention, resample: None }
    }

    fn resample(&mut self, path: &str, class: &'static str, channels: i64, stride: i64) -> Option<Conv> {
        self.container(path, class);
        Some(self.conv(&format!("{path}.conv"), channels, channels, 3, stride))
    }

    fn unet(&mut self, config: &UNetConfig) -> UNet {
        let last = config.levels() - 1;
        let deepest = config.width(last);

        let init = self.conv("init", config.in_ch, config.base_ch, 3, 1);
        self.container("time_mlp", "Sequential");
        let time1 = self.linear("time_mlp.0", config.time_dim, 4 * config.time_dim);
        self.add("time_mlp.1", Layer::SiLU);
        let time2 = self.linear("time_mlp.2", 4 * config.time_dim, config.time_dim);

        self.container("down_blocks", "ModuleList");
        self.container("downsamples", "ModuleList");
        let mut down = Vec::new();
        let mut width = config.base_ch;
        for index in 0..=last {
            let mut level = self.level(&format!("down_blocks.{index}"), index, width, config);
            width = config.width(index);
            if index < last {
                level.resample = self.resample(&format!("downsamples.{index}"), "Downsample", width, 2);
            }
            down.push(level);
        }

        let mid1 = self.res_block("mid_block1", deepest, deepest, config);
        let mid_attention = self.attention("mid_attn", deepest, config.num_heads);
        let mid2 = self.res_block("mid_block2", deepest, deepest, config);

        self.container("up_blocks", "ModuleList");
        self.container("upsamples", "ModuleList");
        let mut up = Vec::new();
        for (step, index) in (0..=last).rev().enumerate() {
            let mut level = self.level(&format!("up_blocks.{step}"), index, width + config.width(index), config);
            width = config.width(index);
            if index > 0 {
                level.resample = self.resample(&format!("upsamples.{step}"), "Upsample", width, 1);
            }
            up.push(level);
        }

        let out_norm = self.norm("out_norm", width);
        self.add("out_act", Layer::SiLU);
        let out_conv = self.conv("out_conv", width, config.in_ch, 3, 1);
        UNet { init, time1, time2, down, mid1, mid_attention, mid2, up, out_norm, out_conv }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_course_configuration_has_12_356_161_parameters_in_198_entries() {
        let blueprint = Blueprint::new(UNetConfig::default()).expect("a blueprint");
        assert_eq!(blueprint.shapes.len(), 198);
        let count: i64 = blueprint.shapes.iter().map(|shape| shape.iter().product::<i64>()).sum();
        assert_eq!(count, 12_356_161);
    }

    #[test]
    fn layers_point_at_their_own_shapes() {
        let blueprint = Blueprint::new(UNetConfig::default()).expect("a blueprint");
        let net = &blueprint.net;
        for conv in [net.init, net.out_conv, net.mid1.conv1, net.up[2].block1.conv1] {
            assert_eq!(blueprint.shapes[conv.param], [conv.cout, conv.cin, conv.kernel, conv.kernel]);
        }
        assert_eq!(blueprint.shapes[net.mid_attention.param], [768, 256]);
    }

    #[test]
    fn heads_that_do_not_divide_the_channels_are_refused() {
        let config = UNetConfig { num_heads: 3, ..UNetConfig::default() };
        let message = Blueprint::new(config).expect_err("an error").to_string();
        assert!(message.contains("num_heads"), "{message}");
    }
}
