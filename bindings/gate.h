// The gate in front of the native entry, which goes around torch's dispatcher: it lets through only
// calls on which nothing of the dispatcher acts.
#pragma once

#include <Python.h>

namespace bsk::python {

// types: the exact tensor types whose memory may be read. flags: callables, each truthy (not None)
// while something acts on calls (modes, transforms, autocast, tracing, forward AD). grad_enabled():
// whether gradients are recorded. is_negated(tensor): whether a tensor is a lazily negated view.
void set_gate(PyObject* types, PyObject* flags, PyObject* grad_enabled, PyObject* is_negated);

// True if the native entry may read every tensor's memory as it is (null and None are skipped).
// Never raises.
bool is_plain_call(PyObject* const* tensors, int count);

}  // namespace bsk::python
