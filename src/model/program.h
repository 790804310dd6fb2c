// A model as a program of operations, kept as data. An architecture (model/arch/) writes the list;
// forward, calibration, transforms, the runtime and the exporters walk it and know no family.
//
// A program is a list of blocks. Inside a block every operation reads and makes named values
// (matrices [tokens, width]); between blocks goes one value, the hidden state. Block 0 embeds, the
// last block makes logits, those between are the layers. Values are assigned once; that a residual
// sum may reuse its input's memory is the executor's business.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "math/nn.h"

namespace planish {

using ValueId = int;   // index into Block::values
using LinearId = int;  // index into Program::linears and Model::linears
using VectorId = int;  // index into Program::vectors and Model::vectors

struct EmbedOp {  // ids -> rows of a linear's weight
  LinearId table;
};
struct RmsNormOp {  // x -> y; groups of the weight's width, so per-head norms too
  VectorId weight;
  float eps;
};
struct LinearOp {  // x -> y
  LinearId linear;
};
struct RopeOp {  // x [heads * head_dim] -> y
  int rope;      // index into Program::ropes
};
struct AttentionOp {  // q, k, v -> y; keys and values go through the cache
  AttentionShape shape;
  int cache_layer;
};
struct GateOp {  // gate, up -> act(gate) * up
  Activation activation;
};
struct AddOp {};  // x, y -> x + y

struct Op {
  std::variant<EmbedOp, RmsNormOp, LinearOp, RopeOp, AttentionOp, GateOp, AddOp> body;
  std::vector<ValueId> inputs;
  ValueId output = -1;
};

struct Value {
  std::string name;
  int64_t width = 0;
};

struct Block {
  std::string name;  // "embed", "layer 3", "head"
  std::vector<Value> values;
  std::vector<Op> ops;
  ValueId input = -1;  // -1: the block starts from token ids
  ValueId output = -1;

  // Index of the last operation that reads the value, or -1; the block's output is read by
  // the operation after the last.
  int LastUse(ValueId value) const;
};

// Rotary positions, ready to use; see model/rope.h.
struct RopeTable {
  int64_t head_dim = 0;
  std::vector<double> inv_freq;
  float attention_factor = 1;
  RopePairing pairing = RopePairing::kHalves;
};

struct LinearSlot {
  std::string weight;  // tensor names in a Hugging Face checkpoint
  std::string bias;    // empty: none
  int64_t out = 0, in = 0;
  bool in_layer = true;  // false: embedding or head
};
struct VectorSlot {
  std::string name;
  int64_t size = 0;
};

struct Program {
  std::string family;
  int64_t hidden = 0, vocab = 0, max_positions = 0;
  std::vector<LinearSlot> linears;
  std::vector<VectorSlot> vectors;
  std::vector<RopeTable> ropes;
  std::vector<Block> blocks;
  int cache_layers = 0;
  std::vector<int32_t> eos_ids;  // generation stops at any of these
  int32_t bos_id = -1;           // -1: none

  // Original weights in layers' linears, and all parameters with tied ones counted once.
  int64_t LinearWeights() const;
  int64_t Parameters() const;
  // Multiply-adds of one token through all linears (head included), attention left out.
  int64_t LinearMacsPerToken() const;
};

// Writes blocks: each call adds an operation and returns its output.
class BlockBuilder {
 public:
  BlockBuilder(Program& program, std::string name) : program_(program) { block_.name = std::move(name); }
  ValueId Input(const std::string& name, int64_t width);
  ValueId Embed(LinearId table);
  ValueId RmsNorm(ValueId x, const std::string& weight, int64_t size, float eps);
  ValueId Linear(ValueId x, const std::string& value_name, const std::string& weight, int64_t out, bool bias);
  ValueId Linear(ValueId x, const std::string& value_name, LinearId linear);
  ValueId Rope(ValueId x, int rope);
  ValueId Attention(ValueId q, ValueId k, ValueId v, const AttentionShape& shape);
  ValueId Gate(ValueId gate, ValueId up, Activation activation);
  ValueId Add(ValueId x, ValueId y);
  // Closes the block with `output` and appends it to the program.
  void Finish(ValueId output);

 private:
  ValueId Make(const std::string& name, int64_t width);
  ValueId Emit(Op op, const std::string& name, int64_t width);
  Program& program_;
  Block block_;
};

// Adds a linear and returns its id. `weight` ends in ".weight"; a bias replaces that by ".bias".
LinearId AddLinear(Program& program, const std::string& weight, int64_t out, int64_t in, bool bias,
                   bool in_layer);

}  // namespace planish
