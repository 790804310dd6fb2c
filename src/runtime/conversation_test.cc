// Conversations: what is kept in the cache never changes an answer, for every kind of memory a model has.
#include "runtime/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "model/model_test_util.h"

namespace planish {
namespace {

using test::ModelFolder;
using test::TestContext;

// One token a letter "a" to "t" and byte, so that it serves models of 256 ids.
std::string LetterTokenizer() {
  Json vocab = Json::object();
  for (int id = 0; id < 26; ++id) vocab[std::string(1, static_cast<char>('a' + id))] = id;
  for (int id = 26; id < 256; ++id) vocab["t" + std::to_string(id)] = id;
  const Json json = {
      {"added_tokens", Json::array()},
      {"pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  return DumpJson(json);
}

class ConversationTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DirectoryExists(ModelFolder("tiny"))) GTEST_SKIP() << ModelFolder("tiny") << " is missing";
    auto tokenizer = Tokenizer::Parse(LetterTokenizer(), "letters");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    tokenizer_ = *std::move(tokenizer);
    path_ = testing::TempDir() + "planish_conversation_" + std::to_string(getpid()) + ".jinja";
    ASSERT_TRUE(WriteFileAtomically(path_,
                                    "{% for m in messages %}{{ m.role[0] ~ m.content }}{% endfor %}"
                                    "{% if add_generation_prompt %}z{% endif %}")
                    .ok());
  }
  void TearDown() override { std::filesystem::remove(path_); }
  ChatTemplate Chat() const {
    auto chat = ChatTemplate::LoadFile(testing::TempDir(), path_);
    EXPECT_TRUE(chat.ok()) << chat.error().message;
    return *std::move(chat);
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string path_;
};

constexpr int64_t kContext = 160;

// Turns long enough to leave a window of 32 and to cross longrope's 64 tokens; each answer is compared with
// what a runner without a past makes of the same prompt.
TEST_F(ConversationTest, KeptTokensDoNotChangeAnswers) {
  const TestContext run;
  for (const char* name :
       {"tiny/llama_bias", "tiny/gemma2", "tiny/starcoder2", "tiny/mamba2", "tiny/phi3_longrope"}) {
    SCOPED_TRACE(name);
    const auto model = LoadModel(ModelFolder(name));
    ASSERT_TRUE(model.ok()) << model.error().message;
    PlainRunner runner(*model, 1, kContext);
    GenerateOptions options{.max_tokens = 9, .context = kContext, .sampling = {.temperature = 0}};
    options.stop_at_eos = false;
    Conversation conversation(model->program, runner, *tokenizer_, Chat(), options);
    int64_t kept = 0;
    for (int turn = 0; turn < 4; ++turn) {
      const std::string text(22, static_cast<char>('b' + turn));
      const auto reply = conversation.Ask(run.context, text, {}, [](const std::string&) {});
      ASSERT_TRUE(reply.ok()) << reply.error().message;
      kept += reply->kept_tokens;
      std::vector<ChatMessage> before(conversation.messages().begin(), conversation.messages().end() - 1);
      const auto prompt = Chat().Render(MessagesJson(before), {});
      ASSERT_TRUE(prompt.ok()) << prompt.error().message;
      const auto ids = ChatTemplate::Encode(*tokenizer_, *prompt);
      ASSERT_TRUE(ids.ok()) << ids.error().message;
      ASSERT_EQ(static_cast<int64_t>(ids->size()), reply->prompt_tokens);
      PlainRunner fresh(*model, 1, kContext);
      const auto expected =
          Generate(run.context, model->program, fresh, *ids, options, [](int32_t) { return true; });
      ASSERT_TRUE(expected.ok()) << expected.error().message;
      EXPECT_EQ(reply->result.ids, expected->ids) << turn;
    }
    if (std::string(name) == "tiny/llama_bias") {
      EXPECT_GT(kept, 60);
    }
  }
}

TEST_F(ConversationTest, MessagesStayAsTheyWereOnErrors) {
  const TestContext run;
  const auto model = LoadModel(ModelFolder("tiny/llama_bias"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  PlainRunner runner(*model, 1, 32);
  GenerateOptions options{.max_tokens = 4, .context = 32, .sampling = {.temperature = 0}};
  Conversation conversation(model->program, runner, *tokenizer_, Chat(), options);
  conversation.SetSystem("sss");
  const auto silent = [](const std::string&) {};
  const auto too_long = conversation.Ask(run.context, std::string(40, 'x'), {}, silent);
  ASSERT_FALSE(too_long.ok());
  EXPECT_EQ(
      too_long.error().message,
      "the message has 46 tokens with what the template adds, the context holds 32; raise --context or ask "
      "for less");
  EXPECT_EQ(conversation.messages().size(), 1u);
  EXPECT_FALSE(conversation.Again(run.context, {}, silent).ok());
  int64_t left_out = 0;
  for (int turn = 0; turn < 4; ++turn) {
    const auto reply = conversation.Ask(run.context, "abcdefgh", {}, silent);
    ASSERT_TRUE(reply.ok()) << reply.error().message;
    left_out += reply->left_out;
    EXPECT_LE(reply->prompt_tokens, 32);
  }
  EXPECT_GT(left_out, 0);
  EXPECT_EQ(conversation.messages().size(), 9u) << "what is left out stays in the list";
  // An interruption before the first token leaves nothing behind.
  std::atomic<bool> cancel{true};
  Context cancelled = run.context;
  cancelled.cancel = &cancel;
  const auto reply = conversation.Ask(cancelled, "ab", {}, silent);
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_TRUE(reply->result.interrupted);
  EXPECT_EQ(conversation.messages().size(), 9u);
  conversation.Reset();
  EXPECT_EQ(conversation.messages().size(), 1u);
}

TEST(ReusablePrefix, StopsWhereTheMemoryCannotGoBack) {
  const std::vector<int32_t> cached = {1, 2, 3, 4, 5, 6};
  const std::vector<int32_t> longer = {1, 2, 3, 4, 5, 6, 7}, other = {1, 2, 3, 9, 9}, first = {9};
  Program plain;
  EXPECT_EQ(ReusablePrefix(plain, cached, longer), 6);
  EXPECT_EQ(ReusablePrefix(plain, cached, other), 3);
  EXPECT_EQ(ReusablePrefix(plain, cached, cached), 5) << "the last token is run for its logits";
  EXPECT_EQ(ReusablePrefix(plain, cached, first), 0);
  Program states;
  states.states = 1;
  EXPECT_EQ(ReusablePrefix(states, cached, longer), 6);
  EXPECT_EQ(ReusablePrefix(states, cached, other), 0);
  const auto windowed = [](int64_t window) {
    Program program;
    AttentionOp attention{};
    attention.shape.window = window;
    program.blocks.emplace_back().ops.push_back({.body = attention});
    return program;
  };
  EXPECT_EQ(ReusablePrefix(windowed(4), cached, longer), 6);
  EXPECT_EQ(ReusablePrefix(windowed(4), cached, other), 0);
  EXPECT_EQ(ReusablePrefix(windowed(6), cached, other), 3);
  Program longrope;
  longrope.ropes.emplace_back().long_inv_freq = {1};
  longrope.ropes[0].longer_than = 6;
  EXPECT_EQ(ReusablePrefix(longrope, cached, longer), 0) << "7 tokens take the long frequencies";
  EXPECT_EQ(ReusablePrefix(longrope, cached, other), 3);
}

}  // namespace
}  // namespace planish
