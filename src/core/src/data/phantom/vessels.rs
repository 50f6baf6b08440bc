//! The trees of vessels in the lungs: grown once per person in three dimensions, then cut by each slice.

use super::canvas::{stroke, Patch};
use super::rng::Rng;

/// How much longer the chest is from height 0 to 1 than the image is from its centre to its edge.
const HEIGHT_UNITS: f32 = 1.6;

/// Half the thickness of a slice, in heights.
const HALF_SLICE: f32 = 0.008;

const MAIN_BRANCHES: usize = 9;
const GENERATIONS: u32 = 5;

/// How far a branch turns from where its stem was heading. Most vessels run steeply, and slices show them as dots.
const BEND: [f32; 3] = [0.5, 0.5, 0.9];

/// A straight piece of a vessel: ends (x, y, height) and radii there.
pub(super) struct Piece {
    from: [f32; 3],
    to: [f32; 3],
    radii: [f32; 2],
}

/// The part of a piece that lies within a slice, seen from above.
pub(super) struct Shadow {
    from: [f32; 2],
    to: [f32; 2],
    radii: [f32; 2],
}

/// Both trees; they start where the vessels enter the lungs.
pub(super) fn grow(rng: &mut Rng) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for side in [-1.0, 1.0] {
        for branch in 0..MAIN_BRANCHES {
            let climb = (branch as f32 + rng.between(0.2, 0.8)) / MAIN_BRANCHES as f32 * 3.2 - 1.8;
            let start = [side * 0.15, rng.between(0.0, 0.08), 0.45 + 0.05 * climb];
            let towards = [side * rng.between(0.5, 1.0), rng.between(-0.9, 0.9), climb];
            let radius = rng.between(0.014, 0.021);
            sprout(&mut pieces, rng, start, towards, radius, GENERATIONS);
        }
    }
    pieces
}

/// One piece from `start` along `towards`, and two smaller ones from its end.
fn sprout(pieces: &mut Vec<Piece>, rng: &mut Rng, start: [f32; 3], towards: [f32; 3], radius: f32, generations: u32) {
    let [x, y, z] = towards;
    let length = (x * x + y * y + z * z).sqrt().max(1e-3);
    let reach = (0.065 + 3.5 * radius) * rng.between(0.8, 1.3) / length;
    let end = [start[0] + x * reach, start[1] + y * reach, start[2] + z * reach / HEIGHT_UNITS];
    let tip = radius * 0.85;
    pieces.push(Piece { from: start, to: end, radii: [radius, tip] });
    if generations == 0 {
        return;
    }
    for _ in 0..2 {
        let bend = BEND.map(|most| most * rng.normal().clamp(-1.6, 1.6));
        let bend = [0, 1, 2].map(|axis| towards[axis] / length + bend[axis]);
        let radius = tip * rng.between(0.72, 0.98);
        sprout(pieces, rng, end, bend, radius, generations - 1);
    }
}

impl Piece {
    /// What the slice at `height` shows of this piece.
    pub(super) fn cut(&self, height: f32) -> Option<Shadow> {
        let (low, high) = (height - HALF_SLICE, height + HALF_SLICE);
        let rise = self.to[2] - self.from[2];
        let (mut first, mut last) = (0.0_f32, 1.0_f32);
        if rise.abs() > 1e-6 {
            let ends = [(low - self.from[2]) / rise, (high - self.from[2]) / rise];
            first = first.max(ends[0].min(ends[1]));
            last = last.min(ends[0].max(ends[1]));
        } else if !(low..high).contains(&self.from[2]) {
            return None;
        }
        let at = |share: f32| [0, 1].map(|axis| self.from[axis] + (self.to[axis] - self.from[axis]) * share);
        let radius = |share: f32| self.radii[0] + (self.radii[1] - self.radii[0]) * share;
        (first < last).then(|| Shadow { from: at(first), to: at(last), radii: [radius(first), radius(last)] })
    }
}

impl Shadow {
    pub(super) fn patch(&self) -> Patch {
        let thick = self.radii[0].max(self.radii[1]);
        let centre = [0, 1].map(|axis| (self.from[axis] + self.to[axis]) / 2.0);
        Patch(centre, [0, 1].map(|axis| (self.from[axis] - self.to[axis]).abs() / 2.0 + thick))
    }

    pub(super) fn distance(&self, x: f32, y: f32) -> f32 {
        stroke([x, y], self.from, self.to, self.radii)
    }
}
