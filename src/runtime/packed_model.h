// All linears of a model in packed form, made at load or read from a pack file (docs/formats/pack.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "runtime/packed_linear.h"
#include "runtime/packed_pack.h"

namespace planish {

struct PackedModel {
  // By LinearId; empty where nothing multiplies with the linear (an embedding that is no head).
  std::vector<std::shared_ptr<const PackedLinear>> linears;
  // What is not packed as it is stored, and why: "name: reason".
  std::vector<std::string> notes;
  // Bytes of all packed layers: what decoding a token reads, keys and values left out.
  int64_t bytes = 0;
  std::shared_ptr<const void> memory;
};

// What a linear will be packed as, without packing it.
struct PackedForm {
  std::string form;    // "int4 step 64"; empty where nothing multiplies with the linear
  bool coded = false;  // runs from its codes
  std::string note;    // what is not as it is stored, and why
  int64_t bytes = 0;
};
// By LinearId. Errors: those of PackModel.
Result<std::vector<PackedForm>> PlanPacking(const Model& model, const PackOptions& options = {});

// Packs on all threads into one huge-page buffer.
Result<std::shared_ptr<const PackedModel>> PackModel(const Context& context, const Model& model,
                                                     const PackOptions& options = {});

// What a pack belongs to: a hash of everything the model's linears are made of that is cheap to read (names,
// shapes, kinds, biases, and the first and last 4 KiB of every part's bytes).
std::string PackFingerprint(const Model& model);

// Writes a pack file, atomically. Errors: the path exists or cannot be written.
Status WritePack(const std::string& path, const Model& model, const PackedModel& packed);
// Reads one into huge pages on all threads, and checks every number that addresses memory. Errors: not a
// pack, another version, made from another model, truncated.
Result<std::shared_ptr<const PackedModel>> ReadPack(const Context& context, const std::string& path,
                                                    const Model& model);

}  // namespace planish
