//! The threads that kernels work on: as many as torch has.

use diffusion_kernels::error::{Error, Result};
use diffusion_kernels::pool::Pool;

use super::{quiet, workers};

extern "C" {
    fn shim_threads() -> i64;
}

/// As many threads as torch has, so that `torch.set_num_threads` and OMP_NUM_THREADS rule here too; but threads of ours.
/// torch's wait for one another at the end of each piece of work, and beside another busy process that is most of the time.
pub struct TorchPool;

impl Pool for TorchPool {
    fn threads(&self) -> usize {
        // SAFETY: no arguments, no state of ours.
        unsafe { shim_threads() }.max(1) as usize
    }

    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Result {
        let threads = self.threads();
        let say_so = || (threads > 1).then(quiet::working);
        say_so();
        let done = workers::run(threads, tasks, body).map_err(Error::Pool);
        say_so();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn as_many_threads_work_as_torch_has() {
        let seen = Mutex::new(HashSet::new());
        let task = |_| {
            seen.lock().expect("a set").insert(thread::current().id());
            thread::sleep(Duration::from_millis(2));
        };
        TorchPool.run(10 * TorchPool.threads(), &task).expect("all tasks");
        assert_eq!(seen.into_inner().expect("a set").len(), TorchPool.threads());
    }
}
