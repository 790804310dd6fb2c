// A conversation with a model: messages through its chat template, answers token by token, keys and values
// kept between turns.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/chat_template.h"
#include "runtime/generate.h"

namespace planish {

struct ChatMessage {
  std::string role, content;
};

// The messages as JSON, for ChatTemplate::Render.
OrderedJson MessagesJson(std::span<const ChatMessage> messages);

struct ChatReply {
  GenerateResult result;
  std::string text;
  int64_t prompt_tokens = 0;  // of the rendered conversation
  int64_t kept_tokens = 0;    // of them, those whose keys and values were still there
  int64_t left_out = 0;       // messages, from the oldest, that were left out because the context is full
};

// Called with each piece of an answer as it comes.
using OnText = std::function<void(const std::string&)>;

// Not thread-safe. Before an answer the whole conversation is rendered and encoded anew, and only what
// differs from the tokens in the cache is run: usually the end of the last answer and the new message.
//
// When the conversation and room for an answer (max_tokens, but at most a quarter of the context) exceed the
// context, the oldest turns are left out, never the system message nor the last one; enough of them that a
// quarter of the context is free again, so that the next turns need not run everything anew. They stay in
// messages().
class Conversation {
 public:
  // `program`, `runner` and `tokenizer` must live as long; `options.context` is the runner's capacity. The
  // template's end tokens are added to the options'.
  Conversation(const Program& program, Runner& runner, const Tokenizer& tokenizer, ChatTemplate chat_template,
               GenerateOptions options);

  // Drops all messages but the system message.
  void Reset();
  // Replaces the system message; empty: none.
  void SetSystem(const std::string& text);

  // Adds a message of the user and answers it. An answer that the context's cancel flag stops is kept as far
  // as it came; when it never began, or on an error, the conversation is as before. Errors: what the template
  // refuses, a message that does not fit into the context, as of Generate.
  Result<ChatReply> Ask(const Context& context, const std::string& text, const ChatOptions& options,
                        const OnText& on_text);
  // Answers the last message of the user again, with other random numbers. Error: there is none.
  Result<ChatReply> Again(const Context& context, const ChatOptions& options, const OnText& on_text);

  const std::vector<ChatMessage>& messages() const { return messages_; }

 private:
  Result<ChatReply> Answer(const Context& context, const ChatOptions& options, const OnText& on_text);
  // Ids of the messages that fit; what is left out is counted in the reply.
  Result<std::vector<int32_t>> Fit(const ChatOptions& options, ChatReply& reply);
  Result<std::vector<int32_t>> IdsFrom(size_t first, const ChatOptions& options) const;
  size_t SystemMessages() const { return messages_.empty() || messages_[0].role != "system" ? 0 : 1; }

  const Program& program_;
  Runner& runner_;
  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  GenerateOptions options_;
  std::vector<ChatMessage> messages_;
  size_t first_ = 0;             // messages between the system's and this one are left out
  std::vector<int32_t> cached_;  // what slot 0 of the runner holds
  uint64_t steps_ = 0;           // tokens drawn so far
};

}  // namespace planish
