//! On which core a thread is.
//!
//! Where something else keeps a core busy, the system leaves it that core alone and lets two threads of ours take turns on
//! another: each core has work, and nobody moves. A worker that finds itself where the work came from goes elsewhere.

/// The core that this thread is on, where it can be known.
#[cfg(target_os = "linux")]
pub fn core() -> Option<usize> {
    // SAFETY: no arguments.
    let core = unsafe { libc::sched_getcpu() };
    usize::try_from(core).ok().filter(|core| *core < libc::CPU_SETSIZE as usize)
}

/// Moves this thread to another core if it is on that one, and lets it go where it likes afterwards. Without another core it
/// stays.
#[cfg(target_os = "linux")]
pub fn leave(core_of_another: Option<usize>) {
    let Some(taken) = core_of_another.filter(|_| core_of_another == core()) else { return };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: sets of bits that live through the calls, of the size that is named; 0 is the calling thread; `taken` is in
    // the set's range.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &mut allowed) == 0 {
            let mut others = allowed;
            libc::CPU_CLR(taken, &mut others);
            if libc::sched_setaffinity(0, size, &others) == 0 {
                libc::sched_setaffinity(0, size, &allowed);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub fn core() -> Option<usize> {
    None
}

#[cfg(not(target_os = "linux"))]
pub fn leave(_core_of_another: Option<usize>) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn allowed() -> Vec<usize> {
        // SAFETY: as in `leave`.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set), 0);
            (0..libc::CPU_SETSIZE as usize).filter(|core| libc::CPU_ISSET(*core, &set)).collect()
        }
    }

    #[test]
    fn a_thread_leaves_a_core_that_is_taken_and_may_go_anywhere_afterwards() {
        let before = allowed();
        let moves = || {
            let here = core();
            leave(here);
            core() != here
        };
        assert!(before.len() == 1 || (0..20).any(|_| moves()));
        let elsewhere = before.iter().copied().find(|other| Some(*other) != core());
        leave(elsewhere);
        leave(None);
        assert_eq!(allowed(), before);
    }
}
