//! What can go wrong in this crate.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Arguments do not fit each other. The message names the argument, what it got and what it takes.
    Misfit(String),
    /// There is no memory for this many bytes.
    Memory(usize),
    /// The caller's pool did not run every task to its end.
    Pool(String),
}

impl Error {
    pub(crate) fn misfit(text: impl Into<String>) -> Self {
        Error::Misfit(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Misfit(text) | Error::Pool(text) => f.write_str(text),
            Error::Memory(bytes) => write!(f, "out of memory: could not allocate {bytes} bytes for a kernel's buffers"),
        }
    }
}

impl std::error::Error for Error {}

pub type Result<T = ()> = std::result::Result<T, Error>;

/// Fails unless `got == want`.
pub fn check_len(name: &str, got: usize, want: usize) -> Result {
    if got == want {
        Ok(())
    } else {
        Err(Error::Misfit(format!("{name} has {got} elements; {want} are needed")))
    }
}
