// Input: a tokenizer.model, optionally the bytes FF 00 FF and a text. A model that parses is written and read
// again, and the text (without one, the file itself) is encoded and decoded.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "formats/sentencepiece.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  using namespace std::string_view_literals;
  constexpr std::string_view kMark = "\xFF\0\xFF"sv;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t mark = input.find(kMark);
  const auto model = SentencePieceModel::Parse(input.substr(0, mark));
  if (!model.ok()) {
    PLANISH_CHECK(!model.error().message.empty() && model.error().message.size() < 2000);
    return 0;
  }
  const auto again = SentencePieceModel::Parse(model->Write());
  PLANISH_CHECK(again.ok() && again->Write() == model->Write()) << "a written model differs";
  const auto tokenizer = Tokenizer::FromPieces(*model, "", "fuzz");
  if (!tokenizer.ok()) return 0;
  std::string text;
  AppendReplacingInvalid((mark == input.npos ? input : input.substr(mark + kMark.size())).substr(0, 512),
                         false, &text);
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
    PLANISH_CHECK(decoded == streamed) << decoded << " but streamed " << streamed;
    PLANISH_CHECK(!FindInvalidUtf8(decoded)) << decoded;
    const auto encoded_again = (*tokenizer)->Encode(text, true, recognize);
    PLANISH_CHECK(encoded_again.ok() && *encoded_again == *ids) << "the cache changed the result";
  }
  return 0;
}
