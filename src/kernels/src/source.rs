//! Inputs that need not exist in memory as they are read: two tensors as one, plus a shift per image and channel.

use crate::error::{check_len, Error, Result};

/// Images of a batch, stored NHWC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
}

impl Images {
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// One NHWC tensor of `channels` channels.
#[derive(Clone, Copy)]
pub struct Part<'a, T> {
    pub data: &'a [T],
    pub channels: usize,
}

/// What a kernel reads: `concat(first, second) + shift`, with neither the concatenation nor the sum ever made.
#[derive(Clone, Copy)]
pub struct Source<'a, T> {
    pub parts: [Part<'a, T>; 2],
    pub shift: Option<&'a [f32]>,
}

impl<'a, T> Source<'a, T> {
    /// One tensor (N, H, W, channels).
    pub fn new(data: &'a [T], channels: usize) -> Self {
        Source { parts: [Part { data, channels }, Part { data: &[], channels: 0 }], shift: None }
    }

    /// The same followed, on channels, by a second tensor.
    pub fn concat(mut self, data: &'a [T], channels: usize) -> Self {
        self.parts[1] = Part { data, channels };
        self
    }

    /// The same plus `shift[b, c]`, of shape (N, all channels).
    pub fn shifted(mut self, shift: &'a [f32]) -> Self {
        self.shift = Some(shift);
        self
    }

    pub fn channels(&self) -> usize {
        self.parts[0].channels + self.parts[1].channels
    }

    pub(crate) fn check(&self, images: Images) -> Result {
        if images.batch == 0 || images.pixels() == 0 || self.channels() == 0 {
            return Err(Error::misfit("batch, height, width and channels must be at least 1"));
        }
        let positions = images.batch * images.pixels();
        check_len("the first input", self.parts[0].data.len(), positions * self.parts[0].channels)?;
        check_len("the second input", self.parts[1].data.len(), positions * self.parts[1].channels)?;
        match self.shift {
            Some(shift) => check_len("shift", shift.len(), images.batch * self.channels()),
            None => Ok(()),
        }
    }

    /// The parts that have channels, each with the place of its first channel in the whole.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (usize, Part<'a, T>)> + use<'a, '_, T> {
        let offsets = [0, self.parts[0].channels];
        let placed = offsets.into_iter().zip(&self.parts);
        placed.map(|(at, part)| (at, Part { ..*part })).filter(|(_, part)| part.channels > 0)
    }
}
