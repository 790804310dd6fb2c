// Mixtures of experts: which experts serve a token and with what weight, and the rows that go to and come
// from each of them. A routing is a matrix [rows, experts] with the weight of every expert for every row, 0
// where it was not chosen; an expert with a weight below 1e-30 was not chosen.
#pragma once

#include <span>
#include <vector>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

enum class ScoreFunction { kSoftmax, kSigmoid };

struct RouteShape {
  int64_t experts = 0, chosen = 0;  // 0 < chosen <= experts
  ScoreFunction score = ScoreFunction::kSoftmax;
  bool normalize = false;  // weights divided by their sum
  float scale = 1;         // times this, after that
  // Experts in `groups` equal runs, of which only the `open_groups` with the best single scores may be chosen
  // from (DeepSeek-V2, arXiv 2405.04434, section 2.2.2); 1 and 1: all.
  int64_t groups = 1, open_groups = 1;
};

// scores [rows, experts]: softmax over all experts, or sigmoids. May be in place.
void RouterScores(const Context& context, ScoreFunction score, MatView<const float> logits,
                  MatView<float> scores);
// The routing of router logits [rows, experts]. Equal scores: the lower index first. May be in place.
void Route(const Context& context, const RouteShape& shape, MatView<const float> logits,
           MatView<float> routing);

// Rows that an expert serves, ascending.
std::vector<int64_t> RowsOfExpert(MatView<const float> routing, int64_t expert);
// y[i] = x[rows[i]].
void GatherRows(const Context& context, MatView<const float> x, std::span<const int64_t> rows,
                MatView<float> y);
// y[row] = sum over experts, ascending, of routing[row, e] * outputs[e][its row], where outputs[e] has the
// rows that RowsOfExpert names.
void CombineExperts(const Context& context, MatView<const float> routing,
                    std::span<const MatView<const float>> outputs, MatView<float> y);

}  // namespace planish
