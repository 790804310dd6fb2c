#include "apps/chat_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <string_view>

#include "base/names.h"

namespace planish::app {
namespace {

// What the conversation gives, and names that the language has a meaning for.
constexpr std::string_view kReserved[] = {"messages",
                                          "add_generation_prompt",
                                          "loop",
                                          "range",
                                          "dict",
                                          "namespace",
                                          "raise_exception",
                                          "strftime_now",
                                          "true",
                                          "false",
                                          "none",
                                          "True",
                                          "False",
                                          "None"};

bool IsVariableName(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && letter(name[0]) &&
         std::ranges::all_of(name, [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

}  // namespace

void AddChatOptions(CLI::App& verb, ChatFlags& flags) {
  verb.add_option("--system", flags.system, "A system message in front of the conversation");
  verb.add_option("--template", flags.template_file, "A chat template in a file, instead of the model's own");
  verb.add_option("--template-name", flags.template_name,
                  "Which of a model's several templates (default: default)");
  verb.add_option("--template-variable", flags.variables,
                  "NAME=JSON for the chat template, enable_thinking=false for example; strings in double "
                  "quotes; may be repeated")
      ->allow_extra_args(false);
}

Result<ChatOptions> ParseTemplateVariables(const ChatFlags& flags) {
  ChatOptions options;
  for (const std::string& given : flags.variables) {
    const std::string place = fmt::format("--template-variable {}", Abbreviate(given, 60));
    const size_t equals = given.find('=');
    const std::string name = given.substr(0, equals);
    if (equals == std::string::npos || !IsVariableName(name)) {
      return InputError(fmt::format("{}: expected NAME=JSON, enable_thinking=false for example", place));
    }
    if (std::ranges::find(kReserved, name) != std::end(kReserved)) {
      return InputError(fmt::format("{}: '{}' is not for the user to set", place, name));
    }
    const std::string text = given.substr(equals + 1);
    if (const auto valid = ParseJson(text); !valid.ok()) {
      return InputError(fmt::format("{}: {}; strings need double quotes: {}='\"...\"'", place,
                                    valid.error().message, name));
    }
    const bool is_tools = name == "tools";
    if (options.extra.contains(name) || (is_tools && !options.tools.is_null())) {
      return InputError(fmt::format("{}: '{}' is given twice", place, name));
    }
    OrderedJson value = OrderedJson::parse(text);  // in the order given, which templates print
    if (is_tools && !value.is_array()) return InputError(fmt::format("{}: expected a list of tools", place));
    (is_tools ? options.tools : options.extra[name]) = std::move(value);
  }
  return options;
}

Result<ChatTemplate> LoadChatTemplate(const std::string& model_path, const ChatFlags& flags) {
  if (flags.template_file.empty()) return ChatTemplate::Load(model_path, flags.template_name);
  if (!flags.template_name.empty()) return InputError("--template-name: --template holds one template only");
  return ChatTemplate::LoadFile(model_path, flags.template_file);
}

ChatOptions AtPresent(ChatOptions options) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  options.now = TemplateTime{.year = local.tm_year + 1900,
                             .month = local.tm_mon + 1,
                             .day = local.tm_mday,
                             .hour = local.tm_hour,
                             .minute = local.tm_min,
                             .second = local.tm_sec};
  return options;
}

}  // namespace planish::app
