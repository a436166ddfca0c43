// What the processes of the cache tests write: the same for all of them.
#pragma once

#include <string>

namespace bsk::cuda::testing {

constexpr int kContents = 6;

struct Content {
  std::string name, description, cubin;
};

inline Content content(int number) {
  Content result{"kernel" + std::to_string(number),
                 "description of " + std::to_string(number) + "\n", ""};
  unsigned state = static_cast<unsigned>(number) + 1;
  result.cubin.resize(static_cast<size_t>(20000 + 7001 * number));
  for (char& c : result.cubin)
    c = static_cast<char>((state = state * 1664525u + 1013904223u) >> 24);
  return result;
}

}  // namespace bsk::cuda::testing
