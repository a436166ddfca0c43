// The lists of a `BlockMask` as the native side sees them: read and checked once, kept with the
// mask, so that a call with a mask costs about as much as one without.
#pragma once

#include "bindings/dlpack_tensor.h"

namespace bsk::python {

// Layout, pointers and device of five lists. Does not own the lists' memory.
struct BlockLists {
  BlockMaskLayout layout;
  BlockMaskBuffers buffers;
  DeviceType device = DeviceType::kCpu;
  int32_t device_index = -1;
};

// Of the tuple (block_q, block_k, full_counts, full_indices, partial_counts, partial_indices,
// partial_bits); the last three may be None. Throws where they break a rule.
BlockLists read_block_lists(PyObject* tuple);

// As above, and the lengths that the mask is bound to. Keeps the tensors of the tuple.
class PreparedBlockMask {
 public:
  // tuple: as above. q_len, kv_len: None = not bound.
  PreparedBlockMask(PyObject* tuple, PyObject* q_len, PyObject* kv_len, PyObject* kv_blocks);
  PreparedBlockMask(const PreparedBlockMask&) = delete;
  PreparedBlockMask& operator=(const PreparedBlockMask&) = delete;
  ~PreparedBlockMask();

  const BlockLists& lists() const { return lists_; }
  bool fits(int64_t q_len, int64_t kv_len) const;

 private:
  BlockLists lists_;
  int64_t q_len_ = -1, kv_len_ = -1, kv_blocks_ = 0;
  PyObject* tuple_;
};

// A capsule with a PreparedBlockMask, for `BlockMask._prepared`.
PyObject* prepare_block_mask(PyObject* tuple, PyObject* q_len, PyObject* kv_len,
                             PyObject* kv_blocks);

// What a mask has prepared, preparing it now if it has not; throws PythonError where the object is
// no BlockMask. `owner` becomes a new reference to what keeps it: the mask lets go of it when one
// of its lists is assigned.
const PreparedBlockMask& prepared_block_mask(PyObject* block_mask, PyObject*& owner);

}  // namespace bsk::python
