#include "calibrate/moments.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "formats/safetensors.h"
#include "math/gemm.h"
#include "math/nn.h"

namespace planish {
namespace {

constexpr char kVersion[] = "1";

template <typename T>
std::span<const std::byte> BytesOf(const T* data, int64_t count) {
  return std::as_bytes(std::span(data, static_cast<size_t>(count)));
}

// Values of a tensor that must have this type and shape.
template <typename T>
Result<std::vector<T>> ReadValues(const SafetensorsFile& file, const std::string& name, DType type,
                                  const std::vector<int64_t>& shape) {
  const TensorInfo* info = file.Find(name);
  if (info == nullptr) return InputError(fmt::format("{}: tensor '{}' is missing", file.path(), name));
  if (info->type != type || info->shape != shape) {
    return InputError(fmt::format("{}: tensor '{}': expected {} {}, found {} {}", file.path(), name,
                                  DTypeName(type), ShapeText(shape), DTypeName(info->type),
                                  ShapeText(info->shape)));
  }
  const TensorView view = file.View(*info);
  std::vector<T> values(static_cast<size_t>(view.NumElements()));
  if (!values.empty()) std::memcpy(values.data(), view.data, values.size() * sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return InputError(fmt::format("{}: tensor '{}': element {} is not finite", file.path(), name, i));
    }
  }
  return values;
}

Result<int64_t> ReadCount(const SafetensorsFile& file, const std::string& site, const std::string& text) {
  int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count < 0) {
    return InputError(
        fmt::format("{}: count of '{}': expected a number, found '{}'", file.path(), site, text));
  }
  return count;
}

Result<Moments> ReadSite(const SafetensorsFile& file, const std::string& site,
                         const std::string& count_text) {
  PLANISH_TRY(const int64_t count, ReadCount(file, site, count_text));
  int64_t seen = -1;
  const auto fallback = file.metadata().find("seen:" + site);
  if (fallback != file.metadata().end()) {
    PLANISH_TRY(seen, ReadCount(file, site, fallback->second));
  }
  const TensorInfo* info = file.Find(site + ".square_sum");
  if (info == nullptr || info->shape.size() != 2) {
    return InputError(fmt::format("{}: tensor '{}.square_sum' [n, n] is missing", file.path(), site));
  }
  const int64_t n = info->shape[0];
  PLANISH_TRY(const auto square, ReadValues<float>(file, site + ".square_sum", DType::kF32, {n, n}));
  PLANISH_TRY(auto mean, ReadValues<double>(file, site + ".mean_sum", DType::kF64, {n}));
  PLANISH_TRY(auto absmax, ReadValues<float>(file, site + ".absmax", DType::kF32, {n}));
  Mat<float> sum(n, n);
  if (n > 0) std::memcpy(sum.data(), square.data(), square.size() * sizeof(float));
  return Moments::FromParts(count, std::move(sum), std::move(mean), std::move(absmax), seen);
}

Result<StatisticsFile> Read(const SafetensorsFile& file) {
  StatisticsFile statistics;
  constexpr std::string_view kCount = "count:";
  const auto& metadata = file.metadata();
  const auto version = metadata.find("planish_statistics");
  if (version == metadata.end() || version->second != kVersion) {
    return InputError(fmt::format("{}: not a statistics file of version {} (made by `planish calibrate`?)",
                                  file.path(), kVersion));
  }
  for (const auto& [key, value] : metadata) {
    if (key == "model") statistics.model_fingerprint = value;
    if (key == "text") statistics.text_fingerprint = value;
    if (!key.starts_with(kCount)) continue;
    const std::string site = key.substr(kCount.size());
    PLANISH_TRY(statistics.sites[site], ReadSite(file, site, value));
  }
  return statistics;
}

}  // namespace

Moments::Moments(int64_t width)
    : sum_(width, width), mean_sum_(static_cast<size_t>(width)), absmax_(static_cast<size_t>(width)) {
  sum_.Fill(0);
}

Status Moments::Add(const Context& context, MatView<const float> x) {
  PLANISH_CHECK(x.cols == width() && x.stride == x.cols);
  const int64_t bad = FindNonFinite({x.data, static_cast<size_t>(x.rows * x.cols)});
  if (bad >= 0) {
    return FailureError(fmt::format("the input is {} at token {}, channel {}", x.data[bad],
                                    count_ + bad / x.cols, bad % x.cols));
  }
  chunk_.Resize(width(), width());
  Gram(context, x, chunk_, Accumulate::kSet, context.precision);
  constexpr int64_t kRows = 64, kCols = 256;
  context.pool->ParallelFor((width() + kRows - 1) / kRows, [&](int64_t panel) {
    const int64_t end = std::min(width(), (panel + 1) * kRows);
    for (int64_t i = panel * kRows; i < end; ++i) {
      for (int64_t j = 0; j < width(); ++j) sum_(i, j) += chunk_(i, j);
    }
  });
  context.pool->ParallelFor((width() + kCols - 1) / kCols, [&](int64_t panel) {
    const int64_t end = std::min(width(), (panel + 1) * kCols);
    for (int64_t i = 0; i < x.rows; ++i) {
      for (int64_t j = panel * kCols; j < end; ++j) {
        mean_sum_[static_cast<size_t>(j)] += static_cast<double>(x(i, j));
        absmax_[static_cast<size_t>(j)] = std::max(absmax_[static_cast<size_t>(j)], std::abs(x(i, j)));
      }
    }
  });
  count_ += x.rows;
  return {};
}

Status Moments::AddWeighted(const Context& context, MatView<const float> x, std::span<const float> weights) {
  PLANISH_CHECK(static_cast<int64_t>(weights.size()) == x.rows);
  // Rows times the root of their weight have the weighted square; mean and range are taken from the rows.
  Mat<float> scaled(x.rows, x.cols);
  for (int64_t i = 0; i < x.rows; ++i) {
    const float root = std::sqrt(weights[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < x.cols; ++j) scaled(i, j) = root * x(i, j);
  }
  const std::vector<double> mean_before = mean_sum_;
  const std::vector<float> absmax_before = absmax_;
  PLANISH_RETURN_IF_ERROR(Add(context, scaled));
  mean_sum_ = mean_before;
  absmax_ = absmax_before;
  for (int64_t i = 0; i < x.rows; ++i) {
    const float weight = weights[static_cast<size_t>(i)];
    if (weight == 0) continue;
    weight_ += static_cast<double>(weight);
    for (int64_t j = 0; j < x.cols; ++j) {
      const auto at = static_cast<size_t>(j);
      mean_sum_[at] += static_cast<double>(weight) * static_cast<double>(x(i, j));
      absmax_[at] = std::max(absmax_[at], std::abs(x(i, j)));
    }
  }
  return {};
}

void Moments::FinishWeighted(int64_t seen) {
  seen_ = seen;
  if (weight_ == 0) {  // the router gave this expert nothing at all
    *this = Moments(width());
    seen_ = seen;
    return;
  }
  const double scale = static_cast<double>(count_) / weight_;
  for (int64_t i = 0; i < width() * width(); ++i) {
    sum_.data()[i] = static_cast<float>(static_cast<double>(sum_.data()[i]) * scale);
  }
  for (double& sum : mean_sum_) sum *= scale;
}

Mat<float> Moments::MeanSquare() const {
  PLANISH_CHECK(count_ > 0);
  Mat<float> h(width(), width());
  const auto n = static_cast<double>(count_);
  for (int64_t i = 0; i < width() * width(); ++i) {
    h.data()[i] = static_cast<float>(static_cast<double>(sum_.data()[i]) / n);
  }
  return h;
}

std::vector<float> Moments::Mean() const {
  PLANISH_CHECK(count_ > 0);
  std::vector<float> mean;
  for (double s : mean_sum_) mean.push_back(static_cast<float>(s / static_cast<double>(count_)));
  return mean;
}

std::vector<int32_t> Moments::DeadChannels() const {
  std::vector<int32_t> dead;
  for (size_t j = 0; j < absmax_.size(); ++j) {
    if (absmax_[j] == 0) dead.push_back(static_cast<int32_t>(j));
  }
  return dead;
}

Moments Moments::FromParts(int64_t count, Mat<float> square_sum, std::vector<double> mean_sum,
                           std::vector<float> absmax, int64_t seen) {
  PLANISH_CHECK(square_sum.rows() == square_sum.cols());
  Moments m;
  m.count_ = count;
  m.seen_ = seen;
  m.sum_ = std::move(square_sum);
  m.mean_sum_ = std::move(mean_sum);
  m.absmax_ = std::move(absmax);
  return m;
}

Status SaveStatistics(const std::string& path, const StatisticsFile& statistics) {
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> metadata = {{"planish_statistics", kVersion},
                                                 {"model", statistics.model_fingerprint},
                                                 {"text", statistics.text_fingerprint}};
  std::map<std::string, std::span<const std::byte>> data;
  for (const auto& [site, m] : statistics.sites) {
    const int64_t n = m.width();
    specs.push_back({site + ".square_sum", DType::kF32, {n, n}});
    specs.push_back({site + ".mean_sum", DType::kF64, {n}});
    specs.push_back({site + ".absmax", DType::kF32, {n}});
    data[site + ".square_sum"] = BytesOf(m.square_sum().data, n * n);
    data[site + ".mean_sum"] = BytesOf(m.mean_sum().data(), n);
    data[site + ".absmax"] = BytesOf(m.absmax().data(), n);
    metadata["count:" + site] = std::to_string(m.count());
    if (m.is_fallback()) metadata["seen:" + site] = std::to_string(m.seen());
  }
  PLANISH_TRY(auto writer, SafetensorsWriter::Create(path, specs, metadata));
  const auto order = writer.order();
  for (const auto& spec : order) PLANISH_RETURN_IF_ERROR(writer.Append(spec.name, data[spec.name]));
  return writer.Commit();
}

Result<StatisticsFile> LoadStatistics(const std::string& path) {
  PLANISH_TRY(const auto file, SafetensorsFile::Open(path));
  return Read(*file);
}

Result<StatisticsFile> ParseStatistics(std::span<const std::byte> bytes, const std::string& name) {
  PLANISH_TRY(const auto file, SafetensorsFile::Parse(bytes, name));
  return Read(*file);
}

}  // namespace planish
