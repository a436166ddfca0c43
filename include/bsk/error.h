// Errors of BlackwellSparseK. Every message names the argument, the rule, the value got and the
// remedy.
#pragma once

#include <stdexcept>
#include <string>

namespace bsk {

enum class ErrorKind {
  kValue,        // a shape, stride, number or overlap that breaks a rule (Python: ValueError)
  kType,         // a dtype or a kind of object that breaks a rule (Python: TypeError)
  kUnsupported,  // a correct problem that no kernel here can take (Python: UnsupportedError, a
                 // RuntimeError)
  kRuntime,      // the machine failed: driver, compiler, disk, memory (Python: RuntimeError)
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws an Error that reads "<argument>: <rule>; got <got>. <remedy>".
[[noreturn]] void fail(ErrorKind kind, const std::string& argument, const std::string& rule,
                       const std::string& got, const std::string& remedy);

}  // namespace bsk
