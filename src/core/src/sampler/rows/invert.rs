//! The path of DDIM backwards, from an image to its noise (Song, Meng and Ermon 2021, section 5.4; Dhariwal and Nichol 2021,
//! appendix F).

use crate::diffusion::schedule::Level;
use crate::sampler::path::Path;
use crate::sampler::table::{Ask, Row, Said, Table};

/// From the clean image up the path. The network is asked about each image as if it were at the level it is taken to: only
/// there does it know the noise to add. Where the answer is a clean image, its noise is that of the level asked about too:
/// at the image's own, the noise would be divided out of next to nothing.
pub fn ddim_invert(path: Path, answers_x0: bool) -> Table {
    let path = path.upwards();
    let row = |index: usize| {
        let to = path.level(index);
        let from = if index == 0 { Level::CLEAN } else { path.level(index - 1) };
        let ask = |level| Some(Ask { t: path.asks[index].t, level });
        if answers_x0 {
            let kept = to.signal / from.signal;
            let (a, b) = (vec![(0, kept)], vec![(Said::Eps(0), to.spread - kept * from.spread)]);
            return Row { ask: ask(to), a, b, ..Row::to(to) };
        }
        Row { ask: ask(from), b: vec![(Said::X0(0), to.signal), (Said::Eps(0), to.spread)], ..Row::to(to) }
    };
    Table { rows: (0..path.steps()).map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::ddim;
    use crate::sampler::table::checks::follow;
    use crate::sampler::testing::schedule;

    #[test]
    fn ddim_leads_back_to_the_image() {
        let alpha_bars = schedule(1000).alpha_bars;
        let grid: Vec<i64> = (0..=300).rev().map(|k| 3 * k).collect();
        let denoise = |x: f64, ask: Ask| {
            // of N(0, 0.25), by the level of the timestep
            let bar = f64::from(alpha_bars[ask.t as usize]);
            let eps = x * (1.0 - bar).sqrt() / (0.25 * bar + 1.0 - bar);
            (x - ask.level.spread * eps) / ask.level.signal
        };
        let path = Path::down(&alpha_bars, &grid).expect("a path");
        for answers_x0 in [true, false] {
            let table = ddim_invert(path.clone(), answers_x0);
            assert!(!table.ends_clean());
            let noise =
                if answers_x0 { follow(&table, 0.4, denoise).0 } else { follow_from_clean(&table, 0.4, denoise) };
            let back = follow(&ddim(&alpha_bars, &grid, 0.0).expect("a table"), noise, denoise).0;
            assert!((back - 0.4).abs() < 0.01, "{back}");
        }
    }

    /// The first question is about an image without noise, whose eps is the network's own.
    fn follow_from_clean(table: &Table, x: f64, denoise: impl Fn(f64, Ask) -> f64) -> f64 {
        let first = &table.rows[0];
        let ask = first.ask.expect("a question");
        let spread = first.to.spread;
        let eps = (x - first.to.signal * denoise(x, Ask { level: first.to, ..ask })) / spread;
        let x = first.to.signal * x + spread * eps;
        follow(&Table { rows: table.rows[1..].to_vec() }, x, denoise).0
    }
}
