#include "bindings/engine_bindings.h"

#include <string>
#include <vector>

#include "bindings/guarded.h"
#include "src/attention/settings.h"
#include "src/cuda/catalog.h"
#include "src/cuda/host/compiler.h"
#include "src/cuda/host/driver.h"
#include "src/cuda/host/engine.h"
#include "src/cuda/host/kernel_cache.h"
#include "src/cuda/host/kernel_library.h"
#include "src/cuda/host/launch.h"

namespace bsk::python {
namespace {

PyObject* set_engine_places_entry(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    const char *kernel_dir, *driver_library;
    PyObject* nvrtc_libraries;
    if (!PyArg_ParseTuple(args, "sOs", &kernel_dir, &nvrtc_libraries, &driver_library))
      throw PythonError{};
    cuda::EnginePlaces places;
    places.kernel_dir = kernel_dir;
    places.driver_library = driver_library;
    const Py_ssize_t count = PySequence_Size(nvrtc_libraries);
    if (count < 0) throw PythonError{};
    for (Py_ssize_t i = 0; i < count; ++i) {
      PyObject* item = PySequence_GetItem(nvrtc_libraries, i);
      if (item == nullptr) throw PythonError{};
      const char* text = PyUnicode_AsUTF8AndSize(item, nullptr);
      if (text != nullptr) places.nvrtc_libraries.emplace_back(text);
      Py_DECREF(item);
      if (text == nullptr) throw PythonError{};
    }
    cuda::set_engine_places(places);
    Py_RETURN_NONE;
  });
}

PyObject* engine_status_entry(PyObject*, PyObject*) {
  return guarded([&]() -> PyObject* {
    cuda::DriverStatus driver;
    cuda::CompilerStatus compiler;
    without_gil([&] {
      driver = cuda::driver_status();
      compiler = cuda::compiler_status();
    });
    return Py_BuildValue("{s:(Osii),s:(Osss)}", "driver", driver.available ? Py_True : Py_False,
                         driver.sentence.c_str(), driver.version, driver.devices, "compiler",
                         compiler.available ? Py_True : Py_False, compiler.sentence.c_str(),
                         compiler.version.c_str(), compiler.path.c_str());
  });
}

PyObject* documented_kernels_entry(PyObject*, PyObject*) {
  return guarded([&] {
    return list_of(cuda::documented_requests(), [](const cuda::KernelRequest& request) {
      return Py_BuildValue("(sssss)", request.name.c_str(), request.source.c_str(),
                           request.entry.c_str(), request.config.c_str(),
                           request.architecture.c_str());
    });
  });
}

PyObject* compile_kernel_entry(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject* fields[5];
    if (!PyArg_ParseTuple(args, "UUUUU", &fields[0], &fields[1], &fields[2], &fields[3],
                          &fields[4])) {
      throw PythonError{};
    }
    const cuda::KernelRequest request{text_of(fields[0]), text_of(fields[1]), text_of(fields[2]),
                                      text_of(fields[3]), text_of(fields[4])};
    const auto code = without_gil([&] { return cuda::kernel_code(request); });
    if (!warn_of_engine_notices()) throw PythonError{};
    return Py_BuildValue("(sdns)", to_string(code->origin), code->seconds,
                         static_cast<Py_ssize_t>(code->cubin.size()), code->log.c_str());
  });
}

cuda::KernelCache cache_in_force() {
  const cuda::EngineSettings settings = cuda::engine_settings();
  return {settings.cache_dir, settings.cache_limit_bytes};
}

PyObject* kernel_cache_stats_entry(PyObject*, PyObject*) {
  return guarded([&] {
    const cuda::KernelCacheStats stats = without_gil([] { return cache_in_force().stats(); });
    return Py_BuildValue("(sLLL)", stats.dir.c_str(), static_cast<long long>(stats.files),
                         static_cast<long long>(stats.bytes),
                         static_cast<long long>(stats.limit_bytes));
  });
}

PyObject* kernel_cache_clear_entry(PyObject*, PyObject*) {
  return guarded([&] {
    const int64_t removed = without_gil([] { return cache_in_force().clear(); });
    return PyLong_FromLongLong(removed);
  });
}

PyObject* set_programmatic_dependent_launch_entry(PyObject*, PyObject* enabled) {
  return guarded([&]() -> PyObject* {
    cuda::set_programmatic_dependent_launch(truth(enabled));
    Py_RETURN_NONE;
  });
}

PyMethodDef methods[] = {
    {"set_engine_places", set_engine_places_entry, METH_VARARGS,
     "set_engine_places(kernel_dir, nvrtc_libraries, driver_library): where the CUDA engine's "
     "files "
     "are; '' = not there, or libcuda.so.1."},
    {"engine_status", engine_status_entry, METH_NOARGS,
     "engine_status() -> {'driver': (available, sentence, cuda_version, devices), 'compiler': "
     "(available, sentence, version, path)}. Opens libcuda and NVRTC."},
    {"documented_kernels", documented_kernels_entry, METH_NOARGS,
     "documented_kernels() -> [(name, source, entry, config, architecture)]"},
    {"compile_kernel", compile_kernel_entry, METH_VARARGS,
     "compile_kernel(name, source, entry, config, architecture) -> (origin, seconds, bytes, log): "
     "finds or compiles a kernel's machine code; needs no GPU."},
    {"kernel_cache_stats", kernel_cache_stats_entry, METH_NOARGS,
     "kernel_cache_stats() -> (folder, files, bytes, limit_bytes)"},
    {"kernel_cache_clear", kernel_cache_clear_entry, METH_NOARGS,
     "kernel_cache_clear() -> files removed"},
    {"set_programmatic_dependent_launch", set_programmatic_dependent_launch_entry, METH_O,
     "set_programmatic_dependent_launch(enabled): a control of the bench; with False no launch of "
     "this process overlaps the kernel before it. True at the start."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool add_engine_functions(PyObject* module) { return PyModule_AddFunctions(module, methods) == 0; }

bool warn_of_engine_notices() {
  if (!cuda::engine_notices_pending()) return true;
  for (const std::string& notice : cuda::take_engine_notices()) {
    if (PyErr_WarnEx(PyExc_RuntimeWarning, notice.c_str(), 1) != 0) return false;
  }
  return true;
}

}  // namespace bsk::python
