#include "apps/chat_options.h"

#include <ctime>

namespace planish::app {

void AddChatOptions(CLI::App& verb, ChatFlags& flags) {
  verb.add_option("--system", flags.system, "A system message in front of the conversation");
  verb.add_option("--template", flags.template_file, "A chat template in a file, instead of the model's own");
  verb.add_option("--template-name", flags.template_name,
                  "Which of a model's several templates (default: default)");
}

Result<ChatTemplate> LoadChatTemplate(const std::string& model_path, const ChatFlags& flags) {
  if (flags.template_file.empty()) return ChatTemplate::Load(model_path, flags.template_name);
  if (!flags.template_name.empty()) return InputError("--template-name: --template holds one template only");
  return ChatTemplate::LoadFile(model_path, flags.template_file);
}

ChatOptions NowChatOptions() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  ChatOptions options;
  options.now = TemplateTime{.year = local.tm_year + 1900,
                             .month = local.tm_mon + 1,
                             .day = local.tm_mday,
                             .hour = local.tm_hour,
                             .minute = local.tm_min,
                             .second = local.tm_sec};
  return options;
}

}  // namespace planish::app
