//! Memory for lines, kept by the projector from call to call: some megabytes that the system would otherwise take back after
//! each call and give anew, page by page, for a third of the time.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::pool::scratch::refilled;

/// What is kept at most, in bytes; beyond, the system's own pace is what it is.
const MOST: usize = 64 << 20;

/// Buffers that wait for their next use, by what they hold.
#[derive(Debug, Default)]
pub struct Workspace(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Of each type T a `Vec<Vec<T>>`.
    buffers: HashMap<TypeId, Box<dyn Any + Send>>,
    bytes: usize,
}

impl Kept {
    fn of<T: Send + 'static>(&mut self) -> Option<&mut Vec<Vec<T>>> {
        self.buffers.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(Vec::<Vec<T>>::new())).downcast_mut()
    }
}

impl Workspace {
    /// `len` times `value`, where there was a buffer before if there is one.
    pub fn filled<T: Copy + Send + 'static>(&self, value: T, len: usize) -> Result<Vec<T>> {
        refilled(self.take().unwrap_or_default(), value, len)
    }

    fn take<T: Send + 'static>(&self) -> Option<Vec<T>> {
        let mut kept = self.kept();
        let buffer = kept.of()?.pop()?;
        kept.bytes -= bytes(&buffer);
        Some(buffer)
    }

    /// Keeps a buffer for later.
    pub fn keep<T: Send + 'static>(&self, buffer: Vec<T>) {
        let mut kept = self.kept();
        let bytes = kept.bytes + bytes(&buffer);
        if bytes <= MOST {
            kept.bytes = bytes;
            if let Some(buffers) = kept.of() {
                buffers.push(buffer);
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes<T>(buffer: &Vec<T>) -> usize {
    buffer.capacity() * size_of::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_for_its_type_alone_and_forgets_what_it_held() {
        let workspace = Workspace::default();
        let buffer = workspace.filled(1.0_f32, 1000).unwrap();
        let place = buffer.as_ptr();
        workspace.keep(buffer);
        assert_eq!(workspace.filled(2.0_f64, 10).unwrap(), [2.0; 10]);
        let again = workspace.filled(3.0_f32, 999).unwrap();
        assert_eq!(again.as_ptr(), place);
        assert_eq!(again, [3.0; 999]);
    }

    #[test]
    fn no_more_is_kept_than_64_mib() {
        let workspace = Workspace::default();
        let buffers: Vec<_> = (0..5).map(|_| workspace.filled(0_u8, 15 << 20).unwrap()).collect();
        buffers.into_iter().for_each(|buffer| workspace.keep(buffer));
        assert_eq!(workspace.kept().bytes, 60 << 20);
        assert_eq!(workspace.kept().of::<u8>().map(|buffers| buffers.len()), Some(4));
    }
}
