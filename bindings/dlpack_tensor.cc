#include "bindings/dlpack_tensor.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <string>
#include <vector>

#include "bindings/gate.h"
#include "bindings/torch_tensor.h"

namespace bsk::python {
namespace {

struct TypeEntry {
  PyTypeObject* type;  // owned: a type that died could come back at the same address
  const DLPackExchangeAPI* api;
};

// Guarded by the GIL.
std::vector<TypeEntry>& type_entries() {
  static auto* entries = new std::vector<TypeEntry>;
  return *entries;
}

const DLPackExchangeAPI* look_up(PyTypeObject* type) {
  PyObject* capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  void* pointer = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  Py_DECREF(capsule);
  if (pointer == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  auto* header = static_cast<const DLPackExchangeAPIHeader*>(pointer);
  while (header != nullptr && header->version.major != DLPACK_MAJOR_VERSION)
    header = header->prev_api;
  auto* api = reinterpret_cast<const DLPackExchangeAPI*>(header);
  return api != nullptr && api->dltensor_from_py_object_no_sync != nullptr ? api : nullptr;
}

std::string type_name(PyObject* object) {
  PyObject* name =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(object)), "__qualname__");
  std::string text = "an object";
  if (name != nullptr) {
    const char* utf8 = PyUnicode_AsUTF8AndSize(name, nullptr);
    if (utf8 != nullptr) text = utf8;
    Py_DECREF(name);
  }
  PyErr_Clear();
  return text;
}

// The pending Python exception as text; clears it.
std::string pending_exception() {
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  std::string text = "an error";
  if (value != nullptr) {
    PyObject* str = PyObject_Str(value);
    if (str != nullptr) {
      const char* utf8 = PyUnicode_AsUTF8AndSize(str, nullptr);
      if (utf8 != nullptr) text = utf8;
      Py_DECREF(str);
    }
  }
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(trace);
  PyErr_Clear();
  return text.substr(0, text.find('\n'));  // torch appends a C++ stack trace
}

std::string text(const DLDataType& dtype) {
  const char* names[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  if (dtype.code >= std::size(names)) {  // float8 and smaller
    return "DLPack's type " + std::to_string(dtype.code) + " of " + std::to_string(dtype.bits) +
           " bits";
  }
  const std::string name = names[dtype.code];
  return dtype.code == kDLBool ? name : name + std::to_string(dtype.bits * dtype.lanes);
}

std::string text(const DLTensor& tensor) {
  std::string result = "[";
  for (int32_t i = 0; i < tensor.ndim; ++i)
    result += (i > 0 ? ", " : "") + std::to_string(tensor.shape[i]);
  return result + "]";
}

// A 4-dimensional tensor over another one's memory, which it keeps: the same but for its strides.
struct Restrided {
  Restrided(DLManagedTensorVersioned* whole, const int64_t* own_strides)
      : managed(*whole), memory(whole) {
    std::copy_n(own_strides, strides.size(), strides.begin());
    managed.dl_tensor.strides = strides.data();
    managed.manager_ctx = this;
    managed.deleter = [](DLManagedTensorVersioned* self) {
      auto* const restrided = static_cast<Restrided*>(self->manager_ctx);
      DLManagedTensorVersioned* const memory = restrided->memory;
      delete restrided;
      if (memory->deleter != nullptr) memory->deleter(memory);
    };
  }

  DLManagedTensorVersioned managed;
  std::array<int64_t, 4> strides;
  DLManagedTensorVersioned* memory;
};

}  // namespace

const DLPackExchangeAPI* exchange_api(PyTypeObject* type) {
  for (const TypeEntry& entry : type_entries()) {
    if (entry.type == type) return entry.api;
  }
  Py_INCREF(type);
  type_entries().push_back({type, look_up(type)});
  return type_entries().back().api;
}

TensorArgument::~TensorArgument() { Py_XDECREF(capsule_); }

void TensorArgument::read(PyObject* object, const char* name) {
  name_ = name;
  const DLPackExchangeAPI* api = exchange_api(Py_TYPE(object));
  if (api != nullptr) {
    if (api->dltensor_from_py_object_no_sync(object, &view_) != 0) {
      fail(ErrorKind::kValue, name, "must be a dense tensor on a CPU or CUDA device",
           pending_exception(), "Pass a plain strided tensor.");
    }
    tensor_ = &view_;
    return;
  }
  if (PyObject_HasAttrString(object, "__dlpack__") == 0) {
    fail(ErrorKind::kType, name, "must be a tensor (torch.Tensor, or anything with __dlpack__)",
         type_name(object), "Convert it with torch.as_tensor.");
  }
  capsule_ = PyObject_CallMethod(object, "__dlpack__", nullptr);
  if (capsule_ == nullptr) {
    fail(ErrorKind::kValue, name, "must be a dense tensor on a CPU or CUDA device",
         pending_exception(), "Pass a plain strided tensor (detached, if it requires grad).");
  }
  if (PyCapsule_IsValid(capsule_, "dltensor")) {
    tensor_ = &static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule_, "dltensor"))->dl_tensor;
  } else if (PyCapsule_IsValid(capsule_, "dltensor_versioned")) {
    const auto* const managed = static_cast<DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule_, "dltensor_versioned"));
    if (managed->version.major != DLPACK_MAJOR_VERSION) {  // what follows may lie elsewhere
      fail(ErrorKind::kType, name, "must export version 1 of DLPack",
           "version " + std::to_string(managed->version.major),
           "Pass a torch.Tensor, or ask the array library for version 1.");
    }
    read_only_ = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
    tensor_ = &managed->dl_tensor;
  } else {
    fail(ErrorKind::kType, name, "must export a DLPack capsule", type_name(object),
         "Update the array library.");
  }
}

PyObject* new_tensor(PyTypeObject* type, DLDevice device, DLDataType dtype, int32_t ndim,
                     const int64_t* shape, const int64_t* strides, void** data) {
  if (is_plain_type(type)) {
    PyObject* const tensor = new_torch_tensor(device, dtype, ndim, shape, strides, data);
    if (tensor != nullptr) return tensor;
  }
  const DLPackExchangeAPI* api = exchange_api(type);
  if (api == nullptr) return nullptr;
  DLTensor prototype{};
  prototype.device = device;
  prototype.ndim = ndim;
  prototype.dtype = dtype;
  prototype.shape = const_cast<int64_t*>(shape);
  DLManagedTensorVersioned* managed = nullptr;
  std::string message;
  const auto keep = [](void* context, const char* kind, const char* what) {
    *static_cast<std::string*>(context) = std::string(kind) + ": " + what;
  };
  if (api->managed_tensor_allocator(&prototype, &managed, &message, keep) != 0) {
    throw Error(ErrorKind::kRuntime, "out: the tensor library could not allocate the result (" +
                                         message + "). Free memory, or pass `out`.");
  }
  *data = static_cast<char*>(managed->dl_tensor.data) + managed->dl_tensor.byte_offset;
  if (strides != nullptr) managed = &(new Restrided(managed, strides))->managed;
  void* object = nullptr;
  if (api->managed_tensor_to_py_object_no_sync(managed, &object) != 0) throw PythonError{};
  return static_cast<PyObject*>(object);
}

bool current_stream(PyTypeObject* type, DLDevice device, void** stream) {
  const DLPackExchangeAPI* api = exchange_api(type);
  return api != nullptr && api->current_work_stream != nullptr &&
         api->current_work_stream(device.device_type, device.device_id, stream) == 0;
}

TensorLayout layout_of(const TensorArgument& argument, bool broadcast) {
  const DLTensor& tensor = argument.tensor();
  if (broadcast ? tensor.ndim > 4 : tensor.ndim != 4) {
    fail(ErrorKind::kValue, argument.name(),
         broadcast ? "must have at most 4 dimensions"
                   : "must have 4 dimensions, [batch, heads, length, head_dim]",
         std::to_string(tensor.ndim) + ", shape " + text(tensor),
         broadcast ? "Make it broadcastable to [batch, q_heads, q_len, kv_len]."
                   : "Add the missing dimensions with unsqueeze, or view it as [batch, heads, "
                     "length, head_dim].");
  }
  TensorLayout layout;
  const DLDataType dtype = tensor.dtype;
  if (dtype.lanes == 1 && dtype.code == kDLFloat && dtype.bits == 64) {
    layout.dtype = DataType::kFloat64;
  } else if (dtype.lanes == 1 && dtype.code == kDLFloat && dtype.bits == 32) {
    layout.dtype = DataType::kFloat32;
  } else if (dtype.lanes == 1 && dtype.code == kDLFloat && dtype.bits == 16) {
    layout.dtype = DataType::kFloat16;
  } else if (dtype.lanes == 1 && dtype.code == kDLBfloat && dtype.bits == 16) {
    layout.dtype = DataType::kBFloat16;
  } else if (dtype.lanes == 1 && dtype.code == kDLBool) {
    layout.dtype = DataType::kBool;
  } else {
    fail(ErrorKind::kType, argument.name(),
         broadcast ? "must be bool, float32, float16 or bfloat16"
                   : "must be float32, float16 or bfloat16",
         text(dtype),
         broadcast ? "Convert it with .bool() (True = may attend) or .float()."
                   : "Convert it with .float().");
  }
  switch (tensor.device.device_type) {
    case kDLCPU:
    case kDLCUDAHost: layout.device = DeviceType::kCpu; break;
    case kDLCUDA:
    case kDLCUDAManaged:
      layout.device = DeviceType::kCuda;
      layout.device_index = tensor.device.device_id;
      break;
    default:
      fail(ErrorKind::kValue, argument.name(), "must be on a CPU or a CUDA device",
           "DLPack device type " + std::to_string(tensor.device.device_type),
           "Move it with .to('cpu').");
  }
  layout.address_alignment = address_alignment(argument.data());
  if (tensor.ndim == 4 && tensor.strides != nullptr) {  // nearly always
    std::copy_n(tensor.shape, 4, layout.shape.begin());
    std::copy_n(tensor.strides, 4, layout.stride.begin());
  } else {
    const int32_t padding = 4 - tensor.ndim;
    layout.shape.fill(1);
    int64_t dense_stride = 1;
    for (int32_t i = tensor.ndim - 1; i >= 0; --i) {
      layout.shape[padding + i] = tensor.shape[i];
      layout.stride[padding + i] = tensor.strides != nullptr ? tensor.strides[i] : dense_stride;
      dense_stride *= tensor.shape[i];
    }
  }
  if (broadcast) {  // a size of 1 is broadcast whatever its stride says
    for (int i = 0; i < 4; ++i) {
      if (layout.shape[i] == 1) layout.stride[i] = 0;
    }
  }
  return layout;
}

const void* contiguous_data(const TensorArgument& argument, DLDataTypeCode code, uint8_t bits,
                            int32_t ndim) {
  const DLTensor& tensor = argument.tensor();
  if (tensor.dtype.code != code || tensor.dtype.bits != bits || tensor.ndim != ndim) {
    fail(ErrorKind::kType, argument.name(),
         "must be a " + std::to_string(ndim) + "-dimensional integer tensor",
         text(tensor.dtype) + " " + text(tensor), "Build the mask with BlockMask's constructors.");
  }
  const bool empty = std::find(tensor.shape, tensor.shape + ndim, 0) != tensor.shape + ndim;
  int64_t dense_stride = 1;
  for (int32_t i = ndim - 1; i >= 0 && !empty; --i) {
    if (tensor.strides != nullptr && tensor.shape[i] > 1 && tensor.strides[i] != dense_stride) {
      fail(ErrorKind::kValue, argument.name(), "must be contiguous", "other strides",
           "Build the mask with BlockMask's constructors.");
    }
    dense_stride *= tensor.shape[i];
  }
  return argument.data();
}

}  // namespace bsk::python
