//! Square roots of covariances that are known by their products only.

use tch::{Kind, Tensor};

use super::cg::{inner, numbers, Pulse, Watch};
use crate::error::Result;

/// Directions that end an image: what is left of them, as a share of the largest curvature.
const ENOUGH: f64 = 1e-4;

/// C^(1/2) eps of each image, for a symmetric C that treats every image for itself: the Lanczos approximation from the Krylov
/// space of C and eps, orthogonalised in full. Eigenvalues below 0, which a network's Jacobian may have, count as 0.
pub fn root(c: &mut dyn FnMut(&Tensor) -> Result<Tensor>, eps: &Tensor, steps: usize, watch: Watch) -> Result<Tensor> {
    let mut pulse = Pulse::new(watch);
    let lengths: Vec<f64> = inner(eps, eps)?.iter().map(|square| square.sqrt().max(1e-30)).collect();
    let mut v = eps.f_div(&numbers(&lengths, eps)?)?;
    let (mut directions, mut diagonals, mut links) = (vec![], vec![], vec![]);
    for _ in 0..steps {
        pulse.beat()?;
        let mut next = c(&v)?;
        let diagonal = inner(&next, &v)?;
        directions.push(v);
        for direction in directions.iter().rev() {
            next = next.f_sub(&direction.f_mul(&numbers(&inner(&next, direction)?, eps)?)?)?;
        }
        let link: Vec<f64> = inner(&next, &next)?.iter().map(|square| square.sqrt()).collect();
        diagonals.push(diagonal);
        let goes_on = |i: usize| link[i] > ENOUGH * largest(&diagonals, i);
        let open: Vec<f64> = (0..link.len()).map(|i| if goes_on(i) { link[i] } else { 0.0 }).collect();
        if open.iter().all(|link| *link == 0.0) {
            break;
        }
        let scales: Vec<f64> = open.iter().map(|link| if *link > 0.0 { 1.0 / link } else { 0.0 }).collect();
        v = next.f_mul(&numbers(&scales, eps)?)?;
        links.push(open);
    }
    combined(&directions, &diagonals, &links, &lengths, eps)
}

fn largest(diagonals: &[Vec<f64>], image: usize) -> f64 {
    diagonals.iter().map(|diagonal| diagonal[image].abs()).fold(0.0, f64::max)
}

/// |eps| sum_j v_j (T^(1/2))_j1, T the tridiagonal matrix of an image.
fn combined(
    directions: &[Tensor],
    diagonals: &[Vec<f64>],
    links: &[Vec<f64>],
    lengths: &[f64],
    like: &Tensor,
) -> Result<Tensor> {
    let weights = (0..lengths.len()).map(|i| first_column(diagonals, links, i)).collect::<Result<Vec<_>>>()?;
    let mut sum = like.f_zeros_like()?;
    for (j, direction) in directions.iter().enumerate() {
        let of_each: Vec<f64> = weights.iter().zip(lengths).map(|(column, length)| column[j] * length).collect();
        sum = sum.f_add(&direction.f_mul(&numbers(&of_each, like)?)?)?;
    }
    Ok(sum)
}

/// Of the matrix as far as it belongs to this image, whose directions may end before those of others; 0 behind that.
fn first_column(diagonals: &[Vec<f64>], links: &[Vec<f64>], image: usize) -> Result<Vec<f64>> {
    let of_all = diagonals.len();
    let size = 1 + links.iter().take(of_all - 1).take_while(|links| links[image] > 0.0).count();
    if size == 1 {
        let mut column = vec![0.0; of_all];
        column[0] = diagonals[0][image].max(0.0).sqrt();
        return Ok(column);
    }
    let mut entries = vec![0.0; size * size];
    for j in 0..size {
        entries[j * size + j] = diagonals[j][image];
        if j + 1 < size {
            let link = links[j][image];
            (entries[j * size + j + 1], entries[(j + 1) * size + j]) = (link, link);
        }
    }
    let matrix = Tensor::f_from_slice(&entries)?.f_view([size as i64, size as i64])?;
    let (values, vectors) = matrix.f_linalg_eigh("L")?;
    let roots = values.f_clamp_min(0.0)?.f_sqrt()?;
    let column = vectors.f_mv(&roots.f_mul(&vectors.f_get(0)?)?)?.f_to_kind(Kind::Double)?;
    let mut column = Vec::try_from(&column)?;
    column.resize(of_all, 0.0);
    Ok(column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn bits_do_not_depend_on_images_whose_directions_end_earlier_or_later() {
        let slopes = Tensor::arange(6, (Kind::Double, Device::Cpu)).view([1, 1, 2, 3]) + 1.0;
        let mut apply = |x: &Tensor| Ok(x * &slopes);
        let one_direction = Tensor::from_slice(&[0.0, 0.0, 2.0, 0.0, 0.0, 0.0]).view([1, 1, 2, 3]);
        let two = Tensor::from_slice(&[1.0, 0.0, 2.0, 0.0, 0.0, 0.0]).view([1, 1, 2, 3]);
        let all = Tensor::ones([1, 1, 2, 3], (Kind::Double, Device::Cpu));
        let batch = Tensor::cat(&[&one_direction, &two, &all], 0);
        let together = root(&mut apply, &batch, 6, || Ok(())).expect("a root");
        for i in 0..3 {
            let alone = root(&mut apply, &batch.narrow(0, i, 1), 6, || Ok(())).expect("a root");
            assert_eq!(alone, together.narrow(0, i, 1));
            assert!(
                f64::try_from((&alone - batch.narrow(0, i, 1) * slopes.sqrt()).abs().max()).expect("a number") < 1e-3
            );
        }
    }

    #[test]
    fn its_square_is_the_matrix() {
        tch::manual_seed(1);
        let root_of = Tensor::randn([24, 24], (Kind::Double, Device::Cpu));
        let c = root_of.matmul(&root_of.transpose(0, 1)) / 24.0 + Tensor::eye(24, (Kind::Double, Device::Cpu)) * 0.1;
        let mut apply = |x: &Tensor| Ok(x.view([-1, 24]).matmul(&c).view(x.size().as_slice()));
        let eps = Tensor::randn([3, 1, 4, 6], (Kind::Double, Device::Cpu));
        let once = root(&mut apply, &eps, 24, || Ok(())).expect("a root");
        let twice = root(&mut apply, &once, 24, || Ok(())).expect("a root");
        let want = eps.view([-1, 24]).matmul(&c);
        assert!(f64::try_from((twice.view([-1, 24]) - want).abs().max()).expect("a number") < 1e-3);
    }
}
