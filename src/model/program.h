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
#include <utility>
#include <variant>
#include <vector>

#include "math/experts.h"
#include "math/nn.h"
#include "math/scan.h"

namespace planish {

using ValueId = int;   // index into Block::values
using LinearId = int;  // index into Program::linears and Model::linears
using VectorId = int;  // index into Program::vectors and Model::vectors

// ---- operations, by what they need ----
struct EmbedOp {  // ids -> rows of a linear's weight
  LinearId table;
};
struct PositionOp {  // positions -> rows `position + offset` of a table of learned ones
  VectorId table;
  int64_t rows;
  int64_t offset;
};
struct LinearOp {  // x -> y
  LinearId linear;
};
struct RmsNormOp {  // x -> y; groups of the weight's width, so per-head norms too
  VectorId weight;
  float eps;
  int64_t parts = 1;  // above 1: x is normalized in equal parts, the weight is as wide as all of them
};
struct LayerNormOp {  // x -> y, in `groups` equal parts; the weight is as wide as x
  VectorId weight;
  VectorId bias;  // -1: none
  float eps;
  int64_t groups;
};
struct SliceOp {  // of every `period` columns of x, `width` at `offset`: parts of a fused linear's output
  int64_t period, offset, width;
};
struct JoinOp {  // x0, x1, ... -> heads [x0's part | x1's part | ...]; an input one head wide goes to all
  int64_t heads;
  std::vector<int64_t> widths;  // of a head, by input
};
struct RopeOp {  // x [heads * head_dim] -> y
  int rope;      // index into Program::ropes
  int64_t head_dim;
  int64_t offset;  // first rotated dimension of a head
};
struct AttentionOp {  // q, k, v -> y; keys and values go through the cache
  AttentionShape shape;
  int cache_layer;
};
struct ActivationOp {  // x -> act(x)
  Activation activation;
};
struct GateOp {  // gate, up -> act(gate) * up
  Activation activation;
};
struct AddOp {  // x, y -> x + scale * y
  float scale = 1;
};
struct ScaleOp {  // x -> factor * x
  float factor;
};
struct RowScaleOp {};  // x, s [rows, 1] -> every row of x times its s
struct SoftCapOp {     // x -> cap * tanh(x / cap)
  float cap;
};
// Experts: a routing [rows, experts] holds the weight of each expert for each row, 0 where it was not chosen.
// Gathered values have as many rows as the expert has tokens, and so has what is computed from them.
struct RouteOp {  // logits [rows, experts] -> routing
  RouteShape shape;
};
struct GatherOp {  // x, routing -> the rows of x whose weight for this expert is not 0
  int64_t expert;
};
struct CombineOp {};  // routing, one value an expert -> sum over experts, ascending, of weight * its row
// State-space layers; their state goes through the cache.
struct ConvOp {     // x -> causal convolution along the sequence, a kernel a channel
  VectorId weight;  // [channels, kernel], the last tap for the current token
  VectorId bias;    // -1: none
  int64_t kernel;
  int state;  // index of its state in the cache
};
struct ScanOp {  // x, B, C, dt -> y; see math/scan.h
  ScanShape shape;
  VectorId a_log, d, dt_bias;
  int state;
};

struct Op {
  std::variant<EmbedOp, PositionOp, LinearOp, RmsNormOp, LayerNormOp, SliceOp, JoinOp, RopeOp, AttentionOp,
               ActivationOp, GateOp, AddOp, ScaleOp, RowScaleOp, SoftCapOp, RouteOp, GatherOp, CombineOp,
               ConvOp, ScanOp>
      body;
  std::vector<ValueId> inputs;
  ValueId output = -1;
};

struct Value {
  std::string name;
  int64_t width = 0;
  ValueId routing = -1;  // its rows are those that this routing gave to one expert; -1: all rows
};

struct Block {
  std::string name;  // "embed", "layer 3", "head"
  std::vector<Value> values;
  std::vector<Op> ops;
  ValueId input = -1;  // -1: the block starts from token ids
  ValueId output = -1;
  std::vector<int> last_uses;  // by value, filled by BlockBuilder; empty: LastUse searches

  // Index of the last operation that reads the value, or -1; the block's output is read by
  // the operation after the last.
  int LastUse(ValueId value) const;
  // The operation that makes the value, or null for the block's input.
  const Op* Maker(ValueId value) const;
  // Part of the batch's rows that the value is expected to have: 1, or chosen / experts of its routing.
  double RowShare(ValueId value) const;
};

// Rotary positions, ready to use; see model/rope.h.
struct RopeTable {
  std::vector<double> inv_freq;
  float attention_factor = 1;
  RopePairing pairing = RopePairing::kHalves;
  // Kinds that depend on the length of the sequence: from `longer_than` tokens on, other frequencies.
  int64_t longer_than = 0;            // 0: the same for any length
  std::vector<double> long_inv_freq;  // longrope
  double theta = 0, factor = 1;       // dynamic, when long_inv_freq is empty
};

struct LinearSlot {
  std::string weight;  // tensor names in a Hugging Face checkpoint
  std::string bias;    // empty: none
  int64_t out = 0, in = 0;
  bool in_layer = true;     // false: embedding or head
  bool keep = false;        // a router or a gate: small, decides much, never compressed
  bool transposed = false;  // the checkpoint stores [in, out]
  int expert = -1;          // which of a layer's experts it belongs to; -1: none
  // Checkpoints that hold all experts of a layer in one tensor [experts, rows, in] instead: the weight is
  // rows [first_row, first_row + out) of this slot's expert.
  struct Bank {
    std::string tensor;  // empty: none
    int64_t experts = 0, rows = 0, first_row = 0;
  };
  Bank bank;
};
struct VectorSlot {
  std::string name;  // with a star: its rows are tensors of their own (vector_tensors.h)
  int64_t size = 0;
  std::vector<int64_t> shape;  // empty: [size]
  float plus = 0;              // added at load: norms that multiply by 1 + w
};

struct Program {
  std::string family;
  int64_t hidden = 0, vocab = 0, max_positions = 0;
  std::vector<LinearSlot> linears;
  std::vector<VectorSlot> vectors;
  std::vector<RopeTable> ropes;
  std::vector<Block> blocks;
  int cache_layers = 0;  // attention operations
  int states = 0;        // operations that keep a state of fixed size
  // Other spellings of a prefix of tensor names: {"model.", "language_model.model."}.
  std::vector<std::pair<std::string, std::string>> prefixes;
  // Tensors that checkpoints may have beside those that are read, with stars for any text (unread_tensors.h):
  // masks that older libraries stored, a tied head, another model in the same files.
  std::vector<std::string> beside;
  std::vector<int32_t> eos_ids;  // generation stops at any of these
  int32_t bos_id = -1;           // -1: none

  // Original weights in the layers' linears that methods work on, and all parameters with tied ones counted
  // once.
  int64_t LinearWeights() const;
  int64_t Parameters() const;
  // Multiply-adds of one token through all linears it passes (head included), attention left out.
  int64_t LinearMacsPerToken() const;
};

// Writes blocks: each call adds an operation and returns its output.
class BlockBuilder {
 public:
  BlockBuilder(Program& program, std::string name) : program_(program) { block_.name = std::move(name); }
  ValueId Input(const std::string& name, int64_t width);
  ValueId Embed(LinearId table);
  // A table [rows, width] of learned positions.
  ValueId Positions(const std::string& table, int64_t rows, int64_t width, int64_t offset);
  // Norms by the name of their weight; a bias replaces its ".weight" by ".bias".
  ValueId RmsNorm(ValueId x, const std::string& weight, int64_t size, float eps, float plus = 0,
                  int64_t parts = 1);
  ValueId LayerNorm(ValueId x, const std::string& weight, bool bias, float eps,
                    std::vector<int64_t> heads_and_dim = {});
  ValueId Linear(ValueId x, const std::string& value_name, const std::string& weight, int64_t out, bool bias);
  ValueId Linear(ValueId x, const std::string& value_name, LinearId linear);
  ValueId Slice(ValueId x, const std::string& value_name, const SliceOp& slice);
  ValueId Join(const std::string& value_name, const JoinOp& join, std::vector<ValueId> parts);
  ValueId Rope(ValueId x, const RopeOp& rope);
  ValueId Attention(ValueId q, ValueId k, ValueId v, const AttentionShape& shape);
  ValueId Activate(ValueId x, Activation activation);
  ValueId Gate(ValueId gate, ValueId up, Activation activation);
  ValueId Add(ValueId x, ValueId y, float scale = 1);
  ValueId Scale(ValueId x, float factor);  // x itself for a factor of 1
  ValueId RowScale(ValueId x, ValueId scales);
  ValueId SoftCap(ValueId x, float cap);
  ValueId Route(ValueId logits, const RouteShape& shape);
  ValueId Gather(ValueId x, ValueId routing, int64_t expert);
  ValueId Combine(ValueId routing, const std::vector<ValueId>& outputs);
  ValueId Conv(ValueId x, const std::string& weight, bool bias, int64_t kernel);
  // Tensors PREFIX + A_log, D, dt_bias.
  ValueId Scan(ValueId x, ValueId b, ValueId c, ValueId dt, const ScanShape& shape,
               const std::string& prefix);
  // Closes the block with `output` and appends it to the program.
  void Finish(ValueId output);

  int64_t width(ValueId x) const { return block_.values[static_cast<size_t>(x)].width; }
  Program& program() { return program_; }

 private:
  ValueId Make(const std::string& name, int64_t width);
  // The output has as many rows as input 0.
  ValueId Emit(Op op, const std::string& name, int64_t width);
  VectorId AddVector(VectorSlot slot);
  Program& program_;
  Block block_;
};

// Adds a linear and returns its id. `weight` ends in ".weight"; a bias replaces that by ".bias".
LinearId AddLinear(Program& program, const std::string& weight, int64_t out, int64_t in, bool bias,
                   bool in_layer);
// The name of the tensor beside a weight: "a.weight" -> "a.bias".
std::string BiasName(const std::string& weight);

}  // namespace planish
