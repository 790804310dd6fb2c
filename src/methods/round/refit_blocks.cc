// Refit of one block of GGUF types, codes fixed: the moves of refit.cc for scales and minima that are steps
// of super-scales.
//
// With a the codes' values, a move of the values q by m changes L by -2 G m + m H m, and G by -H m (G is the
// gradient of the errors, H the block's own part of H_d). The super-scales d and M move all values by
// d' u - M' v, with u = step * a and v = min_step of each sub-block: two normal equations, rounded to halves.
// Then each sub-block moves by x a - y: its step takes the three values around the best, each with the best
// minimum for it, the combination with the lowest L is taken. Work: 4 products of the block's H with a panel.
#include <algorithm>
#include <cmath>

#include "methods/round/columns.h"
#include "methods/round/panel.h"

namespace planish {
namespace {

// The scale and the minimum that are best for a sub-block, in real numbers relative to the present ones.
struct Terms {
  double ga = 0, g1 = 0, aha = 0, ah1 = 0, one_h_one = 0;
  // Change of L when values move by x a - y.
  double Delta(double x, double y) const {
    return -2 * (x * ga - y * g1) + x * x * aha - 2 * x * y * ah1 + y * y * one_h_one;
  }
  double BestX(bool affine) const {
    const double det = aha * one_h_one - ah1 * ah1;
    if (affine && det > 1e-9 * aha * one_h_one) return (ga * one_h_one - g1 * ah1) / det;
    return aha > 0 ? ga / aha : 0;
  }
  double BestY(double x) const { return one_h_one > 0 ? (x * ah1 - g1) / one_h_one : 0; }
};

class BlockRefit {
 public:
  BlockRefit(const ColumnProblem& problem, int64_t b, int64_t row, MatView<const float> h,
             BlockRefitWork& work, ColumnCoding& coding)
      : p_(problem), layout_(problem.layout), b_(b), row_(row), h_(h), w_(work), c_(coding) {
    for (auto* v : {&w_.gradient, &w_.a, &w_.ha, &w_.u, &w_.hu, &w_.v, &w_.hv, &w_.moved}) {
      v->assign(layout_.block * kPanelRows, 0.0f);
    }
  }

  void Run(MatView<float> gradient) {
    for (int64_t k = 0; k < layout_.block; ++k) {
      const int64_t j = b_ * layout_.block + k;
      std::copy_n(gradient.row(k) + row_, kPanelRows, w_.gradient.data() + k * kPanelRows);
      for (int64_t r = 0; r < kPanelRows; ++r) w_.a[k * kPanelRows + r] = Unscaled(p_, c_, j, 0, row_ + r);
    }
    if (layout_.subs > 1) MoveSuperScales();
    for (int sub = 0; sub < layout_.subs; ++sub) MoveSubBlock(sub);
    for (int64_t k = 0; k < layout_.block; ++k) {
      std::copy_n(w_.gradient.data() + k * kPanelRows, kPanelRows, gradient.row(k) + row_);
    }
  }

 private:
  // out[j] += sum_i H[to + j, from + i] in[i] for `rows` columns by `count`.
  void AddProduct(int64_t to, int64_t rows, int64_t from, int64_t count, std::vector<float>& in,
                  std::vector<float>& out) const {
    PanelBlock block;
    block.acc = out.data() + to * kPanelRows;
    block.e = in.data() + from * kPanelRows;
    block.ld = kPanelRows;
    block.coefficients = h_.row(to) + from;
    block.coefficients_ld = h_.stride;
    FeedPanel(p_.context->isa, block, 0, count, 0, rows);
  }

  void MoveSuperScales() {
    const int64_t n = layout_.block;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t g = b_ * layout_.subs + k / layout_.n;
      for (int64_t r = 0; r < kPanelRows; ++r) {
        w_.u[k * kPanelRows + r] = static_cast<float>(c_.steps(g, row_ + r)) * w_.a[k * kPanelRows + r];
        w_.v[k * kPanelRows + r] = static_cast<float>(c_.min_steps(g, row_ + r));
      }
    }
    AddProduct(0, n, 0, n, w_.u, w_.hu);
    if (layout_.affine) AddProduct(0, n, 0, n, w_.v, w_.hv);
    double gu[kPanelRows] = {}, gv[kPanelRows] = {}, uhu[kPanelRows] = {}, vhu[kPanelRows] = {},
           vhv[kPanelRows] = {};
    for (int64_t i = 0; i < n * kPanelRows; ++i) {
      const int64_t r = i % kPanelRows;
      const double u = w_.u[i], v = w_.v[i];
      gu[r] += w_.gradient[i] * u;
      gv[r] += w_.gradient[i] * v;
      uhu[r] += w_.hu[i] * u;
      vhu[r] += w_.hu[i] * v;
      vhv[r] += w_.hv[i] * v;
    }
    for (int64_t r = 0; r < kPanelRows; ++r) {
      // u takes the place of a and v of 1, with the sign of the minimum in y.
      const Terms t{gu[r], gv[r], uhu[r], vhu[r], vhv[r]};
      MoveSuperScalesOf(r, t);
    }
  }

  void MoveSuperScalesOf(int64_t r, const Terms& t) {
    float &d = c_.super_scales(b_, row_ + r), &m = c_.super_mins(b_, row_ + r);
    double x = t.BestX(layout_.affine);
    double y = layout_.affine ? t.BestY(x) : 0;
    if (m + y < 0) {
      y = -m;
      x = t.aha > 0 ? (t.ga + y * t.ah1) / t.aha : 0;
    }
    const float new_d = HalfScale(static_cast<float>(d + x)), new_m = HalfScale(static_cast<float>(m + y));
    const auto dx = static_cast<float>(new_d - d), dy = static_cast<float>(new_m - m);
    const double delta = t.Delta(dx, dy);
    if (!(delta < 0)) return;
    d = new_d;
    m = new_m;
    c_.losses[row_ + r] += delta;
    for (int64_t k = 0; k < layout_.block; ++k) {
      const int64_t i = k * kPanelRows + r;
      w_.gradient[i] -= dx * w_.hu[i] - dy * w_.hv[i];
    }
    for (int64_t g = b_ * layout_.subs; g < (b_ + 1) * layout_.subs; ++g) Apply(g, row_ + r);
  }

  // Scale and minimum from the super-scales and steps.
  void Apply(int64_t g, int64_t r) {
    c_.scales(g, r) = c_.super_scales(b_, r) * static_cast<float>(c_.steps(g, r));
    c_.zeros(g, r) = -c_.super_mins(b_, r) * static_cast<float>(c_.min_steps(g, r));
  }

  void MoveSubBlock(int sub) {
    const int64_t n = layout_.n, first = sub * n, g = b_ * layout_.subs + sub;
    std::fill_n(w_.ha.begin() + first * kPanelRows, n * kPanelRows, 0.0f);
    AddProduct(first, n, first, n, w_.a, w_.ha);
    double one_h_one = 0;
    Terms terms[kPanelRows];
    for (int64_t k = first; k < first + n; ++k) {
      for (int64_t i = first; i < first + n; ++i) one_h_one += h_(k, i);
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const int64_t at = k * kPanelRows + r;
        const double a = w_.a[at];
        terms[r].ga += w_.gradient[at] * a;
        terms[r].g1 += w_.gradient[at];
        terms[r].aha += w_.ha[at] * a;
        terms[r].ah1 += w_.ha[at];
      }
    }
    bool any = false;
    for (int64_t r = 0; r < kPanelRows; ++r) {
      terms[r].one_h_one = one_h_one;
      const float scale = c_.scales(g, row_ + r), zero = c_.zeros(g, row_ + r);
      c_.losses[row_ + r] +=
          layout_.subs == 1 ? MoveHalves(g, row_ + r, terms[r]) : MoveSteps(g, row_ + r, terms[r]);
      const float x = c_.scales(g, row_ + r) - scale, up = c_.zeros(g, row_ + r) - zero;
      any = any || x != 0 || up != 0;
      for (int64_t k = first; k < first + n; ++k) {
        const int64_t at = k * kPanelRows + r;
        w_.moved[at] = -(x * w_.a[at] + up);
      }
    }
    if (any) AddProduct(0, layout_.block, first, n, w_.moved, w_.gradient);
  }

  // Blocks without sub-blocks: scale and minimum are halves. Returns the change of L.
  double MoveHalves(int64_t g, int64_t r, const Terms& t) {
    float &scale = c_.scales(g, r), &zero = c_.zeros(g, r);
    const double x = t.BestX(layout_.affine);
    const float new_scale = HalfScale(static_cast<float>(scale + x));
    const float dx = new_scale - scale;
    const float new_zero = layout_.affine ? HalfScale(static_cast<float>(zero - t.BestY(dx))) : zero;
    const double delta = t.Delta(dx, -(new_zero - zero));
    if (!(delta < 0)) return 0;
    scale = c_.super_scales(b_, r) = new_scale;
    zero = c_.super_mins(b_, r) = new_zero;
    return delta;
  }

  double MoveSteps(int64_t g, int64_t r, const Terms& t) {
    const double d = c_.super_scales(b_, r), m = c_.super_mins(b_, r), scale = c_.scales(g, r);
    if (d == 0) return 0;
    const int now_step = c_.steps(g, r), now_min = c_.min_steps(g, r);
    const auto whole = [](double v, int low, int high) {
      return static_cast<int>(std::clamp(std::nearbyint(v), double(low), double(high)));
    };
    const int center =
        whole((scale + t.BestX(layout_.affine && m > 0)) / d, layout_.low_step, layout_.high_step);
    double best = 0;
    for (int step = center - 1; step <= center + 1; ++step) {
      if (step < layout_.low_step || step > layout_.high_step) continue;
      const double x = d * (step - now_step);
      const int min =
          layout_.affine && m > 0 ? whole(now_min + t.BestY(x) / m, 0, layout_.high_step) : now_min;
      const double delta = t.Delta(x, m * (min - now_min));
      if (!(delta < best)) continue;
      best = delta;
      c_.steps(g, r) = static_cast<int8_t>(step);
      c_.min_steps(g, r) = static_cast<uint8_t>(min);
    }
    if (best < 0) Apply(g, r);
    return best;
  }

  const ColumnProblem& p_;
  const BlockLayout& layout_;
  int64_t b_, row_;
  MatView<const float> h_;
  BlockRefitWork& w_;
  ColumnCoding& c_;
};

}  // namespace

void RefitBlock(const ColumnProblem& problem, int64_t b, int64_t row, MatView<const float> h,
                MatView<float> gradient, BlockRefitWork& work, ColumnCoding& coding) {
  BlockRefit(problem, b, row, h, work, coding).Run(gradient);
}

}  // namespace planish
