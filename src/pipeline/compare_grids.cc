#include "pipeline/compare_grids.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>

#include "base/names.h"
#include "calibrate/sites.h"

namespace planish {
namespace {

void AddChoice(GridSpec grid, std::vector<GridChoice>& choices) { choices.push_back({GridText(grid), grid}); }

std::vector<std::string> KnownNames() {
  std::vector<std::string> names;
  for (const NamedGrid& named : NamedGrids()) names.emplace_back(named.name);
  return names;
}

// What a part says: 'g', 's', 'z', 'y' for sym, 't' for tables.
char KindOfPart(const std::string& part) {
  return part == "sym" ? 'y' : part == "row" || part == "each" ? 't' : part[0];
}

Status AddPart(const std::string& part, std::string& kinds, GridSpec& grid) {
  const char kind = KindOfPart(part);
  if (kinds.find(kind) != std::string::npos) {
    return InputError(fmt::format("'{}': another part says this already", Abbreviate(part)));
  }
  kinds += kind;
  if (part == "sym") {
    grid.symmetric = true;
    return {};
  }
  if (part == "row" || part == "each") {
    grid.tables = part == "row" ? TableScope::kRow : TableScope::kGroup;
    return {};
  }
  int64_t number = 0;
  const auto [end, error] = std::from_chars(part.data() + 1, part.data() + part.size(), number);
  const bool whole = part.size() > 1 && error == std::errc() && end == part.data() + part.size();
  if (!whole || number < 0 || number > (1 << 24) ||
      std::string_view("gsz").find(part[0]) == std::string::npos) {
    return InputError(fmt::format(
        "'{}': expected gN (group), sN (scale bits), zN (zero bits), sym, row or each", Abbreviate(part)));
  }
  if (part[0] == 'g') grid.group = number;
  if (part[0] == 'z') grid.zero_bits = static_cast<int>(number);
  if (part[0] == 's') {
    grid.scale = ScaleKind::kSteps;
    grid.scale_bits = static_cast<int>(number);
  }
  return {};
}

// Parts that say nothing about the grid.
Status CheckParts(const std::string& text, const std::string& name, const GridSpec& known,
                  const GridSpec& grid) {
  const auto refuse = [&](const char* part, const char* reason) {
    return InputError(fmt::format("grid '{}': {} says nothing here: {}", Abbreviate(text), part, reason));
  };
  const bool own = grid.tables == TableScope::kGroup || (grid.tables == TableScope::kRow && grid.group == 0);
  if (grid.tables == TableScope::kGroup && grid.group == 0) {
    return InputError(
        fmt::format("grid '{}': g0 is the whole row; say row, or each with a group size", Abbreviate(text)));
  }
  if (grid.symmetric != known.symmetric && (!grid.Uniform() || known.bits == 1)) {
    return refuse("sym", name == "int1" ? "int1 is symmetric" : "the grid has no zeros");
  }
  if (grid.zero_bits != known.zero_bits && (!grid.Uniform() || known.bits == 1 || grid.symmetric)) {
    return refuse("zN", grid.symmetric ? "a symmetric grid has no stored zeros" : "the grid has no zeros");
  }
  if (own && grid.levels == LevelKind::kTable && grid.scale == ScaleKind::kSteps) {
    return refuse("sN", "tables of their own have no scales");
  }
  return {};
}

// A linear to round, with what its site shares.
struct Task {
  const Linear* linear;
  const Moments* moments;
};

Result<std::vector<Task>> Tasks(const Model& model, const StatisticsFile& statistics, LayerChoice layers) {
  const int blocks = static_cast<int>(model.program.blocks.size()) - 2;
  const int middle = (blocks + 1) / 2;
  std::vector<Task> tasks;
  for (int b = 1; b <= blocks; ++b) {
    if (layers == LayerChoice::kSample && b != middle) continue;
    for (const Site& site : BlockSites(model.program, b)) {
      const auto moments = statistics.sites.find(site.name);
      const int64_t in = model.program.linears[static_cast<size_t>(site.linears.front())].in;
      if (moments == statistics.sites.end() || moments->second.width() != in) {
        return InputError(fmt::format("statistics: site '{}' is missing or has another width", site.name));
      }
      if (moments->second.count() == 0) continue;  // an expert that no token reached says nothing
      for (const LinearId id : site.linears) {
        tasks.push_back({&model.linears[static_cast<size_t>(id)], &moments->second});
      }
    }
  }
  if (tasks.empty()) return InputError("grids: no layer with statistics to compare on");
  return tasks;
}

struct Sums {
  double bytes = 0, weights = 0, nearest = 0, loss = 0;
  int layers = 0;
  std::vector<GridSubstitute> substitutes;
};

std::string NameOf(const GridSpec& grid) {
  const auto named = std::ranges::find(NamedGrids(), grid, &NamedGrid::grid);
  return named == NamedGrids().end() ? GridText(grid) : named->name;
}

void CountSubstitute(const GridSpec& asked, const GridSpec& grid, std::vector<GridSubstitute>& substitutes) {
  if (grid == asked) return;
  const std::string name = NameOf(grid);
  const auto known = std::ranges::find(substitutes, name, &GridSubstitute::name);
  if (known == substitutes.end()) {
    substitutes.push_back({name, 1});
  } else {
    ++known->layers;
  }
}

// One linear under every grid; nothing where its output is always zero.
Status AddTask(const Context& context, const Task& task, std::span<const GridChoice> choices,
               const FeedbackOptions& options, std::span<Sums> sums) {
  const Mat<float> w = Reconstruct(task.linear->w), h = task.moments->MeanSquare();
  Mat<float> zero(w.rows(), w.cols());
  zero.Fill(0.0f);
  const double energy = LayerLoss(context, w, zero, h);
  if (!(energy > 0)) return {};
  std::map<int64_t, SiteFactor> factors;  // by group
  for (size_t i = 0; i < choices.size(); ++i) {
    const GridSpec grid = FitToRows(choices[i].grid, w.cols());
    CountSubstitute(choices[i].grid, grid, sums[i].substitutes);
    auto site = factors.find(grid.group);
    if (site == factors.end()) {
      PLANISH_TRY(SiteFactor factor, FactorSite(context, h, grid.group, options));
      site = factors.emplace(grid.group, std::move(factor)).first;
    }
    PLANISH_TRY(const Rounded rounded, RoundWithFeedback(context, w, site->second, grid, options));
    ++sums[i].layers;
    sums[i].bytes += static_cast<double>(GridBytes(grid, w.rows(), w.cols()));
    sums[i].weights += static_cast<double>(w.rows() * w.cols());
    sums[i].nearest += rounded.loss_nearest / energy;
    sums[i].loss += rounded.loss / energy;
  }
  return {};
}

}  // namespace

std::vector<GridChoice> AllGridChoices() {
  std::vector<GridChoice> choices;
  for (const NamedGrid& named : NamedGrids()) {
    GridSpec grid = named.grid;
    if (grid.InBlocks()) {
      const double bits = 8.0 * static_cast<double>(GridBytes(grid, 1, 256)) / 256;
      if (bits < 6) choices.push_back({named.name, grid});
      continue;
    }
    if (grid.bits < 2 || grid.bits > 5) continue;
    AddChoice(grid, choices);
    if (grid.scale != ScaleKind::kHalf) continue;
    if (grid.levels == LevelKind::kTable) {
      GridSpec own = grid;
      own.scale = ScaleKind::kNone;
      own.group = 0;
      own.tables = TableScope::kRow;
      AddChoice(own, choices);
      own.group = 256;
      own.tables = TableScope::kGroup;
      AddChoice(own, choices);
    }
    grid.group = 32;
    grid.scale = ScaleKind::kSteps;
    grid.scale_bits = 6;
    AddChoice(grid, choices);
  }
  return choices;
}

Result<GridChoice> ParseGridChoice(const std::string& text) {
  std::istringstream parts(text);
  std::string name, part;
  parts >> name;
  const auto known = FindGrid(name);
  if (!known) {
    return InputError(fmt::format("grid '{}': no such number format; {}", Abbreviate(text),
                                  DidYouMean(name, KnownNames()).empty() ? "docs/grids.md lists them"
                                                                         : DidYouMean(name, KnownNames())));
  }
  GridSpec grid = *known;
  std::string kinds;
  while (parts >> part) {
    if (grid.InBlocks() || (grid.scale != ScaleKind::kHalf && grid.scale != ScaleKind::kSteps)) {
      return InputError(fmt::format("grid '{}': {} fixes its groups and scales", Abbreviate(text), name));
    }
    const Status added = AddPart(part, kinds, grid);
    if (!added.ok()) return added.error().At(fmt::format("grid '{}'", Abbreviate(text)));
  }
  PLANISH_RETURN_IF_ERROR(CheckParts(text, name, *known, grid));
  const bool own = grid.tables == TableScope::kGroup || (grid.tables == TableScope::kRow && grid.group == 0);
  if (own && grid.levels == LevelKind::kTable) grid.scale = ScaleKind::kNone;
  if (const std::string wrong = CheckGrid(grid); !wrong.empty()) {
    return InputError(fmt::format("grid '{}': {}", Abbreviate(text), wrong));
  }
  return GridChoice{grid.InBlocks() ? name : GridText(grid), grid};
}

Result<std::vector<GridResult>> CompareGrids(const Context& context, const Model& model,
                                             const StatisticsFile& statistics,
                                             std::span<const GridChoice> choices, LayerChoice layers,
                                             const FeedbackOptions& options) {
  PLANISH_TRY(const std::vector<Task> tasks, Tasks(model, statistics, layers));
  std::vector<Sums> sums(choices.size());
  for (size_t t = 0; t < tasks.size(); ++t) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    const Status added = AddTask(context, tasks[t], choices, options, sums);
    if (!added.ok()) return added.error().At(tasks[t].linear->name);
    if (context.progress) {
      context.progress->Update("grids", static_cast<double>(t + 1), static_cast<double>(tasks.size()),
                               "layers");
    }
  }
  std::vector<GridResult> results;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (sums[i].layers == 0) return InputError("grids: the output of every layer is zero on this text");
    const auto count = static_cast<double>(sums[i].layers);
    results.push_back({choices[i].name, 8 * sums[i].bytes / sums[i].weights, sums[i].nearest / count,
                       sums[i].loss / count, sums[i].layers, std::move(sums[i].substitutes)});
  }
  return results;
}

std::string GridResult::SubstitutesText() const {
  std::string text;
  for (const GridSubstitute& s : substitutes) {
    text += fmt::format("{}{} in {} of {} layers", text.empty() ? "" : ", ", s.name, s.layers, layers);
  }
  return text;
}

std::string GridTable(std::vector<GridResult> results) {
  std::ranges::stable_sort(results, std::greater(), &GridResult::bits);
  std::string out =
      fmt::format("{:<24} {:>8} {:>12} {:>12} {:>7}\n", "grid", "bits", "nearest", "loss", "ratio");
  for (const GridResult& r : results) {
    const bool beaten = std::ranges::any_of(results, [&](const GridResult& other) {
      return other.bits <= r.bits && (other.loss < r.loss || (other.loss == r.loss && other.bits < r.bits));
    });
    const std::string substitutes = r.SubstitutesText();
    out += fmt::format("{:<24} {:>8.4f} {:>12.4e} {:>12.4e} {:>7.3f}{}{}{}\n", r.name, r.bits, r.nearest,
                       r.loss, r.nearest > 0 ? r.loss / r.nearest : 0.0, beaten ? "" : " *",
                       substitutes.empty() ? "" : "  ", substitutes);
  }
  return out;
}

OrderedJson GridResultsJson(const std::vector<GridResult>& results) {
  OrderedJson list = OrderedJson::array();
  for (const GridResult& r : results) {
    OrderedJson substitutes = OrderedJson::object();
    for (const GridSubstitute& s : r.substitutes) substitutes[s.name] = s.layers;
    list.push_back({{"grid", r.name},
                    {"bits", r.bits},
                    {"loss_nearest", r.nearest},
                    {"loss", r.loss},
                    {"layers", r.layers},
                    {"substitutes", std::move(substitutes)}});
  }
  return list;
}

}  // namespace planish
