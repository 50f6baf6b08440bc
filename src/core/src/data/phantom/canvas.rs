//! Painting shapes that are given by their signed distance (negative inside), with soft edges.

/// Levels of a square image that shows -1..1 along both axes, y downwards.
pub(super) struct Canvas {
    side: u32,
    levels: Vec<f32>,
    frame: Frame,
}

/// From the image to the body: the image is shifted, turned and magnified a little against it.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub x: f32,
    pub y: f32,
    /// Tangent of the turn; small.
    pub lean: f32,
    pub scale: f32,
}

impl Frame {
    const STRAIGHT: Frame = Frame { x: 0.0, y: 0.0, lean: 0.0, scale: 1.0 };
}

/// A part of the image, in the coordinates of the body: centre and half extent.
#[derive(Clone, Copy)]
pub(super) struct Patch(pub [f32; 2], pub [f32; 2]);

impl Canvas {
    pub(super) fn new(side: u32, level: f32) -> Canvas {
        Canvas { side, levels: vec![level; side as usize * side as usize], frame: Frame::STRAIGHT }
    }

    pub(super) fn side(&self) -> u32 {
        self.side
    }

    /// What is painted from now on is given in the coordinates of `frame`.
    pub(super) fn set_frame(&mut self, frame: Frame) {
        self.frame = frame;
    }

    /// Every level of `patch` becomes `paint(x, y, level)`.
    pub(super) fn repaint(&mut self, patch: Patch, paint: impl Fn(f32, f32, f32) -> f32) {
        let Frame { x, y, lean, scale } = self.frame;
        let step = 2.0 / self.side as f32;
        let [columns, rows] = self.reach(patch);
        let side = self.side as usize;
        for row in rows {
            let v = (row as f32 + 0.5) * step - 1.0 - y;
            let line = &mut self.levels[row * side..(row + 1) * side];
            for column in columns.clone() {
                let u = (column as f32 + 0.5) * step - 1.0 - x;
                line[column] = paint((u + lean * v) / scale, (v - lean * u) / scale, line[column]);
            }
        }
    }

    /// Paints a shape at one level.
    pub(super) fn fill(&mut self, patch: Patch, level: f32, distance: impl Fn(f32, f32) -> f32) {
        let edge = self.edge();
        self.repaint(patch, |x, y, under| mix(under, level, cover(distance(x, y), edge)));
    }

    /// Width of a soft edge: a pixel and a half, and what a scanner blurs at any resolution.
    pub(super) fn edge(&self) -> f32 {
        3.0 / self.side as f32 + 0.006
    }

    pub(super) fn scale_levels(&mut self, factor: f32) {
        self.levels.iter_mut().for_each(|level| *level *= factor);
    }

    /// Levels 0..=255 over the 16-bit range.
    pub(super) fn into_levels(self) -> Vec<u16> {
        self.levels.into_iter().map(|level| (level * 257.0).round().clamp(0.0, 65535.0) as u16).collect()
    }

    /// Columns and rows that `patch` can touch.
    fn reach(&self, Patch(centre, half): Patch) -> [std::ops::Range<usize>; 2] {
        let Frame { x, y, lean, scale } = self.frame;
        let middle = [scale * (centre[0] - lean * centre[1]) + x, scale * (centre[1] + lean * centre[0]) + y];
        // The turn lets a corner reach further; twice the edge is more than the soft rim needs.
        let slack = (half[0] + half[1] + centre[0].abs() + centre[1].abs()) * lean.abs() + 2.0 * self.edge();
        let place = |v: f32| ((v + 1.0) / 2.0 * self.side as f32).clamp(0.0, self.side as f32);
        [0, 1].map(|axis| {
            let extent = half[axis] * scale + slack;
            place(middle[axis] - extent) as usize..place(middle[axis] + extent).ceil() as usize
        })
    }
}

pub(super) fn mix(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

/// How much of a pixel a shape covers whose edge passes at `distance`.
pub(super) fn cover(distance: f32, edge: f32) -> f32 {
    let inside = (0.5 - distance / edge).clamp(0.0, 1.0);
    inside * inside * (3.0 - 2.0 * inside)
}

/// Roughly the distance from an ellipse. `corner` makes it boxier (0 to 1) or pointed (below 0).
pub(super) fn oval(x: f32, y: f32, half: [f32; 2], corner: f32) -> f32 {
    let (a, b) = ((x / half[0]).abs(), (y / half[1]).abs());
    let (a2, b2) = (a * a, b * b);
    let round = (a2 + b2).sqrt();
    let other = if corner < 0.0 { a + b } else { (a2 * a2 + b2 * b2).sqrt().sqrt() };
    (round + (other - round) * corner.abs() - 1.0) * half[0].min(half[1])
}

pub(super) fn disc(x: f32, y: f32, radius: f32) -> f32 {
    (x * x + y * y).sqrt() - radius
}

/// Distance from a line that is `radii` thick at its two ends.
pub(super) fn stroke([x, y]: [f32; 2], from: [f32; 2], to: [f32; 2], radii: [f32; 2]) -> f32 {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let (px, py) = (x - from[0], y - from[1]);
    let along = ((px * dx + py * dy) / (dx * dx + dy * dy).max(1e-12)).clamp(0.0, 1.0);
    disc(px - along * dx, py - along * dy, radii[0] + (radii[1] - radii[0]) * along)
}

/// Union of two shapes, with the corner between them filled to a depth of about `soft` / 4.
pub(super) fn join(a: f32, b: f32, soft: f32) -> f32 {
    let near = (soft - (a - b).abs()).max(0.0) / soft;
    a.min(b) - near * near * soft * 0.25
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disc_covers_its_area() {
        let mut canvas = Canvas::new(128, 0.0);
        canvas.set_frame(Frame { x: 0.1, y: -0.05, lean: 0.05, scale: 1.1 });
        canvas.fill(Patch([0.2, 0.1], [0.3, 0.3]), 1.0, |x, y| disc(x - 0.2, y - 0.1, 0.3));
        let area = canvas.levels.iter().sum::<f32>() * (2.0 / 128.0) * (2.0 / 128.0);
        let expected = std::f32::consts::PI * (0.3 * 1.1) * (0.3 * 1.1);
        assert!((area / expected - 1.0).abs() < 0.03, "{area} {expected}");
    }

    #[test]
    fn distances_have_their_zero_on_the_edge() {
        assert!(oval(0.5, 0.0, [0.5, 0.2], 0.3).abs() < 1e-6 && oval(0.0, -0.2, [0.5, 0.2], -0.4).abs() < 1e-6);
        assert!(stroke([0.5, 0.1], [0.0, 0.0], [1.0, 0.0], [0.1, 0.1]).abs() < 1e-6);
        assert!(join(0.3, 0.5, 0.1) == 0.3 && join(0.0, 0.0, 0.1) < 0.0);
    }
}
