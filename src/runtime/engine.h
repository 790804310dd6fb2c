// Decoding on packed weights: every thread of a team walks the whole program, so that a token costs a few
// barriers and no hand-outs.
//
// What is small every thread computes for itself: it has its own residual stream, norms, quantized inputs,
// rotations and softmax joins, some microseconds a layer, and nothing of it is shared. What reads memory is
// divided: tiles of linears that share an input form one phase, keys and values another. A layer of a
// decoder has five phases and a barrier after each (one more with low-rank paths, one more to store keys):
//   q k v | store keys | attend | o | gate up | down
// Operations that are neither linear nor attention run as model/forward.h defines them, on each thread.
//
// Roofline: bytes of packed weights, keys and values over the memory's bandwidth.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "runtime/packed_model.h"
#include "runtime/packed_prefill.h"
#include "runtime/paged_cache.h"
#include "runtime/runner.h"
#include "runtime/team.h"
#include "runtime/tile_division.h"

namespace planish {

struct EngineOptions {
  int slots = 1;
  int64_t capacity = 0;  // positions of a slot
  CacheType cache = CacheType::kBF16;
  MultiplyOptions multiply;
};

class Engine : public Runner {
 public:
  // Rows of a batch that the team takes; larger ones run operation by operation on the context's pool, with
  // this engine's cache. Their linears are products of packed codes with 8-bit inputs where these are fast
  // (FastFromCodes); with matrix tiles of bf16, and for other layers, products of matrices (math/gemm.h), in
  // bf16 where the processor is faster with it; with exact inputs fp32.
  static constexpr int64_t kMaxRows = packed::kMaxTokens;

  // An input error that names what the program needs and this engine does not have: experts, state-space
  // layers, values of another width than keys.
  static Status Supports(const Program& program);
  // `model` must live as long. The team has as many threads as the context's pool. Errors: as of Supports.
  static Result<std::unique_ptr<Engine>> Create(const Context& context, const Model& model,
                                                std::shared_ptr<const PackedModel> packed,
                                                const EngineOptions& options);

  // The same bits for any number of threads. For at most kMaxRows rows also for any division of the rows
  // among calls.
  Status Forward(const Context& context, const Batch& batch, std::span<const int64_t> logit_rows,
                 Mat<float>& logits) override;

  PagedCache& cache() { return cache_; }
  Team& team() { return team_; }
  const PackedModel& packed() const { return *packed_; }
  const EngineOptions& options() const { return options_; }
  const packed::KernelSet& kernels() const { return kernels_; }
  int threads() const { return team_.size(); }

 private:
  // Linears that read one value, or one attention, or operations that every thread runs for itself.
  struct Phase {
    enum class Kind { kLocal, kLinears, kAttention } kind = Kind::kLocal;
    int first = 0, last = 0;       // operations [first, last) of the block
    std::vector<InputForm> forms;  // linears: of their quantized inputs
    std::vector<int> form_of;      // by linear
    bool has_path = false;
    TileDivision tiles, path_tiles;
  };
  struct Member {
    Executor executor;
    Values values;
    Mat<float> hidden;
    std::vector<QuantizedInput> inputs, paths;
    int parity = 0;    // of outputs_
    size_t phase = 0;  // of tail_taken_
    explicit Member(const Model& model) : executor(model) {}
  };
  // One call of Forward.
  struct Call {
    const Context& context;  // with a pool of one thread
    const Batch& batch;
    const Batch& head_batch;  // a row for each of logit_rows
    std::span<const int64_t> logit_rows;
  };

  Engine(const Context& context, const Model& model, std::shared_ptr<const PackedModel> packed,
         const EngineOptions& options);
  Status Compile();
  Phase LinearPhase(const Block& block, int first, int last) const;
  const PackedLinear& LinearOf(const Block& block, int op) const;

  void RunMember(const Call& call, int member);
  // False: something failed on a thread, and all of them stop.
  bool RunPhase(const Call& call, int block, const Phase& phase, int member, bool last);
  // `last`: of the program, whose output is the result.
  bool RunLinears(int block, const Phase& phase, int member, bool last);
  void RunTiles(const Block& block, const Phase& phase, int member,
                const std::function<MatView<float>(int)>& output);
  bool RunAttention(const Call& call, int block, const Phase& phase, int member);
  void RunPaths(const Block& block, const Phase& phase, int member, int64_t rows);
  // y = W x for a large batch.
  Status MultiplyMany(const Context& context, LinearId linear, MatView<const float> x, MatView<float> y);
  static const QuantizedInput& InputOf(const Member& m, const Phase& phase, int linear);
  int64_t SpanCount(int layer, int64_t position) const;
  void SelectRows(const Call& call, Member& m) const;
  // Gives back the inputs that the operation is the last to read.
  void Drop(const Block& block, int op, Member& m) const;
  // Keeps the first failure in the order of the blocks.
  void Fail(int block, Error error);

  const Model& model_;
  std::shared_ptr<const PackedModel> packed_;
  EngineOptions options_;
  const packed::KernelSet& kernels_;
  Team team_;
  ThreadPool solo_;  // of one thread: loops of a member run on itself
  PagedCache cache_;
  Executor executor_;  // for large batches
  PackedPrefill prefill_;
  std::vector<std::vector<Phase>> phases_;  // by block
  std::vector<std::unique_ptr<Member>> members_;
  // What members hand to each other. Outputs alternate between two sets: while a slow member still reads
  // one, a fast one may write the next phase's.
  std::vector<Mat<float>> outputs_[2], path_outputs_;  // by linear of a phase
  std::vector<int64_t> output_widths_, path_widths_;
  Mat<float> partials_;                     // [row, head x span x PartialFloats]
  Mat<float>* result_ = nullptr;            // where the last phase puts logits
  std::vector<int32_t> slots_;              // by row
  std::atomic<size_t> tail_taken_[3] = {};  // of a phase's tail, in turns
  std::mutex error_mutex_;
  std::atomic<bool> failed_{false};
  int failed_block_ = 0;
  std::optional<Error> error_;
};

}  // namespace planish
