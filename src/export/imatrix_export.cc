#include "export/imatrix_export.h"

#include <fmt/format.h>

#include "calibrate/sites.h"
#include "model/gguf_family.h"

namespace planish {

Result<Imatrix> ImatrixOf(const Model& model, const StatisticsFile& statistics) {
  const GgufFamily* family = GgufFamilyOf(model.program);
  if (family == nullptr) {
    return InputError(
        fmt::format("importance matrix: family '{}' has no names in GGUF", model.program.family));
  }
  Imatrix imatrix;
  for (const Site& site : AllSites(model.program)) {
    const auto found = statistics.sites.find(site.name);
    if (found == statistics.sites.end()) {
      return InputError(fmt::format("importance matrix: the statistics have no site '{}'", site.name));
    }
    const Moments& moments = found->second;
    std::vector<float> sum2(static_cast<size_t>(moments.width()));
    for (int64_t j = 0; j < moments.width(); ++j) {
      sum2[static_cast<size_t>(j)] = moments.square_sum()(j, j);
    }
    for (LinearId linear : site.linears) {
      const std::string& name = model.linears[static_cast<size_t>(linear)].name;
      const auto place = GgufPlaceOf(*family, model.program, name);
      if (!place) {
        return InputError(fmt::format("importance matrix: tensor '{}' has no name in GGUF", name));
      }
      ImatrixEntry& entry = imatrix.entries[place->name];
      // Experts come in ascending order.
      if (place->expert >= 0 && place->expert != static_cast<int64_t>(entry.counts.size())) {
        return InputError(fmt::format("importance matrix: '{}': the experts before it are missing", name));
      }
      entry.sum2.insert(entry.sum2.end(), sum2.begin(), sum2.end());
      entry.counts.push_back(static_cast<float>(moments.count()));
      entry.matrices = static_cast<int64_t>(entry.counts.size());
    }
  }
  return imatrix;
}

}  // namespace planish
