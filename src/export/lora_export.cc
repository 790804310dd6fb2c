#include "export/lora_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/atomic_folder.h"
#include "base/file.h"
#include "export/refusals.h"
#include "formats/checkpoint_writer.h"
#include "formats/gguf.h"
#include "formats/lora.h"
#include "model/gguf_family.h"
#include "model/lora.h"

namespace planish {
namespace {

struct Path {
  const Linear* linear = nullptr;
  bool lookup = false;  // the matrix is an embedding
  Mat<float> b, a;      // [out, r], [r, in]
};

// y += x of [rows, k] times [k, cols].
Mat<float> Multiply(const Mat<float>& x, const Mat<float>& w) {
  Mat<float> y(x.rows(), w.cols());
  y.Fill(0);
  for (int64_t i = 0; i < x.rows(); ++i) {
    for (int64_t k = 0; k < x.cols(); ++k) {
      for (int64_t j = 0; j < w.cols(); ++j) y(i, j) += x(i, k) * w(k, j);
    }
  }
  return y;
}

// The products of a sum side by side: B = [B1 B2 ...], A = [A1; A2; ...]; no rank where there are none.
// Outliers belong to the base.
void Collect(const SumPart& sum, Path& path, Refusals& refusals) {
  std::vector<std::pair<Mat<float>, Mat<float>>> products;
  int64_t rank = 0;
  for (size_t i = 1; i < sum.terms.size(); ++i) {
    if (std::holds_alternative<Sparse>(sum.terms[i].body)) continue;
    const auto* product = std::get_if<ProductPart>(&sum.terms[i].body);
    if (product == nullptr || product->factors.size() < 2) {
      return refusals.Add(
          {fmt::format("{} beside the matrix, which is no low-rank path", Describe(sum.terms[i])),
           "--to hf-bf16 holds decoded weights"},
          ModuleName(path.linear->name));
    }
    Mat<float> left = Reconstruct(product->factors.front());
    for (size_t k = 1; k + 1 < product->factors.size(); ++k) {
      left = Multiply(left, Reconstruct(product->factors[k]));
    }
    rank += left.cols();
    products.emplace_back(std::move(left), Reconstruct(product->factors.back()));
  }
  path.b.Resize(path.linear->w.rows, rank);
  path.a.Resize(rank, path.linear->w.cols);
  int64_t at = 0;
  for (const auto& [b, a] : products) {
    for (int64_t i = 0; i < b.rows(); ++i) std::copy_n(b.row(i), b.cols(), path.b.row(i) + at);
    std::copy_n(a.data(), a.rows() * a.cols(), path.a.row(at));
    at += a.rows();
  }
}

Result<std::vector<Path>> CollectPaths(const Context& context, const Model& model) {
  std::set<LinearId> lookups;
  for (const Block& block : model.program.blocks) {
    for (const Op& op : block.ops) {
      if (const auto* embed = std::get_if<EmbedOp>(&op.body)) lookups.insert(embed->table);
    }
  }
  std::vector<Path> paths;
  Refusals refusals;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    const auto* sum = std::get_if<SumPart>(&model.linears[i].w.body);
    if (sum == nullptr || sum->terms.size() < 2) continue;
    Path path{&model.linears[i], lookups.contains(static_cast<LinearId>(i)), {}, {}};
    Collect(*sum, path, refusals);
    if (path.a.rows() == 0) continue;
    if (path.lookup) {
      refusals.Add({"the path of an embedding", "--merge with another target adds it to the embedding"},
                   ModuleName(path.linear->name));
      continue;
    }
    paths.push_back(std::move(path));
  }
  PLANISH_RETURN_IF_ERROR(refusals.ToStatus("an adapter"));
  if (paths.empty()) {
    return InputError(
        fmt::format("{}: no layer has a low-rank path (planish compress --rank makes them)", model.path));
  }
  return paths;
}

// "q_proj" for modules whose every namesake has a path, the whole path for others: a loader makes factors for
// all that match.
std::vector<std::string> TargetModules(const Model& model, const std::vector<Path>& paths) {
  const auto last = [](const std::string& module) { return module.substr(module.rfind('.') + 1); };
  std::map<std::string, int64_t> namesakes, with_path;
  for (const Linear& linear : model.linears) ++namesakes[last(ModuleName(linear.name))];
  for (const Path& path : paths) ++with_path[last(ModuleName(path.linear->name))];
  std::set<std::string> targets;
  for (const Path& path : paths) {
    const std::string module = ModuleName(path.linear->name), name = last(module);
    targets.insert(namesakes[name] == with_path[name] ? name : module);
  }
  return {targets.begin(), targets.end()};
}

std::string ConfigText(const Model& model, const std::vector<Path>& paths, int64_t rank) {
  bool transposed = false;
  for (const Path& path : paths) {
    transposed |= model.program.linears[static_cast<size_t>(path.linear - model.linears.data())].transposed;
  }
  OrderedJson config;
  config["peft_type"] = "LORA";
  config["task_type"] = "CAUSAL_LM";
  config["base_model_name_or_path"] = nullptr;
  config["r"] = rank;
  config["lora_alpha"] = rank;
  config["use_rslora"] = false;
  config["use_dora"] = false;
  config["target_modules"] = TargetModules(model, paths);
  config["rank_pattern"] = OrderedJson::object();
  config["alpha_pattern"] = OrderedJson::object();
  config["bias"] = "none";
  config["lora_dropout"] = 0.0;
  config["fan_in_fan_out"] = transposed;
  config["modules_to_save"] = nullptr;
  config["inference_mode"] = true;
  config["init_lora_weights"] = true;
  return DumpJson(config, 2) + "\n";
}

// What has one name in GGUF: a path, or those of all experts of a layer.
struct NamedPaths {
  std::string name;
  std::vector<const Path*> paths;  // of a bank by expert, null where one has none
  bool bank = false;
  int64_t rank = 0;           // the largest
  const Path* any = nullptr;  // one that is there: all have its rows and columns
};

Result<std::vector<NamedPaths>> NamePaths(const Model& model, const GgufFamily& family,
                                          const std::vector<Path>& paths) {
  std::map<std::string, size_t> experts;
  for (const Linear& linear : model.linears) {
    const auto place = GgufPlaceOf(family, model.program, linear.name);
    if (place && place->expert >= 0) ++experts[place->name];
  }
  std::vector<NamedPaths> named;
  std::map<std::string, size_t> indices;
  for (const Path& path : paths) {
    const auto place = GgufPlaceOf(family, model.program, path.linear->name);
    if (!place) return InputError(fmt::format("tensor '{}' has no name in GGUF", path.linear->name));
    const bool bank = place->expert >= 0;
    const auto [index, first] = indices.try_emplace(place->name, named.size());
    if (first) named.push_back({.name = place->name, .paths = {}, .bank = bank});
    NamedPaths& one = named[index->second];
    one.paths.resize(bank ? experts[place->name] : 1);
    one.paths[static_cast<size_t>(bank ? place->expert : 0)] = &path;
    one.rank = std::max(one.rank, path.a.rows());
    one.any = &path;
  }
  return named;
}

// A [rank, in] and B [out, rank] of every path, filled up with zeros; rows of B in the order of the file.
std::pair<Mat<float>, Mat<float>> StackFactors(const NamedPaths& named, const GgufRowOrder& order) {
  const int64_t in = named.any->a.cols(), out = named.any->b.rows();
  const auto count = static_cast<int64_t>(named.paths.size());
  Mat<float> a(count * named.rank, in), b(count * out, named.rank);
  a.Fill(0);
  b.Fill(0);
  for (int64_t i = 0; i < count; ++i) {
    const Path* path = named.paths[static_cast<size_t>(i)];
    if (path == nullptr) continue;
    std::copy_n(path->a.data(), path->a.rows() * in, a.row(i * named.rank));
    for (int64_t row = 0; row < out; ++row) {
      std::copy_n(path->b.row(order.Source(row, out)), path->b.cols(), b.row(i * out + row));
    }
  }
  return {std::move(a), std::move(b)};
}

std::vector<std::string> Notes() {
  return {"the base is the same model without its paths: convert it with --drop paths"};
}

}  // namespace

Result<Converted> ExportPeftLora(const Context& context, const Model& model, const std::string& output) {
  PLANISH_TRY(auto paths, CollectPaths(context, model));
  int64_t rank = 0;
  for (const Path& path : paths) rank = std::max(rank, path.a.rows());
  std::vector<TensorSpec> specs;
  std::map<std::string, Mat<float>> tensors;
  for (const Path& path : paths) {
    Mat<float> a(rank, path.a.cols()), b(path.b.rows(), rank);
    a.Fill(0);
    b.Fill(0);
    std::copy_n(path.a.data(), path.a.rows() * path.a.cols(), a.data());
    for (int64_t i = 0; i < b.rows(); ++i) std::copy_n(path.b.row(i), path.b.cols(), b.row(i));
    const std::string prefix = "base_model.model." + ModuleName(path.linear->name);
    specs.push_back({prefix + ".lora_A.weight", DType::kF32, {rank, a.cols()}});
    specs.push_back({prefix + ".lora_B.weight", DType::kF32, {b.rows(), rank}});
    tensors[prefix + ".lora_A.weight"] = std::move(a);
    tensors[prefix + ".lora_B.weight"] = std::move(b);
  }
  PLANISH_TRY(auto folder, AtomicFolder::Create(output));
  PLANISH_TRY(auto writer, SafetensorsWriter::Create(JoinPath(folder.path(), kLoraTensorsName), specs));
  Converted done{0, 0, Notes()};
  for (const TensorSpec& spec : writer.order()) {
    const Mat<float>& m = tensors.at(spec.name);
    const auto bytes = std::as_bytes(std::span(m.data(), static_cast<size_t>(m.rows() * m.cols())));
    PLANISH_RETURN_IF_ERROR(writer.Append(spec.name, bytes));
    ++done.tensors;
    done.bytes += static_cast<int64_t>(bytes.size());
  }
  PLANISH_RETURN_IF_ERROR(writer.Commit());
  PLANISH_RETURN_IF_ERROR(
      WriteFileAtomically(JoinPath(folder.path(), kLoraConfigName), ConfigText(model, paths, rank)));
  PLANISH_RETURN_IF_ERROR(folder.Commit());
  return done;
}

Result<Converted> ExportGgufLora(const Context& context, const Model& model, const std::string& output) {
  PLANISH_TRY(const auto paths, CollectPaths(context, model));
  const GgufFamily* family = GgufFamilyOf(model.program);
  if (family == nullptr) {
    return InputError(fmt::format("family '{}' has no name in GGUF", model.program.family));
  }
  GgufMetadata metadata;
  metadata.String("general.type", "adapter");
  metadata.String("general.architecture", family->arch);
  metadata.String("adapter.type", "lora");
  metadata.Float("adapter.lora.alpha", 0);  // no scale but the user's, whatever the rank
  PLANISH_TRY(const auto named, NamePaths(model, *family, paths));
  std::vector<GgufTensorSpec> specs;
  for (const NamedPaths& one : named) {
    std::vector<int64_t> a = {one.any->a.cols(), one.rank}, b = {one.rank, one.any->b.rows()};
    if (one.bank) {
      a.push_back(static_cast<int64_t>(one.paths.size()));
      b.push_back(a.back());
    }
    specs.push_back({one.name + ".lora_a", GgufType::kF32, std::move(a)});
    specs.push_back({one.name + ".lora_b", GgufType::kF32, std::move(b)});
  }
  PLANISH_TRY(auto writer, GgufWriter::Create(output, metadata, specs));
  Converted done{static_cast<int64_t>(specs.size()), 0, Notes()};
  for (const NamedPaths& one : named) {
    const auto factors = StackFactors(one, LoraRowOrder(*family, model.program, one.name));
    for (const Mat<float>* m : {&factors.first, &factors.second}) {
      const auto bytes = std::as_bytes(std::span(m->data(), static_cast<size_t>(m->rows() * m->cols())));
      PLANISH_RETURN_IF_ERROR(writer.Append(bytes));
      done.bytes += static_cast<int64_t>(bytes.size());
    }
  }
  PLANISH_RETURN_IF_ERROR(writer.Commit());
  return done;
}

}  // namespace planish
