// Input: a template, optionally a zero byte and JSON with its variables. What parses is rendered within small
// limits; errors have a line and a bounded length, a rendering repeats, and its text is UTF-8.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "formats/template.h"
#include "formats/tokenizer_unicode.h"

namespace {

using namespace planish;

OrderedJson DefaultVariables() {
  const OrderedJson call = {
      {"function", {{"name", "f"}, {"arguments", {{"x", 1}, {"y", {1.5, nullptr, true}}}}}}};
  return {{"messages",
           {{{"role", "system"}, {"content", "Be brief."}},
            {{"role", "user"}, {"content", " h\u00e9llo <b> "}},
            {{"role", "assistant"}, {"content", "a"}, {"tool_calls", {call}}},
            {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "x"}}}}}}},
          {"tools", nullptr},
          {"bos_token", "<s>"},
          {"eos_token", "</s>"},
          {"add_generation_prompt", true}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const auto parsed = Template::Parse(input.substr(0, zero));
  if (!parsed.ok()) {
    PLANISH_CHECK(parsed.error().code == Code::kInput && parsed.error().message.size() < 1000)
        << parsed.error().message;
    return 0;
  }
  TemplateInput given;
  static const OrderedJson variables = DefaultVariables();
  given.variables = variables;
  if (zero != input.npos) {
    const auto json = OrderedJson::parse(input.substr(zero + 1), nullptr, /*allow_exceptions=*/false);
    if (json.is_object()) given.variables = json;
  }
  given.now = TemplateTime{.year = 2024, .month = 2, .day = 29};
  given.limits = {.steps = 20'000, .memory_bytes = 4 << 20, .output_bytes = 1 << 20, .depth = 200};
  const auto first = parsed->Render(given), second = parsed->Render(given);
  PLANISH_CHECK(first.ok() == second.ok());
  if (!first.ok()) {
    PLANISH_CHECK(first.error().code == Code::kInput && first.error().message == second.error().message)
        << first.error().message;
    return 0;
  }
  PLANISH_CHECK(*first == *second && !FindInvalidUtf8(*first)) << *first;
  return 0;
}
