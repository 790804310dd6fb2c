#include "layer/nested.h"

#include <algorithm>
#include <cmath>

#include "tensor/dtype.h"

namespace planish {
namespace {

GridSpec Narrow(const GridSpec& grid, int bits) {
  GridSpec narrow = grid;
  narrow.bits = bits;
  narrow.zero_bits = grid.symmetric ? 0 : 8;
  return narrow;
}

GridMatrix RoundAgain(const GridMatrix& wide, int bits) {
  const int shift = wide.grid.bits - bits;
  const auto step = static_cast<float>(1 << shift), most = static_cast<float>((1 << bits) - 1);
  GridMatrix narrow;
  narrow.grid = Narrow(wide.grid, bits);
  narrow.codes.Resize(wide.rows(), wide.cols());
  for (int64_t k = 0; k < wide.rows() * wide.cols(); ++k) {
    const float code = std::nearbyint(static_cast<float>(wide.codes.data()[k]) / step);
    narrow.codes.data()[k] = static_cast<uint8_t>(std::min(code, most));
  }
  const int64_t groups = wide.scales.cols();
  narrow.scales.Resize(wide.rows(), groups);
  narrow.zeros.Resize(wide.rows(), groups);
  for (const float unit : wide.units) narrow.units.push_back(ToFloat(ToF16(std::min(unit * step, 65504.0f))));
  for (int64_t k = 0; k < wide.rows() * groups; ++k) {
    const float unit = narrow.units.empty() ? 1.0f : narrow.units[static_cast<size_t>(k / groups)];
    narrow.scales.data()[k] = StoredScale(narrow.grid, unit, wide.scales.data()[k] * step);
    narrow.zeros.data()[k] = wide.zeros.data()[k] / step;
  }
  return narrow;
}

GridMatrix FitAgain(const Context& context, const Matrix& from, const GridSpec& grid, int bits) {
  const Mat<float> w = Reconstruct(from);
  GridMatrix narrow = FitGrid(context, w, {}, Narrow(grid, bits), ClipSearch::kWeighted);
  EncodeAll(context, w, narrow);
  return narrow;
}

}  // namespace

Matrix ReadAtBits(const Context& context, const Matrix& from, int bits, NestedRule rule, int& changed) {
  PLANISH_CHECK(bits > 1 && bits < 8) << bits;
  if (const auto* sum = std::get_if<SumPart>(&from.body)) {
    SumPart read;
    for (const Matrix& term : sum->terms)
      read.terms.push_back(ReadAtBits(context, term, bits, rule, changed));
    return {from.rows, from.cols, std::move(read)};
  }
  const auto* coded = std::get_if<Coded>(&from.body);
  if (coded == nullptr || !coded->grid.Uniform() || coded->grid.bits <= bits) return from;
  ++changed;
  if (rule == NestedRule::kRefit) return PackCodes(FitAgain(context, from, coded->grid, bits));
  Matrix read = PackCodes(RoundAgain(UnpackCodes(from), bits));
  std::get<Coded>(read.body).group_of = coded->group_of;
  return read;
}

}  // namespace planish
