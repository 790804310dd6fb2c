// The reader of importance matrices over arbitrary bytes: no crash, and what it accepts is consistent.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "formats/imatrix.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto parsed = ParseImatrix(std::as_bytes(std::span(data, size)), "input");
  if (!parsed.ok()) {
    PLANISH_CHECK(!parsed.error().message.empty() && parsed.error().message.size() < 2000)
        << parsed.error().message;
    return 0;
  }
  PLANISH_CHECK(!parsed->entries.empty());
  for (const auto& [name, entry] : parsed->entries) {
    PLANISH_CHECK(!entry.sum2.empty() && entry.matrices >= 1);
    PLANISH_CHECK(entry.cols() * entry.matrices == static_cast<int64_t>(entry.sum2.size()));
    const auto importance = parsed->Importance(name, entry.cols(), entry.matrices, entry.matrices - 1);
    PLANISH_CHECK(importance.ok() && static_cast<int64_t>(importance->size()) == entry.cols());
    for (float value : *importance) PLANISH_CHECK(!std::isnan(value) && value >= 0);
  }
  return 0;
}
