//! What is the same in all slices of one person.

use super::canvas::Frame;
use super::rng::Rng;
use super::vessels::{self, Piece};

/// Most numbers are deviations from the average: 1 for a size that is the average one, 0 for a place.
pub(super) struct Person {
    pub frame: Frame,
    pub girth: f32,
    pub depth: f32,
    /// Thickness of the fat under the skin.
    pub fat: f32,
    pub cage: [f32; 2],
    pub heart: f32,
    pub heart_place: [f32; 2],
    pub aorta: f32,
    /// Height at which the diaphragm's right dome begins.
    pub dome: f32,
    pub rib_phase: f32,
    pub bone: f32,
    pub lung_level: f32,
    pub gain: f32,
    pub noise: f32,
    /// Seed of the texture of the tissue.
    pub texture: u64,
    pub table: f32,
    pub vessels: Vec<Piece>,
}

impl Person {
    pub(super) fn new(rng: &mut Rng) -> Person {
        let girth = rng.between(0.93, 1.04);
        Person {
            frame: Frame {
                x: rng.between(-0.03, 0.03),
                y: rng.between(-0.05, 0.03),
                lean: rng.between(-0.04, 0.04),
                scale: rng.between(0.93, 1.05),
            },
            girth,
            depth: girth * rng.between(0.94, 1.06),
            fat: rng.between(0.03, 0.075),
            cage: [rng.between(0.94, 1.05), rng.between(0.94, 1.04)],
            heart: rng.between(0.88, 1.12),
            heart_place: [rng.between(-0.03, 0.03), rng.between(-0.02, 0.03)],
            aorta: rng.between(0.85, 1.2),
            dome: rng.between(0.74, 0.84),
            rib_phase: rng.between(0.0, 1.0),
            bone: rng.between(0.9, 1.1),
            lung_level: rng.between(9.0, 15.0),
            gain: rng.between(0.82, 1.08),
            noise: rng.between(0.5, 1.0),
            texture: rng.bits(),
            table: rng.between(-0.03, 0.05),
            vessels: vessels::grow(rng),
        }
    }
}
