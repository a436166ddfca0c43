// Reads tensors of any library through DLPack: by its C exchange API where the type has one (torch
// >= 2.11), else by the Python protocol `__dlpack__`. No torch header is needed.
#pragma once

#include <Python.h>
#include <dlpack/dlpack.h>

#include "bindings/python_values.h"
#include "bsk/attention.h"

namespace bsk::python {

// A tensor argument for the duration of a call. Throws PythonError (with the Python exception set)
// or bsk::Error.
class TensorArgument {
 public:
  TensorArgument() = default;
  TensorArgument(const TensorArgument&) = delete;
  TensorArgument& operator=(const TensorArgument&) = delete;
  ~TensorArgument();

  void read(PyObject* object, const char* name);

  const DLTensor& tensor() const { return *tensor_; }
  const DLTensor* tensor_or_null() const { return tensor_; }  // null where nothing was read
  void* data() const { return static_cast<char*>(tensor_->data) + tensor_->byte_offset; }
  const char* name() const { return name_; }
  bool read_only() const { return read_only_; }

 private:
  const char* name_ = "";
  bool read_only_ = false;
  const DLTensor* tensor_ = nullptr;
  DLTensor view_{};              // filled by the exchange API
  PyObject* capsule_ = nullptr;  // kept by the Python protocol
};

// The exchange API of a type, or null. Looked up once per type.
const DLPackExchangeAPI* exchange_api(PyTypeObject* type);

// A new tensor of a type's library, contiguous or, with four dimensions, dense with these strides;
// null where the type has no exchange API.
PyObject* new_tensor(PyTypeObject* type, DLDevice device, DLDataType dtype, int32_t ndim,
                     const int64_t* shape, const int64_t* strides, void** data);

// The stream on which the type's library enqueues its work on a device; false where it does not
// tell.
bool current_stream(PyTypeObject* type, DLDevice device, void** stream);

// [.., rows, columns] as a 4-dimensional layout; fewer than 4 dimensions are padded with ones on
// the left where `broadcast` allows it. Throws Error where the rank, dtype or device is none that
// attention knows.
TensorLayout layout_of(const TensorArgument& argument, bool broadcast);

// A contiguous tensor of the given dtype and rank (block lists), its data pointer.
const void* contiguous_data(const TensorArgument& argument, DLDataTypeCode code, uint8_t bits,
                            int32_t ndim);

}  // namespace bsk::python
