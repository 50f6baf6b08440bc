//! One slice: the shapes of a person at a height, painted from the table inwards.

use super::canvas::{cover, disc, mix, oval, stroke, Canvas, Frame, Patch};
use super::grain::Grain;
use super::person::Person;
use super::rng::Rng;
use super::shapes::{bump, Cut, BODY_Y, CHEST_Y};

/// Grey levels of 255, as the course's slices show the tissues.
pub(super) const AIR: f32 = 2.0;
const TABLE: f32 = 78.0;
const FAT: f32 = 84.0;
const MUSCLE: f32 = 103.0;
const BLOOD: f32 = 108.0;
const MARROW: f32 = 122.0;
const CORTEX: f32 = 205.0;

/// Stream of random numbers for the ribs, apart from the grain's layers.
const RIBS: u64 = 100;
pub(super) fn paint(mut canvas: Canvas, person: &Person, height: f32) -> Canvas {
    let cut = Cut::new(person, height);
    cut.table(&mut canvas);
    canvas.set_frame(person.frame);
    cut.body(&mut canvas);
    cut.chest(&mut canvas);
    cut.vessels(&mut canvas);
    cut.hollows(&mut canvas);
    cut.bones(&mut canvas);
    canvas.scale_levels(person.gain);
    canvas
}

impl Cut<'_> {
    /// Two shells of the couch, each an arc of a large circle.
    fn table(&self, canvas: &mut Canvas) {
        canvas.set_frame(Frame { x: 0.0, y: self.person.table, lean: 0.0, scale: 1.0 });
        let patch = Patch([0.0, 0.75], [2.0, 0.4]);
        for (bottom, radius) in [(0.84, 2.1), (0.97, 2.3)] {
            canvas.fill(patch, TABLE, |x, y| disc(x, y - (bottom - radius), radius).abs() - 0.009);
        }
    }

    /// Skin, fat, and the muscles that the fat lies on.
    fn body(&self, canvas: &mut Canvas) {
        let edge = canvas.edge();
        let grain = Grain::new(self.person.texture, self.height);
        let patch = Patch([0.0, BODY_Y], [self.body[0], self.body[1] * 1.1]);
        canvas.repaint(patch, |x, y, under| {
            let skin = self.skin(x, y);
            if skin > edge {
                return under;
            }
            // Where fat reaches between the muscles the grain decides.
            let grain = grain.at(x, y);
            let muscle = cover(skin + self.person.fat * (1.0 + 0.9 * grain), 0.05);
            let level = mix(FAT, MUSCLE, muscle) - 22.0 * (grain - 0.15).max(0.0);
            mix(under, level, cover(skin, edge))
        });
    }

    /// The lungs, and between them the organs, which leave a rim of fat around themselves.
    fn chest(&self, canvas: &mut Canvas) {
        let edge = canvas.edge();
        let grain = Grain::new(self.person.texture ^ 1, self.height);
        canvas.repaint(Patch([0.0, CHEST_Y], self.cage), |x, y, under| {
            let cage = self.cage(x, y);
            if cage > edge {
                return under;
            }
            let organs = self.great_vessels(x, y).min(self.heart(x, y)).min(self.abdomen(x, y));
            let lung = cage.max(-self.between(x, y, organs));
            let air = self.person.lung_level + 4.0 * y + 2.5 * grain.at(x, y);
            let level = mix(under, BLOOD, cover(organs + 0.015, 0.03));
            mix(level, air, cover(lung, edge))
        });
    }

    fn vessels(&self, canvas: &mut Canvas) {
        let edge = canvas.edge();
        for vessel in self.person.vessels.iter().filter_map(|piece| piece.cut(self.height)) {
            canvas.repaint(vessel.patch(), |x, y, under| {
                let share = cover(vessel.distance(x, y), edge);
                if share == 0.0 {
                    return under;
                }
                mix(under, BLOOD, share * cover(self.lung(x, y) + 0.02, edge))
            });
        }
    }

    /// Windpipe and stomach.
    fn hollows(&self, canvas: &mut Canvas) {
        let [x0, y0] = self.person.heart_place;
        let height = self.height;
        let stomach = bump(height, 0.98, 0.14) * 0.16;
        if stomach > 0.02 {
            canvas.fill(Patch([0.3, -0.28], [0.3, 0.2]), FAT * 1.1, |x, y| {
                oval(x - 0.3, y + 0.3, [stomach * 1.5, stomach], 0.0)
            });
        }
        // The windpipe, which parts in two at a third of the way down.
        let apart = ((height - 0.33) * 1.6).max(0.0);
        let width = 0.046 * bump(height, 0.0, 0.62).max(0.0).sqrt();
        if width > 0.012 {
            for side in [-1.0, 1.0] {
                let centre = x0 + side * apart - 0.015;
                canvas.fill(Patch([centre, 0.02], [0.06, 0.08]), 4.0, |x, y| {
                    oval(x - centre, y - y0 - 0.02, [width, width * 1.15], 0.0)
                });
            }
        }
    }

    fn bones(&self, canvas: &mut Canvas) {
        self.spine(canvas);
        self.ribs(canvas);
        let height = self.height;
        // Breastbone: a shell of cortex around marrow, just inside the front of the cage.
        let front = CHEST_Y - self.cage[1] - 0.035;
        let half = [0.085 + 0.02 * bump(height, 0.1, 0.25), 0.028];
        self.bone(canvas, Patch([0.0, front], half), 0.5, |x, y| oval(x, y - front, half, 0.4));
        // Shoulder blades, seen in the upper half.
        let length = bump(height, 0.14, 0.45) * 0.19;
        if length > 0.03 {
            for side in [-1.0, 1.0] {
                let outer =
                    [side * (self.cage[0] + 0.15), 0.34 - (1.0 + self.person.heart_place[0] * side * 5.0) * length];
                let inner = [side * (self.cage[0] + 0.015), 0.36 + 0.45 * length];
                let thick = [0.017, 0.008];
                let centre = [(outer[0] + inner[0]) / 2.0, (outer[1] + inner[1]) / 2.0];
                let patch = Patch(centre, [0.15, 0.2]);
                self.bone(canvas, patch, 0.9, |x, y| stroke([x, y], outer, inner, thick).max(self.skin(x, y) + 0.05));
            }
        }
    }

    /// Vertebral body, canal, and the processes around it; discs between the vertebrae come and go with the height.
    fn spine(&self, canvas: &mut Canvas) {
        let disc_here = bump(fraction(self.height * 9.0 + self.person.rib_phase), 0.5, 0.3);
        let body = [0.088 + 0.018 * self.height, 0.078 + 0.014 * self.height];
        let back = self.spine + body[1] + 0.045;
        let arch = 1.0 - 0.6 * disc_here;
        for side in [-1.0, 1.0] {
            let tip = [side * 0.15, back + 0.005];
            self.bone(canvas, Patch([side * 0.08, back], [0.1, 0.06]), 0.5 * arch, |x, y| {
                stroke([x, y], [side * 0.05, back], tip, [0.022, 0.014])
            });
        }
        self.bone(canvas, Patch([0.0, back + 0.07], [0.04, 0.08]), 0.55 * arch, |x, y| {
            stroke([x, y], [0.0, back + 0.04], [0.0, back + 0.1], [0.022, 0.012])
        });
        let patch = Patch([0.0, self.spine], body);
        self.bone(canvas, patch, 0.3 - 0.25 * disc_here, |x, y| oval(x, y - self.spine, body, 0.25));
        canvas.fill(Patch([0.0, back], [0.04, 0.04]), MUSCLE, |x, y| oval(x, y - back, [0.036, 0.032], 0.0));
    }

    /// Each rib runs down and forwards, so a slice meets it at a place that moves with the height.
    fn ribs(&self, canvas: &mut Canvas) {
        let ring = [self.cage[0] + 0.035, self.cage[1] + 0.04];
        let mut rng = Rng::new(self.person.texture, &[RIBS]);
        for side in [-1.0, 1.0] {
            for rib in 0..7 {
                let phase = fraction(self.height * 5.0 + self.person.rib_phase + 0.07 * side);
                // From the spine (0) to the breastbone (2), in quarter turns.
                let place = (rib as f32 + phase + rng.between(-0.2, 0.2)) / 7.0 * 1.7 + 0.14;
                let (sine, cosine) = quarter_turns(place);
                let [x0, y0] = [side * ring[0] * sine, CHEST_Y + ring[1] * cosine];
                let [tx, ty] = [ring[0] * cosine * side, -ring[1] * sine];
                let norm = (tx * tx + ty * ty).sqrt();
                // Towards the front the bone turns into cartilage.
                let strength = (1.9 - place).clamp(0.15, 1.0) * rng.between(0.25, 0.7);
                let half = 0.05 + 0.025 * (1.0 - place).abs();
                let [ex, ey] = [tx / norm * half, ty / norm * half];
                let patch = Patch([x0, y0], [half + 0.02, half + 0.02]);
                self.bone(canvas, patch, strength, |x, y| {
                    stroke([x, y], [x0 - ex, y0 - ey], [x0 + ex, y0 + ey], [0.017, 0.017])
                });
            }
        }
    }

    /// A bone: cortex outside, marrow within. `strength` tells how much of the cortex is there.
    fn bone(&self, canvas: &mut Canvas, patch: Patch, strength: f32, distance: impl Fn(f32, f32) -> f32) {
        let edge = canvas.edge();
        let cortex = MARROW + (CORTEX * self.person.bone - MARROW) * strength;
        canvas.repaint(patch, |x, y, under| {
            let d = distance(x, y);
            mix(under, mix(cortex, MARROW, cover(d + 0.022, 0.012)), cover(d, edge))
        });
    }
}

fn fraction(value: f32) -> f32 {
    value - value.floor()
}

/// Sine and cosine of `turns` quarter turns (0 to 2), to two digits: Bhaskara's fraction.
fn quarter_turns(turns: f32) -> (f32, f32) {
    let half_turn = turns / 2.0;
    // sine(t) is the sine of t half turns, for t from 0 to 1.
    let sine = |t: f32| 16.0 * t * (1.0 - t) / (5.0 - 4.0 * t * (1.0 - t));
    let cosine = if half_turn <= 0.5 { sine(0.5 - half_turn) } else { -sine(half_turn - 0.5) };
    (sine(half_turn), cosine)
}
