//! Threads of our own, for systems on which torch's cannot be had: its parallel loops are templates, and where they would be
//! compiled without OpenMP they run on one thread.

use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// The process that started the threads (those of a forked one are gone), how many, and the threads.
type Started = (u32, usize, Arc<ThreadPool>);

/// Calls `work` on `workers` threads at once, this one among them; of `threads`, which stay for the next call.
pub fn run(threads: usize, workers: usize, work: &(dyn Fn() + Sync)) -> Result<()> {
    if workers <= 1 {
        work();
        return Ok(());
    }
    others(threads.max(workers) - 1)?.in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| work());
        }
        work();
    });
    Ok(())
}

fn others(threads: usize) -> Result<Arc<ThreadPool>> {
    static STARTED: Mutex<Option<Started>> = Mutex::new(None);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((process, count, pool)) = &*started {
        if (*process, *count) == (process::id(), threads) {
            return Ok(Arc::clone(pool));
        }
    }
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = Arc::new(pool.map_err(|error| Error::Runtime(format!("cannot start {threads} threads: {error}")))?);
    let before = started.replace((process::id(), threads, Arc::clone(&pool)));
    if let Some((process, _, pool)) = before {
        if process != process::id() {
            std::mem::forget(pool); // its threads did not come along into this process: nothing to wait for
        }
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    fn who_works(threads: usize, workers: usize) -> HashSet<ThreadId> {
        let seen = Mutex::new(HashSet::new());
        run(threads, workers, &|| {
            thread::sleep(Duration::from_millis(20));
            seen.lock().expect("a set").insert(thread::current().id());
        })
        .expect("threads");
        seen.into_inner().expect("a set")
    }

    #[test]
    fn as_many_threads_work_as_asked_and_they_are_kept() {
        assert_eq!(who_works(3, 1), HashSet::from([thread::current().id()]));
        let first = who_works(3, 3);
        assert_eq!(first.len(), 3);
        assert_eq!(who_works(3, 3), first);
        assert!(who_works(3, 2).is_subset(&first));
        assert_eq!(who_works(2, 2).len(), 2);
    }
}
