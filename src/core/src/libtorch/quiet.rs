//! torch's idle threads, kept from turning while the engine works.
//!
//! A thread of GNU's OpenMP that has nothing to do goes on looking for some milliseconds, on a core that the engine's threads
//! or another process want. Once the library has more threads than there are cores, it looks a hundred times and sleeps (its
//! manual, at GOMP_SPINCOUNT). So a thread of ours holds some that do nothing, from the engine's first piece of work until
//! a little after its last; what else runs in this process then finds OpenMP as it was.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::workers::microseconds;

/// How long after the engine's last piece of work.
const AFTER: Duration = Duration::from_millis(50);

/// When the engine last worked, in [`microseconds`].
static LAST: AtomicU64 = AtomicU64::new(0);
/// A forked process inherits this as it is, and OpenMP's count of threads too: what was quiet stays so there.
static HELD: AtomicBool = AtomicBool::new(false);

extern "C" {
    fn shim_hold_idle_threads() -> i64;
}

/// Says that the engine works.
pub fn working() {
    if cfg!(target_os = "linux") {
        LAST.store(microseconds(), Ordering::Relaxed);
        if !HELD.load(Ordering::Relaxed) && !HELD.swap(true, Ordering::Relaxed) {
            let started = thread::Builder::new().name("rust_diffusion".into()).spawn(hold);
            if started.is_err() {
                HELD.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// Those without work end with the thread that holds them.
fn hold() {
    // SAFETY: no arguments; it starts threads that belong to this one.
    unsafe { shim_hold_idle_threads() };
    while microseconds().saturating_sub(LAST.load(Ordering::Relaxed)) < AFTER.as_micros() as u64 {
        thread::sleep(AFTER);
    }
    HELD.store(false, Ordering::Relaxed);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn openmp_has_threads_without_work_as_long_as_the_engine_works_and_a_little_longer() {
        working();
        assert!(HELD.load(Ordering::Relaxed));
        let over = || !HELD.load(Ordering::Relaxed);
        assert!((0..200).any(|_| {
            thread::sleep(Duration::from_millis(10));
            over()
        }));
    }
}
