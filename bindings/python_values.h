// Python objects as C++ values, and back.
#pragma once

#include <Python.h>

#include <cstdint>
#include <string>

namespace bsk::python {

// Thrown where a Python exception is already set.
struct PythonError {};

inline int64_t integer(PyObject* object) {
  const long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  return value;
}

inline bool truth(PyObject* object) {
  const int value = PyObject_IsTrue(object);
  if (value < 0) throw PythonError{};
  return value == 1;
}

inline std::string text_of(PyObject* object) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object, &size);
  if (text == nullptr) throw PythonError{};
  return {text, static_cast<size_t>(size)};
}

// A list of what `make(item)` gives (new references).
template <typename Items, typename Make>
PyObject* list_of(const Items& items, Make make) {
  PyObject* list = PyList_New(0);
  if (list == nullptr) throw PythonError{};
  for (const auto& item : items) {
    PyObject* entry = make(item);
    const bool added = entry != nullptr && PyList_Append(list, entry) == 0;
    Py_XDECREF(entry);
    if (!added) {
      Py_DECREF(list);
      throw PythonError{};
    }
  }
  return list;
}

}  // namespace bsk::python
