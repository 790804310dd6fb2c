#include "evaluate/difference.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string_view>

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
  int64_t Bytes() const {
    return matrix != nullptr ? StoredBytes(*matrix) : static_cast<int64_t>(vector.size_bytes());
  }
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

// Fields that say nothing of what a model computes: who wrote it, how values are stored (which is in the
// types), what training did.
constexpr std::string_view kSaysNothing[] = {"_attn_implementation",
                                             "_name_or_path",
                                             "architectures",
                                             "attention_dropout",
                                             "attn_pdrop",
                                             "auto_map",
                                             "classifier_dropout",
                                             "dtype",
                                             "embd_pdrop",
                                             "hidden_dropout",
                                             "initializer_range",
                                             "output_router_logits",
                                             "pretraining_tp",
                                             "quantization_config",
                                             "resid_pdrop",
                                             "router_aux_loss_coef",
                                             "torch_dtype",
                                             "transformers_version",
                                             "use_cache"};

// The fields that say something, under one name each: rotations are spelled in several ways, and null, false
// and nothing are one.
Json Meaning(const Json& config) {
  Json meaning = Json::object();
  const auto add = [&](const std::string& name, const Json& value) {
    const bool nothing = value.is_null() || value == false || (value.is_structured() && value.empty());
    if (!nothing && std::ranges::find(kSaysNothing, name) == std::end(kSaysNothing)) meaning[name] = value;
  };
  for (const auto& [name, value] : config.items()) {
    if ((name != "rope_parameters" && name != "rope_scaling") || !value.is_object()) {
      add(name, value);
      continue;
    }
    Json scaling = value;
    if (scaling.contains("type") && !scaling.contains("rope_type")) scaling["rope_type"] = scaling["type"];
    scaling.erase("type");
    if (scaling.contains("rope_theta")) add("rope_theta", scaling["rope_theta"]);
    scaling.erase("rope_theta");
    if (scaling.value("rope_type", Json()) == "default") scaling.erase("rope_type");
    add("rope_scaling", scaling);
  }
  return meaning;
}

// Numbers to the precision of the floats that they become; anything else exactly.
bool SameValue(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return a.get<float>() == b.get<float>();
  if (a.type() != b.type() || a.size() != b.size() || !a.is_structured()) return a == b;
  if (a.is_array()) {
    return std::equal(a.begin(), a.end(), b.begin(), SameValue);
  }
  for (const auto& [name, value] : a.items()) {
    const auto other = b.find(name);
    if (other == b.end() || !SameValue(value, *other)) return false;
  }
  return true;
}

void CompareFields(const Json& a, const Json& b, std::vector<FieldDifference>& fields) {
  const Json x = Meaning(a), y = Meaning(b);
  std::set<std::string> names;
  for (const Json* config : {&x, &y}) {
    for (const auto& [name, value] : config->items()) names.insert(name);
  }
  const auto text = [](const Json& config, const std::string& name) {
    return config.contains(name) ? DumpJson(config[name]) : std::string();
  };
  for (const auto& name : names) {
    if (x.contains(name) && y.contains(name) && SameValue(x[name], y[name])) continue;
    fields.push_back({name, text(x, name), text(y, name)});
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
  int64_t done_bytes = 0, total_bytes = 0;
  for (const auto& [name, item] : items_a) total_bytes += item.Bytes();
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
      done_bytes += item.Bytes();
      context.progress->Update("diff", static_cast<double>(done_bytes), static_cast<double>(total_bytes),
                               "bytes");
    }
  }
  for (const auto& [name, item] : items_b) {
    if (!in_a.contains(name)) difference.only_b.push_back(name);
  }
  return difference;
}

}  // namespace planish
