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
constexpr const char* kNames[] = {"Q",      "K",       "V",          "scale",      "is_causal", "attn_mask",
                                  "window", "softcap", "block_mask", "return_lse", "out"};
constexpr Py_ssize_t kCount = 11, kPositional = 4, kIsCausal = 4, kMask = 5, kReturnLse = 9, kOut = 10;
constexpr Py_ssize_t kOptions = 7;  // from scale to return_lse

// The path of nearly every call. What it does not handle, and whatever breaks a rule, it leaves to
// the careful path in Python by answering NotImplemented; nothing has been computed then.
template <class IsPlain>
PyObject* compute(PyObject* const (&args)[kCount], IsPlain is_plain) {
  return guarded([&]() -> PyObject* {
    PyObject* const tensors[] = {args[0], args[1], args[2], args[kMask], args[kOut]};
    if (!is_plain(tensors, 5) || settings()->enable_profiling) Py_RETURN_NOTIMPLEMENTED;
    try {
      Call call;
      if (!call.read_eager(args)) Py_RETURN_NOTIMPLEMENTED;
      call.run();
      return call.result();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kRuntime) throw;
      Py_RETURN_NOTIMPLEMENTED;
    } catch (const PythonError&) {
      PyErr_Clear();
      Py_RETURN_NOTIMPLEMENTED;
    }
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

PyObject* attention_forward_prepared_entry(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 5 || !PyTuple_CheckExact(args[3]) || PyTuple_Size(args[3]) != kOptions) {
    PyErr_SetString(PyExc_TypeError, "attention_forward_prepared takes Q, K, V, 7 options, out");
    return nullptr;
  }
  PyObject* all[kCount] = {args[0], args[1], args[2]};
  for (Py_ssize_t i = 0; i < kOptions; ++i) all[3 + i] = PyTuple_GetItem(args[3], i);
  all[kOut] = args[4];
  return compute(all, is_plain_prepared_call);
}

// ---- calls of Python's attention_forward that run no Python code --------------------------------
// CPython 3.12 lets an extension answer the calls of a function (PyFunction_SetVectorcall), which
// stays what it is to everything else: inspect, pickle, torch.compile. The limited API has neither
// the types nor the functions.

using Vectorcall = PyObject* (*)(PyObject* callable, PyObject* const* args, size_t count_and_flag,
                                 PyObject* keyword_names);
constexpr size_t kCountBits = ~(size_t{1} << (8 * sizeof(size_t) - 1));

Vectorcall python_body = nullptr;
PyObject* names[kCount];  // interned, so that equal ones are one object
PyCFunction compiler_callback = nullptr;

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

// Whether torch.compile looks at the frames of this thread, to which a call without one is nothing.
bool is_watched() {
  PyObject* const callback = compiler_callback(nullptr, nullptr);
  Py_XDECREF(callback);
  return callback != Py_None;
}

PyObject* attention_forward_vectorcall(PyObject* function, PyObject* const* args,
                                       size_t count_and_flag, PyObject* keyword_names) {
  PyObject* all[kCount];
  if (!is_watched() && sort_arguments(args, static_cast<Py_ssize_t>(count_and_flag & kCountBits),
                                      keyword_names, all)) {
    PyObject* const result = forward(all);
    if (result != Py_NotImplemented) return result;
    Py_DECREF(result);
  }
  return python_body(function, args, count_and_flag, keyword_names);
}

PyObject* answer_calls_entry(PyObject*, PyObject* args) {
  PyObject *function, *callback;
  if (!PyArg_ParseTuple(args, "OO", &function, &callback)) return nullptr;
  const auto set = reinterpret_cast<void (*)(PyObject*, Vectorcall)>(
      dlsym(RTLD_DEFAULT, "PyFunction_SetVectorcall"));
  const auto get =
      reinterpret_cast<Vectorcall (*)(PyObject*)>(dlsym(RTLD_DEFAULT, "PyVectorcall_Function"));
  if (set == nullptr || get == nullptr || !PyCFunction_Check(callback) ||
      PyCFunction_GetFlags(callback) != METH_NOARGS) {
    Py_RETURN_FALSE;
  }
  for (Py_ssize_t i = 0; i < kCount; ++i) {
    names[i] = PyUnicode_InternFromString(kNames[i]);
    if (names[i] == nullptr) return nullptr;
  }
  Py_INCREF(callback);
  compiler_callback = PyCFunction_GetFunction(callback);
  python_body = get(function);
  set(function, attention_forward_vectorcall);
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
     "answer_calls(attention_forward, compiler_callback) -> bool: from now on calls of the Python "
     "function go to attention_forward_eager first and run its code only where that answers "
     "NotImplemented, or where compiler_callback() is not None. False before CPython 3.12, which "
     "cannot."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool add_eager_functions(PyObject* module) { return PyModule_AddFunctions(module, methods) == 0; }

}  // namespace bsk::python
