// config.json of strangers: BuildProgram over arbitrary JSON neither crashes nor reserves memory by a
// config's numbers, and a program it accepts holds together.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "model/family.h"

namespace planish {
namespace {

void CheckProgram(const Program& program) {
  PLANISH_CHECK(program.blocks.size() >= 3);
  PLANISH_CHECK(program.Parameters() > 0 && program.LinearMacsPerToken() > 0 && program.LinearWeights() > 0);
  for (const int32_t id : program.eos_ids) PLANISH_CHECK(id >= 0 && id < program.vocab) << id;
  PLANISH_CHECK(program.bos_id >= -1 && program.bos_id < program.vocab) << program.bos_id;
  for (const RopeTable& rope : program.ropes) {
    PLANISH_CHECK(!rope.inv_freq.empty() && 2 * static_cast<int64_t>(rope.inv_freq.size()) <= rope.head_dim);
    // At most one radian a position, so that positions times frequencies stay exact enough.
    for (const double f : rope.inv_freq) PLANISH_CHECK(f > 0 && f <= 1 + 1e-9) << f;
    PLANISH_CHECK(std::isfinite(rope.attention_factor) && rope.attention_factor > 0) << rope.attention_factor;
  }
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      for (const ValueId input : op.inputs) PLANISH_CHECK(input >= 0 && input < op.output) << block.name;
      PLANISH_CHECK(block.values[static_cast<size_t>(op.output)].width > 0) << block.name;
      const auto* attention = std::get_if<AttentionOp>(&op.body);
      if (attention == nullptr) continue;
      PLANISH_CHECK(attention->shape.heads % attention->shape.kv_heads == 0 && attention->shape.window >= 0);
      PLANISH_CHECK(attention->cache_layer < program.cache_layers);
    }
    PLANISH_CHECK(block.output >= 0 && block.output < static_cast<int>(block.values.size())) << block.name;
  }
}

}  // namespace
}  // namespace planish

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace planish;
  const auto config = ParseJson(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!config.ok()) return 0;
  const auto program = BuildProgram(*config);
  if (program.ok()) {
    CheckProgram(*program);
  } else {
    const auto& message = program.error().message;
    PLANISH_CHECK(!message.empty() && message.size() < 2000) << message;
  }
  return 0;
}
