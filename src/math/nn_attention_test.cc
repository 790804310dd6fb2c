// Causal attention of nn.h against a softmax over the full row in double, and its gradient against
// central differences of that.
#include <gtest/gtest.h>

#include <cmath>

#include "math/nn.h"
#include "math/nn_test_util.h"

namespace planish {
namespace {

using namespace nn_test;  // NOLINT: the helpers of this folder's tests

struct AttentionCase {
  int64_t queries, first;
  AttentionShape shape;
};

std::string Name(const AttentionCase& c) {
  return "Attention " + std::to_string(c.first) + "+" + std::to_string(c.queries) + " heads " +
         std::to_string(c.shape.heads) + "/" + std::to_string(c.shape.kv_heads) + " x " +
         std::to_string(c.shape.head_dim) + " window " + std::to_string(c.shape.window) + " softcap " +
         std::to_string(c.shape.softcap);
}

std::vector<double> Formula(const AttentionCase& c, const std::vector<double>& q,
                            const std::vector<double>& k, const std::vector<double>& v) {
  const AttentionShape& s = c.shape;
  const int64_t q_cols = s.heads * s.head_dim, k_cols = s.kv_heads * s.head_dim;
  const auto at = [](int64_t row, int64_t cols, int64_t col) {
    return static_cast<size_t>(row * cols + col);
  };
  std::vector<double> out(static_cast<size_t>(c.queries * q_cols), 0.0);
  for (int64_t h = 0; h < s.heads; ++h) {
    const int64_t qc = h * s.head_dim, kc = h / (s.heads / s.kv_heads) * s.head_dim;
    for (int64_t i = 0; i < c.queries; ++i) {
      const int64_t position = c.first + i;
      std::vector<double> p(static_cast<size_t>(position + 1), 0.0);
      double sum = 0;
      for (int64_t j = 0; j <= position; ++j) {
        if (s.window > 0 && j <= position - s.window) continue;
        double dot = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) dot += q[at(i, q_cols, qc + d)] * k[at(j, k_cols, kc + d)];
        dot *= s.scale;
        if (s.softcap > 0) dot = s.softcap * std::tanh(dot / s.softcap);
        sum += p[static_cast<size_t>(j)] = std::exp(dot);
      }
      for (int64_t j = 0; j <= position; ++j) {
        for (int64_t d = 0; d < s.head_dim; ++d) {
          out[at(i, q_cols, qc + d)] += p[static_cast<size_t>(j)] / sum * v[at(j, k_cols, kc + d)];
        }
      }
    }
  }
  return out;
}

struct Inputs {
  Mat<float> q, k, v;
  explicit Inputs(const AttentionCase& c)
      : q(RandomMat(c.queries, c.shape.heads * c.shape.head_dim, 31)),
        k(RandomMat(c.first + c.queries, c.shape.kv_heads * c.shape.head_dim, 32)),
        v(RandomMat(c.first + c.queries, c.shape.kv_heads * c.shape.head_dim, 33)) {}
};

TEST(NnAttention, MatchesFullSoftmax) {
  const AttentionCase cases[] = {{1, 0, {1, 1, 1, 1.0f}},           {130, 0, {2, 2, 64, 0.125f}},
                                 {67, 0, {4, 2, 20, 0.3f}},         {1, 200, {8, 4, 64, 0.125f}},
                                 {1, 63, {6, 2, 7, 0.5f}},          {1, 64, {3, 1, 80, 0.11f}},
                                 {33, 100, {4, 4, 7, 0.5f, 30}},    {129, 3, {2, 1, 16, 0.25f, 64}},
                                 {15, 77, {8, 4, 33, 0.2f, 1}},     {40, 11, {2, 2, 24, 0.5f, 0, 3}},
                                 {1, 150, {4, 2, 64, 0.3f, 70, 2}}, {5, 0, {32, 4, 16, 0.4f}},
                                 {70, 0, {1, 1, 128, 0.09f}},       {2, 130, {40, 4, 12, 0.3f, 0, 5.0f}}};
  for (const AttentionCase& c : cases) {
    const Inputs in(c);
    // Scores up to about 8 with 2 ulp of that, so weights to 2e-6 relative, values up to 2, averaged.
    Expected expected;
    for (const double y : Formula(c, Doubles(in.q), Doubles(in.k), Doubles(in.v))) expected.Add(y, 4e-6);
    CheckOperation(Name(c), expected, [&](const Context& context) {
      Mat<float> out(c.queries, in.q.cols());
      CausalAttention(context, c.shape, in.q, in.k, in.v, c.first, out);
      return Flat(out);
    });
  }
}

TEST(NnAttention, QueryByQueryGivesTheSameBits) {
  const AttentionCase c{90, 20, {4, 2, 40, 0.2f, 50, 4.0f}};
  const Inputs in(c);
  for (const Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    ThreadPool pool(2);
    Context context;
    context.pool = &pool;
    context.isa = isa;
    Mat<float> all(c.queries, in.q.cols()), each(c.queries, in.q.cols());
    CausalAttention(context, c.shape, in.q, in.k, in.v, c.first, all);
    for (int64_t i = 0; i < c.queries; ++i) {
      const int64_t keys = c.first + i + 1;
      CausalAttention(context, c.shape, in.q.view().Rows(i, 1), in.k.view().Rows(0, keys),
                      in.v.view().Rows(0, keys), c.first + i, each.view().Rows(i, 1));
    }
    EXPECT_TRUE(SameBits(Flat(all), Flat(each))) << IsaName(isa);
  }
}

TEST(NnAttention, LargeScoresStayFinite) {
  const AttentionCase c{80, 0, {1, 1, 16, 1000.0f}};
  const Inputs in(c);
  for (const Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    ThreadPool pool(1);
    Context context;
    context.pool = &pool;
    context.isa = isa;
    Mat<float> out(c.queries, in.q.cols());
    CausalAttention(context, c.shape, in.q, in.k, in.v, 0, out);
    EXPECT_EQ(FindNonFinite({out.data(), static_cast<size_t>(80 * 16)}), -1) << IsaName(isa);
    for (int64_t d = 0; d < 16; ++d) EXPECT_EQ(out(0, d), in.v(0, d));  // one visible key
  }
}

TEST(NnAttention, NanReachesOnlyItsOwnQuery) {
  const AttentionCase c{20, 0, {2, 2, 16, 0.25f}};
  Inputs in(c);
  in.q(3, 5) = std::nanf("");
  ThreadPool pool(1);
  Context context;
  context.pool = &pool;
  context.isa = BestIsa();
  Mat<float> out(c.queries, in.q.cols());
  CausalAttention(context, c.shape, in.q, in.k, in.v, 0, out);
  for (int64_t i = 0; i < c.queries; ++i) {
    EXPECT_EQ(std::isnan(out(i, 0)), i == 3) << i;
    EXPECT_FALSE(std::isnan(out(i, 16))) << i;
  }
}

TEST(NnAttention, Gradients) {
  const AttentionCase cases[] = {
      {5, 2, {4, 2, 3, 0.7f, 3, 2.0f}}, {6, 0, {2, 2, 9, 0.4f}}, {1, 4, {2, 1, 4, 0.5f}}};
  for (const AttentionCase& c : cases) {
    const Inputs in(c);
    const Mat<float> d_out = RandomMat(c.queries, in.q.cols(), 34);
    const std::vector<double> q = Doubles(in.q), k = Doubles(in.k), v = Doubles(in.v);
    const auto loss = [&](const std::vector<double>& a, const std::vector<double>& b,
                          const std::vector<double>& w) {
      const std::vector<double> y = Formula(c, a, b, w);
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * d_out.data()[i];
      return sum;
    };
    Expected expected;  // float probabilities and slopes of order 1; sums of a few dozen of them
    for (size_t i = 0; i < q.size(); ++i) {
      expected.Add(Slope([&](const auto& p) { return loss(p, k, v); }, q, i), 5e-6);
    }
    for (size_t i = 0; i < k.size(); ++i) {
      expected.Add(Slope([&](const auto& p) { return loss(q, p, v); }, k, i), 5e-6);
    }
    for (size_t i = 0; i < v.size(); ++i) {
      expected.Add(Slope([&](const auto& p) { return loss(q, k, p); }, v, i), 5e-6);
    }
    CheckOperation(Name(c) + " backward", expected, [&](const Context& context) {
      Mat<float> d_q(in.q.rows(), in.q.cols()), d_k(in.k.rows(), in.k.cols()), d_v(in.v.rows(), in.v.cols());
      CausalAttentionBackward(context, c.shape, in.q, in.k, in.v, c.first, d_out, d_q, d_k, d_v);
      std::vector<float> out = Flat(d_q);
      for (const Mat<float>* m : {&d_k, &d_v})
        out.insert(out.end(), m->data(), m->data() + m->rows() * m->cols());
      return out;
    });
  }
}

}  // namespace
}  // namespace planish
