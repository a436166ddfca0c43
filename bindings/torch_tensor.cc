#include "bindings/torch_tensor.h"

#include <dlfcn.h>

#include <type_traits>

namespace bsk::python {
namespace {

using Handle = struct HandleTag*;  // a pointer to an at::Tensor

// torch's C interface for compiled models (torch/csrc/inductor/aoti_torch/c/shim.h), whose binary
// interface is promised to stay, and what makes a tensor a Python object, which is C++: another
// signature has another symbol, and is not found.
struct Functions {
  int32_t (*empty_strided)(int64_t ndim, const int64_t* shape, const int64_t* strides,
                           int32_t dtype, int32_t device_type, int32_t device_index,
                           Handle* tensor) = nullptr;
  int32_t (*get_data_ptr)(Handle tensor, void** data) = nullptr;
  int32_t (*delete_tensor_object)(Handle tensor) = nullptr;
  PyObject* (*wrap)(Handle tensor) = nullptr;  // PyObject* THPVariable_Wrap(const at::TensorBase&)

  Functions() {
    void* const torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    void* const python = dlopen("libtorch_python.so", RTLD_LAZY | RTLD_NOLOAD);
    if (torch == nullptr || python == nullptr) return;
    const auto find = [](void* library, const char* symbol, auto& function) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
    };
    find(torch, "aoti_torch_empty_strided", empty_strided);
    find(torch, "aoti_torch_get_data_ptr", get_data_ptr);
    find(torch, "aoti_torch_delete_tensor_object", delete_tensor_object);
    find(python, "_Z16THPVariable_WrapRKN2at10TensorBaseE", wrap);
  }
  bool complete() const {
    return empty_strided != nullptr && get_data_ptr != nullptr && delete_tensor_object != nullptr &&
           wrap != nullptr;
  }
};

// c10::ScalarType, as saved tensors spell it; -1 where attention makes no such tensor.
int32_t scalar_type(DLDataType dtype) {
  if (dtype.lanes != 1) return -1;
  switch (dtype.code) {
    case kDLFloat: return dtype.bits == 16 ? 5 : dtype.bits == 32 ? 6 : dtype.bits == 64 ? 7 : -1;
    case kDLBfloat: return dtype.bits == 16 ? 15 : -1;
    case kDLInt: return dtype.bits == 32 ? 3 : dtype.bits == 64 ? 4 : -1;
    case kDLUInt: return dtype.bits == 8 ? 0 : -1;
    default: return -1;
  }
}

// c10::DeviceType
int32_t device_type(DLDevice device) {
  return device.device_type == kDLCPU ? 0 : device.device_type == kDLCUDA ? 1 : -1;
}

}  // namespace

PyObject* new_torch_tensor(DLDevice device, DLDataType dtype, int32_t ndim, const int64_t* shape,
                           const int64_t* strides, void** data) {
  static const Functions torch;
  constexpr int32_t kMaxRank = 8;
  const int32_t type = scalar_type(dtype), place = device_type(device);
  if (!torch.complete() || type < 0 || place < 0 || ndim > kMaxRank) return nullptr;
  int64_t contiguous_strides[kMaxRank];
  if (strides == nullptr) {
    int64_t stride = 1;
    for (int32_t i = ndim - 1; i >= 0; --i) {
      contiguous_strides[i] = stride;
      stride *= shape[i] > 0 ? shape[i] : 1;
    }
    strides = contiguous_strides;
  }
  Handle tensor = nullptr;
  if (torch.empty_strided(ndim, shape, strides, type, place, device.device_id, &tensor) != 0) {
    return nullptr;
  }
  PyObject* object = nullptr;
  if (torch.get_data_ptr(tensor, data) == 0) object = torch.wrap(tensor);
  if (object == nullptr) PyErr_Clear();
  static_cast<void>(torch.delete_tensor_object(tensor));
  return object;
}

}  // namespace bsk::python
