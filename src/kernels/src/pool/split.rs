//! One buffer shared out among tasks.

use std::mem;
use std::sync::{Mutex, PoisonError};

/// One buffer in consecutive pieces, each handed out at most once.
pub struct Split<'a, T> {
    pieces: Vec<Mutex<&'a mut [T]>>,
}

impl<'a, T> Split<'a, T> {
    /// Piece i is `data[end(i - 1)..end(i)]`, with `end(-1)` = 0; ends that fall or pass the buffer's are clipped.
    pub fn new(data: &'a mut [T], pieces: usize, end: impl Fn(usize) -> usize) -> Self {
        let (mut rest, mut start) = (data, 0);
        let mut next = |i| {
            let size = end(i).saturating_sub(start).min(rest.len());
            let (piece, after) = mem::take(&mut rest).split_at_mut(size);
            (rest, start) = (after, start + size);
            Mutex::new(piece)
        };
        Split { pieces: (0..pieces).map(&mut next).collect() }
    }

    /// Piece i. Empty when there is no such piece or it is taken already.
    pub fn take(&self, i: usize) -> &'a mut [T] {
        match self.pieces.get(i) {
            Some(piece) => mem::take(&mut *piece.lock().unwrap_or_else(PoisonError::into_inner)),
            None => &mut [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_handed_out_once_and_ends_are_clipped() {
        let mut data: Vec<usize> = (0..10).collect();
        let split = Split::new(&mut data, 4, |i| [3, 2, 7, 99][i]);
        assert_eq!(split.take(2), [3, 4, 5, 6]);
        assert_eq!(split.take(0), [0, 1, 2]);
        assert_eq!(split.take(3), [7, 8, 9]);
        for none in [0, 1, 2, 3, 4] {
            assert_eq!(split.take(none), [0; 0]);
        }
    }
}
