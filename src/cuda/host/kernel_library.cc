#include "src/cuda/host/kernel_library.h"

#include <chrono>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>

#include "bsk/error.h"
#include "src/cuda/host/compiler.h"
#include "src/cuda/host/engine.h"
#include "src/cuda/host/kernel_cache.h"

namespace bsk::cuda {
namespace {

std::string source_dir(const EngineSettings& settings) { return settings.kernel_dir + "/source"; }

// What identifies the kernel sources of this build: written beside them when they were packed.
std::string source_digest(const EngineSettings& settings) {
  std::string digest;
  if (!settings.kernel_dir.empty()) {
    std::ifstream file(settings.kernel_dir + "/source.digest");
    std::getline(file, digest);
  }
  return digest;
}

CompileOptions compile_options(const KernelRequest& request, const EngineSettings& settings) {
  CompileOptions options;
  options.architecture = request.architecture;
  // CUTLASS looks for CUDA's C++ library in cccl/ or, for older compilers, beside the other
  // headers.
  options.include_dirs = {source_dir(settings), source_dir(settings) + "/cccl"};
  options.defines = {std::string("BSK_DEBUG_CHECKS=") + (settings.debug_checks ? "1" : "0")};
  options.line_info = settings.line_info;
  return options;
}

// Everything that the machine code depends on. The include folder's place is left out, since its
// contents are in the digest. `compiler` is left out for the cubins of the package: whichever
// compiler made them is right.
std::string description(const KernelRequest& request, const EngineSettings& settings,
                        const std::string& digest, const std::string& compiler) {
  CompileOptions options = compile_options(request, settings);
  options.include_dirs.clear();
  std::string text = "blackwell_sparsek kernel " + request.name + "\nsources " + digest + "\n";
  for (const std::string& argument : options.arguments()) text += argument + "\n";
  if (!compiler.empty()) text += "compiler " + compiler + "\n";
  return text + translation_unit(request);
}

// One place in memory per description, so that threads compile once and every device uses the same
// bytes.
struct Slot {
  std::mutex mutex;  // held while the code is searched for
  std::shared_ptr<const KernelCode> code;
};

std::shared_ptr<Slot> slot_of(const std::string& description) {
  static std::mutex* const mutex = new std::mutex;
  static auto* const slots = new std::map<std::string, std::shared_ptr<Slot>>;
  const std::lock_guard lock(*mutex);
  std::shared_ptr<Slot>& slot = (*slots)[description];
  if (slot == nullptr) slot = std::make_shared<Slot>();
  return slot;
}

KernelCode compiled_code(const KernelRequest& request, const EngineSettings& settings,
                         const std::string& digest) {
  if (digest.empty()) {
    throw Error(ErrorKind::kRuntime,
                "Cannot compile " + request.name + ": this build has no kernel sources (" +
                    (settings.kernel_dir.empty() ? "no kernel folder is set"
                                                 : settings.kernel_dir + " holds none") +
                    "). Build with -C cmake.define.BSK_PACK_KERNELS=ON.");
  }
  CompileResult result =
      compile(translation_unit(request), request.name + ".cu", compile_options(request, settings));
  return {std::move(result.cubin), settings.debug_checks, KernelOrigin::kCompiled, result.seconds,
          std::move(result.log)};
}

KernelCode stored_or_compiled_code(const KernelRequest& request, const EngineSettings& settings,
                                   const std::string& digest) {
  const auto start = std::chrono::steady_clock::now();
  const auto found = [&](std::string cubin, KernelOrigin origin) {
    return KernelCode{
        std::move(cubin), settings.debug_checks, origin,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), ""};
  };
  if (!settings.kernel_dir.empty()) {
    const KernelCache embedded(settings.kernel_dir + "/cubins", -1);
    std::string cubin = embedded.read(request.name, description(request, settings, digest, ""));
    if (!cubin.empty()) return found(std::move(cubin), KernelOrigin::kEmbedded);
  }
  // The compiler's version is part of a cached kernel's description: without a compiler there is no
  // cache.
  const CompilerStatus compiler = compiler_status();
  if (!compiler.available)
    throw Error(ErrorKind::kRuntime, "Cannot compile " + request.name + ". " + compiler.sentence);
  const KernelCache cache(settings.cache_dir, settings.cache_limit_bytes);
  const std::string described = description(request, settings, digest, "NVRTC " + compiler.version);
  std::string cubin = cache.read(request.name, described);
  if (!cubin.empty()) return found(std::move(cubin), KernelOrigin::kDiskCache);
  KernelCode code = compiled_code(request, settings, digest);
  static_cast<void>(cache.write(request.name, described, code.cubin));  // a failure is a notice
  return code;
}

}  // namespace

const char* to_string(KernelOrigin origin) {
  switch (origin) {
    case KernelOrigin::kEmbedded: return "embedded";
    case KernelOrigin::kDiskCache: return "disk cache";
    case KernelOrigin::kCompiled: return "compiled";
  }
  return "unknown";
}

std::string translation_unit(const KernelRequest& request) {
  return "#include \"" + request.source + "\"\nusing KernelConfig = " + request.config +
         ";\nextern \"C\" __global__ void __launch_bounds__(KernelConfig::kThreads, "
         "KernelConfig::kMinBlocks)\n" +
         request.name + "(const __grid_constant__ KernelConfig::Params params) {\n  " +
         request.entry + "<KernelConfig>(params);\n}\n";
}

std::shared_ptr<const KernelCode> kernel_code(const KernelRequest& request) {
  const EngineSettings settings = engine_settings();
  const std::string digest = source_digest(settings);
  const std::shared_ptr<Slot> slot = slot_of(description(request, settings, digest, ""));
  const std::lock_guard lock(slot->mutex);
  if (slot->code == nullptr) {
    slot->code = std::make_shared<KernelCode>(stored_or_compiled_code(request, settings, digest));
  }
  return slot->code;
}

std::shared_ptr<const KernelCode> recompiled_kernel_code(const KernelRequest& request) {
  const EngineSettings settings = engine_settings();
  const std::string digest = source_digest(settings);
  const std::shared_ptr<Slot> slot = slot_of(description(request, settings, digest, ""));
  const std::lock_guard lock(slot->mutex);
  if (slot->code == nullptr || slot->code->origin != KernelOrigin::kCompiled) {
    slot->code = std::make_shared<KernelCode>(compiled_code(request, settings, digest));
  }
  return slot->code;
}

void embed_kernel(const KernelRequest& request, const std::string& dir) {
  const EngineSettings settings = engine_settings();
  const std::string digest = source_digest(settings);
  const KernelCode code = compiled_code(request, settings, digest);
  const KernelCache embedded(dir, std::numeric_limits<int64_t>::max());
  if (!embedded.write(request.name, description(request, settings, digest, ""), code.cubin)) {
    throw Error(ErrorKind::kRuntime, "Cannot write " + request.name + " to " + dir + ".");
  }
}

}  // namespace bsk::cuda
