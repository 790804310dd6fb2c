// planish generate: continues a prompt, streaming.
#include <fmt/format.h>

#include <cstdio>

#include "apps/adapter_options.h"
#include "apps/chat_options.h"
#include "apps/runner_options.h"
#include "model/model.h"
#include "runtime/generate.h"

namespace planish::app {
namespace {

struct GenerateFlags {
  RunOptions run;
  std::vector<std::string> adapters;
  RuntimeOptions runtime;
  CodePrecision precision;
  std::string model, prompt;
  GenerateOptions options;
  ChatFlags chat_options;
  bool greedy = false, bos = false, stats = false, chat = false;
};

void PrintResult(const GenerateFlags& flags, const GenerateResult& result, const std::string& text) {
  if (flags.run.json) {
    OrderedJson json;
    json["prompt"] = flags.prompt;
    json["text"] = text;
    json["ids"] = result.ids;
    json["stop"] = StopName(result);
    json["prompt_seconds"] = result.prompt_seconds;
    json["decode_seconds"] = result.decode_seconds;
    PrintJson(json);
    return;
  }
  fmt::print("\n");
  if (result.hit_context) fmt::print(stderr, "stopped: the context is full; raise --context\n");
  if (flags.stats && !result.ids.empty()) {
    fmt::print(stderr, "first token after {:.0f} ms, then {:.1f} tokens/s\n", 1e3 * result.prompt_seconds,
               static_cast<double>(result.ids.size() - 1) / std::max(result.decode_seconds, 1e-9));
  }
}

// The prompt as it is, or as a message in the chat template; then the template's ends are taken over.
Result<std::vector<int32_t>> PromptIds(GenerateFlags& flags, const std::string& prompt, const Model& model,
                                       const Tokenizer& tokenizer) {
  if (!flags.chat) {
    if (flags.chat_options.Any())
      return InputError("--system, --template, --template-name and --template-variable need --chat");
    PLANISH_TRY(auto ids, tokenizer.Encode(prompt, /*add_special=*/true));
    if (flags.bos) {
      if (model.program.bos_id < 0) return InputError("--bos: config.json has no bos_token_id");
      ids.insert(ids.begin(), model.program.bos_id);
    }
    return ids;
  }
  if (flags.bos) return InputError("--bos: with --chat the template writes the BOS token");
  PLANISH_TRY(const ChatTemplate chat, LoadChatTemplate(model.path, flags.chat_options));
  PLANISH_TRY(const std::string system, CheckedText(flags.chat_options.system, "--system"));
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", system});
  messages.push_back({"user", prompt});
  PLANISH_TRY(const ChatOptions options, ParseTemplateVariables(flags.chat_options));
  PLANISH_TRY(const std::string text, chat.Render(MessagesJson(messages), AtPresent(options)));
  flags.options.stop_ids = chat.EndTokens(tokenizer);
  return ChatTemplate::Encode(tokenizer, text);
}

Status RunGenerate(GenerateFlags& flags) {
  PLANISH_TRY(const std::string prompt, CheckedText(flags.prompt, "--prompt"));
  PLANISH_TRY(const auto run, Run::Start(flags.run, flags.options.sampling.seed));
  PLANISH_TRY(Model model, OpenAtPrecision(run->context(), flags.model, flags.run, flags.precision));
  PLANISH_RETURN_IF_ERROR(AttachAdapters(run->context(), flags.adapters, model));
  PLANISH_TRY(const auto tokenizer, Tokenizer::Load(model.path));
  PLANISH_TRY(const auto ids, PromptIds(flags, prompt, model, *tokenizer));
  if (flags.options.context == 0) {
    flags.options.context =
        ContextFor(model.program, static_cast<int64_t>(ids.size()), flags.options.max_tokens);
  }
  PLANISH_TRY(const auto runner, MakeRunner(run->context(), model, flags.runtime, 1, flags.options.context));
  if (flags.greedy) flags.options.sampling.temperature = 0;
  StreamDecoder decoder(*tokenizer);
  std::string text;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (flags.run.json) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  };
  if (!flags.run.json && !flags.chat) {
    fmt::print("{}", prompt);
    std::fflush(stdout);
  }
  PLANISH_TRY(const GenerateResult result,
              Generate(run->context(), model.program, *runner, ids, flags.options, [&](int32_t id) {
                emit(decoder.Push(id));
                return true;
              }));
  emit(decoder.Flush());
  PrintResult(flags, result, text);
  return run->context().CheckCancelled();
}

}  // namespace

void AddGenerateVerb(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* verb = app.add_subcommand("generate", "Continue a prompt");
  verb->add_option("MODEL", flags->model, "The model")->required();
  verb->add_option("--prompt,-p", flags->prompt, "Text to continue, or with --chat a message to answer")
      ->required();
  verb->add_flag("--chat", flags->chat,
                 "Put the prompt through the model's chat template and print the answer");
  AddGenerateOptions(*verb, flags->options, flags->greedy);
  AddChatOptions(*verb, flags->chat_options);
  verb->add_flag("--bos", flags->bos, "Put the BOS token first");
  verb->add_flag("--stats", flags->stats, "Print speed at the end");
  AddRuntimeOptions(*verb, flags->runtime);
  AddPrecisionOptions(*verb, flags->precision);
  AddAdapterOption(*verb, flags->adapters);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "Examples:\n"
      "  planish generate demo --prompt \"The old man looked at the sea and\" --tokens 40 --greedy\n"
      "  planish generate model/ --chat --system \"Answer briefly.\" -p \"What is a hammer?\"\n"
      "  planish generate model/ -p \"Once\" --temperature 0.8 --top-p 0.95 --seed 7 --stats");
  AddVerb(*verb, [flags] { return RunGenerate(*flags); });
}

}  // namespace planish::app
