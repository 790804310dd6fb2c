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
};

// The sites of one block's linears that belong to layers, in order of first_op.
std::vector<Site> BlockSites(const Program& program, int block);
// Of all blocks.
std::vector<Site> AllSites(const Program& program);

}  // namespace planish
