//! How the layers are joined: written once, for every way of computing them.

use tch::Tensor;

use super::blueprint::{Attention, Conv, Level, Norm, ResBlock, UNet};
use crate::error::{ensure, Error, Result};

/// A way of computing the parts of the network: `Act` are its activations, `Time` what it makes of the timesteps.
pub trait Backend {
    type Act;
    type Time;

    fn input(&mut self, x: &Tensor) -> Result<Self::Act>;
    fn time(&mut self, net: &UNet, t: &Tensor) -> Result<Self::Time>;
    /// A plain convolution: the first one, and the strided one between levels.
    fn conv(&mut self, conv: &Conv, x: &Self::Act) -> Result<Self::Act>;
    /// A residual block; on the way up it reads the concatenation of `x` and `skip`.
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
    /// A second handle on an activation that is needed twice (a level's skip).
    fn share(&mut self, x: &Self::Act) -> Self::Act;
}

/// The UNet of SPEC section 3: (x, t) -> prediction.
pub fn forward<B: Backend>(net: &UNet, backend: &mut B, x: &Tensor, t: &Tensor) -> Result<B::Act> {
    let time = backend.time(net, t)?;
    let x = backend.input(x)?;
    let mut h = backend.conv(&net.init, &x)?;
    let mut skips = Vec::with_capacity(net.down.len());
    for level in &net.down {
        h = run_level(backend, level, h, None, &time)?;
        skips.push(backend.share(&h));
        if let Some(conv) = &level.resample {
            h = backend.conv(conv, &h)?;
        }
    }
    h = backend.res_block(&net.mid1, h, None, &time)?;
    h = backend.attention(&net.mid_attention, h)?;
    h = backend.res_block(&net.mid2, h, None, &time)?;
    for level in &net.up {
        let skip = skips.pop();
        h = run_level(backend, level, h, skip, &time)?;
        if let Some(conv) = &level.resample {
            h = backend.upsample(conv, h)?;
        }
    }
    backend.head(&net.out_norm, &net.out_conv, h)
}

fn run_level<B: Backend>(
    backend: &mut B,
    level: &Level,
    h: B::Act,
    skip: Option<B::Act>,
    time: &B::Time,
) -> Result<B::Act> {
    let h = backend.res_block(&level.block1, h, skip, time)?;
    let h = backend.res_block(&level.block2, h, None, time)?;
    match &level.attention {
        Some(attention) => backend.attention(attention, h),
        None => Ok(h),
    }
}

/// What every forward pass checks before it starts; `multiple` is [`super::Blueprint::size_multiple`].
pub fn check_inputs(
    in_ch: i64,
    multiple: i64,
    params: &[Tensor],
    shapes: &[Vec<i64>],
    x: &Tensor,
    t: &Tensor,
) -> Result<()> {
    let size = x.size();
    ensure!(size.len() == 4, Value, "x must have shape (B, {in_ch}, H, W), got {size:?}");
    ensure!(size[1] == in_ch, Value, "x must have {in_ch} channels (in_ch), got shape {size:?}");
    ensure!(size[0] > 0, Value, "x must hold at least one image, got shape {size:?}");
    ensure!(
        size[2] > 0 && size[3] > 0 && size[2] % multiple == 0 && size[3] % multiple == 0,
        Value,
        "height and width of x must be multiples of {multiple} (one halving per level), got {} x {}",
        size[2],
        size[3]
    );
    crate::diffusion::process::check_float(x, "x")?;
    let t_size = t.size();
    ensure!(
        t_size.len() == 1 && t_size[0] == size[0],
        Value,
        "t must have shape ({},), one timestep per image of x, got {t_size:?}",
        size[0]
    );
    let t_kind = t.f_kind().map_err(|_| Error::Type("t has a dtype that is not known here".into()))?;
    ensure!(
        !matches!(
            t_kind,
            tch::Kind::Bool | tch::Kind::ComplexFloat | tch::Kind::ComplexDouble | tch::Kind::ComplexHalf
        ),
        Type,
        "t must hold numbers (torch.long), got {t_kind:?}"
    );
    ensure!(t.device() == x.device(), Value, "t must be on the device of x ({:?}), got {:?}", x.device(), t.device());
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
