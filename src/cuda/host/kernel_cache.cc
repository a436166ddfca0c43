#include "src/cuda/host/kernel_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "src/cuda/host/engine.h"

namespace bsk::cuda {
namespace {

namespace fs = std::filesystem;

constexpr char kSuffix[] = ".bskcubin";
constexpr char kTemporaryPrefix[] = ".writing-";
// No writer takes this long: what is older was left by a process that was killed.
constexpr auto kAbandonedAfter = std::chrono::minutes(10);
constexpr int64_t kLargestFileBytes = int64_t{256} << 20;

// Numbers are little-endian, as on every machine that CUDA runs on.
struct FileHeader {
  char magic[8];
  uint64_t description_bytes;
  uint64_t cubin_bytes;
  uint64_t checksum;  // of everything after the header
};
constexpr char kMagic[9] = "BSKCUB01";

std::string errno_text(int error) { return std::generic_category().message(error); }

bool read_all(int fd, char* to, size_t size) {
  while (size > 0) {
    const ssize_t count = ::read(fd, to, size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    to += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

bool write_all(int fd, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    done += static_cast<size_t>(count);
  }
  return true;
}

bool is_kernel_file(const std::string& name) {
  constexpr size_t kLength = sizeof(kSuffix) - 1;
  return name.size() > kLength && name[0] != '.' &&
         name.compare(name.size() - kLength, kLength, kSuffix) == 0;
}

bool is_abandoned(const fs::directory_entry& entry) {
  std::error_code error;
  if (entry.path().filename().string().rfind(kTemporaryPrefix, 0) != 0) return false;
  const auto written = entry.last_write_time(error);
  return !error && fs::file_time_type::clock::now() - written > kAbandonedAfter;
}

struct KernelFile {
  fs::path path;
  fs::file_time_type used;
  int64_t bytes;
};

// Files that other processes remove meanwhile are left out.
std::vector<KernelFile> kernel_files(const std::string& dir,
                                     std::vector<fs::path>* abandoned = nullptr) {
  std::vector<KernelFile> files;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    if (abandoned != nullptr && is_abandoned(*it)) abandoned->push_back(it->path());
    if (!is_kernel_file(it->path().filename().string())) continue;
    std::error_code gone;
    const auto used = it->last_write_time(gone);
    if (gone) continue;
    const auto bytes = it->file_size(gone);
    if (!gone) files.push_back({it->path(), used, static_cast<int64_t>(bytes)});
  }
  return files;
}

// Machine code is run as it is read: a folder that anybody may write to is not a place to read it
// from.
bool is_trusted(const std::string& dir) {
  struct stat info{};
  if (::stat(dir.c_str(), &info) != 0) return true;  // not there yet
  if ((info.st_mode & S_IWOTH) == 0) return true;
  add_engine_notice(
      "The kernel cache " + dir +
      " is not used: every user of this machine may write to it. Run `chmod o-w` on it, or set "
      "BSK_BUILD_DIR to a folder of your own.");
  return false;
}

std::string file_bytes(const std::string& description, const std::string& cubin) {
  FileHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(header.magic));
  header.description_bytes = description.size();
  header.cubin_bytes = cubin.size();
  header.checksum = fnv1a(cubin, fnv1a(description));
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  return bytes + description + cubin;
}

// The cubin in `bytes`, or "" with the reason in `why`.
std::string cubin_of(const std::string& bytes, const std::string& description, std::string& why) {
  FileHeader header{};
  why = "is damaged or not a kernel of this library";
  if (bytes.size() < sizeof(header)) return "";
  std::memcpy(&header, bytes.data(), sizeof(header));
  const uint64_t rest = bytes.size() - sizeof(header);
  if (std::memcmp(header.magic, kMagic, sizeof(header.magic)) != 0 ||
      header.description_bytes > rest || header.cubin_bytes != rest - header.description_bytes ||
      header.cubin_bytes == 0) {
    return "";
  }
  const std::string stored = bytes.substr(sizeof(header), header.description_bytes);
  std::string cubin = bytes.substr(sizeof(header) + header.description_bytes);
  if (header.checksum != fnv1a(cubin, fnv1a(stored))) return "";
  if (stored != description) {
    why = "holds another kernel";
    return "";
  }
  return cubin;
}

}  // namespace

uint64_t fnv1a(const std::string& bytes, uint64_t seed) {
  uint64_t hash = seed;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string KernelCache::path(const std::string& name, const std::string& description) const {
  char hash[17];
  std::snprintf(hash, sizeof(hash), "%016llx", static_cast<unsigned long long>(fnv1a(description)));
  return dir_ + "/" + name + "-" + hash + kSuffix;
}

std::string KernelCache::read(const std::string& name, const std::string& description) const {
  if (dir_.empty()) return "";
  const std::string file = path(name, description);
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno != ENOENT && errno != ENOTDIR) {
      add_engine_notice(file + " cannot be read (" + errno_text(errno) +
                        "); the kernel is compiled anew.");
    }
    return "";
  }
  struct stat info{};
  std::string bytes;
  bool complete =
      ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= kLargestFileBytes;
  if (complete) {
    bytes.resize(static_cast<size_t>(info.st_size));
    complete = read_all(fd, bytes.data(), bytes.size());
  }
  std::string why = "cannot be read whole";
  const std::string cubin = complete && is_trusted(dir_) ? cubin_of(bytes, description, why) : "";
  // The age that eviction goes by. Where it may not be set (a read-only folder) nothing is evicted
  // either.
  if (!cubin.empty() && limit_bytes_ >= 0) static_cast<void>(::futimens(fd, nullptr));
  ::close(fd);
  if (cubin.empty() && is_trusted(dir_))
    add_engine_notice(file + " " + why + "; the kernel is compiled anew.");
  return cubin;
}

bool KernelCache::write(const std::string& name, const std::string& description,
                        const std::string& cubin) const {
  if (dir_.empty() || limit_bytes_ < 0) return false;
  const auto failed = [&](const std::string& reason) {
    add_engine_notice("The kernel cache " + dir_ + " cannot be written (" + reason +
                      "): each process compiles its kernels again. Make room there, or set "
                      "BSK_BUILD_DIR to another "
                      "folder.");
    return false;
  };
  std::error_code error;
  fs::create_directories(dir_, error);
  if (error) return failed(error.message());
  if (!is_trusted(dir_)) return false;

  std::string temporary = dir_ + "/" + kTemporaryPrefix + "XXXXXX";
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return failed(errno_text(errno));
  // Readable by other users too: an image's kernels are often compiled by root and run by somebody
  // else.
  bool stored =
      ::fchmod(fd, 0644) == 0 && write_all(fd, file_bytes(description, cubin)) && ::fsync(fd) == 0;
  int reason = stored ? 0 : errno;
  // Network file systems report a failed write only here.
  if (::close(fd) != 0 && stored) {
    stored = false;
    reason = errno;
  }
  const std::string file = path(name, description);
  if (stored && ::rename(temporary.c_str(), file.c_str()) != 0) {
    stored = false;
    reason = errno;
  }
  if (!stored) {
    ::unlink(temporary.c_str());
    return failed(errno_text(reason));
  }
  evict(file);
  return true;
}

void KernelCache::evict(const std::string& keep) const {
  std::vector<fs::path> abandoned;
  std::vector<KernelFile> files = kernel_files(dir_, &abandoned);
  std::error_code ignored;  // another process may have removed the file first
  for (const fs::path& path : abandoned) fs::remove(path, ignored);
  int64_t total = 0;
  for (const KernelFile& file : files) total += file.bytes;
  std::sort(files.begin(), files.end(),
            [](const KernelFile& a, const KernelFile& b) { return a.used < b.used; });
  for (const KernelFile& file : files) {
    if (total <= limit_bytes_) break;
    if (file.path == keep) continue;
    fs::remove(file.path, ignored);
    total -= file.bytes;
  }
}

KernelCacheStats KernelCache::stats() const {
  KernelCacheStats stats{dir_, 0, 0, limit_bytes_};
  for (const KernelFile& file : kernel_files(dir_)) {
    ++stats.files;
    stats.bytes += file.bytes;
  }
  return stats;
}

int64_t KernelCache::clear() const {
  std::vector<fs::path> abandoned;
  int64_t removed = 0;
  std::error_code ignored;
  for (const KernelFile& file : kernel_files(dir_, &abandoned))
    removed += fs::remove(file.path, ignored) ? 1 : 0;
  for (const fs::path& path : abandoned) fs::remove(path, ignored);
  return removed;
}

}  // namespace bsk::cuda
