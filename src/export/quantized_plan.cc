#include "export/quantized_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <numeric>
#include <set>

#include "base/atomic_folder.h"
#include "base/file.h"
#include "layer/bit_run.h"
#include "layer/code_order.h"
#include "math/nn.h"
#include "model/folder.h"
#include "model/vector_tensors.h"

namespace planish {
namespace {

std::set<LinearId> EmbeddingIds(const Program& program) {
  std::set<LinearId> ids;
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      if (const auto* embed = std::get_if<EmbedOp>(&op.body)) ids.insert(embed->table);
    }
  }
  return ids;
}

// The codes of a matrix, or of the one that stands at the front of a sum.
const Coded* CodesOf(const Matrix& matrix) {
  if (const auto* sum = std::get_if<SumPart>(&matrix.body))
    return std::get_if<Coded>(&sum->terms.front().body);
  return std::get_if<Coded>(&matrix.body);
}

// The largest group that divides the inputs of all linears, starting from that of the grid.
int64_t CommonGroup(const Model& model, int64_t group) {
  if (group != 128) return group;
  for (; group > 32; group /= 2) {
    const bool divides = std::ranges::all_of(model.program.linears, [&](const LinearSlot& slot) {
      return !slot.in_layer || slot.keep || slot.in % group == 0;
    });
    if (divides) break;
  }
  return group;
}

Status FillFloats(const Matrix& matrix, const std::string& name, int64_t row, int64_t count,
                  std::span<std::byte> out) {
  auto* values = reinterpret_cast<float*>(out.data());
  ReadRows(matrix, row, count, 0, matrix.cols, values, matrix.cols);
  if (FindNonFinite({values, static_cast<size_t>(count * matrix.cols)}) >= 0) {
    return InputError(fmt::format("tensor '{}' holds NaN or infinity", name));
  }
  return {};
}

// A matrix that is no codes in the output: the tensor as it is stored, or the values in fp32.
Status AddPlain(const Model& model, const LinearSlot& slot, const Matrix& w, QuantizedPlan& plan) {
  TensorSource tensor;
  tensor.spec.name = slot.weight;
  tensor.spec.shape = {w.rows, w.cols};
  const auto* dense = std::get_if<Dense>(&w.body);
  if (dense != nullptr && model.checkpoint.Has(slot.weight) &&
      !model.quantized_tensors.contains(slot.weight)) {
    PLANISH_TRY(const TensorView view, model.checkpoint.Get(slot.weight));
    tensor.spec.type = view.type;
    tensor.spec.shape = view.shape;  // [in, out] where it is stored so
    tensor.bytes = view.bytes();
  } else if (dense != nullptr) {
    tensor.spec.type = dense->type;
    tensor.bytes = dense->data.bytes;
  } else {
    plan.notes.push_back(
        fmt::format("{}: {} has no place in this format; written as its values in F32 ({:.1f} MB)",
                    slot.weight, Describe(w), static_cast<double>(w.rows * w.cols) * 4e-6));
    tensor.spec.type = DType::kF32;
    tensor.fill = [&w, name = slot.weight](int64_t row, int64_t count, std::span<std::byte> out) {
      return FillFloats(w, name, row, count, out);
    };
  }
  plan.tensors.push_back(std::move(tensor));
  return {};
}

Status AddStored(const Model& model, const std::string& name, QuantizedPlan& plan) {
  PLANISH_TRY(const TensorView view, model.checkpoint.Get(name));
  plan.tensors.push_back({{name, view.type, view.shape}, nullptr, view.bytes()});
  return {};
}

Status AddBias(const Model& model, size_t id, QuantizedPlan& plan) {
  const LinearSlot& slot = model.program.linears[id];
  const Linear& linear = model.linears[id];
  if (slot.bias.empty()) return {};
  if (!linear.own_bias) return AddStored(model, slot.bias, plan);
  TensorSource tensor;  // in place of the original's
  tensor.spec = {slot.bias, DType::kF32, {static_cast<int64_t>(linear.bias.size())}};
  tensor.bytes = std::as_bytes(std::span(linear.bias));
  plan.tensors.push_back(std::move(tensor));
  return {};
}

bool SameCodes(const GridSpec& a, const GridSpec& b) {
  return a.bits == b.bits && a.levels == b.levels && a.exponent_bits == b.exponent_bits &&
         a.scale == b.scale && a.group == b.group && a.symmetric == b.symmetric;
}

// What NVFP4 linears that are joined have in common: one kernel, one divisor.
struct JoinedScale {
  float top = 0;             // largest value of those that are rounded
  float divisor = INFINITY;  // the smallest of those whose codes are carried over
};

// The divisors of NVFP4 scales of linears that are rounded: that of the codes they are joined with, if it has
// room for them, else by their largest value.
void SetUnits(std::vector<CodedLinear>& coded) {
  std::map<std::string, JoinedScale> joined;
  const auto of = [&](const CodedLinear& l) -> JoinedScale& {
    const std::string name = JoinedName(l.module);
    return joined[name.empty() ? l.module : name];
  };
  for (const CodedLinear& l : coded) {
    if (l.grid.scale != ScaleKind::kE4M3) continue;
    JoinedScale& scale = of(l);
    if (!l.rounded) {
      scale.divisor = std::min(scale.divisor, DivisorOfUnit(std::get<Coded>(l.matrix->body)).value());
      continue;
    }
    Mat<float> row(1, l.cols());
    for (int64_t i = 0; i < l.rows(); ++i) {
      ReadRows(*l.matrix, i, 1, 0, l.cols(), row.data(), l.cols());
      scale.top = std::max(scale.top, LargestMagnitude(row));
    }
  }
  for (CodedLinear& l : coded) {
    if (!l.rounded || l.grid.scale != ScaleKind::kE4M3) continue;
    const JoinedScale& scale = of(l);
    l.unit = std::min(scale.divisor, scale.top > 0x1p-100f ? 448.0f * 6.0f / scale.top : 1.0f);
  }
}

// "a.experts.3.w1" -> "a.experts": servers keep the experts of a layer under one scheme. "" for others.
std::string ExpertsName(const std::string& module) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = module.rfind(kExperts);
  if (at == std::string::npos) return "";
  const size_t digits = at + kExperts.size(), end = module.find_first_not_of("0123456789", digits);
  return end == std::string::npos || end == digits || module[end] != '.' ? "" : module.substr(0, digits - 1);
}

// Parts of layers that servers join must be alike in all that the joined one has once.
class JoinedCheck {
 public:
  JoinedCheck(const QuantizedPlan& plan, bool always_zeros) : always_zeros_(always_zeros) {
    for (const CodedLinear& l : plan.coded) Add(l.module, &l);
    for (const std::string& module : plan.plain) Add(module, nullptr);
  }
  // Refuses the modules that differ, and says what servers make of them.
  std::vector<std::string> Run(Refusals& refusals) const {
    std::vector<std::string> notes;
    const auto run = [&](const Groups& groups, const Refusal& refusal, const char* note, auto same) {
      std::vector<std::string> differing;
      for (const auto& [name, parts] : groups) {
        const Part& first = parts.front();
        if (std::ranges::all_of(parts, [&](const Part& p) { return same(p.second, first.second); })) continue;
        differing.push_back(name);
        for (const Part& part : parts) refusals.Add(refusal, part.first);
      }
      if (!differing.empty())
        notes.push_back(fmt::format("{}: {}", note, fmt::join(GroupNumbered(differing), "; ")));
    };
    run(forms_, kForms, "vLLM and SGLang will not load it, joining layers that here differ",
        [&](const CodedLinear* a, const CodedLinear* b) { return SameForm(a, b); });
    run(scales_, kScales,
        "vLLM takes one of the global scales for all that it joins, which makes other weights of these",
        SameScale);
    return notes;
  }

 private:
  using Part = std::pair<std::string, const CodedLinear*>;  // null: no codes
  using Groups = std::map<std::string, std::vector<Part>>;
  static inline const Refusal kForms = {
      "layers that vLLM and SGLang join (q, k, v; gate, up; experts) and do not load, being of different "
      "grids or orders of groups",
      "compress the parts of one alike (one [[rule]] that matches them all), or --allow mixed-fused writes "
      "them for programs that join none"};
  static inline const Refusal kScales = {
      "NVFP4 layers that vLLM joins (q, k, v; gate, up) under one of their global scales, which here differ",
      "`planish compress` again with one stage for the parts of one, or --allow mixed-fused writes them for "
      "programs that join none"};

  void Add(const std::string& module, const CodedLinear* linear) {
    const std::string joined = JoinedName(module), experts = ExpertsName(module);
    if (!joined.empty()) scales_[joined].emplace_back(module, linear);
    const std::string& form = experts.empty() ? joined : experts;
    if (!form.empty()) forms_[form].emplace_back(module, linear);
  }
  bool SameForm(const CodedLinear* a, const CodedLinear* b) const {
    if (a == nullptr || b == nullptr) return a == b;
    GridSpec of_a = a->grid, of_b = b->grid;
    if (always_zeros_) of_a.symmetric = of_b.symmetric = false;
    return SameCodes(of_a, of_b) && std::ranges::equal(GroupIndexOf(*a), GroupIndexOf(*b));
  }
  static bool SameScale(const CodedLinear* a, const CodedLinear* b) {
    if (a == nullptr || b == nullptr || a->grid.scale != ScaleKind::kE4M3 || b->grid.scale != a->grid.scale)
      return true;
    const auto divisor = [](const CodedLinear& l) {
      return l.rounded ? l.unit : DivisorOfUnit(std::get<Coded>(l.matrix->body)).value();
    };
    return divisor(*a) == divisor(*b);
  }

  bool always_zeros_;
  Groups forms_, scales_;
};

}  // namespace

std::string JoinedName(const std::string& module) {
  constexpr std::pair<const char*, const char*> kParts[] = {{"q_proj", "qkv_proj"},
                                                            {"k_proj", "qkv_proj"},
                                                            {"v_proj", "qkv_proj"},
                                                            {"gate_proj", "gate_up_proj"},
                                                            {"up_proj", "gate_up_proj"},
                                                            {"q_a_proj", "fused_qkv_a_proj"},
                                                            {"kv_a_proj_with_mqa", "fused_qkv_a_proj"},
                                                            {"w1", "w13"},
                                                            {"w3", "w13"}};
  const size_t dot = module.rfind('.');
  if (dot == std::string::npos) return "";
  const std::string last = module.substr(dot + 1);
  const auto* part = std::ranges::find_if(kParts, [&](const auto& p) { return last == p.first; });
  return part == std::end(kParts) ? "" : module.substr(0, dot + 1) + part->second;
}

// Scales of one significand differ by a power of two, so that eight stand for all.
std::optional<float> DivisorOfUnit(const Coded& coded) {
  float unit;
  std::memcpy(&unit, coded.units.bytes.data(), 4);
  if (coded.grid.unit_divides) return unit;
  const float inverse = 1.0f / unit;
  // Below that the smallest scales would be subnormal numbers, which round in another way.
  if (!(unit >= 0x1p-100f) || !std::isnormal(inverse)) return std::nullopt;
  for (const float candidate : {inverse, std::nextafter(inverse, 0.0f), std::nextafter(inverse, INFINITY)}) {
    bool same = true;
    for (int m = 8; m < 16; ++m) {
      same = same && static_cast<float>(m) / candidate == static_cast<float>(m) * unit;
    }
    if (same) return candidate;
  }
  return std::nullopt;
}

std::span<const std::byte> GroupIndexOf(const CodedLinear& linear) {
  return linear.rounded ? std::span<const std::byte>() : std::get<Coded>(linear.matrix->body).group_of.bytes;
}

int ZeroCode(const Coded& coded, int64_t groups, int64_t row, int64_t group) {
  if (coded.grid.symmetric) return 1 << (coded.grid.bits - 1);
  return RunValue(coded.zeros.bytes.data(), row * groups + group, coded.grid.bits);
}

Result<QuantizedPlan> PlanQuantized(const Context& context, const Model& model, const ConvertOptions& options,
                                    const QuantizedFormat& format) {
  QuantizedPlan plan;
  Refusals refusals;
  bool carry = false;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    carry = carry || (model.program.linears[i].in_layer && CodesOf(model.linears[i].w) != nullptr);
  }
  GridSpec rounding = format.rounding;
  rounding.group = CommonGroup(model, rounding.group);
  const std::set<LinearId> embeddings = EmbeddingIds(model.program);
  int64_t rounded = 0;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    const LinearSlot& slot = model.program.linears[i];
    const std::string module = ModuleName(slot.weight);
    RefuseOwnBias(slot, model.linears[i], refusals);
    PLANISH_RETURN_IF_ERROR(AddBias(model, i, plan));
    const Matrix* matrix = OneMatrix(model.linears[i], options.paths, refusals);
    if (matrix == nullptr) continue;
    const Coded* codes = CodesOf(*matrix);
    if (!slot.in_layer || slot.keep || (carry && codes == nullptr)) {
      if (!embeddings.contains(static_cast<LinearId>(i))) plan.plain.push_back(module);
      PLANISH_RETURN_IF_ERROR(AddPlain(model, slot, *matrix, plan));
      continue;
    }
    CodedLinear linear{.id = i, .module = module, .matrix = matrix, .grid = rounding};
    linear.rounded = codes == nullptr || std::holds_alternative<SumPart>(matrix->body);
    if (codes != nullptr) linear.grid = codes->grid;
    Refusal refusal;
    if (codes != nullptr && format.only_rounding && !SameCodes(codes->grid, rounding)) {
      refusal = {fmt::format("its codes are {}, not {}", GridText(codes->grid), GridText(rounding)),
                 "leave the scheme out to keep the codes, or --to hf-bf16 first, whose values any scheme "
                 "rounds"};
    } else {
      refusal = format.refuse(linear.grid, slot, linear.rounded ? nullptr : matrix);
    }
    if (!refusal.reason.empty()) {
      refusals.Add(refusal, module);
      continue;
    }
    rounded += linear.rounded ? 1 : 0;
    plan.coded.push_back(std::move(linear));
  }
  PLANISH_RETURN_IF_ERROR(refusals.ToStatus(format.name));
  if (plan.coded.empty()) return InputError(fmt::format("{}: no linear to quantize", format.name));
  SetUnits(plan.coded);
  Refusals joined;
  const std::vector<std::string> differing = JoinedCheck(plan, format.always_zeros).Run(joined);
  if (!options.mixed_fused) PLANISH_RETURN_IF_ERROR(joined.ToStatus(format.name));
  plan.notes.insert(plan.notes.end(), differing.begin(), differing.end());
  for (const VectorSlot& slot : model.program.vectors) {
    for (const std::string& name : TensorsOf(slot)) PLANISH_RETURN_IF_ERROR(AddStored(model, name, plan));
  }
  if (rounded > 0) {
    plan.notes.push_back(
        fmt::format("{} layers are rounded to the nearest {}; `planish compress` first, and converting what "
                    "it writes, loses "
                    "less",
                    rounded, GridText(plan.coded.front().grid)));
  }
  return plan;
}

namespace {

// Scales as compressed-tensors defines them for NVFP4: the largest of a block to 6.
GridMatrix RoundBlocks(const Context& context, MatView<const float> w, const GridSpec& grid, float unit) {
  GridMatrix m;
  m.grid = grid;
  m.grid.unit_divides = true;
  m.units = {unit};
  m.levels = FixedLevels(grid);
  m.codes.Resize(w.rows, w.cols);
  m.scales.Resize(w.rows, grid.NumGroups(w.cols));
  for (int64_t i = 0; i < w.rows; ++i) {
    for (int64_t g = 0; g < m.scales.cols(); ++g) {
      float largest = 0;
      for (int64_t j = g * grid.group; j < std::min(w.cols, (g + 1) * grid.group); ++j) {
        largest = std::max(largest, std::fabs(w(i, j)));
      }
      m.scales(i, g) = StoredScale(m.grid, unit, largest / 6.0f);
    }
  }
  EncodeAll(context, w, m);
  return m;
}

void Append(const Blob& from, std::vector<std::byte>& to) {
  to.insert(to.end(), from.bytes.begin(), from.bytes.end());
}
Mat<uint8_t> Columns(const Mat<uint8_t>& codes, int64_t col, int64_t cols) {
  Mat<uint8_t> part(codes.rows(), cols);
  for (int64_t i = 0; i < codes.rows(); ++i) std::copy_n(codes.row(i) + col, cols, part.row(i));
  return part;
}
Blob Own(std::vector<std::byte> bytes) {
  auto owner = std::make_shared<std::vector<std::byte>>(std::move(bytes));
  return {std::span<const std::byte>(*owner), owner};
}

}  // namespace

// What is rounded for a range: the whole linear if its codes are not many, else whole groups. Columns of both
// formats by columns start at whole words.
CodeRange CodeSource::ToRound(const CodedLinear& linear, const CodeRange& range) const {
  const CodeRange whole{0, linear.rows(), 0, linear.cols()};
  if (linear.rows() * PackedBytes(linear.cols(), linear.grid.bits) <= panel_bytes_) return whole;
  const int64_t unit = linear.grid.group == 0 ? 32 : std::lcm<int64_t>(linear.grid.group, 32);
  CodeRange wider{range.row, range.rows, range.col / unit * unit, 0};
  wider.cols = std::min(linear.cols(), (range.col + range.cols + unit - 1) / unit * unit) - wider.col;
  return wider;
}

// By panels of rows, a multiple of 8 so that runs of zeros join at whole bytes. Scales of whole rows need all
// columns, whichever of their codes are asked for.
Result<Matrix> CodeSource::Round(const CodedLinear& linear, const CodeRange& range, bool with_codes) const {
  const bool whole_rows = linear.grid.group == 0;
  const int64_t col = whole_rows ? 0 : range.col, cols = whole_rows ? linear.cols() : range.cols;
  const int64_t panel = std::max<int64_t>(kRunRows, kTensorPanelBytes / 4 / (4 * cols) / kRunRows * kRunRows);
  const ClipSearch search = linear.grid.bits <= 4 ? ClipSearch::kWeighted : ClipSearch::kMinMax;
  std::vector<std::byte> codes, scales, zeros;
  Coded out;
  for (int64_t row = 0; row < range.rows; row += panel) {
    PLANISH_RETURN_IF_ERROR(context_.CheckCancelled());
    const int64_t count = std::min(panel, range.rows - row);
    Mat<float> w(count, cols);
    context_.pool->ParallelFor((count + kRunRows - 1) / kRunRows, [&](int64_t chunk) {
      const int64_t i = chunk * kRunRows;
      ReadRows(*linear.matrix, range.row + row + i, std::min(kRunRows, count - i), col, cols, w.row(i), cols);
    });
    if (FindNonFinite({w.data(), static_cast<size_t>(count * cols)}) >= 0) {
      return InputError(fmt::format("tensor '{}.weight' holds NaN or infinity", linear.module));
    }
    GridMatrix m;
    if (linear.grid.scale == ScaleKind::kE4M3) {
      m = RoundBlocks(context_, w, linear.grid, linear.unit);
    } else {
      m = FitGrid(context_, w, {}, linear.grid, search);
      EncodeAll(context_, w, m);
    }
    if (range.cols < cols) m.codes = Columns(m.codes, range.col, range.cols);
    const Matrix packed = PackCodes(m);
    const auto& part = std::get<Coded>(packed.body);
    if (with_codes) Append(part.codes, codes);
    Append(part.scales, scales);
    Append(part.zeros, zeros);
    out.grid = part.grid;
    out.units = part.units;
    out.levels = part.levels;
  }
  out.codes = Own(std::move(codes));
  out.scales = Own(std::move(scales));
  out.zeros = Own(std::move(zeros));
  return Matrix{range.rows, range.cols, std::move(out)};
}

void CodeSource::Keep(size_t id, Coded scales) {
  const auto bytes = static_cast<int64_t>(scales.scales.bytes.size() + scales.zeros.bytes.size());
  scales_id_ = id;
  scales_ = std::move(scales);
  if (kept_bytes_ + bytes <= kKeptBytes && kept_.emplace(id, scales_).second) kept_bytes_ += bytes;
}

Result<CodePanel> CodeSource::Get(const CodedLinear& linear, const CodeRange& range) {
  if (!linear.rounded) return CodePanel{linear.matrix};
  if (held_id_ != linear.id || !held_range_.Covers(range)) {
    held_id_ = kNone;
    held_ = {};
    held_range_ = ToRound(linear, range);
    PLANISH_TRY(held_, Round(linear, held_range_, true));
    held_id_ = linear.id;
    if (held_range_.Covers({0, linear.rows(), 0, linear.cols()})) {
      Coded scales = std::get<Coded>(held_.body);
      scales.codes = {};
      Keep(linear.id, std::move(scales));
    }
  }
  return CodePanel{&held_, held_range_.row, held_range_.col};
}

Result<const Coded*> CodeSource::Scales(const CodedLinear& linear) {
  if (!linear.rounded) return &std::get<Coded>(linear.matrix->body);
  if (const auto kept = kept_.find(linear.id); kept != kept_.end()) return &kept->second;
  if (scales_id_ != linear.id) {
    PLANISH_TRY(Matrix rounded, Round(linear, {0, linear.rows(), 0, linear.cols()}, false));
    Keep(linear.id, std::get<Coded>(std::move(rounded.body)));
  }
  return &scales_;
}

void NoteServing(const std::vector<CodedLinear>& coded, int64_t per_word, std::vector<std::string>& notes) {
  // The layers whose inputs are divided among devices; of others the outputs are.
  constexpr std::string_view kByInputs[] = {".o_proj", ".down_proj", ".out_proj",      ".fc2",
                                            ".w2",     ".c_proj",    ".dense_4h_to_h", ".dense"};
  std::vector<int> fits;
  std::string obstacle;
  for (const int parts : {1, 2, 4, 8}) {
    const auto bad = std::ranges::find_if(coded, [&](const CodedLinear& l) {
      const bool by_inputs = std::ranges::any_of(kByInputs, [&](auto s) { return l.module.ends_with(s); });
      const int64_t in = by_inputs ? parts : 1, out = by_inputs ? 1 : parts;
      const int64_t group = l.grid.GroupSize(l.cols());
      return l.cols() % in != 0 || (l.grid.group > 0 && l.cols() / in % group != 0) ||
             l.rows() % (out * per_word) != 0;
    });
    if (bad == coded.end()) {
      fits.push_back(parts);
    } else if (obstacle.empty()) {
      obstacle = fmt::format("; not {}: {} is [{}, {}] in groups of {}", parts, bad->module, bad->rows(),
                             bad->cols(), bad->grid.GroupSize(bad->cols()));
    }
  }
  notes.push_back(fmt::format("tensor parallel sizes of 1, 2, 4, 8 that divide it: {}{}",
                              fits.empty() ? "none" : fmt::format("{}", fmt::join(fits, ", ")), obstacle));
}

Result<Converted> WriteQuantizedFolder(const Context& context, const Model& model, QuantizedPlan plan,
                                       const OrderedJson& quantization, const std::string& own_config,
                                       int64_t shard_bytes, const std::string& output) {
  const bool halves =
      std::ranges::any_of(plan.coded, [](const CodedLinear& l) { return l.grid.scale == ScaleKind::kHalf; });
  // Servers read scales in the model's type, and fp16 ones are exact in fp16 only.
  std::string dtype = "float16";
  if (!halves) {
    for (const char* key : {"torch_dtype", "dtype"}) {
      PLANISH_TRY(dtype, JsonString(model.config, key, dtype));
    }
  }
  PLANISH_TRY(OrderedJson config, OriginalConfig(model, dtype));
  config["quantization_config"] = quantization;
  PLANISH_TRY(auto folder, AtomicFolder::Create(output));
  PLANISH_TRY(const TensorsWritten written, WriteTensors(context, plan.tensors, folder.path(), shard_bytes));
  PLANISH_RETURN_IF_ERROR(CarryCompanions(model, folder.path()));
  PLANISH_RETURN_IF_ERROR(WriteConfig(config, folder.path()));
  if (!own_config.empty()) {
    PLANISH_RETURN_IF_ERROR(
        WriteFileAtomically(JoinPath(folder.path(), own_config), DumpJson(quantization, 1) + "\n"));
  }
  PLANISH_RETURN_IF_ERROR(folder.Commit());
  return Converted{written.tensors, written.bytes, std::move(plan.notes)};
}

}  // namespace planish
