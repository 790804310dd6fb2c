// Regular expressions of tokenizer.json files. They are written for Oniguruma; PCRE2 runs them after
// a translation of the few constructs whose meaning differs (tokenizer_regex.cc). Thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace planish {

class Regex {
 public:
  // Errors: syntax (with the offset), constructs PCRE2 would read differently, too long.
  static Result<Regex> Compile(std::string_view pattern);

  // Finds the matches in a text of valid UTF-8 from left to right. An empty match right behind the
  // match before it is skipped.
  class Matcher {
   public:
    Matcher(const Regex& regex, std::string_view text);
    ~Matcher();
    Matcher(const Matcher&) = delete;
    Matcher& operator=(const Matcher&) = delete;
    // False at the end and on error; status() tells which.
    bool Next(size_t* begin, size_t* end);
    const Status& status() const { return status_; }

   private:
    const Regex& regex_;
    std::string_view text_;
    void* data_;
    size_t from_ = 0;
    size_t last_end_ = static_cast<size_t>(-1);
    Status status_;
  };

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace planish
