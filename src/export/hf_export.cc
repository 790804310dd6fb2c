#include "export/hf_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <set>

#include "base/atomic_folder.h"
#include "export/refusals.h"
#include "formats/checkpoint_writer.h"
#include "layer/artifact.h"
#include "math/nn.h"
#include "model/folder.h"

namespace planish {
namespace {

constexpr int64_t kChunkRows = 16;  // decoded at a time by a thread

const char* TorchName(DType type) {
  return type == DType::kBF16 ? "bfloat16" : type == DType::kF16 ? "float16" : "float32";
}

// False when a value is not finite, or F16 has none for it.
bool Store(DType type, const float* values, int64_t count, std::byte* out) {
  bool finite = FindNonFinite({values, static_cast<size_t>(count)}) < 0;
  if (type == DType::kF32) {
    std::memcpy(out, values, static_cast<size_t>(count) * 4);
    return finite;
  }
  for (int64_t j = 0; j < count; ++j) {
    const uint16_t bits = type == DType::kF16 ? ToF16(values[j]).bits : ToBF16(values[j]).bits;
    if (type == DType::kF16) finite = finite && (bits & 0x7c00u) != 0x7c00u;
    std::memcpy(out + 2 * j, &bits, 2);
  }
  return finite;
}

// The name of `matrix`, its rows or, turned, its columns as stored rows.
struct Decoder {
  const Context& context;
  const Matrix& matrix;
  DType type;
  bool turned;
  std::string name;

  Status operator()(int64_t row, int64_t count, std::span<std::byte> out) const {
    std::atomic<bool> finite{true};
    const auto store = [&](const float* values, int64_t size, std::byte* to) {
      if (!Store(type, values, size, to)) finite = false;
    };
    const int64_t size = DTypeBits(type) / 8, cols = turned ? matrix.rows : matrix.cols;
    context.pool->ParallelFor((count + kChunkRows - 1) / kChunkRows, [&](int64_t chunk) {
      const int64_t first = chunk * kChunkRows, rows = std::min(kChunkRows, count - first);
      Mat<float> values(rows, cols);
      if (turned) {
        Mat<float> part(cols, rows);
        ReadRows(matrix, 0, cols, row + first, rows, part.data(), rows);
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < cols; ++j) values(i, j) = part(j, i);
        }
      } else {
        ReadRows(matrix, row + first, rows, 0, cols, values.data(), cols);
      }
      store(values.data(), rows * cols, out.data() + first * cols * size);
    });
    if (finite) return {};
    return InputError(fmt::format("tensor '{}' holds NaN, infinity{}", name,
                                  type == DType::kF16 ? " or a value beyond F16 (hf-bf16 holds it)" : ""));
  }
};

class Plan {
 public:
  Plan(const Context& context, const Model& model, DType type, Paths paths)
      : context_(context), model_(model), type_(type), paths_(paths) {}

  Result<std::vector<TensorSource>> Make() {
    FindParts();
    for (const TensorInfo* info : model_.checkpoint.tensors()) {
      if (const auto part = parts_.find(info->name); part != parts_.end()) {
        AddLinear(part->second);
      } else if (const auto bank = banks_.find(info->name); bank != banks_.end()) {
        for (size_t member : bank->second) AddLinear(member);
      } else {
        PLANISH_RETURN_IF_ERROR(AddTensor(*info));
      }
    }
    return std::move(sources_);
  }
  int64_t merged() const { return merged_; }
  int64_t dropped() const { return dropped_; }

 private:
  static bool IsOriginal(const Linear& linear) { return std::holds_alternative<Dense>(linear.w.body); }

  // Tensors of the checkpoint that are parts of linears, and banks of which an expert is no tensor's rows.
  void FindParts() {
    std::map<std::string, size_t> weights;
    for (size_t i = 0; i < model_.linears.size(); ++i) {
      const Linear& linear = model_.linears[i];
      const std::string& bank = model_.program.linears[i].bank.tensor;
      if (!bank.empty() && !model_.checkpoint.Has(linear.name)) banks_[bank].push_back(i);
      weights[model_.program.linears[i].weight] = i;
      if (IsOriginal(linear)) continue;
      std::vector<PartTensor> parts;
      DescribeParts(linear.w, linear.name, parts);
      for (const auto& part : parts) parts_[part.name] = i;
    }
    // Those of a GPTQ, AWQ or compressed-tensors folder.
    for (const auto& [name, weight] : model_.quantized_tensors) {
      if (const auto linear = weights.find(weight); linear != weights.end()) parts_[name] = linear->second;
    }
    std::erase_if(banks_, [&](const auto& bank) {
      return std::ranges::all_of(bank.second, [&](size_t i) { return IsOriginal(model_.linears[i]); });
    });
  }

  // The matrix, or what of it is no low-rank path.
  const Matrix& Wanted(const Linear& linear) {
    const auto* sum = std::get_if<SumPart>(&linear.w.body);
    if (sum == nullptr || std::ranges::none_of(sum->terms, IsPath)) return linear.w;
    ++(paths_ == Paths::kDrop ? dropped_ : merged_);
    if (paths_ != Paths::kDrop) return linear.w;
    SumPart rest;
    std::ranges::remove_copy_if(sum->terms, std::back_inserter(rest.terms), IsPath);
    return bases_.emplace_back(Matrix{linear.w.rows, linear.w.cols, std::move(rest)});
  }

  void AddLinear(size_t index) {
    if (!done_.insert(index).second) return;
    const Linear& linear = model_.linears[index];
    const bool turned = model_.program.linears[index].transposed;
    const Matrix& matrix = Wanted(linear);
    std::vector<int64_t> shape = {matrix.rows, matrix.cols};
    if (turned) std::swap(shape[0], shape[1]);
    sources_.push_back(
        {{linear.name, type_, shape}, Decoder{context_, matrix, type_, turned, linear.name}, {}});
  }

  // Floats in the type asked for, anything else as it is.
  Status AddTensor(const TensorInfo& info) {
    PLANISH_TRY(const TensorView view, model_.checkpoint.Get(info.name));
    if (!IsComputable(info.type) || info.type == type_ || view.NumElements() == 0) {
      sources_.push_back({{info.name, info.type, info.shape}, nullptr, view.bytes()});
      return {};
    }
    const int64_t cols = info.shape.empty() ? 1 : info.shape.back();
    auto matrix = std::make_shared<Matrix>(
        DenseMatrix(view.NumElements() / cols, cols, info.type, {view.bytes(), model_.checkpoint.owner()}));
    TensorSource source{{info.name, type_, info.shape}, nullptr, {}};
    source.fill = [matrix, decoder = Decoder{context_, *matrix, type_, false, info.name}](
                      int64_t row, int64_t count, std::span<std::byte> out) {
      return decoder(row, count, out);
    };
    sources_.push_back(std::move(source));
    return {};
  }

  const Context& context_;
  const Model& model_;
  DType type_;
  Paths paths_;
  std::map<std::string, size_t> parts_;
  std::map<std::string, std::vector<size_t>> banks_;
  std::set<size_t> done_;
  std::deque<Matrix> bases_;  // addresses stay
  std::vector<TensorSource> sources_;
  int64_t merged_ = 0, dropped_ = 0;
};

}  // namespace

Result<Converted> ExportHf(const Context& context, const Model& model, DType type,
                           const ConvertOptions& options, const std::string& output) {
  Refusals refusals;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    RefuseOwnBias(model.program.linears[i], model.linears[i], refusals);
  }
  PLANISH_RETURN_IF_ERROR(refusals.ToStatus("a Hugging Face folder"));
  PLANISH_TRY(const OrderedJson config, OriginalConfig(model, TorchName(type)));
  PLANISH_TRY(auto folder, AtomicFolder::Create(output));
  Plan plan(context, model, type, options.paths);
  PLANISH_TRY(const auto sources, plan.Make());
  PLANISH_TRY(const TensorsWritten written,
              WriteTensors(context, sources, folder.path(), options.FolderShardBytes()));
  PLANISH_RETURN_IF_ERROR(CarryCompanions(model, folder.path()));
  PLANISH_RETURN_IF_ERROR(WriteConfig(config, folder.path()));
  PLANISH_RETURN_IF_ERROR(folder.Commit());
  Converted done{written.tensors, written.bytes, {}};
  if (plan.merged() > 0) {
    done.notes.push_back(
        fmt::format("low-rank paths of {} layers were added to the matrices beside them", plan.merged()));
  }
  if (plan.dropped() > 0) {
    done.notes.push_back(fmt::format("low-rank paths of {} layers were left out", plan.dropped()));
  }
  return done;
}

}  // namespace planish
