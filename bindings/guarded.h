// C++ exceptions into Python's.
#pragma once

#include <Python.h>

#include <new>

#include "bindings/python_values.h"
#include "bsk/error.h"

namespace bsk::python {

// ValueError, TypeError, UnsupportedError or RuntimeError (module.cc).
PyObject* exception_type(ErrorKind kind);

template <typename Body>
PyObject* guarded(Body body) {
  try {
    return body();
  } catch (const PythonError&) {
  } catch (const Error& error) {
    PyErr_SetString(exception_type(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// Runs `body` while other Python threads may run.
template <typename Body>
auto without_gil(Body body) {
  struct Released {
    PyThreadState* thread = PyEval_SaveThread();
    ~Released() { PyEval_RestoreThread(thread); }
  } const released;
  return body();
}

}  // namespace bsk::python
