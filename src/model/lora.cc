#include "model/lora.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "base/names.h"
#include "formats/lora.h"
#include "math/nn.h"

namespace planish {
namespace {

// How the program uses a linear.
struct Uses {
  bool product = false, lookup = false;
};

std::vector<Uses> FindUses(const Program& program) {
  std::vector<Uses> uses(program.linears.size());
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      if (const auto* linear = std::get_if<LinearOp>(&op.body)) {
        uses[static_cast<size_t>(linear->linear)].product = true;
      } else if (const auto* embed = std::get_if<EmbedOp>(&op.body)) {
        uses[static_cast<size_t>(embed->table)].lookup = true;
      }
    }
  }
  return uses;
}

// What adapters of this form call the model's linears by: a name and, of GGUF, the expert or -1. `family` is
// null for PEFT.
using TargetMap = std::map<std::pair<std::string, int64_t>, size_t>;

TargetMap Targets(const Model& model, const GgufFamily* family) {
  TargetMap targets;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    constexpr std::string_view kWeight = ".weight";
    const std::string& name = model.linears[i].name;
    if (family != nullptr) {
      const auto place = GgufPlaceOf(*family, model.program, name);
      if (place) targets[{place->name, place->expert}] = i;
    } else if (name.ends_with(kWeight)) {
      targets[{name.substr(0, name.size() - kWeight.size()), -1}] = i;
    }
  }
  return targets;
}

Result<Matrix> FactorMatrix(const LoraFactor& factor, const std::shared_ptr<const void>& owner) {
  const Blob blob{factor.bytes, owner};
  switch (factor.type) {
    case GgufType::kF32:
      return DenseMatrix(factor.rows, factor.cols, DType::kF32, blob);
    case GgufType::kF16:
      return DenseMatrix(factor.rows, factor.cols, DType::kF16, blob);
    case GgufType::kBF16:
      return DenseMatrix(factor.rows, factor.cols, DType::kBF16, blob);
    default:
      break;
  }
  if (!InfoOf(factor.type).decodes) {
    return InputError(fmt::format("factors of type {} cannot be read", InfoOf(factor.type).name));
  }
  return Matrix{factor.rows, factor.cols, Blocks{factor.type, blob}};
}

Mat<float> Transposed(const Mat<float>& m) {
  Mat<float> turned(m.cols(), m.rows());
  for (int64_t i = 0; i < m.rows(); ++i) {
    for (int64_t j = 0; j < m.cols(); ++j) turned(j, i) = m(i, j);
  }
  return turned;
}

Status CheckFiniteFactor(const Matrix& factor, const char* name) {
  Mat<float> row(1, factor.cols);
  for (int64_t i = 0; i < factor.rows; ++i) {
    ReadRows(factor, i, 1, 0, factor.cols, row.data(), factor.cols);
    const int64_t j = FindNonFinite({row.row(0), static_cast<size_t>(factor.cols)});
    if (j >= 0) return InputError(fmt::format("{}: element [{}, {}] is {}", name, i, j, row(0, j)));
  }
  return {};
}

// [out, r] times s, its rows in the order of the model's.
Matrix ScaledLeft(const Mat<float>& b, float scale, const GgufRowOrder& order) {
  Mat<float> left(b.rows(), b.cols());
  for (int64_t i = 0; i < b.rows(); ++i) {
    const int64_t to = order.Source(i, b.rows());
    for (int64_t j = 0; j < b.cols(); ++j) left(to, j) = scale * b(i, j);
  }
  return DenseMatrix(left, DType::kF32);
}

// The path of a pair: [rows, r] and [r, cols].
Result<ProductPart> MakePath(const LoraAdapter& adapter, const LoraPair& pair, const Model& model) {
  PLANISH_TRY(Matrix a, FactorMatrix(pair.a, adapter.owner));
  PLANISH_TRY(const Matrix b, FactorMatrix(pair.b, adapter.owner));
  PLANISH_RETURN_IF_ERROR(CheckFiniteFactor(a, "A"));
  PLANISH_RETURN_IF_ERROR(CheckFiniteFactor(b, "B"));
  ProductPart path;
  if (pair.embedding) {  // (B A)^T = A^T B^T
    Mat<float> left = Reconstruct(a);
    if (!adapter.gguf) left = Transposed(left);
    path.factors.push_back(ScaledLeft(left, pair.scale, {}));
    path.factors.push_back(DenseMatrix(Transposed(Reconstruct(b)), DType::kF32));
    return path;
  }
  GgufRowOrder order;
  if (adapter.gguf) order = LoraRowOrder(*GgufFamilyOf(model.program), model.program, pair.target);
  if (!order.Fits(b.rows)) {
    return InputError(fmt::format("{} rows of B for {} heads", b.rows, order.heads));
  }
  path.factors.push_back(ScaledLeft(Reconstruct(b), pair.scale, order));
  path.factors.push_back(std::move(a));
  return path;
}

Status Attach(const LoraAdapter& adapter, const LoraPair& pair, const Uses& uses, Model& model,
              Linear& linear) {
  if (uses.lookup && uses.product) {
    return InputError("the embedding is the head too, and an adapter changes one use of it only");
  }
  if (uses.lookup != pair.embedding) {
    return InputError(pair.embedding ? "factors of an embedding for a matrix that multiplies"
                                     : "the matrix is an embedding, expected lora_embedding_A and _B");
  }
  PLANISH_TRY(ProductPart path, MakePath(adapter, pair, model));
  const int64_t rows = path.factors.front().rows, cols = path.factors.back().cols;
  if (rows != linear.w.rows || cols != linear.w.cols) {
    return InputError(fmt::format("the factors make [{}, {}], the matrix is [{}, {}]", rows, cols,
                                  linear.w.rows, linear.w.cols));
  }
  if (auto* sum = std::get_if<SumPart>(&linear.w.body)) {
    sum->terms.push_back({rows, cols, std::move(path)});
    return {};
  }
  SumPart sum;
  sum.terms.push_back(std::move(linear.w));
  sum.terms.push_back({rows, cols, std::move(path)});
  linear.w = Matrix{rows, cols, std::move(sum)};
  return {};
}

// Tensors of experts hold those that the model has.
Status CheckExperts(const LoraAdapter& adapter, const TargetMap& targets) {
  std::map<std::string, int64_t> held, had;
  for (const LoraPair& pair : adapter.pairs) held[pair.target] += pair.expert >= 0 ? 1 : 0;
  for (const auto& [target, index] : targets) had[target.first] += target.second >= 0 ? 1 : 0;
  for (const auto& [name, experts] : held) {
    const auto model = had.find(name);
    if (model == had.end() || model->second == experts) continue;
    return InputError(fmt::format("'{}': factors of {} experts, the model has {}", Abbreviate(name), experts,
                                  model->second));
  }
  return {};
}

}  // namespace

GgufRowOrder LoraRowOrder(const GgufFamily& family, const Program& program, const std::string& gguf_name) {
  AttentionShape shape;
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      if (const auto* attention = std::get_if<AttentionOp>(&op.body)) shape = attention->shape;
    }
  }
  return RowOrderOf(family, gguf_name, shape.heads, shape.kv_heads);
}

Result<LoraAttached> AttachLora(const Context& context, Model& model, const std::string& path) {
  PLANISH_TRY(const LoraAdapter adapter, OpenLora(path));
  const auto uses = FindUses(model.program);
  const GgufFamily* family = adapter.gguf ? GgufFamilyOf(model.program) : nullptr;
  if (adapter.gguf && (family == nullptr || adapter.architecture != family->arch)) {
    return InputError(fmt::format("{}: general.architecture '{}', the model is of '{}'", path,
                                  Abbreviate(adapter.architecture),
                                  family == nullptr ? model.program.family : family->arch));
  }
  const auto targets = Targets(model, family);
  if (const Status experts = CheckExperts(adapter, targets); !experts.ok()) return experts.error().At(path);
  LoraAttached attached;
  for (const LoraPair& pair : adapter.pairs) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    const auto target = targets.find({pair.target, pair.expert});
    if (target == targets.end()) {
      std::vector<std::string> names;
      for (const auto& [name, index] : targets) names.push_back(name.first);
      return InputError(fmt::format("{}: '{}' is no linear of {}; {}", path, Abbreviate(pair.target),
                                    model.path, DidYouMean(pair.target, names)));
    }
    const Status done = Attach(adapter, pair, uses[target->second], model, model.linears[target->second]);
    if (!done.ok()) return done.error().At(fmt::format("{}: '{}'", path, Abbreviate(pair.target)));
    ++attached.linears;
    attached.rank = std::max(attached.rank, pair.rank);
  }
  return attached;
}

}  // namespace planish
