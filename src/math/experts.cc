#include "math/experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "math/nn.h"
#include "math/nn_dispatch.h"

namespace planish {
namespace {

// Whatever a weight is rounded to on its way, it stays other than 0.
constexpr float kLeastWeight = 1e-30f;
constexpr float kClosed = -std::numeric_limits<float>::infinity();

// The best of n candidates not yet taken, the lowest index on ties.
int64_t TakeBest(std::vector<float>& candidates) {
  const auto best = std::max_element(candidates.begin(), candidates.end());
  *best = kClosed;
  return best - candidates.begin();
}

// Scores outside the best groups become kClosed.
void CloseGroups(const RouteShape& shape, std::vector<float>& scores) {
  if (shape.open_groups == shape.groups) return;
  const auto size = static_cast<size_t>(shape.experts / shape.groups);
  std::vector<float> best;
  for (size_t begin = 0; begin < scores.size(); begin += size) {
    best.push_back(*std::max_element(scores.begin() + static_cast<ptrdiff_t>(begin),
                                     scores.begin() + static_cast<ptrdiff_t>(begin + size)));
  }
  std::vector<bool> open(best.size(), false);
  for (int64_t i = 0; i < shape.open_groups; ++i) open[static_cast<size_t>(TakeBest(best))] = true;
  for (size_t e = 0; e < scores.size(); ++e) {
    if (!open[e / size]) scores[e] = kClosed;
  }
}

void RouteRow(const RouteShape& shape, const float* scores, float* routing) {
  std::vector<float> candidates(scores, scores + shape.experts);
  CloseGroups(shape, candidates);
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < shape.chosen; ++i) chosen.push_back(TakeBest(candidates));
  double sum = 0;
  std::vector<float> weights;
  for (const int64_t e : chosen) {
    weights.push_back(scores[e]);
    sum += static_cast<double>(scores[e]);
  }
  std::fill_n(routing, shape.experts, 0.0f);
  for (size_t i = 0; i < chosen.size(); ++i) {
    const double weight = static_cast<double>(weights[i]) / (shape.normalize ? sum : 1.0);
    const float scaled = static_cast<float>(weight) * shape.scale;
    routing[chosen[i]] = std::abs(scaled) < kLeastWeight ? 0 : scaled;
  }
}

}  // namespace

void RouterScores(const Context& context, ScoreFunction score, MatView<const float> logits,
                  MatView<float> scores) {
  PLANISH_CHECK(scores.rows == logits.rows && scores.cols == logits.cols);
  if (score == ScoreFunction::kSigmoid) return Activate(context, Activation::kSigmoid, logits, scores);
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, logits.rows, logits.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      float* row = scores.row(i);
      const float max = *std::max_element(logits.row(i), logits.row(i) + logits.cols);
      for (int64_t j = 0; j < logits.cols; ++j) row[j] = logits(i, j) - max;
      kernels.exp(row, row, logits.cols);
      const auto sum = static_cast<float>(Sum({row, static_cast<size_t>(logits.cols)}));
      for (int64_t j = 0; j < logits.cols; ++j) row[j] /= sum;
    }
  });
}

void Route(const Context& context, const RouteShape& shape, MatView<const float> logits,
           MatView<float> routing) {
  PLANISH_CHECK(logits.cols == shape.experts && shape.chosen > 0 && shape.groups > 0 &&
                shape.open_groups > 0);
  PLANISH_CHECK(shape.experts % shape.groups == 0 && shape.open_groups <= shape.groups);
  PLANISH_CHECK(shape.chosen <= shape.experts / shape.groups * shape.open_groups);
  RouterScores(context, shape.score, logits, routing);
  ForRowBlocks(context, routing.rows, routing.cols * shape.chosen, [&](int64_t first, int64_t count) {
    std::vector<float> scores(static_cast<size_t>(shape.experts));
    for (int64_t i = first; i < first + count; ++i) {
      std::copy_n(routing.row(i), shape.experts, scores.data());
      RouteRow(shape, scores.data(), routing.row(i));
    }
  });
}

std::vector<int64_t> RowsOfExpert(MatView<const float> routing, int64_t expert) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < routing.rows; ++i) {
    if (routing(i, expert) != 0) rows.push_back(i);
  }
  return rows;
}

void GatherRows(const Context& context, MatView<const float> x, std::span<const int64_t> rows,
                MatView<float> y) {
  PLANISH_CHECK(y.rows == static_cast<int64_t>(rows.size()) && y.cols == x.cols);
  ForRowBlocks(context, y.rows, y.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      std::memcpy(y.row(i), x.row(rows[static_cast<size_t>(i)]), static_cast<size_t>(x.cols) * sizeof(float));
    }
  });
}

void CombineExperts(const Context& context, MatView<const float> routing,
                    std::span<const MatView<const float>> outputs, MatView<float> y) {
  PLANISH_CHECK(static_cast<int64_t>(outputs.size()) == routing.cols && y.rows == routing.rows);
  // By row: which row of which output, experts ascending.
  struct Part {
    float weight;
    const float* row;
  };
  std::vector<std::vector<Part>> parts(static_cast<size_t>(routing.rows));
  for (int64_t e = 0; e < routing.cols; ++e) {
    const auto& output = outputs[static_cast<size_t>(e)];
    int64_t at = 0;
    for (int64_t i = 0; i < routing.rows; ++i) {
      if (routing(i, e) == 0) continue;
      PLANISH_CHECK(at < output.rows) << "expert " << e;
      parts[static_cast<size_t>(i)].push_back({routing(i, e), output.row(at++)});
    }
    PLANISH_CHECK(at == output.rows) << "expert " << e;
  }
  const NnKernels& kernels = KernelsFor(context);
  ForRowBlocks(context, y.rows, y.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      std::fill_n(y.row(i), y.cols, 0.0f);
      for (const Part& part : parts[static_cast<size_t>(i)]) {
        kernels.add_scaled(part.weight, part.row, y.row(i), y.cols);
      }
    }
  });
}

}  // namespace planish
