// A folder of compiled kernels, one file each, that many processes read and write at once.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace bsk::cuda {

// What a cache holds, for `bsk cache`.
struct KernelCacheStats {
  std::string dir;
  int64_t files = 0;
  int64_t bytes = 0;
  int64_t limit_bytes = 0;
};

// A file is written under a temporary name in the same folder and renamed, so a reader sees all of
// it or nothing of it; it carries its own description and a checksum, so that a damaged or foreign
// one is a miss. No call throws: a cache that does not work costs time, never a result. What went
// wrong is told by add_engine_notice.
//
// The checksum, and the hash in a file's name, is 64-bit FNV-1a (Fowler, Noll, Vo; RFC 9923): it
// guards against accidents, as the standard library has no hash with stable values and none of the
// strong ones is worth a dependency here. It is not what tells two kernels apart: the whole
// description is compared.
class KernelCache {
 public:
  // `limit_bytes` < 0: never written, never evicted from (the cubins of the package).
  KernelCache(std::string dir, int64_t limit_bytes)
      : dir_(std::move(dir)), limit_bytes_(limit_bytes) {}

  // The cubin stored for `description`, or "". A hit makes the file the youngest.
  std::string read(const std::string& name, const std::string& description) const;

  // Stores and then evicts the files that were not used for longest, until the size bound holds.
  // False where it could not be stored.
  bool write(const std::string& name, const std::string& description,
             const std::string& cubin) const;

  KernelCacheStats stats() const;

  // Removes this library's files, those of crashed writers too, and returns how many; other files
  // stay.
  int64_t clear() const;

  std::string path(const std::string& name, const std::string& description) const;

 private:
  void evict(const std::string& keep) const;

  std::string dir_;
  int64_t limit_bytes_;
};

uint64_t fnv1a(const std::string& bytes, uint64_t seed = 0xcbf29ce484222325u);

}  // namespace bsk::cuda
