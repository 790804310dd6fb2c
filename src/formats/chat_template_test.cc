// Where chat templates are found, what they are given, and the ids of what they render.
#include "formats/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "formats/gguf.h"

namespace planish {
namespace {

using testing::HasSubstr;

class ChatTemplateTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "planish_chat_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) const {
    const std::string path = JoinPath(folder_, name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    ASSERT_TRUE(WriteFileAtomically(path, text).ok());
  }
  std::string Hello(const std::string& name = "") const {
    const auto chat = ChatTemplate::Load(folder_, name);
    if (!chat.ok()) return chat.error().message;
    const auto text = chat->Render({{{"role", "user"}, {"content", "hi"}}}, {});
    return text.ok() ? *text : text.error().message;
  }
  std::string folder_;
};

TEST_F(ChatTemplateTest, FilesComeInTransformersOrder) {
  Write("tokenizer_config.json", R"({"chat_template": "config {{ messages[0].content }}"})");
  EXPECT_EQ(Hello(), "config hi");
  Write("chat_template.json", R"({"chat_template": "json {{ messages[0].content }}"})");
  EXPECT_EQ(Hello(), "json hi");
  Write("chat_template.jinja", "jinja {{ messages[0].content }}\n");
  EXPECT_EQ(Hello(), "jinja hi");
  Write("additional_chat_templates/tool_use.jinja", "tools {{ tools is none }}");
  EXPECT_EQ(Hello("tool_use"), "tools True");
  EXPECT_EQ(Hello("rag"), folder_ + ": there is no chat template 'rag'; found: default");
}

TEST_F(ChatTemplateTest, NamedTemplatesAndSpecialTokens) {
  Write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "unk_token": null, "pad_token": "",
            "extra_special_tokens": {"image_token": "<img>"},
            "chat_template": [{"name": "default", "template": "{{ bos_token ~ eos_token ~ image_token }}"},
                              {"name": "rag", "template": "{{ unk_token is defined }} {{ pad_token is defined }} {{ cls_token }}"}]})");
  Write("special_tokens_map.json", R"({"bos_token": "<other>", "cls_token": {"content": "[CLS]"}})");
  EXPECT_EQ(Hello(), "<s></s><img>");
  EXPECT_EQ(Hello("rag"), "False False [CLS]");
}

TEST_F(ChatTemplateTest, MalformedFilesAreNamed) {
  const struct {
    const char* config;
    const char* message;
  } cases[] = {
      {"{}",
       ": found no chat template; looked at chat_template.jinja, chat_template.json and chat_template of "
       "tokenizer_config.json"},
      {"[]", "tokenizer_config.json: expected an object"},
      {"{", "tokenizer_config.json: not valid JSON at byte"},
      {R"({"chat_template": 3})",
       "tokenizer_config.json: chat_template: expected a string or a list of {name, template}, found number"},
      {R"({"chat_template": ["x"]})",
       "tokenizer_config.json: chat_template: entry 0: expected a string or a list"},
      {R"({"chat_template": [{"name": "a"}]})",
       "tokenizer_config.json: chat_template: entry 0: field 'template' is missing"},
      {R"({"chat_template": [{"name": "a", "template": "x"}]})",
       "there is no chat template 'default'; found: a"},
      {R"({"chat_template": "\n{% if %}"})",
       "tokenizer_config.json: chat_template: line 2: expected an expression, found the end of the tag"},
      {R"({"chat_template": "{{ raise_exception('no') }}"})",
       "tokenizer_config.json: chat_template: line 1: the template refuses: no"},
  };
  for (const auto& c : cases) {
    Write("tokenizer_config.json", c.config);
    EXPECT_THAT(Hello(), HasSubstr(c.message)) << c.config;
  }
}

TEST_F(ChatTemplateTest, GgufFilesHoldTemplateAndTokens) {
  GgufMetadata metadata;
  metadata.String("tokenizer.chat_template", "{{ bos_token ~ messages[0].content ~ eos_token }}");
  metadata.String("tokenizer.chat_template.tool_use", "tools");
  metadata.Strings("tokenizer.ggml.tokens", std::vector<std::string>{"a", "<s>", "</s>"});
  metadata.Int("tokenizer.ggml.bos_token_id", 1);
  metadata.Int("tokenizer.ggml.eos_token_id", 2);
  const std::string path = JoinPath(folder_, "model.gguf");
  auto writer = GgufWriter::Create(path, metadata, {});
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  ASSERT_TRUE(writer->Commit().ok());
  folder_ += "/model.gguf";
  EXPECT_EQ(Hello(), "<s>hi</s>");
  EXPECT_EQ(Hello("tool_use"), "tools");
  folder_ = std::filesystem::path(folder_).parent_path();
}

TEST_F(ChatTemplateTest, GoldenTextsOfTransformers) {
  const std::string path = std::string(PLANISH_SHARED_DIR) + "/models/tiny/templates.json";
  if (!FileExists(path)) GTEST_SKIP() << path << " is missing";
  const auto golden = ReadTextFile(path);
  ASSERT_TRUE(golden.ok()) << golden.error().message;
  size_t cases = 0;
  for (const OrderedJson& family : OrderedJson::parse(*golden)) {
    SCOPED_TRACE(family["name"].get<std::string>());
    const OrderedJson config = {{"bos_token", family["bos_token"]}, {"eos_token", family["eos_token"]}};
    Write("tokenizer_config.json", DumpJson(config));
    Write("chat_template.jinja", family["template"].get<std::string>());
    const auto chat = ChatTemplate::Load(folder_);
    ASSERT_TRUE(chat.ok()) << chat.error().message;
    for (const OrderedJson& one : family["cases"]) {
      ++cases;
      ChatOptions options;
      options.add_generation_prompt = one["add_generation_prompt"].get<bool>();
      options.extra = one["extra"];
      const auto rendered = chat->Render(one["messages"], options);
      if (one.contains("error")) {
        ASSERT_FALSE(rendered.ok()) << *rendered;
        EXPECT_TRUE(
            rendered.error().message.ends_with(": the template refuses: " + one["error"].get<std::string>()))
            << rendered.error().message;
        continue;
      }
      ASSERT_TRUE(rendered.ok()) << rendered.error().message;
      EXPECT_EQ(*rendered, one["rendered"].get<std::string>());
    }
  }
  EXPECT_GE(cases, 100u);
}

// A byte-level tokenizer of single letters and two special tokens, whose post-processor would add BOS.
constexpr const char* kTokenizer = R"({
  "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
                   {"id": 5, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
                   {"id": 6, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
  "post_processor": {"type": "TemplateProcessing",
     "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
     "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
     "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
  "model": {"type": "BPE", "vocab": {"h": 0, "i": 1, "x": 2, "y": 3}, "merges": []}})";

TEST_F(ChatTemplateTest, IdsHoldSpecialTokensOnceAndEndsAreFound) {
  const auto tokenizer = Tokenizer::Parse(kTokenizer, "test");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  Write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "<eos>", "chat_template":
    "{{ bos_token }}{% for m in messages %}{{ m.content }}<end>{% endfor %}"})");
  const auto chat = ChatTemplate::Load(folder_);
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  const auto text = chat->Render({{{"role", "user"}, {"content", "hi"}}}, {});
  ASSERT_TRUE(text.ok());
  const auto ids = ChatTemplate::Encode(**tokenizer, *text);
  ASSERT_TRUE(ids.ok()) << ids.error().message;
  EXPECT_THAT(*ids, testing::ElementsAre(4, 0, 1, 5));
  EXPECT_THAT(chat->EndTokens(**tokenizer), testing::ElementsAre(6, 5));
  Write("tokenizer_config.json", R"({"chat_template": "{{ raise_exception('never') }}"})");
  const auto refuses = ChatTemplate::Load(folder_);
  ASSERT_TRUE(refuses.ok());
  EXPECT_THAT(refuses->EndTokens(**tokenizer), testing::IsEmpty());
}

}  // namespace
}  // namespace planish
