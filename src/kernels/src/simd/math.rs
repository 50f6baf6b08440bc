//! Functions on registers: the exponential, and SiLU with its derivative.

use crate::simd::Simd;

/// e^x to within 2 units in the last place; x is clamped to [-87, 88], where f32 neither overflows nor loses bits; NaN
/// stays NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial for e^r with the coefficients of Cephes' `expf`.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves no room for a fraction
    const LN2_HIGH: f32 = 0.693_359_4; // few bits, so that n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

    let x = s.max(s.splat(-87.0), s.min(s.splat(88.0), x));
    let biased = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(biased, s.splat(ROUND));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(POLYNOMIAL[0]);
    for &c in &POLYNOMIAL[1..] {
        p = s.fma(p, r, s.splat(c));
    }
    let tail = s.fma(p, s.mul(r, r), r);
    s.mul(s.add(tail, s.splat(1.0)), s.pow2(n))
}

/// |x|
#[inline(always)]
pub fn magnitude<S: Simd>(s: S, x: S::V) -> S::V {
    s.max(x, s.sub(s.splat(0.0), x))
}

/// 1 / (1 + e^-z).
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, z: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), z))))
}

/// d/dz of z sigmoid(z): sigmoid(z) (1 + z (1 - sigmoid(z))).
#[inline(always)]
pub fn silu_slope<S: Simd>(s: S, z: S::V) -> S::V {
    let (one, sig) = (s.splat(1.0), sigmoid(s, z));
    s.mul(sig, s.fma(z, s.sub(one, sig), one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{dispatch, Kernel, LANES};

    struct Each<'a>(&'a [f32; LANES], &'a mut [[f32; LANES]; 3]);
    impl Kernel for Each<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let z = s.load(self.0);
            s.store(&mut self.1[0], exp(s, z));
            s.store(&mut self.1[1], sigmoid(s, z));
            s.store(&mut self.1[2], silu_slope(s, z));
        }
    }

    #[test]
    fn functions_agree_with_f64() {
        let mut worst = [0.0f64; 3];
        for step in 0..20_000 {
            let z: [f32; LANES] = std::array::from_fn(|i| -80.0 + (step * LANES + i) as f32 * (160.0 / 320_000.0));
            let mut got = [[0.0; LANES]; 3];
            dispatch(Each(&z, &mut got));
            for i in 0..LANES {
                let x = f64::from(z[i]);
                let sig = 1.0 / (1.0 + (-x).exp());
                let want = [x.exp(), sig, sig * (1.0 + x * (1.0 - sig))];
                let scale = [want[0], want[1], want[2].abs().max(1e-3)];
                for k in 0..3 {
                    worst[k] = worst[k].max((f64::from(got[k][i]) - want[k]).abs() / scale[k]);
                }
            }
        }
        assert!(worst[0] < 2.5e-7 && worst[1] < 4e-7 && worst[2] < 2e-5, "{worst:?}");
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let mut got = [[0.0; LANES]; 3];
        dispatch(Each(&[f32::NAN; LANES], &mut got));
        assert!(got.iter().flatten().all(|x| x.is_nan()));
    }
}
