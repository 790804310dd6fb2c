// planish chat: a conversation in the terminal, or line by line from a pipe.
#include <fmt/format.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>
#include <utility>

#include "apps/chat_options.h"
#include "apps/runner_options.h"
#include "base/file.h"
#include "formats/text.h"
#include "model/model.h"

namespace planish::app {
namespace {

constexpr int64_t kDefaultContext = 4096;

struct ChatVerbFlags {
  RunOptions run;
  RuntimeOptions runtime;
  CodePrecision precision;
  ChatFlags chat;
  GenerateOptions options;
  std::string model;
  bool greedy = false, stats = false;
};

constexpr const char* kHelp =
    "A message is sent by Enter; a backslash at the end of a line goes on in the next one.\n"
    "Ctrl-C stops an answer; at the prompt, Ctrl-C or Ctrl-D leaves.\n"
    "  /system TEXT   replace the system message (nothing: none) and start anew\n"
    "  /reset         start anew, with the same system message\n"
    "  /regen         answer the last message again\n"
    "  /file FILE     send the text of a file as the message\n"
    "  /save FILE     write the conversation as a JSON list of {role, content}\n"
    "  /help          this text\n"
    "  /exit          leave\n"
    "A message that starts with a slash is written with two.\n";

// Lines of standard input. Waits in short turns, because a signal may be taken by another thread and would
// not end a read.
class LineReader {
 public:
  LineReader() {
    termios settings{};
    by_lines_ = tcgetattr(STDIN_FILENO, &settings) == 0 && (settings.c_lflag & ICANON) != 0;
  }
  // The next line without its end; nothing at the end of the input. Errors: interrupted by Ctrl-C, no input;
  // a line that is too long, after which the next one can be read.
  Result<std::optional<std::string>> Next() {
    while (true) {
      if (const size_t end = held_.find('\n'); end != std::string::npos) return Take(end, end + 1);
      if (ended_) {
        if (held_.empty()) return std::optional<std::string>();
        return Take(held_.size(), held_.size());
      }
      if (held_.size() > kMaxLineBytes) {
        held_.clear();
        return InputError(fmt::format("standard input: a line of more than {} bytes", kMaxLineBytes));
      }
      PLANISH_RETURN_IF_ERROR(Fill());
    }
  }

 private:
  static constexpr size_t kMaxLineBytes = size_t{64} << 20;
  static constexpr int kTurnMilliseconds = 100;
  // What Linux keeps of a line that is typed, without its end (N_TTY_BUF_SIZE - 1 of drivers/tty/n_tty.c):
  // the rest is dropped, and nothing tells a line of just this length from one that was cut.
  static constexpr ssize_t kTerminalLineBytes = 4095;

  Result<std::optional<std::string>> Take(size_t length, size_t consumed) {
    std::string line = held_.substr(0, length);
    held_.erase(0, consumed);
    if (std::exchange(cut_, false)) {
      return InputError(fmt::format(
          "not sent: longer than a terminal's line ({} bytes), which drops the rest; use /file FILE, "
          "a pipe, or lines that end in a backslash",
          kTerminalLineBytes));
    }
    if (line.ends_with('\r')) line.pop_back();
    return std::optional<std::string>(std::move(line));
  }
  Status Fill() {
    if (CancelFlag()) return InterruptedError("interrupted");
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (poll(&input, 1, kTurnMilliseconds) <= 0) return {};
    char buffer[kTerminalLineBytes + 1];
    const ssize_t count = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (count < 0 && errno != EINTR && errno != EAGAIN) return FailureError("standard input: cannot read");
    if (count > 0) held_.append(buffer, static_cast<size_t>(count));
    // A terminal hands over one line at a time.
    cut_ |= by_lines_ && count - (held_.ends_with('\n') ? 1 : 0) >= kTerminalLineBytes;
    ended_ = count == 0;
    return {};
  }
  std::string held_;
  bool by_lines_ = false;  // standard input is a terminal that collects lines
  bool cut_ = false;       // what was read last may have been longer
  bool ended_ = false;
};

class Chat {
 public:
  Chat(const ChatVerbFlags& flags, ChatOptions options, const Context& context, Conversation& conversation)
      : flags_(flags),
        options_(std::move(options)),
        context_(context),
        conversation_(conversation),
        terminal_(isatty(STDIN_FILENO) != 0) {}

  Status Run() {
    if (terminal_ && !flags_.run.quiet) fmt::print(stderr, "{}", kHelp);
    while (!left_) {
      const auto message = ReadMessage();
      if (message.ok() && !*message) break;
      PLANISH_RETURN_IF_ERROR(Told(message.ok() ? Handle(**message) : Status(message.error())));
    }
    return {};
  }

 private:
  // A message of one line or several; nothing at the end of the input.
  Result<std::optional<std::string>> ReadMessage() {
    std::string message;
    bool more = false;
    do {
      if (terminal_) {
        fmt::print(stderr, "{}", more ? "| " : "> ");
        std::fflush(stderr);
      }
      PLANISH_TRY(const auto line, reader_.Next());
      if (!line) {
        if (terminal_) fmt::print(stderr, "\n");
        return more ? std::optional<std::string>(std::move(message)) : std::nullopt;
      }
      more = line->ends_with('\\');
      message += more ? line->substr(0, line->size() - 1) + "\n" : *line;
    } while (more);
    return std::optional<std::string>(std::move(message));
  }

  Status Handle(const std::string& message) {
    if (message.find_first_not_of(" \t\n") == std::string::npos) return {};
    if (message.starts_with('/') && !message.starts_with("//")) return Command(message);
    PLANISH_TRY(const std::string text,
                CheckedText(message.substr(message.starts_with("//") ? 1 : 0), "message"));
    return Send(text);
  }

  // Mistakes in a message are told and do not end the conversation; a pipe has nobody to correct them.
  Status Told(const Status& status) const {
    if (status.ok() || !terminal_ || status.error().code != Code::kInput) return status;
    fmt::print(stderr, "{}\n", status.error().message);
    return {};
  }

  Status Command(const std::string& message) {
    const size_t space = message.find(' ');
    const std::string name = message.substr(0, space);
    const std::string argument = space == std::string::npos ? "" : message.substr(space + 1);
    if (name == "/system") {
      PLANISH_TRY(const std::string text, CheckedText(argument, "/system"));
      conversation_.SetSystem(text);
      conversation_.Reset();
    } else if (name == "/reset") {
      conversation_.Reset();
    } else if (name == "/regen") {
      return Show(conversation_.Again(context_, AtPresent(options_), Printer()));
    } else if (name == "/file") {
      return SendFile(argument);
    } else if (name == "/save") {
      if (argument.empty()) return InputError("/save: expected a file's name");
      const std::string text = DumpJson(MessagesJson(conversation_.messages()), 1) + "\n";
      PLANISH_RETURN_IF_ERROR(WriteFileAtomically(argument, text));
    } else if (name == "/help") {
      fmt::print(stderr, "{}", kHelp);
    } else if (name == "/exit" || name == "/quit") {
      left_ = true;
    } else {
      return InputError(
          fmt::format("found the command '{}', expected /system, /reset, /regen, /file, /save, /help or "
                      "/exit; a message that starts with a slash is written with two",
                      name));
    }
    return {};
  }

  Status SendFile(const std::string& path) {
    if (path.empty()) return InputError("/file: expected a file's name");
    PLANISH_TRY(std::string text, LoadText(path));
    if (text.ends_with('\n')) text.pop_back();
    if (text.find_first_not_of(" \t\n") == std::string::npos) {
      return InputError(fmt::format("{}: found no text to send", path));
    }
    return Send(text);
  }

  Status Send(const std::string& text) {
    return Show(conversation_.Ask(context_, text, AtPresent(options_), Printer()));
  }

  OnText Printer() const {
    return [json = flags_.run.json](const std::string& piece) {
      if (json) return;
      fmt::print("{}", piece);
      std::fflush(stdout);
    };
  }

  Status Show(const Result<ChatReply>& reply) {
    if (!reply.ok()) return reply.error();
    const GenerateResult& result = reply->result;
    if (flags_.run.json) {
      OrderedJson json = {{"text", reply->text},
                          {"ids", result.ids},
                          {"stop", StopName(result)},
                          {"prompt_tokens", reply->prompt_tokens},
                          {"kept_tokens", reply->kept_tokens},
                          {"left_out", reply->left_out}};
      fmt::print("{}\n", DumpJson(json));
    } else {
      fmt::print("\n");
    }
    std::fflush(stdout);
    if (reply->left_out > 0) {
      fmt::print(stderr, "the context is full: the oldest {} messages are left out from here on\n",
                 reply->left_out);
    }
    if (result.hit_context) {
      fmt::print(stderr, "stopped: the context is full; raise --context, or /reset\n");
    }
    if (flags_.stats && !result.ids.empty()) PrintStats(*reply);
    if (result.interrupted) {
      if (!terminal_) return InterruptedError("interrupted");
      ClearCancelFlag();
    }
    return {};
  }

  static void PrintStats(const ChatReply& reply) {
    const GenerateResult& result = reply.result;
    fmt::print(stderr, "{} tokens read, {} of them kept; first token after {:.0f} ms, then {:.1f} tokens/s\n",
               reply.prompt_tokens, reply.kept_tokens, 1e3 * result.prompt_seconds,
               static_cast<double>(result.ids.size() - 1) / std::max(result.decode_seconds, 1e-9));
  }

  const ChatVerbFlags& flags_;
  const ChatOptions options_;
  const Context& context_;
  Conversation& conversation_;
  LineReader reader_;
  bool terminal_, left_ = false;
};

Status RunChat(ChatVerbFlags& flags) {
  PLANISH_TRY(ChatOptions options, ParseTemplateVariables(flags.chat));
  PLANISH_TRY(const auto run, Run::Start(flags.run, flags.options.sampling.seed));
  PLANISH_TRY(const Model model, OpenAtPrecision(run->context(), flags.model, flags.run, flags.precision));
  PLANISH_TRY(const auto tokenizer, Tokenizer::Load(model.path));
  PLANISH_TRY(ChatTemplate chat_template, LoadChatTemplate(model.path, flags.chat));
  PLANISH_TRY(const std::string system, CheckedText(flags.chat.system, "--system"));
  const int64_t most = model.program.max_positions;
  if (flags.options.context == 0) flags.options.context = std::min(kDefaultContext, most);
  if (flags.options.context > most) {
    return InputError(
        fmt::format("--context {}: the model has at most {} positions", flags.options.context, most));
  }
  if (flags.greedy) flags.options.sampling.temperature = 0;
  PLANISH_TRY(const auto runner, MakeRunner(run->context(), model, flags.runtime, 1, flags.options.context));
  Conversation conversation(model.program, *runner, *tokenizer, std::move(chat_template), flags.options);
  conversation.SetSystem(system);
  return Chat(flags, std::move(options), run->context(), conversation).Run();
}

}  // namespace

void AddChatVerb(CLI::App& app) {
  auto flags = std::make_shared<ChatVerbFlags>();
  flags->options.max_tokens = 1024;
  CLI::App* verb = app.add_subcommand("chat", "Talk to a model");
  verb->add_option("MODEL", flags->model, "The model")->required();
  AddChatOptions(*verb, flags->chat);
  AddGenerateOptions(*verb, flags->options, flags->greedy);
  verb->add_flag("--stats", flags->stats, "Print speed after each answer");
  AddRuntimeOptions(*verb, flags->runtime);
  AddPrecisionOptions(*verb, flags->precision);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      std::string(kHelp) +
      "When the context is full, the oldest turns are left out and a line says so. Without --context it "
      "holds\n4096 positions, or the model's maximum if that is less.\n"
      "Lines may come from a pipe: one message a line, answers on standard output, with --json one "
      "object a line.\n\n"
      "Examples:\n"
      "  planish chat model/ --system \"Answer briefly.\"\n"
      "  planish chat model/ --template-variable enable_thinking=false\n"
      "  planish chat model/ --temperature 0.7 --top-p 0.9 --context 8192 --stats\n"
      "  printf 'What is a hammer?\\nAnd an anvil?\\n' | planish chat model/ --greedy --json");
  AddVerb(*verb, [flags] { return RunChat(*flags); });
}

}  // namespace planish::app
