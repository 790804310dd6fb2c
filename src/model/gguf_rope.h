// The rotation of positions in GGUF files, both ways: keys `ARCH.rope.scaling.*`, and tensors of divisors of
// the frequencies where a few numbers do not say it (llama3's scaling, longrope).
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "formats/gguf.h"
#include "model/gguf_family.h"
#include "model/program.h"

namespace planish {

// `rope_scaling` of a config, nothing where there is no scaling. Errors: kinds and values without a meaning
// here, a tensor that does not hold positive F32 numbers.
Status ReadGgufRope(const GgufFile& file, const GgufFamily& family, Json& config);
// True for the tensors that ReadGgufRope has taken care of.
bool IsRopeTensor(const std::string& name);

struct GgufRopeTensor {
  std::string name;
  std::vector<float> divisors;  // one a rotated pair
};
// Adds rope.freq_base, rope.dimension_count and the keys of scaling; the tensors that go with them. Errors:
// a scaling that the architecture cannot hold.
Result<std::vector<GgufRopeTensor>> WriteGgufRope(const GgufFamily& family, const Json& config,
                                                  const Program& program, GgufMetadata& metadata);

}  // namespace planish
