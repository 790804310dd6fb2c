#include "pipeline/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/hash.h"
#include "layer/artifact.h"
#include "math/gemm.h"

namespace planish {

std::string ModelFingerprint(const Model& model) {
  constexpr size_t kSample = 4096;
  constexpr size_t kSamples = 64;
  Sha256 hash;
  hash.Update(DumpJson(model.config));
  for (const TensorInfo* info : model.checkpoint.tensors()) {
    hash.Update(info->name);
    hash.Update(DTypeName(info->type));
    hash.Update(ShapeText(info->shape));
    const auto view = model.checkpoint.Get(info->name);
    if (!view.ok()) continue;  // every listed tensor can be read
    const auto bytes = view->bytes();
    const size_t step = std::max(kSample, bytes.size() / kSamples);
    for (size_t at = 0; at < bytes.size(); at += step) {
      hash.Update(bytes.subspan(at, std::min(kSample, bytes.size() - at)));
    }
    if (bytes.size() > kSample) hash.Update(bytes.last(kSample));
  }
  // Paths of adapters lie in files of their own.
  for (const Linear& linear : model.linears) {
    const auto* sum = std::get_if<SumPart>(&linear.w.body);
    for (size_t i = 1; sum != nullptr && i < sum->terms.size(); ++i) {
      std::vector<PartTensor> parts;
      hash.Update(DumpJson(DescribeParts(sum->terms[i], linear.name, parts)));
      for (const auto& part : parts) hash.Update(part.bytes);
    }
  }
  return hash.Hex();
}

std::string WindowsFingerprint(const std::vector<std::vector<int32_t>>& windows) {
  Sha256 hash;
  for (const auto& window : windows) {
    hash.Update(std::to_string(window.size()) + ":");
    hash.Update(std::as_bytes(std::span(window)));
  }
  return hash.Hex();
}

std::string ProfileFingerprint(const Context& context) {
  if (context.profile == Profile::kStrict) return "strict";
  std::string text = "fast/" + std::string(IsaName(context.isa));
  if (context.precision != Precision::kF32) {
    text += fmt::format(", {} by {}", PrecisionName(context.precision),
                        GemmKernelsText(context, context.precision));
  }
  return text;
}

std::string Differences(const Fingerprint& a, const Fingerprint& b) {
  std::string out;
  for (const auto& [part, value] : a) {
    const auto other = b.find(part);
    if (other != b.end() && other->second == value) continue;
    out += (out.empty() ? "" : ", ") + part;
  }
  return out;
}

}  // namespace planish
