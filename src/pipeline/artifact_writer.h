// Writes a model, some of whose linears have been compressed, as an artifact folder: config.json with
// a quantization_config, safetensors with the parts, tokenizer files, and planish.json, the manifest.
#pragma once

#include <string>

#include "base/context.h"
#include "model/model.h"
#include "pipeline/fingerprint.h"

namespace planish {

struct Manifest {
  std::string recipe;  // resolved, as TOML
  Fingerprint fingerprint;
  OrderedJson layers = OrderedJson::array();  // a report a compressed tensor
};

inline constexpr const char* kManifestName = "planish.json";

// `folder` must not exist or be empty. Tensors whose linear still is what the checkpoint holds are
// copied byte for byte; others are written as their parts. Experts that the checkpoint keeps in one tensor
// are written one by one, under the names they have in the program.
Status WriteArtifact(const Context& context, const Model& model, const Manifest& manifest,
                     const std::string& folder);
// The fingerprint in a finished artifact's manifest.
Result<Fingerprint> ReadArtifactFingerprint(const std::string& folder);

}  // namespace planish
