//! DPM-Solver++ as a multistep method, Lu et al. 2022, section 4, of third order and for the stochastic equation as
//! in their code.

use crate::choice::Choice;
use crate::error::{ensure, Result};
use crate::sampler::path::Path;
use crate::sampler::table::{Row, Said, Table};

/// Runs shorter than this end in lower orders, as the authors recommend.
const SHORT: usize = 15;

/// How the second order takes the slope of x0_hat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Solver {
    #[default]
    Midpoint,
    Heun,
}

impl Choice for Solver {
    const WHAT: &'static str = "solver";
    const ALL: &'static [(&'static str, Self)] = &[("midpoint", Self::Midpoint), ("heun", Self::Heun)];
}

#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// 1 to 3.
    pub highest: usize,
    pub solver: Solver,
    /// The stochastic equation instead of the probability flow.
    pub sde: bool,
    /// Whether a short run ends in lower orders.
    pub lower_order_final: bool,
}

/// One network call a step; earlier answers give the slopes.
pub fn dpmpp(path: &Path, order: Order) -> Result<Table> {
    ensure!((1..=3).contains(&order.highest), Value, "order must be 1, 2 or 3, got {}", order.highest);
    let steps = path.steps();
    let short = order.lower_order_final && steps < SHORT;
    let rows = (0..steps).map(|index| {
        let left = steps - index;
        // the last step leads to the clean image, at infinite lambda
        let allowed = if left == 1 {
            1
        } else if short {
            left
        } else {
            order.highest
        };
        row(path, index, order.highest.min(index + 1).min(allowed), order)
    });
    Ok(Table { rows: rows.collect() })
}

fn row(path: &Path, index: usize, used: usize, order: Order) -> Row {
    let (from, to) = (path.level(index), path.level(index + 1));
    if to.spread == 0.0 {
        return Row { ask: Some(path.asks[index]), b: vec![(Said::X0(0), 1.0)], ..Row::to(to) };
    }
    let h = to.lambda() - from.lambda();
    // the stochastic equation forgets x_t twice as fast, and has noise in its place
    let pace = if order.sde { 2.0 * h } else { h };
    let kept = to.spread / from.spread * if order.sde { (-h).exp() } else { 1.0 };
    let fresh = order.sde.then(|| to.spread * (-(-2.0 * h).exp_m1()).sqrt());
    let constant = -to.signal * (-pace).exp_m1();
    let slope = match (used, order.solver) {
        (1, _) => 0.0,
        (2, Solver::Midpoint) => constant / 2.0,
        _ => to.signal - constant / pace,
    };
    let curvature = if used == 3 { to.signal / 2.0 - to.signal / pace + constant / pace.powi(2) } else { 0.0 };
    let [d1, d2] = differences(path, index, used, h);
    let b = (0..used).map(|age| {
        let of_itself = if age == 0 { constant } else { 0.0 };
        (Said::X0(age), of_itself + slope * d1[age] + curvature * d2[age])
    });
    Row { ask: Some(path.asks[index]), a: vec![(0, kept)], b: b.collect(), s: fresh, ..Row::to(to) }
}

/// Weights of the last three answers in the slope and in the curvature of x0_hat over lambda, in units of the step h.
fn differences(path: &Path, index: usize, used: usize, h: f64) -> [[f64; 3]; 2] {
    let lambda = |back: usize| path.level(index - back).lambda();
    match used {
        1 => [[0.0; 3]; 2],
        2 => {
            let r0 = (lambda(0) - lambda(1)) / h;
            [[1.0 / r0, -1.0 / r0, 0.0], [0.0; 3]]
        }
        _ => {
            let (r0, r1) = ((lambda(0) - lambda(1)) / h, (lambda(1) - lambda(2)) / h);
            let near = [1.0 / r0, -1.0 / r0, 0.0];
            let far = [0.0, 1.0 / r1, -1.0 / r1];
            let both = |age: usize| near[age] - far[age];
            let slope = [0, 1, 2].map(|age| near[age] + r0 / (r0 + r1) * both(age));
            [slope, [0, 1, 2].map(|age| both(age) / (r0 + r1))]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::table::checks::{keeps_its_levels, order as order_of};
    use crate::sampler::testing::schedule;

    fn order(highest: usize, solver: Solver, sde: bool) -> Order {
        Order { highest, solver, sde, lower_order_final: true }
    }

    #[test]
    fn rows_lead_from_level_to_level() {
        let alpha_bars = schedule(400).alpha_bars;
        let path = Path::down(&alpha_bars, &[399, 250, 100, 30, 0]).expect("a path");
        for highest in 1..=3 {
            for (_, solver) in Solver::ALL {
                for sde in [false, true] {
                    let table = dpmpp(&path, order(highest, *solver, sde)).expect("a table");
                    keeps_its_levels(&table, path.level(0), 1e-10);
                    assert_eq!(table.rows.iter().filter(|row| row.s.is_some()).count(), if sde { 4 } else { 0 });
                }
            }
        }
        assert!(dpmpp(&path, order(4, Solver::Midpoint, false)).is_err());
    }

    #[test]
    fn errors_fall_with_the_order() {
        let alpha_bars = schedule(4000).alpha_bars;
        let found = |highest, solver| {
            order_of(&alpha_bars, |bars, grid| {
                dpmpp(&Path::down(bars, grid).expect("a path"), order(highest, solver, false)).expect("a table")
            })
        };
        assert!((found(1, Solver::Midpoint) - 1.0).abs() < 0.1);
        for (_, solver) in Solver::ALL {
            assert!((found(2, *solver) - 2.0).abs() < 0.3, "{}", found(2, *solver));
        }
        println!("third order: {}", found(3, Solver::Midpoint));
    }

    #[test]
    fn a_short_run_ends_in_lower_orders() {
        let alpha_bars = schedule(400).alpha_bars;
        let path = Path::down(&alpha_bars, &[399, 300, 200, 100, 50, 0]).expect("a path");
        let used = |lower_order_final| {
            let order = Order { lower_order_final, ..order(3, Solver::Midpoint, false) };
            dpmpp(&path, order).expect("a table").rows.iter().map(|row| row.b.len()).collect::<Vec<_>>()
        };
        assert_eq!(used(true), [1, 2, 3, 3, 2, 1]);
        assert_eq!(used(false), [1, 2, 3, 3, 3, 1]);
    }
}
