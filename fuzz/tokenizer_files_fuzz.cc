// The files beside which a tokenizer has no tokenizer.json. Input: texts divided by the bytes FF 00 FF. The
// first and second are vocab.json and merges.txt; the third is the tokenizer_config.json beside them and
// beside a tokenizer.model of three pieces, the fourth added_tokens.json beside the latter. No crash; what
// loads encodes and decodes.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_files.h"
#include "formats/tokenizer_unicode.h"

namespace {

using namespace planish;

void Use(const TokenizerFiles& files) {
  const auto tokenizer = Tokenizer::FromFiles(files, "input");
  if (!tokenizer.ok()) {
    PLANISH_CHECK(tokenizer.error().code == Code::kInput && tokenizer.error().message.size() < 4000)
        << tokenizer.error().message;
    return;
  }
  const auto ids = (*tokenizer)->Encode("a b<|endoftext|>", true);
  if (!ids.ok()) return;
  for (const int32_t id : *ids) PLANISH_CHECK(id >= 0 && id < (*tokenizer)->vocab_size()) << id;
  PLANISH_CHECK(!FindInvalidUtf8((*tokenizer)->Decode(*ids)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace std::string_view_literals;
  constexpr std::string_view kMark = "\xFF\0\xFF"sv;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::string texts[4];
  for (std::string& text : texts) {
    const size_t mark = rest.find(kMark);
    text = rest.substr(0, mark);
    rest = mark == rest.npos ? std::string_view() : rest.substr(mark + kMark.size());
  }
  if (auto json = Gpt2TokenizerJson(texts[0], texts[1]); json.ok()) {
    Use({.json = std::move(json).value(), .config = texts[2]});
  }
  static const std::string model = SentencePieceModel{
      .kind = SentencePieceModel::Kind::kBpe,
      .pieces = {{"<unk>", 0, PieceType::kUnknown},
                 {"a", -1},
                 {"b", -2}}}.Write();
  Use({.model = model, .config = texts[2], .added_tokens = texts[3]});
  return 0;
}
