//! The network in plain libtorch operations, each of them seen by torch's autograd and autocast.
//!
//! Right for every device, dtype and mode; [`super::engine`] is the fast way for float32 and bfloat16 on the CPU.

use tch::{Kind, Tensor};

use super::blueprint::{Attention, Conv, Linear, Norm, ResBlock, UNet, NORM_EPS};
use super::embedding::sinusoidal;
use super::wiring::Backend;
use crate::error::Result;
use crate::libtorch::{laid_out, Layout};

pub struct Aten<'a> {
    pub params: &'a [Tensor],
    /// Probability of dropping an activation; 0 outside training.
    pub dropout: f64,
    /// Convolutions and matrix products in this dtype (bfloat16, half) and with channels last in memory, as tensor cores
    /// want them, everything else in the weights' own; None: all in the weights' own, in the layout that it comes in.
    pub compute: Option<Kind>,
    /// Attention as explicit matrix products: the fused kernels have no second derivative.
    pub explicit_attention: bool,
}

impl Aten<'_> {
    /// `x` in the dtype of the matrix products.
    fn cast(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.compute {
            Some(kind) => x.f_to_kind(kind)?,
            None => x.shallow_clone(),
        })
    }

    /// The same for images and the weights of convolutions, with the layout that goes with that dtype.
    fn cast_image(&self, x: &Tensor) -> Result<Tensor> {
        match self.compute {
            Some(kind) => laid_out(x, kind, Layout::ChannelsLast),
            None => Ok(x.shallow_clone()),
        }
    }

    fn conv2d(&self, conv: &Conv, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.cast_image(&self.params[conv.param])?, self.cast(&self.params[conv.param + 1])?);
        let (s, p) = ([conv.stride; 2], [conv.padding; 2]);
        Ok(self.cast_image(x)?.f_conv2d(&weight, Some(&bias), s, p, [1, 1], 1)?)
    }

    /// x W^T + b with the weight at `param` and the bias behind it.
    fn project(&self, param: usize, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.cast(&self.params[param])?, self.cast(&self.params[param + 1])?);
        Ok(self.cast(x)?.f_linear(&weight, Some(&bias))?)
    }

    fn linear(&self, linear: &Linear, x: &Tensor) -> Result<Tensor> {
        self.project(linear.param, x)
    }

    /// Statistics in the weights' own dtype, also where the rest computes in a shorter one. libtorch's normalisation on
    /// CUDA wants rows: the layout changes where the dtype does, in the same pass.
    fn norm(&self, norm: &Norm, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (&self.params[norm.param], &self.params[norm.param + 1]);
        let x = match self.compute {
            Some(_) => laid_out(x, weight.f_kind()?, Layout::Rows)?,
            None => x.shallow_clone(),
        };
        Ok(x.f_group_norm(norm.groups, Some(weight), Some(bias), NORM_EPS, false)?)
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        if !self.explicit_attention {
            return Ok(Tensor::f_scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, false, None, false)?);
        }
        let scale = (q.size().last().copied().unwrap_or(1) as f64).sqrt().recip();
        let scores = q.f_mul_scalar(scale)?.f_matmul(&k.f_transpose(-2, -1)?)?;
        Ok(scores.f_softmax(-1, None::<Kind>)?.f_matmul(v)?)
    }
}

impl Backend for Aten<'_> {
    type Act = Tensor;
    /// silu of the time embedding, (B, time_dim): what every block's projection reads.
    type Time = Tensor;

    fn input(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }

    fn time(&mut self, net: &UNet, t: &Tensor) -> Result<Tensor> {
        let weight = &self.params[net.time1.param];
        let embedding = sinusoidal(t, weight.size()[1])?;
        // The embedding is float32; a network moved to another dtype takes it in its own.
        let embedding = embedding.f_to_kind(weight.f_kind()?)?;
        let hidden = self.linear(&net.time1, &embedding)?.f_silu()?;
        Ok(self.linear(&net.time2, &hidden)?.f_silu()?)
    }

    fn conv(&mut self, conv: &Conv, x: &Tensor) -> Result<Tensor> {
        self.conv2d(conv, x)
    }

    fn res_block(&mut self, block: &ResBlock, x: Tensor, skip: Option<Tensor>, time: &Tensor) -> Result<Tensor> {
        let x = match skip {
            Some(skip) => Tensor::f_cat(&[x, skip], 1)?,
            None => x,
        };
        let h = self.conv2d(&block.conv1, &self.norm(&block.norm1, &x)?.f_silu()?)?;
        let shift = self.linear(&block.time, time)?;
        let h = h.f_add(&shift.f_unsqueeze(-1)?.f_unsqueeze(-1)?)?;
        let mut h = self.norm(&block.norm2, &h)?.f_silu()?;
        if self.dropout > 0.0 {
            h = h.f_dropout(self.dropout, true)?;
        }
        let h = self.conv2d(&block.conv2, &h)?;
        match &block.skip {
            Some(conv) => Ok(h.f_add(&self.conv2d(conv, &x)?)?),
            None => Ok(h.f_add(&x)?),
        }
    }

    fn attention(&mut self, attention: &Attention, x: Tensor) -> Result<Tensor> {
        let (b, c, height, width) = x.size4()?;
        let (heads, tokens) = (attention.heads, height * width);
        let p = attention.param;
        // (B, C, H, W) -> (B, H*W, C): a view when the memory is channels-last
        let sequence = self.cast_image(&self.norm(&attention.norm, &x)?)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let qkv = self.project(p, &sequence)?;
        let qkv = qkv.f_reshape([b, tokens, 3, heads, c / heads])?.f_permute([2, 0, 3, 1, 4])?;
        let parts = qkv.f_unbind(0)?;
        let out = self.attend(&parts[0], &parts[1], &parts[2])?.f_transpose(1, 2)?.f_reshape([b, tokens, c])?;
        let out = self.project(p + 2, &out)?;
        Ok(x.f_add(&out.f_transpose(1, 2)?.f_reshape([b, c, height, width])?)?)
    }

    fn upsample(&mut self, conv: &Conv, x: Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x.size4()?;
        self.conv2d(conv, &x.f_upsample_nearest2d([2 * height, 2 * width], None, None)?)
    }

    fn head(&mut self, norm: &Norm, conv: &Conv, x: Tensor) -> Result<Tensor> {
        self.conv2d(conv, &self.norm(norm, &x)?.f_silu()?)
    }

    fn share(&mut self, x: &Tensor) -> Tensor {
        x.shallow_clone()
    }
}
