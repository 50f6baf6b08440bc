//! Operators of inverse problems: the core's by name, Python's own as callbacks, and what both can do.

mod ct;
mod restore;

use std::sync::Arc;

use diffusion_core::choice::Choice;
use diffusion_core::inverse::metrics::{self, Metric};
use diffusion_core::inverse::operator::{self, Identity, LinearOperator, Shape, Transposed};
use diffusion_core::inverse::operators::blur::{Blurring, Boundary};
use diffusion_core::inverse::operators::compose::{Composed, Scaled, Stack};
use diffusion_core::inverse::operators::downscale::{EveryOther, Means, Mode};
use diffusion_core::inverse::operators::gradient::Gradient;
use diffusion_core::inverse::operators::inpaint::Inpainting;
use diffusion_core::inverse::operators::matrix::Matrix;
use diffusion_core::inverse::solve::cg::Limits;
use diffusion_core::inverse::solve::{self, Gaussian};
use diffusion_core::inverse::{tv, Shared};
use diffusion_core::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tch::{Device, Kind, Tensor};

use crate::detach::{attached, check_signals, detached};
use crate::error::to_py;
use crate::sampler::noise_source;
use crate::tensor::{from_python, to_python};

/// (H, W), or (C, H, W) where the number of channels is given.
pub fn shape_of(sizes: &[i64], name: &str) -> Result<Shape> {
    let shape = match *sizes {
        [height, width] => Shape::pictures(height, width),
        [channels, height, width] => Shape { channels: Some(channels), height, width },
        _ => return Err(Error::Value(format!("{name} must be (H, W) or (C, H, W), got {sizes:?}"))),
    };
    let positive = sizes.iter().all(|size| *size >= 1);
    positive.then_some(shape).ok_or_else(|| Error::Value(format!("{name} must be positive, got {sizes:?}")))
}

fn sizes_of<'py>(py: Python<'py>, shape: Shape) -> PyResult<Bound<'py, PyTuple>> {
    match shape.channels {
        Some(channels) => PyTuple::new(py, [channels, shape.height, shape.width]),
        None => PyTuple::new(py, [shape.height, shape.width]),
    }
}

/// An operator written in Python: two functions of batches.
struct Callback {
    forward: PyObject,
    adjoint: PyObject,
    image: Shape,
    out: Shape,
}

impl Callback {
    fn call(&self, function: &PyObject, x: &Tensor, shape: Shape, name: &str) -> Result<Tensor> {
        let made = attached(|py| {
            let made = function.call1(py, (to_python(py, x.shallow_clone())?,))?;
            from_python(made.bind(py), name)
        })?;
        let (want, got) = (shape.batch(x), made.size());
        let kinds = (x.f_kind()?, made.f_kind()?);
        if got != want || kinds.0 != kinds.1 {
            let wanted = format!("{name} must have shape {want:?} and dtype {:?}", kinds.0);
            return Err(Error::Value(format!("{wanted}, got {got:?} and {:?}", kinds.1)));
        }
        Ok(made.f_detach()?)
    }
}

impl LinearOperator for Callback {
    fn img_shape(&self) -> Shape {
        self.image
    }
    fn out_shape(&self) -> Shape {
        self.out
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.call(&self.forward, x, self.out, "what the operator's forward returned")
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.call(&self.adjoint, y, self.image, "what the operator's adjoint returned")
    }
    fn precision(&self) -> Kind {
        Kind::Float // what it holds is usually float32, and torch does not mix
    }
}

/// A linear operator on batches of images.
#[pyclass(frozen, name = "LinearOperator", module = "rust_diffusion._native")]
pub struct Operator {
    pub inner: Shared,
}

impl Operator {
    pub fn of(operator: impl LinearOperator + 'static) -> Self {
        Self { inner: Arc::new(operator) }
    }

    /// Computes without the GIL and without a graph.
    fn compute<'py>(
        &self,
        py: Python<'py>,
        work: impl FnOnce(&dyn LinearOperator) -> Result<Tensor> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let inner = Arc::clone(&self.inner);
        let out = detached(py, move || {
            let _quiet = tch::no_grad_guard();
            work(inner.as_ref())
        })?;
        to_python(py, out)
    }
}

#[pymethods]
impl Operator {
    #[staticmethod]
    fn identity(img_shape: Vec<i64>) -> PyResult<Self> {
        Ok(Self::of(Identity(shape_of(&img_shape, "img_shape").map_err(to_py)?)))
    }

    #[staticmethod]
    fn blurring(kernel: &Bound<'_, PyAny>, boundary: &str, img_shape: (i64, i64)) -> PyResult<Self> {
        let kernel = from_python(kernel, "kernel")?;
        let made = Boundary::parse(boundary).and_then(|it| Blurring::new(&kernel, it, img_shape.0, img_shape.1));
        Ok(Self::of(made.map_err(to_py)?))
    }

    #[staticmethod]
    fn downscaling(img_shape: (i64, i64), factor: i64, mode: &str) -> PyResult<Self> {
        let (height, width) = img_shape;
        Ok(match Mode::parse(mode).map_err(to_py)? {
            Mode::Avg => Self::of(Means::new(height, width, factor).map_err(to_py)?),
            Mode::Naive => Self::of(EveryOther::new(height, width, factor).map_err(to_py)?),
        })
    }

    #[staticmethod]
    fn inpainting(mask: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self::of(Inpainting::new(&from_python(mask, "mask")?).map_err(to_py)?))
    }

    #[staticmethod]
    fn gradient(img_shape: (i64, i64)) -> PyResult<Self> {
        Ok(Self::of(Gradient::new(img_shape.0, img_shape.1).map_err(to_py)?))
    }

    #[staticmethod]
    fn matrix(a: &Bound<'_, PyAny>, img_shape: Vec<i64>, out_shape: Vec<i64>) -> PyResult<Self> {
        let a = from_python(a, "A")?;
        let made = shape_of(&img_shape, "img_shape")
            .and_then(|image| Matrix::new(&a, image, shape_of(&out_shape, "out_shape")?));
        Ok(Self::of(made.map_err(to_py)?))
    }

    #[staticmethod]
    fn callback(forward: PyObject, adjoint: PyObject, img_shape: Vec<i64>, out_shape: Vec<i64>) -> PyResult<Self> {
        let image = shape_of(&img_shape, "img_shape").map_err(to_py)?;
        let out = shape_of(&out_shape, "out_shape").map_err(to_py)?;
        Ok(Self::of(Callback { forward, adjoint, image, out }))
    }

    #[staticmethod]
    fn stack(parts: Vec<PyRef<'_, Operator>>) -> PyResult<Self> {
        let parts = parts.iter().map(|part| Arc::clone(&part.inner)).collect();
        Ok(Self::of(Stack::new(parts).map_err(to_py)?))
    }

    /// outer @ self
    fn followed_by(&self, outer: PyRef<'_, Operator>) -> PyResult<Self> {
        Ok(Self::of(Composed::new(Arc::clone(&outer.inner), Arc::clone(&self.inner)).map_err(to_py)?))
    }

    fn scaled(&self, factor: f64) -> PyResult<Self> {
        Ok(Self::of(Scaled::new(Arc::clone(&self.inner), factor).map_err(to_py)?))
    }

    fn transposed(&self) -> Self {
        Self::of(Transposed(Arc::clone(&self.inner)))
    }

    #[getter]
    fn img_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        sizes_of(py, self.inner.img_shape())
    }

    #[getter]
    fn out_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        sizes_of(py, self.inner.out_shape())
    }

    fn apply<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let x = from_python(x, "x")?;
        self.compute(py, move |operator| operator::forward(operator, &x))
    }

    fn adjoint<'py>(&self, py: Python<'py>, y: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let y = from_python(y, "y")?;
        self.compute(py, move |operator| operator::backward(operator, &y))
    }

    fn prox<'py>(
        &self,
        py: Python<'py>,
        z: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        gamma: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (z, y, gamma) = (from_python(z, "z")?, from_python(y, "y")?, from_python(gamma, "gamma")?);
        self.compute(py, move |operator| {
            check_pair(operator, &z, &y)?;
            solve::prox(operator, &z, &y, &gamma, Limits::of(&z, check_signals).into())
        })
    }

    fn pinv<'py>(&self, py: Python<'py>, y: &Bound<'py, PyAny>, cutoff: f64) -> PyResult<Bound<'py, PyAny>> {
        let y = from_python(y, "y")?;
        self.compute(py, move |operator| {
            operator::check(&y, operator.out_shape(), "y", "the operator's measurements")?;
            solve::pinv(operator, &y, cutoff, Limits::of(&y, check_signals))
        })
    }

    #[pyo3(signature = (z, y, sigma, r, noise = None))]
    fn sample_gaussian<'py>(
        &self,
        py: Python<'py>,
        z: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        sigma: &Bound<'py, PyAny>,
        r: &Bound<'py, PyAny>,
        noise: Option<PyObject>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (z, y) = (from_python(z, "z")?, from_python(y, "y")?);
        let (sigma, r) = (from_python(sigma, "sigma")?, from_python(r, "r")?);
        let mut noise = noise_source(noise);
        self.compute(py, move |operator| {
            check_pair(operator, &z, &y)?;
            let of = Gaussian { z: &z, y: &y, sigma: &sigma, r: &r };
            solve::draw(operator, &of, noise.as_mut(), Limits::of(&z, check_signals).into())
        })
    }

    /// The image of least total variation, by `iterations` primal-dual steps.
    fn tv<'py>(
        &self,
        py: Python<'py>,
        y: &Bound<'py, PyAny>,
        lambda: f64,
        iterations: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let y = from_python(y, "y")?;
        self.compute(py, move |operator| tv::tv(operator, &y, lambda, iterations, &mut check_signals))
    }

    /// The largest singular value.
    fn norm(&self, py: Python<'_>) -> PyResult<f64> {
        let inner = Arc::clone(&self.inner);
        detached(py, move || {
            let _quiet = tch::no_grad_guard();
            solve::norm(inner.as_ref(), Device::Cpu)
        })
    }

    /// Asked where `like` is, or on the CPU.
    #[pyo3(signature = (like=None))]
    fn adjoint_error(&self, py: Python<'_>, like: Option<&Bound<'_, PyAny>>) -> PyResult<f64> {
        let device = match like {
            Some(like) => from_python(like, "like")?.device(),
            None => Device::Cpu,
        };
        let inner = Arc::clone(&self.inner);
        detached(py, move || {
            let _quiet = tch::no_grad_guard();
            operator::adjoint_error(inner.as_ref(), 1, device)
        })
    }
}

/// Images and measurements that belong together.
fn check_pair(operator: &dyn LinearOperator, z: &Tensor, y: &Tensor) -> Result<()> {
    operator::check(z, operator.img_shape(), "z", "the operator's images")?;
    operator::check(y, operator.out_shape(), "y", "the operator's measurements")?;
    let (images, measurements) = (z.size()[0], y.size()[0]);
    if images != measurements {
        return Err(Error::Value(format!("z has {images} images, y {measurements}")));
    }
    Ok(())
}

/// One number per image, float64.
#[pyfunction]
fn metric<'py>(
    py: Python<'py>,
    which: &str,
    x: &Bound<'py, PyAny>,
    x_true: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let which = Metric::parse(which).map_err(to_py)?;
    let (x, x_true) = (from_python(x, "x_pred")?, from_python(x_true, "x_true")?);
    let out = detached(py, move || {
        let _quiet = tch::no_grad_guard();
        metrics::metric(which, &x, &x_true)
    })?;
    to_python(py, out)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    ct::register(m)?;
    restore::register(m)?;
    m.add("BOUNDARIES", PyTuple::new(m.py(), Boundary::names())?)?;
    m.add("DOWNSCALE_MODES", PyTuple::new(m.py(), Mode::names())?)?;
    m.add_function(wrap_pyfunction!(metric, m)?)?;
    m.add_class::<Operator>()
}
