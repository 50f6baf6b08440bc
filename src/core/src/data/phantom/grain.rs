//! Smooth random relief: the unevenness of tissue.

use super::canvas::mix;
use super::rng::Rng;

/// Smooth random relief, between -1 and 1, that changes slowly from slice to slice.
pub(super) struct Grain {
    nodes: [[f32; Grain::NODES]; Grain::NODES],
}

impl Grain {
    const NODES: usize = 12;
    const LAYERS: f32 = 6.0;

    pub(super) fn new(seed: u64, height: f32) -> Grain {
        let place = height * Self::LAYERS;
        let (layer, share) = (place.floor(), place - place.floor());
        let mut layers = [0, 1].map(|next| Rng::new(seed, &[layer as u64 + next]));
        let mut node = || mix(layers[0].between(-1.0, 1.0), layers[1].between(-1.0, 1.0), share);
        Grain { nodes: std::array::from_fn(|_| std::array::from_fn(|_| node())) }
    }

    pub(super) fn at(&self, x: f32, y: f32) -> f32 {
        let (row, down) = Self::cell(y);
        let (column, right) = Self::cell(x);
        let line = |row: usize| mix(self.nodes[row][column], self.nodes[row][column + 1], right);
        mix(line(row), line(row + 1), down)
    }

    /// The node before a coordinate, and how far it is to the next one.
    fn cell(coordinate: f32) -> (usize, f32) {
        let place = ((coordinate + 1.2) / 2.4).clamp(0.0, 1.0) * (Self::NODES - 1) as f32;
        let node = (place as usize).min(Self::NODES - 2);
        let share = place - node as f32;
        (node, share * share * (3.0 - 2.0 * share))
    }
}
