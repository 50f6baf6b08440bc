// What the Rust face of libtorch leaves out: its threads, products on one of them, the CPU's autocast, the gradients of a
// convolution, the random numbers behind the CPU's generator, and operations on many tensors at once.
//
// Every function catches all exceptions; those that can fail return 0 for success or write a message and return 1.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/narrow.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
// torch brings it for processors of Intel's kind only.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int);
#endif

// What Rust writes as numbers, here and in tch, is what this torch means by them.
static_assert(static_cast<int>(at::kByte) == 0 && static_cast<int>(at::kChar) == 1 && static_cast<int>(at::kShort) == 2 &&
              static_cast<int>(at::kInt) == 3 && static_cast<int>(at::kLong) == 4 && static_cast<int>(at::kHalf) == 5 &&
              static_cast<int>(at::kFloat) == 6 && static_cast<int>(at::kDouble) == 7 &&
              static_cast<int>(at::kBool) == 11 && static_cast<int>(at::kBFloat16) == 15);
using TwisterState = decltype(at::mt19937_data_pod::state_);
static_assert(at::MERSENNE_STATE_N == 624 && sizeof(TwisterState) == 624 * sizeof(uint32_t));
static_assert(std::is_same_v<TwisterState::value_type, uint32_t>);
static_assert(std::is_same_v<decltype(at::mt19937_data_pod::left_), int>);

namespace {

std::vector<at::Tensor> list(const at::Tensor *const *tensors, std::size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (std::size_t i = 0; i < count; ++i) result.push_back(*tensors[i]);
  return result;
}

std::optional<at::Tensor> perhaps(const at::Tensor *tensor) {
  return tensor == nullptr ? std::nullopt : std::optional<at::Tensor>(*tensor);
}

void write_message(const char *text, char *message, std::size_t size) {
  std::strncpy(message, text, size - 1);
  message[size - 1] = '\0';
}

template <typename Work>
int guarded(char *message, std::size_t size, Work work) {
  try {
    work();
    return 0;
  } catch (const c10::Error &error) {
    write_message(error.what_without_backtrace(), message, size);
  } catch (const std::exception &error) {
    write_message(error.what(), message, size);
  } catch (...) {
    write_message("unknown C++ exception", message, size);
  }
  return 1;
}

// While it lives, libtorch's operations on this thread stay on it, MKL's among them.
class OnThisThread {
 public:
  OnThisThread() {
#ifdef _OPENMP
    openmp = at::get_num_threads();  // torch sets a thread's number when it is first asked for: before ours, not after
    omp_set_num_threads(1);
    if (MKL_Set_Num_Threads_Local != nullptr) mkl = MKL_Set_Num_Threads_Local(1);
#endif
  }
  ~OnThisThread() {
#ifdef _OPENMP
    omp_set_num_threads(openmp);
    if (MKL_Set_Num_Threads_Local != nullptr) MKL_Set_Num_Threads_Local(mkl);
#endif
  }
  OnThisThread(const OnThisThread &) = delete;
  OnThisThread &operator=(const OnThisThread &) = delete;

 private:
  int openmp = 1, mkl = 0;
};

}  // namespace

extern "C" {

int64_t shim_threads() { return at::get_num_threads(); }

// Whether nobody else has a handle on the tensor or its memory. What was not allocated by torch belongs to someone outside.
uint8_t shim_is_alone(const at::Tensor *tensor) {
  if (!tensor->has_storage() || tensor->use_count() != 1 || tensor->storage().allocator() == nullptr) return 0;
  std::size_t handles = 1;
  if (tensor->is_view()) {  // it keeps the tensor that it was made of
    if (tensor->_base().use_count() != 1) return 0;
    ++handles;
  }
  return tensor->storage().use_count() == handles;
}

// OpenMP has more threads than there are cores from now until the calling thread ends. Tells how many are held for that:
// none where torch has one thread, or so few that idle ones are in nobody's way.
int64_t shim_hold_idle_threads() {
  int64_t held = 0;
#ifdef _OPENMP
  const int threads = at::get_num_threads(), cores = omp_get_num_procs();
  if (threads < 2 || 2 * threads < cores) return 0;
  omp_set_dynamic(0);
#pragma omp parallel num_threads((cores > threads ? cores - threads : 0) + 2)
  {
#pragma omp atomic
    ++held;
  }
#endif
  return held;
}

// The calling thread may run wherever OpenMP's may. Where the environment gives each of those a core (OMP_PROC_BIND, OMP_PLACES),
// the thread that imported torch has one already, and threads that it starts would share it.
void shim_go_anywhere() {
#ifdef _OPENMP
  cpu_set_t all;
  CPU_ZERO(&all);
  std::vector<int> cores;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    cores.resize(omp_get_place_num_procs(place));
    omp_get_place_proc_ids(place, cores.data());
    for (const int core : cores) {
      if (core >= 0 && core < CPU_SETSIZE) CPU_SET(core, &all);
    }
  }
  if (CPU_COUNT(&all) > 0) sched_setaffinity(0, sizeof(all), &all);
#endif
}

// Switches the CPU's autocast of this thread on or off and tells what it was.
uint8_t shim_set_autocast(uint8_t enabled) {
  const bool before = at::autocast::is_autocast_enabled(at::kCPU);
  at::autocast::set_autocast_enabled(at::kCPU, enabled != 0);
  return before ? 1 : 0;
}

// Gradients of conv2d with square stride and padding. out receives new tensors for input, weight, bias where mask says so.
int shim_convolution_backward(at::Tensor **out, const at::Tensor *dy, const at::Tensor *x, const at::Tensor *weight,
                              int64_t stride, int64_t padding, const uint8_t *mask, char *message, std::size_t size) {
  return guarded(message, size, [&] {
    const int64_t bias_size = weight->size(0);
    const std::array<int64_t, 2> strides{stride, stride}, paddings{padding, padding}, ones{1, 1}, zeros{0, 0};
    auto gradients = at::convolution_backward(*dy, *x, *weight, at::IntArrayRef(&bias_size, 1), strides, paddings, ones,
                                              false, zeros, 1, {mask[0] != 0, mask[1] != 0, mask[2] != 0});
    if (mask[0]) out[0] = new at::Tensor(std::get<0>(gradients));
    if (mask[1]) out[1] = new at::Tensor(std::get<1>(gradients));
    if (mask[2]) out[2] = new at::Tensor(std::get<2>(gradients));
  });
}

// out = a b + bias (if there is one), or out += a b, for count rows of out and a from first on; on this thread alone.
int shim_product_of_rows(const at::Tensor *out, const at::Tensor *a, const at::Tensor *b, const at::Tensor *bias,
                         uint8_t add, int64_t first, int64_t count, char *message, std::size_t size) {
  return guarded(message, size, [&] {
    const OnThisThread alone;
    at::AutoDispatchBelowADInplaceOrView below;
    auto to = out->narrow(0, first, count);
    const auto from = a->narrow(0, first, count);
    if (bias != nullptr) {
      at::addmm_out(to, *bias, from, *b);
    } else if (add != 0) {
      at::addmm_out(to, to, from, *b);
    } else {
      at::mm_out(to, from, *b);
    }
  });
}

// to[i] += from[i].
int shim_add_each(const at::Tensor *const *to, const at::Tensor *const *from, std::size_t count, char *message,
                  std::size_t size) {
  return guarded(message, size, [&] { at::_foreach_add_(list(to, count), list(from, count)); });
}

// which[i] += share * (towards[i] - which[i]).
int shim_move_each_towards(const at::Tensor *const *which, const at::Tensor *const *towards, std::size_t count,
                           const at::Tensor *share, char *message, std::size_t size) {
  return guarded(message, size, [&] {
    auto moving = list(which, count);
    auto way = at::_foreach_sub(list(towards, count), moving);
    at::_foreach_mul_(way, *share);
    at::_foreach_add_(moving, way);
  });
}

// One step of torch's fused AdamW: numbers = {rate, updates, divisor of the gradient or null, whether to leave the step out
// or null},
// constants = {beta1, beta2, weight decay, eps}.
int shim_adamw(const at::Tensor *const *weights, const at::Tensor *const *gradients, const at::Tensor *const *first,
               const at::Tensor *const *second, std::size_t count, const at::Tensor *const *numbers,
               const double *constants, char *message, std::size_t size) {
  return guarded(message, size, [&] {
    auto updates = std::vector<at::Tensor>(count, *numbers[1]);
    at::_fused_adamw_(list(weights, count), list(gradients, count), list(first, count), list(second, count), {}, updates,
                      *numbers[0], constants[0], constants[1], constants[2], constants[3], false, false,
                      perhaps(numbers[2]), perhaps(numbers[3]));
  });
}

// Calls body(context, words, left) with the state of torch's CPU generator, an MT19937, and keeps what it makes of it:
// the 624 words, and one more than the numbers left in them. Nobody else draws meanwhile; body must not throw.
int shim_with_generator(void (*body)(void *, uint32_t *, int *), void *context, char *message, std::size_t size) {
  return guarded(message, size, [&] {
    auto *generator = at::check_generator<at::CPUGeneratorImpl>(at::detail::getDefaultCPUGenerator());
    std::lock_guard<std::mutex> alone(generator->mutex_);
    auto engine = generator->engine();
    auto data = engine.data();
    body(context, data.state_.data(), &data.left_);
    data.next_ = static_cast<uint32_t>(at::MERSENNE_STATE_N + 1 - data.left_);
    engine.set_data(data);
    generator->set_engine(engine);
  });
}

// out receives a new tensor of bytes, each 1 with probability p, from a generator with this seed.
int shim_bernoulli(at::Tensor **out, uint64_t seed, double p, int64_t count, char *message, std::size_t size) {
  return guarded(message, size, [&] {
    auto drawn = at::empty({count}, at::kByte);
    drawn.bernoulli_(p, at::detail::createCPUGenerator(seed));
    *out = new at::Tensor(drawn);
  });
}

}  // extern "C"
