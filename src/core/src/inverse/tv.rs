//! Total variation (Rudin, Osher and Fatemi 1992), the baseline without a prior that was learnt: by the primal-dual method of
//! Chambolle and Pock 2011 with one step size per block of the dual (Pock and Chambolle 2011).

use tch::Tensor;

use super::operator::{check, LinearOperator, Shape};
use super::operators::gradient::Gradient;
use super::solve;
use crate::error::{ensure, Result};

/// |Gradient|^2 is at most this.
const GRADIENT_SQUARED: f64 = 8.0;
/// More than any picture needs; far above, its steps overflow in float32.
const MOST: f64 = 1e12;
/// The primal step, as a share of what lambda suggests: images change by about 1 while the dual moves within lambda.
const PRIMAL_STEP: f64 = 0.1;

/// argmin over x of 1/2 |K x - y|^2 + lambda sum over pixels of |gradient of x|, after so many iterations from K'y / |K|^2.
pub fn tv(
    operator: &dyn LinearOperator,
    y: &Tensor,
    lambda: f64,
    iterations: usize,
    on_iteration: &mut dyn FnMut() -> Result<()>,
) -> Result<Tensor> {
    check(y, operator.out_shape(), "y", "the operator's measurements")?;
    ensure!(lambda > 0.0 && lambda <= MOST, Value, "lambda_ must be above 0 and at most {MOST:e}, got {lambda}");
    let Shape { height, width, .. } = operator.img_shape();
    let gradient = Pictures(Gradient::new(height, width)?);
    let squared = solve::norm(operator, y.device())?.powi(2);
    ensure!(squared > 0.0, Value, "the operator measures nothing: its norm is 0");
    // half of what convergence allows to either block of the dual: tau (s_K |K|^2 + s_D |D|^2) <= 1
    let tau = PRIMAL_STEP / lambda;
    let (s_data, s_gradient) = (0.5 / (tau * squared), 0.5 / (tau * GRADIENT_SQUARED));
    let mut x = operator.adjoint(y)?.f_div_scalar(squared)?;
    let mut ahead = x.shallow_clone();
    let (mut p, mut q) = (y.f_zeros_like()?, gradient.of(&x)?.f_zeros_like()?);
    for _ in 0..iterations {
        let misfit = operator.apply(&ahead)?.f_sub(y)?;
        p = p.f_add(&misfit.f_mul_scalar(s_data)?)?.f_div_scalar(1.0 + s_data)?;
        q = within(&q.f_add(&gradient.of(&ahead)?.f_mul_scalar(s_gradient)?)?, lambda)?;
        let pull = operator.adjoint(&p)?.f_add(&gradient.back(&q, &x)?)?;
        let next = x.f_sub(&pull.f_mul_scalar(tau)?)?;
        ahead = next.f_mul_scalar(2.0)?.f_sub(&x)?;
        x = next;
        on_iteration()?;
    }
    Ok(x)
}

/// Each pixel's pair of differences, no longer than `radius`.
fn within(q: &Tensor, radius: f64) -> Result<Tensor> {
    let length = q.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, q.kind())?.f_sqrt()?;
    Ok(q.f_div(&length.f_div_scalar(radius)?.f_clamp_min(1.0)?)?)
}

/// The gradient of each channel as a picture of its own, (N C, 2, H, W).
struct Pictures(Gradient);

impl Pictures {
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        let size = x.size();
        self.0.apply(&x.f_reshape([-1, 1, size[2], size[3]])?)
    }

    fn back(&self, q: &Tensor, like: &Tensor) -> Result<Tensor> {
        Ok(self.0.adjoint(q)?.f_view(like.size().as_slice())?)
    }
}
