//! The projectors of computed tomography: operators like the others, with filtered back projection.

use std::sync::Arc;

use diffusion_core::choice::Choice;
use diffusion_core::inverse::fbp::{self, Filter};
use diffusion_core::inverse::operators::ct::{CtProjector, Distances, Geometry};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::detach::detached;
use crate::error::to_py;
use crate::inverse::Operator;
use crate::tensor::{from_python, to_python};

/// The geometry of a scan.
#[pyclass(frozen, name = "CtProjector", module = "rust_diffusion._native")]
pub struct Projector {
    inner: Arc<CtProjector>,
}

#[pymethods]
impl Projector {
    #[new]
    fn new(
        img_shape: [i64; 2],
        angles: Vec<f64>,
        det_size: i64,
        geometry: &str,
        source_origin: f64,
        origin_det: f64,
    ) -> PyResult<Self> {
        let distances = Distances { source: source_origin, detector: origin_det };
        let made = Geometry::parse(geometry)
            .and_then(|geometry| CtProjector::new(img_shape, angles, det_size, geometry, distances));
        Ok(Self { inner: Arc::new(made.map_err(to_py)?) })
    }

    fn operator(&self) -> Operator {
        let shared = Arc::clone(&self.inner);
        Operator { inner: shared }
    }

    /// In torch's operations: autograd sees them.
    fn fbp<'py>(&self, py: Python<'py>, y: &Bound<'py, PyAny>, filter: &str) -> PyResult<Bound<'py, PyAny>> {
        let (y, filter) = (from_python(y, "y")?, Filter::parse(filter).map_err(to_py)?);
        let inner = Arc::clone(&self.inner);
        to_python(py, detached(py, move || fbp::reconstruct(&inner, &y, filter))?)
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("CT_GEOMETRIES", PyTuple::new(m.py(), Geometry::names())?)?;
    m.add("FBP_FILTERS", PyTuple::new(m.py(), Filter::names())?)?;
    m.add_class::<Projector>()
}
