//! The threads that kernels work on: as many as torch has.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use diffusion_kernels::error::{Error as KernelError, Result as KernelResult};
use diffusion_kernels::pool::Pool;

use super::{checked, threads, MESSAGE_SIZE};
use crate::error::Result;

extern "C" {
    fn shim_threads() -> i64;
    fn shim_parallel_for(
        tasks: i64,
        body: extern "C" fn(*mut c_void, i64),
        context: *mut c_void,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
}

/// Whether kernels run on threads of ours: torch's can be had only where build.rs compiles the shim with OpenMP.
static OWN_THREADS: AtomicBool = AtomicBool::new(!cfg!(target_os = "linux"));

pub fn use_own_threads(own: bool) {
    OWN_THREADS.store(own || !cfg!(target_os = "linux"), Ordering::Relaxed);
}

/// As many threads as torch has, so that `torch.set_num_threads` and OMP_NUM_THREADS rule here too: torch's own or
/// ours.
pub struct TorchPool;

struct Job<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    /// The first task that no worker has taken.
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Job<'_> {
    /// Takes tasks until none is left: a thread whose core is busy with something else does fewer, and nobody waits for it.
    fn work(&self) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            (self.body)(task);
        }
    }

    /// The same; a panic is noted, not passed on.
    fn work_or_note(&self) {
        if catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    fn on_torchs_threads(&self, workers: usize) -> Result<()> {
        let context = std::ptr::from_ref(self) as *mut c_void;
        // SAFETY: `run_worker` has the signature the shim calls, never unwinds, and `self` outlives the call.
        checked(|message| unsafe { shim_parallel_for(workers as i64, run_worker, context, message, MESSAGE_SIZE) })
    }
}

extern "C" fn run_worker(context: *mut c_void, _worker: i64) {
    // SAFETY: `context` is the `Job` that lives until the shim returns; it is only shared.
    unsafe { &*(context as *const Job) }.work_or_note();
}

impl Pool for TorchPool {
    fn threads(&self) -> usize {
        // SAFETY: no arguments, no state of ours.
        unsafe { shim_threads() }.max(1) as usize
    }

    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> KernelResult {
        let job = Job { body, tasks, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        let workers = self.threads().min(tasks);
        let done = if OWN_THREADS.load(Ordering::Relaxed) {
            threads::run(self.threads(), workers, &|| job.work_or_note())
        } else {
            job.on_torchs_threads(workers)
        };
        done.map_err(|error| KernelError::Pool(error.to_string()))?;
        if job.panicked.load(Ordering::Relaxed) {
            return Err(KernelError::Pool("a parallel task panicked".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::time::Duration;

    #[test]
    fn every_task_runs_once() {
        let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        TorchPool
            .run(100, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            })
            .expect("all tasks");
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn as_many_threads_work_as_torch_has() {
        let seen = Mutex::new(HashSet::new());
        TorchPool
            .run(100, &|_| {
                seen.lock().expect("a set").insert(std::thread::current().id());
                std::thread::sleep(Duration::from_millis(2));
            })
            .expect("all tasks");
        assert_eq!(seen.into_inner().expect("a set").len(), TorchPool.threads());
    }
}
