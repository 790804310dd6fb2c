// GGUF files as models over arbitrary bytes: no crash, messages of a sensible length, a configuration that
// the family's reader takes or refuses in words, and tensors that are as large as their shapes say.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "formats/gguf.h"
#include "model/family.h"
#include "model/gguf_model.h"

namespace {

using namespace planish;

// False for an error, whose message has to say something, and not a book.
template <typename T>
bool Held(const Result<T>& result) {
  if (result.ok()) return true;
  PLANISH_CHECK(!result.error().message.empty() && result.error().message.size() < 4000)
      << result.error().message;
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = GgufFile::Parse(std::as_bytes(std::span(data, size)), "input");
  if (!file.ok()) return 0;
  const auto model = ReadGgufModel(*file);
  if (!Held(model)) return 0;
  PLANISH_CHECK(model->config.is_object() && model->config.contains("model_type"));
  unsigned sum = 0;  // reads every byte of every tensor, for the address sanitizer
  for (const TensorInfo* info : model->checkpoint.tensors()) {
    const auto tensor = model->checkpoint.Get(info->name);
    PLANISH_CHECK(tensor.ok()) << info->name;
    for (const std::byte b : tensor->bytes()) sum += static_cast<unsigned>(b);
  }
  const auto program = BuildProgram(model->config);
  if (!Held(program)) return 0;
  PLANISH_CHECK(program->hidden > 0 && program->vocab > 0 && program->blocks.size() >= 2) << sum;
  return 0;
}
