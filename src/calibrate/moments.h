// Moments of the input of a site: what almost every method asks for.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "tensor/view.h"

namespace planish {

// Sums over tokens in chunks, added in the order given: the same bits for any number of threads.
class Moments {
 public:
  Moments() = default;
  explicit Moments(int64_t width);

  // Adds a chunk x [tokens, width]. Error: a NaN or infinity, with token and channel.
  Status Add(const Context& context, MatView<const float> x);
  // The same with a weight >= 0 a token; FinishWeighted ends it.
  Status AddWeighted(const Context& context, MatView<const float> x, std::span<const float> weights);
  // Scales weighted sums so that means are means over the weights, and remembers that only `seen` tokens
  // really reached the site: these are the fallback for an expert that hardly any token was routed to.
  void FinishWeighted(int64_t seen);

  int64_t width() const { return sum_.rows(); }
  int64_t count() const { return count_; }
  // Tokens that reached the site; count() unless the moments are a fallback.
  int64_t seen() const { return seen_ >= 0 ? seen_ : count_; }
  bool is_fallback() const { return seen_ >= 0; }
  // H = E[x x^T] [width, width]; the true mean over all tokens. count() > 0.
  Mat<float> MeanSquare() const;
  std::vector<float> Mean() const;
  const std::vector<float>& absmax() const { return absmax_; }
  // Channels that were zero at every token.
  std::vector<int32_t> DeadChannels() const;

  // From stored values; sizes must agree.
  static Moments FromParts(int64_t count, Mat<float> square_sum, std::vector<double> mean_sum,
                           std::vector<float> absmax, int64_t seen = -1);
  MatView<const float> square_sum() const { return sum_; }
  const std::vector<double>& mean_sum() const { return mean_sum_; }

 private:
  int64_t count_ = 0;
  double weight_ = 0;
  int64_t seen_ = -1;  // -1: as many as counted
  Mat<float> sum_, chunk_;
  std::vector<double> mean_sum_;
  std::vector<float> absmax_;
};

// A file of moments, by site name.
struct StatisticsFile {
  std::string model_fingerprint;  // of the model they were taken from
  std::string text_fingerprint;   // of the token windows
  std::map<std::string, Moments> sites;
};

// A safetensors file: SITE.square_sum, SITE.mean_sum (F64), SITE.absmax; counts and fingerprints as metadata.
Status SaveStatistics(const std::string& path, const StatisticsFile& statistics);
Result<StatisticsFile> LoadStatistics(const std::string& path);
// The same from bytes in memory (for tests and fuzzing).
Result<StatisticsFile> ParseStatistics(std::span<const std::byte> bytes, const std::string& name);

}  // namespace planish
