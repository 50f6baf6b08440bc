//! Where the threads come from: the caller's pool, handed in as a trait object.

pub(crate) mod scratch;
pub(crate) mod split;

use std::sync::OnceLock;

use crate::error::Result;

/// Elements per task where each is worked on by itself: they stay in the second-level cache, and tasks are many enough to
/// share out evenly.
pub(crate) const PIECE: usize = 16 * 1024;

/// A pool of threads that runs numbered tasks. Results of this crate do not depend on `threads` nor on the order of tasks.
pub trait Pool: Sync {
    /// Threads that would share the work, 1 or more.
    fn threads(&self) -> usize;
    /// Calls `body(0)` .. `body(tasks - 1)`, once each, and returns when all are done.
    ///
    /// # Errors
    /// When a task panicked; what the tasks were to write is then unfinished.
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Result;
}

/// [`Pool::run`] with tasks that can fail: gives one failure, and leaves out tasks that have not begun by then.
pub(crate) fn run(pool: &dyn Pool, tasks: usize, body: impl Fn(usize) -> Result + Sync) -> Result {
    let failure = OnceLock::new();
    pool.run(tasks, &|i| {
        if failure.get().is_none() {
            let _ = body(i).map_err(|error| failure.set(error));
        }
    })?;
    failure.into_inner().map_or(Ok(()), Err)
}

/// Images go to the threads whole where they can be shared out evenly; otherwise one after the other, each to all threads.
pub(crate) fn for_each_image(
    pool: &dyn Pool,
    images: usize,
    body: impl Fn(usize, &dyn Pool) -> Result + Sync,
) -> Result {
    if images.is_multiple_of(pool.threads()) || images > 4 * pool.threads() {
        run(pool, images, |image| body(image, &Serial))
    } else {
        (0..images).try_for_each(|image| body(image, pool))
    }
}

/// No threads: the tasks run one after another in the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Pool for Serial {
    fn threads(&self) -> usize {
        1
    }
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Result {
        (0..tasks).for_each(body);
        Ok(())
    }
}

/// Threads started anew for each call: for tests, not for speed.
#[derive(Clone, Copy, Debug)]
pub struct Scoped(pub usize);

impl Pool for Scoped {
    fn threads(&self) -> usize {
        self.0.max(1)
    }
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Result {
        let threads = self.threads();
        std::thread::scope(|scope| {
            for i in 0..threads {
                scope.spawn(move || (i * tasks / threads..(i + 1) * tasks / threads).for_each(body));
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_failed_task_is_told_and_those_after_it_are_left_out() {
        let begun = std::sync::Mutex::new(Vec::new());
        let outcome = run(&Serial, 5, |i| {
            begun.lock().unwrap().push(i);
            if i == 2 {
                Err(Error::Memory(7))
            } else {
                Ok(())
            }
        });
        assert_eq!(outcome, Err(Error::Memory(7)));
        assert_eq!(*begun.lock().unwrap(), [0, 1, 2]);
        assert_eq!(run(&Scoped(3), 5, |_| Ok(())), Ok(()));
    }
}
