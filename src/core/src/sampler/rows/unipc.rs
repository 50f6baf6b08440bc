//! UniPC with B(h) = exp(h) - 1, Zhao et al. 2023, section 3 and appendix on data prediction.

use crate::diffusion::schedule::Level;
use crate::error::{ensure, Result};
use crate::sampler::path::{towards_x0, Path};
use crate::sampler::table::{Row, Said, Table};

/// One network call a step: the answer about a predicted image also corrects it, before the next prediction.
pub fn unipc(path: &Path, highest: usize) -> Result<Table> {
    ensure!((1..=3).contains(&highest), Value, "order must be 1, 2 or 3, got {highest}");
    let steps = path.steps();
    let order = |index: usize| highest.min(index + 1).min(steps - index);
    let mut rows = Vec::with_capacity(2 * steps);
    for index in 0..steps {
        let mut predicted = predictor(path, index, order(index));
        if index == 0 {
            predicted.ask = Some(path.asks[0]);
        } else {
            rows.push(corrector(path, index, order(index - 1)));
        }
        rows.push(predicted);
    }
    Ok(Table { rows })
}

/// On from x_0, which is at level `index`; the latest answer is about that level.
fn predictor(path: &Path, index: usize, order: usize) -> Row {
    let (from, to) = (path.level(index), path.level(index + 1));
    let (x, x0) = towards_x0(from, to);
    let mut weights = vec![x0];
    if order > 1 {
        let (h, ratios) = ratios(path, index, to, order);
        let (unit, b) = right_hand_side(h, order - 1);
        let rho = if order == 2 { vec![0.5] } else { solve(&ratios, &b) };
        add_differences(&mut weights, -to.signal * unit, &rho, &ratios);
    }
    Row { a: vec![(0, x)], b: said(&weights), ..Row::to(to) }
}

/// The step to level `index` made again from x_1, now that the network has been asked about its end.
fn corrector(path: &Path, index: usize, order: usize) -> Row {
    let (from, to) = (path.level(index - 1), path.level(index));
    let (x, x0) = towards_x0(from, to);
    let (h, mut ratios) = ratios(path, index - 1, to, order);
    ratios.push(1.0);
    let (unit, b) = right_hand_side(h, order);
    let mut rho = if order == 1 { vec![0.5] } else { solve(&ratios, &b) };
    let of_end = rho.pop().unwrap_or_default() * -to.signal * unit;
    ratios.pop();
    let mut weights = vec![x0 - of_end];
    add_differences(&mut weights, -to.signal * unit, &rho, &ratios);
    // the answer about the end comes first, all others are one older
    weights.insert(0, of_end);
    Row { ask: Some(path.asks[index]), a: vec![(1, x)], b: said(&weights), ends_step: false, ..Row::to(to) }
}

/// The step to `to` over lambda, and where on it the `order - 1` answers before the one of level `index` lie.
fn ratios(path: &Path, index: usize, to: Level, order: usize) -> (f64, Vec<f64>) {
    let here = path.level(index).lambda();
    let h = to.lambda() - here;
    (h, (1..order).map(|back| (path.level(index - back).lambda() - here) / h).collect())
}

/// B(-h) and the numbers that the weighted powers of the ratios must add up to, `count` of them.
fn right_hand_side(h: f64, count: usize) -> (f64, Vec<f64>) {
    let unit = (-h).exp_m1();
    let (mut phi, mut factorial) = (unit / -h - 1.0, 1.0);
    let mut b = vec![];
    for k in 1..=count {
        b.push(phi * factorial / unit);
        factorial *= (k + 1) as f64;
        phi = phi / -h - 1.0 / factorial;
    }
    (unit, b)
}

/// rho with sum_m rho_m ratio_m^k = b_k, k = 0, 1, ... (a Vandermonde system of one to three unknowns, by Lagrange's polynomials).
fn solve(ratios: &[f64], b: &[f64]) -> Vec<f64> {
    let weight = |m: usize| {
        // coefficients of the polynomial that is 1 at ratio m and 0 at the others
        let mut polynomial = vec![1.0];
        let others = ratios.iter().enumerate().filter(|(other, _)| *other != m);
        for (_, ratio) in others {
            let mut next = vec![0.0; polynomial.len() + 1];
            for (power, coefficient) in polynomial.iter().enumerate() {
                next[power + 1] += coefficient / (ratios[m] - ratio);
                next[power] -= coefficient * ratio / (ratios[m] - ratio);
            }
            polynomial = next;
        }
        polynomial.iter().zip(b).map(|(coefficient, b)| coefficient * b).sum()
    };
    (0..b.len()).map(weight).collect()
}

/// Adds factor * sum_m rho_m (x0_m - x0_0) / ratio_m to the weights of the answers.
fn add_differences(weights: &mut Vec<f64>, factor: f64, rho: &[f64], ratios: &[f64]) {
    for (rho, ratio) in rho.iter().zip(ratios) {
        let weight = factor * rho / ratio;
        weights[0] -= weight;
        weights.push(weight);
    }
}

fn said(weights: &[f64]) -> Vec<(Said, f64)> {
    weights.iter().enumerate().map(|(age, weight)| (Said::X0(age), *weight)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::table::checks::{keeps_its_levels, order};
    use crate::sampler::testing::schedule;

    #[test]
    fn rows_lead_from_level_to_level() {
        let alpha_bars = schedule(400).alpha_bars;
        let path = Path::down(&alpha_bars, &[399, 250, 100, 30, 0]).expect("a path");
        for highest in 1..=3 {
            let table = unipc(&path, highest).expect("a table");
            keeps_its_levels(&table, path.level(0), 1e-10);
            assert_eq!((table.steps(), table.times().len()), (5, 5));
        }
        assert!(unipc(&path, 0).is_err());
    }

    #[test]
    fn errors_fall_with_the_order() {
        for highest in 1..=3 {
            let found = order(&schedule(4000).alpha_bars, |bars, grid| {
                unipc(&Path::down(bars, grid).expect("a path"), highest).expect("a table")
            });
            println!("order {highest}: {found}");
            assert!(found > highest as f64 - 0.3, "order {highest}: {found}");
        }
    }

    #[test]
    fn weights_solve_their_equations() {
        let (ratios, b) = ([-1.3, -0.4, 1.0], [0.2, -0.7, 0.9]);
        let rho = solve(&ratios, &b);
        for (power, want) in b.iter().enumerate() {
            let got: f64 = rho.iter().zip(&ratios).map(|(rho, ratio)| rho * ratio.powi(power as i32)).sum();
            assert!((got - want).abs() < 1e-12);
        }
    }
}
