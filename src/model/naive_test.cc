// Whole forward passes of small models against plain loops in double: families, biases, norms of heads,
// sliding windows on some or all layers, branches in parallel.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/model_test_util.h"
#include "model/tiny_rows_test_util.h"

namespace planish {
namespace {

using test::OnePass;
using test::StepByStep;
using test::TemporaryFolder;
using test::TestContext;
using test::TinyModel;

// The definition of the families here in double, one position after the other.
class Naive {
 public:
  Naive(const TinyModel& tiny, const Program& program, std::vector<int64_t> windows)
      : tiny_(tiny), theta_(tiny.config["rope_theta"].get<double>()), windows_(std::move(windows)) {
    heads_ = tiny.config["num_attention_heads"].get<int64_t>();
    kv_heads_ = tiny.config["num_key_value_heads"].get<int64_t>();
    dim_ = tiny.config["head_dim"].get<int64_t>();
    eps_ =
        tiny.config[tiny.config["rms_norm_eps"].is_null() ? "layer_norm_eps" : "rms_norm_eps"].get<double>();
    rotated_ =
        static_cast<size_t>(static_cast<double>(dim_) * tiny.config.value("partial_rotary_factor", 1.0));
    parallel_ = tiny.config.value("use_parallel_residual", false);
    qk_norm_ = program.family == "qwen3";
  }

  std::vector<std::vector<double>> Logits(std::span<const int32_t> ids) const {
    Rows x;
    for (int32_t id : ids) x.push_back(Row("model.embed_tokens.weight", id));
    for (size_t l = 0; l < windows_.size(); ++l) Layer(fmt::format("model.layers.{}.", l), windows_[l], x);
    for (auto& row : x) row = Linear("lm_head", Norm("model.norm", row));
    return x;
  }

 private:
  using Rows = std::vector<std::vector<double>>;

  std::vector<double> Row(const std::string& name, int64_t i) const {
    const auto& t = tiny_.tensors.at(name);
    const auto width = t.shape.back();
    return {t.values.begin() + i * width, t.values.begin() + (i + 1) * width};
  }
  std::vector<double> Linear(const std::string& name, const std::vector<double>& x) const {
    std::vector<double> y;
    for (int64_t o = 0; o < tiny_.tensors.at(name + ".weight").shape[0]; ++o) {
      const auto w = Row(name + ".weight", o);
      y.push_back(std::inner_product(w.begin(), w.end(), x.begin(), 0.0));
      const auto bias = tiny_.tensors.find(name + ".bias");
      if (bias != tiny_.tensors.end()) y.back() += bias->second.values[static_cast<size_t>(o)];
    }
    return y;
  }
  // With a bias a LayerNorm, else over groups as wide as the weight.
  std::vector<double> Norm(const std::string& name, std::vector<double> x) const {
    const auto bias = tiny_.tensors.find(name + ".bias");
    if (bias != tiny_.tensors.end()) {
      x = Centered(tiny_.tensors.at(name + ".weight").values, x);
      for (size_t i = 0; i < x.size(); ++i) x[i] += bias->second.values[i];
      return x;
    }
    const auto& w = tiny_.tensors.at(name + ".weight").values;
    for (size_t begin = 0; begin < x.size(); begin += w.size()) {
      double sum = 0;
      for (size_t i = 0; i < w.size(); ++i) sum += x[begin + i] * x[begin + i];
      const double scale = 1 / std::sqrt(sum / static_cast<double>(w.size()) + eps_);
      for (size_t i = 0; i < w.size(); ++i) x[begin + i] *= scale * w[i];
    }
    return x;
  }
  std::vector<double> Centered(const std::vector<float>& w, std::vector<double> x) const {
    const auto size = static_cast<double>(x.size());
    const double mean = std::accumulate(x.begin(), x.end(), 0.0) / size;
    double sum = 0;
    for (double& value : x) {
      value -= mean;
      sum += value * value;
    }
    for (size_t i = 0; i < x.size(); ++i) x[i] *= w[i] / std::sqrt(sum / size + eps_);
    return x;
  }
  // Every head by a norm of its own, where there are some.
  std::vector<double> NormHeads(const std::string& name, std::vector<double> x) const {
    const auto dim = static_cast<size_t>(dim_);
    for (size_t h = 0; h < x.size() / dim; ++h) {
      const auto weight = tiny_.tensors.find(fmt::format("{}.norms.{}.weight", name, h));
      if (weight == tiny_.tensors.end()) return x;
      const auto head = x.begin() + static_cast<ptrdiff_t>(h * dim);
      std::ranges::copy(Centered(weight->second.values, {head, head + dim_}), head);
    }
    return x;
  }
  std::vector<double> Rotate(std::vector<double> x, size_t position) const {
    const size_t half = rotated_ / 2;
    for (size_t head = 0; head < x.size(); head += static_cast<size_t>(dim_)) {
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) *
                             std::pow(theta_, -static_cast<double>(i) / static_cast<double>(half));
        double &a = x[head + i], &b = x[head + i + half];
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = rotated;
      }
    }
    return x;
  }
  std::vector<double> Attend(const std::vector<double>& q, const Rows& k, const Rows& v,
                             int64_t window) const {
    std::vector<double> out(q.size());
    const auto position = static_cast<int64_t>(k.size()) - 1;
    for (int64_t h = 0; h < heads_; ++h) {
      const int64_t from = h / (heads_ / kv_heads_) * dim_;
      double total = 0;
      for (int64_t j = window == 0 ? 0 : std::max<int64_t>(0, position - window + 1); j <= position; ++j) {
        double score = 0;
        for (int64_t d = 0; d < dim_; ++d)
          score +=
              q[static_cast<size_t>(h * dim_ + d)] * k[static_cast<size_t>(j)][static_cast<size_t>(from + d)];
        const double p = std::exp(score / std::sqrt(static_cast<double>(dim_)));
        total += p;
        for (int64_t d = 0; d < dim_; ++d)
          out[static_cast<size_t>(h * dim_ + d)] +=
              p * v[static_cast<size_t>(j)][static_cast<size_t>(from + d)];
      }
      for (int64_t d = 0; d < dim_; ++d) out[static_cast<size_t>(h * dim_ + d)] /= total;
    }
    return out;
  }
  static void Add(const std::vector<double>& y, std::vector<double>& x) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  void Layer(const std::string& prefix, int64_t window, Rows& x) const {
    Rows keys, values;
    for (size_t position = 0; position < x.size(); ++position) {
      const auto h = Norm(prefix + "input_layernorm", x[position]);
      const std::string attention = prefix + "self_attn.";
      auto q = Linear(attention + "q_proj", h), k = Linear(attention + "k_proj", h);
      if (qk_norm_) {
        q = Norm(attention + "q_norm", q);
        k = Norm(attention + "k_norm", k);
      }
      q = NormHeads(attention + "q_layernorm", q);
      k = NormHeads(attention + "k_layernorm", k);
      keys.push_back(Rotate(k, position));
      values.push_back(Linear(attention + "v_proj", h));
      Add(Linear(attention + "o_proj", Attend(Rotate(q, position), keys, values, window)), x[position]);
      const auto m = parallel_ ? h : Norm(prefix + "post_attention_layernorm", x[position]);
      auto gate = Linear(prefix + "mlp.gate_proj", m);
      const auto up = Linear(prefix + "mlp.up_proj", m);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      Add(Linear(prefix + "mlp.down_proj", gate), x[position]);
    }
  }

  const TinyModel& tiny_;
  double theta_, eps_;
  int64_t heads_, kv_heads_, dim_;
  size_t rotated_;
  bool qk_norm_, parallel_;
  std::vector<int64_t> windows_;
};

struct NaiveCase {
  const char* name;
  const char* type;
  Json changes;
  std::vector<int64_t> windows;
};

class NaiveTest : public testing::TestWithParam<NaiveCase> {};

TEST_P(NaiveTest, OnePassAndStepsAgree) {
  const NaiveCase& c = GetParam();
  TinyModel tiny(c.type);
  tiny.config.update(c.changes);
  tiny.MakeTensors();
  test::SplitRows(tiny);
  const TemporaryFolder folder;
  tiny.Write(folder.path());
  const auto model = LoadModel(folder.path());
  ASSERT_TRUE(model.ok()) << model.error().message;
  const int32_t ids[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4};
  const auto expected = Naive(tiny, model->program, c.windows).Logits(ids);
  const TestContext run;
  const Mat<float> one = OnePass(run.context, *model, ids), steps = StepByStep(run.context, *model, ids);
  double absmax = 0, without_window = 0;
  const auto full = Naive(tiny, model->program, {0, 0}).Logits(ids);
  for (size_t i = 0; i < std::size(ids); ++i) {
    for (size_t j = 0; j < expected[i].size(); ++j) {
      absmax = std::max(absmax, std::abs(expected[i][j]));
      without_window = std::max(without_window, std::abs(full[i][j] - expected[i][j]));
      // Some two hundred roundings of 6e-8 on the way to a logit of about 5, magnified a little by norms.
      EXPECT_NEAR(one(static_cast<int64_t>(i), static_cast<int64_t>(j)), expected[i][j], 3e-5)
          << i << ", " << j;
      EXPECT_NEAR(steps(static_cast<int64_t>(i), static_cast<int64_t>(j)), expected[i][j], 3e-5)
          << i << ", " << j;
    }
  }
  EXPECT_GT(absmax, 1) << "logits too small to tell anything";
  const bool windowed = c.windows != std::vector<int64_t>{0, 0};
  EXPECT_EQ(without_window > 0.1, windowed) << "without a window logits move by " << without_window;
}

Json Stablelm(bool heads, bool parallel) {
  return {{"rms_norm_eps", nullptr},           {"layer_norm_eps", 1e-5},
          {"partial_rotary_factor", 0.5},      {"qk_layernorm", heads},
          {"use_parallel_residual", parallel}, {"use_qkv_bias", true}};
}

INSTANTIATE_TEST_SUITE_P(
    Families, NaiveTest,
    testing::Values(NaiveCase{"llama", "llama", Json::object(), {0, 0}},
                    NaiveCase{"llama_bias", "llama", {{"attention_bias", true}, {"mlp_bias", true}}, {0, 0}},
                    NaiveCase{"qwen2", "qwen2", Json::object(), {0, 0}},
                    NaiveCase{"qwen3", "qwen3", Json::object(), {0, 0}},
                    NaiveCase{"stablelm", "stablelm", Stablelm(false, false), {0, 0}},
                    NaiveCase{"stablelm_parallel", "stablelm", Stablelm(false, true), {0, 0}},
                    NaiveCase{"stablelm_12b", "stablelm", Stablelm(true, true), {0, 0}},
                    NaiveCase{"mistral_window_3", "mistral", {{"sliding_window", 3}}, {3, 3}},
                    NaiveCase{"mistral_window_1", "mistral", {{"sliding_window", 1}}, {1, 1}},
                    NaiveCase{"mistral_full", "mistral", {{"sliding_window", nullptr}}, {0, 0}},
                    NaiveCase{"qwen3_layer_types",
                              "qwen3",
                              {{"use_sliding_window", true},
                               {"sliding_window", 5},
                               {"layer_types", {"sliding_attention", "full_attention"}}},
                              {5, 0}},
                    NaiveCase{"qwen2_max_window_layers",
                              "qwen2",
                              {{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 1}},
                              {0, 4}}),
    [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace planish
