//! Tensors across the line, both ways without a copy. The only file that names pyo3-tch.

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3_tch::PyTensor;
use tch::Tensor;

/// What libtorch's Rust face can name; anything else (meta, xla, ...) must be refused before it gets there.
const DEVICES: [&str; 3] = ["cpu", "cuda", "mps"];

/// A torch.Tensor, or a NumPy array whose memory the tensor then shares.
pub fn from_python(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Tensor> {
    let py = value.py();
    if is_numpy_array(value)? {
        let shared = py.import("torch")?.call_method1("from_numpy", (value,)).map_err(|err| {
            let text = format!("{name}: this NumPy array cannot be shared with torch ({})", err.value(py));
            if err.is_instance_of::<PyTypeError>(py) {
                PyTypeError::new_err(text)
            } else {
                PyValueError::new_err(text)
            }
        })?;
        return unpack(&shared, name);
    }
    unpack(value, name)
}

fn is_numpy_array(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    is_really(value, &value.py().import("numpy")?.getattr("ndarray")?)
}

/// Whether the object's own type says so: `isinstance` believes what an object claims in `__class__`.
fn is_really(value: &Bound<'_, PyAny>, class: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.get_type().is_subclass(class)
}

fn unpack(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Tensor> {
    let torch = value.py().import("torch")?;
    let wrong_type = || -> PyErr {
        let got = value.get_type().name().map_or_else(|_| "an unknown type".to_owned(), |n| n.to_string());
        PyTypeError::new_err(format!("{name} must be a torch.Tensor or a NumPy array, got {got}"))
    };
    if !is_really(value, &torch.getattr("Tensor")?)? {
        return Err(wrong_type());
    }
    let device: String = value.getattr("device")?.getattr("type")?.extract()?;
    if !DEVICES.contains(&device.as_str()) {
        return Err(PyValueError::new_err(format!(
            "{name} must be on a cpu, cuda or mps device, got a tensor on \"{device}\""
        )));
    }
    if !value.getattr("layout")?.is(&torch.getattr("strided")?) {
        return Err(PyTypeError::new_err(format!(
            "{name} must be a dense (strided) tensor, got layout {}",
            value.getattr("layout")?
        )));
    }
    if value.getattr("is_nested")?.extract()? {
        return Err(PyTypeError::new_err(format!("{name} must be a dense (strided) tensor, got a nested tensor")));
    }
    let tensor: PyTensor = value.extract().map_err(|_| wrong_type())?;
    if tensor.0.f_kind().is_err() {
        return Err(PyTypeError::new_err(format!(
            "{name} has a dtype that is not taken here: {}",
            value.getattr("dtype")?
        )));
    }
    Ok(tensor.0)
}

/// A list of tensors, such as a model's parameters.
pub fn list_from_python(values: &Bound<'_, PyList>, name: &str) -> PyResult<Vec<Tensor>> {
    values.iter().enumerate().map(|(i, value)| unpack(&value, &format!("{name}[{i}]"))).collect()
}

pub fn to_python(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let object = PyTensor(tensor).into_pyobject(py)?;
    // pyo3-tch answers None where wrapping failed
    if object.is_none() {
        return Err(PyRuntimeError::new_err("a tensor could not be handed over to Python"));
    }
    Ok(object)
}
