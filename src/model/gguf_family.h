// How families are described in GGUF files: rows of a table that reading and writing share, each in its
// family's own file in model/arch/ (Family::gguf of family.h). Architectures, keys and names are llama.cpp's
// (gguf-py/gguf/constants.py, tensor_mapping.py).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/gguf.h"
#include "model/program.h"

namespace planish {

// Without ".weight" and ".bias". A star in the second stands for a number, of an expert or of a vector's row:
// such tensors of a layer lie together in one.
struct GgufName {
  const char* gguf;
  const char* hf;
  // How the values of a vector lie in GGUF.
  enum class Form {
    kPlain,
    kColumn,         // [n, 1]
    kNegatedPowers,  // [n, 1], -exp(x) in the place of x
    kGroups,         // [groups, n / groups]
    kKernels,        // [channels, taps], in Hugging Face's [channels, 1, taps]
  } form = Form::kPlain;
};

// A hyper-parameter: key after "ARCH.", field of config.json.
struct GgufKey {
  enum class Kind { kInt, kFloat, kBool } kind;
  const char* key;
  const char* field;
  const char* fallback;  // JSON: what a missing field means; null: the key is left out then
  // JSON: what null means, where that is another thing; "null": what the key cannot say.
  const char* null = nullptr;
};

// A field that the architecture leaves no choice in: its value, and what a missing one means, as JSON. No
// fallback: what reading a file sets and writing one does not ask for.
struct GgufImplied {
  const char* field;
  const char* value;
  const char* fallback;
};

struct GgufSizes {
  const char* hidden = "hidden_size";
  const char* layers = "num_hidden_layers";
  const char* inter = "intermediate_size";
  const char* heads = "num_attention_heads";
  const char* kv_heads = "num_key_value_heads";
  const char* positions = "max_position_embeddings";
};

// A family has a row for every way in which its models lie in files; a program is written by the first that
// fits it.
struct GgufFamily {
  const char* model_type;  // of the config that is made of a file
  const char* arch;        // general.architecture
  // Of rows that share the architecture a file is read by the one of the highest rank that fits it; no two
  // have the same.
  int rank = 0;
  const char* tensor = nullptr;  // that must be there, in GGUF's name
  const char* key = nullptr;     // that must be there and not 0, after "ARCH."
  std::span<const GgufName> top, layer;
  std::span<const GgufName> whole;  // of a layer too, but names with all that follows the number
  const char* layer_prefix = "model.layers.";
  GgufSizes sizes;
  std::span<const GgufKey> keys;
  std::span<const GgufImplied> implied;
  // A tensor of GGUF whose presence is a flag of the config.
  std::span<const GgufName> flags;
  const char* eps = "rms_norm_eps";
  bool layer_norm = false;  // else RMS
  enum class Rows {
    kAsIs,
    kPairs,   // q and k: the halves of a head interleaved
    kGroups,  // fused q, k, v: all of q, of k, of v; in Hugging Face's each head of k has its q before it
  } rows = Rows::kAsIs;
  float norm_plus = 0;          // RMS norms multiply by 1 + w; GGUF stores the sum
  const char* theta = "10000";  // of the rotation where the config says none, JSON; null: no rotation
  int unrotated_every = 0;      // above 0: layers that do not rotate, counted from 1
  bool partial = false;         // heads may be rotated in part
  bool head_dim = false;        // it may differ from hidden / heads
  bool gate_up = false;         // ffn_up is gate and up in one
  bool transposed = false;      // checkpoints keep a layer's matrices [in, out]
  // Which layers may slide: all or none; every other, from the first on; all but each n-th, for which there
  // is the key attention.sliding_window_pattern.
  enum class Windows { kAll, kAlternate, kPattern } windows = Windows::kAll;
  // For docs/formats/gguf.md: what differs from checkpoints beside what the members above and below say;
  // null: nothing.
  const char* differs = nullptr;
  // llama.cpp does not read the key of the window, and attends to everything.
  bool window_unread = false;
  // Above 0: files do not hold query_pre_attn_scalar. It is the width of a head, or hidden / heads in the
  // model of that many layers.
  int largest_layers = 0;
  const char* experts = nullptr;  // field with their number
  bool normalized = false;        // weights of chosen experts are divided by their sum
  // Which tensors of divisors of the rotation's frequencies programs look for: rope_freqs.weight;
  // rope_factors_long.weight and _short.
  bool rope_freqs = false, rope_factors = false;
  // Keys and values through a latent: self_attn.kv_b_proj is two tensors, of every head's keys turned round
  // and of its values; in older files the one, attn_kv_b.
  bool latent = false;
  bool scan = false;  // state-space layers, no attention
};

// The rows of all families, by architecture and then from the highest rank.
std::span<const GgufFamily* const> AllGgufFamilies();
const GgufFamily* GgufFamilyOf(const Program& program);  // null: none
// Error: the architecture is not known here; lists those that are.
Result<const GgufFamily*> GgufFamilyOf(const GgufFile& file);

// A refusal: the format has no place for it, whatever the input.
Error CannotHold(const GgufFamily& family, const std::string& what);

// Where a tensor of a Hugging Face checkpoint lies: "model.layers.3.mlp.experts.5.up_proj.weight" is expert 5
// of "blk.3.ffn_up_exps.weight". Nothing where the family has no such tensor.
struct GgufPlace {
  std::string name;
  int64_t expert = -1;
};
std::optional<GgufPlace> GgufPlaceOf(const GgufFamily& family, const Program& program,
                                     const std::string& name);
// The way back; a star stands for the expert.
std::optional<std::string> HfNameOf(const GgufFamily& family, const std::string& name);

// The order of a tensor's rows in GGUF.
struct GgufRowOrder {
  GgufFamily::Rows kind = GgufFamily::Rows::kAsIs;
  int64_t heads = 0, kv_heads = 0;
  // Row of the GGUF tensor -> row of the Hugging Face tensor, of `rows`.
  int64_t Source(int64_t row, int64_t rows) const;
  // Whether that many rows are whole heads.
  bool Fits(int64_t rows) const;
};
GgufRowOrder RowOrderOf(const GgufFamily& family, const std::string& gguf_name, int64_t heads,
                        int64_t kv_heads);
// How the values of a vector lie, by its GGUF name.
GgufName::Form FormOf(const GgufFamily& family, const std::string& gguf_name);
// True for weights that GGUF stores with norm_plus added.
bool StoresPlus(const GgufFamily& family, const std::string& gguf_name);

}  // namespace planish
