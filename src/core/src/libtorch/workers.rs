//! Threads of our own that wait for work.
//!
//! A piece of work is done when its tasks are, not when every thread has shown up: tasks are taken one by one, the thread
//! that brings the work takes those that nobody else has begun, and a worker that comes late finds the work closed. Who
//! finds nothing to do looks again for some microseconds, as work comes densely; then as long as nobody else wants the
//! core; and sleeps.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::place;

/// How long a thread that waits looks again and again: about as long as waking it would take.
const LOOKS: Duration = Duration::from_micros(5);
/// How long it goes on while it lets others have the core between two looks: longer than most of what lies between two
/// pieces of work.
const STAYS: Duration = Duration::from_micros(300);
/// Who let others have the core and had it back only after this time shares it with somebody busy.
const SHARED: u64 = 1_000;
/// How long that is taken for granted then: waiting threads sleep at once. Microseconds, as above.
const REMEMBERED: u64 = 100_000;

extern "C" {
    fn shim_go_anywhere();
}

type Body<'a> = dyn Fn(usize) + Sync + 'a;

/// Calls `body(0)` .. `body(tasks - 1)` on up to `threads` threads, this one among them. `Err` has the words of a panic.
pub fn run(threads: usize, tasks: usize, body: &Body) -> Result<(), String> {
    let helpers = threads.min(tasks).saturating_sub(1);
    if helpers == 0 {
        return catch_unwind(AssertUnwindSafe(|| (0..tasks).for_each(body))).map_err(|panic| words(&*panic));
    }
    // SAFETY: workers call the body only between entering the work and leaving it. `Open` is dropped before `body` goes out
    // of scope, whatever happens: nobody enters from then on, and it waits for those inside to leave.
    let body = unsafe { std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body) };
    let work = Arc::new(Work {
        body,
        tasks,
        next: AtomicUsize::new(0),
        seats: AtomicUsize::new(helpers),
        inside: AtomicUsize::new(0),
        panic: Mutex::new(None),
        owner: thread::current(),
        core: place::core(),
    });
    let open = Crew::of_this_process().open(&work, helpers);
    work.take_tasks();
    drop(open);
    let panic = lock(&work.panic).take();
    panic.map_or(Ok(()), Err)
}

/// Some tasks, and who is at them.
struct Work {
    body: &'static Body<'static>,
    tasks: usize,
    /// The first task that nobody has taken.
    next: AtomicUsize,
    /// How many more workers may enter; changed under the crew's lock.
    seats: AtomicUsize,
    /// Workers that have entered and not left.
    inside: AtomicUsize,
    /// The words of the first panic.
    panic: Mutex<Option<String>>,
    owner: Thread,
    /// Where the owner was when it brought the work.
    core: Option<usize>,
}

impl Work {
    fn take_tasks(&self) {
        let all = || loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            (self.body)(task);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(all)) {
            self.next.fetch_max(self.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert_with(|| words(&*panic));
        }
    }

    fn has_tasks(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.tasks
    }

    /// The worker's last touch: what its tasks wrote is seen by whoever sees it gone.
    fn leave(&self) {
        if self.inside.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.owner.unpark();
        }
    }

    fn wait_for_those_inside(&self) {
        let empty = || self.inside.load(Ordering::Acquire) == 0;
        if !patiently(empty) {
            while !empty() {
                thread::park();
            }
        }
    }
}

/// The workers of one process and the work that is open to them.
struct Crew {
    process: u32,
    board: Mutex<Board>,
    /// Grows with each piece of work, for those who wait to look at.
    count: AtomicUsize,
    arrived: Condvar,
}

#[derive(Default)]
struct Board {
    open: Vec<Arc<Work>>,
    workers: usize,
    asleep: usize,
}

/// Work on the board; taken off and waited for when this is dropped.
struct Open<'a> {
    crew: &'a Crew,
    work: &'a Arc<Work>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        lock(&self.crew.board).open.retain(|open| !Arc::ptr_eq(open, self.work));
        self.work.wait_for_those_inside();
    }
}

impl Crew {
    /// A forked process has a copy of its parent's crew, but none of its threads, and perhaps a lock that nobody will open:
    /// it starts its own. What is left behind stays, a few hundred bytes.
    fn of_this_process() -> &'static Crew {
        static CREW: AtomicPtr<Crew> = AtomicPtr::new(std::ptr::null_mut());
        let process = process::id();
        let mut known = CREW.load(Ordering::Acquire);
        loop {
            // SAFETY: null, or a crew that was leaked below and lives for ever.
            if let Some(crew) = unsafe { known.as_ref() }.filter(|crew| crew.process == process) {
                return crew;
            }
            let (board, count, arrived) = Default::default();
            let fresh = Box::into_raw(Box::new(Crew { process, board, count, arrived }));
            match CREW.compare_exchange(known, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => known = fresh,
                Err(other) => known = other,
            }
        }
    }

    fn open<'a>(&'static self, work: &'a Arc<Work>, helpers: usize) -> Open<'a> {
        let mut board = lock(&self.board);
        while board.workers < helpers {
            // Without a thread there is less help, and the work is done all the same.
            let started = thread::Builder::new().name("rust_diffusion".into()).spawn(|| self.serve());
            if started.is_err() {
                break;
            }
            board.workers += 1;
        }
        board.open.push(Arc::clone(work));
        self.count.fetch_add(1, Ordering::Release);
        let asleep = board.asleep;
        drop(board);
        (0..helpers.min(asleep)).for_each(|_| self.arrived.notify_one());
        Open { crew: self, work }
    }

    /// The life of a worker.
    fn serve(&self) {
        // SAFETY: no arguments; it says where this thread may run.
        unsafe { shim_go_anywhere() };
        loop {
            let seen = self.count.load(Ordering::Acquire);
            let core = open(&lock(&self.board)).and_then(|work| work.core);
            place::leave(core); // before it enters: its owner waits for those inside
            let found = enter(&lock(&self.board));
            if let Some(work) = found {
                work.take_tasks();
                work.leave();
            } else if !patiently(|| self.count.load(Ordering::Acquire) != seen) {
                self.sleep(seen);
            }
        }
    }

    fn sleep(&self, seen: usize) {
        let mut board = lock(&self.board);
        board.asleep += 1;
        while self.count.load(Ordering::Acquire) == seen {
            board = self.arrived.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        board.asleep -= 1;
    }
}

/// A piece of open work with tasks and a seat left.
fn open(board: &Board) -> Option<&Arc<Work>> {
    board.open.iter().find(|work| work.has_tasks() && work.seats.load(Ordering::Relaxed) > 0)
}

/// The same; the seat is taken.
fn enter(board: &Board) -> Option<Arc<Work>> {
    let work = open(board)?;
    work.seats.fetch_sub(1, Ordering::Relaxed);
    work.inside.fetch_add(1, Ordering::Relaxed);
    Some(Arc::clone(work))
}

/// Whether `done` came true before it was time to sleep.
fn patiently(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let waited = start.elapsed();
        if waited > STAYS || (waited > LOOKS && !has_the_core_alone()) {
            return done();
        }
    }
}

/// Lets others have this core if there are any, and tells whether there were none.
fn has_the_core_alone() -> bool {
    static SHARED_UNTIL: AtomicU64 = AtomicU64::new(0);
    let before = microseconds();
    if before < SHARED_UNTIL.load(Ordering::Relaxed) {
        return false;
    }
    thread::yield_now();
    let after = microseconds();
    let alone = after.saturating_sub(before) < SHARED;
    if !alone {
        SHARED_UNTIL.store(after + REMEMBERED, Ordering::Relaxed);
    }
    alone
}

/// Since they were asked for first.
pub fn microseconds() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_micros() as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a task panicked: {}", text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::atomic::AtomicBool;
    use std::thread::ThreadId;

    fn sleep(milliseconds: u64) {
        thread::sleep(Duration::from_millis(milliseconds));
    }

    #[test]
    fn every_task_runs_once_whoever_else_works() {
        let round = || {
            for tasks in [0, 1, 2, 3, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let body = |i: usize| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                };
                run(3, tasks, &body).expect("no panic");
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| (0..500).for_each(|_| round())))));
    }

    fn who_works(threads: usize, tasks: usize) -> HashSet<ThreadId> {
        let seen = Mutex::new(HashSet::new());
        let body = |_| {
            lock(&seen).insert(thread::current().id());
            sleep(5);
        };
        run(threads, tasks, &body).expect("no panic");
        seen.into_inner().expect("a set")
    }

    #[test]
    fn no_more_threads_work_than_are_asked_for() {
        assert_eq!(who_works(1, 20), HashSet::from([thread::current().id()]));
        assert_eq!(who_works(4, 60).len(), 4);
        assert!(who_works(2, 20).len() <= 2);
        assert!(who_works(4, 2).len() <= 2);
    }

    #[test]
    fn work_ends_with_its_tasks_and_not_with_its_threads() {
        // All workers are kept busy elsewhere; nobody waits for them.
        let go_on = AtomicBool::new(false);
        thread::scope(|scope| {
            let body = |_| {
                while !go_on.load(Ordering::Relaxed) {
                    sleep(1);
                }
            };
            scope.spawn(move || run(5, 5, &body));
            sleep(50);
            let done = AtomicUsize::new(0);
            let count = |_| _ = done.fetch_add(1, Ordering::Relaxed);
            run(5, 20, &count).expect("no panic");
            assert_eq!(done.into_inner(), 20);
            go_on.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_panic_becomes_words_and_the_threads_live_on() {
        for threads in [1, 3] {
            let body = |i| {
                assert!(i != 7, "task seven");
                sleep(1);
            };
            let words = run(threads, 20, &body).expect_err("a panic");
            assert!(words.contains("task seven"), "{words}");
            run(threads, 20, &|_| ()).expect("no panic");
        }
    }

    #[test]
    fn a_task_may_bring_work_of_its_own() {
        let done = AtomicUsize::new(0);
        let inner = |_| _ = done.fetch_add(1, Ordering::Relaxed);
        run(3, 10, &|_| run(3, 10, &inner).expect("no panic")).expect("no panic");
        assert_eq!(done.into_inner(), 100);
    }
}
