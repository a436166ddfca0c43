// The CPython entry of BlackwellSparseK (limited API): Python objects in, one C++ call, Python
// objects out.
#include <Python.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bindings/block_mask_bindings.h"
#include "bindings/call.h"
#include "bindings/eager.h"
#include "bindings/engine_bindings.h"
#include "bindings/gate.h"
#include "bindings/guarded.h"
#include "src/attention/kernel.h"
#include "src/attention/settings.h"

namespace bsk::python {

static PyObject* unsupported_error = nullptr;

PyObject* exception_type(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kValue: return PyExc_ValueError;
    case ErrorKind::kType: return PyExc_TypeError;
    case ErrorKind::kUnsupported: return unsupported_error;
    case ErrorKind::kRuntime: return PyExc_RuntimeError;
  }
  return PyExc_RuntimeError;
}

namespace {

PyObject* attention_forward_entry(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    Call call;
    call.read(args, count);
    call.run();
    return call.result();
  });
}

PyObject* plan_entry(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    Call call;
    call.read(args, count);
    call.lay_out();
    validate(call.problem(), call.buffers());
    const AttentionPlan result = plan(call.problem(), call.device(), call.forced_kernel());
    return Py_BuildValue("(ss)", result.kernel->name, to_string(result).c_str());
  });
}

std::map<std::string, std::string> string_map(PyObject* dict) {
  std::map<std::string, std::string> values;
  PyObject *key, *value;
  Py_ssize_t position = 0;
  while (PyDict_Next(dict, &position, &key, &value)) values[text_of(key)] = text_of(value);
  return values;
}

PyObject* option_list(const std::vector<ResolvedOption>& options) {
  return list_of(options, [](const ResolvedOption& option) {
    return Py_BuildValue("(ssss)", option.name.c_str(), option.environment_variable.c_str(),
                         option.value.c_str(), option.origin.c_str());
  });
}

PyObject* resolve_options_entry(PyObject*, PyObject* dict) {
  return guarded([&] { return option_list(resolve_options(string_map(dict))); });
}

PyObject* set_settings_entry(PyObject*, PyObject* dict) {
  return guarded([&]() -> PyObject* {
    set_settings(string_map(dict));
    Py_RETURN_NONE;
  });
}

PyObject* options_in_force_entry(PyObject*, PyObject*) {
  return guarded([&] { return option_list(options_in_force()); });
}

PyObject* kernels_entry(PyObject*, PyObject*) {
  return guarded([] {
    return list_of(kernels(), [](const Kernel& kernel) {
      return Py_BuildValue("(ssO)", kernel.name, kernel.summary,
                           kernel.only_when_forced ? Py_True : Py_False);
    });
  });
}

// What each kernel says to a problem on a device that need not be here.
PyObject* kernel_reasons_entry(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject* call_arguments;
    const char *type, *name;
    DeviceProperties device;
    long long shared_bytes;
    if (!PyArg_ParseTuple(args, "O!(ssiiL)", &PyTuple_Type, &call_arguments, &type, &name,
                          &device.compute_capability, &device.multiprocessors, &shared_bytes)) {
      throw PythonError{};
    }
    device.type = std::string(type) == "cuda" ? DeviceType::kCuda : DeviceType::kCpu;
    device.name = name;
    device.shared_bytes = shared_bytes;
    std::vector<PyObject*> items;  // borrowed
    for (Py_ssize_t i = 0; i < PyTuple_Size(call_arguments); ++i)
      items.push_back(PyTuple_GetItem(call_arguments, i));
    Call call;
    call.read(items.data(), static_cast<Py_ssize_t>(items.size()));
    call.lay_out();
    validate(call.problem(), call.buffers());
    std::unique_ptr<PyObject, decltype(&Py_DecRef)> owner(PyDict_New(), Py_DecRef);
    PyObject* const answers = owner.get();
    if (answers == nullptr) throw PythonError{};
    for (const Kernel& kernel : kernels()) {
      PyObject* reasons =
          list_of(kernel.reasons(call.problem(), device),
                  [](const std::string& reason) { return PyUnicode_FromString(reason.c_str()); });
      const int set = PyDict_SetItemString(answers, kernel.name, reasons);
      Py_DECREF(reasons);
      if (set != 0) throw PythonError{};
    }
    return owner.release();
  });
}

PyObject* set_sources_entry(PyObject*, PyObject* args) {
  PyObject *threads, *device, *stream;
  if (!PyArg_ParseTuple(args, "OOO", &threads, &device, &stream)) return nullptr;
  set_sources(threads, device, stream);
  Py_RETURN_NONE;
}

PyObject* set_gate_entry(PyObject*, PyObject* args) {
  GateSources sources;
  if (!PyArg_ParseTuple(args, "O!O!OOOOOO", &PyTuple_Type, &sources.types, &PyTuple_Type,
                        &sources.flags, &sources.forward_ad, &sources.autocast,
                        &sources.grad_enabled, &sources.requires_grad, &sources.is_negated,
                        &sources.increment_version)) {
    return nullptr;
  }
  return set_gate(sources) ? Py_NewRef(Py_None) : nullptr;
}

PyMethodDef methods[] = {
    {"set_gate", set_gate_entry, METH_VARARGS,
     "set_gate(types, flags, forward_ad, autocast, grad_enabled, requires_grad, is_negated, "
     "increment_version): what lets a call through to attention_forward_eager."},
    {"attention_forward",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(attention_forward_entry)),
     METH_FASTCALL, kAttentionForwardDoc},
    {"plan", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(plan_entry)), METH_FASTCALL,
     "plan(*attention_forward's arguments) -> (kernel, text): what a call would run. Computes "
     "nothing."},
    {"resolve_options", resolve_options_entry, METH_O,
     "resolve_options({name: text}) -> [(name, variable, value, origin)], without putting them in "
     "force."},
    {"set_settings", set_settings_entry, METH_O,
     "set_settings({name: text}): puts explicit options in force."},
    {"options_in_force", options_in_force_entry, METH_NOARGS,
     "options_in_force() -> [(name, variable, value, origin)]"},
    {"kernels", kernels_entry, METH_NOARGS,
     "kernels() -> [(name, summary, only_when_forced)], the most wanted first."},
    {"kernel_reasons", kernel_reasons_entry, METH_VARARGS,
     "kernel_reasons(attention_forward's arguments, (type, name, capability, multiprocessors, "
     "shared_bytes)) -> {kernel: [why it cannot take the problem on that device]}."},
    {"set_sources", set_sources_entry, METH_VARARGS,
     "set_sources(threads, device, stream): threads() -> int; device(index) -> (name, capability, "
     "multiprocessors, shared_bytes); stream(index) -> int, asked where DLPack does not tell it."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_C",
                      "The native core of BlackwellSparseK.",
                      -1,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace
}  // namespace bsk::python

PyMODINIT_FUNC PyInit__C() {
  PyObject* object = PyModule_Create(&bsk::python::module);
  if (object == nullptr) return nullptr;
  bsk::python::unsupported_error = PyErr_NewExceptionWithDoc(
      "blackwell_sparsek.UnsupportedError",
      "No kernel of this build takes a problem; the message lists the reasons.", PyExc_RuntimeError,
      nullptr);
  Py_XINCREF(bsk::python::unsupported_error);
  if (PyModule_AddObject(object, "UnsupportedError", bsk::python::unsupported_error) != 0)
    return nullptr;
  const bool added = bsk::python::add_eager_functions(object) &&
                     bsk::python::add_engine_functions(object) &&
                     bsk::python::add_block_mask_functions(object);
  return added ? object : nullptr;
}
