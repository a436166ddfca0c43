#include "bindings/eager.h"

#include <dlfcn.h>

#include <algorithm>

#include "bindings/call.h"
#include "bindings/gate.h"
#include "bindings/guarded.h"
#include "src/attention/settings.h"

namespace bsk::python {
namespace {

// The arguments of Python's attention_forward, in its order.
constexpr const char* kNames[] = {"Q",          "K",          "V",      "scale",
                                  "is_causal",  "attn_mask",  "window", "softcap",
                                  "block_mask", "return_lse", "out"};
constexpr Py_ssize_t kCount = 11, kPositional = 4, kIsCausal = 4, kMask = 5, kReturnLse = 9,
                     kOut = 10;
constexpr Py_ssize_t kOptions = 7;

// The path of nearly every call. What it does not handle, and whatever breaks a rule, it leaves to
// the careful path in Python by answering NotImplemented; nothing has been computed then.
template <class IsPlain>
PyObject* compute(PyObject* const (&args)[kCount], IsPlain is_plain) {
  return guarded([&]() -> PyObject* {
    PyObject* const tensors[] = {args[0], args[1], args[2], args[kMask], args[kOut]};
    const std::shared_ptr<const Settings> options = settings();
    if (!is_plain(tensors, 5) || options->enable_profiling) Py_RETURN_NOTIMPLEMENTED;
    Call call;
    try {
      if (!call.read_eager(args, options->kernel)) Py_RETURN_NOTIMPLEMENTED;
      call.run();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kRuntime) throw;
      Py_RETURN_NOTIMPLEMENTED;
    } catch (const PythonError&) {
      PyErr_Clear();
      Py_RETURN_NOTIMPLEMENTED;
    }
    return call.result();
  });
}

PyObject* forward(PyObject* const (&args)[kCount]) {
  PyObject* const result = compute(args, [](PyObject* const* tensors, int number) {
    return is_plain_call(tensors, number, Autocast::kActs);
  });
  if (result == nullptr || result == Py_NotImplemented || args[kOut] == Py_None) return result;
  if (count_change(args[kOut])) return result;
  Py_DECREF(result);
  return nullptr;
}

PyObject* attention_forward_eager_entry(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != kCount) Py_RETURN_NOTIMPLEMENTED;
  PyObject* all[kCount];
  std::copy_n(args, kCount, all);
  return forward(all);
}

// options: from scale to return_lse.
PyObject* forward_prepared(PyObject* const* tensors, PyObject* options, PyObject* out) {
  if (!PyTuple_CheckExact(options) || PyTuple_Size(options) != kOptions) Py_RETURN_NOTIMPLEMENTED;
  PyObject* all[kCount] = {tensors[0], tensors[1], tensors[2]};
  for (Py_ssize_t i = 0; i < kOptions; ++i) all[3 + i] = PyTuple_GetItem(options, i);
  all[kOut] = out;
  return compute(all, is_plain_prepared_call);
}

PyObject* attention_forward_prepared_entry(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 5) Py_RETURN_NOTIMPLEMENTED;
  return forward_prepared(args, args[3], args[4]);
}

// ---- calls that run no Python code --------------------------------------------------------------
// CPython 3.12 lets an extension answer the calls of a function (PyFunction_SetVectorcall), which
// stays what it is to everything else: inspect, pickle, torch.compile. The limited API has neither
// the type nor the functions.

using Vectorcall = PyObject* (*)(PyObject* function, PyObject* const* args, size_t count_and_flag,
                                 PyObject* keyword_names);

Py_ssize_t count_of(size_t count_and_flag) {
  constexpr size_t kFlag = size_t{1} << (8 * sizeof(size_t) - 1);
  return static_cast<Py_ssize_t>(count_and_flag & ~kFlag);
}

Vectorcall forward_body = nullptr, prepared_body = nullptr;  // what runs the Python code
PyObject* names[kCount];                                     // interned: equal ones are one object
PyObject* options_name = nullptr;
PyCFunction compiler_callback = nullptr;

// Whether torch.compile looks at the frames of this thread. A call without a frame it cannot see.
bool is_watched() {
  PyObject* const callback = compiler_callback(nullptr, nullptr);
  if (callback == nullptr) PyErr_Clear();
  Py_XDECREF(callback);
  return callback != Py_None;
}

// False where Python has to look at the arguments itself.
bool sort_arguments(PyObject* const* args, Py_ssize_t positional, PyObject* keyword_names,
                    PyObject* (&all)[kCount]) {
  if (positional > kPositional) return false;
  std::fill_n(all, kCount, nullptr);
  std::copy_n(args, positional, all);
  const Py_ssize_t keywords = keyword_names == nullptr ? 0 : PyTuple_Size(keyword_names);
  for (Py_ssize_t i = 0; i < keywords; ++i) {
    PyObject** const found = std::find(names, names + kCount, PyTuple_GetItem(keyword_names, i));
    if (found == names + kCount || all[found - names] != nullptr) return false;
    all[found - names] = args[positional + i];
  }
  for (Py_ssize_t i = 0; i < kCount; ++i) {
    if (all[i] != nullptr) continue;
    if (i < 3) return false;
    all[i] = i == kIsCausal || i == kReturnLse ? Py_False : Py_None;
  }
  return true;
}

PyObject* forward_vectorcall(PyObject* function, PyObject* const* args, size_t count_and_flag,
                             PyObject* keyword_names) {
  PyObject* all[kCount];
  if (!is_watched() && sort_arguments(args, count_of(count_and_flag), keyword_names, all)) {
    PyObject* const result = forward(all);
    if (result != Py_NotImplemented) return result;
    Py_DECREF(result);
  }
  return forward_body(function, args, count_and_flag, keyword_names);
}

// PreparedAttention.__call__(self, Q, K, V, *, out=None)
PyObject* prepared_vectorcall(PyObject* function, PyObject* const* args, size_t count_and_flag,
                              PyObject* keyword_names) {
  const Py_ssize_t keywords = keyword_names == nullptr ? 0 : PyTuple_Size(keyword_names);
  if (count_of(count_and_flag) == 4 && !is_watched() &&
      (keywords == 0 || (keywords == 1 && PyTuple_GetItem(keyword_names, 0) == names[kOut]))) {
    PyObject* const options = PyObject_GetAttr(args[0], options_name);
    if (options == nullptr) return nullptr;
    PyObject* const result = forward_prepared(args + 1, options, keywords == 0 ? Py_None : args[4]);
    Py_DECREF(options);
    if (result != Py_NotImplemented) return result;
    Py_DECREF(result);
  }
  return prepared_body(function, args, count_and_flag, keyword_names);
}

PyObject* answer_calls_entry(PyObject*, PyObject* args) {
  PyObject *forward_function, *prepared_function, *callback;
  if (!PyArg_ParseTuple(args, "OOO", &forward_function, &prepared_function, &callback)) {
    return nullptr;
  }
  const auto set = reinterpret_cast<void (*)(PyObject*, Vectorcall)>(
      dlsym(RTLD_DEFAULT, "PyFunction_SetVectorcall"));
  const auto get =
      reinterpret_cast<Vectorcall (*)(PyObject*)>(dlsym(RTLD_DEFAULT, "PyVectorcall_Function"));
  if (set == nullptr || get == nullptr || !PyCFunction_Check(callback) ||
      PyCFunction_GetFlags(callback) != METH_NOARGS) {
    Py_RETURN_FALSE;
  }
  options_name = PyUnicode_InternFromString("_options");
  for (Py_ssize_t i = 0; i < kCount; ++i) names[i] = PyUnicode_InternFromString(kNames[i]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  Py_INCREF(callback);
  compiler_callback = PyCFunction_GetFunction(callback);
  const auto answer = [&](PyObject* function, Vectorcall ours, Vectorcall& body) {
    if (get(function) == ours) return;
    body = get(function);
    set(function, ours);
  };
  answer(forward_function, forward_vectorcall, forward_body);
  answer(prepared_function, prepared_vectorcall, prepared_body);
  Py_RETURN_TRUE;
}

PyMethodDef methods[] = {
    {"attention_forward_eager",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(attention_forward_eager_entry)),
     METH_FASTCALL,
     "attention_forward_eager(Q, K, V, scale, is_causal, attn_mask, window, softcap, block_mask, "
     "return_lse, out): the result, or NotImplemented where the careful path has to decide."},
    {"attention_forward_prepared",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(attention_forward_prepared_entry)),
     METH_FASTCALL,
     "attention_forward_prepared(Q, K, V, (scale, ..., return_lse), out): as "
     "attention_forward_eager, but asks about the tensors' types and gradients only, and does not "
     "tell autograd of a changed out."},
    {"answer_calls", answer_calls_entry, METH_VARARGS,
     "answer_calls(attention_forward, PreparedAttention.__call__, compiler_callback) -> bool: from "
     "now on calls of these two go to the native entries first and run Python code only where "
     "those answer NotImplemented, or where compiler_callback() is not None. False, and nothing "
     "changed, before CPython 3.12."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool add_eager_functions(PyObject* module) { return PyModule_AddFunctions(module, methods) == 0; }

}  // namespace bsk::python
