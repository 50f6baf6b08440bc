//! The `UNet2DModel` family of diffusers (Ho et al. 2020, appendix B): one skip a block, separate projections.

use crate::error::{ensure, Result};
use crate::nn::blueprint::{
    Attention, Blueprint, Conv, Layer, Network, Norm, Op, Order, Padding, Projections, ResBlock, TimeAddition,
    TimeEmbedding,
};
use crate::nn::builder::Builder;

use super::{check_count, check_dropout, check_levels};

/// A network of the family, in the words of its `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct UNet2DConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    /// Channels of each level.
    pub block_out_channels: Vec<i64>,
    /// Whether a level has attention on the way down (`AttnDownBlock2D`).
    pub down_attention: Vec<bool>,
    /// The same on the way up, from the deepest level.
    pub up_attention: Vec<bool>,
    /// Residual blocks of a level on the way down; on the way up there is one more.
    pub layers_per_block: i64,
    pub norm_num_groups: i64,
    pub norm_eps: f64,
    /// 1: zeros on all sides; 0: one row and column of zeros after each axis.
    pub downsample_padding: i64,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    /// Channels of a head; None: one head.
    pub attention_head_dim: Option<i64>,
    pub time_addition: TimeAddition,
    pub dropout: f64,
}

impl UNet2DConfig {
    fn validate(&self) -> Result<()> {
        check_levels("block_out_channels", &self.block_out_channels)?;
        let levels = self.block_out_channels.len();
        for (name, count) in [("down", self.down_attention.len()), ("up", self.up_attention.len())] {
            ensure!(count == levels, Value, "{name}_block_types must have {levels} entries, got {count}");
        }
        check_count("in_channels", self.in_channels)?;
        check_count("out_channels", self.out_channels)?;
        check_count("norm_num_groups", self.norm_num_groups)?;
        check_count("layers_per_block", self.layers_per_block)?;
        self.block_out_channels.iter().try_for_each(|channels| check_count("block_out_channels", *channels))?;
        ensure!(
            self.block_out_channels[0] >= 4,
            Value,
            "block_out_channels must begin with at least 4, for the time embedding, got {}",
            self.block_out_channels[0]
        );
        let half = (self.block_out_channels[0] / 2) as f64;
        ensure!(
            self.freq_shift.is_finite() && self.freq_shift < half,
            Value,
            "freq_shift must be below {half}, half of the first block_out_channels, got {}",
            self.freq_shift
        );
        ensure!(
            self.norm_eps.is_finite() && self.norm_eps > 0.0,
            Value,
            "norm_eps must be above 0, got {}",
            self.norm_eps
        );
        check_dropout(self.dropout)?;
        ensure!(
            matches!(self.downsample_padding, 0 | 1),
            Value,
            "downsample_padding must be 0 or 1, got {}",
            self.downsample_padding
        );
        self.validate_widths()
    }

    /// Groups and heads against the channels that they divide.
    fn validate_widths(&self) -> Result<()> {
        for channels in &self.block_out_channels {
            ensure!(
                channels % self.norm_num_groups == 0,
                Value,
                "norm_num_groups must divide block_out_channels, got {} and {channels}",
                self.norm_num_groups
            );
        }
        let Some(width) = self.attention_head_dim else { return Ok(()) };
        for channels in self.attention_widths() {
            ensure!(
                width >= 1 && channels % width == 0,
                Value,
                "attention_head_dim must divide the block_out_channels of the deepest level and of those with \
                 attention, got {width} and {channels}"
            );
        }
        Ok(())
    }

    /// Channels of the levels that have attention, the middle among them, which is as wide as the deepest.
    fn attention_widths(&self) -> impl Iterator<Item = i64> + '_ {
        let last = self.block_out_channels.len() - 1;
        let attends =
            move |level: &usize| *level == last || self.down_attention[*level] || self.up_attention[last - level];
        (0..=last).filter(attends).map(move |level| self.block_out_channels[level])
    }

    fn heads(&self, channels: i64) -> i64 {
        self.attention_head_dim.map_or(1, |width| channels / width)
    }

    /// Length of the time embedding that the blocks read.
    fn time_dim(&self) -> i64 {
        4 * self.block_out_channels[0]
    }
}

impl Blueprint {
    /// A network of the `UNet2DModel` family.
    pub fn diffusers(config: &UNet2DConfig) -> Result<Self> {
        config.validate()?;
        Self::new(|builder| UNet2D { builder, config, ops: Vec::new(), skips: Vec::new() }.network())
    }
}

struct UNet2D<'a> {
    builder: &'a mut Builder,
    config: &'a UNet2DConfig,
    ops: Vec<Op>,
    /// Channels of the skips that are pushed and not yet popped.
    skips: Vec<i64>,
}

impl UNet2D<'_> {
    fn network(mut self) -> Network {
        let config = self.config;
        let first = config.block_out_channels[0];
        let conv_in = self.builder.conv("conv_in", config.in_channels, first, 3, 1);
        self.ops.push(Op::Conv(conv_in));
        self.push(first);
        let time = self.time();
        self.builder.container("down_blocks", "ModuleList");
        self.builder.container("up_blocks", "ModuleList");
        self.way_down();
        self.middle();
        self.way_up();
        self.head(first);
        Network { time, ops: self.ops, in_channels: config.in_channels }
    }

    fn push(&mut self, channels: i64) {
        self.ops.push(Op::Push);
        self.skips.push(channels);
    }

    fn time(&mut self) -> TimeEmbedding {
        let (config, features, dim) = (self.config, self.config.block_out_channels[0], self.config.time_dim());
        self.builder.container("time_proj", "Timesteps");
        self.builder.container("time_embedding", "TimestepEmbedding");
        let first = self.builder.linear("time_embedding.linear_1", features, dim);
        self.builder.add("time_embedding.act", Layer::SiLU);
        let second = self.builder.linear("time_embedding.linear_2", dim, dim);
        let order = if config.flip_sin_to_cos { Order::CosSin } else { Order::SinCos };
        TimeEmbedding { features, order, frequency_shift: config.freq_shift, first, second }
    }

    fn way_down(&mut self) {
        let config = self.config;
        let last = config.block_out_channels.len() - 1;
        let mut width = config.block_out_channels[0];
        for (level, &channels) in config.block_out_channels.iter().enumerate() {
            let path = format!("down_blocks.{level}");
            let attention = config.down_attention[level];
            self.block(&path, if attention { "AttnDownBlock2D" } else { "DownBlock2D" }, attention);
            for index in 0..config.layers_per_block {
                self.res_block(&format!("{path}.resnets.{index}"), width, channels);
                width = channels;
                if attention {
                    self.attention(&format!("{path}.attentions.{index}"), channels, true);
                }
                self.push(channels);
            }
            if level < last {
                let conv = self.downsampler(&path, channels);
                self.ops.push(Op::Down(conv));
                self.push(channels);
            }
        }
    }

    fn downsampler(&mut self, path: &str, channels: i64) -> Conv {
        self.builder.container(&format!("{path}.downsamplers"), "ModuleList");
        self.builder.container(&format!("{path}.downsamplers.0"), "Downsample2D");
        let path = format!("{path}.downsamplers.0.conv");
        match self.config.downsample_padding {
            0 => self.builder.padded_conv(&path, [channels; 2], 3, 2, Padding::AFTER),
            _ => self.builder.conv(&path, channels, channels, 3, 2),
        }
    }

    fn middle(&mut self) {
        let deepest = self.config.block_out_channels[self.config.block_out_channels.len() - 1];
        self.block("mid_block", "UNetMidBlock2D", true);
        self.res_block("mid_block.resnets.0", deepest, deepest);
        // with scale and shift, diffusers gives the middle's attention no normalisation
        self.attention("mid_block.attentions.0", deepest, self.config.time_addition == TimeAddition::Shift);
        self.res_block("mid_block.resnets.1", deepest, deepest);
    }

    fn way_up(&mut self) {
        let config = self.config;
        let last = config.block_out_channels.len() - 1;
        let mut width = config.block_out_channels[last];
        for (step, &channels) in config.block_out_channels.iter().rev().enumerate() {
            let path = format!("up_blocks.{step}");
            let attention = config.up_attention[step];
            self.block(&path, if attention { "AttnUpBlock2D" } else { "UpBlock2D" }, attention);
            for index in 0..=config.layers_per_block {
                let skip = self.skips.pop().unwrap_or_default();
                self.ops.push(Op::Pop);
                self.res_block(&format!("{path}.resnets.{index}"), width + skip, channels);
                width = channels;
                if attention {
                    self.attention(&format!("{path}.attentions.{index}"), channels, true);
                }
            }
            if step < last {
                self.builder.container(&format!("{path}.upsamplers"), "ModuleList");
                self.builder.container(&format!("{path}.upsamplers.0"), "Upsample2D");
                let conv = self.builder.conv(&format!("{path}.upsamplers.0.conv"), channels, channels, 3, 1);
                self.ops.push(Op::Up(conv));
            }
        }
    }

    fn head(&mut self, width: i64) {
        let norm = self.norm("conv_norm_out", width);
        self.builder.add("conv_act", Layer::SiLU);
        let conv = self.builder.conv("conv_out", width, self.config.out_channels, 3, 1);
        self.ops.push(Op::Head(norm, conv));
    }

    /// A block's module and its lists; the list of attentions comes first.
    fn block(&mut self, path: &str, class: &'static str, attention: bool) {
        self.builder.container(path, class);
        if attention {
            self.builder.container(&format!("{path}.attentions"), "ModuleList");
        }
        self.builder.container(&format!("{path}.resnets"), "ModuleList");
    }

    fn norm(&mut self, path: &str, channels: i64) -> Norm {
        self.builder.norm(path, channels, self.config.norm_num_groups, self.config.norm_eps)
    }

    fn res_block(&mut self, path: &str, cin: i64, cout: i64) {
        let addition = self.config.time_addition;
        let numbers = if addition == TimeAddition::ScaleAndShift { 2 * cout } else { cout };
        self.builder.container(path, "ResnetBlock2D");
        let norm1 = self.norm(&format!("{path}.norm1"), cin);
        let conv1 = self.builder.conv(&format!("{path}.conv1"), cin, cout, 3, 1);
        let time = self.builder.linear(&format!("{path}.time_emb_proj"), self.config.time_dim(), numbers);
        let norm2 = self.norm(&format!("{path}.norm2"), cout);
        self.builder.add(&format!("{path}.dropout"), Layer::Dropout { p: self.config.dropout });
        let conv2 = self.builder.conv(&format!("{path}.conv2"), cout, cout, 3, 1);
        self.builder.add(&format!("{path}.nonlinearity"), Layer::SiLU);
        let skip = (cin != cout).then(|| self.builder.conv(&format!("{path}.conv_shortcut"), cin, cout, 1, 1));
        self.ops.push(Op::ResBlock(ResBlock { norm1, conv1, time, addition, norm2, conv2, skip }));
    }

    fn attention(&mut self, path: &str, channels: i64, normalised: bool) {
        self.builder.container(path, "Attention");
        let norm = normalised.then(|| self.norm(&format!("{path}.group_norm"), channels));
        let mut project = |name: &str| self.builder.linear(&format!("{path}.{name}"), channels, channels).param;
        let projections = Projections::Separate([project("to_q"), project("to_k"), project("to_v")]);
        self.builder.container(&format!("{path}.to_out"), "ModuleList");
        let out = self.builder.linear(&format!("{path}.to_out.0"), channels, channels).param;
        self.builder.add(&format!("{path}.to_out.1"), Layer::Dropout { p: 0.0 });
        let heads = self.config.heads(channels);
        self.ops.push(Op::Attention(Attention { norm, projections, out, channels, heads }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cifar10() -> UNet2DConfig {
        UNet2DConfig {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 256, 256],
            down_attention: vec![false, true, false, false],
            up_attention: vec![false, false, true, false],
            layers_per_block: 2,
            norm_num_groups: 32,
            norm_eps: 1e-6,
            downsample_padding: 0,
            flip_sin_to_cos: false,
            freq_shift: 1.0,
            attention_head_dim: None,
            time_addition: TimeAddition::Shift,
            dropout: 0.0,
        }
    }

    #[test]
    fn the_cifar10_configuration_has_35_746_307_parameters_in_328_tensors() {
        let blueprint = Blueprint::diffusers(&cifar10()).expect("a blueprint");
        assert_eq!(blueprint.shapes.len(), 328);
        let count: i64 = blueprint.shapes.iter().map(|shape| shape.iter().product::<i64>()).sum();
        assert_eq!(count, 35_746_307);
        assert_eq!(blueprint.size_multiple(), 8);
    }

    #[test]
    fn every_skip_is_read_once_by_the_block_behind_it() {
        let blueprint = Blueprint::diffusers(&cifar10()).expect("a blueprint");
        let mut left = 0;
        for pair in blueprint.ops.windows(2) {
            match &pair[0] {
                Op::Push => left += 1,
                Op::Pop => {
                    left -= 1;
                    assert!(left >= 0 && matches!(pair[1], Op::ResBlock(_)));
                }
                _ => {}
            }
        }
        assert_eq!(left, 0);
    }

    #[test]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        let config = UNet2DConfig { norm_num_groups: 48, ..cifar10() };
        let message = Blueprint::diffusers(&config).expect_err("an error").to_string();
        assert!(message.contains("norm_num_groups"), "{message}");
    }

    #[test]
    fn heads_divide_the_channels_where_there_is_attention_and_no_others() {
        let wide = |down: [bool; 4], up: [bool; 4]| UNet2DConfig {
            block_out_channels: vec![32, 64, 128, 128],
            down_attention: down.to_vec(),
            up_attention: up.to_vec(),
            attention_head_dim: Some(64),
            ..cifar10()
        };
        let deep = [false, true, true, true];
        assert!(Blueprint::diffusers(&wide(deep, [true, true, true, false])).is_ok());
        for config in [wide([true; 4], [false; 4]), wide(deep, [true; 4])] {
            let message = Blueprint::diffusers(&config).expect_err("an error").to_string();
            assert!(message.contains("attention_head_dim") && message.ends_with("got 64 and 32"), "{message}");
        }
        let config = UNet2DConfig { attention_head_dim: Some(256), ..wide([false; 4], [false; 4]) };
        assert!(Blueprint::diffusers(&config).is_err(), "the middle has attention whatever the levels have");
    }
}
