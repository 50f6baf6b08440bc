//! The shapes of a slice: signed distances of the organs of a person at a height.

use super::canvas::{disc, join, mix, oval, stroke};
use super::person::Person;

/// A quantity at the heights 0, 0.25, 0.5, 0.75 and 1; between them it is joined smoothly.
type Course = [f32; 5];

const BODY_WIDTH: Course = [1.10, 0.97, 0.87, 0.74, 0.70];
const BODY_DEPTH: Course = [0.52, 0.61, 0.64, 0.66, 0.66];
const BODY_CORNER: Course = [-0.16, -0.10, 0.0, 0.06, 0.08];
const SPINE_Y: Course = [0.29, 0.34, 0.37, 0.39, 0.40];
const CAGE_WIDTH: Course = [0.36, 0.58, 0.63, 0.61, 0.57];
const CAGE_DEPTH: Course = [0.28, 0.46, 0.51, 0.52, 0.50];
const HEART_SIZE: Course = [0.0, 0.02, 0.72, 1.0, 0.9];
const MEDIASTINUM: Course = [0.085, 0.08, 0.12, 0.06, 0.04];

/// Centres of the body and of the chest, along y.
pub(super) const BODY_Y: f32 = 0.09;
pub(super) const CHEST_Y: f32 = 0.03;

/// Everything about the slice that its shapes share.
pub(super) struct Cut<'a> {
    pub(super) person: &'a Person,
    pub(super) height: f32,
    pub(super) body: [f32; 2],
    pub(super) corner: f32,
    pub(super) cage: [f32; 2],
    pub(super) spine: f32,
    pub(super) column: f32,
    pub(super) heart: f32,
}

impl Cut<'_> {
    pub(super) fn new(person: &Person, height: f32) -> Cut<'_> {
        Cut {
            person,
            height,
            body: [at(BODY_WIDTH, height) * person.girth, at(BODY_DEPTH, height) * person.depth],
            corner: at(BODY_CORNER, height),
            cage: [at(CAGE_WIDTH, height) * person.cage[0], at(CAGE_DEPTH, height) * person.cage[1]],
            spine: at(SPINE_Y, height),
            column: at(MEDIASTINUM, height),
            heart: at(HEART_SIZE, height) * person.heart,
        }
    }

    /// Flat in front and at the back, where it lies on the table; widest a little behind the middle.
    pub(super) fn skin(&self, x: f32, y: f32) -> f32 {
        let [width, depth] = self.body;
        let y = y - BODY_Y;
        let front = y < 0.0;
        let (depth, corner) =
            if front { (depth * 1.08, self.corner + 0.1) } else { (depth * 0.92, self.corner + 0.05) };
        let round = oval(x, y, [width, depth], corner);
        -join(-round, depth * 0.97 - y.abs(), 0.06)
    }

    /// The wall of the chest, and within it the rounded inner edge of each half.
    pub(super) fn cage(&self, x: f32, y: f32) -> f32 {
        let [width, depth] = self.cage;
        let wall = oval(x, y - CHEST_Y, self.cage, 0.25);
        let half = oval(x.abs() - 0.5 * width, y - CHEST_Y, [0.52 * width, depth], 0.35);
        -join(-wall, -half, 0.05)
    }

    pub(super) fn lung(&self, x: f32, y: f32) -> f32 {
        let organs = self.great_vessels(x, y).min(self.heart(x, y)).min(self.abdomen(x, y));
        self.cage(x, y).max(-self.between(x, y, organs))
    }

    /// What parts the lungs: a sheet from breastbone to spine, wide at both ends and around the organs.
    pub(super) fn between(&self, x: f32, y: f32, organs: f32) -> f32 {
        let sheet = x.abs() - 0.018 - 0.04 * (1.0 - self.height * 2.5).max(0.0);
        let front = CHEST_Y - self.cage[1];
        let behind_breastbone = stroke([x, y], [0.0, front - 0.08], [0.0, front + 0.14], [0.12, 0.01]);
        join(join(sheet, organs, 0.1), behind_breastbone.min(self.spine_bed(x, y)), 0.1)
    }

    pub(super) fn great_vessels(&self, x: f32, y: f32) -> f32 {
        let [x0, y0] = self.person.heart_place;
        if x.abs() > 0.4 {
            return x.abs() - 0.3;
        }
        let (height, wide) = (self.height, self.column);
        let aorta = self.person.aorta;
        let rising = oval(x - x0 + 0.02, y - y0 + 0.12, [wide * 1.05, wide * 1.5 + 0.03], 0.0);
        let arch =
            stroke([x, y], [x0, y0 - 0.1], [x0 + 0.08, y0 + 0.16], [0.075 * aorta; 2]) + 0.2 * (height - 0.22).abs();
        let falling = disc(x - 0.075, y - 0.22, 0.062 * aorta) + 0.5 * (0.2 - height).max(0.0);
        // The roots of the lungs, where their vessels leave the heart.
        let roots = stroke([x.abs(), y], [0.0, 0.02], [0.17, 0.07], [0.085, 0.05]) + 0.45 * (height - 0.47).abs();
        join(join(rising, arch, 0.08), join(falling, roots, 0.08), 0.08)
    }

    pub(super) fn spine_bed(&self, x: f32, y: f32) -> f32 {
        let vertebra = disc(x, y - self.spine + 0.01, 0.105);
        join(vertebra, stroke([x, y], [0.0, self.spine], [0.0, 0.68], [0.06, 0.26]), 0.06)
    }

    pub(super) fn heart(&self, x: f32, y: f32) -> f32 {
        if self.heart < 0.1 {
            return 1.0;
        }
        let [x0, y0] = self.person.heart_place;
        let size = self.heart;
        let (dx, dy) = (x - x0 - 0.07 * size, y - y0 + 0.17);
        // Its tip points to the left (the right of the image) and to the front.
        oval(dx + 0.25 * dy, dy - 0.12 * dx, [0.235 * size, 0.29 * size], 0.1)
    }

    /// Liver under the right dome of the diaphragm, spleen and stomach under the left one.
    pub(super) fn abdomen(&self, x: f32, y: f32) -> f32 {
        let dome = |start: f32, centre: [f32; 2], half: [f32; 2]| {
            let deep = ((self.height - start) / 0.22).clamp(0.0, 1.25);
            let grown = (deep * (2.0 - deep.min(1.0))).sqrt().max(0.0);
            if grown < 0.1 {
                return 1.0;
            }
            oval(x - centre[0], y - centre[1], [half[0] * grown, half[1] * grown], 0.1)
        };
        let liver = dome(self.person.dome, [-0.2, -0.08], [0.44, 0.43]);
        let left = dome(self.person.dome + 0.06, [0.27, 0.0], [0.33, 0.38]);
        join(liver, left, 0.05)
    }
}

fn at(course: Course, height: f32) -> f32 {
    let place = height.clamp(0.0, 1.0) * 4.0;
    let knot = (place as usize).min(3);
    let share = place - knot as f32;
    let smooth = share * share * (3.0 - 2.0 * share);
    // Half straight, half smoothed: no flat steps at the knots.
    let share = (share + smooth) / 2.0;
    mix(course[knot], course[knot + 1], share)
}

/// 1 at `centre`, falling smoothly to 0 at the distance `reach`.
pub(super) fn bump(value: f32, centre: f32, reach: f32) -> f32 {
    let off = (value - centre) / reach;
    let off = (1.0 - off * off).max(0.0);
    off * off
}
