// planish logits: the raw forward pass, for debugging and for comparing with other programs.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "apps/adapter_options.h"
#include "apps/app.h"
#include "formats/npy.h"
#include "model/forward.h"

namespace planish::app {
namespace {

struct LogitsFlags {
  RunOptions run;
  std::vector<std::string> adapters;
  std::string model, ids, prompt, output;
  int64_t last = 1;
  int top = 0;
};

Result<std::vector<int32_t>> ParseIds(const std::string& list) {
  std::vector<int32_t> ids;
  const char* at = list.data();
  const char* const end = at + list.size();
  while (at < end) {
    if (*at == ',' || *at == ' ') {
      ++at;
      continue;
    }
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc()) {
      return InputError(fmt::format("--ids: expected numbers separated by commas, found '{}'",
                                    std::string(at, std::min<ptrdiff_t>(end - at, 20))));
    }
    ids.push_back(id);
    at = next;
  }
  if (ids.empty()) return InputError("--ids: the list is empty");
  return ids;
}

Result<std::vector<int32_t>> InputIds(const LogitsFlags& flags, const Model& model) {
  if (!flags.ids.empty()) return ParseIds(flags.ids);
  PLANISH_TRY(const std::string prompt, CheckedText(flags.prompt, "--prompt"));
  PLANISH_TRY(const auto tokenizer, Tokenizer::Load(model.path));
  PLANISH_TRY(auto ids, tokenizer->Encode(prompt, /*add_special=*/true));
  if (ids.empty()) return InputError("--prompt: no tokens in it");
  return ids;
}

void PrintTop(const LogitsFlags& flags, const Model& model, const Mat<float>& logits,
              int64_t first_position) {
  const auto tokenizer = Tokenizer::Load(model.path);
  for (int64_t i = 0; i < logits.rows(); ++i) {
    fmt::print("position {}\n", first_position + i);
    std::vector<int32_t> order(static_cast<size_t>(logits.cols()));
    std::iota(order.begin(), order.end(), 0);
    const auto count = std::min<int64_t>(flags.top > 0 ? flags.top : 10, logits.cols());
    std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
      return logits(i, a) != logits(i, b) ? logits(i, a) > logits(i, b) : a < b;
    });
    for (int64_t j = 0; j < count; ++j) {
      const int32_t id = order[static_cast<size_t>(j)];
      const std::string text = tokenizer.ok() ? DumpJson(Json((*tokenizer)->Decode({&id, 1}))) : "";
      fmt::print("  {:>7}  {:>12.6f}  {}\n", id, logits(i, id), text);
    }
  }
}

void PrintLogitsJson(const LogitsFlags& flags, const std::vector<int32_t>& ids, const Mat<float>& logits) {
  OrderedJson json;
  json["ids"] = ids;
  json["logits"] = OrderedJson::array();
  for (int64_t i = 0; i < logits.rows(); ++i) {
    if (flags.top == 0) {
      json["logits"].push_back(std::vector<float>(logits.row(i), logits.row(i) + logits.cols()));
      continue;
    }
    std::vector<std::pair<float, int32_t>> best;
    for (int64_t j = 0; j < logits.cols(); ++j) best.emplace_back(-logits(i, j), static_cast<int32_t>(j));
    const auto count = std::min<int64_t>(flags.top, logits.cols());
    std::partial_sort(best.begin(), best.begin() + count, best.end());
    OrderedJson row = OrderedJson::array();
    for (int64_t j = 0; j < count; ++j)
      row.push_back({best[static_cast<size_t>(j)].second, -best[static_cast<size_t>(j)].first});
    json["logits"].push_back(std::move(row));
  }
  fmt::print("{}\n", DumpJson(json));
}

Status RunLogits(const LogitsFlags& flags) {
  if (flags.ids.empty() == flags.prompt.empty()) return InputError("give either --ids or --prompt");
  PLANISH_TRY(const auto run, Run::Start(flags.run));
  PLANISH_TRY(Model model, OpenModel(flags.model, flags.run));
  PLANISH_RETURN_IF_ERROR(AttachAdapters(run->context(), flags.adapters, model));
  PLANISH_TRY(const auto ids, InputIds(flags, model));
  const auto count = static_cast<int64_t>(ids.size());
  const int64_t last = flags.last == 0 ? count : std::min(flags.last, count);
  std::vector<int64_t> rows(static_cast<size_t>(last));
  std::iota(rows.begin(), rows.end(), count - last);
  DenseCache cache(model.program.cache_layers, 1, count);
  Executor executor(model);
  Mat<float> logits;
  PLANISH_RETURN_IF_ERROR(Forward(run->context(), model, executor, Batch::Of(ids), rows, cache, logits));
  if (!flags.output.empty()) return WriteNpy(flags.output, logits);
  if (flags.run.json) {
    PrintLogitsJson(flags, ids, logits);
  } else {
    PrintTop(flags, model, logits, count - last);
  }
  return {};
}

}  // namespace

void AddLogitsVerb(CLI::App& app) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* verb = app.add_subcommand("logits", "The raw forward pass of a list of ids or a prompt");
  verb->add_option("MODEL", flags->model, "The model")->required();
  verb->add_option("--ids", flags->ids, "Token ids separated by commas; no tokenizer is needed");
  verb->add_option("--prompt,-p", flags->prompt, "Text");
  verb->add_option("--last", flags->last, "Only the last N positions (0: all)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--top", flags->top, "Only the K largest; JSON rows become [id, logit] pairs")
      ->check(CLI::NonNegativeNumber);
  AddOutputOption(*verb, flags->output, "Write float32 [positions, vocabulary] as .npy");
  AddAdapterOption(*verb, flags->adapters);
  AddRunOptions(*verb, flags->run);
  verb->footer(
      "Examples:\n"
      "  planish logits demo --prompt \"The sea\" --top 5\n"
      "  planish logits model/ --ids 1,15043,3186 --last 0 -o logits.npy");
  AddVerb(*verb, [flags] { return RunLogits(*flags); });
}

}  // namespace planish::app
