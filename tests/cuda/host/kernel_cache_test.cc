#include "src/cuda/host/kernel_cache.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include <thread>

#include "tests/cuda/host/cache_content.h"
#include "tests/cuda/host/engine_test.h"

namespace bsk::cuda {
namespace {

namespace fs = std::filesystem;
using testing::content;
using testing::read_file;
using testing::TemporaryDir;
using testing::write_file;

constexpr int64_t kNoLimit = int64_t{1} << 40;

class KernelCacheTest : public ::testing::Test {
 protected:
  void SetUp() override { static_cast<void>(take_engine_notices()); }
  void TearDown() override { static_cast<void>(take_engine_notices()); }

  static std::vector<std::string> files(const std::string& dir) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename());
    return names;
  }

  TemporaryDir dir_;
  KernelCache cache_{dir_.path() + "/below/the/folder", kNoLimit};
};

TEST_F(KernelCacheTest, gives_back_what_was_stored_for_the_same_description_only) {
  EXPECT_EQ(cache_.read("k", "one"), "");
  ASSERT_TRUE(cache_.write("k", "one", std::string("\0code\n", 6)));
  EXPECT_EQ(cache_.read("k", "one"), std::string("\0code\n", 6));
  EXPECT_EQ(cache_.read("k", "two"), "");
  EXPECT_EQ(cache_.read("other", "one"), "");
  EXPECT_TRUE(take_engine_notices().empty());
  ASSERT_TRUE(cache_.write("k", "one", "newer"));
  EXPECT_EQ(cache_.read("k", "one"), "newer");
  EXPECT_EQ(files(dir_.path() + "/below/the/folder").size(), 1u);  // nothing temporary is left
}

TEST_F(KernelCacheTest, a_file_cut_at_any_length_is_a_miss_that_is_told) {
  ASSERT_TRUE(cache_.write("k", "description", "machine code"));
  const std::string path = cache_.path("k", "description");
  const std::string whole = read_file(path);
  for (size_t length = 0; length < whole.size(); ++length) {
    write_file(path, whole.substr(0, length));
    EXPECT_EQ(cache_.read("k", "description"), "") << length;
  }
  const std::vector<std::string> notices = take_engine_notices();
  ASSERT_EQ(notices.size(), 1u);  // once, not once per attempt
  EXPECT_NE(notices[0].find(path), std::string::npos);
  EXPECT_NE(notices[0].find("damaged"), std::string::npos);
  ASSERT_TRUE(cache_.write("k", "description", "machine code"));
  EXPECT_EQ(cache_.read("k", "description"), "machine code");
}

TEST_F(KernelCacheTest, any_changed_byte_is_a_miss) {
  ASSERT_TRUE(cache_.write("k", "description", "machine code"));
  const std::string path = cache_.path("k", "description");
  const std::string whole = read_file(path);
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int flip : {1, 0x80, 0xff}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      write_file(path, changed);
      EXPECT_EQ(cache_.read("k", "description"), "") << i;
    }
  }
  write_file(path, whole + "x");
  EXPECT_EQ(cache_.read("k", "description"), "");
}

TEST_F(KernelCacheTest, foreign_files_are_misses) {
  ASSERT_TRUE(cache_.write("k", "description", "code"));
  const std::string path = cache_.path("k", "description");
  write_file(path, std::string(100000, 'z'));
  EXPECT_EQ(cache_.read("k", "description"), "");
  // A whole file of another kernel under this one's name.
  ASSERT_TRUE(cache_.write("k", "another", "other code"));
  fs::copy_file(cache_.path("k", "another"), path, fs::copy_options::overwrite_existing);
  EXPECT_EQ(cache_.read("k", "description"), "");
  fs::remove(path);
  fs::create_directory(path);
  EXPECT_EQ(cache_.read("k", "description"), "");
  EXPECT_FALSE(take_engine_notices().empty());
}

TEST_F(KernelCacheTest, a_place_that_is_no_folder_is_told_once_and_never_thrown) {
  write_file(dir_.path() + "/file", "");
  const KernelCache cache(dir_.path() + "/file/cache", kNoLimit);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(cache.read("k", "d"), "");
    EXPECT_FALSE(cache.write("k", "d", "code"));
  }
  const std::vector<std::string> notices = take_engine_notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("cannot be written"), std::string::npos);
  EXPECT_NE(notices[0].find("BSK_BUILD_DIR"), std::string::npos);
  EXPECT_EQ(cache.stats().files, 0);
  EXPECT_EQ(cache.clear(), 0);
}

TEST_F(KernelCacheTest, a_read_only_folder_is_read) {
  ASSERT_TRUE(cache_.write("k", "d", "code"));
  const std::string folder = dir_.path() + "/below/the/folder";
  fs::permissions(folder, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(cache_.read("k", "d"), "code");
  // Root may write all the same; who is not root is told so.
  EXPECT_EQ(cache_.write("k2", "d", "code"), geteuid() == 0);
  fs::permissions(folder, fs::perms::owner_all);
}

TEST_F(KernelCacheTest, a_folder_that_all_may_write_to_is_not_used) {
  ASSERT_TRUE(cache_.write("k", "d", "code"));
  fs::permissions(dir_.path() + "/below/the/folder", fs::perms::all);
  EXPECT_EQ(cache_.read("k", "d"), "");
  EXPECT_FALSE(cache_.write("k2", "d", "code"));
  const std::vector<std::string> notices = take_engine_notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("chmod o-w"), std::string::npos);
}

TEST_F(KernelCacheTest, a_full_disk_is_told_once) {
  const pid_t child = fork();
  if (child == 0) {
    execl(CACHE_PROCESS, CACHE_PROCESS, "full", dir_.path().c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(files(dir_.path()).size(), 1u);  // the small file; no half-written one
}

TEST_F(KernelCacheTest, the_least_recently_used_files_go_first) {
  const int64_t file_bytes = [&] {
    EXPECT_TRUE(cache_.write("probe", "d", std::string(1000, 'c')));
    return static_cast<int64_t>(fs::file_size(cache_.path("probe", "d")));
  }();
  const KernelCache cache(dir_.path() + "/small", 3 * file_bytes);
  const auto age = [&](const std::string& name, int minutes) {
    fs::last_write_time(cache.path(name, "d"),
                        fs::file_time_type::clock::now() - std::chrono::minutes(minutes));
  };
  for (const char* name : {"aaaaa", "bbbbb", "ccccc"})
    ASSERT_TRUE(cache.write(name, "d", std::string(1000, 'c')));
  age("aaaaa", 30);
  age("bbbbb", 20);
  age("ccccc", 10);
  EXPECT_NE(cache.read("aaaaa", "d"), "");  // now the youngest
  ASSERT_TRUE(cache.write("ddddd", "d", std::string(1000, 'c')));
  EXPECT_EQ(cache.read("bbbbb", "d"), "");
  EXPECT_NE(cache.read("aaaaa", "d"), "");
  EXPECT_NE(cache.read("ccccc", "d"), "");
  EXPECT_EQ(cache.stats().files, 3);
  EXPECT_LE(cache.stats().bytes, cache.stats().limit_bytes);
  // What is larger than the bound is stored all the same, until the next one comes.
  ASSERT_TRUE(cache.write("eeeee", "d", std::string(100000, 'c')));
  EXPECT_EQ(cache.stats().files, 1);
}

TEST_F(KernelCacheTest, what_killed_writers_left_is_cleared_away_and_other_files_stay) {
  ASSERT_TRUE(cache_.write("k", "d", "code"));
  const fs::path folder = dir_.path() + "/below/the/folder";
  write_file(folder / ".writing-old", "half");
  write_file(folder / ".writing-new", "half");
  write_file(folder / "notes.txt", "not ours");
  fs::last_write_time(folder / ".writing-old",
                      fs::file_time_type::clock::now() - std::chrono::hours(2));
  ASSERT_TRUE(cache_.write("k2", "d", "code"));
  EXPECT_FALSE(fs::exists(folder / ".writing-old"));
  EXPECT_TRUE(fs::exists(folder / ".writing-new"));  // its writer may be alive
  EXPECT_EQ(cache_.stats().files, 2);
  EXPECT_EQ(cache_.clear(), 2);
  EXPECT_EQ(cache_.stats().files, 0);
  EXPECT_TRUE(fs::exists(folder / "notes.txt"));
}

TEST_F(KernelCacheTest, the_packages_folder_is_only_read) {
  ASSERT_TRUE(cache_.write("k", "d", "code"));
  const KernelCache package(dir_.path() + "/below/the/folder", -1);
  EXPECT_EQ(package.read("k", "d"), "code");
  EXPECT_FALSE(package.write("k2", "d", "code"));
  EXPECT_EQ(cache_.stats().files, 1);
}

pid_t start_hammer(const std::string& dir, int rounds, int seed) {
  const pid_t child = fork();
  if (child == 0) {
    const std::string rounds_text = std::to_string(rounds);
    const std::string seed_text = std::to_string(seed);
    execl(CACHE_PROCESS, CACHE_PROCESS, "hammer", dir.c_str(), rounds_text.c_str(),
          seed_text.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  return child;
}

TEST_F(KernelCacheTest, sixteen_processes_share_a_folder) {
  std::vector<pid_t> children;
  for (int i = 0; i < 16; ++i) children.push_back(start_hammer(dir_.path(), 60, i));
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_EQ(files(dir_.path()).size(), static_cast<size_t>(testing::kContents));
}

TEST_F(KernelCacheTest, kill_9_in_mid_write_leaves_whole_files_only) {
  for (int round = 0; round < 30; ++round) {
    const pid_t child = start_hammer(dir_.path(), 1 << 30, round);
    std::this_thread::sleep_for(std::chrono::milliseconds(15 + 7 * (round % 10)));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the process ended by itself: " << status;
  }
  const KernelCache cache(dir_.path(), kNoLimit);
  int found = 0;
  for (int i = 0; i < testing::kContents; ++i) {
    const auto expected = content(i);
    const std::string read = cache.read(expected.name, expected.description);
    if (read.empty()) continue;
    EXPECT_EQ(read, expected.cubin);
    ++found;
  }
  EXPECT_GT(found, 0);
  EXPECT_TRUE(take_engine_notices().empty());
}

TEST(Fnv1a, gives_the_published_values) {
  // RFC 9923, test vectors of 64-bit FNV-1a.
  EXPECT_EQ(fnv1a(""), 0xcbf29ce484222325u);
  EXPECT_EQ(fnv1a("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(fnv1a("foobar"), 0x85944171f73967e8u);
}

}  // namespace
}  // namespace bsk::cuda
