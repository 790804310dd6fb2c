// Ids and texts of tokenizers equal to those of the packages `tokenizers` and `sentencepiece`, on a megabyte
// of mixed text. tests/tokenizer_packages.py trains the tokenizers, in a virtual environment that the test
// makes.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "formats/sentencepiece.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_test_util.h"
#include "formats/tokenizer_unicode.h"

namespace planish {
namespace {

using Ids = std::vector<int32_t>;

// The sum of the scores of a unigram model's pieces; 0 for other models. Ways to cut a text whose sums are
// equal but for rounding occur in long runs of one character; which one is taken depends on the version of
// the package.
double ScoreOf(const SentencePieceModel* model, const Ids& ids) {
  double sum = 0;
  for (const int32_t id : ids) sum += model == nullptr ? 0 : model->pieces[static_cast<size_t>(id)].score;
  return sum;
}

void Compare(const std::string& folder, const Json& text) {
  const auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const Json expected = ReadJson(folder + "/expected.json");
  // SentencePiece never takes text for control pieces; the other package always finds special tokens.
  const bool recognize = std::filesystem::exists(folder + "/tokenizer.json");
  const size_t count = text["chunks"].size();
  ASSERT_EQ(expected["ids"].size(), count);
  std::unique_ptr<const SentencePieceModel> unigram;
  if (const auto file = ReadTextFile(folder + "/tokenizer.model"); file.ok()) {
    auto model = SentencePieceModel::Parse(*file);
    ASSERT_TRUE(model.ok());
    if (model->kind == SentencePieceModel::Kind::kUnigram) {
      unigram = std::make_unique<const SentencePieceModel>(*std::move(model));
    }
  }
  const auto same = [&unigram](const Ids& ids, const Ids& wanted) {
    if (ids == wanted) return true;
    const double score = ScoreOf(unigram.get(), ids), wanted_score = ScoreOf(unigram.get(), wanted);
    return unigram != nullptr && std::abs(score - wanted_score) <= 1e-6 * std::abs(wanted_score);
  };
  int wrong = 0, ties = 0;
  for (size_t i = 0; i < count && wrong < 3; ++i) {
    const auto chunk = text["chunks"][i].get<std::string>();
    const auto ids = (*tokenizer)->Encode(chunk, false, recognize);
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    const auto decoded = expected["decoded"][i].get<std::string>();
    const Ids wanted = expected["ids"][i].get<Ids>();
    ties += *ids == wanted ? 0 : 1;
    const bool equal =
        same(*ids, wanted) && (*tokenizer)->Decode(*ids) == decoded && Stream(**tokenizer, *ids) == decoded;
    EXPECT_TRUE(equal) << folder << ", chunk " << i << ": " << chunk;
    wrong += equal ? 0 : 1;
  }
  const auto whole = (*tokenizer)->Encode(text["whole"].get<std::string>(), false, recognize);
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  EXPECT_TRUE(same(*whole, expected["whole"].get<Ids>())) << folder << ": the whole text";
  EXPECT_LE(ties * 50, static_cast<int>(count)) << folder;
  for (const Json& cut : expected["cuts"]) {
    EXPECT_EQ((*tokenizer)->Decode(cut["ids"].get<Ids>()), cut["decoded"].get<std::string>()) << folder;
  }
}

TEST(TokenizerPackagesSlow, EqualIdsAndTexts) {
  const std::string folder =
      (std::filesystem::temp_directory_path() / ("planish-packages-" + std::to_string(getpid()))).string();
  std::filesystem::create_directories(folder + "/out");
  const auto run = [](const std::string& command) { return std::system(command.c_str()) == 0; };
  const std::string python = folder + "/venv/bin/python";
  if (!run(fmt::format(
          "python3 -m venv '{}/venv' && '{}' -m pip install --quiet --retries 1 --timeout 20 tokenizers "
          "sentencepiece",
          folder, python))) {
    std::filesystem::remove_all(folder);
    fmt::print("skipped: no virtual environment with the packages tokenizers and sentencepiece\n");
    GTEST_SKIP();
  }
  ASSERT_TRUE(
      run(fmt::format("'{}' '{}/tests/tokenizer_packages.py' '{}/out'", python, PLANISH_SOURCE_DIR, folder)));
  const Json text = ReadJson(folder + "/out/text.json");
  // What is not UTF-8 is refused by Encode, and replaced as Python does.
  const auto raw = ReadTextFile(folder + "/out/raw.bin");
  ASSERT_TRUE(raw.ok());
  std::string replaced;
  AppendReplacingInvalid(*raw, false, &replaced);
  EXPECT_TRUE(replaced == text["whole"].get<std::string>());
  int kinds = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/out")) {
    if (!entry.is_directory()) continue;
    Compare(entry.path().string(), text);
    ++kinds;
  }
  EXPECT_EQ(kinds, 23);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace planish
