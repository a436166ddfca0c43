#include "bindings/gate.h"

#include <vector>

namespace bsk::python {
namespace {

// A callable, most likely a builtin, whose C function is called as the interpreter would call it,
// without the way there: the gate asks about ten of them at each call.
class Builtin {
 public:
  // Keeps the callable; a method is given as that of any tensor.
  void set(PyObject* callable) {
    Py_INCREF(callable);
    callable_ = callable;
    if (!PyCFunction_Check(callable)) return;
    convention_ = PyCFunction_GetFlags(callable);
    function_ = PyCFunction_GetFunction(callable);
    self_ = PyCFunction_GetSelf(callable);
  }

  // New references.
  PyObject* call() const {
    if (convention_ == METH_NOARGS) return function_(self_, nullptr);
    if (convention_ == (METH_VARARGS | METH_KEYWORDS)) {  // pybind11's, before 3
      static PyObject* const nothing = PyTuple_New(0);
      return reinterpret_cast<PyCFunctionWithKeywords>(reinterpret_cast<void (*)()>(function_))(
          self_, nothing, nullptr);
    }
    return PyObject_CallNoArgs(callable_);
  }
  PyObject* call(PyObject* argument) const {
    return convention_ == METH_O ? function_(self_, argument)
                                 : PyObject_CallFunctionObjArgs(callable_, argument, nullptr);
  }
  PyObject* call_of(PyObject* tensor) const {
    if (convention_ == METH_NOARGS) return function_(tensor, nullptr);
    PyObject* const name = PyObject_GetAttrString(callable_, "__name__");
    PyObject* const answer =
        name == nullptr ? nullptr : PyObject_CallMethodObjArgs(tensor, name, nullptr);
    Py_XDECREF(name);
    return answer;
  }

 private:
  PyObject* callable_ = nullptr;
  int convention_ = -1;  // of a builtin's function
  PyCFunction function_ = nullptr;
  PyObject* self_ = nullptr;  // borrowed from it
};

// All of these are owned, and guarded by the GIL.
std::vector<PyObject*>* plain_types = nullptr;
std::vector<Builtin>* acting_flags = nullptr;
PyObject* forward_ad_names = nullptr;
PyObject* current_level_name = nullptr;
Builtin autocast_flag;
Builtin grad_enabled_flag;
Builtin is_negated_test;
PyObject* requires_grad_descriptor = nullptr;
descrgetfunc requires_grad_of = nullptr;
Builtin increment_version;

// Steals the answer of a callable; an exception counts as true, so that the careful path meets it
// again.
bool is_true(PyObject* answer) {
  if (answer == nullptr) {
    PyErr_Clear();
    return true;
  }
  const bool result = answer != Py_None && answer != Py_False &&
                      (answer == Py_True || PyObject_IsTrue(answer) != 0);
  Py_DECREF(answer);
  return result;
}

bool is_given(PyObject* tensor) { return tensor != nullptr && tensor != Py_None; }

bool is_forward_ad_open() {
  PyObject* const level = PyDict_GetItemWithError(forward_ad_names, current_level_name);
  const long number = level == nullptr ? 0 : PyLong_AsLong(level);
  if (PyErr_Occurred() == nullptr) return number >= 0;
  PyErr_Clear();
  return true;
}

bool requires_grad(PyObject* tensor) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  return is_true(requires_grad_of(requires_grad_descriptor, tensor, type));
}

}  // namespace

bool set_gate(const GateSources& sources) {
  requires_grad_of = reinterpret_cast<descrgetfunc>(
      PyType_GetSlot(Py_TYPE(sources.requires_grad), Py_tp_descr_get));
  if (requires_grad_of == nullptr || !PyModule_Check(sources.forward_ad)) {
    PyErr_SetString(PyExc_TypeError, "set_gate takes a module and a descriptor");
    return false;
  }
  requires_grad_descriptor = Py_NewRef(sources.requires_grad);
  forward_ad_names = Py_NewRef(PyModule_GetDict(sources.forward_ad));
  current_level_name = PyUnicode_InternFromString("_current_level");
  acting_flags = new std::vector<Builtin>(static_cast<size_t>(PyTuple_Size(sources.flags)));
  for (size_t i = 0; i < acting_flags->size(); ++i) {
    (*acting_flags)[i].set(PyTuple_GetItem(sources.flags, static_cast<Py_ssize_t>(i)));
  }
  autocast_flag.set(sources.autocast);
  grad_enabled_flag.set(sources.grad_enabled);
  is_negated_test.set(sources.is_negated);
  increment_version.set(sources.increment_version);
  plain_types = new std::vector<PyObject*>;
  for (Py_ssize_t i = 0; i < PyTuple_Size(sources.types); ++i) {
    plain_types->push_back(Py_NewRef(PyTuple_GetItem(sources.types, i)));
  }
  return true;
}

bool is_plain_call(PyObject* const* tensors, int count, Autocast autocast) {
  if (plain_types == nullptr) return false;
  for (const Builtin& flag : *acting_flags) {
    if (is_true(flag.call())) return false;
  }
  if (is_forward_ad_open()) return false;
  if (autocast == Autocast::kActs && is_true(autocast_flag.call())) return false;
  if (!is_plain_prepared_call(tensors, count)) return false;
  for (int i = 0; i < count; ++i) {
    if (is_given(tensors[i]) && is_true(is_negated_test.call_of(tensors[i]))) return false;
  }
  return true;
}

bool is_plain_prepared_call(PyObject* const* tensors, int count) {
  if (plain_types == nullptr) return false;
  const bool grad_enabled = is_true(grad_enabled_flag.call());
  for (int i = 0; i < count; ++i) {
    if (!is_given(tensors[i])) continue;
    if (!is_plain_type(Py_TYPE(tensors[i]))) return false;
    if (grad_enabled && requires_grad(tensors[i])) return false;
  }
  return true;
}

bool count_change(PyObject* tensor) {
  PyObject* const tensors = PyTuple_Pack(1, tensor);
  PyObject* const done = tensors == nullptr ? nullptr : increment_version.call(tensors);
  Py_XDECREF(tensors);
  Py_XDECREF(done);
  return done != nullptr;
}

bool is_plain_type(PyTypeObject* type) {
  if (plain_types == nullptr) return false;
  for (PyObject* plain : *plain_types) {
    if (plain == reinterpret_cast<PyObject*>(type)) return true;
  }
  return false;
}

PyTypeObject* plain_type() {
  if (plain_types == nullptr) return nullptr;
  return reinterpret_cast<PyTypeObject*>(plain_types->front());
}

}  // namespace bsk::python
