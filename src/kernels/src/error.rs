//! The one error of this crate: arguments that do not fit each other.

use std::fmt;

/// A message that names the argument, what it got and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

pub type Result<T = ()> = std::result::Result<T, Error>;

/// Fails unless `got == want`.
pub fn check_len(name: &str, got: usize, want: usize) -> Result {
    if got == want {
        Ok(())
    } else {
        Err(Error(format!("{name} has {got} elements; {want} are needed")))
    }
}
