#include "formats/checkpoint_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/background.h"
#include "base/check.h"
#include "base/names.h"
#include "tensor/buffer.h"

namespace planish {
namespace {

// Tensors into one file; made after its writer, so that the last panel is out before the writer is gone.
class Stream {
 public:
  Stream(const Context& context, int64_t total_bytes, int64_t done_bytes, SafetensorsWriter& writer)
      : context_(context), total_bytes_(total_bytes), done_bytes_(done_bytes), writer_(writer) {}
  int64_t done_bytes() const { return done_bytes_; }

  Status Write(const TensorSource& source) {
    const auto& shape = source.spec.shape;
    PLANISH_TRY(const int64_t bytes, TensorByteSize(source.spec.type, shape));
    if (bytes == 0) return {};
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];  // divides `bytes`: no overflow
    const int64_t row_bytes = bytes / rows,
                  panel = std::clamp<int64_t>(kTensorPanelBytes / row_bytes, 1, rows);
    PLANISH_CHECK(source.fill || static_cast<int64_t>(source.bytes.size()) == bytes) << source.spec.name;
    for (int64_t row = 0; row < rows; row += panel) {
      PLANISH_RETURN_IF_ERROR(context_.CheckCancelled());
      const int64_t count = std::min(panel, rows - row);
      const auto size = static_cast<size_t>(count * row_bytes);
      std::span<const std::byte> part;
      if (source.fill) {
        turn_ = 1 - turn_;
        Buffer& buffer = buffers_[turn_];
        if (buffer.size() < size) buffer = Buffer(size);
        PLANISH_RETURN_IF_ERROR(source.fill(row, count, buffer.bytes().first(size)));
        part = std::as_const(buffer).bytes().first(size);
      } else {
        part = source.bytes.subspan(static_cast<size_t>(row * row_bytes), size);
      }
      PLANISH_RETURN_IF_ERROR(
          appending_.Start([this, &source, part] { return writer_.Append(source.spec.name, part); }));
      done_bytes_ += static_cast<int64_t>(size);
      if (context_.progress != nullptr) {
        context_.progress->Update("write", static_cast<double>(done_bytes_),
                                  static_cast<double>(total_bytes_), "bytes");
      }
    }
    return {};
  }
  Status Finish() { return appending_.Wait(); }

 private:
  const Context& context_;
  int64_t total_bytes_, done_bytes_;
  SafetensorsWriter& writer_;
  Buffer buffers_[2];
  int turn_ = 0;  // the buffer that was filled last
  Background appending_;
};

}  // namespace

Result<TensorsWritten> WriteTensors(const Context& context, std::span<const TensorSource> sources,
                                    const std::string& folder, int64_t shard_bytes) {
  std::vector<TensorSpec> specs;
  std::map<std::string_view, const TensorSource*> by_name;
  for (const TensorSource& source : sources) {
    specs.push_back(source.spec);
    if (!by_name.emplace(source.spec.name, &source).second) {
      return InputError(fmt::format("tensor '{}' is declared twice (of tied tensors, write only one)",
                                    Abbreviate(source.spec.name)));
    }
  }
  PLANISH_TRY(const ShardPlan plan, PlanShards(specs, shard_bytes));
  int64_t done_bytes = 0;
  for (const auto& file : plan.files) {
    PLANISH_TRY(auto writer, SafetensorsWriter::Create(JoinPath(folder, file.name), file.tensors));
    Stream stream(context, plan.total_bytes, done_bytes, writer);
    for (const TensorSpec& spec : writer.order()) {
      PLANISH_RETURN_IF_ERROR(stream.Write(*by_name.at(spec.name)));
    }
    PLANISH_RETURN_IF_ERROR(stream.Finish());
    done_bytes = stream.done_bytes();
    PLANISH_RETURN_IF_ERROR(writer.Commit());
  }
  PLANISH_RETURN_IF_ERROR(WriteIndex(folder, plan));
  return TensorsWritten{static_cast<int64_t>(sources.size()), static_cast<int64_t>(plan.files.size()),
                        plan.total_bytes};
}

}  // namespace planish
