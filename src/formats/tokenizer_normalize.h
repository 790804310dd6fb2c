// Normalizers: they rewrite a piece of text before it is cut into words. A new type is one class
// and one line of the table at the end of tokenizer_normalize.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace planish {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // `text` is valid UTF-8, and so is the result.
  virtual Result<std::string> Apply(std::string text) const = 0;
};

// How large a text of `bytes` may grow, and the error beyond it: replacements could multiply it without
// bound.
size_t ExpansionLimit(size_t bytes);
Error ExpandsBeyond(size_t bytes);

struct NormalizerChain {
  std::vector<std::unique_ptr<const Normalizer>> steps;
  // From the "normalizer" member; null is an empty chain.
  static Result<NormalizerChain> Parse(const Json& json);
  Result<std::string> Apply(std::string text) const;
};

}  // namespace planish
