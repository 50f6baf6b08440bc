//! The network in plain libtorch operations, each of them seen by torch's autograd and autocast.
//!
//! Right for every device, dtype and mode; [`super::cpu`] is the fast way for float32 and bfloat16 on the CPU.

use tch::{Kind, Tensor};

use crate::error::Result;
use crate::nn::blueprint::{Attention, Conv, Linear, Norm, Projections, ResBlock, TimeAddition, TimeEmbedding};
use crate::nn::embedding::sinusoidal;
use crate::nn::wiring::Backend;

pub struct Aten<'a> {
    pub params: &'a [Tensor],
    /// Probability of dropping an activation; 0 outside training.
    pub dropout: f64,
    /// Everything but normalisations in this dtype (bfloat16, half), and those in float32. Images lie as they come: tensor cores want channels
    /// last, but cuDNN's own way there and back is faster than the normalisation's, which wants rows. None: all in the
    /// weights' own dtype.
    pub compute: Option<Kind>,
    /// Attention as explicit matrix products: the fused kernels have no second derivative.
    pub explicit_attention: bool,
}

impl Aten<'_> {
    /// `x` in the dtype that is computed in.
    fn cast(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.compute {
            Some(kind) => x.f_to_kind(kind)?,
            None => x.shallow_clone(),
        })
    }

    fn conv2d(&self, conv: &Conv, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.weight_and_bias(conv.param)?;
        let x = self.cast(x)?;
        let pad = conv.padding;
        if pad.is_even() {
            return Ok(x.f_conv2d(&weight, Some(&bias), [conv.stride; 2], [pad.before; 2], [1, 1], 1)?);
        }
        let x = x.f_constant_pad_nd([pad.before, pad.after, pad.before, pad.after])?;
        Ok(x.f_conv2d(&weight, Some(&bias), [conv.stride; 2], [0, 0], [1, 1], 1)?)
    }

    /// The weight at `param` and the bias behind it.
    fn weight_and_bias(&self, param: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.cast(&self.params[param])?, self.cast(&self.params[param + 1])?))
    }

    /// x W^T + b.
    fn project(&self, param: usize, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.weight_and_bias(param)?;
        Ok(self.cast(x)?.f_linear(&weight, Some(&bias))?)
    }

    fn linear(&self, linear: &Linear, x: &Tensor) -> Result<Tensor> {
        self.project(linear.param, x)
    }

    /// `x` in the dtype of normalisations. On CUDA libtorch rounds mean and deviation to the dtype of their input: from a
    /// short one, a constant that they take away leaves a gradient of rounding errors, which AdamW makes steps of full size.
    fn cast_to_norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.compute {
            Some(_) => x.f_to_kind(Kind::Float)?,
            None => x.shallow_clone(),
        })
    }

    fn norm(&self, norm: &Norm, x: &Tensor) -> Result<Tensor> {
        let weight = self.cast_to_norm(&self.params[norm.param])?;
        let bias = self.cast_to_norm(&self.params[norm.param + 1])?;
        let x = self.cast_to_norm(x)?;
        self.cast(&x.f_group_norm(norm.groups, Some(&weight), Some(&bias), norm.eps, false)?)
    }

    /// Queries, keys and values of a sequence (B, N, C), each (B, heads, N, C / heads).
    fn heads(&self, attention: &Attention, sequence: &Tensor) -> Result<[Tensor; 3]> {
        let (b, tokens, c) = sequence.size3()?;
        let (heads, width) = (attention.heads, c / attention.heads);
        match attention.projections {
            Projections::Packed(param) => {
                let qkv = self.project(param, sequence)?;
                let qkv = qkv.f_reshape([b, tokens, 3, heads, width])?.f_permute([2, 0, 3, 1, 4])?;
                Ok([qkv.f_get(0)?, qkv.f_get(1)?, qkv.f_get(2)?])
            }
            Projections::Separate([q, k, v]) => {
                let one = |param| -> Result<Tensor> {
                    Ok(self.project(param, sequence)?.f_reshape([b, tokens, heads, width])?.f_transpose(1, 2)?)
                };
                Ok([one(q)?, one(k)?, one(v)?])
            }
        }
    }

    /// The second normalisation of a residual block, into which the time embedding comes.
    fn norm_with_time(&self, block: &ResBlock, h: &Tensor, time: &Tensor) -> Result<Tensor> {
        let numbers = self.linear(&block.time, time)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        match block.addition {
            // the sum too: with one channel to a group, all of the shift is such a constant
            TimeAddition::Shift => self.norm(&block.norm2, &h.f_add(&self.cast_to_norm(&numbers)?)?),
            TimeAddition::ScaleAndShift => {
                let parts = numbers.f_chunk(2, 1)?;
                let normed = self.norm(&block.norm2, h)?;
                Ok(normed.f_mul(&parts[0].f_add_scalar(1.0)?)?.f_add(&parts[1])?)
            }
        }
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

    fn time(&mut self, time: &TimeEmbedding, t: &Tensor) -> Result<Tensor> {
        // The sinusoids are float32; a network moved to another dtype takes them in its own.
        let kind = self.params[time.first.param].f_kind()?;
        let sinusoids = sinusoidal(time, t)?.f_to_kind(kind)?;
        let hidden = self.linear(&time.first, &sinusoids)?.f_silu()?;
        Ok(self.linear(&time.second, &hidden)?.f_silu()?)
    }

    fn conv(&mut self, conv: &Conv, x: Tensor) -> Result<Tensor> {
        self.conv2d(conv, &x)
    }

    fn res_block(&mut self, block: &ResBlock, x: Tensor, skip: Option<Tensor>, time: &Tensor) -> Result<Tensor> {
        let x = match skip {
            Some(skip) => Tensor::f_cat(&[x, skip], 1)?,
            None => x,
        };
        let h = self.conv2d(&block.conv1, &self.norm(&block.norm1, &x)?.f_silu()?)?;
        let mut h = self.norm_with_time(block, &h, time)?.f_silu()?;
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
        let normed = match &attention.norm {
            Some(norm) => self.norm(norm, &x)?,
            None => x.shallow_clone(),
        };
        // (B, C, H, W) -> (B, H*W, C)
        let sequence = normed.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let [q, k, v] = self.heads(attention, &sequence)?;
        let out = self.attend(&q, &k, &v)?.f_transpose(1, 2)?.f_reshape([b, height * width, c])?;
        let out = self.project(attention.out, &out)?;
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
