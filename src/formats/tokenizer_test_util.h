// What the tests of tokenizers share.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_unicode.h"

namespace planish {

// A file of JSON; null, and a failure of the test, when there is none.
inline Json ReadJson(const std::string& path) {
  const auto text = ReadTextFile(path);
  EXPECT_TRUE(text.ok()) << text.error().message;
  if (!text.ok()) return {};
  auto json = ParseJson(*text);
  EXPECT_TRUE(json.ok()) << json.error().message;
  return json.ok() ? *json : Json();
}

// The text of ids that arrive one by one; every piece of it must be valid UTF-8.
inline std::string Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder stream(tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream.Push(id);
    EXPECT_FALSE(FindInvalidUtf8(part).has_value());
    text += part;
  }
  return text + stream.Flush();
}

}  // namespace planish
