//! Functions on registers: the exponential, SiLU with its derivative, and the dropout mask.

use crate::simd::{Simd, LANES};

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

/// Dropout: each element is zeroed with probability `p`, in [0, 1), and the others scaled by 1 / (1 - p).
///
/// Whether an element is kept is a hash of (seed, its place), so the backward pass finds the same mask with nothing stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub p: f32,
    pub seed: u64,
}

impl Dropout {
    /// The factors, 0 or 1 / (1 - p), of channels `channel` .. `channel + 15` of pixel `pixel` (counted over the batch).
    #[inline(always)]
    pub fn factors(&self, key: PixelKey, channel: usize) -> [f32; LANES] {
        let threshold = (f64::from(self.p) * 4_294_967_296.0) as u32;
        let scale = 1.0 / (1.0 - self.p);
        let mut out = [0.0; LANES];
        for (i, o) in out.iter_mut().enumerate() {
            let mut h = ((channel + i) as u32).wrapping_mul(0x9e37_79b9) ^ key.0;
            h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
            h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b).wrapping_add(key.1);
            h = (h ^ (h >> 16)).wrapping_mul(0x45d9_f3b3);
            *o = if h ^ (h >> 15) >= threshold { scale } else { 0.0 };
        }
        out
    }

    /// The part of the hash that all channels of a pixel share.
    #[inline(always)]
    pub fn key(&self, pixel: usize) -> PixelKey {
        let mut z = self.seed.wrapping_add((pixel as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        PixelKey(z as u32, (z >> 32) as u32)
    }
}

/// See [`Dropout::key`].
#[derive(Clone, Copy)]
pub struct PixelKey(u32, u32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{dispatch, Kernel};

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

    #[test]
    fn masks_are_fair_and_unlike_each_other() {
        let drop = Dropout { p: 0.1, seed: 7 };
        let (mut kept, mut both, mut n) = (0u32, 0u32, 0u32);
        for pixel in 0..4000 {
            let (a, b) = (drop.factors(drop.key(pixel), 0), drop.factors(drop.key(pixel + 1), 0));
            for i in 0..LANES {
                assert!(a[i] == 0.0 || (a[i] - 1.0 / 0.9).abs() < 1e-6);
                kept += u32::from(a[i] > 0.0);
                both += u32::from(a[i] > 0.0 && b[i] > 0.0);
                n += 1;
            }
        }
        let (kept, both) = (f64::from(kept) / f64::from(n), f64::from(both) / f64::from(n));
        assert!((kept - 0.9).abs() < 0.005 && (both - 0.81).abs() < 0.007, "{kept} {both}");
        let [one, other] = [7, 8].map(|seed| Dropout { p: 0.5, seed });
        assert_ne!(one.factors(one.key(0), 0), other.factors(other.key(0), 0));
    }
}
