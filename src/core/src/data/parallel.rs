//! One job per image, or per row of a large one, on threads of their own, while the calling thread keeps watch.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rayon::prelude::*;

use super::levels::Value;
use crate::error::{Error, Result};

/// How often the caller hears of the progress, and so how soon it can stop the run.
const TICK: Duration = Duration::from_millis(50);

/// Tells the caller that nothing more will come, also when a panic ends the work; the scope then passes it on.
struct Told<'a> {
    finished: &'a AtomicBool,
    caller: &'a thread::Thread,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Release);
        self.caller.unpark();
    }
}

/// Memory for `images` of `per_image` values.
pub(super) fn zeros<T: Value>(images: usize, per_image: usize) -> Result<Vec<T>> {
    let too_large = || Error::Value(format!("size: {images} images of {per_image} values do not fit in memory"));
    let count = images.checked_mul(per_image).ok_or_else(too_large)?;
    Vec::<T>::new().try_reserve_exact(count).map_err(|_| too_large())?;
    Ok(vec![T::default(); count])
}

/// Calls `work(index, part)` for every stretch of `length` values, on `threads` threads (0: one per core), and returns
/// what it gave, in order. `tick` is called on this thread with the number of parts done; its error ends the run.
pub(super) fn for_each_part<T: Send, R: Send>(
    values: &mut [T],
    length: usize,
    threads: usize,
    tick: &mut dyn FnMut(usize) -> Result<()>,
    work: impl Fn(usize, &mut [T]) -> R + Sync,
) -> Result<Vec<R>> {
    // A pool of its own, gone afterwards: nothing is left that a later fork would break.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::Runtime(format!("threads: cannot start {threads}: {error}")))?;
    let (done, stop, finished) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let mut outcomes = Vec::new();
    let mut heard = Ok(());
    let caller = thread::current();
    pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            let _told = Told { finished: &finished, caller: &caller };
            outcomes = values
                .par_chunks_exact_mut(length)
                .enumerate()
                .filter(|_| !stop.load(Ordering::Relaxed))
                .map(|(index, part)| {
                    let outcome = work(index, part);
                    done.fetch_add(1, Ordering::Relaxed);
                    outcome
                })
                .collect();
        });
        while heard.is_ok() && !finished.load(Ordering::Acquire) {
            thread::park_timeout(TICK);
            heard = tick(done.load(Ordering::Relaxed));
        }
        stop.store(true, Ordering::Relaxed);
    });
    heard.map(|()| outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_panic_reaches_the_caller() {
        let (told, outcome) = mpsc::channel();
        thread::spawn(move || {
            let work = |index: usize, _: &mut [u8]| assert!(index != 3, "a broken picture");
            let run = || for_each_part(&mut [0; 8], 1, 2, &mut |_| Ok(()), work);
            told.send(std::panic::catch_unwind(run).is_err())
        });
        assert_eq!(outcome.recv_timeout(Duration::from_secs(20)), Ok(true), "the caller waits for ever");
    }
}
