// Number formats as people meet them: `planish grids`, --precision-bits on all verbs that run a model, and
// what `convert` says of statistics.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/cli_test_util.h"

namespace planish {
namespace {

using testing::HasSubstr;

int64_t Count(const std::string& text, const std::string& part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Nothing, or what is wrong: every element ends in the order it was opened, one root holds all, and no text
// has a bare < or &.
std::string XmlError(const std::string& text) {
  std::vector<std::string> open;
  int roots = 0;
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '&') {
      const size_t end = text.find(';', at);
      const std::string entity = text.substr(at, end - at);
      if (entity != "&lt" && entity != "&gt" && entity != "&amp" && entity != "&quot")
        return "entity " + entity;
    }
    if (text[at] != '<') {
      if (open.empty() && text[at] != '\n') return "text outside the root";
      ++at;
      continue;
    }
    const size_t end = text.find_first_of("<>", at + 1);
    if (end == std::string::npos || text[end] == '<') return "a tag does not end";
    const std::string tag = text.substr(at + 1, end - at - 1);
    at = end + 1;
    if (Count(tag, "\"") % 2 != 0) return "quotes of " + tag;
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (name[0] == '/') {
      if (open.empty() || "/" + open.back() != name) return "end of " + name;
      open.pop_back();
    } else {
      roots += open.empty();
      if (!tag.ends_with('/')) open.push_back(name);
    }
  }
  return !open.empty() ? "no end of " + open.back() : roots == 1 ? "" : "roots";
}

TEST_F(CliTest, GridsAsTableJsonAndDrawing) {
  std::vector<std::string> arguments = {
      "grids", "demo",   "--calibration", kSample,  "--windows", "2",      "--context", "64", "--refit",
      "0",     "--grid", "int2 g64",      "--grid", "q2_k",      "--grid", "nf4 g32",   "-q"};
  const Outcome table = Run(arguments);
  ASSERT_EQ(table.status, 0) << table.err;
  EXPECT_EQ(Count(table.out, "\n"), 4);
  EXPECT_THAT(table.out, testing::StartsWith("grid "));
  EXPECT_THAT(table.out, HasSubstr("  iq4_nl in 1 of 7 layers\n"));
  arguments.insert(arguments.end(), {"--svg", "grids.svg"});
  const Json json = RunJson(arguments);
  ASSERT_EQ(json.size(), 3u);
  const std::string svg = ReadAll(Path("grids.svg"));
  EXPECT_EQ(XmlError(svg), "");
  EXPECT_EQ(Count(svg, "<title>"), 3);
  for (const Json& grid : json) {
    const double bits = grid["bits"], loss = grid["loss"];
    EXPECT_THAT(table.out, testing::ContainsRegex(fmt::format("{} +{:.4f} +[0-9.e-]+ +{:.4e}",
                                                              grid["grid"].get<std::string>(), bits, loss)));
    EXPECT_THAT(svg, HasSubstr(fmt::format("<title>{}: {:.3f} bits, {:.3e}", grid["grid"].get<std::string>(),
                                           bits, loss)));
  }
  EXPECT_EQ(json[0]["bits"], 2 + 18.0 / 64);
  EXPECT_EQ(json[0]["substitutes"], Json::object());
  EXPECT_EQ(json[1]["substitutes"], Json({{"iq4_nl", 1}}));
  EXPECT_THAT(svg, HasSubstr("; iq4_nl in 1 of 7 layers</title>"));
  const Outcome again = Run(arguments);
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.err, HasSubstr("grids.svg: already exists"));
}

TEST_F(CliTest, XmlErrorsAreSeen) {
  EXPECT_EQ(XmlError("<a x=\"1\"><b/>t &lt; u</a>\n"), "");
  for (const char* broken :
       {"<a>", "<a></b>", "<a/><b/>", "<a>&</a>", "<a b=\"></a>", "<a><b></a></b>", "x<a/>"}) {
    EXPECT_NE(XmlError(broken), "") << broken;
  }
}

// One file of 8-bit codes read at fewer: the same bytes, bits of the linears as they are read, damage that
// grows.
TEST_F(CliTest, OneFileSeveralPrecisions) {
  WriteText("one_block.toml",
            "[[stage]]\nmethod = \"rtn\"\nbits = 8\ngroup = 64\n"
            "[[rule]]\nmatch = \"*\"\nskip = true\n[[rule]]\nmatch = \"*.layers.0.*\"\nskip = false\n");
  ASSERT_EQ(Run({"compress", "demo", "-o", "q8", "--recipe", "one_block.toml", "--calibration", kSample,
                 "--windows", "1", "--context", "64", "-q"})
                .status,
            0);
  const std::string stored = ReadAll(Path("q8/model.safetensors"));
  const auto eval = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", "q8", "--reference", "demo", "--text", kSample, "--tokens", "100"});
    Json report = RunJson(more);
    report.erase("seconds");
    return report;
  };
  const Json whole = eval({});
  // One of six equal blocks, with fp16 scales and zeros of 8 bits in groups of 64; the others are bf16.
  const auto linear_bits = [](int bits) { return (bits + 24.0 / 64 + 5 * 16) / 6; };
  EXPECT_DOUBLE_EQ(whole["linear_bits_per_weight"], linear_bits(8));
  double last = whole["kl"];
  Json at_4;
  for (const int bits : {6, 4, 3, 2}) {
    const Json read = eval({"--precision-bits", std::to_string(bits)});
    EXPECT_GT(read["kl"], last) << bits;
    last = read["kl"];
    EXPECT_DOUBLE_EQ(read["linear_bits_per_weight"], linear_bits(bits));
    EXPECT_EQ(read["bytes"], whole["bytes"]);
    if (bits == 4) at_4 = read;
  }
  EXPECT_GT(eval({"--precision-bits", "4", "--precision-rule", "double"})["kl"], at_4["kl"]);
  EXPECT_EQ(eval({"--precision-bits", "8"}), whole);
  EXPECT_TRUE(ReadAll(Path("q8/model.safetensors")) == stored);

  // The other verbs read it the same way.
  const auto ids = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "q8", "-p", "user: Hello\nassistant:", "--greedy", "-n", "12"});
    return RunJson(more)["ids"];
  };
  const Json at_8 = ids({}), at_2 = ids({"--precision-bits", "2"});
  EXPECT_NE(at_8, at_2);
  WriteText("t.jinja", "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}assistant:");
  const Outcome chat = RunWith("Hello\n", {"chat", "q8", "--template", "t.jinja", "--greedy", "-n", "12",
                                           "--json", "--precision-bits", "2"});
  ASSERT_EQ(chat.status, 0) << chat.err;
  EXPECT_EQ((*ParseJson(chat.out))["ids"], at_2);
  ASSERT_EQ(Run({"pack", "q8", "-o", "two.pack", "--precision-bits", "2", "-q"}).status, 0);
  ASSERT_EQ(Run({"pack", "q8", "-o", "whole.pack", "-q"}).status, 0);
  EXPECT_LT(std::filesystem::file_size(Path("two.pack")), std::filesystem::file_size(Path("whole.pack")));
  EXPECT_EQ(ids({"--pack", "two.pack", "--precision-bits", "2"}), at_2);
  EXPECT_EQ(ids({"--pack", "whole.pack"}), at_8);

  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  const Case cases[] = {
      {{"generate", "q8", "-p", "x", "--pack", "two.pack"}, "two.pack: made from another model than q8"},
      {{"pack", "demo", "-o", "no.pack", "--precision-bits", "4"},
       "demo: no linear has integer codes of more than 4 bits; compress with --bits 8 to read at fewer "
       "later"},
      {{"chat", "demo", "--precision-bits", "4"}, "no linear has integer codes of more than 4 bits"},
      {{"eval", "q8", "--text", kSample, "--precision-rule", "double"},
       "--precision-rule requires --precision-bits"},
      {{"chat", "q8", "--precision-bits", "1"}, "--precision-bits"},
  };
  for (const Case& c : cases) {
    const Outcome outcome = Run(c.arguments);
    SCOPED_TRACE(fmt::format("planish {}", fmt::join(c.arguments, " ")));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
  }
}

TEST_F(CliTest, StatisticsForATypeThatWeighsNothing) {
  ASSERT_EQ(Run({"calibrate", "demo", "-o", "s.safetensors", "--text", kSample, "--windows", "1", "--context",
                 "64", "-q"})
                .status,
            0);
  for (const char* type : {"q8_0", "bf16"}) {
    const Outcome refused = Run({"convert", "demo", "-o", "m.gguf", "--to", fmt::format("gguf:{}", type),
                                 "--statistics", "s.safetensors"});
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err,
                HasSubstr("rounds its values one by one and weighs no errors; leave out --statistics"));
    EXPECT_FALSE(std::filesystem::exists(Path("m.gguf")));
  }
}

// Experts show the tokens routed to them; rare ones say that they stand on all tokens.
TEST_F(CliTest, CalibrateTellsRareExpertsFromTheOthers) {
  const std::string model = PLANISH_SHARED_DIR "/models/moe";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << model << " is missing";
  const std::vector<std::string> text = {"--text", kSample, "--windows", "1", "--context", "64", "-q"};
  const auto calibrate = [&](const std::string& name) {
    std::vector<std::string> command = {"calibrate", model, "-o", name};
    command.insert(command.end(), text.begin(), text.end());
    return command;
  };
  const Json sites = RunJson(calibrate("s.safetensors"));
  const Outcome shown = Run(calibrate("t.safetensors"));
  ASSERT_EQ(shown.status, 0) << shown.err;
  int64_t rare = 0, routed = 0;
  for (const Json& site : sites) {
    const int64_t seen = site["seen"], count = site["count"];
    const bool expert = site["site"].get<std::string>().find(".experts.") != std::string::npos;
    if (!expert) {
      EXPECT_EQ(seen, 64) << site;
    }
    if (!expert || site["fallback"] == false) {
      EXPECT_EQ(seen, count) << site;
      EXPECT_EQ(site["fallback"], false) << site;
      routed += expert ? 1 : 0;
      continue;
    }
    ++rare;
    EXPECT_EQ(count, 64) << site;
    EXPECT_THAT(
        shown.out,
        HasSubstr(fmt::format("{:>9} tokens  {} of 64 tokens, solved with all tokens' moments", seen, seen)));
  }
  EXPECT_GT(rare, 0);
  EXPECT_GT(routed, 0);
}

// The example of `calibrate --help`.
TEST_F(CliTest, CompressTakesStatisticsWithTheirText) {
  const auto with = [](std::vector<std::string> command) {
    for (const char* word : {"--windows", "1", "--context", "64", "-q"}) command.emplace_back(word);
    return command;
  };
  ASSERT_EQ(Run(with({"calibrate", "demo", "--text", kSample, "-o", "s.safetensors"})).status, 0);
  const Outcome made = Run(with({"compress", "demo", "-o", "small/", "--mode", "independent", "--calibration",
                                 kSample, "--statistics", "s.safetensors"}));
  EXPECT_EQ(made.status, 0) << made.err;
  const Outcome without =
      Run(with({"compress", "demo", "-o", "no/", "--mode", "independent", "--statistics", "s.safetensors"}));
  EXPECT_EQ(without.status, 2);
  EXPECT_THAT(without.err, HasSubstr("give --calibration FILE"));
  EXPECT_THAT(Run({"calibrate", "--help"}).out,
              HasSubstr("--mode independent --calibration book.txt --statistics statistics.safetensors"));
}

}  // namespace
}  // namespace planish
