//! Buffers for intermediate results. Where the system has no memory for them, that is an error and not the end of the
//! process.

use std::cell::Cell;

use crate::error::{Error, Result};
use crate::simd::Line;

thread_local! {
    /// Buffers of this thread, kept from call to call.
    static STORE: Cell<Vec<Vec<Line>>> = const { Cell::new(Vec::new()) };
}

/// Lends `work` as many buffers of lines as it asks for; what they hold and how long they are is anyone's guess.
pub fn lend<const N: usize, R>(work: impl FnOnce([&mut Vec<Line>; N]) -> R) -> R {
    let mut store = STORE.take();
    let mut buffers: [Vec<Line>; N] = std::array::from_fn(|_| store.pop().unwrap_or_default());
    STORE.set(store); // work may borrow more
    let out = work(buffers.each_mut());
    let mut store = STORE.take();
    // Back in the order that hands each buffer to the same use the next time.
    store.extend(buffers.into_iter().rev());
    STORE.set(store);
    out
}

/// The first `len` lines of a buffer, which grows if it has to.
pub fn sized(lines: &mut Vec<Line>, len: usize) -> Result<&mut [Line]> {
    extend(lines, len, Line::ZERO)?;
    Ok(&mut lines[..len])
}

/// `len` times `value`.
pub fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>> {
    refilled(Vec::new(), value, len)
}

/// The same in a buffer that was used for something else.
pub fn refilled<T: Copy>(mut buffer: Vec<T>, value: T, len: usize) -> Result<Vec<T>> {
    buffer.clear();
    extend(&mut buffer, len, value)?;
    Ok(buffer)
}

fn extend<T: Copy>(buffer: &mut Vec<T>, len: usize, value: T) -> Result {
    if buffer.len() < len {
        let more = len - buffer.len();
        buffer.try_reserve_exact(more).map_err(|_| Error::Memory(len.saturating_mul(size_of::<T>())))?;
        buffer.resize(len, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_to_the_same_use() {
        let place = |buffer: &Vec<Line>| buffer.as_ptr();
        let places = || {
            lend(|[a, b]| {
                let inner = lend(|[c]| sized(c, 3).map(|lines| lines.as_ptr()).unwrap());
                sized(a, 1).unwrap();
                sized(b, 2).unwrap();
                [place(a), place(b), inner]
            })
        };
        let before = places();
        assert_eq!(before, places());
        assert!(before[0] != before[1] && before[1] != before[2]);
    }

    #[test]
    fn what_no_memory_can_hold_is_an_error() {
        let mut lines = vec![Line::ZERO; 2];
        for len in [usize::MAX, usize::MAX / 64, isize::MAX as usize / 64] {
            assert!(matches!(sized(&mut lines, len), Err(Error::Memory(_))));
        }
        assert_eq!(sized(&mut lines, 1).unwrap().len(), 1);
        assert!(filled(0.0f64, usize::MAX / 8).is_err());
        assert_eq!(filled(2u8, 3).unwrap(), [2, 2, 2]);
    }
}
