//! Many tensors in one block of memory: cleared, measured, scaled and sent in one go.

use diffusion_kernels::optim::sum_of_squares;
use tch::{Device, Kind, Tensor};

use crate::error::{ensure, Result};
use crate::libtorch::{slice, TorchPool};

/// A float32 vector, and a view of it for each parameter.
pub struct Flat {
    all: Tensor,
    views: Vec<Tensor>,
    /// Elements that belong to parameters; what comes behind them is extra.
    len: i64,
}

impl Flat {
    pub fn zeros(shapes: &[Vec<i64>], extra: i64, device: Device) -> Result<Self> {
        let all = Tensor::f_zeros([count(shapes) + extra], (Kind::Float, device))?;
        Self::over(all, shapes)
    }

    /// Views of `all`, which holds the parameters one behind the other.
    pub fn over(all: Tensor, shapes: &[Vec<i64>]) -> Result<Self> {
        let len = count(shapes);
        ensure!(
            all.size().len() == 1 && all.size()[0] >= len && all.f_kind()? == Kind::Float && all.is_contiguous(),
            Value,
            "a flat buffer must be a contiguous float32 vector of at least {len} elements, got {:?}",
            all.size()
        );
        let mut views = Vec::with_capacity(shapes.len());
        let mut start = 0;
        for shape in shapes {
            let length = shape.iter().product();
            views.push(all.f_narrow(0, start, length)?.f_view(&shape[..])?);
            start += length;
        }
        Ok(Self { all, views, len })
    }

    pub fn all(&self) -> &Tensor {
        &self.all
    }

    /// The part that belongs to parameters.
    pub fn parameters(&self) -> Result<Tensor> {
        Ok(self.all.f_narrow(0, 0, self.len)?)
    }

    pub fn views(&self) -> &[Tensor] {
        &self.views
    }

    pub fn views_mut(&mut self) -> &mut [Tensor] {
        &mut self.views
    }

    pub fn into_views(self) -> Vec<Tensor> {
        self.views
    }

    pub fn clear(&mut self) -> Result<()> {
        let _ = self.all.f_zero_()?;
        Ok(())
    }

    /// Add a number to the first extra element.
    pub fn add_extra(&mut self, value: &Tensor) -> Result<()> {
        let _ = self.extra_on_device()?.f_add_(value)?;
        Ok(())
    }

    /// The first extra element, still on its device.
    pub fn extra_on_device(&self) -> Result<Tensor> {
        Ok(self.all.f_get(self.len)?)
    }

    pub fn extra(&self) -> Result<f64> {
        Ok(self.all.f_double_value(&[self.len])?)
    }

    /// The Euclidean norm of all parameters' elements; on the CPU the same for any number of threads.
    pub fn norm(&self) -> Result<f64> {
        let parameters = self.parameters()?;
        if parameters.device() == Device::Cpu {
            return Ok(sum_of_squares(&TorchPool, slice(&parameters)?)?.sqrt());
        }
        Ok(parameters.f_norm()?.f_double_value(&[])?)
    }
}

fn count(shapes: &[Vec<i64>]) -> i64 {
    shapes.iter().map(|s| s.iter().product::<i64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_share_the_memory_and_the_extra_does_not_count() {
        let mut flat = Flat::zeros(&[vec![2, 2], vec![3]], 1, Device::Cpu).expect("a buffer");
        let _ = flat.views_mut()[1].fill_(2.0);
        flat.add_extra(&Tensor::from(5.0f32)).expect("added");
        assert_eq!(Vec::<f32>::try_from(flat.all()).expect("values"), [0., 0., 0., 0., 2., 2., 2., 5.]);
        assert!((flat.norm().expect("a norm") - 12f64.sqrt()).abs() < 1e-6);
        assert_eq!(flat.extra().expect("a number"), 5.0);
        flat.clear().expect("cleared");
        assert_eq!(flat.extra().expect("a number"), 0.0);
    }

    #[test]
    fn a_buffer_that_is_too_short_is_refused() {
        let short = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        assert!(Flat::over(short, &[vec![2, 2]]).is_err());
    }
}
