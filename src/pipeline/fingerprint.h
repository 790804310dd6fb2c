// What decides the bytes of a result, in parts that can be named when they differ.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "model/model.h"

namespace planish {

// Names of the parts: "program", "model", "recipe", "calibration", "profile".
using Fingerprint = std::map<std::string, std::string>;

// Configuration, tensor names, shapes and places, and samples of every tensor's bytes (its ends and
// 64 blocks between): a model changed by accident is seen, without reading it whole.
std::string ModelFingerprint(const Model& model);
std::string WindowsFingerprint(const std::vector<std::vector<int32_t>>& windows);
// "strict" alone, or "fast/avx512", with the precision below fp32: fast results are promised for one kind of
// machine only.
std::string ProfileFingerprint(const Context& context);

// "recipe and calibration": the parts in which they differ; empty when equal.
std::string Differences(const Fingerprint& a, const Fingerprint& b);

}  // namespace planish
