#include "export/importance.h"

#include <fmt/format.h>

#include <algorithm>

#include "calibrate/sites.h"
#include "model/gguf_family.h"

namespace planish {

Result<std::map<std::string, std::vector<float>>> ImportanceOf(const Model& model,
                                                               const StatisticsFile& statistics) {
  std::map<std::string, std::vector<float>> importance;
  bool any = false;
  for (const Site& site : AllSites(model.program)) {
    const auto known = statistics.sites.find(site.name);
    if (known == statistics.sites.end()) continue;
    any = true;
    const Moments& moments = known->second;
    if (moments.count() == 0) continue;
    const Mat<float> h = moments.MeanSquare();
    std::vector<float> diag(static_cast<size_t>(h.rows()));
    for (int64_t i = 0; i < h.rows(); ++i) diag[static_cast<size_t>(i)] = h(i, i);
    for (const LinearId id : site.linears) {
      const LinearSlot& slot = model.program.linears[static_cast<size_t>(id)];
      if (slot.in != h.rows()) {
        return InputError(
            fmt::format("the statistics of '{}' have {} channels, the model {}: were they taken "
                        "from another model?",
                        site.name, h.rows(), slot.in));
      }
      importance[slot.weight] = diag;
    }
  }
  if (!any) {
    return InputError(fmt::format("the statistics know {} sites, none of them of this model ('{}' for one)",
                                  statistics.sites.size(), AllSites(model.program).front().name));
  }
  return importance;
}

Result<std::map<std::string, std::vector<float>>> ImportanceOf(const Model& model, const Imatrix& imatrix) {
  std::map<std::string, std::vector<float>> importance;
  const GgufFamily* family = GgufFamilyOf(model.program);
  if (family == nullptr) {
    return InputError(
        fmt::format("family '{}' has no names in GGUF, which the matrix speaks in", model.program.family));
  }
  std::string example;
  int64_t experts = 1;
  for (const LinearSlot& slot : model.program.linears) experts = std::max<int64_t>(experts, slot.expert + 1);
  for (const LinearSlot& slot : model.program.linears) {
    const auto place = GgufPlaceOf(*family, model.program, slot.weight);
    if (!place) continue;
    if (slot.in_layer) example = place->name;
    const bool bank = place->expert >= 0;
    PLANISH_TRY(auto values,
                imatrix.Importance(place->name, slot.in, bank ? experts : 1, bank ? place->expert : 0));
    if (!values.empty()) importance[slot.weight] = std::move(values);
  }
  if (importance.empty()) {
    return InputError(
        fmt::format("the importance matrix lists {} weights, none of them of this model ('{}' "
                    "for one)",
                    imatrix.entries.size(), example));
  }
  return importance;
}

}  // namespace planish
