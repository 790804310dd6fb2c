// Reading fields of config.json with the checks that every family needs.
#pragma once

#include <string>

#include "base/json.h"
#include "math/nn.h"
#include "model/config.h"
#include "model/program.h"

namespace planish {

// Far above any published model; keeps products of sizes inside int64 and allocations sane.
inline constexpr int64_t kMaxDimension = int64_t{1} << 24;
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxPositions = int64_t{1} << 31;
inline constexpr int64_t kMaxExperts = 4096;

// An integer of 1 to `limit`.
Result<int64_t> ReadSize(const Config& config, const char* key, int64_t fallback,
                         int64_t limit = kMaxDimension);
// An epsilon of a norm, in (0, 1].
Result<float> ReadEpsilon(const Config& config, const char* key, double fallback);
// A finite number that is not 0: multipliers.
Result<float> ReadFactor(const Config& config, const char* key, double fallback);
// A soft cap; null: none. 0 is none as a fallback only.
Result<float> ReadCap(const Config& config, const char* key, double fallback);
Result<Activation> ReadActivation(const Config& config, const char* key = "hidden_act",
                                  const std::string& fallback = "silu");
// eos_token_id and bos_token_id, checked against the vocabulary.
Status ReadTokens(const Config& config, Program& program);
// A field that only makes sense to us with one value: anything else present is refused by name
// (Config::Refuse).
void Require(const Config& config, const char* family, const char* key, const Json& expected);
// num_attention_heads 32 is no multiple of num_key_value_heads 5, head_dim is odd, heads are too wide.
Status CheckHeads(int64_t heads, int64_t kv_heads, int64_t head_dim);

}  // namespace planish
