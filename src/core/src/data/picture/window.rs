//! The window through which values of more than eight bits are shown.

use super::{Picture, Pixels};

/// `level - width / 2` becomes black, `level + width / 2` white. In Hounsfield units for DICOM files, in a file's own
/// values for others of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub level: f32,
    pub width: f32,
}

impl Window {
    pub(in crate::data) fn shade(self, value: f32) -> u16 {
        let position = (value - (self.level - self.width / 2.0)) / self.width;
        (position.clamp(0.0, 1.0) * f32::from(u16::MAX)).round() as u16
    }

    /// `picture` through the window, if it has 16 bits a sample.
    pub(in crate::data) fn show(self, mut picture: Picture) -> Picture {
        if let Pixels::U16(samples) = &mut picture.pixels {
            for sample in samples {
                *sample = self.shade(f32::from(*sample));
            }
        }
        picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_spread_over_the_window_and_eight_are_left_alone() {
        let window = Window { level: 2000.0, width: 2000.0 };
        let picture = |pixels| Picture { width: 4, height: 1, channels: 1, pixels };
        let shown = window.show(picture(Pixels::U16(vec![0, 1000, 2000, 60000])));
        assert_eq!(shown.pixels, Pixels::U16(vec![0, 0, 32768, 65535]));
        let grey = picture(Pixels::U8(vec![0, 9, 200, 255]));
        assert_eq!(window.show(grey.clone()), grey);
    }
}
