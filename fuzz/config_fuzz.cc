// config.json over arbitrary bytes: no crash, messages that say what is wrong in a few words, and whatever
// is accepted is a program that an executor can trust: every index inside its table, every value made
// before it is read, sizes whose products fit.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>
#include <variant>

#include "base/check.h"
#include "base/checked.h"
#include "base/json.h"
#include "model/family.h"

namespace {

using namespace planish;

template <typename T>
void CheckIndex(int index, const std::vector<T>& table, const Block& block) {
  PLANISH_CHECK(index >= 0 && index < static_cast<int>(table.size())) << block.name;
}

// Indices into the program's tables, and shapes that kernels rely on.
void CheckBody(const Program& program, const Block& block, const Op& op) {
  if (const auto* embed = std::get_if<EmbedOp>(&op.body)) {
    CheckIndex(embed->table, program.linears, block);
  } else if (const auto* norm = std::get_if<RmsNormOp>(&op.body)) {
    CheckIndex(norm->weight, program.vectors, block);
    const int64_t size = program.vectors[static_cast<size_t>(norm->weight)].size;
    PLANISH_CHECK(size > 0 && block.values[static_cast<size_t>(op.inputs[0])].width % size == 0);
    PLANISH_CHECK(norm->eps >= 0 && std::isfinite(norm->eps));
  } else if (const auto* linear = std::get_if<LinearOp>(&op.body)) {
    CheckIndex(linear->linear, program.linears, block);
  } else if (const auto* rope = std::get_if<RopeOp>(&op.body)) {
    CheckIndex(rope->rope, program.ropes, block);
  } else if (const auto* attention = std::get_if<AttentionOp>(&op.body)) {
    const AttentionShape& shape = attention->shape;
    PLANISH_CHECK(attention->cache_layer >= 0 && attention->cache_layer < program.cache_layers);
    PLANISH_CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.window >= 0);
    PLANISH_CHECK(block.values[static_cast<size_t>(op.inputs[0])].width == shape.heads * shape.head_dim);
    PLANISH_CHECK(block.values[static_cast<size_t>(op.inputs[1])].width == shape.kv_heads * shape.head_dim);
  }
}

void CheckBlock(const Program& program, const Block& block) {
  std::set<ValueId> made;
  if (block.input >= 0) made.insert(block.input);
  for (const Op& op : block.ops) {
    for (ValueId input : op.inputs) PLANISH_CHECK(made.count(input) == 1) << block.name;
    PLANISH_CHECK(made.insert(op.output).second) << block.name;
    CheckBody(program, block, op);
  }
  PLANISH_CHECK(made.count(block.output) == 1 && made.size() == block.values.size()) << block.name;
}

void CheckProgram(const Program& program) {
  for (const Block& block : program.blocks) CheckBlock(program, block);
  for (const LinearSlot& linear : program.linears) {
    PLANISH_CHECK(linear.out > 0 && linear.in > 0 && CheckedMul(linear.out, linear.in)) << linear.weight;
  }
  for (const RopeTable& rope : program.ropes) {
    PLANISH_CHECK(2 * static_cast<int64_t>(rope.inv_freq.size()) <= rope.head_dim);
    PLANISH_CHECK(std::isfinite(rope.attention_factor)) << rope.attention_factor;
    for (double f : rope.inv_freq) PLANISH_CHECK(std::isfinite(f)) << f;
  }
  for (int32_t id : program.eos_ids) PLANISH_CHECK(id >= 0 && id < program.vocab) << id;
  PLANISH_CHECK(program.bos_id >= -1 && program.bos_id < program.vocab) << program.bos_id;
  PLANISH_CHECK(program.LinearWeights() > 0 && program.Parameters() > program.LinearWeights());
  PLANISH_CHECK(program.LinearMacsPerToken() > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = ParseJson(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!config.ok()) {
    PLANISH_CHECK(config.error().code == Code::kInput && !config.error().message.empty());
    return 0;
  }
  const auto program = BuildProgram(*config);
  if (!program.ok()) {
    PLANISH_CHECK(program.error().code == Code::kInput && program.error().message.size() < 2000)
        << program.error().message;
    return 0;
  }
  CheckProgram(*program);
  return 0;
}
