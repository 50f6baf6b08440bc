//! Random numbers that depend on a seed and a counter alone: any image can be drawn first, on any thread, on any machine.

/// A stream of numbers. Streams of different keys have nothing to do with each other.
pub(super) struct Rng {
    key: u64,
    counter: u64,
}

/// The odd number nearest to 2^64 divided by the golden ratio: its multiples spread evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// The stream that belongs to `seed` and the `path` of numbers that says what it is for.
    pub(super) fn new(seed: u64, path: &[u64]) -> Rng {
        let key = path.iter().fold(mix(seed ^ GOLDEN), |key, &step| mix(key ^ mix(step.wrapping_add(GOLDEN))));
        Rng { key, counter: 0 }
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(GOLDEN);
        mix(self.key.wrapping_add(self.counter))
    }

    /// Uniform in [low, high).
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1 << 24) as f32)
    }

    /// Close to N(0, 1): the sum of four uniform numbers, so that no logarithm of a system library is in it.
    pub(super) fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
        // Four numbers from 0 to 65535 have the mean 131070 and the standard deviation 65536 / sqrt(3).
        (sum as f32 - 131_070.0) / 37_837.227
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::new(3, &[1]);
        let n = 100_000;
        let normal: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
        let mean = normal.iter().sum::<f32>() / n as f32;
        let variance = normal.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let uniform = (0..n).map(|_| rng.between(2.0, 4.0)).sum::<f32>() / n as f32;
        assert!((uniform - 3.0).abs() < 0.01);
    }

    #[test]
    fn every_path_is_a_stream_of_its_own() {
        let firsts =
            [Rng::new(0, &[0]).bits(), Rng::new(0, &[1]).bits(), Rng::new(1, &[0]).bits(), Rng::new(0, &[0, 0]).bits()];
        assert!((0..4).all(|i| (0..i).all(|j| firsts[i] != firsts[j])));
        assert_eq!(Rng::new(9, &[4, 2]).bits(), Rng::new(9, &[4, 2]).bits());
    }
}
