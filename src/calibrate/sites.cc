#include "calibrate/sites.h"

namespace planish {

std::vector<Site> BlockSites(const Program& program, int block) {
  std::vector<Site> sites;
  const auto& ops = program.blocks[static_cast<size_t>(block)].ops;
  for (int i = 0; i < static_cast<int>(ops.size()); ++i) {
    const auto* linear = std::get_if<LinearOp>(&ops[static_cast<size_t>(i)].body);
    if (linear == nullptr) continue;
    const auto& slot = program.linears[static_cast<size_t>(linear->linear)];
    if (!slot.in_layer || slot.keep) continue;
    const ValueId value = ops[static_cast<size_t>(i)].inputs.front();
    Site* site = nullptr;
    for (auto& known : sites) site = known.value == value ? &known : site;
    if (site == nullptr) {
      const Value& about = program.blocks[static_cast<size_t>(block)].values[static_cast<size_t>(value)];
      sites.push_back({block, value, i, {}, slot.weight, about.routing, slot.expert});
      site = &sites.back();
    }
    site->linears.push_back(linear->linear);
  }
  return sites;
}

std::vector<SiteGroup> GroupSites(const Block& block, const std::vector<Site>& sites) {
  std::vector<SiteGroup> groups;
  for (const Site& site : sites) {
    bool joins = !groups.empty();
    for (int op = joins ? groups.back().first_op : site.first_op; op < site.first_op; ++op) {
      joins = joins && std::holds_alternative<LinearOp>(block.ops[static_cast<size_t>(op)].body);
    }
    if (!joins) groups.push_back({site.first_op, {}});
    groups.back().sites.push_back(site);
  }
  return groups;
}

std::vector<Site> AllSites(const Program& program) {
  std::vector<Site> sites;
  for (int b = 0; b < static_cast<int>(program.blocks.size()); ++b) {
    for (auto& site : BlockSites(program, b)) sites.push_back(std::move(site));
  }
  return sites;
}

}  // namespace planish
