//! How the operations are joined: one loop, for every network and every way of computing it.

use tch::Tensor;

use super::blueprint::{Attention, Blueprint, Conv, Norm, Op, ResBlock, TimeEmbedding};
use crate::error::{ensure, Error, Result};

/// A way of computing the operations: `Act` are its activations, `Time` what it makes of the timesteps.
pub trait Backend {
    type Act;
    type Time;

    fn input(&mut self, x: &Tensor) -> Result<Self::Act>;
    fn time(&mut self, time: &TimeEmbedding, t: &Tensor) -> Result<Self::Time>;
    /// A plain convolution, of any stride.
    fn conv(&mut self, conv: &Conv, x: Self::Act) -> Result<Self::Act>;
    /// A residual block on `x`, or on the concatenation of `x` and `skip`.
    fn res_block(
        &mut self,
        block: &ResBlock,
        x: Self::Act,
        skip: Option<Self::Act>,
        time: &Self::Time,
    ) -> Result<Self::Act>;
    fn attention(&mut self, attention: &Attention, x: Self::Act) -> Result<Self::Act>;
    /// Nearest doubling, then the convolution.
    fn upsample(&mut self, conv: &Conv, x: Self::Act) -> Result<Self::Act>;
    fn head(&mut self, norm: &Norm, conv: &Conv, x: Self::Act) -> Result<Self::Act>;
    /// A second handle on an activation that is needed twice.
    fn share(&mut self, x: &Self::Act) -> Self::Act;
}

/// The network: (x, t) -> prediction.
pub fn forward<B: Backend>(plan: &Blueprint, backend: &mut B, x: &Tensor, t: &Tensor) -> Result<B::Act> {
    let time = backend.time(&plan.time, t)?;
    let mut h = backend.input(x)?;
    let (mut skips, mut popped) = (Vec::new(), None);
    for op in &plan.ops {
        h = match op {
            Op::Conv(conv) | Op::Down(conv) => backend.conv(conv, h)?,
            Op::ResBlock(block) => backend.res_block(block, h, popped.take(), &time)?,
            Op::Attention(attention) => backend.attention(attention, h)?,
            Op::Up(conv) => backend.upsample(conv, h)?,
            Op::Head(norm, conv) => backend.head(norm, conv, h)?,
            Op::Push => {
                skips.push(backend.share(&h));
                h
            }
            Op::Pop => {
                let skip = skips.pop();
                popped = Some(skip.ok_or_else(|| Error::Runtime("internal error: no skip is left".into()))?);
                h
            }
        };
    }
    Ok(h)
}

/// What every forward pass checks before it starts.
pub fn check_inputs(plan: &Blueprint, params: &[Tensor], x: &Tensor, t: &Tensor) -> Result<()> {
    check_image(plan, x)?;
    check_timesteps(x, t)?;
    let shapes = &plan.shapes;
    ensure!(params.len() == shapes.len(), Value, "the network has {} parameters, got {}", shapes.len(), params.len());
    for (index, (param, shape)) in params.iter().zip(shapes).enumerate() {
        ensure!(param.size() == *shape, Value, "parameter {index} must have shape {shape:?}, got {:?}", param.size());
    }
    ensure!(
        params[0].device() == x.device(),
        Value,
        "x must be on the device of the model ({:?}), got {:?}",
        params[0].device(),
        x.device()
    );
    Ok(())
}

fn check_image(plan: &Blueprint, x: &Tensor) -> Result<()> {
    let (channels, multiple, size) = (plan.in_channels, plan.size_multiple(), x.size());
    ensure!(size.len() == 4, Value, "x must have shape (B, {channels}, H, W), got {size:?}");
    ensure!(size[1] == channels, Value, "x must have {channels} channels, got shape {size:?}");
    ensure!(size[0] > 0, Value, "x must hold at least one image, got shape {size:?}");
    ensure!(
        size[2] > 0 && size[3] > 0 && size[2] % multiple == 0 && size[3] % multiple == 0,
        Value,
        "height and width of x must be multiples of {multiple} (one halving per level), got {} x {}",
        size[2],
        size[3]
    );
    crate::diffusion::process::check_float(x, "x")
}

fn check_timesteps(x: &Tensor, t: &Tensor) -> Result<()> {
    let (images, size) = (x.size()[0], t.size());
    ensure!(
        size.len() == 1 && size[0] == images,
        Value,
        "t must have shape ({images},), one timestep per image of x, got {size:?}"
    );
    let kind = t.f_kind().map_err(|_| Error::Type("t has a dtype that is not known here".into()))?;
    ensure!(
        !matches!(kind, tch::Kind::Bool | tch::Kind::ComplexFloat | tch::Kind::ComplexDouble | tch::Kind::ComplexHalf),
        Type,
        "t must hold numbers (torch.long), got {kind:?}"
    );
    ensure!(t.device() == x.device(), Value, "t must be on the device of x ({:?}), got {:?}", x.device(), t.device());
    Ok(())
}
