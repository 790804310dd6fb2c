// Number formats and files as people meet them: `planish grids`, --precision-bits on all verbs that run a
// model, what `convert` says of statistics and joined layers, names of outputs.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
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

// The parts that --help lists are those that are read.
TEST_F(CliTest, PartsOfGridsInHelp) {
  const std::string help = Run({"grids", "--help"}).out;
  for (const char* part : {"\n  gN  ", "\n  sN  ", "\n  sym  ", "\n  zN  ", "\n  row  ", "\n  each  "}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
  const Outcome twice = Run({"grids", "demo", "--calibration", kSample, "--grid", "int4 g64 g32"});
  EXPECT_EQ(twice.status, 2);
  EXPECT_THAT(twice.err, HasSubstr("grid 'int4 g64 g32': 'g32': another part says this already"));
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

// What a hangup leaves is gone on with; nohup's ignoring of it stays.
TEST_F(CliTest, AHangupIsAnInterrupt) {
  std::string text;
  const std::string sample = ReadAll(kSample);
  while (text.size() < 2'000'000) text += sample;
  WriteText("long.txt", text);
  const std::vector<std::string> command = {"compress", "demo",        "-o",  "q4",        "--calibration",
                                            "long.txt", "--windows",   "64",  "--context", "512",
                                            "-q",       "--precision", "fp32"};
  const pid_t child = Start(command);
  while (!std::filesystem::exists(Path("q4.partial/block-0001.safetensors"))) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_EQ(waitpid(child, nullptr, WNOHANG), 0) << "ended before its first block";
  }
  ASSERT_EQ(kill(child, SIGHUP), 0);
  const Outcome outcome = Wait(child);
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
  }
  const Outcome again = Run(command);
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("resumed at block "));
  std::signal(SIGHUP, SIG_IGN);
  const pid_t ignoring = Start({"inspect", "demo"});
  std::signal(SIGHUP, SIG_DFL);
  kill(ignoring, SIGHUP);
  EXPECT_EQ(Wait(ignoring).status, 0);
}

// An empty name is a mistake of the command line, whatever the verb.
TEST_F(CliTest, EmptyNamesOfOutputsAreRefusedAtOnce) {
  const std::vector<std::string> commands[] = {{"compress", "nowhere", "--calibration", kSample, "-o"},
                                               {"convert", "nowhere", "--to", "hf-bf16", "-o"},
                                               {"calibrate", "nowhere", "--text", kSample, "-o"},
                                               {"calibrate", "nowhere", "--text", kSample, "--imatrix"},
                                               {"logits", "nowhere", "--ids", "1", "-o"},
                                               {"pack", "nowhere", "-o"},
                                               {"grids", "nowhere", "--svg"}};
  for (std::vector<std::string> command : commands) {
    command.emplace_back("");
    const Outcome outcome = Run(command);
    SCOPED_TRACE(fmt::format("planish {}", fmt::join(command, " ")));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.err, HasSubstr("expected a name, found ''"));
  }
}

// Outputs go where a link of their name leads, and the link stays.
TEST_F(CliTest, OutputsAreWrittenThroughLinks) {
  std::filesystem::create_directory(Path("disk"));
  for (const char* name : {"l.npy", "m.gguf", "folder", "small"}) {
    std::filesystem::create_symlink(std::string("disk/") + name, Path(name));
  }
  EXPECT_EQ(Run({"logits", "demo", "--ids", "1,2", "-o", "l.npy", "-q"}).status, 0);
  EXPECT_EQ(Run({"convert", "demo", "-o", "m.gguf", "--to", "gguf:q8_0", "-q"}).status, 0);
  EXPECT_EQ(Run({"convert", "demo", "-o", "folder", "--to", "hf-bf16", "-q"}).status, 0);
  const Outcome compressed = Run({"compress", "demo", "-o", "small/", "--method", "rtn", "--calibration",
                                  kSample, "--windows", "1", "--context", "64", "-q"});
  EXPECT_EQ(compressed.status, 0) << compressed.err;
  for (const char* name : {"l.npy", "m.gguf", "folder", "small"}) {
    EXPECT_TRUE(std::filesystem::is_symlink(Path(name))) << name;
    EXPECT_TRUE(std::filesystem::exists(Path(std::string("disk/") + name))) << name;
  }
  EXPECT_EQ(Run({"inspect", "small", "--fast"}).status, 0);
  int64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Path("disk"))) files += !entry.path().empty();
  EXPECT_EQ(files, 4);  // nothing unfinished
}

TEST_F(CliTest, CalibrationTextsThatAreTooShort) {
  WriteText("empty.txt", "");
  WriteText("short.txt", "Once upon a time");
  const auto message = [&](const char* file) {
    const Outcome outcome = Run({"grids", "demo", "--calibration", file});
    EXPECT_EQ(outcome.status, 2);
    return outcome.err;
  };
  EXPECT_THAT(
      message("empty.txt"),
      HasSubstr("empty.txt: calibration: the text is empty, too few for one window of 512; give more text"));
  EXPECT_THAT(message("short.txt"),
              testing::ContainsRegex("the text has [0-9]+ tokens, too few for one window"));
}

// NVFP4 with feedback to compressed-tensors and back, the same numbers; parts of joined layers of different
// grids only when asked for.
TEST_F(CliTest, CompressedTensorsOfNvfp4AndOfMixedParts) {
  const auto compress = [&](const std::string& output, std::vector<std::string> more) {
    more.insert(more.begin(), {"compress", "demo", "-o", output, "--calibration", kSample, "--windows", "2",
                               "--context", "64", "-q"});
    return Run(more);
  };
  const Outcome made = compress("nv", {"--grid", "nvfp4"});
  ASSERT_EQ(made.status, 0) << made.err;
  const Outcome written = Run({"convert", "nv", "-o", "ct", "--to", "compressed-tensors", "-q"});
  ASSERT_EQ(written.status, 0) << written.err;
  EXPECT_EQ(RunJson({"diff", "nv", "ct"})["same"], true);
  WriteText(
      "mixed.toml",
      "[[stage]]\nmethod = \"rtn\"\nbits = 4\ngroup = 64\n[[rule]]\nmatch = \"*.v_proj.weight\"\nbits = 8\n");
  ASSERT_EQ(compress("mixed", {"--recipe", "mixed.toml"}).status, 0);
  for (const char* to : {"gptq", "compressed-tensors"}) {
    const Outcome refused = Run({"convert", "mixed", "-o", to, "--to", to, "-q"});
    EXPECT_EQ(refused.status, 3);
    EXPECT_THAT(refused.err, HasSubstr("being of different grids or orders of groups (18 layers: "));
    EXPECT_THAT(refused.err, HasSubstr("model.layers.{0-5}.self_attn.k_proj"));
    EXPECT_FALSE(std::filesystem::exists(Path(to)));
    const Outcome allowed = Run({"convert", "mixed", "-o", to, "--to", to, "-q", "--allow", "mixed-fused"});
    EXPECT_EQ(allowed.status, 0) << allowed.err;
    EXPECT_THAT(allowed.out, HasSubstr("will not load it, joining layers that here differ: "
                                       "model.layers.{0-5}.self_attn.qkv_proj"));
    EXPECT_EQ(RunJson({"diff", "mixed", to})["same"], true);
  }
  const Outcome other =
      Run({"convert", "mixed", "-o", "m.gguf", "--to", "gguf:q8_0", "--allow", "mixed-fused"});
  EXPECT_EQ(other.status, 2);
  EXPECT_THAT(other.err,
              HasSubstr("--allow mixed-fused: target 'gguf' is read by no server that joins layers"));
  EXPECT_EQ(Run({"convert", "mixed", "-o", "x", "--to", "gptq", "--allow", "anything"}).status, 2);
}

// The copy of tokenizer.json in a GGUF file, damaged, is seen by verbs that do not need the tokenizer.
TEST_F(CliTest, DamagedTokenizersOfGgufFilesAreSeen) {
  ASSERT_EQ(Run({"convert", "demo", "-o", "m.gguf", "--to", "gguf:q8_0", "-q"}).status, 0);
  const std::string whole = ReadAll(Path("m.gguf"));
  const auto with = [&](const std::string& found, const std::string& instead) {
    std::string text = whole;
    const size_t at = text.find(found);
    EXPECT_NE(at, std::string::npos) << found;
    EXPECT_EQ(found.size(), instead.size());
    WriteText("b.gguf", text.replace(at, found.size(), instead));
    return Run({"inspect", "b.gguf", "--fast"});
  };
  const Outcome good = Run({"inspect", "m.gguf", "--fast"});
  EXPECT_EQ(good.status, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("tokenizer: tokenizer.huggingface.json (BPE, "));
  EXPECT_THAT(RunJson({"inspect", "m.gguf", "--fast"})["tokenizer"].get<std::string>(), HasSubstr("(BPE, "));
  EXPECT_FALSE(RunJson({"inspect", "demo", "--fast"}).contains("tokenizer"));

  const Outcome damaged = with("\"added_tokens\"", "\"added_tokens:");
  EXPECT_EQ(damaged.status, 2);
  EXPECT_THAT(damaged.out, HasSubstr("tokenizer: cannot be read\n"));
  EXPECT_THAT(damaged.out, HasSubstr("model.layers.5.mlp.down_proj.weight"));  // the rest is shown
  EXPECT_THAT(damaged.err, HasSubstr("b.gguf: tokenizer.huggingface.json"));
  for (const char* to : {"gguf:q4_0", "hf-bf16", "gptq"}) {
    const Outcome convert = Run({"convert", "b.gguf", "-o", "out-of", "--to", to, "-q"});
    EXPECT_EQ(convert.status, 2) << to;
    EXPECT_THAT(convert.err, HasSubstr("b.gguf: tokenizer.huggingface.json")) << to;
    EXPECT_FALSE(std::filesystem::exists(Path("out-of")));
  }
}

}  // namespace
}  // namespace planish
