#include "bindings/block_lists.h"

namespace bsk::python {
namespace {

constexpr char kCapsuleName[] = "blackwell_sparsek.PreparedBlockMask";

void delete_prepared(PyObject* capsule) {
  delete static_cast<PreparedBlockMask*>(PyCapsule_GetPointer(capsule, kCapsuleName));
}

}  // namespace

BlockLists read_block_lists(PyObject* tuple) {
  PyObject* items[7];
  if (!PyArg_ParseTuple(tuple, "OOOOOOO", &items[0], &items[1], &items[2], &items[3], &items[4],
                        &items[5], &items[6])) {
    throw PythonError{};
  }
  BlockLists lists;
  BlockMaskLayout& layout = lists.layout;
  layout.present = true;
  layout.block_q = static_cast<int32_t>(integer(items[0]));
  layout.block_k = static_cast<int32_t>(integer(items[1]));
  const char* names[] = {"block_mask.full_counts", "block_mask.full_indices",
                         "block_mask.partial_counts", "block_mask.partial_indices",
                         "block_mask.partial_bits"};
  const int32_t ranks[] = {3, 4, 3, 4, 6};
  TensorArgument tensors[5];
  const void* data[5] = {};
  for (int i = 0; i < 5; ++i) {
    if (items[2 + i] == Py_None && i >= 2) continue;
    tensors[i].read(items[2 + i], names[i]);
    data[i] = contiguous_data(tensors[i], i < 4 ? kDLInt : kDLUInt, i < 4 ? 32 : 8, ranks[i]);
    const DLDevice place = tensors[i].tensor().device;
    const bool on_cpu = place.device_type == kDLCPU || place.device_type == kDLCUDAHost;
    const DeviceType device = on_cpu ? DeviceType::kCpu : DeviceType::kCuda;
    const int32_t index = on_cpu ? -1 : place.device_id;
    if (i == 0) {
      lists.device = device;
      lists.device_index = index;
    } else if (device != lists.device || index != lists.device_index) {
      fail(ErrorKind::kValue, names[i],
           "must be on the device of full_counts, " + to_string(lists.device, lists.device_index),
           to_string(device, index), "Build the mask with BlockMask's constructors.");
    }
  }
  const DLTensor& indices = tensors[1].tensor();
  layout.batch = indices.shape[0];
  layout.heads = indices.shape[1];
  layout.q_blocks = indices.shape[2];
  layout.full_width = indices.shape[3];
  const bool has_partial = items[4] != Py_None || items[5] != Py_None || items[6] != Py_None;
  const DLTensor* partial_indices = tensors[3].tensor_or_null();
  if (partial_indices != nullptr) layout.partial_width = partial_indices->shape[3];
  for (int i = 0; i < 5; ++i) {
    if (tensors[i].tensor_or_null() == nullptr) {
      if (has_partial && i >= 2) {
        fail(ErrorKind::kValue, names[i], "must be given with the other partial lists", "None",
             "Build the mask with BlockMask's constructors.");
      }
      continue;
    }
    const int64_t* shape = tensors[i].tensor().shape;
    const bool agrees = shape[0] == layout.batch && shape[1] == layout.heads &&
                        shape[2] == layout.q_blocks &&
                        (i < 3 || shape[3] == layout.partial_width) &&
                        (i < 4 || (shape[4] == layout.block_q && shape[5] == layout.block_k / 8));
    if (!agrees) {
      fail(ErrorKind::kValue, names[i],
           "must have the sizes [batch, heads, q_blocks, ...] of full_indices", "other sizes",
           "Build the mask with BlockMask's constructors.");
    }
  }
  lists.buffers.full_counts = static_cast<const int32_t*>(data[0]);
  lists.buffers.full_indices = static_cast<const int32_t*>(data[1]);
  lists.buffers.partial_counts = static_cast<const int32_t*>(data[2]);
  lists.buffers.partial_indices = static_cast<const int32_t*>(data[3]);
  lists.buffers.partial_bits = static_cast<const uint8_t*>(data[4]);
  return lists;
}

PreparedBlockMask::PreparedBlockMask(PyObject* tuple, PyObject* q_len, PyObject* kv_len,
                                     PyObject* kv_blocks)
    : lists_(read_block_lists(tuple)),
      q_len_(q_len == Py_None ? -1 : integer(q_len)),
      kv_len_(kv_len == Py_None ? -1 : integer(kv_len)),
      kv_blocks_(integer(kv_blocks)),
      tuple_(tuple) {
  Py_INCREF(tuple);
}

PreparedBlockMask::~PreparedBlockMask() { Py_XDECREF(tuple_); }

bool PreparedBlockMask::fits(int64_t q_len, int64_t kv_len) const {
  const int64_t block_k = lists_.layout.block_k;
  return (q_len_ < 0 || q_len_ == q_len) && (kv_len_ < 0 || kv_len_ == kv_len) &&
         (kv_len + block_k - 1) / block_k == kv_blocks_;
}

PyObject* prepare_block_mask(PyObject* tuple, PyObject* q_len, PyObject* kv_len,
                             PyObject* kv_blocks) {
  auto* const prepared = new PreparedBlockMask(tuple, q_len, kv_len, kv_blocks);
  PyObject* capsule = PyCapsule_New(prepared, kCapsuleName, delete_prepared);
  if (capsule == nullptr) {
    delete prepared;
    throw PythonError{};
  }
  return capsule;
}

const PreparedBlockMask& prepared_block_mask(PyObject* block_mask, PyObject*& owner) {
  static PyObject* const attribute = PyUnicode_InternFromString("_prepared");
  owner = PyObject_GetAttr(block_mask, attribute);
  if (owner == Py_None) {
    Py_DECREF(owner);
    owner = PyObject_CallMethod(block_mask, "_prepare", nullptr);
  }
  if (owner == nullptr) throw PythonError{};
  auto* const prepared =
      static_cast<const PreparedBlockMask*>(PyCapsule_GetPointer(owner, kCapsuleName));
  if (prepared == nullptr) throw PythonError{};
  return *prepared;
}

}  // namespace bsk::python
