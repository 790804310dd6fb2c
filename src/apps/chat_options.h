// What the verbs that talk to a model share: which chat template, and the time it may print.
#pragma once

#include <string>

#include "apps/app.h"
#include "runtime/conversation.h"

namespace planish::app {

struct ChatFlags {
  std::string system, template_file, template_name;
  bool Any() const { return !system.empty() || !template_file.empty() || !template_name.empty(); }
};
// --system, --template, --template-name.
void AddChatOptions(CLI::App& verb, ChatFlags& flags);
Result<ChatTemplate> LoadChatTemplate(const std::string& model_path, const ChatFlags& flags);
// With the present time, in the zone of this machine.
ChatOptions NowChatOptions();

}  // namespace planish::app
