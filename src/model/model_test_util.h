// What the tests of models share: where the models lie, a context, logits of whole sequences, and small
// models made on the spot.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "formats/safetensors.h"
#include "model/family.h"
#include "model/forward.h"
#include "model/model.h"

namespace planish::test {

inline std::string ModelFolder(const std::string& name) { return PLANISH_SHARED_DIR "/models/" + name; }

inline Json ReadJson(const std::string& path) {
  auto text = ReadTextFile(path);
  EXPECT_TRUE(text.ok()) << (text.ok() ? "" : text.error().message);
  if (!text.ok()) return Json::object();
  auto json = ParseJson(*text);
  EXPECT_TRUE(json.ok()) << (json.ok() ? "" : json.error().message);
  return json.ok() ? *json : Json::object();
}

// Two threads and the best kernels here.
struct TestContext {
  explicit TestContext(Isa isa = BestIsa(), Profile profile = Profile::kFast, int threads = 2)
      : pool(threads) {
    context.pool = &pool;
    context.isa = isa;
    context.profile = profile;
  }
  ThreadPool pool;
  Context context;
};

inline std::vector<int64_t> AllRows(int64_t count) {
  std::vector<int64_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return rows;
}

// Logits [ids, vocab] of one sequence in one forward pass.
inline Mat<float> OnePass(const Context& context, const Model& model, std::span<const int32_t> ids) {
  const auto count = static_cast<int64_t>(ids.size());
  DenseCache cache(model.program.cache_layers, 1, count);
  Executor executor(model);
  Mat<float> logits;
  const Status done = Forward(context, model, executor, Batch::Of(ids), AllRows(count), cache, logits);
  EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().message);
  return logits;
}

// The same token by token from the cache.
inline Mat<float> StepByStep(const Context& context, const Model& model, std::span<const int32_t> ids) {
  const auto count = static_cast<int64_t>(ids.size());
  DenseCache cache(model.program.cache_layers, 1, count);
  Executor executor(model);
  Mat<float> all(count, model.program.vocab), logits;
  const int64_t row = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Batch batch = Batch::Of(ids.subspan(static_cast<size_t>(i), 1), 0, i);
    const Status done = Forward(context, model, executor, batch, {&row, 1}, cache, logits);
    EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().message);
    std::memcpy(all.row(i), logits.row(0), static_cast<size_t>(all.cols()) * sizeof(float));
  }
  return all;
}

// Mean of -ln p(next token), in double.
inline double MeanLoss(const Mat<float>& logits, std::span<const int32_t> ids) {
  double sum = 0;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    const float* row = logits.row(static_cast<int64_t>(i));
    double max = row[0], total = 0;
    for (int64_t j = 1; j < logits.cols(); ++j) max = std::max(max, static_cast<double>(row[j]));
    for (int64_t j = 0; j < logits.cols(); ++j) total += std::exp(row[j] - max);
    sum += max + std::log(total) - row[ids[i + 1]];
  }
  return sum / static_cast<double>(ids.size() - 1);
}

inline double MaxAbs(const Mat<float>& m) {
  double max = 0;
  for (int64_t i = 0; i < m.rows() * m.cols(); ++i)
    max = std::max(max, std::abs(static_cast<double>(m.data()[i])));
  return max;
}

inline double Total(const Mat<float>& m) {
  double sum = 0;
  for (int64_t i = 0; i < m.rows() * m.cols(); ++i) sum += m.data()[i];
  return sum;
}

// Largest difference of rows [first, first + part.rows()) of `whole` from `part`.
inline double MaxDifference(const Mat<float>& whole, int64_t first, MatView<const float> part) {
  double max = 0;
  for (int64_t i = 0; i < part.rows; ++i) {
    for (int64_t j = 0; j < part.cols; ++j) {
      const double d = std::abs(static_cast<double>(whole(first + i, j)) - part(i, j));
      max = std::max(max, std::isnan(d) ? INFINITY : d);
    }
  }
  return max;
}

// A folder that is gone at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() /
             ("planish_test_" + std::to_string(getpid()) + "_" + std::to_string(count++)))
                .string();
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct TestTensor {
  DType type = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// A model of one of the known families small enough to compute by hand, made from its config: hidden 8,
// two layers, four heads of 4 with two of keys, vocabulary 11. Tests change fields and tensors, then write.
class TinyModel {
 public:
  explicit TinyModel(const std::string& type = "llama") {
    config = {{"model_type", type},       {"vocab_size", 11},       {"hidden_size", 8},
              {"intermediate_size", 12},  {"num_hidden_layers", 2}, {"num_attention_heads", 4},
              {"num_key_value_heads", 2}, {"head_dim", 4},          {"max_position_embeddings", 64},
              {"rms_norm_eps", 1e-5},     {"rope_theta", 100.0},    {"tie_word_embeddings", false},
              {"eos_token_id", 2},        {"bos_token_id", 1},      {"sliding_window", nullptr}};
  }
  // Random fp32 tensors for everything the config asks for.
  void MakeTensors() {
    const auto program = BuildProgramOrFail();
    uint64_t stream = 0;
    const auto fill = [&](const std::string& name, std::vector<int64_t> shape, double mean, double scale) {
      TestTensor tensor{DType::kF32, std::move(shape), {}};
      const Random random(99, stream++);
      int64_t count = 1;
      for (int64_t d : tensor.shape) count *= d;
      for (int64_t i = 0; i < count; ++i) {
        tensor.values.push_back(
            static_cast<float>(mean + scale * (2 * random.Uniform(static_cast<uint64_t>(i)) - 1)));
      }
      tensors[name] = std::move(tensor);
    };
    for (const auto& linear : program.linears) {
      fill(linear.weight, {linear.out, linear.in}, 0, 0.8);
      if (!linear.bias.empty()) fill(linear.bias, {linear.out}, 0, 0.3);
    }
    for (const auto& vector : program.vectors) fill(vector.name, {vector.size}, 1, 0.3);
  }
  void Write(const std::string& folder) const {
    ASSERT_TRUE(WriteFileAtomically(JoinPath(folder, "config.json"), DumpJson(config)).ok());
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.type, tensor.shape});
    auto writer = SafetensorsWriter::Create(JoinPath(folder, "model.safetensors"), specs);
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    const std::vector<TensorSpec> order = writer->order();
    for (const auto& spec : order) {
      std::string bytes;
      for (float f : tensors.at(spec.name).values) AppendElement(spec.type, f, bytes);
      ASSERT_TRUE(writer->Append(spec.name, std::as_bytes(std::span(bytes))).ok());
    }
    ASSERT_TRUE(writer->Commit().ok());
  }

  Json config;
  std::map<std::string, TestTensor> tensors;

 private:
  Program BuildProgramOrFail() const {
    auto program = BuildProgram(config);
    EXPECT_TRUE(program.ok()) << (program.ok() ? "" : program.error().message);
    return program.ok() ? *program : Program();
  }
  static void AppendElement(DType type, float f, std::string& bytes) {
    const int size = DTypeBits(type) / 8;
    uint16_t half = type == DType::kF16 ? ToF16(f).bits : ToBF16(f).bits;
    const double wide = f;
    const auto integer = static_cast<int64_t>(std::isfinite(f) ? f : 0);
    const void* from = type == DType::kF32   ? static_cast<const void*>(&f)
                       : type == DType::kF64 ? &wide
                       : IsComputable(type)  ? static_cast<const void*>(&half)
                                             : &integer;
    bytes.append(static_cast<const char*>(from), static_cast<size_t>(size));
  }
};

}  // namespace planish::test
