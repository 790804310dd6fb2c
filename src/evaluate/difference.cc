#include "evaluate/difference.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace planish {
namespace {

constexpr int64_t kChunkRows = 16;  // decoded at a time by a thread

// Sums over elements, in double.
struct Sums {
  double aa = 0, bb = 0, ab = 0, dd = 0, max = 0;
  void Add(double x, double y) {
    aa += x * x;
    bb += y * y;
    ab += x * y;
    dd += (x - y) * (x - y);
    const double distance = std::abs(x - y);
    if (!(distance <= max)) max = distance;  // NaN too, and it stays
  }
  void Add(const Sums& other) {
    aa += other.aa;
    bb += other.bb;
    ab += other.ab;
    dd += other.dd;
    if (!(other.max <= max) && !std::isnan(max)) max = other.max;
  }
  void Finish(TensorDifference& difference) const {
    difference.max_abs = max;
    if (std::isnan(dd)) {
      difference.relative = difference.cosine = difference.max_abs = dd;
      return;
    }
    difference.relative = dd == 0 ? 0 : std::sqrt(dd / aa);
    difference.cosine = aa == 0 && bb == 0 ? 1 : aa == 0 || bb == 0 ? 0 : ab / std::sqrt(aa) / std::sqrt(bb);
  }
};

// A linear, or a vector of floats.
struct Item {
  const Matrix* matrix = nullptr;
  std::span<const float> vector;
  std::string Type() const { return matrix != nullptr ? Describe(*matrix) : "f32"; }
  std::vector<int64_t> Shape() const {
    if (matrix != nullptr) return {matrix->rows, matrix->cols};
    return {static_cast<int64_t>(vector.size())};
  }
};

using Items = std::vector<std::pair<std::string, Item>>;

Items ItemsOf(const Model& model) {
  Items items;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    const Linear& linear = model.linears[i];
    items.push_back({linear.name, {&linear.w, {}}});
    if (!linear.bias.empty()) items.push_back({model.program.linears[i].bias, {nullptr, linear.bias}});
  }
  for (size_t i = 0; i < model.vectors.size(); ++i) {
    items.push_back({model.program.vectors[i].name, {nullptr, model.vectors[i]}});
  }
  return items;
}

Sums Compare(const Context& context, const Item& a, const Item& b) {
  Sums sums;
  if (a.matrix == nullptr) {
    for (size_t i = 0; i < a.vector.size(); ++i) sums.Add(a.vector[i], b.vector[i]);
    return sums;
  }
  const int64_t rows = a.matrix->rows, cols = a.matrix->cols, chunks = (rows + kChunkRows - 1) / kChunkRows;
  std::vector<Sums> parts(static_cast<size_t>(chunks));
  context.pool->ParallelFor(chunks, [&](int64_t chunk) {
    const int64_t row = chunk * kChunkRows, count = std::min(kChunkRows, rows - row);
    Mat<float> x(count, cols), y(count, cols);
    ReadRows(*a.matrix, row, count, 0, cols, x.data(), cols);
    ReadRows(*b.matrix, row, count, 0, cols, y.data(), cols);
    Sums& part = parts[static_cast<size_t>(chunk)];
    for (int64_t k = 0; k < count * cols; ++k) part.Add(x.data()[k], y.data()[k]);
  });
  for (const Sums& part : parts) sums.Add(part);
  return sums;
}

void CompareFields(const Json& a, const Json& b, std::vector<FieldDifference>& fields) {
  std::set<std::string> names;
  for (const Json* config : {&a, &b}) {
    for (const auto& [name, value] : config->items()) names.insert(name);
  }
  names.erase("quantization_config");  // how values are stored is in the types
  const auto text = [](const Json& config, const std::string& name) {
    return config.contains(name) ? DumpJson(config[name]) : std::string();
  };
  for (const auto& name : names) {
    FieldDifference field{name, text(a, name), text(b, name)};
    if (field.a != field.b) fields.push_back(std::move(field));
  }
}

}  // namespace

bool ModelDifference::Same() const {
  return only_a.empty() && only_b.empty() && fields.empty() &&
         std::ranges::all_of(tensors, [](const auto& t) { return t.same_shape() && t.max_abs == 0; });
}

Result<ModelDifference> CompareModels(const Context& context, const Model& a, const Model& b) {
  const Items items_a = ItemsOf(a), items_b = ItemsOf(b);
  const std::map<std::string, Item> in_b(items_b.begin(), items_b.end());
  std::set<std::string> in_a;
  ModelDifference difference;
  CompareFields(a.config, b.config, difference.fields);
  double done = 0;
  for (const auto& [name, item] : items_a) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    in_a.insert(name);
    const auto other = in_b.find(name);
    if (other == in_b.end()) {
      difference.only_a.push_back(name);
    } else {
      TensorDifference tensor{name, item.Type(), other->second.Type(), item.Shape(), other->second.Shape()};
      if (tensor.same_shape()) Compare(context, item, other->second).Finish(tensor);
      difference.tensors.push_back(std::move(tensor));
    }
    if (context.progress != nullptr) {
      context.progress->Update("diff", ++done, static_cast<double>(items_a.size()), "tensors");
    }
  }
  for (const auto& [name, item] : items_b) {
    if (!in_a.contains(name)) difference.only_b.push_back(name);
  }
  return difference;
}

}  // namespace planish
