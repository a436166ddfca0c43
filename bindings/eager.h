// The short paths of an eager call.
#pragma once

#include <Python.h>

namespace bsk::python {

// Adds the functions to the module `_C`; false with a Python exception set.
bool add_eager_functions(PyObject* module);

}  // namespace bsk::python
