//! Grey levels and the values that networks see: the one place where they are turned into each other.

use tch::{Kind, Tensor};

use crate::error::{ensure, Result};

/// What a set is kept in: grey levels as they are (`u8`), or normalised to [-1, 1] (`f32`).
pub trait Value: Copy + Default + Send + Sync + 'static {
    /// Name of the kind, part of the cache's key.
    const NAME: &'static str;

    fn from_u8(level: u8) -> Self;
    fn from_u16(level: u16) -> Self;
    /// The inverse of `from_u8`, exact on its values.
    fn to_u8(self) -> u8;
    /// The inverse of `from_u16`, exact on its values where the kind has room for them.
    fn to_u16(self) -> u16;
}

impl Value for u8 {
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

impl Value for f32 {
    const NAME: &'static str = "float32";

    fn from_u8(level: u8) -> Self {
        normalised(level.into(), 255.0)
    }

    fn from_u16(level: u16) -> Self {
        normalised(level.into(), 65535.0)
    }

    fn to_u8(self) -> u8 {
        ((self * 0.5 + 0.5) * 255.0).round() as u8
    }

    fn to_u16(self) -> u16 {
        ((self * 0.5 + 0.5) * 65535.0).round() as u16
    }
}

/// The operations of torchvision's ToTensor and Normalize((0.5,), (0.5,)), in their order, so that the values are equal to
/// the last bit.
fn normalised(level: f32, white: f32) -> f32 {
    (level / white - 0.5) / 0.5
}

/// A uint8 tensor of grey levels as float32 values in [-1, 1], on its device. Looked up in a table, so that the bits are the
/// same on every device, whatever it makes of a division.
///
/// # Errors
/// `Type` for any other kind of tensor.
pub fn to_values(levels: &Tensor) -> Result<Tensor> {
    let kind = levels.f_kind();
    ensure!(matches!(kind, Ok(Kind::Uint8)), Type, "grey levels must be uint8, got {kind:?}");
    let table: Vec<f32> = (0..=u8::MAX).map(f32::from_u8).collect();
    let table = Tensor::f_from_slice(&table)?.f_to_device(levels.device())?;
    let places = levels.f_to_kind(Kind::Int)?.f_reshape([-1])?;
    Ok(table.f_index_select(0, &places)?.f_reshape(levels.size())?)
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

    #[test]
    fn a_tensor_gets_the_same_values_in_its_own_shape() {
        let levels = Tensor::arange(256, (Kind::Uint8, tch::Device::Cpu)).view([2, 1, 8, 16]);
        let values = to_values(&levels).expect("values");
        assert_eq!(values.size(), [2, 1, 8, 16]);
        let expected: Vec<f32> = (0..=u8::MAX).map(f32::from_u8).collect();
        assert_eq!(Vec::<f32>::try_from(values.view(-1)).expect("numbers"), expected);
        let turned = to_values(&levels.transpose(2, 3)).expect("values");
        assert_eq!(turned.transpose(2, 3), values);
        assert!(to_values(&levels.to_kind(Kind::Int64)).is_err());
    }
}
