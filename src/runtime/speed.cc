#include "runtime/speed.h"

#include <algorithm>

#include "base/random.h"
#include "runtime/machine_rates.h"

namespace planish {
namespace {

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

class Meter {
 public:
  Meter(const Context& context, const Model& model, Engine& engine, const SpeedOptions& options)
      : context_(context),
        model_(model),
        engine_(engine),
        options_(options),
        bandwidth_(engine.team(), engine.packed().bytes) {
    for (int layer = 0; layer < model.program.cache_layers; ++layer) {
      windowed_ = windowed_ || engine.cache().shape(layer).window > 0;
    }
  }

  Result<Speed> Run() {
    Speed speed;
    speed.peaks = MeasurePeaks(engine_.team(), 5);
    double prefill = 0;
    if (options_.prompt > 0) {
      PLANISH_TRY(prefill, Prefill());
    }
    for (const int64_t depth : options_.depths) {
      PLANISH_TRY(DepthSpeed one, Decode(depth, speed.peaks));
      one.prefill_tok_s = prefill;
      speed.depths.push_back(one);
    }
    return speed;
  }

 private:
  int32_t AnyId(int64_t i) const {
    return static_cast<int32_t>(static_cast<uint64_t>(i) * 7919 %
                                static_cast<uint64_t>(model_.program.vocab));
  }

  // Tokens a second of one prompt, the better of two passes.
  Result<double> Prefill() {
    std::vector<int32_t> ids(static_cast<size_t>(options_.prompt));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = AnyId(static_cast<int64_t>(i));
    const Batch batch = Batch::Of(ids);
    const int64_t last = options_.prompt - 1;
    double best = 0;
    for (int turn = 0; turn < 2; ++turn) {
      const double start = SecondsNow();
      PLANISH_RETURN_IF_ERROR(engine_.Forward(context_, batch, {&last, 1}, logits_));
      best = std::max(best, static_cast<double>(options_.prompt) / (SecondsNow() - start));
    }
    return best;
  }

  // Small random keys and values for the positions before `depth`: as fast to read as real ones.
  Status Fill(int64_t depth) {
    constexpr int64_t kChunk = 256;
    for (int layer = 0; layer < model_.program.cache_layers; ++layer) {
      const AttentionShape& shape = engine_.cache().shape(layer);
      const int64_t width = shape.kv_heads * shape.head_dim;
      Mat<float> k(kChunk, width), v(kChunk, width);
      const Random random(0, static_cast<uint64_t>(layer));
      for (int64_t i = 0; i < kChunk * width; ++i) {
        k.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(2 * i))) - 0.5f;
        v.data()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(2 * i + 1))) - 0.5f;
      }
      for (int32_t slot = 0; slot < options_.sequences; ++slot) {
        for (int64_t at = 0; at < depth; at += kChunk) {
          const std::vector<int32_t> ids(static_cast<size_t>(std::min(kChunk, depth - at)), 0);
          const Batch batch = Batch::Of(ids, slot, at);
          const auto rows = [&](const Mat<float>& m) {
            return MatView<const float>{m.data(), batch.rows(), width, width};
          };
          PLANISH_RETURN_IF_ERROR(engine_.cache().Append(context_, layer, batch, rows(k), rows(v)));
        }
      }
    }
    return {};
  }

  // `steps` tokens of every sequence from `depth` on; seconds.
  Result<double> Steps(int64_t depth, int64_t steps) {
    std::vector<int64_t> rows(static_cast<size_t>(options_.sequences));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
    const double start = SecondsNow();
    for (int64_t step = 0; step < steps; ++step) {
      Batch batch;
      for (int32_t slot = 0; slot < options_.sequences; ++slot) {
        const int32_t id = AnyId(step * options_.sequences + slot);
        batch.Add({&id, 1}, slot, depth + step);
      }
      PLANISH_RETURN_IF_ERROR(engine_.Forward(context_, batch, rows, logits_));
    }
    return SecondsNow() - start;
  }

  // Multiply-adds of attention for one token at `position`.
  double AttentionMacs(int64_t position) const {
    double macs = 0;
    for (int layer = 0; layer < model_.program.cache_layers; ++layer) {
      const AttentionShape& shape = engine_.cache().shape(layer);
      const int64_t keys = shape.window > 0 ? std::min(shape.window, position + 1) : position + 1;
      macs += 2.0 * static_cast<double>(keys * shape.heads * shape.head_dim);
    }
    return macs;
  }

  Result<DepthSpeed> Decode(int64_t depth, const std::vector<Peak>& peaks) {
    PLANISH_RETURN_IF_ERROR(Fill(depth));
    const int64_t steps = std::max<int64_t>(1, options_.generate / options_.rounds);
    PLANISH_RETURN_IF_ERROR(Steps(depth, 2));  // settles memory and clocks
    const int64_t middle = depth + steps / 2;
    const auto sequences = static_cast<double>(options_.sequences);
    DepthSpeed result;
    result.depth = depth;
    result.bytes_per_token = static_cast<double>(engine_.packed().bytes) / sequences +
                             static_cast<double>(engine_.cache().BytesRead(middle));
    std::vector<double> rates, bandwidths, shares;
    double before = bandwidth_.Measure(2);
    for (int round = 0; round < options_.rounds; ++round) {
      // The last round's steps may have left the first keys behind the window.
      if (windowed_) PLANISH_RETURN_IF_ERROR(Fill(depth));
      PLANISH_TRY(const double seconds, Steps(depth, steps));
      const double after = bandwidth_.Measure(2), beside = (before + after) / 2;
      before = after;
      rates.push_back(static_cast<double>(steps) * sequences / seconds);
      bandwidths.push_back(beside);
      shares.push_back(result.bytes_per_token * rates.back() / beside);
      if (context_.progress != nullptr) {
        context_.progress->Update("decode", round + 1, options_.rounds, "rounds");
      }
    }
    result.decode_tok_s = Median(rates);
    result.bandwidth = Median(bandwidths);
    result.bandwidth_share = Median(shares);
    const double macs = static_cast<double>(model_.program.LinearMacsPerToken()) + AttentionMacs(middle);
    const double peak = BestPeak(peaks, engine_.options().multiply.exact_inputs ? "fp32" : "int8");
    if (peak > 0) result.compute_share = macs * result.decode_tok_s / peak;
    return result;
  }

  const Context& context_;
  const Model& model_;
  Engine& engine_;
  const SpeedOptions& options_;
  BandwidthMeter bandwidth_;
  Mat<float> logits_;
  bool windowed_ = false;
};

}  // namespace

int64_t CapacityFor(const SpeedOptions& options) {
  int64_t depth = 0;
  for (const int64_t d : options.depths) depth = std::max(depth, d);
  return std::max(options.prompt, depth + std::max<int64_t>(2, options.generate));
}

Result<Speed> MeasureSpeed(const Context& context, const Model& model, Engine& engine,
                           const SpeedOptions& options) {
  return Meter(context, model, engine, options).Run();
}

}  // namespace planish
