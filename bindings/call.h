// One call of attention_forward as Python made it: the arguments read into a problem and its
// buffers.
#pragma once

#include "bindings/block_lists.h"
#include "bindings/dlpack_tensor.h"

namespace bsk::python {

inline constexpr char kAttentionForwardDoc[] =
    "attention_forward(q, k, v, scale, causal, window_left, window_right, softcap, attn_mask, "
    "block_mask, return_lse, "
    "out, lse=None, kernel=None)\n\n"
    "scale: None or a number. causal: 0 none, 1 upper_left, 2 lower_right. softcap: 0 = none. "
    "block_mask: None or "
    "(block_q, block_k, full_counts, full_indices, partial_counts, partial_indices, partial_bits).";

// Callables that know the framework: threads() -> int, device(index) -> (name, capability,
// multiprocessors, shared_bytes) and stream(index) -> int, asked where DLPack does not tell the
// stream.
void set_sources(PyObject* threads, PyObject* device, PyObject* stream);

class Call {
 public:
  Call() = default;
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();

  void read(PyObject* const* args, Py_ssize_t count);
  // The arguments of Python's attention_forward, in its order. False where one is of an unusual
  // kind.
  bool read_eager(PyObject* const* args, const std::string& forced_kernel);
  void lay_out();      // the result, as `run` would allocate it
  void run();          // allocates `out` and `lse` where the caller gave none, and computes
  PyObject* result();  // a new reference: out, or (out, lse); warns of what the engine has to say

  const AttentionProblem& problem() const { return problem_; }
  const AttentionBuffers& buffers() const { return buffers_; }
  const DeviceProperties& device();  // lives as long as the call
  const std::string& forced_kernel() const { return forced_kernel_; }

 private:
  void allocate();
  void read_tensors(PyObject* q, PyObject* k, PyObject* v);
  void read_scale(PyObject* scale);
  void read_out(PyObject* out);
  void read_mask(PyObject* mask);
  void take_block_lists(const BlockLists& lists);
  void read_lse(PyObject* lse);

  PyObject* q_object_ = nullptr;     // borrowed
  PyObject* block_lists_ = nullptr;  // keeps what buffers_.block_mask points to
  PyObject* out_object_ = nullptr;
  PyObject* lse_object_ = nullptr;
  TensorArgument q_, k_, v_, mask_, out_, lse_;
  AttentionProblem problem_;
  AttentionBuffers buffers_;
  std::string forced_kernel_;
  DeviceProperties cpu_;
};

}  // namespace bsk::python
