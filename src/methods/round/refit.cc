// One sweep of refit: block coordinate descent on L = tr(E H_d E^T) over the groups of columns. (H stands
// for H_d = H + lambda I below.)
//
// At group g the gradient G_g = (E H)_g is that of the current errors, so all changes made to the groups
// before are seen exactly (Gauss-Seidel): one product of the errors with the columns of H of some groups at a
// time, to which the moves of each group are added for those after it. n^2 m multiply-adds for the sweep,
// twice those of one rounding. With a = codes - zero on the group, values q = s a, and the
// residual without this group's values r = e + s a, a change to scale s', zero z' = z + d gives
//   v = a - d 1,   best s' = v H r / v H v,   L' - L = -2 G m + m H m with m = (s' - s) a - s' d 1
// where every term is a combination of G a, G 1, a H a, 1 H a and 1 H 1: O(1) for each candidate d.
#include <algorithm>
#include <cmath>

#include "grids/fit.h"
#include "math/gemm.h"
#include "methods/round/columns.h"
#include "methods/round/panel.h"
#include "tensor/dtype.h"

namespace planish {
namespace {

struct GroupTerms {
  double ga = 0, g1 = 0, aha = 0, ah1 = 0, one_h_one = 0;
};

struct GridChange {
  float scale = 0, zero = 0;
  double delta = 0;  // change of L, < 0 if anything changed
};

// The real zero that is best with its own best scale (two normal equations), in steps; `now` when there is
// none.
int BestZero(const GroupTerms& t, double s, double zero, double step, int last, int now) {
  const double ahr = t.ga + s * t.aha, one_hr = t.g1 + s * t.ah1;
  const double det = t.aha * t.one_h_one - t.ah1 * t.ah1;
  if (!(det > 1e-9 * t.aha * t.one_h_one)) return now;
  const double s_new = (ahr * t.one_h_one - one_hr * t.ah1) / det;
  const double y = (ahr * t.ah1 - one_hr * t.aha) / det;
  if (!(s_new > 0)) return now;
  return static_cast<int>(std::clamp(std::nearbyint((zero + y / s_new) / step), 0.0, double(last)));
}

// The best (scale, zero) for fixed codes; the present one where nothing is better.
GridChange BestGrid(const GroupTerms& t, float scale, float zero, const GridSpec& grid, float unit) {
  GridChange best{scale, zero, 0.0};
  const double s = scale;
  // Zeros on trial, in steps of stored precision: around the best real zero if they are fine, else around
  // the present one.
  const double step = grid.HasZeros() ? grid.ZeroStep() : 1.0;
  const int last = grid.HasZeros() ? static_cast<int>(((1 << grid.bits) - 1) / step) : 0;
  const int now = static_cast<int>(zero / step);
  const bool fine = step < 1.0;
  const int reach = !grid.HasZeros() ? 0 : grid.bits == 2 && !fine ? 3 : 1;
  const int center = fine ? BestZero(t, s, zero, step, last, now) : now;
  const int low = grid.HasZeros() ? std::max(0, center - reach) : now;
  const int high = grid.HasZeros() ? std::min(last, center + reach) : now;
  for (int k = low; k <= high; ++k) {
    const double d = (k - now) * step;
    const double vh1 = t.ah1 - d * t.one_h_one, vha = t.aha - d * t.ah1;
    const double vhv = vha - d * vh1;
    const double vhr = t.ga - d * t.g1 + s * vha;
    if (!(vhv > 0) || !(vhr > 0)) continue;  // no positive scale is best for this zero
    const float s_new = StoredScale(grid, unit, static_cast<float>(vhr / vhv));
    if (!(s_new > 0) || s_new > 65504.0f) continue;
    // q moves by x a - y 1. Written with the move, not with the old and the new value, whose terms are
    // larger than L itself by the square of the number of levels.
    const double x = s_new - s, y = s_new * d;
    const double delta = -2 * (x * t.ga - y * t.g1) + x * x * t.aha - 2 * x * y * t.ah1 + y * y * t.one_h_one;
    if (delta < best.delta) best = {s_new, static_cast<float>(zero + d), delta};
  }
  return best;
}

// Columns whose gradients come from one product: it packs all errors, which for a single group takes as long
// as to multiply them.
constexpr int64_t kSuperColumns = 512;

class Sweep {
 public:
  Sweep(const ColumnProblem& problem, ColumnScratch& scratch, ColumnCoding& coding)
      : p_(problem),
        c_(coding),
        e_(scratch.e),
        gradients_(scratch.block),
        block_work_(static_cast<size_t>(problem.context->pool->NumThreads())) {
    e_.Resize(p_.cols(), p_.ld);
    const int64_t size = std::min(p_.BlockColumns(), p_.cols());
    groups_at_once_ = std::max<int64_t>(1, kSuperColumns / size);
    gradients_.Resize(std::min(groups_at_once_ * size, p_.cols()), p_.ld);
    for (Mat<float>* m : {&a_, &ha_, &moved_, &old_}) m->Resize(size, p_.ld);
    columns_.resize(size);
    for (int64_t j = 0; j < size; ++j) columns_[j] = static_cast<int32_t>(j);
    groups_.resize(size);
    for (int64_t j = 0; j < size; ++j) groups_[j] = static_cast<int32_t>(j / p_.GroupColumns());
  }

  Status Run(bool polish) {
    const int64_t n = p_.cols(), size = p_.BlockColumns();
    ForPanels([&](int64_t row) {
      for (int64_t j = 0; j < n; ++j) Errors(j, row);
    });
    for (int64_t g = 0; g * size < n; ++g) {
      PLANISH_RETURN_IF_ERROR(p_.context->CheckCancelled());
      const int64_t begin = g * size, count = std::min(size, n - begin);
      if (g % groups_at_once_ == 0) {
        super_ = begin;
        super_end_ = std::min(n, begin + groups_at_once_ * size);
        MatMulTN(*p_.context, p_.site->h.view().Cols(super_, super_end_ - super_), PaddedRows(p_, e_, n),
                 PaddedRows(p_, gradients_, super_end_ - super_));
      }
      Group(g, begin, count, polish);
      PassOn(begin, count);
    }
    return {};
  }

 private:
  template <typename Body>
  void ForPanels(const Body& body) {
    p_.context->pool->ParallelFor(p_.num_panels(), [&](int64_t panel) { body(panel * kPanelRows); });
  }

  void Errors(int64_t j, int64_t row) {
    const int64_t g = j / p_.GroupColumns();
    for (int64_t r = row; r < row + kPanelRows; ++r) e_(j, r) = p_.w(j, r) - CodedValue(p_, c_, j, g, r);
  }

  void Group(int64_t g, int64_t begin, int64_t count, bool polish) {
    const MatView<const float> h = p_.site->h.view().Cols(begin, count);
    gradient_ = {gradients_.row(begin - super_), count, p_.padded, p_.ld};
    const auto lambda = static_cast<float>(p_.site->lambda);
    ForPanels([&](int64_t row) {
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t r = row; r < row + kPanelRows; ++r) {
          gradient_(k, r) += lambda * e_(begin + k, r);
          old_(k, r) = e_(begin + k, r);
        }
      }
    });
    Mat<float> h_gg(count, count);
    std::vector<float> inv_diag(count);
    for (int64_t k = 0; k < count; ++k) {
      std::copy_n(h.row(begin + k), count, h_gg.row(k));
      h_gg(k, k) += lambda;
      inv_diag[k] = 1.0f / h_gg(k, k);
    }
    if (p_.grid.InBlocks()) {
      p_.context->pool->ParallelFor(p_.num_panels(), [&](int64_t panel, int worker) {
        const int64_t row = panel * kPanelRows;
        RefitBlock(p_, g, row, h_gg, gradient_, block_work_[static_cast<size_t>(worker)], c_);
        for (int64_t k = 0; k < count; ++k) Errors(begin + k, row);
        if (polish) Polish(g, begin, row, h_gg, inv_diag);
      });
      return;
    }
    ForPanels([&](int64_t row) {
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t r = row; r < row + kPanelRows; ++r) a_(k, r) = Unscaled(p_, c_, begin + k, g, r);
      }
    });
    MatMulTN(*p_.context, h_gg, PaddedRows(p_, a_, count), PaddedRows(p_, ha_, count));
    std::vector<double> h_one(count, 0.0);
    double one_h_one = 0;
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t i = 0; i < count; ++i) h_one[k] += h_gg(k, i);
      one_h_one += h_one[k];
    }
    ForPanels([&](int64_t row) {
      Refit(g, begin, row, h_one, one_h_one);
      if (polish) Polish(g, begin, row, h_gg, inv_diag);
    });
  }

  // Adds what the group's errors have moved by to the gradients of the groups after it.
  void PassOn(int64_t begin, int64_t count) {
    const int64_t end = begin + count;
    if (end >= super_end_) return;
    ForPanels([&](int64_t row) {
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t r = row; r < row + kPanelRows; ++r) old_(k, r) = e_(begin + k, r) - old_(k, r);
      }
    });
    MatMulTN(*p_.context, p_.site->h.view().Rows(begin, count).Cols(end, super_end_ - end),
             PaddedRows(p_, old_, count), {gradients_.row(end - super_), super_end_ - end, p_.padded, p_.ld},
             Accumulate::kAdd);
  }

  // Chooses scale and zero of the group for each row of the panel and applies them to e and G.
  void Refit(int64_t g, int64_t begin, int64_t row, const std::vector<double>& h_one, double one_h_one) {
    const int64_t count = static_cast<int64_t>(h_one.size());
    double ga[kPanelRows] = {}, g1[kPanelRows] = {}, aha[kPanelRows] = {}, ah1[kPanelRows] = {};
    for (int64_t k = 0; k < count; ++k) {
      const float *grad = gradient_.row(k) + row, *a = a_.row(k) + row, *ha = ha_.row(k) + row;
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const double a_kr = a[r];
        ga[r] += grad[r] * a_kr;
        g1[r] += grad[r];
        aha[r] += ha[r] * a_kr;
        ah1[r] += ha[r];
      }
    }
    float scale_change[kPanelRows], shift[kPanelRows], zero_change[kPanelRows];
    for (int64_t r = 0; r < kPanelRows; ++r) {
      float &scale = c_.scales(g, row + r), &zero = c_.zeros(g, row + r);
      const GridChange change =
          BestGrid({ga[r], g1[r], aha[r], ah1[r], one_h_one}, scale, zero, p_.grid, p_.units[row + r]);
      scale_change[r] = change.scale - scale;
      zero_change[r] = change.zero - zero;
      shift[r] = change.scale * zero_change[r];
      scale = change.scale;
      zero = change.zero;
      c_.losses[row + r] += change.delta;
    }
    for (int64_t k = 0; k < count; ++k) {
      Errors(begin + k, row);
      float *grad = gradient_.row(k) + row, *a = a_.row(k) + row;
      const float *ha = ha_.row(k) + row, h1 = static_cast<float>(h_one[k]);
      for (int64_t r = 0; r < kPanelRows; ++r) {
        grad[r] -= scale_change[r] * ha[r] - shift[r] * h1;
        a[r] -= zero_change[r];
      }
    }
  }

  // Coordinate descent over the codes: q_k moves to the value nearest to q_k + G_k / H_kk, where L as a
  // function of this code alone is least. The same kernel as error feedback: the "weights" are the
  // present values, the "errors" their moves, and H_gg takes the place of R.
  void Polish(int64_t g, int64_t begin, int64_t row, MatView<const float> h_gg,
              const std::vector<float>& inv_diag) {
    const int64_t count = h_gg.rows, first = g * p_.GroupsOfBlock();
    for (int64_t k = 0; k < count; ++k) {
      const int64_t own = first + groups_[static_cast<size_t>(k)];
      for (int64_t r = row; r < row + kPanelRows; ++r) a_(k, r) = CodedValue(p_, c_, begin + k, own, r);
    }
    PanelBlock block{.w = a_.data() + row,
                     .codes = c_.codes.row(begin) + row,
                     .scales = c_.scales.row(first) + row,
                     .zeros = c_.zeros.row(first) + row,
                     .columns = columns_.data(),
                     .groups = groups_.data(),
                     .acc = gradient_.data + row,
                     .e = moved_.data() + row,
                     .ld = p_.ld,
                     .coefficients = h_gg.data,
                     .coefficients_ld = h_gg.stride,
                     .inv_diag = inv_diag.data()};
    DescribeCodes(p_, block);
    GroupValues values;
    if (block.form == PanelBlock::Form::kValues) {
      values.Make(p_, c_, g, row);
      values.Use(block);
    }
    RoundPanel(p_.context->isa, block, 0, count);
    for (int64_t k = 0; k < count; ++k) {
      const float *moved = moved_.row(k) + row, *grad = gradient_.row(k) + row;
      const double h_kk = h_gg(k, k);
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const double x = moved[r];
        c_.losses[row + r] += x * (2.0 * grad[r] + x * h_kk);
        e_(begin + k, row + r) += moved[r];
      }
    }
  }

  const ColumnProblem& p_;
  ColumnCoding& c_;
  Mat<float>& e_;  // [n, ld] errors, natural order
  // Gradients of columns [super_, super_end_), and the part of them that is the group's.
  Mat<float>& gradients_;
  MatView<float> gradient_;
  int64_t groups_at_once_ = 1, super_ = 0, super_end_ = 0;
  Mat<float> a_, ha_, moved_;
  Mat<float> old_;                         // [group, ld] the group's errors before the step, then their moves
  std::vector<int32_t> columns_, groups_;  // positions and group of the kernel's block
  std::vector<BlockRefitWork> block_work_;
};

}  // namespace

Status RefitSweep(const ColumnProblem& problem, bool polish, ColumnScratch& scratch, ColumnCoding& coding) {
  return Sweep(problem, scratch, coding).Run(polish);
}

}  // namespace planish
