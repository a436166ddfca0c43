#include "bindings/gate.h"

#include <vector>

namespace bsk::python {
namespace {

// A callable without arguments, or a method of tensors without further ones. A builtin's C function
// is called as the interpreter would call it, without the way there: the gate asks about ten of
// them at each call.
class Question {
 public:
  // Keeps the callable; a method is given as that of any tensor.
  void set(PyObject* callable) {
    Py_INCREF(callable);
    callable_ = callable;
    if (PyCFunction_Check(callable) && PyCFunction_GetFlags(callable) == METH_NOARGS) {
      function_ = PyCFunction_GetFunction(callable);
      self_ = PyCFunction_GetSelf(callable);
    }
  }

  // New references.
  PyObject* ask() const {
    return function_ != nullptr ? function_(self_, nullptr) : PyObject_CallNoArgs(callable_);
  }
  PyObject* ask_of(PyObject* tensor) const {
    if (function_ != nullptr) return function_(tensor, nullptr);
    PyObject* const name = PyObject_GetAttrString(callable_, "__name__");
    PyObject* const answer =
        name == nullptr ? nullptr : PyObject_CallMethodObjArgs(tensor, name, nullptr);
    Py_XDECREF(name);
    return answer;
  }

 private:
  PyObject* callable_ = nullptr;
  PyCFunction function_ = nullptr;  // of a builtin without arguments
  PyObject* self_ = nullptr;        // borrowed from it
};

PyObject* plain_types = nullptr;  // owned, as all of these; guarded by the GIL
std::vector<Question>* acting_flags = nullptr;
Question autocast_flag;
Question grad_enabled_flag;
Question is_negated_test;
PyObject* requires_grad_name = nullptr;

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

bool is_plain_type(PyTypeObject* type) {
  const Py_ssize_t count = PyTuple_Size(plain_types);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (PyTuple_GetItem(plain_types, i) == reinterpret_cast<PyObject*>(type)) return true;
  }
  return false;
}

bool is_given(PyObject* tensor) { return tensor != nullptr && tensor != Py_None; }

}  // namespace

void set_gate(PyObject* types, PyObject* flags, PyObject* autocast, PyObject* grad_enabled,
              PyObject* is_negated) {
  Py_INCREF(types);
  plain_types = types;  // set once, at import
  acting_flags = new std::vector<Question>(static_cast<size_t>(PyTuple_Size(flags)));
  for (size_t i = 0; i < acting_flags->size(); ++i) {
    (*acting_flags)[i].set(PyTuple_GetItem(flags, static_cast<Py_ssize_t>(i)));
  }
  autocast_flag.set(autocast);
  grad_enabled_flag.set(grad_enabled);
  is_negated_test.set(is_negated);
  requires_grad_name = PyUnicode_InternFromString("requires_grad");
}

bool is_plain_call(PyObject* const* tensors, int count, Autocast autocast) {
  if (plain_types == nullptr) return false;
  for (const Question& flag : *acting_flags) {
    if (is_true(flag.ask())) return false;
  }
  if (autocast == Autocast::kActs && is_true(autocast_flag.ask())) return false;
  if (!is_plain_prepared_call(tensors, count)) return false;
  for (int i = 0; i < count; ++i) {
    if (is_given(tensors[i]) && is_true(is_negated_test.ask_of(tensors[i]))) return false;
  }
  return true;
}

bool is_plain_prepared_call(PyObject* const* tensors, int count) {
  if (plain_types == nullptr) return false;
  const bool grad_enabled = is_true(grad_enabled_flag.ask());
  for (int i = 0; i < count; ++i) {
    if (!is_given(tensors[i])) continue;
    if (!is_plain_type(Py_TYPE(tensors[i]))) return false;
    if (grad_enabled && is_true(PyObject_GetAttr(tensors[i], requires_grad_name))) return false;
  }
  return true;
}

PyTypeObject* plain_type() {
  if (plain_types == nullptr) return nullptr;
  return reinterpret_cast<PyTypeObject*>(PyTuple_GetItem(plain_types, 0));
}

}  // namespace bsk::python
