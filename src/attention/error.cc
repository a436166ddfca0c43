#include "bsk/error.h"

namespace bsk {

void fail(ErrorKind kind, const std::string& argument, const std::string& rule,
          const std::string& got, const std::string& remedy) {
  throw Error(kind, argument + ": " + rule + "; got " + got + ". " + remedy);
}

}  // namespace bsk
