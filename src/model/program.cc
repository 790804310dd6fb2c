#include "model/program.h"

#include <algorithm>

#include "base/check.h"

namespace planish {

int Block::LastUse(ValueId value) const {
  if (value == output) return static_cast<int>(ops.size());
  for (int i = static_cast<int>(ops.size()) - 1; i >= 0; --i) {
    if (std::ranges::find(ops[i].inputs, value) != ops[i].inputs.end()) return i;
  }
  return -1;
}

int64_t Program::LinearWeights() const {
  int64_t n = 0;
  for (const auto& l : linears) n += l.in_layer ? l.out * l.in : 0;
  return n;
}

int64_t Program::Parameters() const {
  int64_t n = 0;
  for (const auto& l : linears) n += l.out * l.in + (l.bias.empty() ? 0 : l.out);
  for (const auto& v : vectors) n += v.size;
  return n;
}

int64_t Program::LinearMacsPerToken() const {
  int64_t n = 0;
  for (const auto& block : blocks) {
    for (const auto& op : block.ops) {
      if (const auto* l = std::get_if<LinearOp>(&op.body))
        n += linears[l->linear].out * linears[l->linear].in;
    }
  }
  return n;
}

LinearId AddLinear(Program& program, const std::string& weight, int64_t out, int64_t in, bool bias,
                   bool in_layer) {
  LinearSlot slot{weight, "", out, in, in_layer};
  if (bias) {
    PLANISH_CHECK(weight.ends_with(".weight")) << weight;
    slot.bias = weight.substr(0, weight.size() - 6) + "bias";
  }
  program.linears.push_back(std::move(slot));
  return static_cast<LinearId>(program.linears.size()) - 1;
}

ValueId BlockBuilder::Make(const std::string& name, int64_t width) {
  block_.values.push_back({name, width});
  return static_cast<ValueId>(block_.values.size()) - 1;
}

ValueId BlockBuilder::Emit(Op op, const std::string& name, int64_t width) {
  op.output = Make(name, width);
  block_.ops.push_back(std::move(op));
  return block_.ops.back().output;
}

ValueId BlockBuilder::Input(const std::string& name, int64_t width) {
  block_.input = Make(name, width);
  return block_.input;
}

ValueId BlockBuilder::Embed(LinearId table) {
  return Emit({EmbedOp{table}, {}}, "embedding", program_.linears[table].in);
}

ValueId BlockBuilder::RmsNorm(ValueId x, const std::string& weight, int64_t size, float eps) {
  program_.vectors.push_back({weight, size});
  const auto id = static_cast<VectorId>(program_.vectors.size()) - 1;
  return Emit({RmsNormOp{id, eps}, {x}}, block_.values[x].name + " normed", block_.values[x].width);
}

ValueId BlockBuilder::Linear(ValueId x, const std::string& value_name, const std::string& weight, int64_t out,
                             bool bias) {
  return Linear(x, value_name, AddLinear(program_, weight, out, block_.values[x].width, bias, true));
}

ValueId BlockBuilder::Linear(ValueId x, const std::string& value_name, LinearId linear) {
  PLANISH_CHECK(program_.linears[linear].in == block_.values[x].width) << program_.linears[linear].weight;
  return Emit({LinearOp{linear}, {x}}, value_name, program_.linears[linear].out);
}

ValueId BlockBuilder::Rope(ValueId x, int rope) {
  return Emit({RopeOp{rope}, {x}}, block_.values[x].name + " rotated", block_.values[x].width);
}

ValueId BlockBuilder::Attention(ValueId q, ValueId k, ValueId v, const AttentionShape& shape) {
  return Emit({AttentionOp{shape, program_.cache_layers++}, {q, k, v}}, "attended",
              shape.heads * shape.head_dim);
}

ValueId BlockBuilder::Gate(ValueId gate, ValueId up, Activation activation) {
  return Emit({GateOp{activation}, {gate, up}}, "gated", block_.values[gate].width);
}

ValueId BlockBuilder::Add(ValueId x, ValueId y) {
  PLANISH_CHECK(block_.values[x].width == block_.values[y].width);
  return Emit({AddOp{}, {x, y}}, block_.values[x].name, block_.values[x].width);
}

void BlockBuilder::Finish(ValueId output) {
  block_.output = output;
  program_.blocks.push_back(std::move(block_));
}

}  // namespace planish
