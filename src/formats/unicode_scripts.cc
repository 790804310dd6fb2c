#include "formats/unicode_scripts.h"

#include <algorithm>
#include <vector>

#include "formats/unicode_data.h"

namespace planish {
namespace {

struct Run {
  uint32_t first, last, script;
};

std::vector<Run> ReadRuns() {
  std::vector<Run> runs;
  for (ItemReader in(kUnicodeScripts); !in.Done();) {
    const auto range = in.ReadRange();
    in.Mark();
    runs.push_back({range.first, range.last, in.Number(10)});
    in.Mark();
  }
  return runs;
}

}  // namespace

uint32_t ScriptOf(uint32_t code_point) {
  static const std::vector<Run> kRuns = ReadRuns();
  const auto run = std::ranges::lower_bound(kRuns, code_point, {}, &Run::last);
  return run == kRuns.end() || code_point < run->first ? 0 : run->script;
}

}  // namespace planish
