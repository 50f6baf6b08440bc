//! Updates that an accelerator is only given: the host queues work and reads nothing back. The gradients of a batch and the
//! update itself are the same work each time and so can be captured.

use tch::{Kind, Tensor};

use super::counters::DeviceCounters;
use super::host::{Batch, Gathered};
use crate::device::{Capture, Graph};
use crate::error::Result;

/// Work that is captured for the case with the most images that came up first, and done directly in every other: the last
/// batch of an epoch is often shorter.
struct Usual<Case> {
    /// The case, and its images.
    case: Option<(Case, i64)>,
    capture: Capture,
}

impl<Case: Copy + PartialEq> Usual<Case> {
    fn new(graph: Option<Box<dyn Graph + Send>>) -> Self {
        Self { case: None, capture: Capture::new(graph) }
    }

    /// Whether this is the case to capture. One of more images takes the place of another that is not captured yet.
    fn is(&mut self, case: Case, images: i64) -> bool {
        if !self.capture.is_made() && self.case.is_none_or(|(_, most)| images > most) {
            self.case = Some((case, images));
            self.capture.begin_anew();
        }
        self.case == Some((case, images))
    }
}

/// The queue of updates: their numbers, and the captures of the usual ones.
pub struct Queue {
    pub counters: DeviceCounters,
    gradients: Usual<(i64, [i64; 4], Kind)>,
    update: Usual<Gathered>,
    /// Where the batches of the captured gradients lie.
    place: Option<Tensor>,
}

/// For the gradients of a batch, and for an update.
pub type Graphs = [Option<Box<dyn Graph + Send>>; 2];

impl Queue {
    pub fn new(counters: DeviceCounters, [gradients, update]: Graphs) -> Self {
        Self { counters, gradients: Usual::new(gradients), update: Usual::new(update), place: None }
    }

    /// Adds the gradients of a batch by calling `work` with it, or by replaying it if the batch is like most.
    pub fn gradients(
        &mut self,
        batch: Batch,
        reference: i64,
        mut work: impl FnMut(&Batch, &DeviceCounters) -> Result<()>,
    ) -> Result<()> {
        let Self { counters, gradients, place, .. } = self;
        let images = &batch.images;
        let Ok((b, c, h, w)) = images.size4() else { return work(&batch, counters) };
        if !gradients.is((reference, [b, c, h, w], images.f_kind()?), b) {
            return work(&batch, counters);
        }
        let mut there = match place.take() {
            Some(there) if there.size() == images.size() && there.kind() == images.kind() => there,
            _ => Tensor::f_empty([b, c, h, w], (images.kind(), counters.device()))?,
        };
        there.f_copy_(images)?;
        let batch = Batch { images: there.shallow_clone(), ..batch };
        *place = Some(there);
        gradients.capture.run(&mut || work(&batch, counters))
    }

    /// The update by `work`, or by replaying it if it is made of as many images as most.
    pub fn update(
        &mut self,
        gathered: Gathered,
        mut work: impl FnMut(&mut DeviceCounters) -> Result<()>,
    ) -> Result<()> {
        let Self { counters, update, .. } = self;
        if update.is(gathered, gathered.images) {
            update.capture.run(&mut || work(counters))
        } else {
            work(counters)
        }
    }
}
