// Input: a GGUF file, optionally the bytes FF 00 FF and a text. If its metadata hold a tokenizer, the text is
// encoded and decoded, and described.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/check.h"
#include "formats/gguf_tokenizer.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  using namespace std::string_view_literals;
  constexpr std::string_view kMark = "\xFF\0\xFF"sv;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t mark = input.find(kMark);
  const std::string_view file = input.substr(0, mark);
  const auto gguf = GgufFile::Parse(std::as_bytes(std::span(file)), "input");
  if (!gguf.ok()) return 0;
  const auto files = TokenizerFilesOf(**gguf);
  if (!files.ok()) return 0;
  const auto tokenizer = Tokenizer::FromFiles(*files, "input");
  const auto described = DescribeGgufTokenizer(**gguf);
  PLANISH_CHECK(tokenizer.ok() || !described.ok());
  if (!tokenizer.ok()) return 0;
  std::string text;
  AppendReplacingInvalid((mark == input.npos ? "a b<s>"sv : input.substr(mark + kMark.size())).substr(0, 512),
                         false, &text);
  const auto ids = (*tokenizer)->Encode(text, true);
  if (!ids.ok()) return 0;
  for (const int32_t id : *ids) PLANISH_CHECK(id >= 0 && id < (*tokenizer)->vocab_size()) << id;
  PLANISH_CHECK(!FindInvalidUtf8((*tokenizer)->Decode(*ids)));
  return 0;
}
