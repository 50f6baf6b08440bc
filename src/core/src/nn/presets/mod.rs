//! Networks by name: each preset turns a configuration into a blueprint.

mod course;
mod diffusers;

pub use course::UNetConfig;
pub use diffusers::UNet2DConfig;
