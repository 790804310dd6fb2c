// Reports for programs and for people (declared in damage.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/progress.h"
#include "evaluate/damage.h"

namespace planish {
namespace {

// JSON has no infinity.
OrderedJson Number(double value) { return std::isfinite(value) ? OrderedJson(value) : OrderedJson(nullptr); }
OrderedJson Number(const std::optional<double>& value) {
  return value ? Number(*value) : OrderedJson(nullptr);
}
OrderedJson Number(const std::optional<int64_t>& value) {
  return value ? OrderedJson(*value) : OrderedJson(nullptr);
}
OrderedJson Pair(const std::optional<Interval>& value) {
  if (!value) return nullptr;
  return OrderedJson::array({Number((*value)[0]), Number((*value)[1])});
}

std::string Cell(const char* format, const std::optional<double>& value) {
  return value ? fmt::format(fmt::runtime(format), *value) : "-";
}

// "5.678 +-0.012": half the interval's width stands for it where room is short.
std::string CellWithInterval(const char* format, const std::optional<double>& value,
                             const std::optional<Interval>& interval) {
  std::string out = Cell(format, value);
  if (value && interval) out += " +-" + Cell("{:.2g}", ((*interval)[1] - (*interval)[0]) / 2);
  return out;
}

}  // namespace

OrderedJson ReportJson(const DamageReport& report) {
  OrderedJson json;
  json["tokens"] = report.tokens;
  json["perplexity"] = Number(report.perplexity);
  json["perplexity_ci95"] = Pair(report.perplexity_ci95);
  json["reference_perplexity"] = Number(report.reference_perplexity);
  json["kl"] = Number(report.kl);
  json["kl_ci95"] = Pair(report.kl_ci95);
  json["kl_median"] = Number(report.kl_median);
  json["kl_p99"] = Number(report.kl_p99);
  json["kl_max"] = Number(report.kl_max);
  json["top1"] = Number(report.top1);
  json["dp_mean"] = Number(report.dp_mean);
  json["dp_rms"] = Number(report.dp_rms);
  json["bytes"] = Number(report.bytes);
  json["bits_per_weight"] = Number(report.bits_per_weight);
  json["linear_bits_per_weight"] = Number(report.linear_bits_per_weight);
  json["seconds"] = Number(report.seconds);
  json["profile"] = report.profile;
  json["isa"] = report.isa;
  json["precision"] = report.precision;
  return json;
}

std::string ReportTable(std::span<const DamageReport> reports, std::span<const std::string> names) {
  PLANISH_CHECK(reports.size() == names.size()) << reports.size() << " reports, " << names.size() << " names";
  std::vector<std::vector<std::string>> table = {{"model", "size", "bits/weight", "perplexity", "KL (nats)",
                                                  "KL median", "KL p99", "KL max", "top-1", "dp rms",
                                                  "time"}};
  for (size_t i = 0; i < reports.size(); ++i) {
    const DamageReport& r = reports[i];
    table.push_back(
        {names[i], r.bytes ? FormatBytes(static_cast<double>(*r.bytes)) : "-",
         Cell("{:.3f}", r.bits_per_weight), CellWithInterval("{:.4f}", r.perplexity, r.perplexity_ci95),
         CellWithInterval("{:.5f}", r.kl, r.kl_ci95), Cell("{:.5f}", r.kl_median), Cell("{:.4f}", r.kl_p99),
         Cell("{:.3f}", r.kl_max), r.top1 ? fmt::format("{:.2f} %", 100 * *r.top1) : "-",
         r.dp_rms ? fmt::format("{:.2f} %", 100 * *r.dp_rms) : "-", FormatDuration(r.seconds)});
  }
  std::vector<size_t> widths(table[0].size());
  for (const auto& row : table) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string out;
  for (const auto& row : table) {
    out += fmt::format("{:<{}}", row[0], widths[0]);
    for (size_t c = 1; c < row.size(); ++c) out += fmt::format("  {:>{}}", row[c], widths[c]);
    out += '\n';
  }
  if (!reports.empty()) {
    const DamageReport& r = reports[0];
    out += fmt::format("{} scored tokens", r.tokens);
    if (r.reference_perplexity) out += fmt::format(", reference perplexity {:.4f}", *r.reference_perplexity);
    out += fmt::format("; profile {}, {}, {}; +- is half a 95 % interval over windows\n", r.profile, r.isa,
                       r.precision);
  }
  return out;
}

}  // namespace planish
