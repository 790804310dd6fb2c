#include "model/program.h"

#include <algorithm>

#include "base/check.h"

namespace planish {

int Block::LastUse(ValueId value) const {
  if (!last_uses.empty()) return last_uses[static_cast<size_t>(value)];
  if (value == output) return static_cast<int>(ops.size());
  for (int i = static_cast<int>(ops.size()) - 1; i >= 0; --i) {
    if (std::ranges::find(ops[i].inputs, value) != ops[i].inputs.end()) return i;
  }
  return -1;
}

const Op* Block::Maker(ValueId value) const {
  for (const Op& op : ops) {
    if (op.output == value) return &op;
  }
  return nullptr;
}

double Block::RowShare(ValueId value) const {
  const ValueId routing = values[static_cast<size_t>(value)].routing;
  if (routing < 0) return 1;
  const auto& shape = std::get<RouteOp>(Maker(routing)->body).shape;
  return static_cast<double>(shape.chosen) / static_cast<double>(shape.experts);
}

int64_t Program::LinearWeights() const {
  int64_t n = 0;
  for (const auto& l : linears) n += l.in_layer && !l.keep ? l.out * l.in : 0;
  return n;
}

int64_t Program::Parameters() const {
  int64_t n = 0;
  for (const auto& l : linears) n += l.out * l.in + (l.bias.empty() ? 0 : l.out);
  for (const auto& v : vectors) n += v.size;
  return n;
}

int64_t Program::LinearMacsPerToken() const {
  double n = 0;
  for (const auto& block : blocks) {
    for (const auto& op : block.ops) {
      if (const auto* l = std::get_if<LinearOp>(&op.body)) {
        const auto& slot = linears[static_cast<size_t>(l->linear)];
        n += static_cast<double>(slot.out * slot.in) * block.RowShare(op.output);
      }
    }
  }
  return static_cast<int64_t>(n + 0.5);
}

std::string BiasName(const std::string& weight) {
  PLANISH_CHECK(weight.ends_with(".weight")) << weight;
  return weight.substr(0, weight.size() - 6) + "bias";
}

LinearId AddLinear(Program& program, const std::string& weight, int64_t out, int64_t in, bool bias,
                   bool in_layer) {
  program.linears.push_back(
      {.weight = weight, .bias = bias ? BiasName(weight) : "", .out = out, .in = in, .in_layer = in_layer});
  return static_cast<LinearId>(program.linears.size()) - 1;
}

ValueId BlockBuilder::Make(const std::string& name, int64_t width) {
  block_.values.push_back({name, width});
  return static_cast<ValueId>(block_.values.size()) - 1;
}

ValueId BlockBuilder::Emit(Op op, const std::string& name, int64_t width) {
  op.output = Make(name, width);
  if (!op.inputs.empty()) {
    block_.values.back().routing = block_.values[static_cast<size_t>(op.inputs.front())].routing;
  }
  block_.ops.push_back(std::move(op));
  return block_.ops.back().output;
}

VectorId BlockBuilder::AddVector(VectorSlot slot) {
  program_.vectors.push_back(std::move(slot));
  return static_cast<VectorId>(program_.vectors.size()) - 1;
}

ValueId BlockBuilder::Input(const std::string& name, int64_t width) {
  block_.input = Make(name, width);
  return block_.input;
}

ValueId BlockBuilder::Embed(LinearId table) {
  return Emit({EmbedOp{table}, {}}, "embedding", program_.linears[static_cast<size_t>(table)].in);
}

ValueId BlockBuilder::Positions(const std::string& table, int64_t rows, int64_t width, int64_t offset) {
  const VectorId id = AddVector({table, rows * width, {rows, width}});
  return Emit({PositionOp{id, rows, offset}, {}}, "positions", width);
}

ValueId BlockBuilder::RmsNorm(ValueId x, const std::string& weight, int64_t size, float eps, float plus,
                              int64_t parts) {
  const VectorId id = AddVector({.name = weight, .size = size, .shape = {}, .plus = plus});
  return Emit({RmsNormOp{id, eps, parts}, {x}}, block_.values[static_cast<size_t>(x)].name + " normed",
              width(x));
}

ValueId BlockBuilder::LayerNorm(ValueId x, const std::string& weight, bool bias, float eps,
                                std::vector<int64_t> heads_and_dim) {
  const int64_t groups = heads_and_dim.empty() ? 1 : heads_and_dim.front();
  const VectorId w = AddVector({weight, width(x), std::move(heads_and_dim)});
  const VectorId b = bias ? AddVector({BiasName(weight), width(x)}) : -1;
  return Emit({LayerNormOp{w, b, eps, groups}, {x}}, block_.values[static_cast<size_t>(x)].name + " normed",
              width(x));
}

ValueId BlockBuilder::Linear(ValueId x, const std::string& value_name, const std::string& weight, int64_t out,
                             bool bias) {
  return Linear(x, value_name, AddLinear(program_, weight, out, width(x), bias, true));
}

ValueId BlockBuilder::Linear(ValueId x, const std::string& value_name, LinearId linear) {
  const auto& slot = program_.linears[static_cast<size_t>(linear)];
  PLANISH_CHECK(slot.in == width(x)) << slot.weight;
  return Emit({LinearOp{linear}, {x}}, value_name, slot.out);
}

ValueId BlockBuilder::Slice(ValueId x, const std::string& value_name, const SliceOp& slice) {
  PLANISH_CHECK(width(x) % slice.period == 0 && slice.offset + slice.width <= slice.period) << value_name;
  return Emit({slice, {x}}, value_name, width(x) / slice.period * slice.width);
}

ValueId BlockBuilder::Join(const std::string& value_name, const JoinOp& join, std::vector<ValueId> parts) {
  int64_t head_dim = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    head_dim += join.widths[i];
    PLANISH_CHECK(width(parts[i]) == join.widths[i] || width(parts[i]) == join.heads * join.widths[i]);
  }
  return Emit({join, std::move(parts)}, value_name, join.heads * head_dim);
}

ValueId BlockBuilder::Rope(ValueId x, const RopeOp& rope) {
  return Emit({rope, {x}}, block_.values[static_cast<size_t>(x)].name + " rotated", width(x));
}

ValueId BlockBuilder::Attention(ValueId q, ValueId k, ValueId v, const AttentionShape& shape) {
  return Emit({AttentionOp{shape, program_.cache_layers++}, {q, k, v}}, "attended",
              shape.heads * shape.ValueDim());
}

ValueId BlockBuilder::Activate(ValueId x, Activation activation) {
  return Emit({ActivationOp{activation}, {x}}, "activated", width(x));
}

ValueId BlockBuilder::Gate(ValueId gate, ValueId up, Activation activation) {
  return Emit({GateOp{activation}, {gate, up}}, "gated", width(gate));
}

ValueId BlockBuilder::Add(ValueId x, ValueId y, float scale) {
  PLANISH_CHECK(width(x) == width(y));
  return Emit({AddOp{scale}, {x, y}}, block_.values[static_cast<size_t>(x)].name, width(x));
}

ValueId BlockBuilder::Scale(ValueId x, float factor) {
  if (factor == 1) return x;
  return Emit({ScaleOp{factor}, {x}}, block_.values[static_cast<size_t>(x)].name + " scaled", width(x));
}

ValueId BlockBuilder::RowScale(ValueId x, ValueId scales) {
  PLANISH_CHECK(width(scales) == 1);
  return Emit({RowScaleOp{}, {x, scales}}, block_.values[static_cast<size_t>(x)].name + " scaled", width(x));
}

ValueId BlockBuilder::SoftCap(ValueId x, float cap) {
  return Emit({SoftCapOp{cap}, {x}}, block_.values[static_cast<size_t>(x)].name + " capped", width(x));
}

ValueId BlockBuilder::Route(ValueId logits, const RouteShape& shape) {
  PLANISH_CHECK(width(logits) == shape.experts);
  return Emit({RouteOp{shape}, {logits}}, "routing", shape.experts);
}

ValueId BlockBuilder::Gather(ValueId x, ValueId routing, int64_t expert) {
  const ValueId out = Emit({GatherOp{expert}, {x, routing}}, "expert " + std::to_string(expert), width(x));
  block_.values.back().routing = routing;
  return out;
}

ValueId BlockBuilder::Combine(ValueId routing, const std::vector<ValueId>& outputs) {
  PLANISH_CHECK(static_cast<int64_t>(outputs.size()) == width(routing));
  std::vector<ValueId> inputs = {routing};
  inputs.insert(inputs.end(), outputs.begin(), outputs.end());
  return Emit({CombineOp{}, std::move(inputs)}, "experts", width(outputs.front()));
}

ValueId BlockBuilder::Conv(ValueId x, const std::string& weight, bool bias, int64_t kernel) {
  const VectorId w = AddVector({weight, width(x) * kernel, {width(x), 1, kernel}});
  const VectorId b = bias ? AddVector({BiasName(weight), width(x)}) : -1;
  return Emit({ConvOp{w, b, kernel, program_.states++}, {x}}, "convolved", width(x));
}

ValueId BlockBuilder::Scan(ValueId x, ValueId b, ValueId c, ValueId dt, const ScanShape& shape,
                           const std::string& prefix) {
  PLANISH_CHECK(width(x) == shape.heads * shape.head_dim && width(dt) == shape.heads);
  PLANISH_CHECK(width(b) == shape.groups * shape.state && width(c) == width(b));
  const VectorId a_log = AddVector({prefix + "A_log", shape.heads}),
                 d = AddVector({prefix + "D", shape.heads});
  const VectorId dt_bias = AddVector({prefix + "dt_bias", shape.heads});
  return Emit({ScanOp{shape, a_log, d, dt_bias, program_.states++}, {x, b, c, dt}}, "scanned", width(x));
}

void BlockBuilder::Finish(ValueId output) {
  block_.output = output;
  block_.last_uses.assign(block_.values.size(), -1);
  for (size_t i = 0; i < block_.ops.size(); ++i) {
    for (const ValueId input : block_.ops[i].inputs)
      block_.last_uses[static_cast<size_t>(input)] = static_cast<int>(i);
  }
  block_.last_uses[static_cast<size_t>(output)] = static_cast<int>(block_.ops.size());
  program_.blocks.push_back(std::move(block_));
}

}  // namespace planish
