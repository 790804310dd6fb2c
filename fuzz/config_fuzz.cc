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
#include "model/rope.h"

namespace {

using namespace planish;

template <typename T>
void CheckIndex(int index, const std::vector<T>& table, const Block& block) {
  PLANISH_CHECK(index >= 0 && index < static_cast<int>(table.size())) << block.name;
}

int64_t Width(const Block& block, const Op& op, size_t input) {
  return block.values[static_cast<size_t>(op.inputs[input])].width;
}

// The same for what norms, positions and state-space layers read.
void CheckVector(const Program& program, const Block& block, VectorId id, int64_t size) {
  CheckIndex(id, program.vectors, block);
  PLANISH_CHECK(size > 0 && program.vectors[static_cast<size_t>(id)].size == size) << block.name;
}

void CheckState(const Program& program, int state) { PLANISH_CHECK(state >= 0 && state < program.states); }

void CheckAttention(const Program& program, const Block& block, const Op& op, const AttentionOp& attention) {
  const AttentionShape& shape = attention.shape;
  PLANISH_CHECK(attention.cache_layer >= 0 && attention.cache_layer < program.cache_layers);
  PLANISH_CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.window >= 0);
  PLANISH_CHECK(Width(block, op, 0) == shape.heads * shape.head_dim && shape.softcap >= 0);
  PLANISH_CHECK(Width(block, op, 1) == shape.kv_heads * shape.head_dim);
  PLANISH_CHECK(Width(block, op, 2) == shape.kv_heads * shape.ValueDim());
}

void CheckRoute(const Block& block, const Op& op, const RouteShape& shape) {
  PLANISH_CHECK(Width(block, op, 0) == shape.experts && shape.chosen > 0 && shape.groups > 0);
  PLANISH_CHECK(shape.experts % shape.groups == 0 && shape.open_groups > 0 &&
                shape.open_groups <= shape.groups);
  PLANISH_CHECK(shape.chosen <= shape.experts / shape.groups * shape.open_groups);
}

void CheckScan(const Program& program, const Block& block, const Op& op, const ScanOp& scan) {
  const ScanShape& shape = scan.shape;
  PLANISH_CHECK(shape.groups > 0 && shape.heads % shape.groups == 0 && shape.dt_min <= shape.dt_max);
  PLANISH_CHECK(Width(block, op, 0) == shape.heads * shape.head_dim && Width(block, op, 3) == shape.heads);
  PLANISH_CHECK(Width(block, op, 1) == shape.groups * shape.state &&
                Width(block, op, 2) == Width(block, op, 1));
  for (const VectorId id : {scan.a_log, scan.d, scan.dt_bias}) CheckVector(program, block, id, shape.heads);
  CheckState(program, scan.state);
}

// Indices into the program's tables, and shapes that kernels rely on.
void CheckBody(const Program& program, const Block& block, const Op& op) {
  const int64_t out = block.values[static_cast<size_t>(op.output)].width;
  PLANISH_CHECK(out > 0) << block.name;
  if (const auto* embed = std::get_if<EmbedOp>(&op.body)) {
    CheckIndex(embed->table, program.linears, block);
  } else if (const auto* position = std::get_if<PositionOp>(&op.body)) {
    CheckVector(program, block, position->table, position->rows * out);
    PLANISH_CHECK(position->offset >= 0 && position->offset < position->rows);
  } else if (const auto* norm = std::get_if<RmsNormOp>(&op.body)) {
    CheckIndex(norm->weight, program.vectors, block);
    const int64_t size = program.vectors[static_cast<size_t>(norm->weight)].size;
    PLANISH_CHECK(size > 0 && Width(block, op, 0) % size == 0 && norm->parts > 0 && size % norm->parts == 0);
    PLANISH_CHECK(norm->eps >= 0 && std::isfinite(norm->eps));
  } else if (const auto* layer_norm = std::get_if<LayerNormOp>(&op.body)) {
    CheckVector(program, block, layer_norm->weight, Width(block, op, 0));
    if (layer_norm->bias >= 0) CheckVector(program, block, layer_norm->bias, Width(block, op, 0));
    PLANISH_CHECK(layer_norm->groups > 0 && Width(block, op, 0) % layer_norm->groups == 0);
  } else if (const auto* linear = std::get_if<LinearOp>(&op.body)) {
    CheckIndex(linear->linear, program.linears, block);
  } else if (const auto* slice = std::get_if<SliceOp>(&op.body)) {
    PLANISH_CHECK(slice->period > 0 && Width(block, op, 0) % slice->period == 0 && slice->offset >= 0);
    PLANISH_CHECK(slice->width > 0 && slice->offset + slice->width <= slice->period);
  } else if (const auto* rope = std::get_if<RopeOp>(&op.body)) {
    CheckIndex(rope->rope, program.ropes, block);
    const auto pairs = static_cast<int64_t>(program.ropes[static_cast<size_t>(rope->rope)].inv_freq.size());
    PLANISH_CHECK(rope->offset >= 0 && rope->offset + 2 * pairs <= rope->head_dim);
    PLANISH_CHECK(Width(block, op, 0) % rope->head_dim == 0);
  } else if (const auto* attention = std::get_if<AttentionOp>(&op.body)) {
    CheckAttention(program, block, op, *attention);
  } else if (const auto* route = std::get_if<RouteOp>(&op.body)) {
    CheckRoute(block, op, route->shape);
  } else if (const auto* conv = std::get_if<ConvOp>(&op.body)) {
    CheckVector(program, block, conv->weight, Width(block, op, 0) * conv->kernel);
    if (conv->bias >= 0) CheckVector(program, block, conv->bias, Width(block, op, 0));
    CheckState(program, conv->state);
  } else if (const auto* scan = std::get_if<ScanOp>(&op.body)) {
    CheckScan(program, block, op, *scan);
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
    for (const int64_t length : {int64_t{1}, int64_t{1} << 20}) {
      for (double f : RopeFrequencies(rope, length)) PLANISH_CHECK(std::isfinite(f)) << f;
    }
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
