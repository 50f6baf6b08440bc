// What the Rust face of libtorch leaves out: its thread pool, the CPU's autocast, and the gradients of a convolution.
//
// Every function catches all exceptions; those that can fail return 0 for success or write a message and return 1.

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/convolution_backward.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace {

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

}  // namespace

extern "C" {

int64_t shim_threads() { return at::get_num_threads(); }

// Calls body(context, i) for i = 0 .. tasks - 1 on torch's own threads; body must not throw.
int shim_parallel_for(int64_t tasks, void (*body)(void *, int64_t), void *context, char *message, std::size_t size) {
  return guarded(message, size, [&] {
    at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(context, i);
    });
  });
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

}  // extern "C"
