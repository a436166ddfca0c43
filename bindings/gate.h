// The gate in front of the native entry, which goes around torch's dispatcher: it lets through only
// calls on which nothing of the dispatcher acts.
#pragma once

#include <Python.h>

namespace bsk::python {

// types: the exact tensor types whose memory may be read; new tensors are of the first one. flags:
// callables, each truthy (not None) while something acts on calls (modes, transforms, tracing,
// forward AD); autocast: one more, for calls whose dtypes it may change. grad_enabled(): whether
// gradients are recorded. is_negated: some tensor's bound method
// is_neg; asked of others, whether they are lazily negated views.
void set_gate(PyObject* types, PyObject* flags, PyObject* autocast, PyObject* grad_enabled,
              PyObject* is_negated);

enum class Autocast { kActs, kIgnored };

// True if the native entry may read every tensor's memory as it is (null and None are skipped).
// Never raises.
bool is_plain_call(PyObject* const* tensors, int count, Autocast autocast);

// The same of a prepared call, which asks about types and gradients only.
bool is_plain_prepared_call(PyObject* const* tensors, int count);

// The type of new tensors; null before `set_gate`.
PyTypeObject* plain_type();

}  // namespace bsk::python
