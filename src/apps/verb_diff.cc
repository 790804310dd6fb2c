// planish diff: two models tensor by tensor.
#include <fmt/format.h>

#include "apps/app.h"
#include "evaluate/difference.h"
#include "model/model.h"

namespace planish::app {
namespace {

struct DiffFlags {
  RunOptions run;
  std::string a, b;
  bool all = false;
};

std::string DiffShape(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

OrderedJson DiffJson(const ModelDifference& difference) {
  OrderedJson json;
  json["same"] = difference.Same();
  json["tensors"] = OrderedJson::array();
  for (const auto& tensor : difference.tensors) {
    OrderedJson entry = {{"name", tensor.name}, {"type_a", tensor.type_a}, {"type_b", tensor.type_b}};
    entry["shape_a"] = tensor.shape_a;
    if (!tensor.same_shape()) {
      entry["shape_b"] = tensor.shape_b;
    } else {
      entry["relative"] = tensor.relative;
      entry["max_abs"] = tensor.max_abs;
      entry["cosine"] = tensor.cosine;
    }
    json["tensors"].push_back(std::move(entry));
  }
  json["only_a"] = difference.only_a;
  json["only_b"] = difference.only_b;
  json["config"] = OrderedJson::array();
  for (const auto& field : difference.fields) {
    json["config"].push_back({{"field", field.field}, {"a", field.a}, {"b", field.b}});
  }
  return json;
}

void PrintDiff(const DiffFlags& flags, const ModelDifference& difference) {
  for (const auto& field : difference.fields) {
    const auto text = [](const std::string& value) { return value.empty() ? "missing" : value; };
    fmt::print("config.json: {}: {} / {}\n", field.field, text(field.a), text(field.b));
  }
  for (const auto& name : difference.only_a) fmt::print("{}: only in {}\n", name, flags.a);
  for (const auto& name : difference.only_b) fmt::print("{}: only in {}\n", name, flags.b);
  size_t equal = 0;
  bool head = false;
  for (const auto& tensor : difference.tensors) {
    if (!tensor.same_shape()) {
      fmt::print("{}: {} / {}\n", tensor.name, DiffShape(tensor.shape_a), DiffShape(tensor.shape_b));
      continue;
    }
    if (tensor.max_abs == 0) ++equal;
    if (tensor.max_abs == 0 && !flags.all) continue;
    if (!head) {
      fmt::print("{:<52} {:<26} {:<26} {:>10} {:>10} {:>10}\n", "tensor", "a", "b", "relative", "max abs",
                 "cosine");
    }
    head = true;
    fmt::print("{:<52} {:<26} {:<26} {:>10.4g} {:>10.4g} {:>10.6f}\n", tensor.name, tensor.type_a,
               tensor.type_b, tensor.relative, tensor.max_abs, tensor.cosine);
  }
  fmt::print("{} of {} tensors are equal{}\n", equal, difference.tensors.size(),
             difference.Same() ? "; the models are the same" : "");
}

Status RunDiff(const DiffFlags& flags) {
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  PLANISH_TRY(const Model a, OpenModel(flags.a, flags.run));
  PLANISH_TRY(const Model b, OpenModel(flags.b, flags.run));
  PLANISH_TRY(const ModelDifference difference, CompareModels(run->context(), a, b));
  if (flags.run.json) {
    PrintJson(DiffJson(difference));
  } else {
    PrintDiff(flags, difference);
  }
  return {};
}

}  // namespace

void AddDiffVerb(CLI::App& app) {
  auto flags = std::make_shared<DiffFlags>();
  CLI::App* verb =
      app.add_subcommand("diff", "Two models tensor by tensor: errors of values, shapes, configurations");
  verb->add_option("A", flags->a, "The model that errors are relative to")->required();
  verb->add_option("B", flags->b, "The other one, of any kind")->required();
  verb->add_flag("--all", flags->all, "Equal tensors too (JSON always has all)");
  AddRunOptions(*verb, flags->run);
  verb->footer("Examples:\n  planish diff model/ model.gguf\n  planish diff model/ small/ --json");
  AddVerb(*verb, [flags] { return RunDiff(*flags); });
}

}  // namespace planish::app
