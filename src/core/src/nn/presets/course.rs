//! The course's network (SPEC section 3): two residual blocks a level, one skip a level, attention at chosen levels.

use super::{check_count, check_dropout, check_levels, MAX_CHANNELS};
use crate::error::{ensure, Result};
use crate::nn::blueprint::{
    Attention, Blueprint, Layer, Network, Norm, Op, Order, Projections, ResBlock, TimeAddition, TimeEmbedding,
};
use crate::nn::builder::Builder;

/// Group normalisation uses the largest number of groups up to this that divides the channels.
const MAX_GROUPS: i64 = 32;
const NORM_EPS: f64 = 1e-5;

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
        check_count("in_ch", self.in_ch)?;
        check_count("base_ch", self.base_ch)?;
        check_count("num_heads", self.num_heads)?;
        ensure!(
            (2..=MAX_CHANNELS).contains(&self.time_dim),
            Value,
            "time_dim must be between 2 and {MAX_CHANNELS}, got {}",
            self.time_dim
        );
        check_dropout(self.dropout)?;
        check_levels("channel_mults", &self.channel_mults)?;
        let levels = self.levels();
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

impl Blueprint {
    /// The course's network.
    pub fn course(config: &UNetConfig) -> Result<Self> {
        config.validate()?;
        Self::new(|builder| Course { builder, config, ops: Vec::new() }.network())
    }
}

struct Course<'a> {
    builder: &'a mut Builder,
    config: &'a UNetConfig,
    ops: Vec<Op>,
}

impl Course<'_> {
    fn network(mut self) -> Network {
        let config = self.config;
        let init = self.builder.conv("init", config.in_ch, config.base_ch, 3, 1);
        self.ops.push(Op::Conv(init));
        let time = self.time();
        self.way_down();
        self.middle();
        let width = self.way_up();
        self.head(width);
        Network { time, ops: self.ops, in_channels: config.in_ch }
    }

    fn time(&mut self) -> TimeEmbedding {
        let dim = self.config.time_dim;
        self.builder.container("time_mlp", "Sequential");
        let first = self.builder.linear("time_mlp.0", dim, 4 * dim);
        self.builder.add("time_mlp.1", Layer::SiLU);
        let second = self.builder.linear("time_mlp.2", 4 * dim, dim);
        TimeEmbedding { features: dim, order: Order::SinCos, frequency_shift: 0.0, first, second }
    }

    fn way_down(&mut self) {
        let last = self.config.levels() - 1;
        self.builder.container("down_blocks", "ModuleList");
        self.builder.container("downsamples", "ModuleList");
        let mut width = self.config.base_ch;
        for index in 0..=last {
            self.level(&format!("down_blocks.{index}"), index, width);
            width = self.config.width(index);
            self.ops.push(Op::Push);
            if index < last {
                let path = format!("downsamples.{index}");
                self.builder.container(&path, "Downsample");
                let conv = self.builder.conv(&format!("{path}.conv"), width, width, 3, 2);
                self.ops.push(Op::Down(conv));
            }
        }
    }

    fn middle(&mut self) {
        let deepest = self.config.width(self.config.levels() - 1);
        self.res_block("mid_block1", deepest, deepest);
        self.attention("mid_attn", deepest);
        self.res_block("mid_block2", deepest, deepest);
    }

    /// Gives the width that it ends with.
    fn way_up(&mut self) -> i64 {
        let last = self.config.levels() - 1;
        self.builder.container("up_blocks", "ModuleList");
        self.builder.container("upsamples", "ModuleList");
        let mut width = self.config.width(last);
        for (step, index) in (0..=last).rev().enumerate() {
            self.ops.push(Op::Pop);
            self.level(&format!("up_blocks.{step}"), index, width + self.config.width(index));
            width = self.config.width(index);
            if index > 0 {
                let path = format!("upsamples.{step}");
                self.builder.container(&path, "Upsample");
                let conv = self.builder.conv(&format!("{path}.conv"), width, width, 3, 1);
                self.ops.push(Op::Up(conv));
            }
        }
        width
    }

    fn head(&mut self, width: i64) {
        let norm = self.norm("out_norm", width);
        self.builder.add("out_act", Layer::SiLU);
        let conv = self.builder.conv("out_conv", width, self.config.in_ch, 3, 1);
        self.ops.push(Op::Head(norm, conv));
    }

    /// Two residual blocks, and attention where the level has it.
    fn level(&mut self, path: &str, level: usize, cin: i64) {
        let width = self.config.width(level);
        self.builder.container(path, "ModuleList");
        self.res_block(&format!("{path}.0"), cin, width);
        self.res_block(&format!("{path}.1"), width, width);
        if self.config.has_attention(level) {
            self.attention(&format!("{path}.2"), width);
        } else {
            self.builder.add(&format!("{path}.2"), Layer::Identity);
        }
    }

    fn norm(&mut self, path: &str, channels: i64) -> Norm {
        let groups = (1..=MAX_GROUPS.min(channels)).rev().find(|g| channels % g == 0).unwrap_or(1);
        self.builder.norm(path, channels, groups, NORM_EPS)
    }

    fn res_block(&mut self, path: &str, cin: i64, cout: i64) {
        self.builder.container(path, "ResBlock");
        let norm1 = self.norm(&format!("{path}.norm1"), cin);
        self.builder.add(&format!("{path}.act1"), Layer::SiLU);
        let conv1 = self.builder.conv(&format!("{path}.conv1"), cin, cout, 3, 1);
        self.builder.container(&format!("{path}.time_proj"), "Sequential");
        self.builder.add(&format!("{path}.time_proj.0"), Layer::SiLU);
        let time = self.builder.linear(&format!("{path}.time_proj.1"), self.config.time_dim, cout);
        let norm2 = self.norm(&format!("{path}.norm2"), cout);
        self.builder.add(&format!("{path}.act2"), Layer::SiLU);
        self.builder.add(&format!("{path}.dropout"), Layer::Dropout { p: self.config.dropout });
        let conv2 = self.builder.conv(&format!("{path}.conv2"), cout, cout, 3, 1);
        let skip_path = format!("{path}.skip");
        let skip = if cin == cout {
            self.builder.add(&skip_path, Layer::Identity);
            None
        } else {
            Some(self.builder.conv(&skip_path, cin, cout, 1, 1))
        };
        let addition = TimeAddition::Shift;
        self.ops.push(Op::ResBlock(ResBlock { norm1, conv1, time, addition, norm2, conv2, skip }));
    }

    fn attention(&mut self, path: &str, channels: i64) {
        let heads = self.config.num_heads;
        self.builder.container(path, "SelfAttention2d");
        let norm = Some(self.norm(&format!("{path}.norm"), channels));
        let packed = self.builder.add(&format!("{path}.attn"), Layer::MultiheadAttention { channels, heads });
        let projections = Projections::Packed(packed);
        self.ops.push(Op::Attention(Attention { norm, projections, out: packed + 2, channels, heads }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_course_configuration_has_12_356_161_parameters_in_198_entries() {
        let blueprint = Blueprint::course(&UNetConfig::default()).expect("a blueprint");
        assert_eq!(blueprint.shapes.len(), 198);
        let count: i64 = blueprint.shapes.iter().map(|shape| shape.iter().product::<i64>()).sum();
        assert_eq!(count, 12_356_161);
        assert_eq!(blueprint.size_multiple(), 4);
    }

    #[test]
    fn layers_point_at_their_own_shapes() {
        let blueprint = Blueprint::course(&UNetConfig::default()).expect("a blueprint");
        for op in &blueprint.ops {
            match op {
                Op::Conv(conv) | Op::Down(conv) | Op::Up(conv) | Op::Head(_, conv) => {
                    assert_eq!(blueprint.shapes[conv.param], [conv.cout, conv.cin, conv.kernel, conv.kernel]);
                }
                Op::ResBlock(block) => {
                    assert_eq!(blueprint.shapes[block.time.param], [block.conv1.cout, 256]);
                }
                Op::Attention(attention) => {
                    assert_eq!(blueprint.shapes[attention.out], [attention.channels; 2]);
                }
                Op::Push | Op::Pop => {}
            }
        }
    }

    #[test]
    fn heads_that_do_not_divide_the_channels_are_refused() {
        let config = UNetConfig { num_heads: 3, ..UNetConfig::default() };
        let message = Blueprint::course(&config).expect_err("an error").to_string();
        assert!(message.contains("num_heads"), "{message}");
    }
}
