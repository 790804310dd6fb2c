#include "runtime/paged_cache.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace planish {
namespace {

struct AttentionCase {
  int64_t heads, kv_heads, head_dim, window;
  float softcap;
};

Program OneLayer(const AttentionCase& c) {
  Program program;
  program.cache_layers = 1;
  Block block;
  Op op;
  op.body = AttentionOp{{.heads = c.heads,
                         .kv_heads = c.kv_heads,
                         .head_dim = c.head_dim,
                         .scale = 1 / std::sqrt(static_cast<float>(c.head_dim)),
                         .window = c.window,
                         .softcap = c.softcap},
                        0};
  block.ops.push_back(op);
  program.blocks.push_back(block);
  return program;
}

const AttentionShape& ShapeOf(const Program& program) {
  return std::get<AttentionOp>(program.blocks[0].ops[0].body).shape;
}

Mat<float> Noise(int64_t rows, int64_t cols, uint64_t stream) {
  Mat<float> m(rows, cols);
  const Random random(7, stream);
  for (int64_t i = 0; i < rows * cols; ++i) m.data()[i] = static_cast<float>(random.Normal(i));
  return m;
}

// Softmax attention by its formula, in double.
Mat<float> Plain(const AttentionShape& s, const Mat<float>& q, const Mat<float>& k, const Mat<float>& v,
                 int64_t first_position) {
  Mat<float> out(q.rows(), q.cols());
  for (int64_t i = 0; i < q.rows(); ++i) {
    const int64_t at = first_position + i, first = s.window > 0 ? std::max<int64_t>(0, at - s.window + 1) : 0;
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t kv = h / (s.heads / s.kv_heads) * s.head_dim;
      std::vector<double> sum(static_cast<size_t>(s.head_dim), 0.0);
      double total = 0;
      for (int64_t j = first; j <= at; ++j) {
        double score = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) score += q(i, h * s.head_dim + d) * double{k(j, kv + d)};
        score *= s.scale;
        if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
        const double p = std::exp(score);
        total += p;
        for (int64_t d = 0; d < s.head_dim; ++d) sum[static_cast<size_t>(d)] += p * v(j, kv + d);
      }
      for (int64_t d = 0; d < s.head_dim; ++d) {
        out(i, h * s.head_dim + d) = static_cast<float>(sum[static_cast<size_t>(d)] / total);
      }
    }
  }
  return out;
}

double LargestDifference(const Mat<float>& a, const Mat<float>& b) {
  double largest = 0;
  for (int64_t i = 0; i < a.rows() * a.cols(); ++i) {
    largest = std::max(largest, std::fabs(double{a.data()[i]} - b.data()[i]));
  }
  return largest;
}

Batch Positions(int64_t first, int64_t count, int slot = 0) {
  return Batch::Of(std::vector<int32_t>(static_cast<size_t>(count), 0), slot, first);
}

const AttentionCase kCases[] = {{4, 2, 64, 0, 0},  {9, 3, 64, 0, 0},   {8, 8, 128, 100, 0}, {71, 1, 16, 0, 0},
                                {4, 1, 80, 0, 30}, {2, 2, 20, 300, 0}, {6, 2, 7, 0, 0}};

// bf16 keeps 8 bits: keys and queries of about 1 give scores off by some 2^-8, which moves averages of
// values of about 1 by less than 0.02; int8 codes of a head are off by up to absmax / 254, about 0.012.
TEST(PagedCache, AgreesWithTheFormulaForEveryInstructionSet) {
  ThreadPool pool(2);
  for (const AttentionCase& c : kCases) {
    const Program program = OneLayer(c);
    const int64_t keys = 700, first = 650;
    const AttentionShape& shape = ShapeOf(program);
    const Mat<float> k = Noise(keys, c.kv_heads * c.head_dim, 1), v = Noise(keys, c.kv_heads * c.head_dim, 2);
    const Mat<float> q = Noise(keys - first, c.heads * c.head_dim, 3);
    const Mat<float> expected = Plain(shape, q, k, v, first);
    for (const CacheType type : {CacheType::kBF16, CacheType::kInt8}) {
      for (const Isa isa : kAllIsas) {
        if (!IsaSupported(isa)) continue;
        const Context context{&pool, isa};
        PagedCache cache(program, {.slots = 2, .capacity = 1000, .type = type});
        ASSERT_TRUE(
            cache.Append(context, 0, Positions(0, first, 1), k.view().Rows(0, first), v.view().Rows(0, first))
                .ok());
        const Batch batch = Positions(first, keys - first, 1);
        ASSERT_TRUE(cache
                        .Append(context, 0, batch, k.view().Rows(first, keys - first),
                                v.view().Rows(first, keys - first))
                        .ok());
        Mat<float> out(keys - first, c.heads * c.head_dim);
        ASSERT_TRUE(cache.Attend(context, 0, shape, batch, q, out).ok());
        EXPECT_LT(LargestDifference(out, expected), type == CacheType::kBF16 ? 0.02 : 0.05)
            << IsaName(isa) << " heads " << c.heads << "/" << c.kv_heads << " of " << c.head_dim;
      }
    }
  }
}

// What was rounded to bf16 beforehand is stored exactly, so only sums and weights round.
TEST(PagedCache, IsCloseForValuesThatBf16Holds) {
  ThreadPool pool(1);
  const Program program = OneLayer({4, 2, 64, 0, 0});
  const AttentionShape& shape = ShapeOf(program);
  Mat<float> k = Noise(300, 128, 1), v = Noise(300, 128, 2), q = Noise(1, 256, 3);
  for (Mat<float>* m : {&k, &v, &q}) {
    for (int64_t i = 0; i < m->rows() * m->cols(); ++i) m->data()[i] = ToFloat(ToBF16(m->data()[i]));
  }
  for (const Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    const Context context{&pool, isa};
    PagedCache cache(program, {.capacity = 300});
    ASSERT_TRUE(cache.Append(context, 0, Positions(0, 300), k, v).ok());
    Mat<float> out(1, 256);
    ASSERT_TRUE(cache.Attend(context, 0, shape, Positions(299, 1), q, out).ok());
    // Weights in bf16 are off by 2^-9 relative, and average out over 300 keys.
    EXPECT_LT(LargestDifference(out, Plain(shape, q, k, v, 299)), isa == Isa::kAvx512 ? 2e-3 : 2e-5)
        << IsaName(isa);
  }
}

TEST(PagedCache, GivesTheSameBitsForAnyThreadsAndDivisionOfTheBatch) {
  const Program program = OneLayer({6, 2, 32, 0, 0});
  const AttentionShape& shape = ShapeOf(program);
  const Mat<float> k = Noise(1300, 64, 1), v = Noise(1300, 64, 2), q = Noise(50, 192, 3);
  Mat<float> whole(50, 192), parts(50, 192), spans(50, 192);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const Context context{&pool, BestIsa()};
    PagedCache cache(program, {.capacity = 1300});
    ASSERT_TRUE(cache.Append(context, 0, Positions(0, 1300), k, v).ok());
    Mat<float>& out = threads == 1 ? whole : parts;
    for (int64_t i = 0; i < 50; i += threads == 1 ? 50 : 7) {
      const int64_t n = threads == 1 ? 50 : std::min<int64_t>(7, 50 - i);
      ASSERT_TRUE(
          cache.Attend(context, 0, shape, Positions(1250 + i, n), q.view().Rows(i, n), out.view().Rows(i, n))
              .ok());
    }
    for (int64_t i = 0; i < 50; ++i) {
      const auto [first, last] = cache.SpansOf(0, 1250 + i);
      std::vector<float> partials(static_cast<size_t>(cache.PartialFloats(0) * (last - first)));
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t span = first; span < last; ++span) {
          cache.AttendSpan(context.isa, 0, 0, head, 1250 + i, span, q.row(i) + head * 96,
                           partials.data() + (span - first) * cache.PartialFloats(0));
        }
        cache.JoinSpans(0, first, last, partials.data(), spans.row(i) + head * 96);
      }
    }
    EXPECT_EQ(LargestDifference(out, spans), 0);
  }
  EXPECT_EQ(LargestDifference(whole, parts), 0);
}

TEST(PagedCache, GivesPagesBackThatTheWindowLeft) {
  ThreadPool pool(1);
  const Context context{&pool, Isa::kScalar};
  const Program program = OneLayer({1, 1, 16, 100, 0});
  PagedCache cache(program, {.capacity = 100000});
  const Mat<float> k = Noise(50, 16, 1), v = Noise(50, 16, 2);
  int64_t most = 0;
  for (int64_t at = 0; at < 5000; at += 50) {
    ASSERT_TRUE(cache.Append(context, 0, Positions(at, 50), k, v).ok());
    most = std::max(most, cache.bytes());
  }
  EXPECT_LE(most, 5 * 256 * 32 * 2);
  const Status back = cache.Append(context, 0, Positions(1000, 50), k, v);
  ASSERT_FALSE(back.ok());
  EXPECT_NE(back.error().message.find("window of 100"), std::string::npos) << back.error().message;
  EXPECT_TRUE(cache.Append(context, 0, Positions(0, 50), k, v).ok());
}

TEST(PagedCache, RefusesWhatDoesNotFitOrIsNotFinite) {
  ThreadPool pool(1);
  const Context context{&pool, Isa::kScalar};
  PagedCache cache(OneLayer({1, 1, 16, 0, 0}), {.capacity = 40});
  Mat<float> k = Noise(50, 16, 1), v = Noise(50, 16, 2);
  const Status full = cache.Append(context, 0, Positions(0, 50), k, v);
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().message, "the sequence needs 50 positions, the cache holds 40; raise --context");
  v(3, 5) = NAN;
  const Status nan = cache.Append(context, 0, Positions(0, 40), k.view().Rows(0, 40), v.view().Rows(0, 40));
  ASSERT_FALSE(nan.ok());
  EXPECT_NE(nan.error().message.find("position 3"), std::string::npos) << nan.error().message;
}

}  // namespace
}  // namespace planish
