// planish inspect: what is in a model folder: tensors, parts, bytes, outliers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "apps/app.h"
#include "apps/inspect_stored.h"
#include "evaluate/outliers.h"
#include "model/model.h"
#include "model/vector_tensors.h"
#include "runtime/packed_model.h"

namespace planish::app {
namespace {

struct InspectFlags {
  RunOptions run;
  std::string model;
  bool fast = false, experts = false, stored = false, checksum = false;
};

struct Row {
  std::string name, type, shape;
  int64_t bytes = 0;
  std::optional<OutlierStats> stats;
  PackedForm packed = {};
  std::string bank = {};  // of an expert: the name with * for its number; empty: no expert
};

// "model.layers.0.mlp.experts.*.up_proj.weight": the last number of the name that is the expert's.
std::string BankName(const std::string& name, int expert) {
  const std::string number = fmt::format(".{}.", expert);
  const size_t at = name.rfind(number);
  return at == std::string::npos ? name : name.substr(0, at) + ".*." + name.substr(at + number.size());
}

// One row for all experts of a layer that have the same part: their bytes together, the largest of the
// statistics, rms over all of them.
std::vector<Row> JoinExperts(const std::vector<Row>& rows) {
  std::vector<Row> joined;
  std::map<std::string, size_t> places;
  std::map<std::string, int> counts;
  for (const Row& row : rows) {
    const auto known = row.bank.empty() ? places.end() : places.find(row.bank);
    if (known == places.end()) {
      if (!row.bank.empty()) places[row.bank] = joined.size();
      joined.push_back(row);
      if (!row.bank.empty()) joined.back().name = row.bank;
      counts[row.bank] = 1;
      continue;
    }
    Row& bank = joined[known->second];
    const double count = counts[row.bank]++;
    if (bank.type != row.type) bank.type = "mixed";
    if (bank.packed.form != row.packed.form) bank.packed.form = "mixed";
    if (bank.packed.note.empty()) bank.packed.note = row.packed.note;
    bank.bytes += row.bytes;
    if (!row.stats || !bank.stats) continue;
    OutlierStats& all = *bank.stats;
    all.rms = std::sqrt((all.rms * all.rms * count + row.stats->rms * row.stats->rms) / (count + 1));
    all.absmax = std::max(all.absmax, row.stats->absmax);
    all.kurtosis = std::max(all.kurtosis, row.stats->kurtosis);
    all.top_energy = std::max(all.top_energy, row.stats->top_energy);
  }
  for (Row& row : joined) {
    if (!row.bank.empty()) row.shape = fmt::format("{} x {}", counts[row.bank], row.shape);
  }
  return joined;
}

// "8 experts in 4 layers, 2 a token", or empty.
std::string ExpertsText(const Program& program) {
  int layers = 0;
  const RouteShape* shape = nullptr;
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      const auto* route = std::get_if<RouteOp>(&op.body);
      if (route == nullptr) continue;
      ++layers;
      shape = &route->shape;
    }
  }
  if (shape == nullptr) return "";
  return fmt::format("{} experts in {} layers, {} a token; {} multiply-adds a token in all linears\n",
                     shape->experts, layers, shape->chosen,
                     FormatCount(static_cast<double>(program.LinearMacsPerToken())));
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Result<std::vector<Row>> Collect(const Context& context, const InspectFlags& flags, const Model& model) {
  std::vector<Row> rows;
  PLANISH_TRY(const std::vector<PackedForm> packed, PlanPacking(model));
  int64_t done_bytes = 0, total_bytes = 0;
  for (const Linear& linear : model.linears) total_bytes += StoredBytes(linear.w);
  for (size_t i = 0; i < model.linears.size(); ++i) {
    const Linear& linear = model.linears[i];
    Row row{linear.name,
            Describe(linear.w),
            ShapeText({linear.w.rows, linear.w.cols}),
            StoredBytes(linear.w),
            {}};
    row.packed = packed[i];
    const int expert = model.program.linears[i].expert;
    if (expert >= 0) row.bank = BankName(linear.name, expert);
    if (!flags.fast) row.stats = MeasureOutliers(context, linear.w);
    done_bytes += row.bytes;
    rows.push_back(std::move(row));
    if (context.progress) {
      context.progress->Update("inspect", static_cast<double>(done_bytes), static_cast<double>(total_bytes),
                               "bytes");
    }
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
  }
  const auto add_vector = [&](const std::string& name) -> Status {
    PLANISH_TRY(const TensorView view, model.checkpoint.Get(name));
    rows.push_back({name, std::string(DTypeName(view.type)), ShapeText(view.shape), view.NumBytes(), {}});
    return {};
  };
  for (const auto& slot : model.program.linears) {
    if (!slot.bias.empty()) PLANISH_RETURN_IF_ERROR(add_vector(slot.bias));
  }
  for (const auto& slot : model.program.vectors) {
    for (const auto& name : TensorsOf(slot)) PLANISH_RETURN_IF_ERROR(add_vector(name));
  }
  return rows;
}

OrderedJson ToJson(const Model& model, const std::string& tokenizer, const std::vector<Row>& rows) {
  OrderedJson json;
  json["path"] = model.path;
  json["family"] = model.program.family;
  json["layers"] = model.program.blocks.size() - 2;
  json["hidden"] = model.program.hidden;
  json["vocab"] = model.program.vocab;
  if (!tokenizer.empty()) json["tokenizer"] = tokenizer;
  json["parameters"] = model.program.Parameters();
  json["bytes"] = model.Bytes();
  json["bits_per_weight"] = model.BitsPerWeight();
  json["linear_bits_per_weight"] = model.LinearBitsPerWeight();
  for (const auto& row : rows) {
    OrderedJson t = {{"name", row.name}, {"type", row.type}, {"shape", row.shape}, {"bytes", row.bytes}};
    if (row.stats) {
      t["absmax"] = row.stats->absmax;
      t["rms"] = row.stats->rms;
      t["kurtosis"] = row.stats->kurtosis;
      t["top_energy"] = row.stats->top_energy;
    }
    if (!row.packed.form.empty()) {
      t["packed"] = {{"form", row.packed.form}, {"bytes", row.packed.bytes}, {"note", row.packed.note}};
    }
    json["tensors"].push_back(std::move(t));
  }
  return json;
}

void PrintTable(const Model& model, const std::string& tokenizer, const std::vector<Row>& rows) {
  fmt::print("{}: {}, {} layers, hidden {}, vocabulary {}, {} parameters, {}\n", model.path,
             model.program.family, model.program.blocks.size() - 2, model.program.hidden, model.program.vocab,
             FormatCount(static_cast<double>(model.program.Parameters())),
             FormatBytes(static_cast<double>(model.Bytes())));
  fmt::print("{:.3f} bits per weight, {:.3f} in the layers' linears\n{}", model.BitsPerWeight(),
             model.LinearBitsPerWeight(), ExpertsText(model.program));
  if (!tokenizer.empty()) fmt::print("tokenizer: {}\n", tokenizer);
  fmt::print("{:<52} {:<20} {:<14} {:>10} {:>9} {:>9} {:>8} {:>9}\n", "tensor", "type", "shape", "bytes",
             "absmax", "rms", "kurtosis", "top 0.1%");
  for (const auto& row : rows) {
    fmt::print("{:<52} {:<20} {:<14} {:>10}", row.name, row.type, row.shape,
               FormatBytes(static_cast<double>(row.bytes)));
    if (row.stats) {
      fmt::print(" {:>9.4g} {:>9.4g} {:>8.2f} {:>8.2f}%", row.stats->absmax, row.stats->rms,
                 row.stats->kurtosis, 100 * row.stats->top_energy);
    }
    fmt::print("\n");
  }
  // How the packed runtime reads them: most layers alike, so one line for each form.
  std::map<std::string, std::vector<std::string>> forms;
  for (const auto& row : rows) {
    if (row.packed.form.empty()) continue;
    const std::string& note = row.packed.note;
    forms[row.packed.form + (note.empty() ? "" : " (" + note + ")")].push_back(row.name);
  }
  for (const auto& [form, names] : forms) {
    fmt::print(
        "packed runtime: {} as {}\n",
        names.size() == 1 ? names.front() : fmt::format("{} and {} more", names.front(), names.size() - 1),
        form);
  }
}

Status RunInspect(const InspectFlags& flags) {
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  if (flags.stored || flags.checksum || IsOnlyStored(flags.model)) {
    return InspectStored(run->context(), flags.model, flags.checksum, flags.run.json);
  }
  PLANISH_TRY(const Model model, OpenModel(flags.model, flags.run));
  PLANISH_TRY(const auto rows, Collect(run->context(), flags, model));
  // What is wrong with a tokenizer does not hide the rest.
  const Result<std::string> tokenizer = GgufTokenizerText(model.path);
  const std::string text = tokenizer.ok() ? *tokenizer : "cannot be read";
  if (flags.run.json) {
    PrintJson(ToJson(model, text, rows));
  } else {
    PrintTable(model, text, flags.experts ? rows : JoinExperts(rows));
  }
  if (!tokenizer.ok()) return tokenizer.error();
  return flags.fast ? Status() : CheckFinite(run->context(), model);
}

}  // namespace

void AddInspectVerb(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* verb = app.add_subcommand("inspect", "Tensors, parts, bytes and outliers of a model");
  verb->add_option("MODEL", flags->model,
                   "The model; or an adapter, an importance matrix, statistics, any safetensors or GGUF file")
      ->required();
  verb->add_flag("--fast", flags->fast, "Do not read the weights: no outlier statistics");
  verb->add_flag("--experts", flags->experts,
                 "A row for every expert, not one for all of a layer (JSON always has all)");
  verb->add_flag("--stored", flags->stored, "Tensors as they lie in the files, and all metadata");
  verb->add_flag("--checksum", flags->checksum, "The same with SHA-256 of every tensor, and of all");
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "Examples:\n  planish inspect demo\n  planish inspect model.gguf --checksum\n  planish inspect model/ "
      "--json --fast");
  AddVerb(*verb, [flags] { return RunInspect(*flags); });
}

}  // namespace planish::app
