#include "runtime/conversation.h"

#include <fmt/format.h>

#include <algorithm>

namespace planish {

OrderedJson MessagesJson(std::span<const ChatMessage> messages) {
  OrderedJson json = OrderedJson::array();
  for (const ChatMessage& message : messages) {
    json.push_back({{"role", message.role}, {"content", message.content}});
  }
  return json;
}

Conversation::Conversation(const Program& program, Runner& runner, const Tokenizer& tokenizer,
                           ChatTemplate chat_template, GenerateOptions options)
    : program_(program),
      runner_(runner),
      tokenizer_(tokenizer),
      template_(std::move(chat_template)),
      options_(std::move(options)) {
  const std::vector<int32_t> ends = template_.EndTokens(tokenizer);
  options_.stop_ids.insert(options_.stop_ids.end(), ends.begin(), ends.end());
}

void Conversation::Reset() {
  messages_.resize(SystemMessages());
  first_ = 0;
}

void Conversation::SetSystem(const std::string& text) {
  const size_t had = SystemMessages();
  messages_.erase(messages_.begin(), messages_.begin() + static_cast<int64_t>(had));
  if (!text.empty()) messages_.insert(messages_.begin(), {"system", text});
  if (first_ > 0) first_ = first_ - had + SystemMessages();
}

Result<ChatReply> Conversation::Ask(const Context& context, const std::string& text,
                                    const ChatOptions& options, const OnText& on_text) {
  const size_t first = first_;
  messages_.push_back({"user", text});
  auto reply = Answer(context, options, on_text);
  if (!reply.ok() || (reply->result.interrupted && reply->text.empty())) {
    messages_.pop_back();
    first_ = first;
  }
  return reply;
}

Result<ChatReply> Conversation::Again(const Context& context, const ChatOptions& options,
                                      const OnText& on_text) {
  if (messages_.empty() || messages_.back().role != "assistant") {
    return InputError("there is no answer to make again");
  }
  ChatMessage last = std::move(messages_.back());
  messages_.pop_back();
  auto reply = Answer(context, options, on_text);
  if (!reply.ok() || (reply->result.interrupted && reply->text.empty())) messages_.push_back(std::move(last));
  return reply;
}

Result<std::vector<int32_t>> Conversation::IdsFrom(size_t first, const ChatOptions& options) const {
  std::vector<ChatMessage> shown(messages_.begin(),
                                 messages_.begin() + static_cast<int64_t>(SystemMessages()));
  const size_t start = std::max(first, SystemMessages());
  shown.insert(shown.end(), messages_.begin() + static_cast<int64_t>(start), messages_.end());
  PLANISH_TRY(const std::string text, template_.Render(MessagesJson(shown), options));
  return ChatTemplate::Encode(tokenizer_, text);
}

Result<std::vector<int32_t>> Conversation::Fit(const ChatOptions& options, ChatReply& reply) {
  const int64_t capacity = options_.context, quarter = std::max<int64_t>(capacity / 4, 1);
  const int64_t answer = std::min(options_.max_tokens, quarter);
  PLANISH_TRY(std::vector<int32_t> ids, IdsFrom(first_, options));
  const auto size = [&] { return static_cast<int64_t>(ids.size()); };
  if (size() + answer <= capacity) return ids;
  // A turn begins with a message of the user.
  const size_t had = std::max(first_, SystemMessages());
  for (size_t next = had + 1; next < messages_.size() && size() + quarter > capacity; ++next) {
    if (messages_[next].role != "user") continue;
    PLANISH_TRY(ids, IdsFrom(next, options));
    first_ = next;
  }
  reply.left_out = static_cast<int64_t>(std::max(first_, had) - had);
  if (size() >= capacity) {
    return InputError(fmt::format(
        "the message has {} tokens with what the template adds, the context holds {}; raise --context or ask "
        "for less",
        size(), capacity));
  }
  return ids;
}

Result<ChatReply> Conversation::Answer(const Context& context, const ChatOptions& options,
                                       const OnText& on_text) {
  ChatReply reply;
  PLANISH_TRY(std::vector<int32_t> ids, Fit(options, reply));
  if (ids.empty()) return InputError(template_.place() + ": the template renders no tokens");
  reply.prompt_tokens = static_cast<int64_t>(ids.size());
  GenerateOptions generate = options_;
  generate.kept = ReusablePrefix(program_, cached_, ids);
  generate.first_step = steps_;
  reply.kept_tokens = generate.kept;
  cached_.clear();  // until it is known what a failed pass leaves
  StreamDecoder decoder(tokenizer_);
  const auto emit = [&](const std::string& piece) {
    if (piece.empty()) return;
    reply.text += piece;
    on_text(piece);
  };
  PLANISH_TRY(reply.result, Generate(context, program_, runner_, ids, generate, [&](int32_t id) {
                emit(decoder.Push(id));
                return true;
              }));
  emit(decoder.Flush());
  ids.insert(ids.end(), reply.result.ids.begin(), reply.result.ids.end());
  ids.resize(static_cast<size_t>(reply.result.cached));
  cached_ = std::move(ids);
  steps_ += reply.result.ids.size() + 1;
  if (!reply.result.interrupted || !reply.text.empty()) messages_.push_back({"assistant", reply.text});
  return reply;
}

}  // namespace planish
