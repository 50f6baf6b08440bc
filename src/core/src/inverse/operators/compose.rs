//! Operators made of operators.

use tch::{Device, Kind, Tensor};

use crate::error::{ensure, Result};
use crate::inverse::operator::{LinearOperator, Shape};
use crate::inverse::solve::spectrum::{Function, Scaled as ScaledSpectrum, Spectrum};
use crate::inverse::Shared;

/// outer(inner(x)).
pub struct Composed {
    outer: Shared,
    inner: Shared,
    image: Shape,
    out: Shape,
}

impl Composed {
    pub fn new(outer: Shared, inner: Shared) -> Result<Self> {
        let (made, taken) = (inner.out_shape(), outer.img_shape());
        let channels = made.channels.is_none() || taken.channels.is_none() || made.channels == taken.channels;
        let fits = channels && (made.height, made.width) == (taken.height, taken.width);
        ensure!(fits, Value, "K2 @ K1: K1 makes {made}, K2 takes {taken}");
        let image = match (inner.img_shape(), made.channels) {
            (shape, None) => Shape { channels: shape.channels.or(taken.channels), ..shape },
            (shape, Some(_)) => shape,
        };
        let out = match (outer.out_shape(), taken.channels) {
            (shape, None) => Shape { channels: shape.channels.or(made.channels), ..shape },
            (shape, Some(_)) => shape,
        };
        Ok(Self { outer, inner, image, out })
    }
}

impl LinearOperator for Composed {
    fn img_shape(&self) -> Shape {
        self.image
    }
    fn out_shape(&self) -> Shape {
        self.out
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.outer.apply(&self.inner.apply(x)?)
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.inner.adjoint(&self.outer.adjoint(y)?)
    }
    fn measured(&self) -> Option<Tensor> {
        self.outer.measured()
    }
    fn precision(&self) -> Kind {
        lowest([&self.outer, &self.inner])
    }
}

/// factor * K.
pub struct Scaled {
    of: Shared,
    factor: f64,
}

impl Scaled {
    pub fn new(of: Shared, factor: f64) -> Result<Self> {
        ensure!(factor.is_finite() && factor != 0.0, Value, "a * K: a must be finite and not 0, got {factor}");
        Ok(Self { of, factor })
    }
}

impl LinearOperator for Scaled {
    fn img_shape(&self) -> Shape {
        self.of.img_shape()
    }
    fn out_shape(&self) -> Shape {
        self.of.out_shape()
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.of.apply(x)?.f_mul_scalar(self.factor)?)
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        Ok(self.of.adjoint(y)?.f_mul_scalar(self.factor)?)
    }
    fn spectrum(&self) -> Option<&dyn Spectrum> {
        self.of.spectrum().is_some().then_some(self)
    }
    fn measured(&self) -> Option<Tensor> {
        self.of.measured()
    }
    fn nearly_circulant(&self) -> bool {
        self.of.nearly_circulant()
    }
    fn precision(&self) -> Kind {
        self.of.precision()
    }
}

impl Spectrum for Scaled {
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor> {
        match self.of.spectrum() {
            Some(of) => ScaledSpectrum { of, scale: self.factor }.filter(x, f),
            None => Err(crate::Error::Runtime("internal error: no spectrum to scale".into())),
        }
    }
    fn largest(&self) -> Result<f64> {
        let of = self.of.spectrum().map_or(Ok(0.0), |of| of.largest())?;
        Ok(of * self.factor * self.factor)
    }
}

/// Several measurements of one image, one below the other: as rows if they are equally wide, as one long row otherwise.
pub struct Stack {
    parts: Vec<Shared>,
    image: Shape,
    out: Shape,
    as_rows: bool,
}

impl Stack {
    pub fn new(parts: Vec<Shared>) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(crate::Error::Value("Stack needs at least one operator".into()));
        };
        let (plane, width) = (first.img_shape(), first.out_shape().width);
        let channels = parts.iter().find_map(|part| part.img_shape().channels);
        for (i, part) in parts.iter().enumerate() {
            let shape = part.img_shape();
            let same = (shape.height, shape.width) == (plane.height, plane.width);
            let fits = same && (shape.channels.is_none() || shape.channels == channels);
            ensure!(fits, Value, "Stack: operator {i} takes images {shape}, operator 0 takes {plane}");
        }
        let outs: Vec<Shape> = parts.iter().map(|part| concrete(part, channels)).collect();
        let as_rows = outs.iter().all(|out| out.width == width && out.channels == outs[0].channels);
        let pixels = |out: &Shape| out.height * out.width;
        let out = match (as_rows, channels) {
            (true, _) => Shape { height: outs.iter().map(|out| out.height).sum(), ..outs[0] },
            (false, None) => Shape::pictures(1, outs.iter().map(pixels).sum()),
            (false, Some(_)) => {
                let all = outs.iter().map(|out| out.channels.unwrap_or(1) * pixels(out)).sum();
                Shape { channels: Some(1), height: 1, width: all }
            }
        };
        Ok(Self { parts, image: Shape { channels, ..plane }, out, as_rows })
    }

    /// The parts' measurements as one.
    fn together(&self, parts: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
        let laid = |y: Tensor| match self.as_rows {
            true => Ok(y),
            false if self.image.channels.is_some() => y.f_reshape([y.size()[0], 1, 1, -1]),
            false => y.f_reshape([y.size()[0], y.size()[1], 1, -1]),
        };
        let parts = parts.map(|y| Ok(laid(y?)?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, if self.as_rows { 2 } else { 3 })?)
    }

    /// A part's share of a measurement as the part knows it.
    fn share(&self, y: &Tensor, start: i64, part: &Shared) -> Result<(Tensor, i64)> {
        let shape = concrete(part, self.image.channels);
        if self.as_rows {
            return Ok((y.f_narrow(2, start, shape.height)?, start + shape.height));
        }
        let size = shape.batch(y);
        let count = shape.height * shape.width * if self.image.channels.is_some() { size[1] } else { 1 };
        Ok((y.f_narrow(3, start, count)?.f_reshape(size)?, start + count))
    }
}

/// What a part makes of images with this many channels.
fn concrete(part: &Shared, channels: Option<i64>) -> Shape {
    let out = part.out_shape();
    Shape { channels: out.channels.or(channels), ..out }
}

impl LinearOperator for Stack {
    fn img_shape(&self) -> Shape {
        self.image
    }

    fn out_shape(&self) -> Shape {
        self.out
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.together(self.parts.iter().map(|part| part.apply(x)))
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        let (mut sum, mut start) = (None::<Tensor>, 0);
        for part in &self.parts {
            let (share, end) = self.share(y, start, part)?;
            let x = part.adjoint(&share)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&x)?,
                None => x,
            });
            start = end;
        }
        sum.ok_or_else(|| crate::Error::Runtime("internal error: an empty stack".into()))
    }

    fn nearly_circulant(&self) -> bool {
        self.parts.iter().all(|part| part.nearly_circulant())
    }

    fn precision(&self) -> Kind {
        lowest(&self.parts)
    }

    fn measured(&self) -> Option<Tensor> {
        let masks: Vec<_> = self.parts.iter().map(|part| part.measured()).collect();
        if masks.iter().all(Option::is_none) {
            return None;
        }
        let one = Tensor::ones([1, 1, 1, 1], (Kind::Float, Device::Cpu));
        let of = |(part, mask): (&Shared, Option<Tensor>)| {
            let shape = concrete(part, self.image.channels);
            let size = [1, shape.channels.unwrap_or(1), shape.height, shape.width];
            Ok(mask.unwrap_or_else(|| one.shallow_clone()).f_to_kind(Kind::Float)?.f_expand(size, false)?)
        };
        self.together(self.parts.iter().zip(masks).map(of)).ok()
    }
}

/// The dtype that all parts can be looked at in.
fn lowest<'a>(parts: impl IntoIterator<Item = &'a Shared>) -> Kind {
    let single = parts.into_iter().any(|part| part.precision() == Kind::Float);
    if single {
        Kind::Float
    } else {
        Kind::Double
    }
}
