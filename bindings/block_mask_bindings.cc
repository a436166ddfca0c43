#include "bindings/block_mask_bindings.h"

#include <array>
#include <memory>
#include <string_view>

#include "bindings/block_lists.h"
#include "bindings/engine_bindings.h"
#include "bindings/gate.h"
#include "bindings/guarded.h"
#include "src/cuda/host/driver.h"
#include "src/cuda/sm90/block_mask_build/launch.h"

namespace bsk::python {
namespace {

namespace builder = sm90::block_mask_build;

enum Argument : Py_ssize_t {
  kKind,
  kShape,
  kBlockSize,
  kLengths,
  kWidths,
  kInputs,
  kNumbers,
  kDevice,
  kOut,
  kArguments
};

int32_t narrow(int64_t value) {
  if (value < INT32_MIN || value > INT32_MAX) throw Error(ErrorKind::kUnsupported, "too large");
  return static_cast<int32_t>(value);
}

int32_t tuple_integer(PyObject* tuple, Py_ssize_t i) {
  PyObject* item = PyTuple_GetItem(tuple, i);
  if (item == nullptr) throw PythonError{};
  return narrow(integer(item));
}

builder::Type type_of(const DLDataType& dtype) {
  if (dtype.lanes == 1) {
    if (dtype.code == kDLBool) return builder::Type::kBool;
    if (dtype.code == kDLInt && dtype.bits == 32) return builder::Type::kInt32;
    if (dtype.code == kDLInt && dtype.bits == 64) return builder::Type::kInt64;
    if (dtype.code == kDLFloat && dtype.bits == 32) return builder::Type::kFloat32;
    if (dtype.code == kDLFloat && dtype.bits == 16) return builder::Type::kFloat16;
    if (dtype.code == kDLBfloat && dtype.bits == 16) return builder::Type::kBFloat16;
  }
  throw Error(ErrorKind::kUnsupported, "no builder takes this dtype");
}

// The inputs of one call. Whatever they cannot be is kUnsupported: torch operations build it then.
class Inputs {
 public:
  Inputs(PyObject* tuple, int32_t device) : device_(device) {
    for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); ++i) {
      PyObject* item = PyTuple_GetItem(tuple, i);
      if (i == 2) throw Error(ErrorKind::kUnsupported, "at most two inputs");
      if (item == Py_None) continue;
      arguments_[i].read(item, "input");
      const DLDevice device = arguments_[i].tensor().device;
      if (device.device_type != kDLCUDA) throw Error(ErrorKind::kUnsupported, "not on a GPU");
      device_ = device.device_id;
    }
  }

  int32_t device() const { return device_; }

  // `axes`: which of batch 'b', heads 'h', rows 'r', columns 'c' each dimension of the input is.
  builder::Tensor tensor(int i, std::string_view axes) const {
    const DLTensor* source = arguments_[i].tensor_or_null();
    builder::Tensor result;
    if (source == nullptr) return result;
    if (source->ndim != static_cast<int32_t>(axes.size()) || source->device.device_id != device_) {
      throw Error(ErrorKind::kUnsupported, "another rank or device");
    }
    result.data = arguments_[i].data();
    result.type = type_of(source->dtype);
    int64_t dense_stride = 1;
    for (int32_t d = source->ndim - 1; d >= 0; --d) {
      const int64_t stride = source->strides != nullptr ? source->strides[d] : dense_stride;
      const size_t axis = std::string_view("bhrc").find(axes[static_cast<size_t>(d)]);
      result.stride[axis] = source->shape[d] == 1 ? 0 : stride;
      dense_stride *= source->shape[d];
    }
    return result;
  }

  int32_t size(int i, int32_t dimension) const {
    return narrow(arguments_[i].tensor().shape[dimension]);
  }

 private:
  TensorArgument arguments_[2];
  int32_t device_;
};

void require_type(const builder::Tensor& tensor, std::initializer_list<builder::Type> types) {
  for (const builder::Type type : types) {
    if (tensor.type == type) return;
  }
  throw Error(ErrorKind::kUnsupported, "no builder takes this dtype");
}

builder::Source source_of(std::string_view kind, const Inputs& inputs, PyObject* numbers) {
  using builder::Type;
  const auto number = [numbers](Py_ssize_t i) { return tuple_integer(numbers, i); };
  const auto integers = [&inputs](int i, std::string_view axes) {
    const builder::Tensor tensor = inputs.tensor(i, axes);
    require_type(tensor, {Type::kInt32, Type::kInt64});
    return tensor;
  };
  if (kind == "dense") {
    const builder::Tensor mask = inputs.tensor(0, "bhrc");
    require_type(mask, {Type::kBool});
    return builder::Dense{mask};
  }
  if (kind == "top_k" || kind == "mass") {
    builder::Scores scores;
    scores.scores = inputs.tensor(0, "bhrc");
    require_type(scores.scores, {Type::kFloat32, Type::kFloat16, Type::kBFloat16});
    if (kind == "top_k") {
      scores.k = number(0);
      scores.diagonal_first = number(1) != 0;
    } else {
      scores.selection = builder::Selection::kMass;
      PyObject* share = PyTuple_GetItem(numbers, 0);
      scores.share = share == nullptr ? 0.0 : PyFloat_AsDouble(share);
      if (PyErr_Occurred() != nullptr) throw PythonError{};
      scores.softmax = number(1) != 0;
    }
    return scores;
  }
  if (kind == "lists") {
    return builder::Lists{integers(1, "bhr"), integers(0, "bhrc"), inputs.size(0, 3)};
  }
  if (kind == "compressed_rows") {
    return builder::CompressedRows{integers(0, "bhc"), integers(1, "bhc"), inputs.size(1, 2),
                                   number(0)};
  }
  if (kind == "vertical_slash") {
    return builder::VerticalSlash{integers(0, "bhc"), integers(1, "bhc"), inputs.size(0, 2),
                                  inputs.size(1, 2), number(0)};
  }
  if (kind == "window") return builder::Window{number(0), number(1), number(2), number(3)};
  if (kind == "strided") return builder::Strided{number(0), number(1), number(2), number(3) != 0};
  if (kind == "segments") return builder::Segments{integers(0, "c"), inputs.size(0, 0)};
  if (kind == "ids") return builder::Ids{integers(0, "bc"), nullptr};
  throw Error(ErrorKind::kValue, "kind: no builder of block masks is called that.");
}

// References to new tensors, or to the caller's.
class Tensors {
 public:
  Tensors() = default;
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;
  ~Tensors() {
    for (PyObject* object : objects_) Py_XDECREF(object);
  }

  template <class T>
  T* make(size_t i, DLDevice device, DLDataType dtype, std::initializer_list<int64_t> shape) {
    void* data = nullptr;
    objects_[i] = new_tensor(plain_type(), device, dtype, static_cast<int32_t>(shape.size()),
                             shape.begin(), nullptr, &data);
    if (objects_[i] == nullptr) throw Error(ErrorKind::kUnsupported, "no exchange API");
    return static_cast<T*>(data);
  }

  PyObject* get(size_t i) const {
    Py_INCREF(objects_[i]);
    return objects_[i];
  }

  PyObject* tuple(Py_ssize_t count) const {
    PyObject* result = PyTuple_New(count);
    if (result == nullptr) throw PythonError{};
    for (Py_ssize_t i = 0; i < count; ++i) {
      Py_INCREF(objects_[static_cast<size_t>(i)]);
      PyTuple_SetItem(result, i, objects_[static_cast<size_t>(i)]);
    }
    return result;
  }

 private:
  std::array<PyObject*, 6> objects_{};
};

PyObject* build(PyObject* const* args) {
  PyObject* const inputs_tuple = args[kInputs];
  PyObject* plain[2] = {};
  for (Py_ssize_t i = 0; i < PyTuple_Size(inputs_tuple) && i < 2; ++i) {
    plain[i] = PyTuple_GetItem(inputs_tuple, i);
  }
  if (!is_plain_call(plain, 2, Autocast::kIgnored)) Py_RETURN_NOTIMPLEMENTED;
  const Inputs inputs(inputs_tuple, static_cast<int32_t>(integer(args[kDevice])));
  const int32_t device = inputs.device();
  if (cuda::cuda_device(device).properties.compute_capability != 90) Py_RETURN_NOTIMPLEMENTED;

  builder::Output out;
  PyObject* const shape = args[kShape];
  out.batch = tuple_integer(shape, 0);
  out.heads = tuple_integer(shape, 1);
  out.q_blocks = tuple_integer(shape, 2);
  out.kv_blocks = tuple_integer(shape, 3);
  out.block_q = tuple_integer(args[kBlockSize], 0);
  out.block_k = tuple_integer(args[kBlockSize], 1);
  out.q_len = tuple_integer(args[kLengths], 0);
  out.kv_len = tuple_integer(args[kLengths], 1);
  out.full_width = tuple_integer(args[kWidths], 0);
  out.partial_width = tuple_integer(args[kWidths], 1);
  const char* kind = PyUnicode_AsUTF8AndSize(args[kKind], nullptr);
  if (kind == nullptr) throw PythonError{};
  builder::Source source = source_of(kind, inputs, args[kNumbers]);
  if (!builder::takes(out, source)) Py_RETURN_NOTIMPLEMENTED;

  const DLDevice place = {kDLCUDA, device};
  void* stream = nullptr;
  if (!current_stream(plain_type(), place, &stream)) Py_RETURN_NOTIMPLEMENTED;
  constexpr DLDataType kInt = {kDLInt, 32, 1};
  Tensors made;
  TensorArgument counts, indices;
  if (args[kOut] != Py_None) {
    counts.read(PyTuple_GetItem(args[kOut], 0), "full_counts");
    indices.read(PyTuple_GetItem(args[kOut], 1), "full_indices");
    out.full_counts = static_cast<int32_t*>(counts.data());
    out.full_indices = static_cast<int32_t*>(indices.data());
  } else {
    out.full_counts = made.make<int32_t>(0, place, kInt, {out.batch, out.heads, out.q_blocks});
    out.full_indices =
        made.make<int32_t>(1, place, kInt, {out.batch, out.heads, out.q_blocks, out.full_width});
  }
  if (out.partial_width > 0) {
    out.partial_counts = made.make<int32_t>(2, place, kInt, {out.batch, out.heads, out.q_blocks});
    out.partial_indices =
        made.make<int32_t>(3, place, kInt, {out.batch, out.heads, out.q_blocks, out.partial_width});
    out.partial_bits = made.make<uint8_t>(
        4, place, {kDLUInt, 8, 1},
        {out.batch, out.heads, out.q_blocks, out.partial_width, out.block_q, out.block_k / 8});
  }
  if (auto* const ids = std::get_if<builder::Ids>(&source)) {
    // Freed when this call returns: the allocator keeps the order of the stream.
    ids->ranges = reinterpret_cast<builder::IdRange*>(
        made.make<int64_t>(5, place, {kDLInt, 64, 1}, {builder::id_ranges(out), 3}));
  }
  const bool built = without_gil([&] { return builder::build(out, source, device, stream); });
  if (!warn_of_engine_notices()) throw PythonError{};
  if (!built) Py_RETURN_NOTIMPLEMENTED;
  if (args[kOut] != Py_None) {
    Py_INCREF(args[kOut]);
    return args[kOut];
  }
  return made.tuple(out.partial_width > 0 ? 5 : 2);
}

PyObject* pooled_scores(PyObject* q, PyObject* k, int block_q, int block_k, bool maximum,
                        double scale, bool per_kv_head, PyObject* causal_offset) {
  PyObject* const plain[] = {q, k};
  if (!is_plain_call(plain, 2, Autocast::kIgnored)) Py_RETURN_NOTIMPLEMENTED;
  PyObject* const pair = PyTuple_Pack(2, q, k);
  if (pair == nullptr) throw PythonError{};
  const std::unique_ptr<PyObject, decltype(&Py_DecRef)> owner(pair, Py_DecRef);
  const Inputs inputs(pair, 0);
  const int32_t device = inputs.device();
  if (cuda::cuda_device(device).properties.compute_capability != 90) Py_RETURN_NOTIMPLEMENTED;

  builder::PooledProductParams params;
  builder::PoolParams& pool = params.pool;
  pool.q = inputs.tensor(0, "bhrc");
  pool.k = inputs.tensor(1, "bhrc");
  pool.maximum = maximum;
  pool.batch = inputs.size(0, 0);
  pool.q_heads = inputs.size(0, 1);
  pool.kv_heads = inputs.size(1, 1);
  pool.head_dim = inputs.size(0, 3);
  pool.q_len = inputs.size(0, 2);
  pool.kv_len = inputs.size(1, 2);
  pool.block_q = block_q;
  pool.block_k = block_k;
  pool.q_blocks = (pool.q_len + block_q - 1) / block_q;
  pool.kv_blocks = (pool.kv_len + block_k - 1) / block_k;
  params.heads = per_kv_head ? pool.kv_heads : pool.q_heads;
  params.scale = static_cast<float>(scale);
  params.causal = causal_offset != Py_None;
  if (params.causal) params.offset = static_cast<int>(integer(causal_offset));
  if (!builder::takes_pool(pool)) Py_RETURN_NOTIMPLEMENTED;

  const DLDevice place = {kDLCUDA, device};
  void* stream = nullptr;
  if (!current_stream(plain_type(), place, &stream)) Py_RETURN_NOTIMPLEMENTED;
  constexpr DLDataType kFloat = {kDLFloat, 32, 1};
  Tensors made;
  params.scores =
      made.make<float>(0, place, kFloat, {pool.batch, params.heads, pool.q_blocks, pool.kv_blocks});
  pool.pooled_q =
      made.make<float>(1, place, kFloat, {pool.batch, pool.q_heads, pool.q_blocks, pool.head_dim});
  pool.pooled_k = made.make<float>(2, place, kFloat,
                                   {pool.batch, pool.kv_heads, pool.kv_blocks, pool.head_dim});
  const bool done = without_gil([&] { return builder::pooled_scores(params, device, stream); });
  if (!warn_of_engine_notices()) throw PythonError{};
  if (!done) Py_RETURN_NOTIMPLEMENTED;
  return made.get(0);
}

PyObject* pooled_scores_entry(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *q, *k, *causal_offset;
    int block_q, block_k, maximum, per_kv_head;
    double scale;
    if (!PyArg_ParseTuple(args, "OOiipdpO", &q, &k, &block_q, &block_k, &maximum, &scale,
                          &per_kv_head, &causal_offset)) {
      throw PythonError{};
    }
    try {
      return pooled_scores(q, k, block_q, block_k, maximum != 0, scale, per_kv_head != 0,
                           causal_offset);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
      Py_RETURN_NOTIMPLEMENTED;
    }
  });
}

PyObject* build_block_mask_entry(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    if (count != kArguments) {
      PyErr_SetString(PyExc_TypeError, "build_block_mask takes 9 arguments");
      throw PythonError{};
    }
    try {
      return build(args);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
      Py_RETURN_NOTIMPLEMENTED;
    }
  });
}

PyObject* prepare_block_mask_entry(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *lists, *q_len, *kv_len, *kv_blocks;
    if (!PyArg_ParseTuple(args, "O!OOO", &PyTuple_Type, &lists, &q_len, &kv_len, &kv_blocks)) {
      throw PythonError{};
    }
    return prepare_block_mask(lists, q_len, kv_len, kv_blocks);
  });
}

PyMethodDef methods[] = {
    {"prepare_block_mask", prepare_block_mask_entry, METH_VARARGS,
     "prepare_block_mask((block_q, block_k, full_counts, full_indices, partial_counts, "
     "partial_indices, partial_bits), q_len, kv_len, kv_blocks) -> capsule: the lists as "
     "attention_forward_eager takes them from `BlockMask._prepared`."},
    {"build_block_mask",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(build_block_mask_entry)),
     METH_FASTCALL,
     "build_block_mask(kind, (batch, heads, q_blocks, kv_blocks), (block_q, block_k), (q_len, "
     "kv_len), (full_width, partial_width), inputs, numbers, device, out) -> (full_counts, "
     "full_indices[, partial_counts, partial_indices, partial_bits]), or NotImplemented where no "
     "kernel takes it. `device` counts where there is no input; `out`: None or (full_counts, "
     "full_indices) to write into."},
    {"pooled_scores", pooled_scores_entry, METH_VARARGS,
     "pooled_scores(Q, K, block_q, block_k, maximum, scale, per_kv_head, causal_offset) -> scores, "
     "or NotImplemented where no kernel takes it. causal_offset: None = not causal."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool add_block_mask_functions(PyObject* module) {
  return PyModule_AddFunctions(module, methods) == 0;
}

}  // namespace bsk::python
