#include "apps/adapter_options.h"

#include <fmt/format.h>

#include "model/lora.h"

namespace planish::app {

void AddAdapterOption(CLI::App& verb, std::vector<std::string>& adapters) {
  verb.add_option("--adapter", adapters,
                  "LoRA adapter(s) on the model: a PEFT folder or a GGUF file; may be repeated")
      ->allow_extra_args(false);
}

Status AttachAdapters(const Context& context, const std::vector<std::string>& adapters, Model& model) {
  for (const auto& adapter : adapters) {
    PLANISH_TRY(const LoraAttached attached, AttachLora(context, model, adapter));
    if (context.progress != nullptr) {
      context.progress->Note(fmt::format("{}: {} low-rank paths of rank {} at most beside the matrices of {}",
                                         adapter, attached.linears, attached.rank, model.path));
    }
  }
  return {};
}

}  // namespace planish::app
