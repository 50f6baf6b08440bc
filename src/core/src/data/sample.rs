//! The two kinds of values that a set is kept in.

/// Grey levels as they are (`u8`), or normalised to [-1, 1] (`f32`).
pub trait Sample: Copy + Default + Send + Sync + 'static {
    /// Name of the kind, part of the cache's key.
    const NAME: &'static str;

    fn from_u8(level: u8) -> Self;
    fn from_u16(level: u16) -> Self;
    /// The inverse of `from_u8`, exact on its values.
    fn to_u8(self) -> u8;
    /// The inverse of `from_u16`, exact on its values where the kind has room for them.
    fn to_u16(self) -> u16;
}

impl Sample for u8 {
    const NAME: &'static str = "uint8";

    fn from_u8(level: u8) -> Self {
        level
    }

    fn from_u16(level: u16) -> Self {
        ((u32::from(level) + 128) / 257) as u8
    }

    fn to_u8(self) -> u8 {
        self
    }

    fn to_u16(self) -> u16 {
        u16::from(self) * 257
    }
}

/// The operations of torchvision's ToTensor and Normalize((0.5,), (0.5,)), in their order, so that the values are equal
/// to the last bit.
impl Sample for f32 {
    const NAME: &'static str = "float32";

    fn from_u8(level: u8) -> Self {
        (f32::from(level) / 255.0 - 0.5) / 0.5
    }

    fn from_u16(level: u16) -> Self {
        (f32::from(level) / 65535.0 - 0.5) / 0.5
    }

    fn to_u8(self) -> u8 {
        ((self * 0.5 + 0.5) * 255.0).round() as u8
    }

    fn to_u16(self) -> u16 {
        ((self * 0.5 + 0.5) * 65535.0).round() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_come_back_from_their_float_values() {
        assert!((0..=u8::MAX).all(|level| f32::from_u8(level).to_u8() == level));
        assert!((0..=u16::MAX).all(|level| f32::from_u16(level).to_u16() == level));
    }

    #[test]
    fn both_depths_agree_where_they_meet() {
        assert!((0..=u8::MAX).all(|level| f32::from_u8(level) == f32::from_u16(level.to_u16())));
        assert!((0..=u8::MAX).all(|level| u8::from_u16(level.to_u16()) == level));
    }
}
