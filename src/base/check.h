// PLANISH_CHECK(condition) << "values": aborts with file and line when a rule of our own is broken.
// Never reachable from input: a fuzz target that triggers one has found a bug.
#pragma once

#include <sstream>

namespace planish::internal {

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace planish::internal

#define PLANISH_CHECK(condition)                 \
  (condition) ? static_cast<void>(0)             \
              : ::planish::internal::Voidify() & \
                    ::planish::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
