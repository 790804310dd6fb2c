// The program as people and scripts meet it: exit statuses, messages, JSON on standard output, and results
// that do not depend on threads. Runs the built program; only what it prints and returns is looked at.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "apps/cli_test_util.h"
#include "model/family_models.h"

namespace planish {
namespace {

using testing::HasSubstr;

TEST_F(CliTest, HelpOfTheProgramAndOfEveryVerb) {
  const Outcome help = Run({"--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_EQ(help.err, "");
  for (const char* verb : {"eval", "generate", "chat", "logits", "inspect", "calibrate", "compress", "grids",
                           "completion", "bench", "pack"}) {
    EXPECT_THAT(help.out, HasSubstr(fmt::format("\n  {} ", verb)));
    const Outcome of_verb = Run({verb, "--help"});
    EXPECT_EQ(of_verb.status, 0) << verb;
    EXPECT_EQ(of_verb.err, "") << verb;
    EXPECT_THAT(of_verb.out, HasSubstr(fmt::format("Usage: planish {}", verb)));
    EXPECT_THAT(of_verb.out, HasSubstr("Examples:\n"));
  }
  const Outcome version = Run({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_THAT(version.out, testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST_F(CliTest, BadUsageAndBadInputEndWithTwoAndAMessage) {
  WriteText("latin1.txt", "caf\xe9 au lait");
  WriteText("empty.txt", "");
  std::filesystem::create_directories(Path("broken"));
  WriteText("broken/config.json", R"({"model_type":"lama"})");
  std::filesystem::create_directories(Path("no_weights"));
  std::filesystem::copy(kDemo + "/config.json", Path("no_weights/config.json"));
  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  const Case cases[] = {
      {{}, "A subcommand is required"},
      {{"frobnicate"}, "required"},
      {{"eval", "demo"}, "--text is required"},
      {{"eval", "demo", "--text", kSample, "--frob"}, "--frob"},
      {{"eval", "demo", "--text", kSample, "--set", "half"}, "--set"},
      {{"eval", "demo", "--text", kSample, "--threads", "-1"}, "--threads"},
      {{"eval", "demo", "--text", kSample, "--isa", "mmx"},
       "--isa: expected scalar, sse4, avx2 or avx512, found 'mmx'"},
      {{"eval", "demo", "--text", kSample, "--strict", "--precision", "bf16"},
       "--precision bf16 with --strict: only fp32"},
      {{"eval", "demo", "--text", kSample, "--strict", "--reference-precision", "split"},
       "--reference-precision split with --strict"},
      {{"compress", "demo", "-o", "q", "--precision", "fp16"}, "--precision"},
      {{"eval", "demo", "--text", "missing.txt"}, "missing.txt"},
      {{"eval", "demo", "--text", "latin1.txt"}, "latin1.txt"},
      {{"eval", "demo", "--text", "empty.txt"}, "at least 2 are needed"},
      {{"eval", "demo", "--text", kSample, "--stride", "2000"}, "stride 2000"},
      {{"eval", "demo", "--text", kSample, "--context", "1"}, "--context"},
      {{"eval", "nowhere", "--text", kSample}, "nowhere"},
      {{"inspect", "nowhere"}, "nowhere: no such folder"},
      {{"inspect", "broken"}, "model_type 'lama' is not known"},
      {{"inspect", "no_weights"}, "neither model.safetensors nor"},
      {{"generate", "demo"}, "--prompt is required"},
      {{"generate", "demo", "--prompt", "caf\xe9"}, "--prompt: "},
      {{"generate", "demo", "--prompt", ""}, "the prompt has no tokens"},
      {{"generate", "demo", "--prompt", "Once", "--top-p", "2"}, "--top-p"},
      {{"generate", "demo", "--prompt", "Once upon a time", "--context", "2", "--json"},
       "the context holds 2"},
      {{"logits", "demo"}, "give either --ids or --prompt"},
      {{"logits", "demo", "--ids", "1", "--prompt", "a"}, "give either --ids or --prompt"},
      {{"logits", "demo", "--ids", "1,x"}, "--ids: expected numbers separated by commas, found 'x'"},
      {{"logits", "demo", "--ids", ","}, "--ids: the list is empty"},
      {{"logits", "demo", "--ids", "8192"}, "id 8192; the vocabulary has 8192"},
      {{"logits", "demo", "--ids", "-1"}, "id -1; the vocabulary has 8192"},
      {{"logits", "demo", "--ids", "99999999999"}, "--ids: "},
      {{"logits", "demo", "--prompt", "\xff"}, "--prompt: "},
      {{"completion", "tcsh"}, "tcsh"},
  };
  for (const Case& c : cases) {
    const Outcome outcome = Run(c.arguments);
    SCOPED_TRACE(fmt::format("planish {}", fmt::join(c.arguments, " ")));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
    EXPECT_EQ(outcome.out, "");
  }
}

TEST_F(CliTest, EvalGivesTheSameNumbersForAnyThreads) {
  const auto eval = [&](const std::string& threads) {
    Json report = RunJson(
        {"eval", "demo", "--text", kSample, "--tokens", "3000", "--context", "512", "--threads", threads});
    EXPECT_GT(report["seconds"].get<double>(), 0);
    report.erase("seconds");
    return report;
  };
  const Json expected = eval("1");
  EXPECT_EQ(expected["tokens"], 3000 - 6);  // windows of 512: six, each but for its first token
  const auto perplexity = expected["perplexity"].get<double>();
  EXPECT_GT(perplexity, 20);
  EXPECT_LT(perplexity, 200);
  EXPECT_EQ(expected["profile"], "fast");
  EXPECT_TRUE(expected["kl"].is_null());
  for (const char* threads : {"2", "3"}) EXPECT_EQ(eval(threads), expected) << threads;
}

TEST_F(CliTest, AModelDoesNoDamageToItself) {
  const Json report = RunJson({"eval", "demo", "--reference", "demo", "--text", kSample, "--tokens", "600"});
  EXPECT_EQ(report["kl"], 0.0);
  EXPECT_EQ(report["top1"], 1.0);
  EXPECT_EQ(report["dp_rms"], 0.0);
  EXPECT_EQ(report["perplexity"], report["reference_perplexity"]);
  const Json two = RunJson({"eval", "demo", "demo", "--text", kSample, "--tokens", "100"});
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0]["model"], "demo");
  EXPECT_EQ(two[0]["perplexity"], two[1]["perplexity"]);
}

// A model against itself: what 8 and 16 bits in place of 24 do to the linears' factors.
TEST_F(CliTest, PrecisionsAddLittle) {
  const auto kl = [&](const char* precision) {
    const Json report = RunJson({"eval", "demo", "--precision", precision, "--reference", "demo",
                                 "--reference-precision", "fp32", "--text", kSample, "--tokens", "600"});
    EXPECT_EQ(report["precision"], precision);
    return report["kl"].get<double>();
  };
  EXPECT_EQ(kl("fp32"), 0.0);
  const double bf16 = kl("bf16"), split = kl("split");
  EXPECT_GT(bf16, 1e-6);
  EXPECT_LT(bf16, 1e-3);
  EXPECT_LT(split, bf16 / 50);
}

TEST_F(CliTest, GenerateRepeatsWithItsSeed) {
  const auto generate = [&](const std::string& seed, const std::string& threads) {
    return RunJson(
        {"generate", "demo", "-p", "The old man", "-n", "24", "--seed", seed, "--threads", threads})["ids"];
  };
  const Json expected = generate("7", "1");
  EXPECT_FALSE(expected.empty());
  EXPECT_EQ(generate("7", "1"), expected);
  EXPECT_EQ(generate("7", "2"), expected);
  EXPECT_NE(generate("8", "1"), expected);
}

TEST_F(CliTest, GenerateStreamsPromptAndText) {
  const std::vector<std::string> arguments = {
      "generate", "demo", "-p", "The old man looked at the sea and", "-n", "8", "--greedy"};
  const Json json = RunJson(arguments);
  EXPECT_EQ(json["stop"], "length");
  EXPECT_EQ(json["ids"], Json({427, 1304, 378, 1736, 350, 263, 726, 595}));  // of golden.json
  const Outcome plain = Run(arguments);
  EXPECT_EQ(plain.status, 0);
  EXPECT_EQ(plain.out, json["prompt"].get<std::string>() + json["text"].get<std::string>() + "\n");
  const Json full =
      RunJson({"generate", "demo", "-p", "The old man looked at the sea and", "--greedy", "--context", "10"});
  EXPECT_EQ(full["stop"], "context");
  EXPECT_EQ(full["ids"], Json({427, 1304, 378}));  // the last one needs no place in the cache
}

// Packed beforehand or at the start: the same text. The demo's weights are bf16, so the options decide.
TEST_F(CliTest, APackGivesTheTextOfThePackedRuntime) {
  const std::vector<std::string> generate = {"generate", "demo", "-p",     "The old man looked",
                                             "-n",       "16",   "--seed", "3"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = generate;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const Json pack = RunJson({"pack", "demo", "-o", "demo.pack"});
  EXPECT_EQ(pack["output"], "demo.pack");
  EXPECT_TRUE(pack["notes"].empty());
  EXPECT_GT(std::filesystem::file_size(Path("demo.pack")), pack["bytes"].get<uint64_t>());
  const Json expected = RunJson(with({"--runtime", "packed"}));
  EXPECT_EQ(expected["ids"].size(), 16u);
  for (const char* threads : {"1", "2", "3"}) {
    EXPECT_EQ(RunJson(with({"--pack", "demo.pack", "--threads", threads}))["ids"], expected["ids"]);
  }
  EXPECT_EQ(Run(with({"--pack", "demo.pack", "--cache", "int8", "--inputs", "exact"})).status, 0);
  // The same bytes for any number of threads.
  EXPECT_EQ(Run({"pack", "demo", "-o", "one.pack", "--threads", "1", "--isa", "scalar"}).status, 0);
  EXPECT_TRUE(ReadAll(Path("one.pack")) == ReadAll(Path("demo.pack")));

  std::filesystem::create_directories(Path("other"));
  std::filesystem::copy(kDemo, Path("other"));
  std::string weights = ReadAll(Path("other/model.safetensors"));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, weights.data(), 8);
  weights[8 + header_bytes] ^= 1;  // a bit of the first tensor, the embedding
  WriteText("other/model.safetensors", weights);
  WriteText("cut.pack", ReadAll(Path("demo.pack")).substr(0, 100000));
  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  const Case cases[] = {
      {{"pack", "demo", "--scales8"}, "--scales8 rounds scales: name a file"},
      {{"pack", "nowhere", "-o", "x.pack"}, "nowhere"},
      {{"pack", "demo", "-o", "demo.pack"}, "demo.pack: exists; remove it"},
      {{"pack", "demo", "-o", "other"}, "other: exists; remove it"},
      {{"generate", "other", "-p", "The", "--pack", "demo.pack"},
       "demo.pack: made from another model than other"},
      {with({"--pack", "cut.pack"}), "cut.pack"},
      {with({"--pack", "other/model.safetensors"}), "not a pack"},
      {with({"--pack", "none.pack"}), "none.pack"},
      {with({"--pack", "demo.pack", "--runtime", "plain"}), "--pack needs the packed runtime"},
      {with({"--pack", "demo.pack", "--strict"}), "--strict needs --runtime plain"},
      {with({"--runtime", "plain", "--cache", "int8"}), "--cache and --inputs belong to the packed runtime"},
  };
  for (const Case& c : cases) {
    const Outcome outcome = Run(c.arguments);
    SCOPED_TRACE(fmt::format("planish {}", fmt::join(c.arguments, " ")));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
    EXPECT_EQ(outcome.out, "");
  }
}

TEST_F(CliTest, APackInTheCacheFolderIsFound) {
  const auto generate = [&] {
    return Run({"generate", "demo", "-p", "The old man", "-n", "8", "--runtime", "packed"});
  };
  const Outcome expected = generate();
  EXPECT_EQ(expected.status, 0) << expected.err;
  const std::string path = RunJson({"pack", "demo"})["output"];
  EXPECT_THAT(path, testing::StartsWith(Path("cache/planish/packs/")));
  EXPECT_EQ(generate().out, expected.out);
  const Outcome again = Run({"pack", "demo"});
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.err, HasSubstr(path + ": exists"));
  // A broken one is said to be, and costs nothing but time.
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  const Outcome broken = generate();
  EXPECT_EQ(broken.status, 0);
  EXPECT_EQ(broken.out, expected.out);
  EXPECT_THAT(broken.err, HasSubstr("the cached pack is left aside: " + path));
}

TEST_F(CliTest, BenchReportsSpeedsAndPeaks) {
  const Json json = RunJson({"bench", "demo", "--prompt", "16", "--generate", "8", "--depth", "0,20",
                             "--sequences", "2", "--rounds", "2", "--threads", "2"});
  const auto keys = [](const Json& object) {
    std::vector<std::string> names;
    for (const auto& [name, value] : object.items()) names.push_back(name);
    return names;
  };
  EXPECT_THAT(keys(json), testing::UnorderedElementsAre("model", "kernels", "threads", "packed_bytes",
                                                        "peaks", "depths"));
  EXPECT_EQ(json["model"], "demo");
  EXPECT_FALSE(json["kernels"].get<std::string>().empty());
  EXPECT_EQ(json["threads"], 2);
  // Weights of bf16: six layers and the head, with headers.
  const double weights = 2.0 * (6 * (2 * 65536 + 2 * 32768 + 3 * 704 * 256) + 8192 * 256);
  EXPECT_NEAR(json["packed_bytes"].get<double>(), weights, 0.001 * weights);
  for (const Json& peak : json["peaks"]) {
    EXPECT_THAT(keys(peak), testing::UnorderedElementsAre("instruction", "type", "macs_s"));
    EXPECT_GT(peak["macs_s"].get<double>(), 0);
  }
  ASSERT_EQ(json["depths"].size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const Json& depth = json["depths"][i];
    EXPECT_THAT(keys(depth),
                testing::UnorderedElementsAre("depth", "decode_tok_s", "prefill_tok_s", "bytes_per_token",
                                              "bandwidth", "bandwidth_share", "compute_share"));
    EXPECT_EQ(depth["depth"], i == 0 ? 0 : 20);
    for (const char* key : {"decode_tok_s", "prefill_tok_s", "bandwidth", "bandwidth_share"}) {
      EXPECT_GT(depth[key].get<double>(), 0) << key;
    }
    // Half the weights for each of two sequences, keys and values on top.
    EXPECT_GT(depth["bytes_per_token"].get<double>(), json["packed_bytes"].get<double>() / 2);
    EXPECT_LT(depth["bytes_per_token"].get<double>(), json["packed_bytes"].get<double>());
    EXPECT_GE(depth["compute_share"].get<double>(), 0);
  }
  EXPECT_EQ(json["depths"][0]["prefill_tok_s"], json["depths"][1]["prefill_tok_s"]);
  const Outcome table = Run({"bench", "demo", "--prompt", "0", "--generate", "1", "--rounds", "3"});
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_THAT(table.out, testing::StartsWith("demo: "));
  EXPECT_THAT(table.out, testing::Not(HasSubstr("prefill of")));
  EXPECT_THAT(table.out, HasSubstr("decode tok/s"));
  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  const Case cases[] = {
      {{"bench"}, "give a MODEL, or --shape"},
      {{"bench", "demo", "--shape", "llama-1b"}, "give a MODEL, or --shape"},
      {{"bench", "--shape", "llama-1"}, "no shape 'llama-1'; known: smollm2-135m, llama-1b"},
      {{"bench", "demo", "--strict"}, "--strict excludes"},
      {{"bench", "demo", "--sequences", "257"}, "--sequences"},
      {{"bench", "demo", "--generate", "0"}, "--generate"},
      {{"bench", "demo", "--depth", "-1"}, "--depth"},
  };
  for (const Case& c : cases) {
    const Outcome outcome = Run(c.arguments);
    SCOPED_TRACE(fmt::format("planish {}", fmt::join(c.arguments, " ")));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
  }
}

TEST_F(CliTest, LogitsNeedNoTokenizerForIds) {
  for (const char* file : {"config.json", "model.safetensors"}) {
    std::filesystem::create_directories(Path("bare"));
    std::filesystem::copy(kDemo + "/" + file, Path("bare/") + file);
  }
  const Json all = RunJson({"logits", "bare", "--ids", "500,670, 438", "--last", "0"});
  EXPECT_EQ(all["ids"], Json({500, 670, 438}));
  ASSERT_EQ(all["logits"].size(), 3u);
  ASSERT_EQ(all["logits"][0].size(), 8192u);
  const Json top = RunJson({"logits", "bare", "--ids", "500,670,438", "--top", "3"});
  ASSERT_EQ(top["logits"].size(), 1u);
  ASSERT_EQ(top["logits"][0].size(), 3u);
  for (const Json& pair : top["logits"][0]) {
    // The head of one row and of three are different kernels.
    EXPECT_NEAR(pair[1].get<double>(), all["logits"][2][pair[0].get<size_t>()].get<double>(), 1e-4);
  }
  const Outcome table = Run({"logits", "bare", "--ids", "500"});
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_THAT(table.out, testing::StartsWith("position 0\n"));
  const Outcome prompt = Run({"logits", "bare", "--prompt", "The"});
  EXPECT_EQ(prompt.status, 2);
  EXPECT_THAT(prompt.err, HasSubstr("tokenizer.json"));
  EXPECT_EQ(Run({"logits", "bare", "--ids", "500,670", "--last", "0", "-o", "logits.npy"}).status, 0);
  const std::string npy = ReadAll(Path("logits.npy"));
  EXPECT_EQ(npy.substr(0, 6), "\x93NUMPY");
  EXPECT_THAT(npy.substr(0, 128), HasSubstr("(2, 8192)"));
}

TEST_F(CliTest, InspectCountsTheModel) {
  const Json json = RunJson({"inspect", "demo", "--fast"});
  EXPECT_EQ(json["family"], "llama");
  EXPECT_EQ(json["layers"], 6);
  // Per layer q, o 256 x 256, k, v 128 x 256, three of 704 x 256 and two norms; the embedding; a norm.
  EXPECT_EQ(json["parameters"], 6 * (2 * 65536 + 2 * 32768 + 3 * 704 * 256 + 512) + 8192 * 256 + 256);
  EXPECT_EQ(json["bytes"], std::filesystem::file_size(kDemo + "/model.safetensors"));
  EXPECT_EQ(json["linear_bits_per_weight"], 16.0);
  EXPECT_EQ(json["tensors"].size(), 6u * 9 + 2);
  const Outcome table = Run({"inspect", "demo"});
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("model.layers.5.mlp.down_proj.weight"));
}

// Sums by sha256sum over the bytes of the safetensors file.
TEST_F(CliTest, InspectSumsWhatIsStored) {
  const Json json = RunJson({"inspect", "demo", "--checksum"});
  EXPECT_EQ(json["kind"], "safetensors folder");
  EXPECT_EQ(json["bytes"], std::filesystem::file_size(kDemo + "/model.safetensors"));
  EXPECT_EQ(json["metadata"]["model_type"], "\"llama\"");
  EXPECT_EQ(json["sha256"], "7efee019d785975eb93ebef5e21e9962559462892c27c0c66f8b8e28650f6d81");
  const auto norm = std::ranges::find_if(
      json["tensors"], [](const Json& tensor) { return tensor["name"] == "model.norm.weight"; });
  ASSERT_NE(norm, json["tensors"].end());
  EXPECT_EQ((*norm)["type"], "BF16");
  EXPECT_EQ((*norm)["bytes"], 512);
  EXPECT_EQ((*norm)["sha256"], "cf030b055f0f645a7e3b46d2c26d3783ed7df8480d897333fa35ce7b93b983ce");
  EXPECT_FALSE(RunJson({"inspect", "demo", "--stored"}).contains("sha256"));

  // Divided into files: the same tensors, the same sum.
  ASSERT_EQ(Run({"convert", "demo", "-o", "shards", "--to", "hf-bf16", "--shard-size", "4MB", "-q"}).status,
            0);
  EXPECT_TRUE(std::filesystem::exists(Path("shards/model.safetensors.index.json")));
  EXPECT_EQ(RunJson({"inspect", "shards", "--checksum"})["sha256"], json["sha256"]);

  // A GGUF model as a model and as stored; a single safetensors file only as stored.
  ASSERT_EQ(Run({"convert", "demo", "-o", "m.gguf", "--to", "gguf:q4_k", "-q"}).status, 0);
  EXPECT_THAT(Run({"inspect", "m.gguf", "--fast"}).out, HasSubstr("model.layers.0.self_attn.q_proj.weight"));
  const Outcome stored = Run({"inspect", "m.gguf", "--stored"});
  EXPECT_THAT(stored.out, HasSubstr("blk.0.attn_q.weight"));
  EXPECT_THAT(stored.out, HasSubstr("llama.block_count: 6\n"));
  EXPECT_THAT(stored.out, HasSubstr("tokenizer.ggml.tokens: 8192 values of type string\n"));
  const Json file = RunJson({"inspect", kDemo + "/model.safetensors", "--checksum"});
  EXPECT_EQ(file["kind"], "safetensors file");
  EXPECT_EQ(file["sha256"], json["sha256"]);
  WriteText("hostile.safetensors", std::string("\x08\0\0\0\0\0\0\0{\"a\": 1}", 16));
  const Outcome hostile = Run({"inspect", "hostile.safetensors"});
  EXPECT_EQ(hostile.status, 2);
  EXPECT_THAT(hostile.err, HasSubstr("neither GGUF, nor safetensors"));
}

// A path beside every matrix: formats with one matrix a layer refuse it with all layers and all that makes it
// fit, and each of these options does.
TEST_F(CliTest, ConvertRefusesWhatAFormatCannotHold) {
  ASSERT_EQ(Run({"compress", "demo", "-o", "small", "--bits", "4", "--group", "64", "--rank", "4",
                 "--calibration", kSample, "--windows", "2", "--context", "64", "-q"})
                .status,
            0);
  for (const char* to : {"gptq", "gptq-v1", "awq", "compressed-tensors", "gguf:q4_k", "gguf:f32"}) {
    const Outcome refused = Run({"convert", "small", "-o", "made", "--to", to, "-q"});
    SCOPED_TRACE(to);
    EXPECT_EQ(refused.status, 3);
    EXPECT_EQ(refused.out, "");
    EXPECT_THAT(refused.err,
                HasSubstr("cannot hold this model:\n  a low-rank path beside the matrix (42 layers: "));
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      EXPECT_THAT(refused.err, HasSubstr(fmt::format("model.layers.{{0-5}}.{}", name)));
    }
    for (const char* option : {"--drop paths", "--merge", "--adapter DIR", "--to lora"}) {
      EXPECT_THAT(refused.err, HasSubstr(option));
    }
    EXPECT_FALSE(std::filesystem::exists(Path("made")));
  }
  const auto convert = [&](const std::string& output, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"convert", "small", "-o", output, "-q"});
    return Run(arguments);
  };
  EXPECT_EQ(convert("dropped", {"--to", "gptq", "--drop", "paths"}).status, 0);
  EXPECT_EQ(convert("merged", {"--to", "gptq", "--merge"}).status, 0);
  const Outcome both = convert("base", {"--to", "gptq", "--adapter", "paths"});
  EXPECT_EQ(both.status, 0) << both.err;
  EXPECT_THAT(both.out, HasSubstr("paths: the low-rank paths, which base is without"));
  EXPECT_EQ(RunJson({"diff", "base", "dropped"})["same"], true);
  EXPECT_EQ(convert("base.gguf", {"--to", "gguf:f32", "--adapter", "paths.gguf"}).status, 0);
  EXPECT_EQ(convert("lora", {"--to", "lora"}).status, 0);
  EXPECT_EQ(ReadAll(Path("lora/adapter_model.safetensors")),
            ReadAll(Path("paths/adapter_model.safetensors")));
  // Base and adapter together are the artifact again, in fp32.
  EXPECT_EQ(convert("whole", {"--to", "hf-f32"}).status, 0);
  for (const auto& [base, adapter] : {std::pair{"base", "paths"}, {"base.gguf", "paths.gguf"}}) {
    ASSERT_EQ(Run({"convert", base, "-o", "again", "--to", "hf-f32", "--adapter", adapter, "-q"}).status, 0);
    for (const Json& tensor : RunJson({"diff", "whole", "again"})["tensors"]) {
      EXPECT_LT(tensor["relative"].get<double>(), 1e-6) << tensor["name"];
    }
    std::filesystem::remove_all(Path("again"));
  }
  // The same command again, as after a conversion that was cut off, does not add the paths a second time.
  const Outcome twice = convert("second", {"--to", "gptq", "--adapter", "paths"});
  EXPECT_EQ(twice.status, 3);
  EXPECT_THAT(twice.err, HasSubstr("--adapter paths: exists, and small has low-rank paths of its own"));
  EXPECT_FALSE(std::filesystem::exists(Path("second")));
  EXPECT_EQ(convert("second", {"--to", "gptq", "--merge", "--adapter", "paths"}).status, 0);
  // Nothing is left of an output that fails, and an adapter is not made of nothing.
  const Outcome half = convert("half", {"--to", "compressed-tensors:w8a16", "--adapter", "half-paths"});
  EXPECT_EQ(half.status, 3);
  EXPECT_THAT(half.err, HasSubstr("not int8 g64 sym"));
  EXPECT_FALSE(std::filesystem::exists(Path("half")) || std::filesystem::exists(Path("half-paths")));
  const Outcome none = Run({"convert", "demo", "-o", "half", "--to", "hf-bf16", "--adapter", "missing"});
  EXPECT_EQ(none.status, 2);
  EXPECT_THAT(none.err, HasSubstr("--adapter missing: no adapter is there, and none is made of paths: "));
  EXPECT_EQ(convert("half", {"--to", "gptq", "--merge", "--adapter", "missing"}).status, 2);
  EXPECT_EQ(convert("half", {"--to", "gptq", "--adapter", "one", "--adapter", "two"}).status, 2);
  EXPECT_EQ(convert("half", {"--to", "gptq", "--drop", "layers"}).status, 2);
}

// Two models tensor by tensor, of whatever kind.
TEST_F(CliTest, DiffComparesModels) {
  ASSERT_EQ(Run({"convert", "demo", "-o", "m.gguf", "--to", "gguf:q8_0", "-q"}).status, 0);
  const Outcome same = Run({"diff", "demo", kDemo});
  EXPECT_EQ(same.status, 0) << same.err;
  EXPECT_EQ(same.out, "56 of 56 tensors are equal; the models are the same\n");
  const Json json = RunJson({"diff", "demo", "m.gguf"});
  EXPECT_EQ(json["same"], false);
  EXPECT_EQ(json["tensors"].size(), 56u);
  EXPECT_EQ(json["config"], Json::array()) << json["config"].dump();
  int norms = 0;
  for (const Json& tensor : json["tensors"]) {
    const auto relative = tensor["relative"].get<double>(), cosine = tensor["cosine"].get<double>();
    const bool norm = tensor["shape_a"].size() == 1;
    norms += norm ? 1 : 0;
    EXPECT_EQ(tensor["type_b"], norm ? "f32" : "Q8_0") << tensor["name"];
    // 8 bits of blocks of 32 normal values: half a step is 1/254 of the largest.
    EXPECT_TRUE(norm ? relative == 0 : relative > 1e-3 && relative < 1e-2) << tensor["name"] << relative;
    EXPECT_GT(cosine, 0.9999);
  }
  EXPECT_EQ(norms, 13);
  const Outcome table = Run({"diff", "demo", "m.gguf"});
  EXPECT_THAT(table.out, HasSubstr("13 of 56 tensors are equal\n"));
  EXPECT_THAT(table.out, HasSubstr("model.layers.0.mlp.down_proj.weight"));
  const Outcome other = Run({"diff", "demo", PLANISH_SHARED_DIR "/models/tiny/llama_yarn"});
  if (std::filesystem::exists(PLANISH_SHARED_DIR "/models/tiny/llama_yarn")) {
    EXPECT_EQ(other.status, 0);
    EXPECT_THAT(other.out, HasSubstr("config.json: hidden_size: 256 / "));
    EXPECT_THAT(other.out, HasSubstr("model.layers.5.mlp.up_proj.weight: only in demo"));
  }
  const Outcome missing = Run({"diff", "demo", "nowhere"});
  EXPECT_EQ(missing.status, 2);
  EXPECT_THAT(missing.err, HasSubstr("nowhere"));
}

// Families through the program, against what another implementation computes: all logits of tiny models, the
// first 64 of the others.
TEST_F(CliTest, LogitsOfFamilies) {
  for (const test::FamilyModel& family : test::AllFamilyModels()) {
    SCOPED_TRACE(family.folder);
    const std::string model = std::string(PLANISH_SHARED_DIR "/models/") + family.folder;
    const auto golden = ParseJson(ReadAll(model + "/golden.json"));
    ASSERT_TRUE(golden.ok()) << golden.error().message;
    const bool tiny = golden->contains("logits_last");
    std::string ids;
    for (const Json& id : tiny ? (*golden)["input_ids"][0] : (*golden)["sequences"][0]["ids"]) {
      ids += std::to_string(id.get<int>()) + ",";
    }
    const Json json = RunJson({"logits", model, "--ids", ids});
    ASSERT_EQ(json["logits"].size(), 1u);
    const Json& expected = tiny ? (*golden)["logits_last"][0] : (*golden)["sequences"][0]["last_logits"];
    ASSERT_GE(json["logits"][0].size(), expected.size());
    ASSERT_EQ(expected.size(), tiny ? json["logits"][0].size() : 64u);
    const double tolerance = tiny ? family.logits * (*golden)["logits_absmax"][0].get<double>() : 2e-3;
    for (size_t j = 0; j < expected.size(); ++j) {
      EXPECT_NEAR(json["logits"][0][j].get<double>(), expected[j].get<double>(), tolerance) << j;
    }
  }
}

// A field that its family does not implement is refused on every verb, and read over where that is asked for.
TEST_F(CliTest, FieldsOfConfigs) {
  auto config = ParseJson(ReadAll(kDemo + "/config.json"));
  ASSERT_TRUE(config.ok());
  (*config)["clip_qkv"] = 8.0;
  std::filesystem::create_directory(Path("own"));
  for (const char* name : {"model.safetensors", "tokenizer.json"}) {
    WriteText(std::string("own/") + name, ReadAll(kDemo + "/" + name));
  }
  WriteText("own/config.json", DumpJson(*config));
  for (const char* verb : {"logits", "generate"}) {
    std::vector<std::string> arguments = {verb, "own", "--prompt", "The", "-q"};
    const Outcome refused = Run(arguments);
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err, HasSubstr("own/config.json: field 'clip_qkv': 8.0: not implemented for llama"));
    arguments.insert(arguments.end(), {"--ignore-config-fields", "other,clip_qkv"});
    EXPECT_EQ(Run(arguments).status, 0) << verb;
  }
}

// The same of tensors that the model of the config does not read; what is written without them is whole.
TEST_F(CliTest, TensorsOfCheckpoints) {
  auto config = ParseJson(ReadAll(kDemo + "/config.json"));
  ASSERT_TRUE(config.ok());
  const int last = (*config)["num_hidden_layers"].get<int>() - 1;
  (*config)["num_hidden_layers"] = last;
  std::filesystem::create_directory(Path("own"));
  for (const char* name : {"model.safetensors", "tokenizer.json"}) {
    WriteText(std::string("own/") + name, ReadAll(kDemo + "/" + name));
  }
  WriteText("own/config.json", DumpJson(*config));
  std::vector<std::string> arguments = {"compress", "own",       "-o", "small",     "--calibration",
                                        kSample,    "--windows", "2",  "--context", "64",
                                        "--method", "rtn",       "-q"};
  const std::string layer = "model.layers." + std::to_string(last);
  const Outcome refused = Run(arguments);
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err, HasSubstr("own: tensors '" + layer + ".input_layernorm.weight', '"));
  arguments.insert(arguments.end(), {"--ignore-tensors", "other," + layer});
  ASSERT_EQ(Run(arguments).status, 0);
  EXPECT_EQ(Run({"logits", "small", "--prompt", "The", "-q"}).status, 0);
}

TEST_F(CliTest, InspectJoinsExperts) {
  const std::string model = PLANISH_SHARED_DIR "/models/tiny/deepseek_v2";
  const Outcome joined = Run({"inspect", model}), each = Run({"inspect", model, "--experts"});
  EXPECT_EQ(joined.status, 0) << joined.err;
  EXPECT_THAT(joined.out, HasSubstr("8 experts in 2 layers, 3 a token"));
  EXPECT_THAT(joined.out, HasSubstr("model.layers.2.mlp.experts.*.up_proj.weight"));
  EXPECT_THAT(joined.out, HasSubstr("8 x [16, 64]"));
  EXPECT_THAT(joined.out, Not(HasSubstr("experts.7.")));
  EXPECT_THAT(each.out, HasSubstr("model.layers.2.mlp.experts.7.up_proj.weight"));
}

// A compressed model with experts: auto takes the plain runtime, packed says why not.
TEST_F(CliTest, ExpertsRunOnThePlainRuntime) {
  const std::string model = PLANISH_SHARED_DIR "/models/moe";
  ASSERT_EQ(Run({"compress", model, "-o", "small", "--calibration", kSample, "--windows", "2", "--context",
                 "64", "--method", "rtn", "-q"})
                .status,
            0);
  const Outcome generated = Run({"generate", "small", "--prompt", "The", "--tokens", "4", "-q"});
  EXPECT_EQ(generated.status, 0) << generated.err;
  const Outcome refused = Run({"generate", "small", "--prompt", "The", "--runtime", "packed"});
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err, HasSubstr("the packed runtime has no experts, which qwen3_moe needs"));
}

TEST_F(CliTest, CompletionScriptsNameEveryVerb) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = Run({"completion", shell});
    EXPECT_EQ(outcome.status, 0);
    for (const char* word : {"compress", "generate", "reference"})
      EXPECT_THAT(outcome.out, HasSubstr(word)) << shell;
  }
}

TEST_F(CliTest, AFullDiskIsAFailure) {
  const pid_t child = fork();
  if (child == 0) {
    const int full = open("/dev/full", O_WRONLY);
    if (full < 0 || dup2(full, 1) < 0) _exit(126);
    execl(PLANISH_PROGRAM, PLANISH_PROGRAM, "inspect", "demo", "--fast", "--json", nullptr);
    _exit(127);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

TEST_F(CliTest, AnInterruptEndsWith130) {
  std::string text;
  const std::string sample = ReadAll(kSample);
  while (text.size() < 8'000'000) text += sample;  // more than a minute of work
  WriteText("long.txt", text);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const auto start = std::chrono::steady_clock::now();
    const pid_t child = Start({"eval", "demo", "--text", "long.txt", "--json"});
    // Early or late: before the model runs and while it does.
    std::this_thread::sleep_for(std::chrono::milliseconds(signal == SIGINT ? 4000 : 300));
    ASSERT_EQ(kill(child, signal), 0);
    const Outcome outcome = Wait(child);
    EXPECT_EQ(outcome.status, 130) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("interrupted"));
    EXPECT_EQ(outcome.out, "");
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(40));
  }
}

}  // namespace
}  // namespace planish
