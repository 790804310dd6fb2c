#include "formats/sentencepiece.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "base/names.h"
#include "formats/protobuf.h"
#include "formats/tokenizer_decode.h"
#include "formats/tokenizer_unicode.h"
#include "formats/tokenizer_vocabulary.h"

namespace planish {
namespace {

// Bounds the work of preparing merges, quadratic in it. Trained pieces have some 16 characters.
constexpr size_t kMaxPieceBytes = 512;

struct SpecialNames {
  std::string bos = "<s>", eos = "</s>", pad = "<pad>";
};

// Calls `read` with each field of a message.
template <typename Read>
Status ForEachField(std::string_view message, const Read& read) {
  ProtoReader reader(message);
  while (!reader.Done()) {
    PLANISH_TRY(const ProtoField field, reader.Next());
    PLANISH_RETURN_IF_ERROR(read(field));
  }
  return {};
}

// Reads a field into *to through one of ProtoField's accessors.
template <typename T, typename To>
Status Read(Result<T> value, To* to) {
  if (!value.ok()) return value.error();
  *to = To(*value);
  return {};
}

Status ReadPiece(std::string_view message, Piece* piece) {
  return ForEachField(message, [piece](const ProtoField& field) -> Status {
    switch (field.number) {
      case 1:
        return Read(field.Bytes(), &piece->text);
      case 2:
        return Read(field.Float(), &piece->score);
      case 3:
        return Read(field.Int32(), &piece->type);
      default:
        return {};
    }
  });
}

Status ReadTrainer(std::string_view message, SentencePieceModel* model, SpecialNames* names) {
  return ForEachField(message, [&](const ProtoField& field) -> Status {
    switch (field.number) {
      case 3: {
        PLANISH_TRY(const int32_t kind, field.Int32());
        if (kind != 1 && kind != 2) {
          return InputError(
              fmt::format("model_type {} is not supported, expected 1 (unigram) or 2 (BPE)", kind));
        }
        model->kind = static_cast<SentencePieceModel::Kind>(kind);
        return {};
      }
      case 24:
        return Read(field.Bool(), &model->normalization.treat_whitespace_as_suffix);
      case 35:
        return Read(field.Bool(), &model->byte_fallback);
      case 44:
        return Read(field.Bytes(), &model->unk_surface);
      case 46:
        return Read(field.Bytes(), &names->bos);
      case 47:
        return Read(field.Bytes(), &names->eos);
      case 48:
        return Read(field.Bytes(), &names->pad);
      default:
        return {};
    }
  });
}

Status ReadNormalizer(std::string_view message, PieceNormalization* normalization) {
  return ForEachField(message, [normalization](const ProtoField& field) -> Status {
    switch (field.number) {
      case 2:
        return Read(field.Bytes(), &normalization->charsmap);
      case 3:
        return Read(field.Bool(), &normalization->add_dummy_prefix);
      case 4:
        return Read(field.Bool(), &normalization->remove_extra_whitespaces);
      case 5:
        return Read(field.Bool(), &normalization->escape_whitespaces);
      default:
        return {};
    }
  });
}

Status RefuseDenormalizer(std::string_view message) {
  PieceNormalization found;
  PLANISH_RETURN_IF_ERROR(ReadNormalizer(message, &found));
  if (found.charsmap.empty()) return {};
  return InputError("a character map for decoding is not supported");
}

Status At(Status status, const std::string& place) { return status.ok() ? status : status.error().At(place); }

Status CheckPiece(const Piece& piece) {
  const auto type = static_cast<int32_t>(piece.type);
  if (type < 1 || type > 6) return InputError(fmt::format("type {} is not in [1, 6]", type));
  if (piece.text.empty()) return InputError("the piece is empty");
  if (piece.text.size() > kMaxPieceBytes) {
    return InputError(
        fmt::format("a piece of {} bytes; at most {} are accepted", piece.text.size(), kMaxPieceBytes));
  }
  if (FindInvalidUtf8(piece.text)) return InputError("the piece is not UTF-8");
  if (!std::isfinite(piece.score)) return InputError(fmt::format("score {} is not finite", piece.score));
  return {};
}

}  // namespace

Status SentencePieceModel::Check() {
  if (pieces.empty()) return InputError("there are no pieces (not a SentencePiece model?)");
  if (static_cast<int64_t>(pieces.size()) > kMaxTokenId) {
    return InputError(fmt::format("{} pieces; at most {} are accepted", pieces.size(), kMaxTokenId));
  }
  std::array<bool, 256> bytes{};
  unk = -1;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    const std::string place = fmt::format("piece {} '{}'", i, Abbreviate(piece.text));
    PLANISH_RETURN_IF_ERROR(At(CheckPiece(piece), place));
    if (piece.type == PieceType::kUnknown) {
      if (unk >= 0) return InputError(fmt::format("{}: piece {} is the unknown one already", place, unk));
      unk = static_cast<int32_t>(i);
    }
    if (piece.type != PieceType::kByte) continue;
    const auto byte = FallbackByte(piece.text);
    if (!byte) return InputError(fmt::format("{}: expected <0xNN> for a piece of type byte", place));
    if (!byte_fallback) return InputError(fmt::format("{}: a byte piece, but byte_fallback is off", place));
    bytes[*byte] = true;
  }
  if (unk < 0) return InputError("no piece is of type unknown");
  for (size_t b = 0; byte_fallback && b < bytes.size(); ++b) {
    if (!bytes[b]) return InputError(fmt::format("byte_fallback is on, but there is no piece <0x{:02X}>", b));
  }
  if (FindInvalidUtf8(unk_surface)) return InputError("trainer_spec: unk_surface is not UTF-8");
  return {};
}

Result<SentencePieceModel> SentencePieceModel::Parse(std::string_view file) {
  SentencePieceModel model;
  SpecialNames names;
  PLANISH_RETURN_IF_ERROR(ForEachField(file, [&](const ProtoField& field) -> Status {
    if (field.number < 1 || field.number > 5 || field.number == 4) return {};  // 4: tests of the trainer
    PLANISH_TRY(const std::string_view message, field.Bytes());
    if (field.number == 1) {
      if (static_cast<int64_t>(model.pieces.size()) >= kMaxTokenId) {
        return InputError(fmt::format("more than {} pieces", kMaxTokenId));
      }
      model.pieces.emplace_back();
      return At(ReadPiece(message, &model.pieces.back()), fmt::format("piece {}", model.pieces.size() - 1));
    }
    if (field.number == 2) return At(ReadTrainer(message, &model, &names), "trainer_spec");
    if (field.number == 3) return At(ReadNormalizer(message, &model.normalization), "normalizer_spec");
    return At(RefuseDenormalizer(message), "denormalizer_spec");
  }));
  PLANISH_RETURN_IF_ERROR(model.Check());
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type != PieceType::kControl) continue;
    const std::string& text = model.pieces[i].text;
    if (text == names.bos) model.bos = static_cast<int32_t>(i);
    if (text == names.eos) model.eos = static_cast<int32_t>(i);
    if (text == names.pad) model.pad = static_cast<int32_t>(i);
  }
  return model;
}

std::string SentencePieceModel::Write() const {
  std::string file;
  for (const Piece& piece : pieces) {
    std::string message;
    ProtoBytes(1, piece.text, &message);
    ProtoFloat(2, piece.score, &message);
    if (piece.type != PieceType::kNormal) ProtoInt(3, static_cast<uint64_t>(piece.type), &message);
    ProtoBytes(1, message, &file);
  }
  std::string trainer;
  ProtoInt(3, static_cast<uint64_t>(kind), &trainer);
  ProtoInt(24, normalization.treat_whitespace_as_suffix ? 1 : 0, &trainer);
  ProtoInt(35, byte_fallback ? 1 : 0, &trainer);
  ProtoBytes(44, unk_surface, &trainer);
  constexpr uint32_t kFields[] = {45, 46, 47, 48}, kIds[] = {40, 41, 42, 43};
  const int32_t ids[] = {unk, bos, eos, pad};
  for (size_t i = 0; i < 4; ++i) {
    // Negative numbers are written with 64 bits.
    ProtoInt(kIds[i], static_cast<uint64_t>(int64_t{ids[i]}), &trainer);
    if (ids[i] >= 0) ProtoBytes(kFields[i], pieces[static_cast<size_t>(ids[i])].text, &trainer);
  }
  ProtoBytes(2, trainer, &file);
  std::string normalizer;
  if (!normalization.charsmap.empty()) ProtoBytes(2, normalization.charsmap, &normalizer);
  ProtoInt(3, normalization.add_dummy_prefix ? 1 : 0, &normalizer);
  ProtoInt(4, normalization.remove_extra_whitespaces ? 1 : 0, &normalizer);
  ProtoInt(5, normalization.escape_whitespaces ? 1 : 0, &normalizer);
  ProtoBytes(3, normalizer, &file);
  return file;
}

}  // namespace planish
