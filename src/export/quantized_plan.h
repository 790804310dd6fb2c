// What the writers of quantized checkpoints share: which linears are stored as codes and on which grid, what
// stays plain, and how codes come about: carried over as they are, or rounded here.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "export/refusals.h"
#include "export/target.h"
#include "formats/checkpoint_writer.h"

namespace planish {

// A linear that is stored as codes.
struct CodedLinear {
  size_t id = 0;         // of model.linears
  std::string module;    // its name without ".weight"
  const Matrix* matrix;  // codes to carry over, or values to round
  GridSpec grid;         // of the codes
  bool rounded = false;  // not carried over
  float unit = 1;        // rounded to NVFP4: the divisor of its scales
  int64_t rows() const { return matrix->rows; }
  int64_t cols() const { return matrix->cols; }
};

// What a format can hold.
struct QuantizedFormat {
  std::string name;  // for messages
  // Why it cannot hold the codes; no reason: it can. The matrix is null for codes yet to be made.
  std::function<Refusal(const GridSpec& grid, const LinearSlot& slot, const Matrix* codes)> refuse;
  GridSpec rounding;          // for values that are on no grid yet; a group of 128 may become 64 or 32
  bool only_rounding;         // codes on another grid than `rounding` are refused
  bool always_zeros = false;  // symmetric grids have zeros in the file too
};

struct QuantizedPlan {
  std::vector<CodedLinear> coded;
  std::vector<std::string> plain;     // modules of linears that are no codes, heads included
  std::vector<TensorSource> tensors;  // of everything that is no codes
  std::vector<std::string> notes;
};

// A model with codes keeps them, and its other matrices stay plain; of one without, every linear of the
// layers is rounded. Errors (kRefused) list the layers that do not fit, by reason; among them, unless
// options.mixed_fused, those that servers join and cannot load, being of different grids.
Result<QuantizedPlan> PlanQuantized(const Context& context, const Model& model, const ConvertOptions& options,
                                    const QuantizedFormat& format);

// The module in which vLLM and SGLang join this one with others: "model.layers.0.self_attn.q_proj" ->
// "model.layers.0.self_attn.qkv_proj". Empty: none.
std::string JoinedName(const std::string& module);

// The number to divide FP8 scales by for the same scales as multiplying by the unit: its inverse or a
// neighbor of that. Nothing: no number does.
std::optional<float> DivisorOfUnit(const Coded& coded);

// Rows [row, row + rows) and columns [col, col + cols) of a linear.
struct CodeRange {
  int64_t row = 0, rows = 0, col = 0, cols = 0;
  bool Covers(const CodeRange& other) const {
    return row <= other.row && other.row + other.rows <= row + rows && col <= other.col &&
           other.col + other.cols <= col + cols;
  }
};

// Codes from row `row` and column `col` of a linear on: a matrix whose body is Coded.
struct CodePanel {
  const Matrix* matrix = nullptr;
  int64_t row = 0, col = 0;
};

// Codes to carry over where they are, others rounded as they are asked for: a linear at a time, or a panel of
// one whose codes are larger than `panel_bytes`; the last ones are kept. Scales and zeros, a small part of
// them, are kept of all linears up to kKeptBytes: files have them in another place, and would have every
// linear rounded twice, as larger ones are. Use from one thread.
class CodeSource {
 public:
  static constexpr int64_t kKeptBytes = int64_t{64} << 20;
  explicit CodeSource(const Context& context, int64_t panel_bytes = kTensorPanelBytes)
      : context_(context), panel_bytes_(panel_bytes) {}
  // A panel with that range in it, valid until the next call. Error: values that are not finite.
  Result<CodePanel> Get(const CodedLinear& linear, const CodeRange& range);
  // Everything but the codes, which may be missing, of the whole linear.
  Result<const Coded*> Scales(const CodedLinear& linear);

 private:
  CodeRange ToRound(const CodedLinear& linear, const CodeRange& range) const;
  Result<Matrix> Round(const CodedLinear& linear, const CodeRange& range, bool with_codes) const;
  // The scales of a whole linear, kept where there is room.
  void Keep(size_t id, Coded scales);

  const Context& context_;
  int64_t panel_bytes_;
  static constexpr auto kNone = static_cast<size_t>(-1);
  size_t held_id_ = kNone, scales_id_ = kNone;
  CodeRange held_range_;
  Matrix held_;
  Coded scales_;
  std::map<size_t, Coded> kept_;
  int64_t kept_bytes_ = 0;
};

// Adds what servers will say about it: sizes that no tensor parallelism divides. `per_word` is the number of
// outputs that one word holds.
void NoteServing(const std::vector<CodedLinear>& coded, int64_t per_word, std::vector<std::string>& notes);

// config.json with that quantization_config, tokenizer files and tensors, as a folder that appears whole.
// `own_config`: the name of a second file that gets the object, or empty.
Result<Converted> WriteQuantizedFolder(const Context& context, const Model& model, QuantizedPlan plan,
                                       const OrderedJson& quantization, const std::string& own_config,
                                       int64_t shard_bytes, const std::string& output);

// The index of groups of codes that are carried over; empty where groups are runs of columns.
std::span<const std::byte> GroupIndexOf(const CodedLinear& linear);

// Zero of a group as a whole number; half the range where none are stored.
int ZeroCode(const Coded& coded, int64_t groups, int64_t row, int64_t group);

}  // namespace planish
