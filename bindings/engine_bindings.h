// The CUDA engine as Python sees it: where its files are, what state it is in, its kernels, its
// cache.
#pragma once

#include <Python.h>

namespace bsk::python {

// Adds the engine's functions to the module; false with a Python exception set where that fails.
bool add_engine_functions(PyObject* module);

// Turns what the engine has to say (a damaged cache file, a full disk) into Python warnings; false
// with an exception set where the user made warnings errors. One atomic load where there is nothing
// to say.
bool warn_of_engine_notices();

}  // namespace bsk::python
