// The gate in front of the native entry, which goes around torch's dispatcher: it lets through only
// calls on which nothing of the dispatcher acts.
#pragma once

#include <Python.h>

namespace bsk::python {

// What the gate asks, as Python gives it.
struct GateSources {
  PyObject* types;  // the exact tensor types whose memory may be read; new ones are the first's
  PyObject* flags;  // callables, truthy (not None) while something acts on calls: modes,
                    // transforms, tracing
  PyObject* forward_ad;         // the module whose _current_level is not negative under forward AD
  PyObject* autocast;           // one more flag, for calls whose dtypes it may change
  PyObject* grad_enabled;       // callable: whether gradients are recorded
  PyObject* requires_grad;      // the descriptor of tensors' attribute
  PyObject* is_negated;         // some tensor's bound method is_neg; asked of others
  PyObject* increment_version;  // callable: takes a tuple of tensors that were changed in place
};

// Called once, at import; false with a Python exception set.
bool set_gate(const GateSources& sources);

enum class Autocast { kActs, kIgnored };

// True if the native entry may read every tensor's memory as it is (null and None are skipped).
// Never raises.
bool is_plain_call(PyObject* const* tensors, int count, Autocast autocast);

// The same of a prepared call, which asks about types and gradients only.
bool is_plain_prepared_call(PyObject* const* tensors, int count);

// Lets autograd see that a tensor which it may have saved has changed; false with an exception set.
bool count_change(PyObject* tensor);

// The type of new tensors; null before `set_gate`.
PyTypeObject* plain_type();

// Whether it is one of torch's types whose memory may be read.
bool is_plain_type(PyTypeObject* type);

}  // namespace bsk::python
