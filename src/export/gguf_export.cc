#include "export/gguf_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/background.h"
#include "base/file.h"
#include "export/gguf_codes.h"
#include "export/refusals.h"
#include "formats/chat_template.h"
#include "formats/gguf_folder.h"
#include "formats/gguf_tokenizer.h"
#include "formats/tokenizer_files.h"
#include "grids/gguf_encode.h"
#include "grids/gguf_fit.h"
#include "math/nn.h"
#include "model/gguf_family.h"
#include "model/gguf_model.h"

namespace planish {
namespace {

constexpr int64_t kPanelBytes = 16 << 20;   // of a file; two are in memory: one filled, one written
constexpr int64_t kChunkFloats = 32 << 10;  // decoded at a time by a thread: they stay in its cache

bool IsFloat(GgufType type) {
  return type == GgufType::kF32 || type == GgufType::kF16 || type == GgufType::kBF16;
}

// A matrix, the experts of a layer, or a vector on its way out.
struct Item {
  GgufTensorSpec spec;
  struct Part {
    const Matrix* matrix = nullptr;
    std::span<const float> importance;  // [cols] or empty
    // Of a matrix that makes keys and values from a latent: the keys' [heads * rank, nope], every head's
    // turned round, or the values' [heads * value, rank]; 0 heads: the matrix itself.
    struct Cut {
      int64_t heads = 0, nope = 0, value = 0;
      bool keys = false;
    } cut;
  };
  std::vector<Part> parts;
  std::vector<float> vector;  // when there are no parts
  GgufRowOrder order;
};

int32_t FileType(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kQ4_1:
      return 3;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kQ5_0:
      return 8;
    case GgufType::kQ5_1:
      return 9;
    case GgufType::kQ2_K:
      return 10;
    case GgufType::kQ3_K:
      return 11;
    case GgufType::kQ4_K:
      return 14;
    case GgufType::kQ5_K:
      return 16;
    case GgufType::kQ6_K:
      return 18;
    case GgufType::kIQ4_NL:
      return 25;
    case GgufType::kMXFP4:
      return 38;
    case GgufType::kIQ4_XS:
      return 30;
    case GgufType::kBF16:
      return 32;
    default:
      return 0;
  }
}

// All layers that one matrix and the model's own bias do not hold.
Status CheckLinears(const Model& model, Paths paths) {
  Refusals refusals;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    static_cast<void>(OneMatrix(model.linears[i], paths, refusals));
    RefuseOwnBias(model.program.linears[i], model.linears[i], refusals);
  }
  return refusals.ToStatus("GGUF");
}

GgufTokenIds TokenIdsOf(const Model& model) {
  GgufTokenIds ids{.bos = model.program.bos_id};
  if (!model.program.eos_ids.empty()) ids.eos = model.program.eos_ids.front();
  const Json pad = model.config.value("pad_token_id", Json());
  if (pad.is_number_integer() && pad >= 0 && pad < model.program.vocab) ids.pad = pad.get<int64_t>();
  return ids;
}

struct Header {
  GgufMetadata metadata;
  std::vector<GgufRopeTensor> rope;
};

Result<Header> MakeHeader(const Model& model, const GgufExport& options, GgufExported& result) {
  Header header;
  GgufMetadata& metadata = header.metadata;
  PLANISH_TRY(header.rope, AddHyperParameters(model.config, model.program, metadata));
  metadata.String("general.type", "model");
  metadata.String("general.name", model.name);
  metadata.Int("general.file_type", FileType(options.type));
  if (!IsFloat(options.type)) metadata.Int("general.quantization_version", 2);
  if (const ImportanceSource& source = options.importance_source; !source.file.empty()) {
    metadata.String("quantize.imatrix.file", source.file);
    if (!source.texts.empty()) metadata.String("quantize.imatrix.dataset", source.texts);
    metadata.Int("quantize.imatrix.entries_count", source.entries);
    metadata.Int("quantize.imatrix.chunks_count", source.chunks);
  }
  PLANISH_TRY(const bool has_tokenizer, HasTokenizer(model.path));
  if (has_tokenizer) {
    PLANISH_TRY(const TokenizerFiles tokenizer, ReadTokenizerFiles(model.path));
    PLANISH_TRY(auto notes, AddTokenizer(tokenizer, model.program.vocab, TokenIdsOf(model), metadata));
    result.notes.insert(result.notes.end(), notes.begin(), notes.end());
  } else {
    AddNoTokenizer(TokenIdsOf(model), metadata);
    result.notes.push_back(fmt::format(
        "warning: {} has no tokenizer; the file says so (tokenizer.ggml.model = no_vocab), and programs can "
        "give it ids only",
        model.path));
  }
  PLANISH_TRY(const StoredTemplates templates, ReadStoredTemplates(model.path));
  AddTemplates(templates, metadata);
  return header;
}

// llama.cpp has one way to choose among groups of experts.
void NoteGroups(const Program& program, GgufExported& result) {
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      const auto* route = std::get_if<RouteOp>(&op.body);
      if (route == nullptr || route->shape.open_groups == route->shape.groups) continue;
      result.notes.emplace_back(
          "groups of experts: this model scores a group by its best expert, llama.cpp by the sum of its two "
          "best, and may choose others");
      return;
    }
  }
}

// Windows of which llama.cpp's architecture knows nothing.
void NoteWindows(const Program& program, const GgufFamily& family, GgufExported& result) {
  if (!family.window_unread) return;
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      const auto* attention = std::get_if<AttentionOp>(&op.body);
      if (attention == nullptr || attention->shape.window == 0) continue;
      result.notes.push_back(fmt::format(
          "windows: layers of this model attend to {} tokens, in llama.cpp's '{}' to all of them, so that it "
          "computes something else for longer texts",
          attention->shape.window, family.arch));
      return;
    }
  }
}

class Planner {
 public:
  Planner(const Model& model, const GgufFamily& family, const GgufExport& options, GgufExported& result)
      : model_(model), family_(family), options_(options), result_(result) {}

  Result<std::vector<Item>> Plan(const std::vector<GgufRopeTensor>& rope) {
    for (const GgufRopeTensor& tensor : rope) {
      const auto size = static_cast<int64_t>(tensor.divisors.size());
      items_.push_back({{tensor.name, GgufType::kF32, {size}}, {}, tensor.divisors, {}});
    }
    for (const Block& block : model_.program.blocks) {
      for (const Op& op : block.ops) {
        if (const auto* attention = std::get_if<AttentionOp>(&op.body)) attention_ = attention->shape;
        if (const auto* scan = std::get_if<ScanOp>(&op.body)) scan_ = scan->shape;
      }
    }
    for (size_t i = 0; i < model_.linears.size(); ++i) {
      PLANISH_RETURN_IF_ERROR(AddLinear(model_.program.linears[i], model_.linears[i]));
    }
    for (size_t i = 0; i < model_.vectors.size(); ++i) {
      const VectorSlot& slot = model_.program.vectors[i];
      std::vector<int64_t> dims(slot.shape.rbegin(), slot.shape.rend());
      if (dims.empty()) dims = {slot.size};
      PLANISH_RETURN_IF_ERROR(AddVector(slot.name, std::move(dims), model_.vectors[i]));
    }
    NoteRounded();
    return std::move(items_);
  }

 private:
  // Codes that the blocks asked for do not hold.
  void NoteRounded() {
    const Matrix* first = nullptr;
    int64_t layers = 0;
    for (const Item& item : items_) {
      for (const Item::Part& part : item.parts) {
        if (IsFloat(item.spec.type) || !std::holds_alternative<Coded>(part.matrix->body)) continue;
        if (HoldsCodes(item.spec.type, *part.matrix)) continue;
        if (layers++ == 0) first = part.matrix;
      }
    }
    if (layers == 0) return;
    std::string advice = "`planish compress --grid` makes blocks that are carried over";
    for (const GgufType type : {GgufType::kQ8_0, GgufType::kQ5_0, GgufType::kQ4_0, GgufType::kMXFP4}) {
      if (!HoldsCodes(type, *first)) continue;
      advice = fmt::format("blocks of {} hold them as they are", InfoOf(type).name);
    }
    result_.notes.push_back(
        fmt::format("{} matrices of codes ({}) are rounded once more; {}", layers, Describe(*first), advice));
  }

  Result<GgufPlace> PlaceOf(const std::string& name) const {
    auto place = GgufPlaceOf(family_, model_.program, name);
    if (!place) {
      return InputError(
          fmt::format("tensor '{}' has no name in GGUF's architecture '{}'", name, family_.arch));
    }
    return *place;
  }
  GgufRowOrder OrderOf(const std::string& name) const {
    return RowOrderOf(family_, name, attention_.heads, attention_.kv_heads);
  }

  Status AddVector(const std::string& name, std::vector<int64_t> dims, std::span<const float> values) {
    PLANISH_TRY(const GgufPlace place, PlaceOf(name));
    std::vector<float> own(values.begin(), values.end());
    const auto size = static_cast<int64_t>(own.size());
    switch (FormOf(family_, place.name)) {
      case GgufName::Form::kPlain:
        break;
      case GgufName::Form::kNegatedPowers:
        for (float& x : own) x = static_cast<float>(-std::exp(double{x}));
        [[fallthrough]];
      case GgufName::Form::kColumn:
        dims = {1, size};
        break;
      case GgufName::Form::kGroups:
        dims = {size / scan_.groups, scan_.groups};
        break;
      case GgufName::Form::kKernels:
        dims = {dims.front(), dims.back()};
        break;
    }
    items_.push_back(
        {{place.name, GgufType::kF32, std::move(dims)}, {}, std::move(own), OrderOf(place.name)});
    return {};
  }

  Result<Item::Part> PartOf(const LinearSlot& slot, const Linear& linear, const std::string& name) const {
    Refusals none;  // CheckLinears came first
    Item::Part part{OneMatrix(linear, options_.paths, none), {}, {}};
    const auto known = options_.importance.find(slot.weight);
    if (known != options_.importance.end()) {
      part.importance = known->second;
      if (static_cast<int64_t>(part.importance.size()) != slot.in) {
        return InputError(fmt::format("tensor '{}' has {} columns, its importance {} values", slot.weight,
                                      slot.in, part.importance.size()));
      }
    } else if (slot.in_layer && !slot.keep && !options_.importance.empty()) {
      result_.notes.push_back(fmt::format("{}: no importance is known, all columns count alike", name));
    }
    return part;
  }

  GgufType TypeFor(GgufType wanted, const std::string& name, int64_t cols) {
    const GgufType type = FitGgufType(wanted, cols);
    if (type != wanted) result_.notes.push_back(name + ": " + FallbackText(wanted, type, cols));
    return type;
  }

  // The two tensors of a matrix that makes keys and values from a latent.
  void AddLatent(const LinearSlot& slot, const std::string& name, Item::Part part) {
    const std::string layer = name.substr(0, name.rfind(".attn_kv_b"));
    const auto rotated = static_cast<int64_t>(2 * model_.program.ropes.front().inv_freq.size());
    const int64_t heads = attention_.heads, rank = slot.in;
    part.cut = {heads, attention_.head_dim - rotated, attention_.ValueDim(), false};
    const std::string keys = layer + ".attn_k_b.weight", values = layer + ".attn_v_b.weight";
    Item::Part turned{part.matrix, {}, part.cut};  // importance is of the latent, here the rows
    turned.cut.keys = true;
    const GgufType keys_type = TypeFor(options_.type, keys, part.cut.nope);
    items_.push_back({{keys, keys_type, {part.cut.nope, rank, heads}}, {turned}, {}, {}});
    const GgufType values_type = TypeFor(options_.type, values, rank);
    items_.push_back({{values, values_type, {rank, part.cut.value, heads}}, {part}, {}, {}});
  }

  Status AddLinear(const LinearSlot& slot, const Linear& linear) {
    PLANISH_TRY(const GgufPlace place, PlaceOf(slot.weight));
    PLANISH_TRY(const Item::Part part, PartOf(slot, linear, place.name));
    if (family_.latent && place.name.ends_with(".attn_kv_b.weight")) {
      AddLatent(slot, place.name, part);
      return {};
    }
    if (place.expert > 0) {
      const auto bank =
          std::ranges::find_if(items_, [&](const Item& i) { return i.spec.name == place.name; });
      if (bank == items_.end() || static_cast<int64_t>(bank->parts.size()) != place.expert) {
        return InputError(fmt::format("tensor '{}': the experts before it are missing", slot.weight));
      }
      bank->parts.push_back(part);
      bank->spec.dims.back() = place.expert + 1;
      return {};
    }
    GgufType wanted = options_.type;
    if (!slot.in_layer && !IsFloat(wanted) && wanted != GgufType::kQ8_0) wanted = GgufType::kQ6_K;
    if (slot.keep) wanted = GgufType::kF32;  // routers and gates
    const GgufType type = TypeFor(wanted, place.name, slot.in);
    std::vector<int64_t> dims = {slot.in, slot.out};
    if (slot.keep && slot.out == 1) dims.pop_back();
    if (place.expert == 0) dims.push_back(1);
    items_.push_back({{place.name, type, std::move(dims)}, {part}, {}, OrderOf(place.name)});
    if (slot.bias.empty()) return {};
    return AddVector(slot.bias, {slot.out}, linear.bias);
  }

  const Model& model_;
  const GgufFamily& family_;
  const GgufExport& options_;
  GgufExported& result_;
  AttentionShape attention_;
  ScanShape scan_;
  std::vector<Item> items_;
};

void ToHalves(GgufType type, std::span<const float> values, std::byte* out) {
  for (size_t j = 0; j < values.size(); ++j) {
    const uint16_t bits = type == GgufType::kF16 ? ToF16(values[j]).bits : ToBF16(values[j]).bits;
    std::memcpy(out + j * 2, &bits, 2);
  }
}

// The keys of a head turned round, or its values, of [heads * (nope + value), rank].
Matrix CutOf(const Matrix& matrix, const Item::Part::Cut& cut, int64_t head) {
  const int64_t rank = matrix.cols, first = head * (cut.nope + cut.value);
  Mat<float> rows(cut.keys ? cut.nope : cut.value, rank);
  ReadRows(matrix, first + (cut.keys ? 0 : cut.nope), rows.rows(), 0, rank, rows.data(), rank);
  if (!cut.keys) return DenseMatrix(rows, DType::kF32);
  Mat<float> turned(rank, cut.nope);
  for (int64_t i = 0; i < cut.nope; ++i) {
    for (int64_t j = 0; j < rank; ++j) turned(j, i) = rows(i, j);
  }
  return DenseMatrix(turned, DType::kF32);
}

// A matrix as rows of a GGUF type.
class Rows {
 public:
  Rows(const Context& context, const Item& item, const Item::Part& part)
      : context_(context),
        type_(item.spec.type),
        order_(item.order),
        name_(item.spec.name),
        part_(part),
        m_(*part.matrix),
        row_bytes_(GgufRowBytes(type_, m_.cols)) {
    const auto* blocks = std::get_if<Blocks>(&m_.body);
    if (blocks != nullptr && blocks->type == type_) stored_ = blocks->data.bytes.data();
    codes_ = HoldsCodes(type_, m_);
  }
  int64_t panel_rows() const { return std::clamp<int64_t>(kPanelBytes / row_bytes_, 1, m_.rows); }
  int64_t row_bytes() const { return row_bytes_; }

  // Rows [row, row + count) of the file.
  Status Fill(int64_t row, int64_t count, std::byte* out) const {
    const int64_t chunk = std::clamp<int64_t>(kChunkFloats / m_.cols, 1, count);
    std::atomic<bool> finite{true};
    context_.pool->ParallelFor((count + chunk - 1) / chunk, [&](int64_t i) {
      const int64_t first = i * chunk, rows = std::min(chunk, count - first);
      if (!FillChunk(row + first, rows, out + first * row_bytes_)) finite = false;
    });
    if (!finite) return InputError(fmt::format("tensor '{}' holds NaN or infinity", name_));
    return {};
  }

 private:
  // False when a value is not finite.
  bool FillChunk(int64_t row, int64_t count, std::byte* out) const {
    if (stored_ != nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(out + i * row_bytes_, stored_ + order_.Source(row + i, m_.rows) * row_bytes_,
                    static_cast<size_t>(row_bytes_));
      }
      return true;
    }
    Mat<float> values(codes_ ? 0 : count, m_.cols);
    bool finite = true;
    for (int64_t i = 0; i < count;) {
      const int64_t source = order_.Source(row + i, m_.rows);
      int64_t run = 1;  // rows that follow each other in both
      while (i + run < count && order_.Source(row + i + run, m_.rows) == source + run) ++run;
      if (codes_) {
        finite = CodesToBlocks(type_, m_, source, run, out + i * row_bytes_) && finite;
      } else {
        ReadRows(m_, source, run, 0, m_.cols, values.row(i), m_.cols);
      }
      i += run;
    }
    if (codes_) return finite;
    const std::span<const float> all(values.data(), static_cast<size_t>(count * m_.cols));
    if (FindNonFinite(all) >= 0) return false;
    if (type_ == GgufType::kF32) {
      std::memcpy(out, all.data(), all.size_bytes());
    } else if (IsFloat(type_)) {
      ToHalves(type_, all, out);
    } else {
      EncodeBlocks(context_, type_, values, part_.importance, out);
    }
    return true;
  }

  const Context& context_;
  GgufType type_;
  const GgufRowOrder& order_;
  const std::string& name_;
  const Item::Part& part_;
  const Matrix& m_;
  int64_t row_bytes_;
  const std::byte* stored_ = nullptr;  // rows that are in this type already
  bool codes_ = false;                 // that blocks of this type hold
};

// Items into the file, one panel written while the next is filled.
class ItemWriter {
 public:
  ItemWriter(const Context& context, GgufWriter& writer, int64_t total_bytes)
      : context_(context), writer_(writer), total_bytes_(total_bytes) {}

  Status Write(const Item& item) {
    for (const Item::Part& part : item.parts) {
      if (part.cut.heads == 0) PLANISH_RETURN_IF_ERROR(WriteMatrix(item, part));
      for (int64_t head = 0; head < part.cut.heads; ++head) {
        const Matrix own = CutOf(*part.matrix, part.cut, head);
        PLANISH_RETURN_IF_ERROR(WriteMatrix(item, {&own, part.importance, {}}));
      }
    }
    return item.parts.empty() ? WriteVector(item) : Status();
  }
  Status Finish() { return appending_.Wait(); }

 private:
  Status WriteMatrix(const Item& item, const Item::Part& part) {
    const Rows rows(context_, item, part);
    for (int64_t row = 0; row < part.matrix->rows; row += rows.panel_rows()) {
      PLANISH_RETURN_IF_ERROR(context_.CheckCancelled());
      const int64_t count = std::min(rows.panel_rows(), part.matrix->rows - row);
      Buffer& buffer = Next(count * rows.row_bytes());
      PLANISH_RETURN_IF_ERROR(rows.Fill(row, count, buffer.data()));
      PLANISH_RETURN_IF_ERROR(Append(buffer, count * rows.row_bytes()));
    }
    return {};
  }

  Status WriteVector(const Item& item) {
    const auto size = static_cast<int64_t>(item.vector.size());
    Buffer& buffer = Next(size * 4);
    for (int64_t i = 0; i < size; ++i) {
      const float value = item.vector[static_cast<size_t>(item.order.Source(i, size))];
      std::memcpy(buffer.data() + 4 * i, &value, 4);
    }
    return Append(buffer, size * 4);
  }

  // The buffer that is not being written.
  Buffer& Next(int64_t size) {
    turn_ = 1 - turn_;
    if (static_cast<int64_t>(buffers_[turn_].size()) < size) {
      buffers_[turn_] = Buffer(static_cast<size_t>(size));
    }
    return buffers_[turn_];
  }
  Status Append(const Buffer& buffer, int64_t size) {
    const auto bytes = buffer.bytes().first(static_cast<size_t>(size));
    PLANISH_RETURN_IF_ERROR(appending_.Start([this, bytes] { return writer_.Append(bytes); }));
    done_bytes_ += size;
    if (context_.progress != nullptr) {
      context_.progress->Update("convert", static_cast<double>(done_bytes_),
                                static_cast<double>(total_bytes_), "bytes");
    }
    return {};
  }

  const Context& context_;
  GgufWriter& writer_;
  int64_t total_bytes_, done_bytes_ = 0;
  Buffer buffers_[2];
  int turn_ = 0;
  Background appending_;
};

int64_t BytesOf(const GgufTensorSpec& spec) {
  int64_t rows = 1;
  for (size_t i = 1; i < spec.dims.size(); ++i) rows *= spec.dims[i];
  return rows * GgufRowBytes(spec.type, spec.dims[0]);
}

}  // namespace

Result<GgufExported> ExportGguf(const Context& context, const Model& model, const GgufExport& options,
                                const std::string& path) {
  if (!IsFloat(options.type) && !InfoOf(options.type).encodes) {
    return InputError(fmt::format("blocks of type {} can be read, not written", InfoOf(options.type).name));
  }
  if (!options.importance.empty() && (IsFloat(options.type) || options.type == GgufType::kQ8_0)) {
    return InputError(
        fmt::format("type {} rounds its values one by one and weighs no errors; leave out --statistics and "
                    "--imatrix, or take a type whose scales are searched (Q6_K or smaller)",
                    InfoOf(options.type).name));
  }
  PLANISH_RETURN_IF_ERROR(CheckLinears(model, options.paths));
  GgufExported result;
  PLANISH_TRY(const Header header, MakeHeader(model, options, result));
  const GgufFamily& family = *GgufFamilyOf(model.program);  // MakeHeader has refused a model without
  NoteGroups(model.program, result);
  NoteWindows(model.program, family, result);
  PLANISH_TRY(const auto items, Planner(model, family, options, result).Plan(header.rope));
  std::vector<GgufTensorSpec> specs;
  for (const Item& item : items) {
    specs.push_back(item.spec);
    result.bytes += BytesOf(item.spec);
  }
  result.tensors = static_cast<int64_t>(items.size());
  PLANISH_TRY(auto writer, GgufWriter::Create(path, header.metadata, specs, options.split_bytes));
  result.paths = writer.paths();
  {
    ItemWriter item_writer(context, writer, result.bytes);
    for (const Item& item : items) PLANISH_RETURN_IF_ERROR(item_writer.Write(item));
    PLANISH_RETURN_IF_ERROR(item_writer.Finish());
  }
  PLANISH_RETURN_IF_ERROR(writer.Commit());
  return result;
}

}  // namespace planish
