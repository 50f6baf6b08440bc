//! The masks of dropout, from the numbers that torch's CPU generator gives: the Mersenne Twister (Matsumoto and Nishimura
//! 1998, MT19937), two of its numbers an element, in the order of an NCHW tensor.

use crate::error::{check_len, Result};
use crate::pool::split::Split;
use crate::pool::Pool;
use crate::simd::{dispatch, Kernel, Simd};
use crate::source::Images;

/// Words of the generator's state, made anew all at once.
pub const STATE: usize = 624;
/// How far apart the words are that make a new one.
const LAG: usize = 397;

/// The generator: its words, and how many of them are used up.
#[derive(Clone)]
pub struct Twister {
    pub words: [u32; STATE],
    pub used: usize,
}

impl Twister {
    pub fn seeded(seed: u32) -> Self {
        let mut words = [seed; STATE];
        for i in 1..STATE {
            let before = words[i - 1];
            words[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { words, used: STATE }
    }

    /// The next numbers.
    #[inline(always)]
    fn fill(&mut self, mut out: &mut [u32]) {
        while !out.is_empty() {
            if self.used == STATE {
                self.renew();
            }
            let (now, later) = out.split_at_mut(out.len().min(STATE - self.used));
            for (out, word) in now.iter_mut().zip(&self.words[self.used..]) {
                *out = tempered(*word);
            }
            self.used += now.len();
            out = later;
        }
    }

    #[inline(always)]
    fn renew(&mut self) {
        let old = self.words;
        // Each stretch reads words that are finished: the old ones, then those of the stretch before.
        let first = STATE - LAG;
        for (i, word) in self.words[..first].iter_mut().enumerate() {
            *word = old[i + LAG] ^ twisted(old[i], old[i + 1]);
        }
        for start in [first, 2 * first] {
            let (done, rest) = self.words.split_at_mut(start);
            let pairs = old[start..].iter().zip(&old[start + 1..]);
            for ((word, other), (&one, &next)) in rest.iter_mut().zip(&done[start - first..]).zip(pairs) {
                *word = other ^ twisted(one, next);
            }
        }
        // The last one's next is the first of the new.
        self.words[STATE - 1] = self.words[LAG - 1] ^ twisted(old[STATE - 1], self.words[0]);
        self.used = 0;
    }
}

#[inline(always)]
fn twisted(one: u32, next: u32) -> u32 {
    let mixed = (one & 0x8000_0000) | (next & 0x7fff_ffff);
    (mixed >> 1) ^ ((mixed & 1) * 0x9908_b0df)
}

#[inline(always)]
fn tempered(mut y: u32) -> u32 {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c_5680;
    y ^= (y << 15) & 0xefc6_0000;
    y ^ (y >> 18)
}

/// 1 with probability `keep`, otherwise 0: whether the lower 53 bits of two numbers, seen as a fraction, are less.
pub fn draw(twister: &mut Twister, keep: f64, kept: &mut [u8]) {
    dispatch(Draw { twister, keep, kept });
}

struct Draw<'a> {
    twister: &'a mut Twister,
    keep: f64,
    kept: &'a mut [u8],
}

impl Kernel for Draw<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        const ONE: u64 = 1 << 53;
        const PIECE: usize = 1024;
        let threshold = (self.keep * ONE as f64).ceil() as u64;
        let mut numbers = [0; 2 * PIECE];
        for kept in self.kept.chunks_mut(PIECE) {
            let numbers = &mut numbers[..2 * kept.len()];
            self.twister.fill(numbers);
            for (kept, pair) in kept.iter_mut().zip(numbers.chunks_exact(2)) {
                let fraction = (u64::from(pair[0]) << 32 | u64::from(pair[1])) & (ONE - 1);
                *kept = u8::from(fraction < threshold);
            }
        }
    }
}

/// Bytes (N, C, H, W) as (N, H, W, C).
///
/// # Errors
/// When a length does not fit.
pub fn channels_last(pool: &dyn Pool, images: Images, channels: usize, from: &[u8], to: &mut [u8]) -> Result {
    let size = images.pixels() * channels;
    check_len("from", from.len(), images.batch * size)?;
    check_len("to", to.len(), images.batch * size)?;
    let shares = Split::new(to, images.batch, |i| (i + 1) * size);
    pool.run(images.batch, &|i| {
        dispatch(Transpose { planes: &from[i * size..(i + 1) * size], rows: shares.take(i), channels });
    })
}

/// (channels, pixels) as (pixels, channels), in squares that stay in the nearest cache.
struct Transpose<'a> {
    planes: &'a [u8],
    rows: &'a mut [u8],
    channels: usize,
}

impl Kernel for Transpose<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        const SIDE: usize = 16;
        let channels = self.channels;
        let pixels = self.rows.len() / channels.max(1);
        for (at, rows) in self.rows.chunks_mut((SIDE * channels).max(1)).enumerate() {
            let first = at * SIDE;
            for start in (0..channels).step_by(SIDE) {
                let width = SIDE.min(channels - start);
                let mut square = [[0; SIDE]; SIDE];
                for (c, line) in square[..width].iter_mut().enumerate() {
                    let plane = &self.planes[(start + c) * pixels + first..(start + c + 1) * pixels];
                    line.iter_mut().zip(plane).for_each(|(to, from)| *to = *from);
                }
                for (p, row) in rows.chunks_mut(channels).enumerate() {
                    for (c, to) in row[start..start + width].iter_mut().enumerate() {
                        *to = square[c][p];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Scoped;
    use crate::testing::{with_isa, ALL_ISAS};

    #[test]
    fn numbers_are_those_of_the_recurrence_however_they_are_asked_for() {
        let mut words = Twister::seeded(5489).words.to_vec();
        for k in 0..10_000 {
            words.push(words[k + LAG] ^ twisted(words[k], words[k + 1]));
        }
        let want: Vec<u32> = words[STATE..].iter().map(|word| tempered(*word)).collect();
        assert_eq!(want[9_999], 4_123_659_995); // as the C++ standard requires of mt19937
        for isa in ALL_ISAS {
            let mut got = vec![0; 10_000];
            let mut twister = Twister::seeded(5489);
            let mut rest = &mut got[..];
            for part in [0, 1, 600, 23, 1, 2000, 7375] {
                let (own, later) = rest.split_at_mut(part);
                with_isa(isa, || dispatch(Fill(&mut twister, own)));
                rest = later;
            }
            assert!(got == want, "{isa:?}");
        }
    }

    struct Fill<'a>(&'a mut Twister, &'a mut [u32]);
    impl Kernel for Fill<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            self.0.fill(self.1);
        }
    }

    #[test]
    fn masks_are_fair_and_the_same_on_every_instruction_set() {
        let masks = ALL_ISAS.map(|isa| {
            let mut kept = vec![7; 100_001];
            with_isa(isa, || draw(&mut Twister::seeded(3), 0.9, &mut kept));
            kept
        });
        assert!(masks[0] == masks[1] && masks[0] == masks[2]);
        assert!(masks[0].iter().all(|kept| *kept < 2));
        let share = masks[0].iter().filter(|kept| **kept == 1).count() as f64 / 100_001.0;
        assert!((share - 0.9).abs() < 0.005, "{share}");
    }

    #[test]
    fn channels_come_last() {
        for (batch, height, width, channels) in
            [(2, 3, 5, 7), (3, 8, 8, 32), (1, 1, 1, 1), (1, 33, 1, 17), (2, 4, 4, 0)]
        {
            let pixels = height * width;
            let from: Vec<u8> = (0..batch * channels * pixels).map(|i| (i % 251) as u8).collect();
            let mut to = vec![255; from.len()];
            channels_last(&Scoped(2), Images { batch, height, width }, channels, &from, &mut to).unwrap();
            for (b, p, c) in
                (0..batch).flat_map(|b| (0..pixels).flat_map(move |p| (0..channels).map(move |c| (b, p, c))))
            {
                assert_eq!(to[(b * pixels + p) * channels + c], from[(b * channels + c) * pixels + p]);
            }
        }
        let images = Images { batch: 1, height: 2, width: 2 };
        assert!(channels_last(&Scoped(1), images, 3, &[0; 12], &mut [0; 11]).is_err());
    }
}
