// Options: explicit values before the environment before the defaults; a bad value names itself and
// the allowed ones.
#include "src/attention/settings.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "bsk/error.h"

namespace bsk {
namespace {

class SettingsTest : public ::testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override {
    clear();
    set_settings({});
  }

  static void clear() {
    for (const char* name : {"BSK_CUDA_ARCH", "BSK_DEBUG", "BSK_PROFILE", "BSK_BUILD_DIR",
                             "BSK_FALLBACK", "BSK_KERNEL", "OMP_NUM_THREADS"}) {
      unsetenv(name);
    }
  }
};

ResolvedOption find(const std::vector<ResolvedOption>& options, const std::string& name) {
  for (const ResolvedOption& option : options) {
    if (option.name == name) return option;
  }
  ADD_FAILURE() << name;
  return {};
}

std::string error_of(const std::map<std::string, std::string>& values) {
  try {
    resolve_options(values);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kValue);
    return error.what();
  }
  return "";
}

TEST_F(SettingsTest, DefaultsWithoutAnything) {
  for (const ResolvedOption& option : resolve_options({}))
    EXPECT_EQ(option.origin, "default") << option.name;
  EXPECT_EQ(settings()->fallback, "error");
  EXPECT_FALSE(settings()->debug_mode);
}

TEST_F(SettingsTest, EnvironmentWinsOverDefaultsAndConfigOverEnvironment) {
  setenv("BSK_FALLBACK", "sdpa", 1);
  setenv("BSK_DEBUG", "True", 1);
  EXPECT_EQ(find(resolve_options({}), "fallback").origin, "environment");
  EXPECT_EQ(find(resolve_options({}), "debug_mode").value, "1");
  const ResolvedOption option = find(resolve_options({{"fallback", "error"}}), "fallback");
  EXPECT_EQ(option.value, "error");
  EXPECT_EQ(option.origin, "config");
}

TEST_F(SettingsTest, AnEmptyVariableIsAnUnsetOne) {
  setenv("BSK_FALLBACK", "", 1);
  EXPECT_EQ(find(resolve_options({}), "fallback").origin, "default");
}

TEST_F(SettingsTest, TheEnvironmentIsReadAgainWhenSettingsAreSet) {
  settings();
  setenv("BSK_PROFILE", "1", 1);
  EXPECT_FALSE(settings()->enable_profiling);
  set_settings({});
  EXPECT_TRUE(settings()->enable_profiling);
}

TEST_F(SettingsTest, BadValuesNameThemselvesAndTheAllowedOnes) {
  const std::string arch = error_of({{"cuda_arch", "89"}});
  EXPECT_NE(arch.find("cuda_arch"), std::string::npos) << arch;
  EXPECT_NE(arch.find("'89'"), std::string::npos) << arch;
  EXPECT_NE(arch.find("'90a', '100a'"), std::string::npos) << arch;
  EXPECT_NE(error_of({{"speed", "9"}}).find("'speed'"), std::string::npos);
  EXPECT_NE(error_of({{"kernel", "none"}}).find("'cpu_reference'"), std::string::npos);
  setenv("BSK_DEBUG", "maybe", 1);
  EXPECT_EQ(error_of({}).rfind("BSK_DEBUG: ", 0), 0u);
}

TEST_F(SettingsTest, ABadValueLeavesTheSettingsAsTheyWere) {
  set_settings({{"fallback", "sdpa"}});
  EXPECT_THROW(set_settings({{"fallback", "other"}}), Error);
  EXPECT_EQ(settings()->fallback, "sdpa");
}

TEST_F(SettingsTest, ATildeIsTheHomeDirectory) {
  const std::string home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
  EXPECT_EQ(find(resolve_options({{"build_dir", "~/kernels"}}), "build_dir").value,
            home + "/kernels");
}

TEST_F(SettingsTest, ReadsOmpNumThreads) {
  EXPECT_EQ(threads_from_environment(), 0);
  setenv("OMP_NUM_THREADS", "3,2", 1);
  EXPECT_EQ(threads_from_environment(), 3);
  for (const char* bad : {"-1", "0", "many", ""}) {
    setenv("OMP_NUM_THREADS", bad, 1);
    EXPECT_EQ(threads_from_environment(), 0) << bad;
  }
}

}  // namespace
}  // namespace bsk
