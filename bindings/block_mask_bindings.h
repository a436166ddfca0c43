// The builders of block masks that are GPU kernels, for Python's constructors of `BlockMask`.
#pragma once

#include <Python.h>

namespace bsk::python {

bool add_block_mask_functions(PyObject* module);

}  // namespace bsk::python
