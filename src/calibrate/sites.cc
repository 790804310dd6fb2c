#include "calibrate/sites.h"

namespace planish {

std::vector<Site> BlockSites(const Program& program, int block) {
  std::vector<Site> sites;
  const auto& ops = program.blocks[static_cast<size_t>(block)].ops;
  for (int i = 0; i < static_cast<int>(ops.size()); ++i) {
    const auto* linear = std::get_if<LinearOp>(&ops[static_cast<size_t>(i)].body);
    if (linear == nullptr || !program.linears[static_cast<size_t>(linear->linear)].in_layer) continue;
    const ValueId value = ops[static_cast<size_t>(i)].inputs.front();
    Site* site = nullptr;
    for (auto& known : sites) site = known.value == value ? &known : site;
    if (site == nullptr) {
      sites.push_back({block, value, i, {}, program.linears[static_cast<size_t>(linear->linear)].weight});
      site = &sites.back();
    }
    site->linears.push_back(linear->linear);
  }
  return sites;
}

std::vector<Site> AllSites(const Program& program) {
  std::vector<Site> sites;
  for (int b = 0; b < static_cast<int>(program.blocks.size()); ++b) {
    for (auto& site : BlockSites(program, b)) sites.push_back(std::move(site));
  }
  return sites;
}

}  // namespace planish
