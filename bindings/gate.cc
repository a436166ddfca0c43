#include "bindings/gate.h"

#include <initializer_list>

namespace bsk::python {
namespace {

PyObject* plain_types = nullptr;  // tuples and callables, owned; guarded by the GIL
PyObject* acting_flags = nullptr;
PyObject* autocast_flag = nullptr;
PyObject* grad_enabled_flag = nullptr;
PyObject* is_negated_test = nullptr;
PyObject* requires_grad_name = nullptr;

// Steals the answer of a callable; an exception counts as true, so that the careful path meets it
// again.
bool is_true(PyObject* answer) {
  if (answer == nullptr) {
    PyErr_Clear();
    return true;
  }
  const bool result = answer != Py_None && answer != Py_False && PyObject_IsTrue(answer) != 0;
  Py_DECREF(answer);
  return result;
}

bool is_plain_type(PyTypeObject* type) {
  const Py_ssize_t count = PyTuple_Size(plain_types);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (PyTuple_GetItem(plain_types, i) == reinterpret_cast<PyObject*>(type)) return true;
  }
  return false;
}

}  // namespace

void set_gate(PyObject* types, PyObject* flags, PyObject* autocast, PyObject* grad_enabled,
              PyObject* is_negated) {
  for (PyObject* object : {types, flags, autocast, grad_enabled, is_negated}) Py_INCREF(object);
  plain_types = types;  // set once, at import
  acting_flags = flags;
  autocast_flag = autocast;
  grad_enabled_flag = grad_enabled;
  is_negated_test = is_negated;
  requires_grad_name = PyUnicode_InternFromString("requires_grad");
}

bool is_plain_call(PyObject* const* tensors, int count, Autocast autocast) {
  if (plain_types == nullptr) return false;
  const Py_ssize_t flags = PyTuple_Size(acting_flags);
  for (Py_ssize_t i = 0; i < flags; ++i) {
    if (is_true(PyObject_CallNoArgs(PyTuple_GetItem(acting_flags, i)))) return false;
  }
  if (autocast == Autocast::kActs && is_true(PyObject_CallNoArgs(autocast_flag))) return false;
  const bool grad_enabled = is_true(PyObject_CallNoArgs(grad_enabled_flag));
  for (int i = 0; i < count; ++i) {
    PyObject* tensor = tensors[i];
    if (tensor == nullptr || tensor == Py_None) continue;
    if (!is_plain_type(Py_TYPE(tensor))) return false;
    if (grad_enabled && is_true(PyObject_GetAttr(tensor, requires_grad_name))) return false;
    if (is_true(PyObject_CallFunctionObjArgs(is_negated_test, tensor, nullptr))) return false;
  }
  return true;
}

PyTypeObject* plain_type() {
  if (plain_types == nullptr) return nullptr;
  return reinterpret_cast<PyTypeObject*>(PyTuple_GetItem(plain_types, 0));
}

}  // namespace bsk::python
