#include "runtime/packed_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/file.h"
#include "base/hash.h"
#include "base/names.h"
#include "base/overloaded.h"
#include "formats/safetensors.h"

namespace planish {
namespace {

constexpr const char* kPackFormat = "planish-pack";
constexpr const char* kPackVersion = "3";

// Linears that something multiplies with: all but embeddings that are no head.
std::vector<bool> Multiplied(const Program& program) {
  std::vector<bool> used(program.linears.size(), false);
  for (const Block& block : program.blocks) {
    for (const Op& op : block.ops) {
      if (const auto* linear = std::get_if<LinearOp>(&op.body))
        used[static_cast<size_t>(linear->linear)] = true;
    }
  }
  return used;
}

// Names, shapes and kinds, and the ends of every part's bytes: a model that differs somewhere differs there,
// unless by intent.
void AddMatrix(const Matrix& matrix, Sha256& hash) {
  const auto add_blob = [&](const Blob& blob) {
    constexpr size_t kEnd = 4096;
    hash.Update(fmt::format("{};", blob.bytes.size()));
    hash.Update(blob.bytes.first(std::min(kEnd, blob.bytes.size())));
    hash.Update(blob.bytes.last(std::min(kEnd, blob.bytes.size())));
  };
  hash.Update(fmt::format("{}x{} {};", matrix.rows, matrix.cols, Describe(matrix)));
  std::visit(
      Overloaded{[&](const Dense& d) { add_blob(d.data); }, [&](const Blocks& b) { add_blob(b.data); },
                 [&](const Coded& c) {
                   for (const Blob* blob : {&c.codes, &c.scales, &c.zeros, &c.units, &c.sets, &c.levels}) {
                     add_blob(*blob);
                   }
                   if (c.Scattered()) add_blob(c.group_of);
                 },
                 [&](const Sparse& s) {
                   for (const Blob* blob : {&s.values, &s.columns, &s.counts}) add_blob(*blob);
                 },
                 [&](const ProductPart& p) {
                   for (const Matrix& factor : p.factors) AddMatrix(factor, hash);
                 },
                 [&](const SumPart& s) {
                   for (const Matrix& term : s.terms) AddMatrix(term, hash);
                 }},
      matrix.body);
}

struct Places {
  std::shared_ptr<PackedArena> arena;
  std::vector<size_t> linears;  // LinearId of each place
};

Result<std::shared_ptr<const PackedModel>> Finish(const Places& places, const Model& model) {
  auto packed = std::make_shared<PackedModel>();
  packed->linears.resize(model.linears.size());
  for (size_t i = 0; i < places.linears.size(); ++i) {
    const size_t id = places.linears[i];
    auto linear = PackedLinear::FromBytes(places.arena->place(i));
    if (!linear.ok()) return linear.error().At(fmt::format("'{}'", model.linears[id].name));
    packed->bytes += static_cast<int64_t>(linear->bytes().size());
    packed->linears[id] = std::make_shared<const PackedLinear>(std::move(linear).value());
  }
  packed->memory = places.arena;
  return std::shared_ptr<const PackedModel>(std::move(packed));
}

Result<Places> MakePlaces(const std::vector<int64_t>& sizes, std::vector<size_t> linears) {
  PLANISH_TRY(PackedArena arena, PackedArena::Make(sizes));
  return Places{std::make_shared<PackedArena>(std::move(arena)), std::move(linears)};
}

// Copies on all threads, in pieces: the first touch of every page costs more than the copy.
void CopyAll(const Context& context, const std::vector<std::span<const std::byte>>& from,
             const PackedArena& to) {
  struct Piece {
    size_t place;
    size_t begin, count;
  };
  constexpr size_t kPiece = size_t{4} << 20;
  std::vector<Piece> pieces;
  for (size_t i = 0; i < from.size(); ++i) {
    for (size_t at = 0; at < from[i].size(); at += kPiece) {
      pieces.push_back({i, at, std::min(kPiece, from[i].size() - at)});
    }
  }
  context.pool->ParallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t p) {
    const Piece& piece = pieces[static_cast<size_t>(p)];
    std::memcpy(to.place(piece.place).data() + piece.begin, from[piece.place].data() + piece.begin,
                piece.count);
  });
}

}  // namespace

Result<std::vector<PackedForm>> PlanPacking(const Model& model, const PackOptions& options) {
  const std::vector<bool> used = Multiplied(model.program);
  std::vector<PackedForm> forms(model.linears.size());
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!used[i]) continue;
    const auto plan = PlanPackedLinear(model.linears[i], options);
    if (!plan.ok()) return plan.error().At(model.path + ": " + model.linears[i].name);
    forms[i] = {DescribePacked(plan->shape), IsCoded(plan->shape.kind), plan->note, plan->bytes()};
  }
  return forms;
}

Result<std::shared_ptr<const PackedModel>> PackModel(const Context& context, const Model& model,
                                                     const PackOptions& options) {
  const std::vector<bool> used = Multiplied(model.program);
  std::vector<PackPlan> plans;
  std::vector<int64_t> sizes;
  std::vector<size_t> linears;
  std::vector<std::string> notes;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!used[i]) continue;
    auto plan = PlanPackedLinear(model.linears[i], options);
    if (!plan.ok()) return plan.error().At(model.path + ": " + model.linears[i].name);
    if (!plan->note.empty()) notes.push_back(model.linears[i].name + ": " + plan->note);
    sizes.push_back(plan->bytes());
    linears.push_back(i);
    plans.push_back(std::move(plan).value());
  }
  PLANISH_TRY(const Places places, MakePlaces(sizes, std::move(linears)));
  double done = 0;
  for (size_t i = 0; i < plans.size(); ++i) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    PackLinear(context, plans[i], places.arena->place(i));
    done += static_cast<double>(sizes[i]);
    if (context.progress != nullptr) {
      context.progress->Update("pack", done, static_cast<double>(places.arena->bytes().size()), "bytes");
    }
  }
  PLANISH_TRY(auto packed, Finish(places, model));
  std::const_pointer_cast<PackedModel>(packed)->notes = std::move(notes);
  return packed;
}

std::string PackFingerprint(const Model& model) {
  Sha256 hash;
  for (const Linear& linear : model.linears) {
    hash.Update(linear.name + ";");
    AddMatrix(linear.w, hash);
    hash.Update(std::as_bytes(std::span(linear.bias)));
  }
  return hash.Hex();
}

Status WritePack(const std::string& path, const Model& model, const PackedModel& packed) {
  if (FileExists(path) || DirectoryExists(path))
    return InputError(path + ": exists; remove it, or choose another name");
  std::vector<TensorSpec> specs;
  std::map<std::string, const PackedLinear*> by_name;
  for (size_t i = 0; i < packed.linears.size(); ++i) {
    if (packed.linears[i] == nullptr) continue;
    const std::string& name = model.linears[i].name;
    specs.push_back({name, DType::kU8, {static_cast<int64_t>(packed.linears[i]->bytes().size())}});
    by_name[name] = packed.linears[i].get();
  }
  PLANISH_TRY(auto writer, SafetensorsWriter::Create(path, specs,
                                                     {{"planish_format", kPackFormat},
                                                      {"planish_version", kPackVersion},
                                                      {"planish_model", PackFingerprint(model)}}));
  for (const TensorSpec& spec : writer.order()) {
    PLANISH_RETURN_IF_ERROR(writer.Append(spec.name, by_name.at(spec.name)->bytes()));
  }
  return writer.Commit();
}

Result<std::shared_ptr<const PackedModel>> ReadPack(const Context& context, const std::string& path,
                                                    const Model& model) {
  PLANISH_TRY(const auto file, SafetensorsFile::Open(path));
  const auto& metadata = file->metadata();
  const auto field = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  if (field("planish_format") != kPackFormat) {
    return InputError(path + ": not a pack; expected a file that `planish pack` wrote");
  }
  if (field("planish_version") != kPackVersion) {
    return InputError(
        fmt::format("{}: a pack of version '{}'; this program reads version {}; pack the model again", path,
                    Abbreviate(field("planish_version")), kPackVersion));
  }
  if (field("planish_model") != PackFingerprint(model)) {
    return InputError(
        fmt::format("{}: made from another model than {}, or from one that has changed; pack it again", path,
                    model.path));
  }
  const std::vector<bool> used = Multiplied(model.program);
  std::vector<std::span<const std::byte>> from;
  std::vector<int64_t> sizes;
  std::vector<size_t> linears;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!used[i]) continue;
    const TensorInfo* info = file->Find(model.linears[i].name);
    if (info == nullptr || info->type != DType::kU8) {
      return InputError(
          fmt::format("{}: holds no packed '{}'; pack the model again", path, model.linears[i].name));
    }
    from.emplace_back(file->View(*info).data, static_cast<size_t>(info->end - info->begin));
    sizes.push_back(info->end - info->begin);
    linears.push_back(i);
  }
  PLANISH_TRY(const Places places, MakePlaces(sizes, std::move(linears)));
  CopyAll(context, from, *places.arena);
  auto packed = Finish(places, model);
  if (!packed.ok()) return packed.error().At(path);
  for (size_t i = 0; i < model.linears.size(); ++i) {
    if (!used[i]) continue;
    const PackedLinear& linear = *(*packed)->linears[i];
    const Matrix& w = model.linears[i].w;
    if (linear.rows() != w.rows || linear.cols() != w.cols) {
      return InputError(fmt::format("{}: '{}' is [{}, {}], expected [{}, {}]; pack the model again", path,
                                    model.linears[i].name, linear.rows(), linear.cols(), w.rows, w.cols));
    }
  }
  return packed;
}

}  // namespace planish
