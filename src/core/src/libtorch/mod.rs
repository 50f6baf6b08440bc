//! Below tch: libtorch's thread pool, what tch leaves out, and the memory of tensors as slices. The only file with
//! `unsafe`; each block says why it holds.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use diffusion_kernels::dropout::{Twister, STATE};
use diffusion_kernels::element::Element;
use diffusion_kernels::pool::Pool;
use half::bf16;
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use crate::error::{ensure, Error, Result};
use crate::threads;

const MESSAGE_SIZE: usize = 1024;

extern "C" {
    fn shim_threads() -> i64;
    fn shim_set_autocast(enabled: u8) -> u8;
    fn shim_parallel_for(
        tasks: i64,
        body: extern "C" fn(*mut c_void, i64),
        context: *mut c_void,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_convolution_backward(
        out: *mut *mut C_tensor,
        dy: *const C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        stride: i64,
        padding: i64,
        mask: *const u8,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_laid_out(
        out: *mut *mut C_tensor,
        x: *const C_tensor,
        dtype: c_int,
        channels_last: u8,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_add_each(
        to: *const *const C_tensor,
        from: *const *const C_tensor,
        count: usize,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_move_each_towards(
        which: *const *const C_tensor,
        towards: *const *const C_tensor,
        count: usize,
        share: *const C_tensor,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_adamw(
        weights: *const *const C_tensor,
        gradients: *const *const C_tensor,
        first: *const *const C_tensor,
        second: *const *const C_tensor,
        count: usize,
        numbers: *const *const C_tensor,
        constants: *const f64,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_with_generator(
        body: extern "C" fn(*mut c_void, *mut u32, *mut c_int),
        context: *mut c_void,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_bernoulli(
        out: *mut *mut C_tensor,
        seed: u64,
        p: f64,
        count: i64,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
}

/// Calls a function of the shim that gives 0, or 1 and the reason in the [`MESSAGE_SIZE`] bytes that it is handed.
fn checked(function: impl FnOnce(*mut c_char) -> c_int) -> Result<()> {
    let mut message = [0; MESSAGE_SIZE];
    if function(message.as_mut_ptr()) == 0 {
        return Ok(());
    }
    // SAFETY: the shim ends every message with a zero inside the buffer, which was zeroed before the call.
    let text = unsafe { CStr::from_ptr(message.as_ptr()) };
    Err(Error::Torch(text.to_string_lossy().into_owned()))
}

/// As many threads as torch has, so that `torch.set_num_threads` and OMP_NUM_THREADS rule here too: torch's own where
/// build.rs compiles the shim with OpenMP, ours elsewhere.
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

    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let job = Job { body, tasks, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        let workers = self.threads().min(tasks);
        let done = if cfg!(target_os = "linux") {
            job.on_torchs_threads(workers)
        } else {
            threads::run(self.threads(), workers, &|| job.work_or_note())
        };
        // A task that did not run leaves wrong numbers behind: stop here; the caller's boundary turns this into an error.
        assert!(done.is_ok() && !job.panicked.load(Ordering::Relaxed), "a parallel task failed");
    }
}

/// While it lives, the caller's CPU autocast does not reach into what this thread computes.
pub struct AutocastOff {
    before: u8,
}

impl AutocastOff {
    pub fn new() -> Self {
        // SAFETY: sets a flag of this thread.
        Self { before: unsafe { shim_set_autocast(0) } }
    }
}

impl Drop for AutocastOff {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { shim_set_autocast(self.before) };
    }
}

/// Hands torch's CPU generator to `body` and takes over how far it drew. Other threads that draw wait.
pub fn with_generator<F: FnOnce(&mut Twister)>(body: F) -> Result<()> {
    struct Job<F> {
        body: Option<F>,
        done: bool,
    }
    extern "C" fn draw<F: FnOnce(&mut Twister)>(context: *mut c_void, words: *mut u32, left: *mut c_int) {
        // SAFETY: the shim hands back the context of its caller, a `Job<F>` that nobody else sees, and, for the length of
        // this call, its own copy of the generator: 624 words and how many are left.
        let (job, words, left) =
            unsafe { (&mut *(context as *mut Job<F>), &mut *(words as *mut [u32; STATE]), &mut *left) };
        let Some(body) = job.body.take() else { return };
        let mut twister = Twister { words: *words, used: STATE.min((STATE + 1).saturating_sub(*left as usize)) };
        job.done = catch_unwind(AssertUnwindSafe(|| body(&mut twister))).is_ok();
        if job.done {
            (*words, *left) = (twister.words, (STATE + 1 - twister.used) as c_int);
        }
    }
    let mut job = Job { body: Some(body), done: false };
    let context = std::ptr::from_mut(&mut job) as *mut c_void;
    // SAFETY: `draw::<F>` has the signature the shim calls, never unwinds, and `job` outlives the call.
    checked(|message| unsafe { shim_with_generator(draw::<F>, context, message, MESSAGE_SIZE) })?;
    ensure!(job.done, Runtime, "internal error: drawing random numbers failed");
    Ok(())
}

/// `count` bytes, each 1 with probability `p`, as torch draws them from a CPU generator with this seed.
pub fn bernoulli(seed: u64, p: f64, count: usize) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: writes one pointer to `out`.
    checked(|message| unsafe { shim_bernoulli(&mut out, seed, p, count as i64, message, MESSAGE_SIZE) })?;
    // SAFETY: after success `out` is a new tensor on the heap that the shim hands over.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// What [`convolution_backward`] is to compute.
#[derive(Clone, Copy)]
pub struct ConvolutionGradients {
    pub input: bool,
    pub weight: bool,
    pub bias: bool,
}

/// Gradients of conv2d (square stride and padding) for input, weight and bias, those asked for.
pub fn convolution_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    stride: i64,
    padding: i64,
    wanted: ConvolutionGradients,
) -> Result<[Option<Tensor>; 3]> {
    let mask = [u8::from(wanted.input), u8::from(wanted.weight), u8::from(wanted.bias)];
    let mut out = [std::ptr::null_mut(); 3];
    // SAFETY: the tensors live through the call, which only reads them; `out` and `mask` have the sizes the shim writes
    // and reads.
    checked(|message| unsafe {
        shim_convolution_backward(
            out.as_mut_ptr(),
            dy.as_ptr(),
            x.as_ptr(),
            weight.as_ptr(),
            stride,
            padding,
            mask.as_ptr(),
            message,
            MESSAGE_SIZE,
        )
    })?;
    // SAFETY: a pointer that is not null is a new tensor on the heap that the shim hands over.
    Ok(out.map(|ptr| (!ptr.is_null()).then(|| unsafe { Tensor::from_ptr(ptr) })))
}

/// How an image batch (B, C, H, W) lies in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Rows,
    ChannelsLast,
}

/// `x`, of four dimensions, in another dtype and layout: one pass for both, none if it is so already. Autograd sees it.
pub fn laid_out(x: &Tensor, kind: Kind, layout: Layout) -> Result<Tensor> {
    let lies = match layout {
        Layout::Rows => x.is_contiguous(),
        Layout::ChannelsLast => x.f_permute([0, 2, 3, 1])?.is_contiguous(),
    };
    if lies && x.f_kind()? == kind {
        return Ok(x.shallow_clone());
    }
    let dtype = match kind {
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::BFloat16 => 15,
        other => return Err(Error::Type(format!("images hold real floating-point numbers, not {other:?}"))),
    }; // c10::ScalarType
    let mut out = std::ptr::null_mut();
    let channels_last = u8::from(layout == Layout::ChannelsLast);
    // SAFETY: `x` lives through the call, which only reads it and writes one pointer to `out`.
    checked(|message| unsafe { shim_laid_out(&mut out, x.as_ptr(), dtype, channels_last, message, MESSAGE_SIZE) })?;
    // SAFETY: after success `out` is a new tensor on the heap that the shim hands over.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// What an operation on lists of tensors reads; the tensors live as long as the slice they come from.
fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(|tensor| tensor.as_ptr()).collect()
}

fn ensure_same_count(lists: &[&[Tensor]]) -> Result<usize> {
    let count = lists[0].len();
    ensure!(lists.iter().all(|list| list.len() == count), Value, "lists of tensors must have the same length");
    Ok(count)
}

/// to += from, each with each, in a few launches.
pub fn add_each(to: &[Tensor], from: &[Tensor]) -> Result<()> {
    let count = ensure_same_count(&[to, from])?;
    let (to, from) = (pointers(to), pointers(from));
    // SAFETY: `count` pointers each to tensors that the arguments keep alive; the shim reads no more of them.
    checked(|message| unsafe { shim_add_each(to.as_ptr(), from.as_ptr(), count, message, MESSAGE_SIZE) })
}

/// which += share * (towards - which), each with each, in a few launches; `share` is one number on their device.
pub fn move_each_towards(which: &[Tensor], towards: &[Tensor], share: &Tensor) -> Result<()> {
    let count = ensure_same_count(&[which, towards])?;
    let (which, towards) = (pointers(which), pointers(towards));
    // SAFETY: as above; `share` lives through the call.
    checked(|message| unsafe {
        shim_move_each_towards(which.as_ptr(), towards.as_ptr(), count, share.as_ptr(), message, MESSAGE_SIZE)
    })
}

/// What [`adamw`] changes, and the gradients it reads, which it divides in place.
pub struct Moving<'a> {
    pub weights: &'a [Tensor],
    pub gradients: &'a [Tensor],
    pub first: &'a [Tensor],
    pub second: &'a [Tensor],
}

/// Numbers on the device of the weights, float32.
pub struct OnDevice<'a> {
    pub rate: &'a Tensor,
    /// Steps made, this one among them.
    pub updates: &'a Tensor,
    /// What to divide the gradients by.
    pub divisor: &'a Tensor,
    /// 1 to leave the step out, 0 to make it.
    pub left_out: &'a Tensor,
}

/// One step of torch's fused AdamW, without a word to the host. `constants` are the two betas, weight decay and eps.
pub fn adamw(moving: &Moving, numbers: &OnDevice, constants: [f64; 4]) -> Result<()> {
    let Moving { weights, gradients, first, second } = *moving;
    let count = ensure_same_count(&[weights, gradients, first, second])?;
    let [weights, gradients, first, second] = [weights, gradients, first, second].map(pointers);
    let numbers = pointers([numbers.rate, numbers.updates, numbers.divisor, numbers.left_out]);
    // SAFETY: `count` pointers in each list and the four numbers, all to tensors that the arguments keep alive; `constants`
    // has the four values that the shim reads.
    checked(|message| unsafe {
        shim_adamw(
            weights.as_ptr(),
            gradients.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            count,
            numbers.as_ptr(),
            constants.as_ptr(),
            message,
            MESSAGE_SIZE,
        )
    })
}

/// Elements that tensors and slices both know; any bytes are a value of theirs.
pub trait Plain: Copy {
    const KIND: Kind;
}

/// Those that kernels compute with.
pub trait Stored: Plain + Element {}

impl<T: Plain + Element> Stored for T {}

impl Plain for f32 {
    const KIND: Kind = Kind::Float;
}

impl Plain for bf16 {
    const KIND: Kind = Kind::BFloat16;
}

impl Plain for u8 {
    const KIND: Kind = Kind::Uint8;
}

fn check_dense<T: Plain>(tensor: &Tensor) -> Result<usize> {
    ensure!(tensor.device() == Device::Cpu, Value, "a kernel needs a CPU tensor, got one on {:?}", tensor.device());
    let kind = tensor.f_kind()?;
    ensure!(kind == T::KIND, Type, "a kernel needs {:?}, got {kind:?}", T::KIND);
    ensure!(tensor.is_contiguous(), Value, "a kernel needs a contiguous tensor, got shape {:?}", tensor.size());
    Ok(tensor.numel())
}

/// The memory of a contiguous CPU tensor.
pub fn slice<T: Plain>(tensor: &Tensor) -> Result<&[T]> {
    let len = check_dense::<T>(tensor)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: dtype, device and density are checked; the storage lives as long as `tensor`. That nothing writes to it
    // meanwhile is kept by the callers: the engine's tensors are its own, a model's weights are borrowed for one pass.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr() as *const T, len) })
}

/// The memory of a contiguous CPU tensor, to be written.
pub fn slice_mut<T: Plain>(tensor: &mut Tensor) -> Result<&mut [T]> {
    let len = check_dense::<T>(tensor)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as above; the exclusive borrow of the handle stands for the storage, whose other views are not used meanwhile.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr() as *mut T, len) })
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
        TorchPool.run(100, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn as_many_threads_work_as_torch_has() {
        let seen = Mutex::new(HashSet::new());
        TorchPool.run(100, &|_| {
            seen.lock().expect("a set").insert(std::thread::current().id());
            std::thread::sleep(Duration::from_millis(2));
        });
        assert_eq!(seen.into_inner().expect("a set").len(), TorchPool.threads());
    }

    #[test]
    fn convolution_gradients_are_those_of_autograd() {
        let x = Tensor::randn([2, 3, 6, 6], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let w = Tensor::randn([4, 3, 3, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let dy = Tensor::randn([2, 4, 6, 6], (Kind::Float, Device::Cpu));
        let y = x.conv2d(&w, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
        (&y * &dy).sum(Kind::Float).backward();
        let wanted = ConvolutionGradients { input: true, weight: true, bias: false };
        let [dx, dw, db] = convolution_backward(&dy, &x.detach(), &w.detach(), 1, 1, wanted).expect("gradients");
        assert!(db.is_none());
        for (got, want) in [(dx, x.grad()), (dw, w.grad())] {
            assert!(f64::try_from((got.expect("a gradient") - want).abs().max()).expect("a number") < 1e-4);
        }
    }

    #[test]
    fn a_layout_changes_with_the_dtype_and_nothing_else() {
        let x = Tensor::randn([2, 3, 4, 5], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let half = laid_out(&x, Kind::Half, Layout::ChannelsLast).expect("laid out");
        assert_eq!((half.kind(), half.stride()), (Kind::Half, vec![60, 1, 15, 3]));
        let back = laid_out(&half, Kind::Float, Layout::Rows).expect("laid out");
        assert!(back.is_contiguous() && (&back - &x).abs().max().double_value(&[]) < 1e-2);
        let weights = Tensor::randn([2, 3, 4, 5], (Kind::Float, Device::Cpu)).to_kind(Kind::Half);
        (&half * &weights).sum(Kind::Float).backward();
        assert!(x.grad().is_contiguous() && x.grad().kind() == Kind::Float);
        assert_eq!(x.grad(), weights.to_kind(Kind::Float));
        let same = laid_out(&half, Kind::Half, Layout::ChannelsLast).expect("laid out");
        assert_eq!(same.data_ptr(), half.data_ptr());
        assert!(laid_out(&Tensor::zeros([3], (Kind::Float, Device::Cpu)), Kind::Float, Layout::ChannelsLast).is_err());
    }

    #[test]
    fn only_dense_tensors_of_the_right_dtype_become_slices() {
        let mut t = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        slice_mut::<f32>(&mut t).expect("a slice")[5] = 7.0;
        assert_eq!(t.double_value(&[1, 2]), 7.0);
        assert!(slice::<f32>(&t.transpose(0, 1)).is_err());
        assert!(slice::<bf16>(&t).is_err());
    }
}
