// Sites: the values of a program that feed linears. Statistics attach to sites, so linears that read
// the same value (q, k, v; gate, up) share one.
#pragma once

#include <string>
#include <vector>

#include "model/program.h"

namespace planish {

struct Site {
  int block = 0;
  ValueId value = -1;
  int first_op = 0;               // the first linear's operation: the value is complete before it
  std::vector<LinearId> linears;  // in program order
  std::string name;               // of the first linear's weight
  ValueId routing = -1;           // of experts: the routing that chooses its tokens, and its number
  int expert = -1;
};
// Sites whose linears follow each other with nothing between: no input depends on another's linears, so one
// pass over the data can serve all of them.
struct SiteGroup {
  int first_op = 0;  // all inputs are complete before it
  std::vector<Site> sites;
};

// The sites of one block's linears that belong to layers and are not kept as they are (routers), in order of
// first_op.
std::vector<Site> BlockSites(const Program& program, int block);
// The same in groups; sites in order of first_op.
std::vector<SiteGroup> GroupSites(const Block& block, const std::vector<Site>& sites);
// Of all blocks.
std::vector<Site> AllSites(const Program& program);

}  // namespace planish
