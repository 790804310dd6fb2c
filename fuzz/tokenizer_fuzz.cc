// Input: a tokenizer.json, optionally a zero byte and a text. If the file parses, the text (without
// one, the file itself) is encoded and decoded.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view json = input.substr(0, zero);
  const std::string_view text = (zero == input.npos ? input : input.substr(zero + 1)).substr(0, 1024);
  const auto tokenizer = Tokenizer::Parse(json, "fuzz");
  if (!tokenizer.ok()) return 0;
  for (const bool recognize : {true, false}) {
    const auto ids = (*tokenizer)->Encode(text, true, recognize);
    if (!ids.ok()) continue;
    StreamDecoder stream(**tokenizer);
    std::string streamed;
    for (const int32_t id : *ids) {
      PLANISH_CHECK(id >= 0 && id < (*tokenizer)->vocab_size()) << id;
      streamed += stream.Push(id);
    }
    streamed += stream.Flush();
    const std::string decoded = (*tokenizer)->Decode(*ids);
    // Only replacement characters may differ: see StreamDecoder.
    PLANISH_CHECK(decoded == streamed || decoded.find("\xEF\xBF\xBD") != decoded.npos)
        << decoded << " but streamed " << streamed;
    PLANISH_CHECK(!FindInvalidUtf8(decoded) && !FindInvalidUtf8(streamed)) << decoded;
    const auto again = (*tokenizer)->Encode(text, true, recognize);
    PLANISH_CHECK(again.ok() && *again == *ids) << "the cache changed the result";
  }
  constexpr int32_t kOdd[] = {-1, 0, INT32_MAX, INT32_MIN};
  (*tokenizer)->Decode(kOdd, true);
  return 0;
}
