// What the verbs that talk to a model share: which chat template, and the time it may print.
#pragma once

#include <string>
#include <vector>

#include "apps/app.h"
#include "runtime/conversation.h"

namespace planish::app {

struct ChatFlags {
  std::string system, template_file, template_name;
  std::vector<std::string> variables;  // NAME=JSON
  bool Any() const {
    return !system.empty() || !template_file.empty() || !template_name.empty() || !variables.empty();
  }
};
// --system, --template, --template-name, --template-variable.
void AddChatOptions(CLI::App& verb, ChatFlags& flags);
Result<ChatTemplate> LoadChatTemplate(const std::string& model_path, const ChatFlags& flags);
// The variables of --template-variable: `tools` and `extra`. Errors: no NAME=JSON, a name that is taken or
// given twice.
Result<ChatOptions> ParseTemplateVariables(const ChatFlags& flags);
// With the present time, in the zone of this machine.
ChatOptions AtPresent(ChatOptions options);

}  // namespace planish::app
