//! Where the threads come from: the caller's pool, handed in as a trait object.

pub mod split;

/// A pool of threads that runs numbered tasks. Results of this crate do not depend on `threads` nor on the order of tasks.
pub trait Pool: Sync {
    /// Threads that would share the work, 1 or more.
    fn threads(&self) -> usize;
    /// Calls `body(0)` .. `body(tasks - 1)`, once each, and returns when all are done.
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync));
}

/// No threads: the tasks run one after another in the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Pool for Serial {
    fn threads(&self) -> usize {
        1
    }
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(body);
    }
}

/// Threads started anew for each call: for tests, not for speed.
#[derive(Clone, Copy, Debug)]
pub struct Scoped(pub usize);

impl Pool for Scoped {
    fn threads(&self) -> usize {
        self.0.max(1)
    }
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let threads = self.threads();
        std::thread::scope(|scope| {
            for i in 0..threads {
                scope.spawn(move || (i * tasks / threads..(i + 1) * tasks / threads).for_each(body));
            }
        });
    }
}
