// `planish chat` and `generate --chat` as people meet them: through a pipe and in a terminal.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <pty.h>

#include <chrono>

#include "apps/cli_test_util.h"

namespace planish {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kTemplate =
    "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

class ChatTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    WriteText("template.jinja", kTemplate);
  }
  std::vector<std::string> Command(std::vector<std::string> more = {},
                                   const std::string& tokens = "8") const {
    std::vector<std::string> all = {"chat",     "demo", "--template", Path("template.jinja"),
                                    "--greedy", "-n",   tokens};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  static std::vector<Json> Lines(const std::string& text) {
    std::vector<Json> lines;
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      auto json = ParseJson(text.substr(at, end - at));
      EXPECT_TRUE(json.ok()) << text;
      if (json.ok()) lines.push_back(*json);
      at = end == std::string::npos ? text.size() : end + 1;
    }
    return lines;
  }
};

TEST_F(ChatTest, KeepsTheConversationAndItsCache) {
  const Outcome outcome =
      RunWith("Who are you?\nTell me\\\nmore.\n", Command({"--json", "--system", "Be kind."}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto lines = Lines(outcome.out);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["kept_tokens"], 0);
  // The first turn is in the cache; its last token may read otherwise with the answer behind it.
  EXPECT_GE(lines[1]["kept_tokens"].get<int64_t>(), lines[0]["prompt_tokens"].get<int64_t>() - 1);
  // The second answer is what the whole conversation gives at once.
  const std::string whole =
      "system: Be kind.\nuser: Who are you?\nassistant: " + lines[0]["text"].get<std::string>() +
      "\nuser: Tell me\nmore.\nassistant:";
  const Json once = RunJson({"generate", "demo", "-p", whole, "--greedy", "-n", "8"});
  EXPECT_EQ(lines[1]["text"], once["text"]);
}

TEST_F(ChatTest, CommandsChangeTheConversation) {
  const Outcome outcome =
      RunWith("/system One.\nfirst\n/save saved.json\n/reset\nfirst\n/regen\n//slash\n/save all.json\n",
              Command({"--json"}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto lines = Lines(outcome.out);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["text"], lines[1]["text"]) << "the same conversation after /reset";
  EXPECT_EQ(lines[1]["text"], lines[2]["text"]) << "greedy again";
  const auto saved = ParseJson(ReadAll(Path("saved.json")));
  ASSERT_TRUE(saved.ok());
  ASSERT_EQ(saved->size(), 3u);
  EXPECT_EQ((*saved)[0], Json({{"role", "system"}, {"content", "One."}}));
  EXPECT_EQ((*saved)[1], Json({{"role", "user"}, {"content", "first"}}));
  EXPECT_EQ((*saved)[2], Json({{"role", "assistant"}, {"content", lines[0]["text"]}}));
  const auto all = ParseJson(ReadAll(Path("all.json")));
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 5u);
  EXPECT_EQ((*all)[3]["content"], "/slash");
}

TEST_F(ChatTest, LeavesOutTheOldestTurnsWhenTheContextIsFull) {
  std::string input;
  for (int i = 0; i < 6; ++i)
    input += "This is a message of a few words, number " + std::to_string(i) + ".\n";
  const Outcome outcome = RunWith(input, Command({"--json", "--context", "96", "--system", "Short."}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto lines = Lines(outcome.out);
  ASSERT_EQ(lines.size(), 6u);
  int64_t left_out = 0;
  for (const Json& line : lines) {
    left_out += line["left_out"].get<int64_t>();
    EXPECT_LE(line["prompt_tokens"].get<int64_t>(), 96);
  }
  EXPECT_GT(left_out, 0);
  EXPECT_THAT(outcome.err, HasSubstr("the context is full: the oldest"));
  const Outcome too_long = RunWith(std::string(400, 'x') + "\n", Command({"--context", "32"}));
  EXPECT_EQ(too_long.status, 2);
  EXPECT_THAT(too_long.err, HasSubstr("the context holds 32; raise --context"));
}

TEST_F(ChatTest, MistakesEndAPipeWithTheirMessage) {
  const struct {
    std::string input;
    std::vector<std::string> more;
    std::string message;
  } cases[] = {
      {"/nope\n", {}, "found the command '/nope', expected /system"},
      {"/save\n", {}, "/save: expected a file's name"},
      {"/regen\n", {}, "there is no answer to make again"},
      {"/file\n", {}, "/file: expected a file's name"},
      {"/file nowhere.txt\n", {}, "nowhere.txt"},
      {"/file blank.txt\n", {}, "blank.txt: found no text to send"},
      {"/file latin1.txt\n", {}, "latin1.txt"},
      {"caf\xe9\n", {}, "message: not UTF-8"},
      {"x\n", {"--context", "100000"}, "--context 100000: the model has at most"},
      {"x\n", {"--template-name", "tool"}, "--template holds one template only"},
  };
  WriteText("blank.txt", " \n\n");
  WriteText("latin1.txt", "caf\xe9");
  for (const auto& c : cases) {
    const Outcome outcome = RunWith(c.input, Command(c.more));
    EXPECT_EQ(outcome.status, 2) << c.input;
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
  }
  const Outcome none = RunWith("x\n", {"chat", "demo"});
  EXPECT_EQ(none.status, 2);
  EXPECT_THAT(none.err, HasSubstr("found no chat template; looked at chat_template.jinja"));
  WriteText("refuses.jinja", "{{ raise_exception('not today') }}");
  const Outcome refuses = RunWith("x\n", {"chat", "demo", "--template", Path("refuses.jinja")});
  EXPECT_EQ(refuses.status, 2);
  EXPECT_THAT(refuses.err, HasSubstr("refuses.jinja: line 1: the template refuses: not today"));
}

TEST_F(ChatTest, GenerateAnswersThroughTheTemplate) {
  const std::string file = Path("template.jinja");
  const Json chat = RunJson({"generate", "demo", "--chat", "--template", file, "--system", "Be kind.", "-p",
                             "Hello", "--greedy", "-n", "12"});
  const Json plain = RunJson(
      {"generate", "demo", "-p", "system: Be kind.\nuser: Hello\nassistant:", "--greedy", "-n", "12"});
  EXPECT_EQ(chat["ids"], plain["ids"]);
  const Outcome text =
      Run({"generate", "demo", "--chat", "--template", file, "-p", "Hello", "--greedy", "-n", "4"});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, Not(HasSubstr("Hello"))) << "the prompt is not printed";
  const Outcome without = Run({"generate", "demo", "--system", "x", "-p", "Hello"});
  EXPECT_EQ(without.status, 2);
  EXPECT_THAT(without.err, HasSubstr("need --chat"));
}

// The texts that transformers renders with the same variables.
TEST_F(ChatTest, TemplateVariablesReachTheTemplate) {
  const std::string path = PLANISH_SHARED_DIR "/models/tiny/templates.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is missing";
  int cases = 0;
  for (const OrderedJson& family : OrderedJson::parse(ReadAll(path))) {
    if (family["name"] != "qwen3") continue;
    WriteText("qwen3.jinja", family["template"].get<std::string>());
    for (const OrderedJson& one : family["cases"]) {
      if (one["extra"].empty() || one["messages"].size() != 1) continue;
      ++cases;
      const std::string thinking = one["extra"]["enable_thinking"].dump();
      const std::string prompt = one["messages"][0]["content"].get<std::string>();
      const std::vector<std::string> options = {"--template",
                                                Path("qwen3.jinja"),
                                                "--template-variable",
                                                "enable_thinking=" + thinking,
                                                "--greedy",
                                                "-n",
                                                "8"};
      std::vector<std::string> generate = {"generate", "demo", "--chat", "-p", prompt};
      generate.insert(generate.end(), options.begin(), options.end());
      const Json plain =
          RunJson({"generate", "demo", "-p", one["rendered"].get<std::string>(), "--greedy", "-n", "8"});
      EXPECT_EQ(RunJson(generate)["ids"], plain["ids"]) << thinking;
      std::vector<std::string> chat = {"chat", "demo", "--json"};
      chat.insert(chat.end(), options.begin(), options.end());
      std::string line = prompt;
      for (size_t at = 0; (at = line.find('\n', at)) != line.npos; at += 2) line.insert(at, 1, '\\');
      const Outcome outcome = RunWith(line + "\n", chat);
      ASSERT_EQ(outcome.status, 0) << outcome.err;
      EXPECT_EQ(Lines(outcome.out)[0]["ids"], plain["ids"]) << thinking;
    }
  }
  EXPECT_EQ(cases, 2);
}

TEST_F(ChatTest, TemplateVariablesThatCannotBe) {
  WriteText("tools.jinja", "{{ tools | tojson }}{{ place }}{{ raise_exception(tools[0].b ~ place) }}");
  const Outcome seen =
      RunWith("x\n", {"chat", "demo", "--template", "tools.jinja", "--template-variable",
                      R"(tools=[{"b": "one", "a": 2}])", "--template-variable", R"(place="=there")"});
  EXPECT_THAT(seen.err, HasSubstr("the template refuses: one=there"));
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"thinking"}, "--template-variable thinking: expected NAME=JSON"},
      {{"=1"}, "expected NAME=JSON"},
      {{"a-b=1"}, "expected NAME=JSON"},
      {{"messages=[]"}, "'messages' is not for the user to set"},
      {{"add_generation_prompt=false"}, "'add_generation_prompt' is not for the user to set"},
      {{"date=today"}, "strings need double quotes: date='\"...\"'"},
      {{"a="}, "not valid JSON"},
      {{"a=1", "a=2"}, "'a' is given twice"},
      {{"tools=[]", "tools=[]"}, "'tools' is given twice"},
      {{"tools={}"}, "expected a list of tools"},
  };
  for (const auto& [variables, message] : cases) {
    std::vector<std::string> more;
    for (const auto& variable : variables) more.insert(more.end(), {"--template-variable", variable});
    const Outcome outcome = RunWith("x\n", Command(more));
    EXPECT_EQ(outcome.status, 2) << variables[0];
    EXPECT_THAT(outcome.err, HasSubstr(message));
  }
  const Outcome without = Run({"generate", "demo", "-p", "x", "--template-variable", "a=1"});
  EXPECT_EQ(without.status, 2);
  EXPECT_THAT(without.err, HasSubstr("--template-variable need --chat"));
}

// A pseudo-terminal with the program in it.
class Terminal {
 public:
  Terminal(const std::string& folder, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), PLANISH_PROGRAM);
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    child_ = forkpty(&fd_, nullptr, nullptr, nullptr);
    if (child_ == 0) {
      if (chdir(folder.c_str()) != 0) _exit(126);
      execv(PLANISH_PROGRAM, argv.data());
      _exit(127);
    }
  }
  ~Terminal() { close(fd_); }
  void Type(const std::string& text) const {
    EXPECT_EQ(write(fd_, text.data(), text.size()), ssize_t(text.size()));
  }
  // Reads until `text` has come `count` times in all.
  bool WaitFor(const std::string& text, int count) {
    return WaitUntil([&] {
      int seen = 0;
      for (size_t at = shown_.find(text); at != shown_.npos; at = shown_.find(text, at + 1)) ++seen;
      return seen >= count;
    });
  }
  // Reads until something follows `text`.
  bool WaitForMoreThan(const std::string& text) {
    return WaitUntil([&] {
      const size_t at = shown_.find(text);
      return at != shown_.npos && at + text.size() < shown_.size();
    });
  }
  int Status() const {
    int status = 0;
    EXPECT_EQ(waitpid(child_, &status, 0), child_);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& shown() const { return shown_; }

 private:
  template <typename Condition>
  bool WaitUntil(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      pollfd input{.fd = fd_, .events = POLLIN, .revents = 0};
      if (poll(&input, 1, 100) <= 0) continue;
      char buffer[4096];
      const ssize_t bytes = read(fd_, buffer, sizeof(buffer));
      if (bytes <= 0) return false;
      shown_.append(buffer, static_cast<size_t>(bytes));
    }
    return true;
  }

  int fd_ = -1;
  pid_t child_ = -1;
  std::string shown_;
};

TEST_F(ChatTest, InTheTerminalCtrlCStopsTheAnswerThenTheProgram) {
  // Slow, so that the answer is still under way when Ctrl-C comes.
  const auto command = Command({"--isa", "scalar", "--threads", "1", "--runtime", "plain"}, "100000");
  Terminal terminal(folder_, command);
  ASSERT_TRUE(terminal.WaitFor("> ", 1)) << terminal.shown();
  terminal.Type("/help\n");
  ASSERT_TRUE(terminal.WaitFor("> ", 2)) << terminal.shown();
  terminal.Type("/nope\n");
  ASSERT_TRUE(terminal.WaitFor("> ", 3)) << "a mistake does not end it: " << terminal.shown();
  terminal.Type("Hello there\n");
  ASSERT_TRUE(terminal.WaitForMoreThan("Hello there\r\n")) << terminal.shown();
  terminal.Type("\x03");
  ASSERT_TRUE(terminal.WaitFor("> ", 4)) << "Ctrl-C ends the answer only: " << terminal.shown();
  terminal.Type("\x03");
  EXPECT_EQ(terminal.Status(), 130);
}

// The kernel keeps 4095 bytes of a typed line: what may have been cut is not sent.
TEST_F(ChatTest, InTheTerminalALineThatWasCutIsRefused) {
  WriteText("long.txt", "/x" + std::string(200, 'y') + "\n");
  Terminal terminal(folder_, Command({}, "2"));
  ASSERT_TRUE(terminal.WaitFor("> ", 1)) << terminal.shown();
  terminal.Type("/" + std::string(4093, 'x') + "\n");
  ASSERT_TRUE(terminal.WaitFor("found the command '/xxx", 1)) << "4094 bytes are whole: " << terminal.shown();
  ASSERT_TRUE(terminal.WaitFor("> ", 2)) << terminal.shown();
  for (const size_t bytes : {4095, 6000}) {
    terminal.Type("begin\\\n");
    ASSERT_TRUE(terminal.WaitFor("\n| ", bytes == 4095 ? 1 : 2)) << terminal.shown();
    terminal.Type(std::string(bytes, 'x') + "\n");
    const int times = bytes == 4095 ? 1 : 2;
    ASSERT_TRUE(terminal.WaitFor("not sent: longer than a terminal's line (4095 bytes)", times))
        << terminal.shown();
    ASSERT_TRUE(terminal.WaitFor("> ", 2 + times)) << terminal.shown();
  }
  terminal.Type("/file long.txt\n");
  ASSERT_TRUE(terminal.WaitFor("> ", 5)) << terminal.shown();
  terminal.Type("/save saved.json\n");
  ASSERT_TRUE(terminal.WaitFor("> ", 6)) << terminal.shown();
  terminal.Type("\x04");
  EXPECT_EQ(terminal.Status(), 0);
  const auto saved = ParseJson(ReadAll(Path("saved.json")));
  ASSERT_TRUE(saved.ok());
  ASSERT_EQ(saved->size(), 2u) << *saved;
  EXPECT_EQ((*saved)[0]["content"], "/x" + std::string(200, 'y'));
}

// A pipe has no such limit, and sends files too.
TEST_F(ChatTest, LongLinesAndFilesThroughAPipe) {
  const std::string line(5000, 'x');
  WriteText("template.jinja", "{% for m in messages %}{{ m.role ~ (m.content | length) }}{% endfor %}");
  WriteText("two lines.txt", "one\ntwo\n\n");
  const Outcome outcome =
      RunWith("begin" + line + "end\n/file two lines.txt\n/save saved.json\n", Command({"--json"}, "2"));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto saved = ParseJson(ReadAll(Path("saved.json")));
  ASSERT_TRUE(saved.ok());
  ASSERT_EQ(saved->size(), 4u);
  EXPECT_EQ((*saved)[0]["content"], "begin" + line + "end");
  EXPECT_EQ((*saved)[2]["content"], "one\ntwo\n");
}

TEST_F(ChatTest, InTheTerminalTheEndOfTheInputLeaves) {
  Terminal terminal(folder_, Command());
  ASSERT_TRUE(terminal.WaitFor("> ", 1)) << terminal.shown();
  terminal.Type("\x04");
  EXPECT_EQ(terminal.Status(), 0);
}

}  // namespace
}  // namespace planish
