#include "bindings/call.h"

#include <algorithm>
#include <map>
#include <utility>

#include "bindings/engine_bindings.h"
#include "bindings/gate.h"
#include "bindings/guarded.h"
#include "src/attention/settings.h"

namespace bsk::python {
namespace {

PyObject* threads_source = nullptr;
PyObject* device_source = nullptr;
PyObject* stream_source = nullptr;

double real_number(PyObject* object, const char* name, const char* remedy) {
  // Tensors have __float__ too, but reading one would wait for its device.
  const bool is_number =
      PyFloat_Check(object) || PyLong_Check(object) ||
      (PyObject_HasAttrString(object, "__float__") != 0 && PyUnicode_Check(object) == 0 &&
       PyObject_HasAttrString(object, "__dlpack__") == 0);
  if (!is_number || PyBool_Check(object)) {
    PyObject* repr = PyObject_Str(reinterpret_cast<PyObject*>(Py_TYPE(object)));
    const char* got = repr != nullptr ? PyUnicode_AsUTF8AndSize(repr, nullptr) : nullptr;
    const std::string text = got != nullptr ? got : "another object";
    Py_XDECREF(repr);
    PyErr_Clear();
    fail(ErrorKind::kType, name, "must be a real number or None", text, remedy);
  }
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    fail(ErrorKind::kValue, name, "must be a finite number", "one that float() refuses", remedy);
  }
  return value;
}

const DeviceProperties& cuda_properties(int32_t index) {
  static auto* known = new std::map<int32_t, DeviceProperties>;  // guarded by the GIL
  const auto found = known->find(index);
  if (found != known->end()) return found->second;
  DeviceProperties device;
  device.type = DeviceType::kCuda;
  device.name = "cuda:" + std::to_string(index);
  if (device_source != nullptr) {
    PyObject* answer = PyObject_CallFunction(device_source, "i", index);
    if (answer == nullptr) throw PythonError{};
    const char* name = nullptr;
    long long shared_bytes = 0;
    const int parsed = PyArg_ParseTuple(answer, "siiL", &name, &device.compute_capability,
                                        &device.multiprocessors, &shared_bytes);
    if (parsed != 0) device.name = name;
    device.shared_bytes = shared_bytes;
    Py_DECREF(answer);
    if (parsed == 0) throw PythonError{};
  }
  return known->emplace(index, device).first->second;
}

// torch's stream where its DLPack does not tell it (before 2.11); the default stream of others.
void* framework_stream(PyTypeObject* type, int32_t index) {
  if (stream_source == nullptr || !is_plain_type(type)) return nullptr;
  PyObject* answer = PyObject_CallFunction(stream_source, "i", index);
  if (answer == nullptr) throw PythonError{};
  void* const stream = PyLong_AsVoidPtr(answer);
  Py_DECREF(answer);
  if (stream == nullptr && PyErr_Occurred() != nullptr) throw PythonError{};
  return stream;
}

int32_t framework_threads() {
  if (threads_source == nullptr) return 0;
  PyObject* answer = PyObject_CallFunction(threads_source, nullptr);
  if (answer == nullptr) throw PythonError{};
  const long threads = PyLong_AsLong(answer);
  Py_DECREF(answer);
  if (threads == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  return static_cast<int32_t>(threads);
}

// Lays out a result that is to be allocated: dense, its dimensions in the order that Q's have in
// memory. Models transpose [batch, length, heads, head_dim] to get here and back afterwards; so
// neither way copies. True if that is another order than [batch, heads, length, head_dim].
// torch_op.py's `new_result` is the same for tensors that the native side does not allocate.
bool lay_out_result(AttentionProblem& problem) {
  const TensorLayout& q = problem.q;
  TensorLayout& out = problem.out;
  out = contiguous(q.dtype, {q.shape[0], q.shape[1], q.shape[2], problem.v_head_dim()});
  out.device = q.device;
  out.device_index = q.device_index;
  std::array<int, 3> order = {0, 1, 2};
  for (const int i : {1, 0, 1}) {  // sorted by stride; one of 0 tells nothing
    const int64_t outer = q.stride[order[i]], inner = q.stride[order[i + 1]];
    if (0 < outer && outer < inner) std::swap(order[i], order[i + 1]);
  }
  bool reordered = false;
  int64_t stride = out.shape[3];
  for (const int i : {2, 1, 0}) {
    const int64_t size = out.shape[order[i]];
    reordered = reordered || (size > 1 && out.stride[order[i]] != stride);
    out.stride[order[i]] = stride;
    stride *= std::max<int64_t>(size, 1);
  }
  return reordered;
}

void check_writable(const TensorArgument& argument) {
  if (!argument.read_only()) return;
  fail(ErrorKind::kValue, argument.name(), "must be writable", "a read-only tensor",
       "Pass a copy of it, or leave it out to have it allocated.");
}

}  // namespace

void set_sources(PyObject* threads, PyObject* device, PyObject* stream) {
  const auto set = [](PyObject*& source, PyObject* callable) {
    PyObject* const old = std::exchange(source, Py_NewRef(callable));
    Py_XDECREF(old);
  };
  set(threads_source, threads);
  set(device_source, device);
  set(stream_source, stream);
}

Call::~Call() {
  Py_XDECREF(block_lists_);
  Py_XDECREF(out_object_);
  Py_XDECREF(lse_object_);
}

void Call::read(PyObject* const* args, Py_ssize_t count) {
  if (count < 12 || count > 14) {
    PyErr_Format(PyExc_TypeError, "attention_forward takes 12 to 14 positional arguments; got %zd",
                 count);
    throw PythonError{};
  }
  read_tensors(args[0], args[1], args[2]);
  read_scale(args[3]);
  const int64_t causal = integer(args[4]);
  if (causal < 0 || causal > 2) {
    fail(ErrorKind::kValue, "causal", "must be 0 (none), 1 (upper_left) or 2 (lower_right)",
         std::to_string(causal), "Pass one of these.");
  }
  problem_.causal = static_cast<Causal>(causal);
  problem_.window_left = integer(args[5]);
  problem_.window_right = integer(args[6]);
  problem_.softcap = real_number(args[7], "softcap", "Pass None for no cap.");
  if (args[8] != Py_None) read_mask(args[8]);
  if (args[9] != Py_None) take_block_lists(read_block_lists(args[9]));
  problem_.return_lse = truth(args[10]);
  if (args[11] != Py_None) read_out(args[11]);
  if (count > 12 && args[12] != Py_None) read_lse(args[12]);
  if (count > 13 && args[13] != Py_None) {
    forced_kernel_ = text_of(args[13]);
  } else {
    forced_kernel_ = settings()->kernel;
  }
}

bool Call::read_eager(PyObject* const* args, const std::string& forced_kernel) {
  PyObject *is_causal = args[4], *mask = args[5], *window = args[6], *softcap = args[7],
           *block_mask = args[8], *return_lse = args[9], *out = args[10];
  if (is_causal == Py_False) {
    problem_.causal = Causal::kNone;
  } else if (is_causal == Py_True) {
    problem_.causal = Causal::kUpperLeft;
  } else if (PyUnicode_Check(is_causal) &&
             PyUnicode_CompareWithASCIIString(is_causal, "lower_right") == 0) {
    problem_.causal = Causal::kLowerRight;
  } else {
    return false;
  }
  if (return_lse != Py_True && return_lse != Py_False) return false;
  problem_.return_lse = return_lse == Py_True;
  if (window != Py_None) {
    if (!PyTuple_CheckExact(window) || PyTuple_Size(window) != 2) return false;
    for (int i = 0; i < 2; ++i) {
      PyObject* side = PyTuple_GetItem(window, i);
      if (!PyLong_CheckExact(side)) return false;
      (i == 0 ? problem_.window_left : problem_.window_right) = integer(side);
    }
  }
  read_tensors(args[0], args[1], args[2]);
  read_scale(args[3]);
  if (softcap != Py_None)
    problem_.softcap = real_number(softcap, "softcap", "Pass None for no cap.");
  if (mask != Py_None) read_mask(mask);
  if (block_mask != Py_None) {
    const PreparedBlockMask& prepared = prepared_block_mask(block_mask, block_lists_);
    if (!prepared.fits(problem_.q_len(), problem_.kv_len())) return false;
    take_block_lists(prepared.lists());
  }
  if (out != Py_None) read_out(out);
  forced_kernel_ = forced_kernel;
  return true;
}

void Call::read_tensors(PyObject* q, PyObject* k, PyObject* v) {
  q_object_ = q;
  q_.read(q, "Q");
  k_.read(k, "K");
  v_.read(v, "V");
  problem_.q = layout_of(q_, false);
  problem_.k = layout_of(k_, false);
  problem_.v = layout_of(v_, false);
  buffers_.q = q_.data();
  buffers_.k = k_.data();
  buffers_.v = v_.data();
  if (problem_.q.device == DeviceType::kCuda &&
      !current_stream(Py_TYPE(q), q_.tensor().device, &buffers_.stream)) {
    buffers_.stream = framework_stream(Py_TYPE(q), problem_.q.device_index);
  }
}

void Call::read_scale(PyObject* scale) {
  const int64_t head_dim = problem_.head_dim() > 0 ? problem_.head_dim() : 1;  // 0 is refused later
  problem_.scale = scale == Py_None
                       ? 1.0 / std::sqrt(static_cast<double>(head_dim))
                       : real_number(scale, "scale", "Pass None for 1 / sqrt(head_dim).");
}

void Call::read_out(PyObject* out) {
  Py_INCREF(out);
  out_object_ = out;
  out_.read(out, "out");
  check_writable(out_);
  problem_.out = layout_of(out_, false);
  buffers_.out = out_.data();
}

void Call::read_mask(PyObject* mask) {
  mask_.read(mask, "attn_mask");
  problem_.mask = layout_of(mask_, true);
  problem_.mask_kind =
      problem_.mask.dtype == DataType::kBool ? MaskKind::kBool : MaskKind::kAdditive;
  buffers_.mask = mask_.data();
}

void Call::take_block_lists(const BlockLists& lists) {
  if (lists.device != problem_.q.device ||
      (lists.device == DeviceType::kCuda && lists.device_index != problem_.q.device_index)) {
    fail(ErrorKind::kValue, "block_mask",
         "must be on Q's device, " + to_string(problem_.q.device, problem_.q.device_index),
         to_string(lists.device, lists.device_index),
         "Move it there with block_mask.to(Q.device).");
  }
  problem_.block_mask = lists.layout;
  buffers_.block_mask = lists.buffers;
}

void Call::read_lse(PyObject* lse) {
  lse_.read(lse, "lse");
  check_writable(lse_);
  contiguous_data(lse_, kDLFloat, 32, 3);
  const int64_t* shape = lse_.tensor().shape;
  if (shape[0] != problem_.batch() || shape[1] != problem_.q_heads() ||
      shape[2] != problem_.q_len()) {
    fail(ErrorKind::kValue, "lse", "must have shape [batch, q_heads, q_len]", "another shape",
         "Leave it out to have it allocated.");
  }
  Py_INCREF(lse);
  lse_object_ = lse;
  buffers_.lse = static_cast<float*>(lse_.data());
}

void Call::lay_out() {
  if (out_object_ == nullptr) lay_out_result(problem_);
}

void Call::allocate() {
  const DLTensor& q = q_.tensor();
  if (out_object_ == nullptr) {
    const bool reordered = lay_out_result(problem_);
    out_object_ = new_tensor(Py_TYPE(q_object_), q.device, q.dtype, 4, problem_.out.shape.data(),
                             reordered ? problem_.out.stride.data() : nullptr, &buffers_.out);
    if (out_object_ == nullptr) {
      fail(ErrorKind::kType, "out",
           "must be given for tensors whose library has no DLPack C exchange API", "None",
           "Pass out=, an empty tensor of shape [batch, q_heads, q_len, v_head_dim].");
    }
  }
  if (problem_.return_lse && lse_object_ == nullptr) {
    const int64_t shape[3] = {problem_.batch(), problem_.q_heads(), problem_.q_len()};
    void* data = nullptr;
    lse_object_ =
        new_tensor(Py_TYPE(q_object_), q.device, {kDLFloat, 32, 1}, 3, shape, nullptr, &data);
    if (lse_object_ == nullptr) {
      fail(ErrorKind::kType, "return_lse",
           "must be False for tensors whose library has no DLPack C exchange API", "True",
           "Pass Q as a torch.Tensor (torch.as_tensor copies nothing).");
    }
    buffers_.lse = static_cast<float*>(data);
  }
}

void Call::run() {
  allocate();
  const DeviceProperties& properties = device();
  without_gil([&] { attention_forward(problem_, buffers_, properties, forced_kernel_); });
}

PyObject* Call::result() {
  if (!warn_of_engine_notices()) throw PythonError{};
  Py_INCREF(out_object_);
  if (!problem_.return_lse) return out_object_;
  PyObject* pair = PyTuple_Pack(2, out_object_, lse_object_);
  Py_DECREF(out_object_);
  return pair;
}

const DeviceProperties& Call::device() {
  if (problem_.q.device == DeviceType::kCuda) return cuda_properties(problem_.q.device_index);
  cpu_ = cpu_properties(framework_threads());
  return cpu_;
}

}  // namespace bsk::python
