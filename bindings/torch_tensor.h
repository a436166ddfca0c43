// New tensors of torch, made by torch itself.
#pragma once

#include <Python.h>
#include <dlpack/dlpack.h>

namespace bsk::python {

// An uninitialised tensor, contiguous without `strides`. Null, with no exception set, where this
// torch lacks one of the functions that it takes, or refuses: DLPack's allocator then does, or says
// why it cannot.
//
// Why not DLPack's at once: it makes a tensor and a second one around it, which costs twice as much
// and has a memory of which torch's allocator does not know that it is its own
// (Tensor.record_stream does nothing, its storage cannot be resized).
PyObject* new_torch_tensor(DLDevice device, DLDataType dtype, int32_t ndim, const int64_t* shape,
                           const int64_t* strides, void** data);

}  // namespace bsk::python
