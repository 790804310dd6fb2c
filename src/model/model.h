// A model: a program bound to the tensors of a checkpoint. Matrices stay in the mapped files; only
// norm weights and biases are copied (to fp32).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "layer/linear.h"
#include "model/program.h"

namespace planish {

struct Model {
  std::string path;  // folder, as given
  std::string name;  // its last component
  Json config;
  Program program;
  std::vector<Linear> linears;              // by LinearId
  std::vector<std::vector<float>> vectors;  // by VectorId
  // Of a checkpoint that another program quantized: its tensors -> the weight that they make.
  std::map<std::string, std::string> quantized_tensors;
  std::vector<std::string> notes;  // what of the files is not applied, or not held as it was stored
  Checkpoint checkpoint;

  // Bytes of all tensors and their metadata (the safetensors files whole; no tokenizer).
  int64_t Bytes() const;
  double BitsPerWeight() const {
    return 8.0 * static_cast<double>(Bytes()) / static_cast<double>(program.Parameters());
  }
  // Every byte of every part of the layers' linears over their original weights, in bits. Biases count where
  // compression made them.
  double LinearBitsPerWeight() const;
};

// Reads config.json (and, of older GPTQ and AWQ folders, quantize_config.json or quant_config.json), builds
// the program, binds and checks every tensor's name, type and shape, and generation_config.json's stop
// tokens. Errors: tensors that are missing, or that the program does not read. `path` is a folder; "demo"
// names the embedded model when no such folder exists. Weights are not scanned: CheckFinite does that.
Result<Model> LoadModel(const std::string& path);
// "demo" -> "embedded:demo" unless a folder of that name exists; anything else unchanged.
std::string ResolveModelPath(const std::string& path);

// The first NaN or infinity in the dense weights, scales or vectors, as an error naming tensor and
// element.
Status CheckFinite(const Context& context, const Model& model);

}  // namespace planish
