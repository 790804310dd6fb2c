#include "pipeline/calibrate_model.h"

#include "pipeline/fingerprint.h"

namespace planish {

Result<StatisticsFile> CalibrateModel(const Context& context, const Model& model, const CalibrationSet& set,
                                      const std::string& spill_path, int64_t state_memory) {
  StatisticsFile statistics{ModelFingerprint(model), WindowsFingerprint(set.windows), {}};
  const int64_t slot = set.ChunkRows(0) * model.program.hidden * StateStore::BytesPerValue(StateType::kF32);
  StateStore store(StateType::kF32, set.chunks(), slot, state_memory, spill_path);
  BlockDriver driver(model, set, store);
  const auto layers = static_cast<int>(model.program.blocks.size()) - 2;
  PLANISH_RETURN_IF_ERROR(driver.Embed(context));
  for (int block = 1; block <= layers; ++block) {
    PLANISH_RETURN_IF_ERROR(
        driver.Independent(context, block, [&](const Site& site, Moments moments) -> Status {
          statistics.sites.emplace(site.name, std::move(moments));
          return {};
        }));
    if (context.progress) context.progress->Update("calibrate", block, layers, "blocks");
  }
  return statistics;
}

}  // namespace planish
