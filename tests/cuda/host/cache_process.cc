// One of many processes that share a kernel cache:
//   cache_process hammer DIR ROUNDS SEED    writes and reads; exits 1 if a read gave anything but
//   what was written cache_process full DIR                  writes where no file may grow past 4
//   KiB; exits 0 if that was told once
#include <signal.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "src/cuda/host/engine.h"
#include "src/cuda/host/kernel_cache.h"
#include "tests/cuda/host/cache_content.h"

namespace {

using bsk::cuda::KernelCache;

int hammer(const std::string& dir, int rounds, unsigned seed) {
  const KernelCache cache(dir, int64_t{1} << 30);
  for (int i = 0; i < rounds; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const int number = static_cast<int>(seed >> 16) % bsk::cuda::testing::kContents;
    const auto content = bsk::cuda::testing::content(number);
    const std::string read = cache.read(content.name, content.description);
    if (!read.empty() && read != content.cubin) {
      std::fprintf(stderr, "read %zu bytes that were not written for %s\n", read.size(),
                   content.name.c_str());
      return 1;
    }
    if (!cache.write(content.name, content.description, content.cubin)) {
      std::fprintf(stderr, "could not write\n");
      return 1;
    }
  }
  for (const std::string& notice : bsk::cuda::take_engine_notices()) {
    std::fprintf(stderr, "%s\n", notice.c_str());
    return 1;
  }
  return 0;
}

int full(const std::string& dir) {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {4096, 4096};
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
  const KernelCache cache(dir, int64_t{1} << 30);
  for (int i = 0; i < 3; ++i) {
    if (cache.write("large", "description", std::string(100000, 'x'))) return 3;
  }
  if (!cache.write("small", "description", "fits")) return 4;
  if (cache.read("small", "description") != "fits") return 5;
  const auto notices = bsk::cuda::take_engine_notices();
  if (notices.size() != 1) return 6;
  std::fprintf(stderr, "%s\n", notices[0].c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && std::strcmp(argv[1], "hammer") == 0) {
    return hammer(argv[2], std::atoi(argv[3]), static_cast<unsigned>(std::atoi(argv[4])));
  }
  if (argc == 3 && std::strcmp(argv[1], "full") == 0) return full(argv[2]);
  return 64;
}
