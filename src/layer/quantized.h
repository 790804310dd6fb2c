// Checkpoints that other programs quantized, as parts of layers: GPTQ (v1 and v2), AWQ (gemm) and
// compressed-tensors. Codes and scales are carried over as they are where Coded can hold them; a matrix that
// it cannot hold exactly (scales that are no fp16 numbers, zero points beyond the codes) becomes its values
// in fp32. Nothing is rounded. docs/formats/quantized-checkpoints.md is the page.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "layer/matrix.h"

namespace planish {

// One checkpoint. Use from one thread.
class QuantizedReader {
 public:
  virtual ~QuantizedReader() = default;
  // Whether the weight ("M.weight") is stored in this format, and not as a plain tensor of that name.
  virtual bool Holds(const std::string& weight) const = 0;
  // The matrix [rows, cols] = [out, in]. Errors name the tensor, what was found and what was expected.
  virtual Result<Matrix> Read(const std::string& weight, int64_t rows, int64_t cols) = 0;
  // That a weight which is not held in this format is a plain tensor, or none, by tensors and settings.
  // Errors name the tensor or the setting that says otherwise.
  virtual Status CheckPlain(const std::string& weight) const;
  // The tensors that make it, those that only say how its inputs are quantized included.
  std::vector<std::string> TensorsOf(const std::string& weight) const;
  // What the file asks for and is not applied, and what had to be decoded. Complete once all is read.
  std::vector<std::string> Notes() const;

 protected:
  explicit QuantizedReader(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
  void CountDecoded(const Matrix& matrix);
  Checkpoint checkpoint_;
  std::vector<std::string> notes_;

 private:
  int64_t decoded_ = 0, decoded_bytes_ = 0;
};

// The quant_methods that OpenQuantized takes.
bool IsQuantizedMethod(const std::string& method);

// The reader of a quantization_config. Errors: another method, settings that are not known or that would
// give other outputs than the file was made for (rotations at run time). `order`: the keys of a `dynamic` in
// the order of the file (JsonKeysInOrder), of which the first that matches a module holds; without it they
// are taken in the order of the alphabet.
Result<std::unique_ptr<QuantizedReader>> OpenQuantized(const Json& config, const Checkpoint& checkpoint,
                                                       const std::vector<std::string>& order = {});

// An error where two places that state the settings of one GPTQ or AWQ checkpoint differ; `other_name` is
// that of the second in the message.
Status CheckSameSettings(const Json& config, const Json& other, const std::string& other_name);

}  // namespace planish
