#include "formats/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "formats/sentencepiece.h"
#include "formats/sentencepiece_normalizer.h"
#include "formats/tokenizer_added.h"
#include "formats/tokenizer_bpe.h"
#include "formats/tokenizer_decode.h"
#include "formats/tokenizer_files.h"
#include "formats/tokenizer_normalize.h"
#include "formats/tokenizer_split.h"
#include "formats/tokenizer_unicode.h"
#include "formats/tokenizer_unigram.h"
#include "formats/tokenizer_vocabulary.h"
#include "formats/tokenizer_wordpiece.h"

namespace planish {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

const Json& Member(const Json& object, const char* key) {
  static const Json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

// The model's type, guessed as the reference does where old files leave it out.
Result<std::string> ModelType(const Json& model) {
  if (!model.is_object()) return InputError("model: expected an object");
  std::string guess;
  if (model.contains("merges")) guess = "BPE";
  if (Member(model, "vocab").is_array()) guess = "Unigram";
  return JsonString(model, "type", guess);
}

// What a piece contributes to a text.
std::string PieceText(const SentencePieceModel& model, size_t id) {
  const Piece& piece = model.pieces[id];
  if (piece.type == PieceType::kControl) return {};
  if (piece.type == PieceType::kUnknown) return model.unk_surface;
  if (piece.type == PieceType::kByte) return std::string(1, static_cast<char>(*FallbackByte(piece.text)));
  std::string text;
  size_t from = 0;
  for (size_t at = 0; (at = piece.text.find(kSpaceSymbol, from)) != piece.text.npos;) {
    text.append(piece.text, from, at - from) += ' ';
    from = at + kSpaceSymbol.size();
  }
  return text.append(piece.text, from);
}

Decoder PieceDecoder(const PieceNormalization& normalization) {
  Decoder decoder;
  decoder.each_byte = true;
  if (normalization.add_dummy_prefix) decoder.leading = LeadingSpace::kDropOne;
  if (normalization.remove_extra_whitespaces) decoder.leading = LeadingSpace::kDropEach;
  return decoder;
}

template <typename Model>
Result<std::unique_ptr<const WordModel>> Own(Result<Model> model) {
  if (!model.ok()) return model.error();
  return std::unique_ptr<const WordModel>(std::make_unique<const Model>(*std::move(model)));
}

Result<std::unique_ptr<const WordModel>> ParseModel(const Json& json, const std::string& type,
                                                    bool byte_level) {
  if (type == "BPE") return Own(BpeModel::Parse(json, byte_level));
  if (type != "Unigram" && type != "WordPiece" && type != "WordLevel") {
    return InputError(
        fmt::format("type '{}' is not supported (known: BPE, Unigram, WordPiece, WordLevel)", type));
  }
  if (byte_level) {
    return InputError(fmt::format("type '{}' with a ByteLevel pre-tokenizer is not supported", type));
  }
  if (type == "Unigram") return Own(UnigramModel::Parse(json));
  return Own(type == "WordLevel" ? WordPieceModel::ParseWordLevel(json) : WordPieceModel::Parse(json));
}

}  // namespace

struct Tokenizer::Impl {
  NormalizerChain normalizer;
  PreTokenizerChain pre_tokenizer;
  std::unique_ptr<const WordModel> model;
  Vocabulary extra;  // added tokens that the model lacks
  AddedTokenMatcher raw_tokens, normalized_tokens;
  PostProcessor post_processor;
  Decoder decoder;
  std::string bytes;              // what the tokens decode to, by id
  std::vector<uint32_t> offsets;  // [vocab_size + 1] into bytes
  std::vector<bool> special;      // [vocab_size]

  // Working memory of calls that have ended, for the next ones.
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<WordModel::Scratch>> free_scratch;

  static Result<std::shared_ptr<const Tokenizer>> Make(const Json& json, const std::string& name);
  Status Read(const Json& json);
  Status ReadPieces(const SentencePieceModel& pieces, const Json& added_tokens);
  Status ReadAddedTokens(const Json& json);
  // `text_of` gives what a token decodes to.
  template <typename TextOf>
  Status FillBytes(const TextOf& text_of);
  // Appends a token's bytes to those of the ones before it. *first: there are none; *leading: they are no
  // text.
  void AppendToken(int32_t id, bool* first, bool* leading, std::string* bytes) const;
  std::optional<std::string_view> Token(int32_t id) const {
    const auto token = model->vocabulary().Token(id);
    return token ? token : extra.Token(id);
  }
  int64_t VocabSize() const { return std::max(model->vocabulary().size(), extra.size()); }
  bool HasToken(int32_t id) const { return id >= 0 && id < VocabSize() && Token(id).has_value(); }
  std::string_view Bytes(int32_t id) const {
    if (id < 0 || id >= VocabSize()) return {};
    return std::string_view(bytes).substr(offsets[id], offsets[id + 1] - offsets[id]);
  }

  std::unique_ptr<WordModel::Scratch> TakeScratch() const {
    const std::lock_guard lock(mutex);
    if (free_scratch.empty()) return model->MakeScratch();
    auto scratch = std::move(free_scratch.back());
    free_scratch.pop_back();
    return scratch;
  }
  void ReturnScratch(std::unique_ptr<WordModel::Scratch> scratch) const {
    const std::lock_guard lock(mutex);
    free_scratch.push_back(std::move(scratch));
  }
  Status EncodeText(std::string_view text, bool recognize_special, WordSink* words,
                    std::vector<int32_t>* ids) const;
  Status EncodePiece(std::string_view piece, bool at_start, bool recognize_special, WordSink* words,
                     std::vector<int32_t>* ids) const;
};

Status Tokenizer::Impl::ReadAddedTokens(const Json& json) {
  PLANISH_TRY(const auto tokens, ParseAddedTokens(json, model->vocabulary(), &extra));
  special.assign(static_cast<size_t>(VocabSize()), false);
  for (const AddedToken& token : tokens) {
    if (token.special) special[token.id] = true;
    if (!token.normalized) {
      raw_tokens.Add(token, token.content);
      continue;
    }
    PLANISH_TRY(std::string pattern, normalizer.Apply(token.content));
    normalized_tokens.Add(token, std::move(pattern));
  }
  return {};
}

template <typename TextOf>
Status Tokenizer::Impl::FillBytes(const TextOf& text_of) {
  offsets.reserve(static_cast<size_t>(VocabSize()) + 1);
  for (int32_t id = 0; id < VocabSize(); ++id) {
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
    if (const auto token = Token(id)) bytes.append(text_of(id, *token));
    if (bytes.size() > UINT32_MAX) return InputError("the tokens' strings exceed 4 GiB");
  }
  offsets.push_back(static_cast<uint32_t>(bytes.size()));
  return {};
}

Status Tokenizer::Impl::Read(const Json& json) {
  if (!json.is_object()) return InputError("expected a JSON object");
  PLANISH_TRY(const std::string type, ModelType(Member(json, "model")));
  PLANISH_TRY(normalizer, NormalizerChain::Parse(Member(json, "normalizer")));
  PLANISH_TRY(pre_tokenizer, PreTokenizerChain::Parse(Member(json, "pre_tokenizer")));
  auto parsed = ParseModel(json["model"], type, pre_tokenizer.byte_level);
  if (!parsed.ok()) return parsed.error().At("model");
  model = std::move(parsed).value();
  PLANISH_RETURN_IF_ERROR(ReadAddedTokens(Member(json, "added_tokens")));
  PLANISH_TRY(post_processor, PostProcessor::Parse(Member(json, "post_processor"), VocabSize()));
  PLANISH_TRY(decoder, Decoder::Parse(Member(json, "decoder")));
  return FillBytes([this](int32_t, std::string_view token) { return decoder.Bytes(token); });
}

Status Tokenizer::Impl::ReadPieces(const SentencePieceModel& pieces, const Json& added_tokens) {
  PLANISH_TRY(auto step, SentencePieceNormalizer::Make(pieces));
  normalizer.steps.push_back(std::make_unique<SentencePieceNormalizer>(std::move(step)));
  auto parsed = pieces.kind == SentencePieceModel::Kind::kBpe ? Own(BpeModel::FromPieces(pieces))
                                                              : Own(UnigramModel::FromPieces(pieces));
  if (!parsed.ok()) return parsed.error();
  model = std::move(parsed).value();
  PLANISH_RETURN_IF_ERROR(ReadAddedTokens(added_tokens));
  for (int32_t id = 0; id < model->vocabulary().size(); ++id) {
    const Piece& piece = pieces.pieces[static_cast<size_t>(id)];
    if (piece.type != PieceType::kControl && piece.type != PieceType::kUnknown) continue;
    special[static_cast<size_t>(id)] = true;
    raw_tokens.Add({.id = id, .content = piece.text, .special = true}, piece.text);
  }
  if (pieces.add_bos && pieces.bos >= 0) post_processor.prefix.push_back(pieces.bos);
  if (pieces.add_eos && pieces.eos >= 0) post_processor.suffix.push_back(pieces.eos);
  decoder = PieceDecoder(pieces.normalization);
  return FillBytes([&](int32_t id, std::string_view token) {
    return id < model->vocabulary().size() ? PieceText(pieces, static_cast<size_t>(id)) : std::string(token);
  });
}

// Text between added tokens of the first class: normalized, cut at those of the second, split into
// words.
Status Tokenizer::Impl::EncodePiece(std::string_view piece, bool at_start, bool recognize_special,
                                    WordSink* words, std::vector<int32_t>* ids) const {
  std::string normalized;
  if (!normalizer.steps.empty()) {
    PLANISH_TRY(normalized, normalizer.Apply(std::string(piece)));
    piece = normalized;
  }
  for (const auto& [text, id] : normalized_tokens.Split(piece, recognize_special)) {
    if (id >= 0) {
      ids->push_back(id);
    } else {
      PLANISH_RETURN_IF_ERROR(pre_tokenizer.Split(text, words, at_start && text.data() == piece.data()));
    }
  }
  return {};
}

Status Tokenizer::Impl::EncodeText(std::string_view text, bool recognize_special, WordSink* words,
                                   std::vector<int32_t>* ids) const {
  for (const auto& [piece, id] : raw_tokens.Split(text, recognize_special)) {
    if (id >= 0) {
      ids->push_back(id);
    } else {
      PLANISH_RETURN_IF_ERROR(EncodePiece(piece, piece.data() == text.data(), recognize_special, words, ids));
    }
  }
  return {};
}

void Tokenizer::Impl::AppendToken(int32_t id, bool* first, bool* leading, std::string* out) const {
  if (!std::exchange(*first, false)) out->append(decoder.separator);
  std::string_view part = Bytes(id);
  if (*leading && decoder.leading != LeadingSpace::kKeep) {
    if (!special[static_cast<size_t>(id)] && Token(id)->starts_with(kSpaceSymbol)) {
      part.remove_prefix(1);
      *leading = decoder.leading == LeadingSpace::kDropEach;
    }
    *leading &= part.empty();
  }
  out->append(part);
}

Tokenizer::Tokenizer() : impl_(std::make_unique<Impl>()) {}
Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& path) {
  PLANISH_TRY(const TokenizerFiles files, ReadTokenizerFiles(path));
  return FromFiles(files, path);
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromFiles(const TokenizerFiles& files,
                                                              const std::string& name) {
  if (!files.json.empty()) {
    const std::string json_path = JoinPath(name, "tokenizer.json");
    auto json = ParseJson(files.json);
    if (!json.ok()) return json.error().At(json_path);
    const auto added = AddConfigTokens(files, &*json);
    if (!added.ok()) return added.error().At(name);
    return Impl::Make(*json, json_path);
  }
  const std::string path = JoinPath(name, "tokenizer.model");
  auto model = SentencePieceModel::Parse(files.model);
  if (!model.ok()) return model.error().At(path);
  const auto added_tokens = ApplyTokenizerConfig(files, &*model);
  if (!added_tokens.ok()) return added_tokens.error().At(name);
  return FromPieces(*model, *added_tokens, path);
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromPieces(const SentencePieceModel& model,
                                                               std::string_view added_tokens,
                                                               const std::string& name) {
  Json list;
  if (!added_tokens.empty()) {
    PLANISH_TRY(list, ParseJson(added_tokens));
  }
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer);
  const Status status = tokenizer->impl_->ReadPieces(model, list);
  if (!status.ok()) return status.error().At(name);
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Parse(std::string_view json, const std::string& name) {
  auto parsed = ParseJson(json);
  if (!parsed.ok()) return parsed.error().At(name);
  return Impl::Make(*parsed, name);
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Impl::Make(const Json& json, const std::string& name) {
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer);
  const Status status = tokenizer->impl_->Read(json);
  if (!status.ok()) return status.error().At(name);
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view utf8, bool add_special,
                                               bool recognize_special) const {
  if (utf8.size() > kMaxTextBytes) {
    return InputError(
        fmt::format("a text of {} bytes; at most {} can be encoded at once", utf8.size(), kMaxTextBytes));
  }
  if (const auto offset = FindInvalidUtf8(utf8)) {
    return InputError(fmt::format("the text is not UTF-8: byte 0x{:02X} at offset {}",
                                  static_cast<uint8_t>(utf8[*offset]), *offset));
  }
  std::vector<int32_t> ids;
  ids.reserve(utf8.size() / 3 + 16);
  if (add_special) ids = impl_->post_processor.prefix;

  class Encoder : public WordSink {
   public:
    Encoder(const WordModel& model, WordModel::Scratch* scratch, std::vector<int32_t>* out)
        : model_(model), scratch_(scratch), ids_(out) {}
    void Word(std::string_view word) override { model_.EncodeWord(word, scratch_, ids_); }

   private:
    const WordModel& model_;
    WordModel::Scratch* scratch_;
    std::vector<int32_t>* ids_;
  };
  auto scratch = impl_->TakeScratch();
  Encoder encoder(*impl_->model, scratch.get(), &ids);
  const Status status = impl_->EncodeText(utf8, recognize_special, &encoder, &ids);
  impl_->ReturnScratch(std::move(scratch));
  if (!status.ok()) return status.error();
  if (add_special) {
    ids.insert(ids.end(), impl_->post_processor.suffix.begin(), impl_->post_processor.suffix.end());
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  if (!impl_->decoder.simple()) {
    std::vector<std::string> tokens;
    for (const int32_t id : ids) {
      if (impl_->HasToken(id) && !(skip_special && IsSpecial(id))) tokens.emplace_back(*impl_->Token(id));
    }
    return impl_->decoder.Text(std::move(tokens), true);
  }
  std::string joined;
  bool first = true, leading = true;
  for (const int32_t id : ids) {
    if (impl_->HasToken(id) && !(skip_special && IsSpecial(id)))
      impl_->AppendToken(id, &first, &leading, &joined);
  }
  std::string text;
  text.reserve(joined.size());
  AppendReplacingInvalid(joined, false, &text, impl_->decoder.each_byte);
  return text;
}

std::string Tokenizer::TokenBytes(int32_t id) const { return std::string(impl_->Bytes(id)); }

int64_t Tokenizer::vocab_size() const { return impl_->VocabSize(); }

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  const auto id = impl_->model->vocabulary().Find(token);
  return id ? id : impl_->extra.Find(token);
}

bool Tokenizer::IsSpecial(int32_t id) const { return id >= 0 && id < vocab_size() && impl_->special[id]; }

std::string StreamDecoder::Push(int32_t id) {
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  std::string text;
  if (!impl.HasToken(id)) return text;
  if (!impl.decoder.simple()) return PushSteps(id);
  impl.AppendToken(id, &first_, &leading_, &held_);
  held_.erase(0, AppendReplacingInvalid(held_, true, &text, impl.decoder.each_byte));
  return text;
}

// Only the last token is needed: to be written when another one follows (BPE), or to be compared with the
// next (CTC).
std::string StreamDecoder::PushContext(int32_t id) {
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  const std::string* previous = pending_.empty() ? nullptr : &pending_[0];
  std::string token(*impl.Token(id)), text;
  if (impl.decoder.Is(DecodeStep::kCtc)) {
    text = impl.decoder.CtcText(token, previous);
  } else if (previous != nullptr) {
    text = impl.decoder.BpeText(*previous, false);
  }
  pending_.assign(1, std::move(token));
  return text;
}

// A prefix whose text is empty stays pending: the rules for the start of a text may still apply. So
// does one that ends in U+FFFD, as long as further bytes could complete a character.
std::string StreamDecoder::PushSteps(int32_t id) {
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  if (impl.decoder.Is(DecodeStep::kBpe) || impl.decoder.Is(DecodeStep::kCtc)) return PushContext(id);
  if (first_ && impl.Bytes(id).empty()) return {};
  pending_.emplace_back(*impl.Token(id));
  std::string text = impl.decoder.Text(pending_, first_);
  size_t fallback_bytes = 0;
  while (fallback_bytes < pending_.size() && FallbackByte(pending_[pending_.size() - 1 - fallback_bytes])) {
    ++fallback_bytes;
  }
  const bool cut = text.ends_with("\xEF\xBF\xBD") && fallback_bytes > 0 && fallback_bytes < 4;
  if (cut || (text.empty() && first_)) return {};
  pending_.clear();
  first_ = false;
  return text;
}

std::string StreamDecoder::Flush() {
  const Decoder& decoder = tokenizer_.impl_->decoder;
  std::string text;
  if (!pending_.empty() && !decoder.Is(DecodeStep::kCtc)) text = decoder.Text(std::move(pending_), first_);
  pending_.clear();
  AppendReplacingInvalid(held_, false, &text, decoder.each_byte);
  held_.clear();
  first_ = leading_ = true;
  return text;
}

}  // namespace planish
