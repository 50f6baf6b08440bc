//! The one error type of the core. The binding layer maps each variant onto a built-in Python exception.

use std::any::Any;

use tch::TchError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument has the right type and a value that cannot be used.
    #[error("{0}")]
    Value(String),
    /// An argument has the wrong type or dtype.
    #[error("{0}")]
    Type(String),
    /// A file or folder is not there.
    #[error("{0}")]
    NotFound(String),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(String),
    /// The computation went wrong while it ran, for example a loss that is not finite.
    #[error("{0}")]
    Runtime(String),
    /// The caller asked to stop (Ctrl-C).
    #[error("interrupted")]
    Interrupted,
    /// There is no memory for what the computation needs.
    #[error("{0}")]
    Memory(String),
    /// libtorch refused an operation.
    #[error("{0}")]
    Torch(String),
    /// The host's own error, raised inside a callback and carried through unchanged.
    #[error("a callback failed")]
    Callback(Box<dyn Any + Send>),
}

pub type Result<T> = std::result::Result<T, Error>;

impl From<TchError> for Error {
    fn from(err: TchError) -> Self {
        let text = err.to_string();
        // libtorch appends its C++ backtrace, of no use to a reader.
        let text = text.split("\nException raised from").next().unwrap_or_default();
        Error::Torch(text.trim_end().to_owned())
    }
}

/// `ensure!(cond, Value, "message {x}")`: return the error unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $kind:ident, $($message:tt)+) => {
        // not `if !cond`: of numbers that may be NaN, the negation of a comparison is not its opposite
        match $cond {
            true => {}
            false => return Err($crate::error::Error::$kind(format!($($message)+))),
        }
    };
}
pub(crate) use ensure;
